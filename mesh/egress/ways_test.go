package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
)

// captured opens a connection that its client meant for an address, in a rig whose
// resolver was asked for the names before.
func (r *rig) captured(to string, names ...string) net.Conn {
	r.t.Helper()
	for _, n := range names {
		if _, err := r.g.o.Resolver.Lookup(r.t.Context(), n); err != nil {
			r.t.Fatal(err)
		}
	}
	d := r.plain()
	d.Captured = func(net.Conn) (netip.AddrPort, error) {
		if to == "" {
			return netip.AddrPort{}, errors.New("it is gone")
		}
		return netip.MustParseAddrPort(to), nil
	}
	conn, err := net.Dial("tcp", r.listen(d))
	if err != nil {
		return broken{err} // it was reset before the client knew that it was open
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// broken is a connection that did not come about.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error)         { return 0, b.err }
func (b broken) Write([]byte) (int, error)        { return 0, b.err }
func (b broken) Close() error                     { return nil }
func (b broken) LocalAddr() net.Addr              { return nil }
func (b broken) RemoteAddr() net.Addr             { return nil }
func (b broken) SetDeadline(time.Time) error      { return nil }
func (b broken) SetReadDeadline(time.Time) error  { return nil }
func (b broken) SetWriteDeadline(time.Time) error { return nil }

func secure(conn net.Conn, sni string) (*tls.Conn, error) {
	over := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	return over, over.Handshake()
}

// TestCaptured: a connection of a client that knows of no proxy goes where its first
// bytes say, if that is where it went.
func TestCaptured(t *testing.T) {
	const text = allowed + "  - {from: client, to: 93.184.217.0/24, ports: [5432], because: x, owner: y}\n"
	request := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	for name, c := range map[string]struct {
		to    string
		names []string
		sni   string // TLS for this name
		clear string // or these bytes
		pass  bool
		says  string
	}{
		"by SNI":              {apiAddr + ":443", []string{api}, api, "", true, ""},
		"by SNI, mapped":      {"[::ffff:" + apiAddr + "]:443", []string{api}, api, "", true, ""},
		"by Host":             {apiAddr + ":80", []string{api}, "", request(api), true, ""},
		"by Host, with port":  {apiAddr + ":80", []string{api}, "", request(api + ":80"), true, ""},
		"by network":          {"93.184.217.9:5432", nil, "", "\x00\x00\x00\x08\x04\xd2\x16\x2f", true, ""},
		"by network, HTTP":    {"93.184.217.9:5432", nil, "", request("evil.test"), true, ""},
		"other port":          {"93.184.217.9:5433", nil, "", "x", false, "only TCP 5432"},
		"wrong address":       {evilAddr + ":443", []string{api, "evil.test"}, api, "", false, "not an address of"},
		"wrong address, HTTP": {evilAddr + ":80", []string{api, "evil.test"}, "", request(api), false, "not an address of"},
		"unknown address":     {evilAddr + ":443", []string{api}, api, "", false, "no permission names"},
		"denied name":         {apiAddr + ":443", []string{api}, "evil.test", "", false, "evil.test"},
		"denied Host":         {apiAddr + ":80", []string{api}, "", request("evil.test"), false, "evil.test"},
		"two Hosts":           {apiAddr + ":80", []string{api}, "", "GET / HTTP/1.1\r\nHost: " + api + "\r\nHost: evil.test\r\n\r\n", false, "Host"},
		"absolute form":       {apiAddr + ":80", []string{api}, "", "GET http://evil.test/ HTTP/1.1\r\nHost: " + api + "\r\n\r\n", false, "no path"},
		"CONNECT":             {apiAddr + ":80", []string{api}, "", "CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n\r\n", false, "CONNECT"},
		"Host with a port":    {apiAddr + ":80", []string{api}, "", request(api + ":443"), false, "another port"},
		"Host is an address":  {apiAddr + ":80", []string{api}, "", request(apiAddr), false, ""},
		"no name":             {apiAddr + ":443", []string{api}, "", "hello there", false, "says no name"},
		"no SNI":              {apiAddr + ":443", []string{api}, "", greeting(), false, "names no server"},
		"port of another":     {apiAddr + ":22", []string{api}, api, "", false, "80,443"},
		"metadata":            {"169.254.169.254:80", nil, "", request(api), false, ""},
		"metadata, rebound":   {"169.254.169.254:80", []string{"meta.allowed.test"}, "", request("meta.allowed.test"), false, ""},
		"loopback, mapped":    {"[::ffff:127.0.0.1]:443", nil, api, "", false, ""},
		"nobody knows where":  {"", nil, "", request(api), false, "unknown"},
		"preface of HTTP/2":   {apiAddr + ":80", []string{api}, "", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, "says no name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, text)
			r.names.set("meta.allowed.test", "169.254.169.254")
			r.serve(5432, func(conn net.Conn, in *bufio.Reader) {
				if b, err := in.ReadByte(); err == nil {
					_, _ = conn.Write([]byte{b})
				}
			})
			conn := r.captured(c.to, c.names...)
			var err error
			if c.sni != "" {
				var over *tls.Conn
				if over, err = secure(conn, c.sni); err == nil {
					var status int
					if status, _, err = get(over, bufio.NewReader(over), "/", c.sni); status != 200 {
						err = errors.Join(err, fmt.Errorf("status %d", status))
					}
				}
			} else {
				_, _ = io.WriteString(conn, c.clear)
				var a *http.Response
				in := bufio.NewReader(conn)
				if first, perr := in.Peek(1); perr != nil {
					err = perr
				} else if first[0] == 'H' {
					if a, err = http.ReadResponse(in, nil); err == nil && a.StatusCode != 200 {
						err = fmt.Errorf("status %d", a.StatusCode)
					}
				}
			}
			conn.Close()
			log := r.log()
			if (err == nil) != c.pass {
				t.Fatalf("%v\n%s", err, r.explain())
			}
			if c.pass {
				want := netip.MustParseAddrPort(c.to)
				if d := r.dials(); len(d) != 1 || d[0] != netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) {
					t.Errorf("dialled %v", d)
				}
				return
			}
			if len(r.reached()) > 0 || len(log) != 1 || log[0].Verdict != "deny" || !strings.Contains(log[0].Why, c.says) {
				t.Error(r.explain())
			}
		})
	}
}

