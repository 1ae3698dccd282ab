package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

// packetServer echoes datagrams with a mark.
func (pf *platform) packetServer(workload string, port uint16) {
	pf.t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		pf.t.Fatal(err)
	}
	pf.t.Cleanup(func() { c.Close() })
	s := pf.sockets[workload]
	s.mu.Lock()
	s.packets[port] = c.LocalAddr().String()
	s.mu.Unlock()
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(append([]byte("re:"), buf[:n]...), from)
		}
	}()
}

// dialPackets is a client's socket, whose datagrams the filter would redirect.
func (pf *platform) dialPackets(workload string, local uint16) *net.UDPConn {
	pf.t.Helper()
	s := pf.sockets[workload]
	s.mu.Lock()
	capture := s.udp[local]
	s.mu.Unlock()
	if capture == nil {
		pf.t.Fatalf("%s has no capture %d", workload, local)
	}
	c, err := net.DialUDP("udp", nil, capture.LocalAddr().(*net.UDPAddr))
	if err != nil {
		pf.t.Fatal(err)
	}
	pf.t.Cleanup(func() { c.Close() })
	return c
}

// converse sends a datagram until the answer to it comes, or returns an error.
func converse(c *net.UDPConn, text string, patience time.Duration) error {
	buf := make([]byte, 65535)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		if got := string(buf[:n]); got != "re:"+text {
			return fmt.Errorf("%.20q came back for %.20q", got, text)
		}
		return nil
	}
	return os.ErrDeadlineExceeded
}

func TestDatagrams(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.packetServer("b", 53)
	one, two := pf.dialPackets("a", 15020), pf.dialPackets("a", 15020)
	for _, text := range []string{"first", "", strings.Repeat("x", 9000)} {
		for _, c := range []*net.UDPConn{one, two} {
			if err := converse(c, text, 5*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	opens := 0
	for _, r := range pf.sink.list() {
		if r.Event == flow.Open && r.Transport == "udp" && r.Wire == "mtls" && r.From.Workload == "a" && r.To.Service == "names" {
			opens++
		}
	}
	if opens != 4 {
		t.Errorf("%d opens of two associations on two sides", opens)
	}
	// c may not: nothing arrives, and the refusals are one record and a count.
	denied := pf.dialPackets("c", 15020)
	if err := converse(denied, "let me", 300*time.Millisecond); err == nil {
		t.Fatal("an undeclared datagram was answered")
	}
	r := pf.sink.wait(t, "denial", func(r flow.Record) bool { return r.Event == flow.Deny && r.Transport == "udp" })
	if r.From.Workload != "c" || r.To.Workload != "b" || r.To.Service != "names" || r.Rule == "" {
		t.Errorf("record %+v", r)
	}
	// Revoked: the socket is gone with the capture or silent, nothing comes back.
	if e := pf.enforce(without(basic, "{from: a, to: b/names, because: x, owner: y}")); e.Closed != 4 {
		t.Errorf("%+v", e)
	}
	if err := converse(one, "again", 300*time.Millisecond); err == nil {
		t.Error("a revoked association was answered")
	}
	pf.sink.wait(t, "close of the revoked", func(r flow.Record) bool {
		return r.Event == flow.Close && r.Transport == "udp" && r.Verdict == "deny" && r.Generation == 2 && r.BytesOut > 9000
	})
	// And allowed again.
	pf.enforce(basic)
	if err := converse(one, "back", 5*time.Second); err != nil {
		t.Error(err)
	}
}

func TestDatagramsIdle(t *testing.T) {
	pf := newPlatform(t, basic, func(p *Proxy) { p.idle = 150 * time.Millisecond })
	pf.packetServer("b", 53)
	c := pf.dialPackets("a", 15020)
	if err := converse(c, "x", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, side := range []flow.Side{flow.Source, flow.Destination} {
		r := pf.sink.wait(t, "idle end", func(r flow.Record) bool { return r.Event == flow.Close && r.Side == side })
		if r.Why != "" || r.Verdict != "allow" || r.BytesOut != 1 || r.BytesIn != 4 {
			t.Errorf("record %+v", r)
		}
	}
	if n := pf.reg.Len(); n != 0 {
		t.Errorf("%d are still registered", n)
	}
	if err := converse(c, "and on", 5*time.Second); err != nil {
		t.Error(err)
	}
}

// TestDatagramCaptureGoes: a generation without a capture closes its socket.
func TestDatagramCaptureGoes(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.packetServer("b", 53)
	c := pf.dialPackets("a", 15020)
	if err := converse(c, "x", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	w := *pf.world
	w.UDP = nil
	pf.p.SetWorld(&w)
	pf.sink.wait(t, "end", func(r flow.Record) bool { return r.Event == flow.Close && r.Side == flow.Source })
	if err := converse(c, "x", 300*time.Millisecond); err == nil {
		t.Error("the capture still answers")
	}
}

func TestTooManyAssociations(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.packetServer("b", 53)
	pf.p.member("a").associations.restrict(2)
	for range 6 { // each needs a place; the quietest gives way
		if err := converse(pf.dialPackets("a", 15020), "x", 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	pf.sink.wait(t, "too many", func(r flow.Record) bool { return r.Event == flow.Fail && strings.Contains(r.Why, "2 associations") })
}
