package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// impostor has the certificate of another identity than it is asked for.
type impostor struct {
	*authority
	svid *x509svid.SVID
}

func (i impostor) SVID(string) (*x509svid.SVID, error) { return i.svid, nil }

// attack opens a stream to b's tunnel with the certificate of an identity.
func (pf *platform) attack(t *testing.T, id string, r tunnel.Request) error {
	t.Helper()
	svid, err := pf.ca.issue(spiffeid.RequireFromString(id))
	if err != nil {
		t.Fatal(err)
	}
	pool := tunnel.NewPool(tunnel.PoolOptions{
		TLS: func(peer spiffeid.ID) *tls.Config { return identity.ClientTLS(impostor{pf.ca, svid}, "", peer) },
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return pf.sockets["a"].DialPeer(ctx, to)
		},
	})
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := pool.Open(ctx, netip.AddrPortFrom(pf.sockets["b"].address, tunnelPort), spiffeid.RequireFromString("spiffe://acme.test/zone/two/workload/b"), r)
	if err == nil {
		s.Reset()
	}
	return err
}

// TestForgedSources: what counts is the certificate, and only if the policy knows
// the workload in its zone.
func TestForgedSources(t *testing.T) {
	pf := newPlatform(t, basic)
	var reached atomic.Int64
	for _, port := range []uint16{9000, 9001, 15008} {
		pf.server("b", port, func(*net.TCPConn) { reached.Add(1) })
	}
	good := tunnel.Request{Workload: "b", Network: "tcp", Port: 9000, ID: "0123456789abcdef0123456789abcdef"}
	with := func(change func(*tunnel.Request)) tunnel.Request {
		r := good
		change(&r)
		return r
	}
	const a = "spiffe://acme.test/zone/one/workload/a"
	if err := pf.attack(t, a, good); err != nil {
		t.Fatalf("the control: %v", err)
	}
	for reached.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	reached.Store(0)
	for _, tc := range []struct {
		name, id string
		r        tunnel.Request
		why      string
	}{
		{"another zone", "spiffe://acme.test/zone/two/workload/a", good, "has a in zone one"},
		{"no such workload", "spiffe://acme.test/zone/one/workload/ghost", good, "has no workload ghost"},
		{"not of our form", "spiffe://acme.test/a", good, "no workload of a platform"},
		{"more segments", "spiffe://acme.test/zone/one/workload/a/b", good, "no workload of a platform"},
		{"itself", "spiffe://acme.test/zone/two/workload/b", good, "the nearest is"},
		{"a port that it may not use", a, with(func(r *tunnel.Request) { r.Port = 9001 }), "allows only"},
		{"the tunnel's own port", a, with(func(r *tunnel.Request) { r.Port = 15008 }), "the mesh's own"},
		{"another workload in b's tunnel", a, with(func(r *tunnel.Request) { r.Workload = "c" }), "it asks for c in the tunnel of b"},
		{"TCP where UDP is permitted", a, with(func(r *tunnel.Request) { r.Port = 53 }), "allows only"},
		{"UDP where TCP is permitted", a, with(func(r *tunnel.Request) { r.Network = "udp" }), "allows only"},
		{"datagrams where requests are limited", a, with(func(r *tunnel.Request) { r.Network, r.Port = "udp", 8080 }), "allows only"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := pf.attack(t, tc.id, tc.r)
			var refused *tunnel.RefusedError
			if !errors.As(err, &refused) || refused.Code != codeDenied || !strings.Contains(refused.Says, tc.why) {
				t.Errorf("%v", err)
			}
			r := pf.sink.wait(t, tc.why, func(r flow.Record) bool {
				return r.Event == flow.Deny && r.From.ID == tc.id && r.To.Addr.Port() == tc.r.Port && r.Transport == tc.r.Network && strings.Contains(r.Why, tc.why)
			})
			if r.Verdict != "deny" || r.Side != flow.Destination || r.Generation != 1 {
				t.Errorf("record %+v", r)
			}
		})
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("the server was reached %d times", n)
	}
	if err := pf.attack(t, "spiffe://acme.test/zone/one/workload/a", with(func(r *tunnel.Request) { r.ID = "not an id"[:3] })); err != nil {
		t.Error(err)
	}
	for _, r := range pf.sink.list() {
		if len(r.ID) != 32 {
			t.Errorf("id %q in a record", r.ID)
		}
	}
}

