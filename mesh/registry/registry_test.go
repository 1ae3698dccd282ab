package registry

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func text(s string) policy.Text { return policy.Text{Value: s} }

func name(i int) string { return fmt.Sprintf("w%d", i) }

// intent returns one of n workloads in which from may use to where may says so.
func intent(tb testing.TB, n int, may func(from, to int) bool, access ...string) *policy.Intent {
	tb.Helper()
	p := &policy.Policy{Zones: []policy.Zone{{Name: text("z")}}}
	for i := range n {
		p.Workloads = append(p.Workloads, policy.Workload{Name: text(name(i)), Zone: text("z"),
			Serves: []policy.Service{{Name: text("x"), Protocol: text("http"), Lo: 80, Hi: 80}}})
		for j := range n {
			if !may(i, j) {
				continue
			}
			f := policy.Flow{From: []policy.Text{text(name(i))}, To: []policy.Text{text(name(j))}}
			for _, a := range access {
				f.May = append(f.May, text(a))
			}
			p.Flows = append(p.Flows, f)
		}
	}
	in, ds := policy.Resolve(p, now)
	if ds.HasErrors() {
		tb.Fatal(ds)
	}
	return in
}

func everything(_, _ int) bool { return true }
func nothing(_, _ int) bool    { return false }

func question(from, to int) policy.Question {
	return policy.Question{From: policy.Party{Name: name(from)}, To: policy.Party{Name: name(to)}, Protocol: netset.TCP, Port: 80}
}

func TestNothingIsAllowedBeforeAGeneration(t *testing.T) {
	r := New()
	e := r.Open(question(0, 1))
	for _, v := range []Verdict{e.Decide(), r.Decide(question(0, 1))} {
		if v.Allowed || !strings.Contains(v.Why(), "no valid generation") {
			t.Errorf("%+v: %s", v, v.Why())
		}
	}
	if e.Revoked() || e.Reason() != (Reason{}) || r.Force() != nil {
		t.Error("revoked by no generation")
	}
}

func TestEnforceClosesWhatIsDeniedAndNothingElse(t *testing.T) {
	r := New()
	r.Enforce(&Force{Number: 1, Digest: "a", Intent: intent(t, 3, everything)})
	closed := map[string]Reason{}
	open := func(q policy.Question, label string) *Entry {
		e := r.Open(q)
		if v := e.Decide(); !v.Allowed || v.Generation != 1 {
			t.Fatalf("%s: %+v", label, v)
		}
		e.OnRevoke(func(why Reason) {
			if _, twice := closed[label]; twice {
				t.Errorf("%s was closed twice", label)
			}
			closed[label] = why
		})
		return e
	}
	kept := open(question(0, 1), "kept")
	gone := open(question(1, 0), "gone")
	alsoGone := open(question(1, 0), "also gone")
	done := open(question(1, 2), "done")
	done.Done()
	done.Done()
	if r.Len() != 3 || len(r.Questions()) != 3 {
		t.Fatalf("%d open", r.Len())
	}
	second := &Force{Number: 2, Digest: "b", Intent: intent(t, 3, func(from, _ int) bool { return from == 0 })}
	if got := r.Enforce(second); got != (Enforced{Kept: 1, Closed: 2}) {
		t.Errorf("%+v", got)
	}
	if kept.Revoked() || done.Revoked() || !gone.Revoked() || !alsoGone.Revoked() || len(closed) != 2 {
		t.Errorf("closed %v", closed)
	}
	want := Reason{Says: "the nearest is flow w0 → w0/x, which is for w0", Rule: " flow w0 → w0/x", Generation: 2}
	if closed["gone"] != want || gone.Reason() != want {
		t.Errorf("because %+v", closed["gone"])
	}
	// Once more, and a generation that allows it again: what was taken back
	// stays taken back, and is told once.
	if got := r.Enforce(second); got != (Enforced{Kept: 1}) {
		t.Errorf("again: %+v", got)
	}
	if got := r.Enforce(&Force{Number: 3, Intent: intent(t, 3, everything)}); got != (Enforced{Kept: 1}) {
		t.Errorf("allowed again: %+v", got)
	}
	if !gone.Revoked() || gone.Reason() != want {
		t.Error("a later generation gave back what was taken")
	}
}

func TestOnRevokeAfterRevocation(t *testing.T) {
	r := New()
	r.Enforce(&Force{Number: 1, Intent: intent(t, 2, everything)})
	e := r.Open(question(0, 1))
	if !e.Decide().Allowed {
		t.Fatal("denied")
	}
	r.Enforce(&Force{Number: 2, Intent: intent(t, 2, nothing)})
	var told []Reason
	e.OnRevoke(func(why Reason) { told = append(told, why) })
	r.Enforce(&Force{Number: 3, Intent: intent(t, 2, nothing)})
	if len(told) != 1 || told[0].Generation != 2 || told[0].Says != "no permission names w1" {
		t.Errorf("told %+v", told)
	}
}

