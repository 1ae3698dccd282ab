package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/socket"
	"bulkhead/policyfile"
)

// authority is a certificate authority, and the Source of all workloads.
type authority struct {
	domain spiffeid.TrustDomain
	root   *x509.Certificate
	key    *ecdsa.PrivateKey

	mu    sync.Mutex // guards the following
	zones map[string]string
	svids map[string]*x509svid.SVID
}

const domain = "acme.test"

func newAuthority(t testing.TB, zones map[string]string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{domain: spiffeid.RequireTrustDomainFromString(domain), root: root, key: key, zones: zones, svids: map[string]*x509svid.SVID{}}
}

func (a *authority) SVID(workload string) (*x509svid.SVID, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.svids[workload]; s != nil {
		return s, nil
	}
	zone, ok := a.zones[workload]
	if !ok {
		return nil, errors.New("no such workload")
	}
	id, err := identity.ID(domain, zone, workload)
	if err != nil {
		return nil, err
	}
	s, err := a.issue(id)
	a.svids[workload] = s
	return s, err
}

func (a *authority) issue(id spiffeid.ID) (*x509svid.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, URIs: []*url.URL{id.URL()}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{leaf}, PrivateKey: key}, nil
}

func (a *authority) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != a.domain {
		return nil, errors.New("unknown trust domain " + td.String())
	}
	return x509bundle.FromX509Authorities(td, []*x509.Certificate{a.root}), nil
}

// fabric is a network of addresses that exist in the test only: what listens at
// one is a listener on loopback.
type fabric struct {
	mu      sync.Mutex // guards the following
	tunnels map[netip.AddrPort]string
	wanted  map[netip.AddrPort]netip.AddrPort // by the client's address
}

// place is a socket.Maker on loopback.
type fakeSockets struct {
	f       *fabric
	address netip.Addr

	mu      sync.Mutex // guards the following
	capture string
	servers map[uint16]string
	udp     map[uint16]*net.UDPConn // captures, by local
	packets map[uint16]string

	slow func(context.Context) // called before DialOwn, if set
}

func (s *fakeSockets) Capture() ([]socket.Capture, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.capture = l.Addr().String()
	s.mu.Unlock()
	return []socket.Capture{{Listener: l, Original: func(c net.Conn) (netip.AddrPort, error) {
		s.f.mu.Lock()
		defer s.f.mu.Unlock()
		from := addrPort(c.RemoteAddr())
		to, ok := s.f.wanted[from]
		delete(s.f.wanted, from)
		if !ok {
			return netip.AddrPort{}, errors.New("no original destination")
		}
		return to, nil
	}}}, nil
}

func (s *fakeSockets) Tunnel() ([]net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.f.mu.Lock()
	s.f.tunnels[netip.AddrPortFrom(s.address, tunnelPort)] = l.Addr().String()
	s.f.mu.Unlock()
	return []net.Listener{l}, nil
}

func (s *fakeSockets) DialPeer(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	s.f.mu.Lock()
	addr, ok := s.f.tunnels[to]
	s.f.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("nothing listens at %s", to)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (s *fakeSockets) DialOwn(ctx context.Context, port uint16) (*net.TCPConn, error) {
	if s.slow != nil {
		s.slow(ctx)
	}
	s.mu.Lock()
	addr, ok := s.servers[port]
	s.mu.Unlock()
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (s *fakeSockets) CaptureUDP(local uint16) (*net.UDPConn, error) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err == nil {
		s.mu.Lock()
		s.udp[local] = c
		s.mu.Unlock()
	}
	return c, err
}

func (s *fakeSockets) DialOwnUDP(ctx context.Context, port uint16) (*net.UDPConn, error) {
	s.mu.Lock()
	addr, ok := s.packets[port]
	s.mu.Unlock()
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// dial opens a connection as the workload would, to anywhere.
func (s *fakeSockets) dial(to string) (*net.TCPConn, error) {
	c, _, err := s.dialFrom(to, nil)
	return c, err
}

// dialFrom says what the connection's own address will be before it is opened.
func (s *fakeSockets) dialFrom(to string, bound func(netip.AddrPort)) (*net.TCPConn, netip.AddrPort, error) {
	var own netip.AddrPort
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		control := raw.Control(func(fd uintptr) {
			if err = syscall.Bind(int(fd), &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
				return
			}
			var sa syscall.Sockaddr
			if sa, err = syscall.Getsockname(int(fd)); err != nil {
				return
			}
			own = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*syscall.SockaddrInet4).Port))
			s.f.mu.Lock()
			if to != "" {
				s.f.wanted[own] = netip.MustParseAddrPort(to)
			}
			s.f.mu.Unlock()
			if bound != nil {
				bound(own)
			}
		})
		return errors.Join(control, err)
	}}
	s.mu.Lock()
	capture := s.capture
	s.mu.Unlock()
	c, err := d.Dial("tcp", capture)
	if err != nil {
		return nil, own, err
	}
	return c.(*net.TCPConn), own, nil
}

// records is a Sink that keeps everything.
type records struct {
	mu  sync.Mutex // guards all
	all []flow.Record
}

func (r *records) Record(rec flow.Record) {
	r.mu.Lock()
	r.all = append(r.all, rec)
	r.mu.Unlock()
}