// TestRefusedByTheOtherSide: the source allows and the destination does not, since
// it has another generation: the source records whose verdict it was.
func TestRefusedByTheOtherSide(t *testing.T) {
	pf := newPlatform(t, basic)
	other := registry.New()
	in := resolve(t, without(basic, flowAB))
	p2 := New(Options{Node: "n2", Registry: other, Source: pf.ca, Sink: pf.sink})
	pf.p.Remove("b")
	if err := p2.Add(t.Context(), Workload{Name: "b", Zone: "two", Sockets: pf.sockets["b"]}); err != nil {
		t.Fatal(err)
	}
	defer p2.Remove("b")
	w := *pf.world
	w.Intent, w.Generation = in, 7
	p2.SetWorld(&w)
	other.Enforce(&registry.Force{Number: 7, Intent: in})
	pf.server("b", 9000, echo)
	if err := pf.refused("a", pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	for _, side := range []flow.Side{flow.Source, flow.Destination} {
		r := pf.sink.wait(t, "deny", func(r flow.Record) bool { return r.Event == flow.Deny && r.Side == side })
		if r.Verdict != "deny" || r.Generation != 7 || !strings.Contains(r.Why, "the nearest is") || r.Rule == "" {
			t.Errorf("record %+v", r)
		}
	}
}

// TestTwoNodes: tunnels between nodes, for the workload whose certificate was
// presented and for no other of the node.
func TestTwoNodes(t *testing.T) {
	pf := newPlatform(t, basic)
	for _, name := range []string{"b", "c"} {
		pf.p.Remove(name)
		pf.server(name, 9000, echo)
	}
	other := registry.New()
	p2 := New(Options{Node: "n2", Registry: other, Source: pf.ca, Sink: pf.sink})
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p2.ServeNode(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"b", "c"} {
		if err := p2.Add(ctx, Workload{Name: name, Zone: "two", Sockets: pf.sockets[name]}); err != nil {
			t.Fatal(err)
		}
		defer p2.Remove(name)
		pf.world.Places[pf.sockets[name].address] = Place{Workload: name, Zone: "two", Tunnel: addrPort(ln.Addr())}
	}
	pf.p.SetWorld(pf.world)
	p2.SetWorld(pf.world)
	other.Enforce(&registry.Force{Number: 1, Intent: pf.world.Intent})
	c := pf.dial("a", pf.at("b", 9000))
	if got, err := ask(c, "hello"); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	if r := pf.sink.wait(t, "open on the other node", func(r flow.Record) bool { return r.Event == flow.Open && r.Node == "n2" }); r.To.Workload != "b" {
		t.Errorf("record %+v", r)
	}
	if err := pf.refused("a", pf.at("c", 9000)); err != nil {
		t.Error(err)
	}
	// The tunnel of b, asked for c, which a may not reach.
	err = pf.attackAt(t, addrPort(ln.Addr()), tunnel.Request{Workload: "c", Network: "tcp", Port: 9000, ID: "x"})
	var refused *tunnel.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Says, "it asks for c in the tunnel of b") {
		t.Error(err)
	}
	p2.Remove("b")
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
}

// attackAt asks for something at a node, in a tunnel from a to b.
func (pf *platform) attackAt(t *testing.T, node netip.AddrPort, r tunnel.Request) error {
	t.Helper()
	pool := tunnel.NewPool(tunnel.PoolOptions{
		TLS: func(peer spiffeid.ID) *tls.Config { return identity.ClientTLS(pf.ca, "a", peer) },
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
		},
	})
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := pool.Open(ctx, node, spiffeid.RequireFromString("spiffe://acme.test/zone/two/workload/b"), r)
	return err
}
