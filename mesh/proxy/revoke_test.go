package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
)

func without(text string, lines ...string) string {
	for _, l := range lines {
		text = strings.Replace(text, "  - "+l+"\n", "", 1)
	}
	return text
}

const flowAB = "{from: a, to: b/plain, because: x, owner: y}"

// TestRevokeInTheMiddle: the forbidden transfer ends, and no byte of it arrives
// after the generation was in force; another goes on, byte for byte.
func TestRevokeInTheMiddle(t *testing.T) {
	pf := newPlatform(t, basic)
	var arrived atomic.Int64
	over := make(chan struct{})
	pf.server("b", 9000, func(c *net.TCPConn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := c.Read(buf)
			arrived.Add(int64(n))
			if err != nil {
				close(over)
				return
			}
		}
	})
	forbidden := pf.dial("a", pf.at("b", 9000))
	failed := make(chan error, 1)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := forbidden.Write(buf); err != nil {
				failed <- err
				return
			}
		}
	}()
	for arrived.Load() < 8<<20 {
		time.Sleep(time.Millisecond)
	}
	pf.server("b", 9000, echo)
	allowed := pf.dial("c", pf.at("b", 9000))
	if _, err := ask(allowed, "ready"); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 16<<20)
	rand.Read(data)
	got := make(chan error, 1)
	go func() {
		back := make([]byte, len(data))
		_, err := io.ReadFull(allowed, back)
		if err == nil && !bytes.Equal(back, data) {
			err = errors.New("other bytes came back")
		}
		got <- err
	}()
	if _, err := allowed.Write(data[:4<<20]); err != nil {
		t.Fatal(err)
	}
	if e := pf.enforce(without(basic, flowAB)); e.Closed != 2 || e.Kept != 2 {
		t.Errorf("%+v", e)
	}
	select {
	case <-over:
	case <-time.After(2 * time.Second):
		t.Fatal("the forbidden transfer goes on")
	}
	if err := <-failed; err == nil {
		t.Error("the forbidden client can still write")
	}
	if _, err := allowed.Write(data[4<<20:]); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error("the allowed transfer:", err)
	}
	for _, side := range []flow.Side{flow.Source, flow.Destination} {
		r := pf.sink.wait(t, "close of the revoked", func(r flow.Record) bool { return r.Event == flow.Close && r.Side == side && r.From.Workload == "a" })
		if r.Verdict != "deny" || r.Generation != 2 || !strings.Contains(r.Why, "nearest is flow") || r.Rule == "" || r.BytesOut < arrived.Load() {
			t.Errorf("record %+v", r)
		}
	}
}