// TestCapturedHere: at an address that stands for every name, the name alone counts
// and is resolved anew.
func TestCapturedHere(t *testing.T) {
	const here = "198.18.0.1"
	r := newRig(t, allowed, func(o *Options) { o.Here = func(a netip.Addr) bool { return a.String() == here } })
	conn := r.captured(here + ":443")
	if _, err := secure(conn, api); err != nil {
		t.Fatal(err, r.explain())
	}
	conn = r.captured(here + ":80")
	if status, _, err := get(conn, bufio.NewReader(conn), "/", api); status != 200 {
		t.Fatal(status, err)
	}
	for _, d := range r.dials() {
		if d.Addr().String() != apiAddr {
			t.Error(d)
		}
	}
	conn = r.captured(here + ":443")
	if _, err := secure(conn, "evil.test"); err == nil {
		t.Error("a denied name passes")
	}
	conn = r.captured(here + ":443")
	_, _ = io.WriteString(conn, "anything")
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("no name passes")
	}
}

// TestCapturedRelaxed: in report mode what is captured passes and is marked, and what
// is special does not.
func TestCapturedRelaxed(t *testing.T) {
	r := newRig(t, "gateway: {mode: report, because: x, owner: y, until: 2099-01-01}\n"+allowed)
	r.names.set("meta.test", "169.254.169.254")
	for _, sni := range []string{"evil.test", ""} {
		conn := r.captured(evilAddr+":443", "evil.test")
		if _, err := secure(conn, sni); err != nil {
			t.Errorf("%q: %v\n%s", sni, err, r.explain())
		}
		conn.Close()
	}
	for _, to := range []string{"169.254.169.254:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80", "[fd00:ec2::254]:80"} {
		conn := r.captured(to, "meta.test", "evil.test")
		if status, _, err := get(conn, bufio.NewReader(conn), "/", "meta.test"); err == nil && status == 200 {
			t.Errorf("%s passes", to)
		}
		conn.Close()
	}
	for _, rec := range r.log() {
		if rec.WouldDeny != (rec.Verdict == "allow") {
			t.Errorf("%+v", rec)
		}
	}
	if s := r.special(); len(s) > 0 {
		t.Error(s)
	}
}