func (r *records) list() []flow.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// wait returns the first record that matches, which may still come.
func (r *records) wait(t testing.TB, what string, match func(flow.Record) bool) flow.Record {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		list := r.list()
		if i := slices.IndexFunc(list, match); i >= 0 {
			return list[i]
		}
	}
	for _, rec := range r.list() {
		t.Logf("%s %s %s → %s %s: %s", rec.Side, rec.Event, rec.From.Workload, rec.To.Workload, rec.Rule, rec.Why)
	}
	t.Fatalf("no record: %s", what)
	return flow.Record{}
}

// platform is a node with its workloads, and a second one that has the workloads
// given to it.
type platform struct {
	t       testing.TB
	ctx     context.Context
	ca      *authority
	f       *fabric
	p       *Proxy
	reg     *registry.Registry
	sink    *records
	sockets map[string]*fakeSockets
	world   *World
	number  uint64
}

// newPlatform starts the workloads of a policy and puts it in force.
func newPlatform(t testing.TB, text string, change ...func(*Proxy)) *platform {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pf := &platform{t: t, ctx: ctx, reg: registry.New(), sink: &records{}, sockets: map[string]*fakeSockets{},
		f: &fabric{tunnels: map[netip.AddrPort]string{}, wanted: map[netip.AddrPort]netip.AddrPort{}}}
	in := resolve(t, text)
	zones := map[string]string{}
	for _, w := range in.Policy.Workloads {
		zones[w.Name.Value] = w.Zone.Value
	}
	pf.ca = newAuthority(t, zones)
	pf.p = New(Options{Node: "n1", Registry: pf.reg, Source: pf.ca, Sink: pf.sink, Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))})
	for _, f := range change {
		f(pf.p)
	}
	t.Cleanup(func() {
		for name := range pf.sockets {
			pf.p.Remove(name)
		}
		cancel()
	})
	for i, w := range in.Policy.Workloads {
		s := &fakeSockets{f: pf.f, address: meshAddr(i), servers: map[uint16]string{}, udp: map[uint16]*net.UDPConn{}, packets: map[uint16]string{}}
		pf.sockets[w.Name.Value] = s
		if err := pf.p.Add(ctx, Workload{Name: w.Name.Value, Zone: w.Zone.Value, Sockets: s}); err != nil {
			t.Fatal(err)
		}
	}
	pf.enforce(text)
	return pf
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func meshAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i + 1)}) }

func resolve(t testing.TB, text string) *policy.Intent {
	t.Helper()
	p, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(text)}})
	if p == nil {
		t.Fatalf("policy: %v", ds)
	}
	in, ds := policy.Resolve(p, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for _, d := range ds {
		if d.Severity == source.Error {
			t.Fatalf("policy: %v", d)
		}
	}
	return in
}

// enforce puts a policy in force as the next generation.
func (pf *platform) enforce(text string) registry.Enforced {
	pf.t.Helper()
	return pf.enforceIntent(resolve(pf.t, text))
}

func (pf *platform) enforceIntent(in *policy.Intent) registry.Enforced {
	pf.number++
	w := &World{TrustDomain: domain, Intent: in, Generation: pf.number, Places: map[netip.Addr]Place{}, UDP: map[string][]UDPCapture{}}
	for i, wl := range in.Policy.Workloads {
		addr := meshAddr(i)
		w.Places[addr] = Place{Workload: wl.Name.Value, Zone: wl.Zone.Value, Tunnel: netip.AddrPortFrom(addr, tunnelPort)}
	}
	local := uint16(15020)
	for i, to := range in.Policy.Workloads {
		for _, s := range to.Serves {
			if !slices.ContainsFunc([]string{"udp", "dns", "quic"}, func(p string) bool { return p == s.Protocol.Value }) {
				continue
			}
			for _, from := range in.Policy.Workloads {
				w.UDP[from.Name.Value] = append(w.UDP[from.Name.Value], UDPCapture{To: netip.AddrPortFrom(meshAddr(i), s.Lo), Local: local})
			}
			local++
		}
	}
	pf.world = w
	pf.p.SetWorld(w)
	return pf.reg.Enforce(&registry.Force{Number: pf.number, Digest: fmt.Sprint(pf.number), Intent: in, Since: time.Now()})
}

// at returns the mesh address of a workload.
func (pf *platform) at(workload string, port int) string {
	return fmt.Sprintf("%s:%d", pf.sockets[workload].address, port)
}

// server runs a TCP server of a workload. Handlers that still run at the end of
// the test have their connections closed.
func (pf *platform) server(workload string, port uint16, handle func(*net.TCPConn)) {
	pf.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		pf.t.Fatal(err)
	}
	s := pf.sockets[workload]
	s.mu.Lock()
	s.servers[port] = l.Addr().String()
	s.mu.Unlock()
	pf.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
}

func (pf *platform) dial(workload, to string) *net.TCPConn {
	pf.t.Helper()
	c, err := pf.sockets[workload].dial(to)
	if err != nil {
		pf.t.Fatal(err)
	}
	pf.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// echo is a server that sends back what it gets, and ends when its client does.
func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// ask sends a line and returns the answer.
func ask(c net.Conn, text string) (string, error) {
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	buf := make([]byte, len(text))
	n, err := io.ReadFull(c, buf)
	return string(buf[:n]), err
}

// wasReset reports whether the connection ended by a reset, and not in order.
func wasReset(c net.Conn) error {
	_, err := io.Copy(io.Discard, c)
	if err == nil {
		return errors.New("the connection ended in order")
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nil
}

// refused returns an error unless a connection is reset, or cannot even be opened.
func (pf *platform) refused(workload, to string) error { return refused(pf.sockets[workload], to) }

func refused(s *fakeSockets, to string) error {
	c, err := s.dial(to)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return wasReset(c)
}
