package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
	"bulkhead/policyfile"
)

// allowed is the policy of most tests: one name pattern, two ports.
const allowed = `
egress:
  - {from: client, to: "*.allowed.test", ports: [80, 443], because: x, owner: y}
`

// intent resolves a policy, of which only what is outside is given.
func intent(t testing.TB, text string) *policy.Intent {
	t.Helper()
	const head = "version: 1\nplatform: p\nzones: {z: {role: custom}}\nworkloads: {client: {zone: z}, other: {zone: z}}\n"
	p, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(head + text)}})
	if p == nil || ds.HasErrors() {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(p, time.Now())
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	return in
}

// rig is a gateway with a network of its own: every address that it dials leads to
// a server in the test, which notes what reaches it.
type rig struct {
	t     testing.TB
	g     *Gateway
	reg   *registry.Registry
	names *names
	ca    *authority

	mu       sync.Mutex // guards the following
	number   uint64
	records  []flow.Record
	dialled  []netip.AddrPort
	arrivals []*arrival
	byClient map[string]*arrival // by the address of the gateway's socket
	// servers serve ports in another way than most tests want.
	servers map[uint16]func(net.Conn)
	// dialing is called before each dial, if set.
	dialing func(context.Context, netip.AddrPort) error
}

// arrival is a connection that reached a server.
type arrival struct {
	rig  *rig
	at   netip.AddrPort
	said bytes.Buffer // every byte
	sni  string
	tls  bool
	reqs []string // METHOD HOST PATH
	head []http.Header
}

// names is a resolver whose answers alternate.
type names struct {
	mu      sync.Mutex // guards the following
	answers map[string][]dns.Answer
	asked   map[string]int
	err     error
}

func (n *names) Lookup(_ context.Context, host string) (dns.Answer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.answers[host]
	i := n.asked[host]
	n.asked[host]++
	switch {
	case n.err != nil:
		return dns.Answer{}, n.err
	case len(list) == 0:
		return dns.Answer{}, fmt.Errorf("dns: %s: %w", host, dns.ErrNoSuchName)
	}
	a := list[i%len(list)]
	a.Name = host
	return a, nil
}

func (n *names) set(host string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[host] = []dns.Answer{at(addrs...)}
}

func at(addrs ...string) (a dns.Answer) {
	for _, text := range addrs {
		a.Addrs = append(a.Addrs, netip.MustParseAddr(text))
	}
	return a
}

func alias(a dns.Answer, names ...string) dns.Answer {
	a.Aliases = names
	return a
}

// The public places of the tests. They are served by the rig and never dialled.
const (
	apiAddr  = "93.184.216.34"
	api6Addr = "2606:2800:220:1::1"
	evilAddr = "93.184.216.66"
)

func newRig(t testing.TB, text string, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, reg: registry.New(), byClient: map[string]*arrival{}, servers: map[uint16]func(net.Conn){}, ca: testAuthority()}
	r.names = &names{answers: map[string][]dns.Answer{
		"api.allowed.test": {at(apiAddr)}, "api6.allowed.test": {at(api6Addr)}, "evil.test": {at(evilAddr)},
	}, asked: map[string]int{}}
	if text != "" {
		r.enforce(text)
	}
	o := Options{Node: "n", Registry: r.reg, Resolver: dns.NewRecall(r.names, time.Now), Sink: r, Dial: r.dial,
		HelloTime: 400 * time.Millisecond, HeadTime: 400 * time.Millisecond, IdleTime: 5 * time.Second}
	for _, c := range change {
		c(&o)
	}
	r.g = New(o)
	return r
}

// enforce puts the next generation in force.
func (r *rig) enforce(text string) {
	r.t.Helper()
	r.number++
	in := intent(r.t, text)
	r.reg.Enforce(&registry.Force{Number: r.number, Digest: fmt.Sprint(r.number), Intent: in, Since: time.Now()})
}

// client is who the tests are to the gateway.
func (r *rig) client() Client {
	c, err := Known(r.reg.Force().Intent, "client")
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// Record keeps a record.
func (r *rig) Record(rec flow.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec)
}