// TestCapturedAddresses: a name that had an address lately still counts.
func TestCapturedAddresses(t *testing.T) {
	r := newRig(t, allowed)
	r.names.answers[api] = []dns.Answer{at(apiAddr), at("93.184.216.35")}
	conn := r.captured(apiAddr+":443", api, api)
	if _, err := secure(conn, api); err != nil {
		t.Fatal(err, r.explain())
	}
	if d := r.dials(); len(d) != 1 || d[0].String() != apiAddr+":443" {
		t.Error(d)
	}
}

const endpoints = `
endpoints:
  model: {hosts: [model.provider.test, "*.model.provider.test"], address: 10.9.0.4, consumers: client, because: x, owner: y}
  hub: {hosts: [hub.provider.test], consumers: client, because: x, owner: y}
  database: {hosts: [db.provider.test], address: 10.9.0.5, ports: [5432], protocol: postgres, consumers: client, because: x, owner: y}
  bucket: {hosts: [s3.provider.test], address: 10.9.0.6, ports: [9000], protocol: s3, consumers: client, may: read, because: x, owner: y}
  cache: {hosts: [cache.provider.test], address: 10.9.0.7, ports: [6379], protocol: redis, consumers: other, because: x, owner: y}
  read: {hosts: [read.provider.test], address: 10.9.0.8, consumers: client, may: read, inspect: true, because: x, owner: y}
`

// endpoint opens a connection of the client to a private endpoint.
func (r *rig) endpoint(name string, port uint16) net.Conn {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	conn := dialProxy(r.t, l.Addr().String())
	theirs, err := l.Accept()
	l.Close()
	if err != nil {
		r.t.Fatal(err)
	}
	c := r.client()
	over := make(chan struct{})
	go func() { defer close(over); r.g.ServeEndpoint(r.t.Context(), theirs, c, name, port) }()
	r.t.Cleanup(func() { conn.Close(); <-over })
	return conn
}

