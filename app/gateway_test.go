package app

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/core/source"
	"bulkhead/mesh/flow"
	"bulkhead/render"
)

// gatewayTest is a gateway that stands alone, and a server that it leads to.
type gatewayTest struct {
	*testing.T
	dir    string
	origin *httptest.Server
	status render.Gateway
	stop   context.CancelFunc
	ended  chan error
}

// policy lets workload client reach the origin by name, with more keys for the egress.
func (g *gatewayTest) policy(more string) string {
	return fmt.Sprintf(`version: 1
platform: gateway-test
zones: {w: {role: custom}}
workloads: {client: {zone: w}, other: {zone: w}}
egress:
  - {from: client, to: origin, because: a test, owner: tests, accept: any-protocol%s}
destinations:
  origin: {hosts: origin.acme.internal, addresses: 127.0.0.1, ports: %d}
`, more, g.origin.Listener.Addr().(*net.TCPAddr).Port)
}

func (g *gatewayTest) write(text string) {
	g.Helper()
	must(g.T, os.WriteFile(filepath.Join(g.dir, PolicyFile), []byte(text), 0o644))
}

func newGateway(t *testing.T, set func(*Gateway)) *gatewayTest {
	t.Helper()
	g := &gatewayTest{T: t, dir: t.TempDir(), ended: make(chan error, 1)}
	g.origin = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.Host)
	}))
	t.Cleanup(g.origin.Close)
	g.write(g.policy(""))
	ctx, cancel := context.WithCancel(t.Context())
	g.stop = cancel
	ready := make(chan render.Gateway, 1)
	o := Gateway{Path: PolicyFile, Listen: "127.0.0.1:0", Admin: "127.0.0.1:0", Clients: []string{"127.0.0.1=client"}, State: filepath.Join(g.dir, "state"),
		Hosts: filepath.Join(g.dir, PolicyFile) + ".none", Drain: 5 * time.Second, Output: io.Discard, Log: slog.New(slog.DiscardHandler),
		Warn:  func(source.Diagnostics, Lines) error { return nil },
		Ready: func(s render.Gateway) error { ready <- s; return nil }}
	must(t, os.WriteFile(o.Hosts, nil, 0o644))
	if set != nil {
		set(&o)
	}
	e := &Env{Dir: g.dir, Now: time.Now(), Version: "test", Getenv: os.Getenv}
	go func() { g.ended <- e.Gateway(ctx, o) }()
	select {
	case g.status = <-ready:
	case err := <-g.ended:
		t.Fatalf("it ended: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-g.ended; err != nil {
			t.Errorf("it ended: %v", err)
		}
	})
	return g
}

func (g *gatewayTest) url() string {
	return fmt.Sprintf("http://origin.acme.internal:%d/x", g.origin.Listener.Addr().(*net.TCPAddr).Port)
}

// get asks through the gateway.
func (g *gatewayTest) get(u string) (int, string) {
	g.Helper()
	proxy := &url.URL{Scheme: "http", Host: g.status.Listen.String()}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(u)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(g.T, err)
	return resp.StatusCode, string(body)
}

func (g *gatewayTest) adminPage(path string) (int, string) {
	g.Helper()
	resp, err := http.Get("http://" + g.status.Admin.String() + path)
	must(g.T, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(g.T, err)
	return resp.StatusCode, string(body)
}

// connect opens a tunnel to the origin and returns it.
func (g *gatewayTest) connect() net.Conn {
	g.Helper()
	conn, err := net.Dial("tcp", g.status.Listen.String())
	must(g.T, err)
	g.Cleanup(func() { conn.Close() })
	target := strings.TrimSuffix(strings.TrimPrefix(g.url(), "http://"), "/x")
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	must(g.T, err)
	if resp.StatusCode != http.StatusOK {
		g.Fatalf("CONNECT: %s", resp.Status)
	}
	return conn
}

// alive reports whether a tunnel answers.
func alive(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil
}

// TestGatewayReload: a saved policy is in force, for what is open too; a wrong one is
// not, and says so.
func TestGatewayReload(t *testing.T) {
	g := newGateway(t, nil)
	if code, body := g.get(g.url()); code != 200 || body != fmt.Sprintf("GET origin.acme.internal:%d", g.origin.Listener.Addr().(*net.TCPAddr).Port) {
		t.Fatalf("%d %s", code, body)
	}
	if code, body := g.get("http://other.acme.internal/"); code != 403 || !strings.Contains(body, "no permission names other.acme.internal") {
		t.Errorf("%d %s", code, body)
	}
	open := g.connect()
	if !alive(open) {
		t.Fatal("the tunnel does not answer")
	}
	g.write("version: 1\nzones: {w: {role: nonsense}}\n")
	eventually(t, "the wrong policy is noticed", func() bool {
		_, page := g.adminPage("/metrics")
		return strings.Contains(page, "\nbulkhead_policy_rejected 1\n")
	})
	if code, _ := g.get(g.url()); code != 200 || !alive(open) {
		t.Errorf("with a wrong policy on disk the one before is not in force: %d", code)
	}
	g.write(strings.Replace(g.policy(""), "from: client", "from: other", 1))
	eventually(t, "the changed policy is in force", func() bool { code, _ := g.get(g.url()); return code == 403 })
	if alive(open) {
		t.Error("what is open goes on")
	}
	g.write(g.policy(", budget: {requests: 2/hour}"))
	eventually(t, "the next is in force", func() bool { code, _ := g.get(g.url()); return code == 200 })
	g.get(g.url())
	if code, body := g.get(g.url()); code != 429 || !strings.Contains(body, "budget") {
		t.Errorf("%d %s", code, body)
	}
	_, page := g.adminPage("/metrics")
	for _, want := range []string{`bulkhead_egress_requests_total{verdict="allowed"} `, `bulkhead_egress_requests_total{verdict="denied"} `, "bulkhead_policy_generation 3", "bulkhead_policy_rejected 0"} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %q:\n%s", want, page)
		}
	}
}