// log returns what was recorded when nothing is open any more.
func (r *rig) log() []flow.Record {
	r.t.Helper()
	for range 5000 {
		if r.g.Stats().Open == 0 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return slices.Clone(r.records)
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatal("connections stay open")
	return nil
}

// dial connects to a server of the rig in place of an address.
func (r *rig) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	r.mu.Lock()
	before := r.dialing
	r.mu.Unlock()
	if before != nil {
		if err := before(ctx, to); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialled = append(r.dialled, to)
	conn, err := net.Dial("tcp", origins().at(to.Port()))
	if err != nil {
		return nil, err
	}
	a := &arrival{rig: r, at: to}
	r.arrivals = append(r.arrivals, a)
	origins().expect(conn.LocalAddr().String(), a)
	return conn, nil
}

// reached returns the connections on which a server got any byte.
func (r *rig) reached() (out []*arrival) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.arrivals {
		if a.said.Len() > 0 {
			out = append(out, a)
		}
	}
	return out
}

func (r *rig) dials() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.dialled)
}

// servers are the listeners on loopback that all rigs share, one for each port.
type servers struct {
	mu       sync.Mutex // guards the following
	ports    map[uint16]string
	expected map[string]chan *arrival
}

var origins = sync.OnceValue(func() *servers { return &servers{ports: map[uint16]string{}, expected: map[string]chan *arrival{}} })

func (s *servers) at(port uint16) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.ports[port]; at != "" {
		return at
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s.ports[port] = l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn, port)
		}
	}()
	return l.Addr().String()
}

func (s *servers) slot(client string) chan *arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.expected[client]
	if c == nil {
		c = make(chan *arrival, 1)
		s.expected[client] = c
	}
	return c
}

func (s *servers) expect(client string, a *arrival) { s.slot(client) <- a }

func (s *servers) serve(conn net.Conn, port uint16) {
	defer conn.Close()
	client := conn.RemoteAddr().String()
	a := <-s.slot(client)
	s.mu.Lock()
	delete(s.expected, client)
	s.mu.Unlock()
	noting := &notingConn{conn, a}
	a.rig.mu.Lock()
	special := a.rig.servers[port]
	a.rig.mu.Unlock()
	switch {
	case special != nil:
		special(noting)
	case port == 22 || port == 25:
		_, _ = io.WriteString(conn, "SSH-2.0-origin\r\n")
		_, _ = io.Copy(io.Discard, noting)
	default:
		in := bufio.NewReader(noting)
		first, err := in.Peek(1)
		if err != nil {
			return
		}
		if first[0] == 22 {
			a.serveTLS(noting, in)
			return
		}
		a.serveHTTP(noting, in)
	}
}

// notingConn notes what is read.
type notingConn struct {
	net.Conn
	a *arrival
}

func (c *notingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.a.rig.mu.Lock()
	c.a.said.Write(p[:n])
	c.a.rig.mu.Unlock()
	return n, err
}

func (c *notingConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }
func (c *notingConn) NetConn() net.Conn { return c.Conn }

func (a *arrival) serveTLS(conn net.Conn, in *bufio.Reader) {
	over := tls.Server(&replayed{conn, in}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		a.rig.mu.Lock()
		a.sni, a.tls = i.ServerName, true
		a.rig.mu.Unlock()
		name := i.ServerName
		if name == "" {
			name = "nameless.test"
		}
		return &tls.Config{Certificates: []tls.Certificate{a.rig.ca.leaf(name)}, NextProtos: []string{"http/1.1"}}, nil
	}})
	if over.Handshake() == nil {
		a.serveHTTP(over, bufio.NewReader(over))
	}
}

// serveHTTP answers every request with 200.
func (a *arrival) serveHTTP(conn net.Conn, in *bufio.Reader) {
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		a.rig.mu.Lock()
		a.reqs = append(a.reqs, req.Method+" "+req.Host+" "+req.RequestURI)
		a.head = append(a.head, req.Header)
		a.rig.mu.Unlock()
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len("origin")+len(body))
		if req.Method != http.MethodHead {
			answer += "origin" + string(body)
		}
		if _, err := io.WriteString(conn, answer); err != nil || req.Close {
			return
		}
	}
}