func TestEndpoints(t *testing.T) {
	newEndpoints := func() *rig {
		r := newRig(t, endpoints)
		r.names.set("hub.provider.test", evilAddr)
		r.serve(5432, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
		return r
	}
	arrived := func(r *rig, want string) {
		t.Helper()
		if d := r.dials(); len(d) != 1 || d[0].String() != want {
			t.Errorf("dialled %v, want %s\n%s", d, want, r.explain())
		}
	}
	refused := func(r *rig, says string) {
		t.Helper()
		log := r.log()
		if len(r.reached()) > 0 || len(log) == 0 || log[len(log)-1].Verdict != "deny" || !strings.Contains(log[len(log)-1].Why, says) {
			t.Errorf("want a refusal that says %q\n%s", says, r.explain())
		}
	}
	for _, name := range []string{"model.provider.test", "eu.MODEL.provider.test"} {
		r := newEndpoints()
		if _, err := secure(r.endpoint("model", 443), name); err != nil {
			t.Fatal(err, r.explain())
		}
		arrived(r, "10.9.0.4:443")
	}
	r := newEndpoints()
	if _, err := secure(r.endpoint("hub", 443), "hub.provider.test"); err != nil {
		t.Fatal(err, r.explain())
	}
	arrived(r, evilAddr+":443")

	for says, sni := range map[string]string{"does not lead": "evil.test", "names no server": "", "to which endpoint": "notmodel.provider.test"} {
		r = newEndpoints()
		conn := r.endpoint("model", 443)
		if _, err := secure(conn, sni); err == nil {
			t.Errorf("%q passes", sni)
		}
		conn.Close()
		refused(r, says)
	}
	r = newEndpoints()
	conn := r.endpoint("model", 443)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: model.provider.test\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn)
	conn.Close()
	refused(r, "speaks TLS")

	// A data source is untouched, in both directions, whatever is said.
	r = newEndpoints()
	conn = r.endpoint("database", 5432)
	sent := append(binary.BigEndian.AppendUint32(nil, 8), 0x04, 0xd2, 0x16, 0x2f)
	sent = append(sent, bytes.Repeat([]byte{0, 255, 13, 10}, 50000)...)
	go func() { _, _ = conn.Write(sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
		t.Error("the bytes change:", err)
	}
	arrived(r, "10.9.0.5:5432")

	// Requests in the clear are decided each, and keep the client's own Host.
	r = newEndpoints()
	conn = r.endpoint("bucket", 9000)
	in := bufio.NewReader(conn)
	if status, body, err := get(conn, in, "/bucket/key", "bucket.s3.provider.test:9000"); status != 200 || body != "origin" {
		t.Fatal(status, body, err, r.explain())
	}
	fmt.Fprint(conn, "PUT /bucket/key HTTP/1.1\r\nHost: s3.provider.test\r\nContent-Length: 0\r\n\r\n")
	if status, body, err := answer(in, "PUT"); status != 403 {
		t.Error(status, body, err)
	}
	if status, _, err := get(conn, in, "/bucket/../key", "s3.provider.test"); status != 403 {
		t.Error("a path with two readings:", status, err)
	}
	arrived(r, "10.9.0.6:9000")
	r.mu.Lock()
	if reqs := r.arrivals[0].reqs; len(reqs) != 1 || reqs[0] != "GET bucket.s3.provider.test:9000 /bucket/key" {
		t.Error(reqs)
	}
	r.mu.Unlock()

	// Who is no consumer, and what there is not.
	r = newEndpoints()
	conn = r.endpoint("cache", 6379)
	_, _ = io.Copy(io.Discard, conn)
	refused(r, "other")
	r = newEndpoints()
	_, _ = io.Copy(io.Discard, r.endpoint("nothing", 6379))
	refused(r, "no endpoint")
	r = newEndpoints()
	_, _ = io.Copy(io.Discard, r.endpoint("database", 5433))
	refused(r, "5432")
}

// TestEndpointReload: an endpoint that is taken away is cut.
func TestEndpointReload(t *testing.T) {
	r := newRig(t, endpoints)
	r.serve(5432, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
	conn := r.endpoint("database", 5432)
	_, _ = io.WriteString(conn, "x")
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.enforce(allowed)
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("it stays open")
	}
	log := r.log()
	if last := log[len(log)-1]; last.Verdict != "deny" || last.Generation != 2 {
		t.Errorf("%+v", last)
	}
}

const inspecting = `
egress:
  - {from: client, to: api.allowed.test, may: [read, POST /v1/*], inspect: true, because: x, owner: y}
  - {from: client, to: free.allowed.test, because: x, owner: y}
`

func newInspection(t *testing.T, text string) (*rig, *x509.CertPool) {
	t.Helper()
	a, err := OpenAuthority(filepath.Join(t.TempDir(), "ca.pem"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(a.Certificate()) {
		t.Fatal("the certificate is none")
	}
	r := newRig(t, text, func(o *Options) { o.Authority, o.Roots, o.Budgets = a, testAuthority().pool(), ledger(t) })
	return r, trusted
}

// TestInspection: inside TLS each request is decided, by method and path, and the
// server is still verified.
func TestInspection(t *testing.T) {
	r, trusted := newInspection(t, inspecting)
	door := r.listen(r.plain())
	open := func(to string, c *tls.Config) (*tls.Conn, error) {
		conn := dialProxy(t, door)
		in, status, err := connect(conn, to)
		if status != 200 {
			return nil, fmt.Errorf("%d %w", status, err)
		}
		over := tls.Client(&replayed{conn, in}, c)
		return over, over.Handshake()
	}
	over, err := open(api+":443", &tls.Config{ServerName: api, RootCAs: trusted})
	if err != nil {
		t.Fatal(err, r.explain())
	}
	in := bufio.NewReader(over)
	for _, c := range []struct {
		text   string
		status int
	}{
		{"GET /anything?q HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n", 200},
		{"POST /v1/chat HTTP/1.1\r\nHost: API.allowed.test\r\nContent-Length: 0\r\n\r\n", 200},
		{"POST /v2/chat HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 0\r\n\r\n", 403},
		{"DELETE /v1/chat HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n", 403},
		{"POST /v1/%2e%2e/v2 HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 0\r\n\r\n", 403},
		{"POST /v1/..%2fv2 HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 0\r\n\r\n", 403},
		{"POST /v1/\\v2 HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 0\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: api.allowed.test:443\r\n\r\n", 200},
	} {
		_, _ = io.WriteString(over, c.text)
		if status, body, err := answer(in, "GET"); status != c.status {
			t.Fatalf("%q: %d %s %v", c.text, status, body, err)
		}
	}
	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "GET / HTTP/1.1\r\nHost: free.allowed.test\r\n\r\n", "GET http://evil.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
		"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n",
	} {
		over, err := open(api+":443", &tls.Config{ServerName: api, RootCAs: trusted})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(over, text)
		if status, _, err := answer(bufio.NewReader(over), "GET"); status != 400 && status != 505 {
			t.Errorf("%q: %d %v", text, status, err)
		}
	}
	// A client that does not trust the authority, and one that wants another server.
	if _, err := open(api+":443", &tls.Config{ServerName: api, RootCAs: x509.NewCertPool()}); err == nil {
		t.Error("a client was deceived")
	}
	if _, err := open(api+":443", &tls.Config{ServerName: "evil.test", InsecureSkipVerify: true}); err == nil {
		t.Error("another server name passes")
	}
	// Where nothing is inspected the server's own certificate is seen.
	r.names.set("free.allowed.test", "93.184.216.36")
	if _, err := open("free.allowed.test:443", &tls.Config{ServerName: "free.allowed.test", RootCAs: r.ca.pool()}); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	for _, a := range r.arrivals {
		for _, req := range a.reqs {
			if !strings.Contains(req, " api.allowed.test /") || strings.Contains(req, "DELETE") || strings.Contains(req, "v2") {
				t.Errorf("arrived: %s", req)
			}
		}
	}
	r.mu.Unlock()
	var requests, opens int
	for _, rec := range r.recorded() {
		switch {
		case rec.Event == flow.Request:
			requests++
		case rec.Event == flow.Open && rec.Method == "":
			opens++
		}
	}
	if requests != 3 || opens == 0 {
		t.Errorf("%d requests, %d tunnels in the records\n%s", requests, opens, r.explain())
	}
}

// recorded returns the records so far.
func (r *rig) recorded() []flow.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]flow.Record(nil), r.records...)
}

