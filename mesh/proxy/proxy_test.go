package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

const basic = `
version: 1
platform: acme
zones: {one: {role: custom}, two: {role: custom}}
workloads:
  a: {zone: one}
  b: {zone: two, serves: {plain: tcp/9000, api: http/8080, other: tcp/9001, wide: tcp/15000-15100, names: udp/53}}
  c: {zone: two, serves: {plain: tcp/9000}}
flows:
  - {from: a, to: b/plain, because: x, owner: y}
  - {from: a, to: b/names, because: x, owner: y}
  - {from: a, to: b/wide, because: x, owner: y}
  - {from: c, to: b/plain, because: x, owner: y}
  - {from: a, to: b/api, may: [GET /ok], because: x, owner: y}
`

func TestAllowed(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	c := pf.dial("a", pf.at("b", 9000))
	if got, err := ask(c, "hello"); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	src := pf.sink.wait(t, "close at the source", func(r flow.Record) bool { return r.Event == flow.Close && r.Side == flow.Source })
	dst := pf.sink.wait(t, "close at the destination", func(r flow.Record) bool { return r.Event == flow.Close && r.Side == flow.Destination })
	if src.ID != dst.ID || len(src.ID) != 32 {
		t.Errorf("ids %q and %q", src.ID, dst.ID)
	}
	for _, r := range []flow.Record{src, dst} {
		if r.BytesOut != 5 || r.BytesIn != 5 || r.Verdict != "allow" || r.Wire != "mtls" || r.Generation != 1 ||
			r.From.Workload != "a" || r.From.Zone != "one" || r.To.Workload != "b" || r.To.Service != "plain" ||
			!strings.Contains(r.Rule, "flow a → b/plain") || !strings.Contains(r.Rule, "p.yaml:") || r.Why != "" || r.Duration <= 0 {
			t.Errorf("record %+v", r)
		}
	}
	if src.To.ID != "spiffe://acme.test/zone/two/workload/b" || dst.From.ID != "spiffe://acme.test/zone/one/workload/a" {
		t.Errorf("identities %q, %q", src.To.ID, dst.From.ID)
	}
	pf.sink.wait(t, "open at the source", func(r flow.Record) bool { return r.Event == flow.Open && r.Side == flow.Source && r.ID == src.ID })
	if n := pf.reg.Len(); n != 0 {
		t.Errorf("%d are still registered", n)
	}
}

func TestDenied(t *testing.T) {
	pf := newPlatform(t, basic)
	reached := make(chan string, 16)
	for _, port := range []uint16{9000, 9001, 15001, 15008} {
		pf.server("b", port, func(*net.TCPConn) { reached <- "b" })
	}
	pf.server("a", 9000, func(*net.TCPConn) { reached <- "a" })
	pf.server("c", 9000, func(*net.TCPConn) { reached <- "c" })
	for _, tc := range []struct{ name, from, to, why, rule string }{
		{"no permission for the port", "a", pf.at("b", 9001), "which allows only", "flow a → b/"},
		{"no permission for the source", "b", pf.at("c", 9000), "no permission names c", ""},
		{"outside", "a", "93.184.216.34:443", "outside: 93.184.216.34 is no workload's address, and this node has no egress gateway", ""},
		{"metadata service", "a", "169.254.169.254:80", "outside", ""},
		{"IPv6 outside", "a", "[2001:db8::1]:80", "outside", ""},
		{"mapped address of another", "b", "[::ffff:" + pf.sockets["c"].address.String() + "]:9000", "no permission names c", ""},
		{"itself", "a", pf.at("a", 9000), "the workload itself", ""},
		{"the capture port, which a range covers", "a", pf.at("b", 15001), "the mesh's own", ""},
		{"the tunnel port, which a range covers", "a", pf.at("b", 15008), "the mesh's own", ""},
		{"no destination", "a", "", "destination is unknown", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := pf.refused(tc.from, tc.to); err != nil {
				t.Error(err)
			}
			r := pf.sink.wait(t, tc.why, func(r flow.Record) bool { return strings.Contains(r.Why, tc.why) && r.From.Workload == tc.from })
			if r.Event != flow.Deny || r.Verdict != "deny" || r.Side != flow.Source || r.Generation != 1 || !strings.Contains(r.Rule, tc.rule) || r.ID == "" && tc.to != "" {
				t.Errorf("record %+v", r)
			}
		})
	}
	select {
	case who := <-reached:
		t.Errorf("a server of %s was reached", who)
	default:
	}
}