// authority issues the certificates of the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex // guards leaves
	leaves map[string]tls.Certificate
}

var testAuthority = sync.OnceValue(func() *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{cert: cert, key: key, leaves: map[string]tls.Certificate{}}
})

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) leaf(name string) tls.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.leaves[name]; ok {
		return c
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(len(a.leaves)) + 2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	c := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	a.leaves[name] = c
	return c
}

// listen opens a door of the gateway on loopback.
func (r *rig) listen(d Door) string {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	d.Listener = l
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); _ = r.g.Serve(ctx, d) }()
	r.t.Cleanup(func() {
		stop()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.g.Drain(ctx)
		<-over
	})
	return l.Addr().String()
}

// plain is a door without TLS, whose clients are known by network.
func (r *rig) plain() Door {
	return Door{Networks: []Network{{netip.MustParsePrefix("127.0.0.0/8"), r.client()}}}
}

// mutual is a door that knows clients by their certificate.
func (r *rig) mutual() Door {
	known := map[string]Client{"client": r.client()}
	return Door{
		TLS: &tls.Config{Certificates: []tls.Certificate{r.ca.leaf("gateway.test")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: r.ca.pool(),
			NextProtos: []string{"h2", "http/1.1"}},
		Certified: func(c *x509.Certificate) (Client, error) {
			who, ok := known[c.Subject.CommonName]
			if !ok {
				return Client{}, fmt.Errorf("nobody is %q", c.Subject.CommonName)
			}
			return who, nil
		},
	}
}

// dialProxy connects to a door.
func dialProxy(t testing.TB, door string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", door)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// overTLS proves who it is to a door.
func (r *rig) overTLS(conn net.Conn, as string, protocols ...string) *tls.Conn {
	return tls.Client(conn, &tls.Config{ServerName: "gateway.test", RootCAs: r.ca.pool(), Certificates: []tls.Certificate{r.ca.leaf(as)}, NextProtos: protocols})
}

// connect asks for a tunnel. It returns the status, and what to go on with.
func connect(conn net.Conn, to string) (*bufio.Reader, int, error) {
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to); err != nil {
		return nil, 0, err
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, 0, err
	}
	if answer.StatusCode != 200 {
		_, _ = io.Copy(io.Discard, answer.Body)
	}
	return in, answer.StatusCode, nil
}

// tunnelTo asks for a tunnel, and for TLS to a server in it.
func (r *rig) tunnelTo(conn net.Conn, to, sni string) (*tls.Conn, int, error) {
	in, status, err := connect(conn, to)
	if err != nil || status != 200 {
		return nil, status, err
	}
	over := tls.Client(&replayed{conn, in}, &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	return over, status, over.Handshake()
}

// get asks for a path, and returns status and body.
func get(conn net.Conn, in *bufio.Reader, path, host string) (int, string, error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host); err != nil {
		return 0, "", err
	}
	return answer(in, http.MethodGet)
}

func answer(in *bufio.Reader, method string) (int, string, error) {
	a, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(a.Body)
	return a.StatusCode, string(body), err
}

// verdicts counts records by event and verdict.
func verdicts(records []flow.Record) map[string]int {
	out := map[string]int{}
	for _, r := range records {
		out[string(r.Event)+" "+r.Verdict]++
	}
	return out
}

func (r *rig) explain() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, rec := range r.records {
		fmt.Fprintf(&b, "    %s %s %s:%v %d %s (%s)\n", rec.Event, rec.Verdict, rec.To.Name, rec.To.Addr, rec.Status, rec.Why, rec.Rule)
	}
	for _, a := range r.arrivals {
		fmt.Fprintf(&b, "    dialled %s: %d bytes, sni %q, %q\n", a.at, a.said.Len(), a.sni, a.reqs)
	}
	return b.String()
}

// special returns what was dialled and must never be.
func (r *rig) special() (out []string) {
	for _, d := range r.dials() {
		if kind := netset.Special(d.Addr()); kind != "" {
			out = append(out, d.String()+" ("+kind+")")
		}
	}
	return out
}