func TestEnforceRefuses(t *testing.T) {
	r := New()
	all, none := intent(t, 2, everything), intent(t, 2, nothing)
	for name, f := range map[string]*Force{"nothing": nil, "no number": {Intent: all}, "no intent": {Number: 9}} {
		if got := r.Enforce(f); !got.Refused || r.Force() != nil || r.Decide(question(0, 1)).Allowed {
			t.Errorf("%s: %+v", name, got)
		}
	}
	force := &Force{Number: 5, Digest: "a", Intent: none}
	r.Enforce(force)
	e := r.Open(question(0, 1))
	for name, f := range map[string]*Force{
		"older":                         {Number: 4, Digest: "a", Intent: all},
		"another of the same number":    {Number: 5, Digest: "b", Intent: all},
		"one of no digest":              {Number: 5, Intent: all},
		"nothing":                       nil,
		"a newer one without an intent": {Number: 6},
	} {
		if got := r.Enforce(f); got != (Enforced{Kept: 1, Refused: true}) || r.Force() != force || e.Decide().Allowed {
			t.Errorf("%s: %+v, in force %+v", name, got, r.Force())
		}
	}
	again := &Force{Number: 5, Digest: "a", Intent: none, Since: now}
	if got := r.Enforce(again); got.Refused || got.Closed != 1 || r.Force() != again {
		t.Errorf("the same again: %+v", got)
	}
}

// TestRequestsAreDecidedByValue: requests that are equal are decided alike, and
// others are not taken for them.
func TestRequestsAreDecidedByValue(t *testing.T) {
	r := New()
	r.Enforce(&Force{Number: 1, Intent: intent(t, 2, everything)})
	ask := func(method string) *Entry {
		q := question(0, 1)
		q.Request = &netset.Request{Method: method, Host: "h", Path: "/x"}
		return r.Open(q)
	}
	gets, puts := []*Entry{ask("GET"), ask("GET")}, []*Entry{ask("PUT"), ask("PUT")}
	empty := question(0, 1)
	empty.Request = &netset.Request{}
	zero, whole := r.Open(empty), question(0, 1)
	whole.Whole = true
	opens, all := r.Open(question(0, 1)), r.Open(whole)
	got := r.Enforce(&Force{Number: 2, Intent: intent(t, 2, everything, "GET /**")})
	if got != (Enforced{Kept: 3, Closed: 4}) {
		t.Errorf("%+v", got)
	}
	for _, e := range append(gets, opens) {
		if e.Revoked() {
			t.Errorf("revoked: %+v, %+v", e.q, e.Reason())
		}
	}
	for _, e := range append(puts, zero, all) {
		if !e.Revoked() {
			t.Errorf("not revoked: %+v", e.q)
		}
	}
}

// TestClosersDoNotDelayOthers: whatever a closer does, everything that is denied
// is marked before, and the next generation comes into force.
func TestClosersDoNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		r.Enforce(&Force{Number: 1, Intent: intent(t, 3, everything)})
		blocked := make(chan struct{})
		var entries []*Entry
		for range 100 {
			e := r.Open(question(0, 1))
			e.OnRevoke(func(Reason) { <-blocked })
			entries = append(entries, e)
		}
		other := r.Open(question(2, 1))
		go r.Enforce(&Force{Number: 2, Intent: intent(t, 3, func(from, _ int) bool { return from > 0 })})
		synctest.Wait()
		for _, e := range entries {
			if !e.Revoked() {
				t.Fatal("not marked while a closer blocks")
			}
		}
		if got := r.Enforce(&Force{Number: 3, Intent: intent(t, 3, nothing)}); got.Closed != 1 || !other.Revoked() {
			t.Errorf("the next generation: %+v", got)
		}
		close(blocked)
	})
}

// TestClosersMayUseTheRegistry: a closer may end its entry and look at others.
func TestClosersMayUseTheRegistry(t *testing.T) {
	r := New()
	r.Enforce(&Force{Number: 1, Intent: intent(t, 2, everything)})
	for range 10 {
		e := r.Open(question(0, 1))
		e.OnRevoke(func(Reason) {
			r.Len()
			r.Decide(question(1, 0))
			e.Done()
		})
	}
	if got := r.Enforce(&Force{Number: 2, Intent: intent(t, 2, nothing)}); got.Closed != 10 || r.Len() != 0 {
		t.Errorf("%+v, %d left", got, r.Len())
	}
}