// TestRevokeIdle: connections on which nothing moves end as well, on both sides.
func TestRevokeIdle(t *testing.T) {
	pf := newPlatform(t, basic)
	ended := make(chan error, 1)
	pf.server("b", 9000, func(c *net.TCPConn) {
		ask := make([]byte, 1)
		io.ReadFull(c, ask)
		c.Write(ask)
		ended <- wasReset(c)
	})
	c := pf.dial("a", pf.at("b", 9000))
	if _, err := ask(c, "x"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	pf.enforce(without(basic, flowAB))
	if err := wasReset(c); err != nil {
		t.Error("client:", err)
	}
	if err := <-ended; err != nil {
		t.Error("server:", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestRevokeHalfClosed: also where one direction has ended.
func TestRevokeHalfClosed(t *testing.T) {
	pf := newPlatform(t, basic)
	release := make(chan struct{})
	ended := make(chan error, 1)
	pf.server("b", 9000, func(c *net.TCPConn) {
		io.ReadAll(c)
		<-release
		var err error
		for deadline := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			_, err = c.Write([]byte("secret"))
		}
		ended <- err
	})
	c := pf.dial("a", pf.at("b", 9000))
	c.CloseWrite()
	pf.sink.wait(t, "open", func(r flow.Record) bool { return r.Event == flow.Open && r.Side == flow.Source })
	time.Sleep(20 * time.Millisecond)
	pf.enforce(without(basic, flowAB))
	close(release)
	if got, err := io.ReadAll(c); err == nil || len(got) > 0 {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-ended; err == nil {
		t.Error("the server can still write")
	}
}

// TestRevokeWhileOpening: a connection whose server does not answer yet.
func TestRevokeWhileOpening(t *testing.T) {
	pf := newPlatform(t, basic)
	dialling := make(chan struct{})
	pf.sockets["b"].slow = func(ctx context.Context) {
		close(dialling)
		<-ctx.Done()
	}
	c := pf.dial("a", pf.at("b", 9000))
	<-dialling
	start := time.Now()
	pf.enforce(without(basic, flowAB))
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	for _, side := range []flow.Side{flow.Source, flow.Destination} {
		pf.sink.wait(t, "denial", func(r flow.Record) bool { return r.Side == side && r.Event == flow.Deny && r.Generation == 2 })
	}
	if n := pf.reg.Len(); n != 0 {
		t.Errorf("%d are still registered", n)
	}
}

// TestNarrowingRevokes: a connection that nobody reads ends when its permission
// is narrowed to some requests; widening leaves everything open.
func TestNarrowingRevokes(t *testing.T) {
	wide := strings.Replace(basic, "may: [GET /ok], ", "", 1)
	pf := newPlatform(t, wide)
	pf.server("b", 8080, echo)
	c := pf.dial("a", pf.at("b", 8080))
	if _, err := ask(c, "anything"); err != nil {
		t.Fatal(err)
	}
	if e := pf.enforce(wide + "  - {from: zone/one, to: b/api, because: x, owner: y}\n"); e.Closed != 0 || e.Kept != 2 {
		t.Errorf("widening: %+v", e)
	}
	if _, err := ask(c, "still"); err != nil {
		t.Fatal(err)
	}
	if e := pf.enforce(basic); e.Closed != 2 {
		t.Errorf("narrowing: %+v", e)
	}
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
}

// TestInspectedStaysOpenWhenWidened: what is registered as inspected is not closed
// by a generation that allows more, nor by one that allows other requests.
func TestInspectedStaysOpenWhenWidened(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 8080, echo)
	c := pf.dial("a", pf.at("b", 8080))
	io.WriteString(c, "GET /ok HTTP/1.1\r\nHost: b\r\n")
	pf.sink.wait(t, "open", func(r flow.Record) bool { return r.Event == flow.Open && r.Side == flow.Source })
	for _, q := range pf.reg.Questions() {
		if q.Whole {
			t.Errorf("a connection limited to requests is registered as a whole: %+v", q)
		}
	}
	for _, text := range []string{strings.Replace(basic, "may: [GET /ok], ", "", 1), strings.Replace(basic, "GET /ok", "GET /other", 1)} {
		if e := pf.enforce(text); e.Closed != 0 {
			t.Errorf("%+v", e)
		}
	}
	if e := pf.enforce(without(basic, "{from: a, to: b/api, may: [GET /ok], because: x, owner: y}")); e.Closed < 2 {
		t.Errorf("%+v", e)
	}
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
}

// TestZoneMoves: a certificate for a zone that the workload has left is worth
// nothing, for new connections and for those that are open.
func TestZoneMoves(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	c := pf.dial("a", pf.at("b", 9000))
	if _, err := ask(c, "x"); err != nil {
		t.Fatal(err)
	}
	pf.enforce(strings.Replace(basic, "a: {zone: one}", "a: {zone: two}", 1))
	if err := wasReset(c); err != nil {
		t.Error(err)
	}
	if err := pf.refused("a", pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	for _, event := range []flow.Event{flow.Close, flow.Deny} {
		pf.sink.wait(t, "wrong zone", func(r flow.Record) bool {
			return r.Side == flow.Destination && r.Event == event && strings.Contains(r.Why, "generation 2 has a in zone two")
		})
	}
}

// TestGenerationsUnderLoad: connections are opened all the time while two
// generations take turns. Nothing that is denied stays open, and what both allow
// is never touched.
func TestGenerationsUnderLoad(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.server("b", 9000, echo)
	with, less := resolve(t, basic), resolve(t, without(basic, flowAB))
	steady := pf.dial("c", pf.at("b", 9000))
	stop := make(chan struct{})
	var opened atomic.Int64
	var workers sync.WaitGroup
	for range 6 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := pf.sockets["a"].dial(pf.at("b", 9000))
				if err != nil {
					continue
				}
				if got, err := ask(c, "hello"); err == nil && got == "hello" {
					opened.Add(1)
					if opened.Load()%3 > 0 {
						go func() { // stays open until it is revoked, or the test ends
							<-stop
							time.Sleep(100 * time.Millisecond)
							c.Close()
						}()
						continue
					}
				}
				c.Close()
			}
		})
	}
	const rounds, each = 20, 30
	for i := range rounds {
		pf.enforceIntent(less)
		for deadline := time.Now().Add(10 * time.Millisecond); time.Now().Before(deadline); {
			if _, err := ask(steady, fmt.Sprint("steady", i)); err != nil {
				t.Fatalf("generation %d touched what it allows: %v", pf.number, err)
			}
		}
		pf.enforceIntent(with)
		for deadline := time.Now().Add(10 * time.Second); opened.Load() < int64(each*(i+1)) && time.Now().Before(deadline); {
			if _, err := ask(steady, fmt.Sprint("steady", i)); err != nil {
				t.Fatalf("generation %d touched what it allows: %v", pf.number, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	pf.enforceIntent(less)
	for _, q := range pf.reg.Questions() {
		if v := pf.reg.Decide(q); !v.Allowed && q.From.Name == "a" {
			// What is revoked is deregistered by its owner, soon.
			waitGone(t, pf.reg, q)
		}
	}
	close(stop)
	workers.Wait()
	if opened.Load() < rounds*each {
		t.Errorf("only %d were opened", opened.Load())
	}
	t.Logf("%d opened, %d generations", opened.Load(), pf.number)
}

func waitGone(t *testing.T, r *registry.Registry, q policy.Question) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		n := 0
		for _, open := range r.Questions() {
			if open == q && !r.Decide(open).Allowed {
				n++
			}
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %+v are still open", n, q)
		}
	}
}

// BenchmarkRevoke closes 5,000 open connections, or as many as this process may
// have, and 500 others stay. It reports when the policy was in force and when the
// last client knew.
func BenchmarkRevoke(b *testing.B) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		b.Fatal(err)
	}
	revoked := int(min(5000, (files.Cur-6000)/10)) // both ends, clients and servers are in this process
	pf := newPlatform(b, basic)
	pf.server("b", 9000, echo)
	with, less := resolve(b, basic), resolve(b, without(basic, flowAB))
	open := func(who string, n int) []net.Conn {
		out := make([]net.Conn, n)
		var workers sync.WaitGroup
		for w := range 8 {
			workers.Go(func() {
				for i := w; i < n; i += 8 {
					c, err := pf.sockets[who].dial(pf.at("b", 9000))
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := ask(c, "x"); err != nil {
						b.Error(err)
						return
					}
					out[i] = c
				}
			})
		}
		workers.Wait()
		return out
	}
	kept := open("c", 500)
	var marked, closed time.Duration
	for b.Loop() {
		b.StopTimer()
		pf.enforceIntent(with)
		forbidden := open("a", revoked)
		b.StartTimer()
		start := time.Now()
		if e := pf.enforceIntent(less); e.Closed != 2*revoked {
			b.Fatalf("%+v", e)
		}
		marked += time.Since(start)
		for _, c := range forbidden {
			if err := wasReset(c); err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
		closed += time.Since(start)
	}
	for _, c := range kept {
		if _, err := ask(c, "y"); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	b.ReportMetric(float64(revoked), "connections")
	b.ReportMetric(float64(marked.Milliseconds())/float64(b.N), "ms/enforce")
	b.ReportMetric(float64(closed.Milliseconds())/float64(b.N), "ms/all-closed")
}