func TestNothingBeforeTheFirstGeneration(t *testing.T) {
	pf := newPlatform(t, basic)
	p := New(Options{Node: "n2", Registry: pf.reg, Source: pf.ca, Sink: pf.sink})
	s := &fakeSockets{f: pf.f, address: meshAddr(90)}
	if err := p.Add(t.Context(), Workload{Name: "a", Zone: "one", Sockets: s}); err != nil {
		t.Fatal(err)
	}
	defer p.Remove("a")
	if err := refused(s, pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	pf.sink.wait(t, "no generation", func(r flow.Record) bool { return r.Node == "n2" && strings.Contains(r.Why, "no valid generation") })
}

func TestServerIsDown(t *testing.T) {
	pf := newPlatform(t, basic)
	c := pf.dial("a", pf.at("b", 9000))
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
	for _, side := range []flow.Side{flow.Source, flow.Destination} {
		r := pf.sink.wait(t, "fail", func(r flow.Record) bool { return r.Side == side && r.Event == flow.Fail })
		if r.Verdict != "allow" || !strings.Contains(r.Why, "b does not answer at port 9000") {
			t.Errorf("record %+v", r)
		}
	}
	if r := pf.sink.list(); len(r) != 2 {
		t.Errorf("records %+v", r)
	}
}

func TestWorkloadThatRunsNowhere(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.world.Places[pf.sockets["b"].address] = Place{Workload: "b", Zone: "two"}
	pf.p.SetWorld(pf.world)
	if err := pf.refused("a", pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	pf.sink.wait(t, "fail", func(r flow.Record) bool { return r.Event == flow.Fail && strings.Contains(r.Why, "runs on no node") })
}

// TestHalfClose: the client ends its half, and then reads a long answer.
func TestHalfClose(t *testing.T) {
	pf := newPlatform(t, basic)
	answer := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	pf.server("b", 9000, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		if string(got) == "question" {
			time.Sleep(50 * time.Millisecond)
			c.Write(answer)
		}
		c.CloseWrite()
	})
	c := pf.dial("a", pf.at("b", 9000))
	io.WriteString(c, "question")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestServerClosesFirst: the client still sends after the server's end.
func TestServerClosesFirst(t *testing.T) {
	pf := newPlatform(t, basic)
	rest := make(chan string, 1)
	pf.server("b", 9000, func(c *net.TCPConn) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		rest <- string(got)
	})
	c := pf.dial("a", pf.at("b", 9000))
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Fatalf("%q, %v", got, err)
	}
	io.WriteString(c, "late words")
	c.CloseWrite()
	if got := <-rest; got != "late words" {
		t.Errorf("%q", got)
	}
}

func TestServerResets(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		c.SetLinger(0)
	})
	c := pf.dial("a", pf.at("b", 9000))
	io.WriteString(c, "x")
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
}

// TestLargeTransfer: every byte arrives, both ways at once.
func TestLargeTransfer(t *testing.T) {
	pf := newPlatform(t, basic)
	const size = 32 << 20
	data := make([]byte, size)
	rand.Read(data)
	pf.server("b", 9000, echo)
	c := pf.dial("a", pf.at("b", 9000))
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
	h := sha256.New()
	n, err := io.Copy(h, c)
	if want := sha256.Sum256(data); err != nil || n != size || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	pf.sink.wait(t, "bytes", func(r flow.Record) bool { return r.Event == flow.Close && r.BytesOut == size && r.BytesIn == size })
}

