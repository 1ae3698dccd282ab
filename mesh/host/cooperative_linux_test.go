package host

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"bulkhead/mesh/socket"
)

// TestCooperative needs no privilege: that is what the mode is for.
func TestCooperative(t *testing.T) {
	dir := t.TempDir()
	h, err := Open(t.Context(), Options{Platform: t.Name(), StateDir: dir, RunDir: dir, Mode: Cooperative, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := testPlan(h)
	p.Members[2].Serves = []Port{{"tcp", 8080, 8081}, {"udp", 5353, 5353}}
	p.Members[0].UDP = []UDPCapture{{netip.AddrPortFrom(p.addr("c", false), 5353), 15020}}
	apply(t, h, p)
	a, c := socketsOf(t, h, "a"), socketsOf(t, h, "c")
	captures, err := a.Capture()
	if err != nil || len(captures) != 1 {
		t.Fatal(captures, err)
	}
	defer captures[0].Close()
	serveEcho(mustTunnel(t, h, "c"))
	want := netip.AddrPortFrom(p.addr("c", false), 8080)
	go fakeProxy(t, captures[0], want, func() (*net.TCPConn, error) {
		return a.DialPeer(context.Background(), netip.AddrPortFrom(p.addr("c", false), TunnelPort))
	})
	at := h.Address("a", "c")
	if at == h.Own("c") || at == h.Address("b", "c") || !at.IsLoopback() || h.Own("none").IsValid() {
		t.Fatalf("addresses: a reaches c at %s, c is %s", at, h.Own("c"))
	}
	conn, err := net.Dial("tcp", netip.AddrPortFrom(at, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echo(conn, "cooperative"); err != nil {
		t.Fatal(err)
	}
	for _, closed := range []netip.AddrPort{netip.AddrPortFrom(at, 8082), netip.AddrPortFrom(h.Address("c", "a"), 8080), netip.AddrPortFrom(h.Address("a", "b"), 8080)} {
		if c, err := net.Dial("tcp", closed.String()); err == nil {
			c.Close()
			t.Errorf("something listens on %s", closed)
		}
	}
	server, err := net.Listen("tcp", netip.AddrPortFrom(h.Own("c"), 9000).String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	serveEcho(server)
	if own, err := c.DialOwn(t.Context(), 9000); err != nil {
		t.Error(err)
	} else {
		own.Close()
	}
	testCooperativeUDP(t, a, netip.AddrPortFrom(at, 5353))
	p.Doors = nil
	apply(t, h, p)
	if c, err := net.Dial("tcp", netip.AddrPortFrom(at, 8080).String()); err == nil {
		c.Close()
		t.Error("the listener survives its door")
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := captures[0].Accept(); err == nil {
		t.Error("a closed host accepts")
	}
}

func testCooperativeUDP(t *testing.T, s socket.Maker, at netip.AddrPort) {
	l, err := s.CaptureUDP(15020)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "ask")
	l.SetDeadline(time.Now().Add(time.Second))
	if n, _, err := l.ReadFrom(make([]byte, 10)); err != nil || n != 3 {
		t.Error(n, err)
	}
}