// TestNothingDeniedStaysOpen opens, decides and ends from many goroutines while
// generations change. Whoever was told allow and looks at Revoked after a
// generation was enforced that denies it must see it.
func TestNothingDeniedStaysOpen(t *testing.T) {
	const workloads, workers, generations = 6, 8, 80
	r := New()
	var enforced atomic.Pointer[Force] // the last whose Enforce returned
	var stop atomic.Bool
	var told, left atomic.Int64
	var mu sync.Mutex
	var open []*Entry // what workers leave open
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for !stop.Load() {
				q := question(random.IntN(workloads), random.IntN(workloads))
				e := r.Open(q)
				v := e.Decide()
				var closed atomic.Int32
				e.OnRevoke(func(why Reason) {
					if told.Add(1); closed.Add(1) > 1 || why.Says == "" || why.Generation == 0 {
						t.Errorf("closed %d times, %+v", closed.Load(), why)
					}
				})
				f := enforced.Load()
				revoked := e.Revoked()
				if f != nil && v.Allowed && v.Generation <= f.Number && !revoked && !f.Intent.Decide(q).Allowed {
					t.Errorf("%+v: allowed by %d, denied by %d, not revoked", q, v.Generation, f.Number)
				}
				if v.Allowed && random.IntN(20) == 0 {
					left.Add(1)
					mu.Lock()
					open = append(open, e)
					mu.Unlock()
					continue
				}
				e.Done()
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range generations {
		allow := random.Perm(workloads * workloads)[:workloads*workloads*2/3]
		in := intent(t, workloads, func(from, to int) bool { return slices.Contains(allow, from*workloads+to) })
		f := &Force{Number: uint64(n + 1), Digest: fmt.Sprint(n), Intent: in}
		if r.Enforce(f).Refused {
			t.Fatal("refused")
		}
		enforced.Store(f)
		if n%10 == 0 {
			r.Enforce(&Force{Number: uint64(n), Intent: intent(t, workloads, everything)}) // older: refused
		}
	}
	stop.Store(true)
	wg.Wait()
	last := r.Force()
	for _, e := range open {
		if !e.Revoked() && !last.Intent.Decide(e.q).Allowed {
			t.Errorf("%+v is open, and denied by what is in force", e.q)
		}
	}
	if last.Number != generations || told.Load() == 0 || left.Load() == 0 || r.Len() != int(left.Load()) {
		t.Errorf("%d in force, %d told, %d left, %d open: the test tests nothing", last.Number, told.Load(), left.Load(), r.Len())
	}
}

// crowd opens n connections between workloads, each asked by both sides, every
// fourth with a request.
func crowd(r *Registry, n, workloads int) []*Entry {
	out := make([]*Entry, n)
	for i := range out {
		q := question(i%workloads, (i*7+1)%workloads)
		if i%4 == 0 {
			q.Request = &netset.Request{Method: "GET", Host: "h", Path: fmt.Sprintf("/models/%d", i%50)}
		}
		out[i] = r.Open(q)
	}
	return out
}

func BenchmarkEnforce5000(b *testing.B) {
	const workloads = 200
	all := intent(b, workloads, func(from, to int) bool { return (from*7+1)%workloads == to }, "GET /models/**", "GET /x")
	cut := all.Quarantined([]policy.Quarantine{{Target: name(3), At: now}})
	for _, c := range []struct {
		name string
		to   *policy.Intent
	}{{"keep", all}, {"quarantine", cut}, {"deny", intent(b, workloads, nothing)}} {
		b.Run(c.name, func(b *testing.B) {
			closed := 0
			for b.Loop() {
				b.StopTimer()
				r := New()
				r.Enforce(&Force{Number: 1, Intent: all})
				for _, e := range crowd(r, 5000, workloads) {
					e.OnRevoke(func(Reason) {})
				}
				b.StartTimer()
				closed = r.Enforce(&Force{Number: 2, Intent: c.to}).Closed
			}
			b.ReportMetric(float64(closed), "closed")
		})
	}
}

// BenchmarkClose closes real connections, to say what a closer may cost.
func BenchmarkClose(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	const n = 500
	all, none := intent(b, 2, everything), intent(b, 2, nothing)
	for b.Loop() {
		b.StopTimer()
		r := New()
		r.Enforce(&Force{Number: 1, Intent: all})
		var ends []net.Conn
		for range n {
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			server, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			ends = append(ends, client)
			r.Open(question(0, 1)).OnRevoke(func(Reason) {
				_ = server.(*net.TCPConn).SetLinger(0)
				_ = server.Close()
			})
		}
		b.StartTimer()
		r.Enforce(&Force{Number: 2, Intent: none})
		b.StopTimer()
		for _, c := range ends {
			_ = c.Close()
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/closed")
}

func BenchmarkOpenDecideDone(b *testing.B) {
	r := New()
	r.Enforce(&Force{Number: 1, Intent: intent(b, 20, everything)})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := r.Open(question(1, 2))
			if !e.Decide().Allowed {
				b.Fatal("denied")
			}
			e.Done()
		}
	})
}