func TestProbesAreMarked(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	for range 3 { // the same denial again and again, which others would be folded
		c, _, err := pf.sockets["a"].dialFrom(pf.at("b", 9001), func(own netip.AddrPort) { pf.p.ExpectProbe("a", own, "probe-7") })
		if err == nil {
			wasReset(c)
			c.Close()
		}
	}
	c, _, err := pf.sockets["a"].dialFrom(pf.at("b", 9000), func(own netip.AddrPort) {
		pf.p.ExpectProbe("c", own, "of another workload")
		pf.p.ExpectProbe("a", own, "probe-8")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := ask(c, "x"); err != nil {
		t.Fatal(err)
	}
	for _, side := range []flow.Side{flow.Source, flow.Destination} {
		pf.sink.wait(t, "a marked connection", func(r flow.Record) bool { return r.Event == flow.Open && r.Side == side && r.Probe == "probe-8" })
	}
	n := 0
	for _, r := range pf.sink.list() {
		if r.Probe == "probe-7" && r.Event == flow.Deny && r.Count == 0 {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d records of 3 probes", n)
	}
	if _, err := ask(pf.dial("a", pf.at("b", 9000)), "x"); err != nil {
		t.Fatal(err)
	}
	if r := pf.sink.list(); r[len(r)-1].Probe != "" {
		t.Error("a connection that is no probe is marked")
	}
}

// TestRefusalsAreFolded: a hundred alike are two records, and the count is right.
func TestRefusalsAreFolded(t *testing.T) {
	pf := newPlatform(t, basic)
	for range 100 {
		pf.refused("a", pf.at("b", 9001))
	}
	pf.refused("a", pf.at("c", 9000))
	sum := func() (n uint64) {
		for _, r := range pf.sink.list() {
			if r.Event == flow.Deny && r.To.Workload == "b" {
				n += max(r.Count, 1)
			}
		}
		return n
	}
	for deadline := time.Now().Add(5 * time.Second); sum() < 100 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if n, records := sum(), len(pf.sink.list()); n != 100 || records > 7 {
		t.Errorf("%d refusals in %d records", n, records)
	}
}

func TestTooManyConnections(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	pf.p.member("a").opened.restrict(2)
	held := []net.Conn{pf.dial("a", pf.at("b", 9000)), pf.dial("a", pf.at("b", 9000))}
	for _, c := range held {
		if _, err := ask(c, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := pf.refused("a", pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	pf.sink.wait(t, "too many", func(r flow.Record) bool { return r.Event == flow.Fail && strings.Contains(r.Why, "more are refused") })
	held[0].Close()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := pf.sockets["a"].dial(pf.at("b", 9000)); err == nil {
			got, _ := ask(c, "x")
			c.Close()
			if got == "x" {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no place became free")
		}
	}
}

// TestOneSourceCannotShutOutOthers: what a source has open at a destination is
// counted for itself.
func TestOneSourceCannotShutOutOthers(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	pf.p.member("b").arrived.restrict(1)
	if _, err := ask(pf.dial("a", pf.at("b", 9000)), "x"); err != nil {
		t.Fatal(err)
	}
	if err := pf.refused("a", pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	pf.sink.wait(t, "too many", func(r flow.Record) bool {
		return r.Event == flow.Fail && r.Side == flow.Source && strings.Contains(r.Why, "a has 1 connections to b open")
	})
	if _, err := ask(pf.dial("c", pf.at("b", 9000)), "x"); err != nil {
		t.Error(err)
	}
}

func (s *slots) restrict(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
}

// TestRemove: everything of a workload ends, and nothing is left running.
func TestRemove(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		pf := newPlatform(t, basic)
		pf.server("b", 9000, echo)
		var open []net.Conn
		for range 20 {
			c := pf.dial("a", pf.at("b", 9000))
			if _, err := ask(c, "x"); err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		for _, name := range []string{"a", "a", "b", "c"} {
			pf.p.Remove(name)
		}
		for _, c := range open {
			if err := wasReset(c); err != nil {
				t.Error(err)
			}
		}
		if n := pf.reg.Len(); n != 0 {
			t.Errorf("%d are still registered", n)
		}
		if _, err := pf.sockets["a"].dial(pf.at("b", 9000)); err == nil {
			t.Error("a removed workload's capture still accepts")
		}
		if err := pf.p.Add(pf.ctx, Workload{Name: "a", Zone: "one", Sockets: pf.sockets["a"]}); err != nil {
			t.Errorf("it cannot be added again: %v", err)
		}
		pf.p.Remove("a")
	}
	settled(t, before+8)
}

// TestContextEndsWorkload: the end of the context is a Remove.
func TestContextEndsWorkload(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	pf.p.Remove("a")
	ctx, cancel := context.WithCancel(pf.ctx)
	add := Workload{Name: "a", Zone: "one", Sockets: pf.sockets["a"]}
	if err := pf.p.Add(ctx, add); err != nil {
		t.Fatal(err)
	}
	if err := pf.p.Add(ctx, Workload{Name: "a", Zone: "one", Sockets: &fakeSockets{f: pf.f, address: meshAddr(99)}}); err == nil {
		t.Error("a workload was added twice")
	}
	c := pf.dial("a", pf.at("b", 9000))
	if _, err := ask(c, "x"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(5 * time.Second); pf.p.member("a") != nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if pf.p.member("a") != nil {
		t.Error("the workload is still there")
	}
}

// settled waits until there are no more goroutines than limit.
func settled(t *testing.T, limit int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > limit; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, at most %d were expected\n%s", runtime.NumGoroutine(), limit, buf[:runtime.Stack(buf, true)])
		}
	}
}

// BenchmarkOpen is a connection, one question and its end.
func BenchmarkOpen(b *testing.B) {
	pf := newPlatform(b, basic)
	pf.server("b", 9000, echo)
	to := pf.at("b", 9000)
	b.ReportAllocs()
	for b.Loop() {
		c, err := pf.sockets["a"].dial(to)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := ask(c, "x"); err != nil {
			b.Fatal(err)
		}
		c.CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	}
}
