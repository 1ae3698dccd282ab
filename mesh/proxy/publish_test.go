package proxy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
)

const exposed = basic + `
exposures:
  - {to: b/plain, from: internet, because: x, owner: y, until: 2026-12-31}
  - {to: b/other, from: [203.0.113.0/24, control-plane], because: x, owner: y, until: 2026-12-31}
`

// clientOf lets a test choose the client's address.
type clientOf struct {
	*net.TCPConn
	addr netip.Addr
}

func (c clientOf) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, 40000))
}

func TestPublish(t *testing.T) {
	pf := newPlatform(t, exposed)
	pf.server("b", 9000, echo)
	addr := pf.publish("b", 9000)
	c := dialPlain(t, addr)
	if got, err := ask(c, "hello"); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	r := pf.sink.wait(t, "open", func(r flow.Record) bool { return r.Event == flow.Open })
	if r.Side != flow.Destination || r.From.Workload != "" || !r.From.Addr.Addr().IsLoopback() || r.To.Service != "plain" || r.Wire != "plaintext" ||
		!strings.Contains(r.Rule, "exposure internet → b/plain") {
		t.Errorf("record %+v", r)
	}
	if e := pf.enforce(basic); e.Closed != 1 {
		t.Errorf("%+v", e)
	}
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
	if late, err := net.Dial("tcp", addr); err == nil {
		if err := wasReset(late); err != nil {
			t.Error(err)
		}
		late.Close()
	}
	pf.sink.wait(t, "deny", func(r flow.Record) bool { return r.Event == flow.Deny && r.From.Addr.IsValid() && r.Generation == 2 })
}

func (pf *platform) publish(workload string, port uint16) string {
	pf.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		pf.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(pf.ctx)
	done := make(chan error, 1)
	go func() { done <- pf.p.Publish(ctx, ln, workload, port) }()
	pf.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			pf.t.Error(err)
		}
	})
	return ln.Addr().String()
}

func dialPlain(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func (c clientOf) Reset() { c.SetLinger(0) }

// TestWhoIsOutside: the client's address decides which exposures it may use.
func TestWhoIsOutside(t *testing.T) {
	pf := newPlatform(t, exposed)
	m := pf.p.member("b")
	for _, tc := range []struct {
		addr         string
		plain, other bool
	}{
		{"8.8.8.8", true, false},
		{"2600::1", true, false},
		{"203.0.113.9", false, true}, // documentation space is not public
		{"10.1.2.3", false, false},
		{"169.254.169.254", false, false},
		{"100.64.0.1", false, false},
		{"fd00::1", false, false},
		{"127.0.0.1", true, true},
		{"::1", true, true},
	} {
		for port, want := range map[uint16]bool{9000: tc.plain, 9001: tc.other} {
			c := m.begin(flow.Destination, "tcp")
			got := c.decide(m.partiesAt(netip.MustParseAddr(tc.addr)), c.self(), port)
			if (got == whole) != want || !want && got != denied {
				t.Errorf("%s at %d: %v", tc.addr, port, got)
			}
			c.deny()
		}
	}
	if ps := m.partiesAt(netip.MustParseAddr("127.0.0.1")); slices.ContainsFunc(ps, func(p policy.Party) bool { return p.Kind == policy.ControlParty }) {
		t.Error("the machine is taken for the control plane")
	}
	// A client that is denied is severed before a byte of it is read.
	server, client := pair(t)
	m.published(clientOf{server, netip.MustParseAddr("10.1.2.3")}, 9000)
	if err := wasReset(client); err != nil {
		t.Error(err)
	}
	pf.sink.wait(t, "deny", func(r flow.Record) bool {
		return r.Event == flow.Deny && r.From.Addr.Addr().String() == "10.1.2.3" && r.To.Service == "plain"
	})
}

func pair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client = dialPlain(t, ln.Addr().String())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), client
}

func TestPublishOfNobody(t *testing.T) {
	pf := newPlatform(t, exposed)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := pf.p.Publish(t.Context(), ln, "ghost", 9000); err == nil {
		t.Error("a workload that is not here was exposed")
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}