// TestInspectionVerifies: a server that proves to be nobody, or somebody else, gets
// no request.
func TestInspectionVerifies(t *testing.T) {
	for name, cert := range map[string]tls.Certificate{"another name": testAuthority().leaf("evil.test"), "unknown authority": stranger(t, api)} {
		r, trusted := newInspection(t, inspecting)
		got := make(chan error, 1)
		r.serve(443, func(conn net.Conn, in *bufio.Reader) {
			over := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
			if err := over.Handshake(); err != nil {
				got <- nil
				return
			}
			_, err := http.ReadRequest(bufio.NewReader(over))
			if err == nil {
				err = errors.New("the request arrived")
			} else {
				err = nil
			}
			got <- err
		})
		conn := r.proxy()
		in, _, err := connect(conn, api+":443")
		if err != nil {
			t.Fatal(err)
		}
		over := tls.Client(&replayed{conn, in}, &tls.Config{ServerName: api, RootCAs: trusted})
		if err := over.Handshake(); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := get(over, bufio.NewReader(over), "/", api); status != 502 || !strings.Contains(body, "TLS") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// stranger makes a certificate that no authority of the tests signed.
func stranger(t *testing.T, name string) tls.Certificate {
	t.Helper()
	a, err := OpenAuthority(filepath.Join(t.TempDir(), "other.pem"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Leaf(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return *c
}

// TestInspectionOverHTTP2: in a stream too, and with a budget of one.
func TestInspectionOverHTTP2(t *testing.T) {
	r, trusted := newInspection(t, strings.Replace(inspecting, "inspect: true,", "inspect: true, budget: {concurrent: 1},", 1))
	conn := r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "h2")
	s, err := openStream(conn, [][2]string{{":method", "CONNECT"}, {":authority", api + ":443"}})
	if err != nil || s.answer() != nil || s.status != 200 {
		t.Fatal(err)
	}
	over := tls.Client(s, &tls.Config{ServerName: api, RootCAs: trusted})
	in := bufio.NewReader(over)
	for range 3 {
		if status, body, err := get(over, in, "/", api); status != 200 {
			t.Fatal(status, body, err, r.explain())
		}
	}
	fmt.Fprintf(over, "DELETE / HTTP/1.1\r\nHost: %s\r\n\r\n", api)
	if status, _, err := answer(in, "DELETE"); status != 403 {
		t.Error(status, err)
	}
}

// TestInspectedEndpoint: the Host inside is the name of the TLS, and requests are
// decided.
func TestInspectedEndpoint(t *testing.T) {
	r, trusted := newInspection(t, endpoints)
	open := func() (*tls.Conn, *bufio.Reader) {
		over := tls.Client(r.endpoint("read", 443), &tls.Config{ServerName: "read.provider.test", RootCAs: trusted})
		return over, bufio.NewReader(over)
	}
	over, in := open()
	if status, body, err := get(over, in, "/", "read.provider.test"); status != 200 {
		t.Fatal(status, body, err, r.explain())
	}
	fmt.Fprint(over, "DELETE / HTTP/1.1\r\nHost: read.provider.test\r\n\r\n")
	if status, _, err := answer(in, "DELETE"); status != 403 {
		t.Error(status, err)
	}
	over, in = open()
	if status, _, err := get(over, in, "/", "evil.test"); status != 400 {
		t.Error("another Host:", status, err)
	}
}

// TestNoAuthority: what is to be inspected does not pass where nobody can.
func TestNoAuthority(t *testing.T) {
	r := newRig(t, inspecting)
	conn := r.proxy()
	if _, status, err := r.tunnelTo(conn, api+":443", api); err == nil {
		t.Error(status)
	}
	conn.Close()
	if r.log(); len(r.reached()) > 0 {
		t.Error(r.explain())
	}
}

// TestInspectionInReport: a permission that inspects does so in report mode, and
// marks nothing that it allows.
func TestInspectionInReport(t *testing.T) {
	r, trusted := newInspection(t, "gateway: {mode: report, because: x, owner: y, until: 2099-01-01}\n"+inspecting)
	conn := r.proxy()
	in, _, err := connect(conn, api+":443")
	if err != nil {
		t.Fatal(err)
	}
	over := tls.Client(&replayed{conn, in}, &tls.Config{ServerName: api, RootCAs: trusted})
	reader := bufio.NewReader(over)
	if status, body, err := get(over, reader, "/", api); status != 200 {
		t.Fatal(status, body, err)
	}
	fmt.Fprintf(over, "DELETE / HTTP/1.1\r\nHost: %s\r\n\r\n", api)
	if status, _, err := answer(reader, "DELETE"); status != 200 {
		t.Error(status, err)
	}
	over.Close()
	marks := 0
	for _, rec := range r.log() {
		if rec.WouldDeny {
			marks++
			if rec.Method != "DELETE" {
				t.Errorf("%+v", rec)
			}
		}
	}
	if marks == 0 {
		t.Error("nothing is marked")
	}
}

// TestAuthority: the authority is kept, is its owner's alone, and signs for one name
// at a time.
func TestAuthority(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	now := time.Now()
	a, err := OpenAuthority(path, now)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	again, err := OpenAuthority(path, now)
	if err != nil || !bytes.Equal(a.Certificate(), again.Certificate()) {
		t.Error("it is another one after a restart", err)
	}
	first, err := a.Leaf(api, now)
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := a.Leaf(api, now.Add(time.Hour)); second != first {
		t.Error("a leaf is made again too soon")
	}
	if later, _ := a.Leaf(api, now.Add(leafLives)); later == first {
		t.Error("a leaf that expired is used")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Certificate())
	if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: api, Roots: roots, CurrentTime: now}); err != nil {
		t.Error(err)
	}
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".test"
	c, err := a.Leaf(long, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: long, Roots: roots, CurrentTime: now}); err != nil {
		t.Error(err)
	}
	if _, err := OpenAuthority(path, now.Add(authorityLives+time.Hour)); err == nil {
		t.Error("an expired authority is used")
	}
	if err := os.WriteFile(path, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(path, now); err == nil {
		t.Error("a broken file is taken")
	}
}