// TestGatewayModes: a relaxed mode lets names pass that no permission holds, and nothing else.
func TestGatewayModes(t *testing.T) {
	g := newGateway(t, nil)
	u := fmt.Sprintf("http://%s/x", g.origin.Listener.Addr())
	if code, _ := g.get(u); code != 403 {
		t.Fatalf("an address: %d", code)
	}
	// Report lets names pass, and private addresses in no mode.
	g.write(g.policy("") + "gateway: {mode: report, because: a test, owner: tests, until: 2099-01-01}\n")
	eventually(t, "the mode is in force", func() bool { code, _ := g.get("http://other.acme.internal/"); return code != 403 })
	if code, body := g.get(u); code != 403 {
		t.Errorf("a loopback address in report mode: %d %s", code, body)
	}
}

func TestGatewayDrains(t *testing.T) {
	g := newGateway(t, nil)
	open := g.connect()
	g.stop()
	eventually(t, "it takes no more", func() bool {
		conn, err := net.Dial("tcp", g.status.Listen.String())
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if !alive(open) {
		t.Error("what is open was ended before its time")
	}
	open.Close()
	select {
	case err := <-g.ended:
		g.ended <- err
	case <-time.After(4 * time.Second):
		t.Error("nothing is open, and it does not end")
	}
	text, err := os.ReadFile(g.status.LogFile)
	must(t, err)
	events := map[flow.Event]int{}
	for line := range strings.Lines(string(text)) {
		var r flow.Record
		must(t, json.Unmarshal([]byte(line), &r))
		events[r.Event]++
	}
	if events[flow.Open] != 1 || events[flow.Close] != 1 {
		t.Errorf("the records are %v", events)
	}
}

// TestGatewayWithoutLog: while nothing can be recorded nothing passes, unless the
// policy accepts that.
func TestGatewayWithoutLog(t *testing.T) {
	if !isRoot() {
		t.Skip("SKIPPED: it mounts a small disk; run: sudo go test ./app")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("SKIPPED: a small disk cannot be mounted: %v; run: sudo go test ./app", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	g := newGateway(t, func(o *Gateway) { o.LogFile = filepath.Join(dir, "egress.log") })
	if code, _ := g.get(g.url()); code != 200 {
		t.Fatalf("with room on the disk: %d", code)
	}
	filler := filepath.Join(dir, "filler")
	_ = os.WriteFile(filler, make([]byte, 32<<20), 0o600) // as much as there is room for
	eventually(t, "the full disk is noticed", func() bool { code, _ := g.get(g.url()); return code == 503 })
	if code, page := g.adminPage("/readyz"); code != 503 || !strings.Contains(page, "no space left") {
		t.Errorf("%d %s", code, page)
	}
	if code, page := g.adminPage("/healthz"); code != 200 {
		t.Errorf("%d %s", code, page)
	}
	g.write(g.policy("") + "gateway: {withoutLog: drop}\n")
	eventually(t, "the policy accepts it", func() bool { code, _ := g.get(g.url()); return code == 200 })
	g.write(g.policy(""))
	eventually(t, "it does not any more", func() bool { code, _ := g.get(g.url()); return code == 503 })
	must(t, os.Remove(filler))
	eventually(t, "it passes again", func() bool { code, _ := g.get(g.url()); return code == 200 })
}

// authorityFor makes an authority and what it signs, as files.
func authorityFor(t *testing.T, dir, name string, hosts ...string) (ca, cert, key string, pair tls.Certificate) {
	t.Helper()
	make := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		if by == nil {
			by = own
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), by)
		must(t, err)
		return der, own
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootDER, rootKey := make(root, root, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: hosts, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if u, err := url.Parse(h); err == nil && u.Scheme == "spiffe" {
			leaf.URIs, leaf.DNSNames = []*url.URL{u}, nil
		}
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses, leaf.DNSNames = []net.IP{ip}, nil
		}
	}
	leafDER, leafKey := make(leaf, root, rootKey)
	secret, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(t, err)
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	return write(name+"-ca.pem", "CERTIFICATE", rootDER), write(name+".pem", "CERTIFICATE", leafDER), write(name+".key", "PRIVATE KEY", secret),
		tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}
}

// TestGatewayKnowsCertificates: a SPIFFE ID or a workload's name says who it is;
// another zone, another trust domain, a stranger and nobody are refused.
func TestGatewayKnowsCertificates(t *testing.T) {
	dir := t.TempDir()
	_, cert, key, _ := authorityFor(t, dir, "gateway", "127.0.0.1")
	var cas []byte
	clients := map[string]tls.Certificate{}
	for name, host := range map[string]string{"client": "client", "spiffe": "spiffe://gateway-test.bulkhead.internal/zone/w/workload/client",
		"other-zone": "spiffe://gateway-test.bulkhead.internal/zone/x/workload/client", "other-domain": "spiffe://elsewhere/zone/w/workload/client",
		"not-permitted": "spiffe://gateway-test.bulkhead.internal/zone/w/workload/other", "nobody": "nobody.example.com"} {
		ca, _, _, pair := authorityFor(t, dir, name, host)
		text, err := os.ReadFile(ca)
		must(t, err)
		cas = append(cas, text...)
		clients[name] = pair
	}
	_, _, _, clients["stranger"] = authorityFor(t, t.TempDir(), "stranger", "client")
	ca := filepath.Join(dir, "clients.pem")
	must(t, os.WriteFile(ca, cas, 0o600))
	g := newGateway(t, func(o *Gateway) { o.Clients, o.Cert, o.Key, o.ClientCA = nil, cert, key, ca })
	for name, want := range map[string]int{"client": 200, "spiffe": 200, "not-permitted": 403, "other-zone": 0, "other-domain": 0, "nobody": 0, "stranger": 0, "none": 0} {
		cfg := &tls.Config{InsecureSkipVerify: true}
		if pair, ok := clients[name]; ok {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		got := 0
		if conn, err := tls.Dial("tcp", g.status.Listen.String(), cfg); err == nil {
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			host := strings.TrimSuffix(strings.TrimPrefix(g.url(), "http://"), "/x")
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", g.url(), host)
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				got = resp.StatusCode
				resp.Body.Close()
			}
			conn.Close()
		}
		if got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

func TestGatewayFlags(t *testing.T) {
	for name, set := range map[string]func(*Gateway){
		"no client":        func(o *Gateway) { o.Clients = nil },
		"no such workload": func(o *Gateway) { o.Clients = []string{"10.0.0.0/8=trainr"} },
		"no network":       func(o *Gateway) { o.Clients = []string{"ten=client"} },
		"no key":           func(o *Gateway) { o.Cert = "x.pem" },
		"no certificate":   func(o *Gateway) { o.Cert, o.Key = "x.pem", "x.key" },
		"no port":          func(o *Gateway) { o.Listen = "127.0.0.1" },
		"no resolver":      func(o *Gateway) { o.Resolvers = []string{"dns.example.com"} },
		"no balancer":      func(o *Gateway) { o.Balancers = []string{"10.0.0.1"} },
		"no policy":        func(o *Gateway) { o.Path = "nothing.yaml" },
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, PolicyFile), []byte("version: 1\nzones: {w: {role: custom}}\nworkloads: {client: {zone: w}}\n"), 0o644))
		o := Gateway{Path: PolicyFile, Listen: "127.0.0.1:0", Clients: []string{"127.0.0.1=client"}, State: filepath.Join(dir, "state"), Output: io.Discard,
			Log: slog.New(slog.DiscardHandler), Warn: func(source.Diagnostics, Lines) error { return nil },
			Ready: func(render.Gateway) error { return fmt.Errorf("it serves") }}
		set(&o)
		e := &Env{Dir: dir, Now: time.Now(), Version: "test", Getenv: os.Getenv}
		err := e.Gateway(t.Context(), o)
		var wrong *InputError
		if errors.As(err, &wrong); wrong == nil || wrong.Hint == "" && name != "no policy" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
