package budget_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/policy"
	"bulkhead/mesh/budget"
)

var key = budget.Key{From: "trainer", To: "hub"}

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Unix(1_800_000_000, 0)} }

func open(t interface{ Fatal(...any) }, path string, c *clock) *budget.Ledger {
	l, err := budget.Open(budget.Options{Path: path, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestNoWindowHoldsMore: whatever is asked for when, in no time of the limit's
// length more passes than the limit, restarts and clocks that jump included; and
// nothing is refused that a window rounded outward has room for.
func TestNoWindowHoldsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		const most = 1000
		per := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "per")
		limits := policy.Limits{Bytes: policy.Amount{Most: most, Per: per}}
		dir, err := os.MkdirTemp("", "budget")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l := open(t, filepath.Join(dir, "state"), c)
		type event struct {
			at time.Time
			n  int64
		}
		var passed []event
		latest := c.at              // the ledger's time
		began, origin := c.at, c.at // the clock's and the ledger's when it was opened
		sum := func(since time.Time) (n int64) {
			for _, e := range passed {
				if e.at.After(since) {
					n += e.n
				}
			}
			return n
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // a restart
				if err := l.Save(); err != nil {
					t.Fatal(err)
				}
				l = open(t, filepath.Join(dir, "state"), c)
				began, origin = c.at, latest
			case 1: // a clock that is set back
				c.at = c.at.Add(-time.Duration(rapid.Int64Range(0, int64(2*per)).Draw(t, "back")))
				continue
			default:
				c.at = c.at.Add(time.Duration(rapid.Int64Range(0, int64(per)/2).Draw(t, "forth")))
			}
			if now := origin.Add(c.at.Sub(began)); now.After(latest) {
				latest = now
			}
			u, err := l.Begin(key, limits)
			if err != nil {
				if sum(latest.Add(-per-per/60)) < most {
					t.Fatalf("refused, and there was room: %v", err)
				}
				continue
			}
			got := u.Grant(rapid.Int64Range(0, 700).Draw(t, "want"))
			if back := rapid.Int64Range(0, got).Draw(t, "back"); rapid.Bool().Draw(t, "return") {
				u.Return(back)
				got -= back
			}
			u.End()
			passed = append(passed, event{latest, got})
			for i := range passed {
				if n := sum(passed[i].at.Add(-per)) - sum(passed[i].at); n > most {
					t.Fatalf("%d of %d within %s", n, most, per)
				}
			}
		}
	})
}

func TestSlowExfiltrationOverADay(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "state")
	l := open(t, path, c)
	limits := policy.Limits{Bytes: policy.Amount{Most: 1 << 30, Per: 24 * time.Hour}}
	total := int64(0)
	for range 24 * 60 { // a MiB a minute would be 1.4 GiB
		c.at = c.at.Add(time.Minute)
		if u, err := l.Begin(key, limits); err == nil {
			total += u.Grant(1 << 20)
			u.End()
		}
		if c.at.Minute() == 30 {
			if err := l.Save(); err != nil {
				t.Fatal(err)
			}
			l = open(t, path, c)
		}
	}
	if total != 1<<30 {
		t.Errorf("%d bytes left in a day, want %d", total, 1<<30)
	}
}

func TestRequestsAndConcurrency(t *testing.T) {
	c := newClock()
	l := open(t, "", c)
	limits := policy.Limits{Requests: policy.Amount{Most: 3, Per: time.Hour}, Concurrent: 2}
	a, err := l.Begin(key, limits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Begin(key, limits); err != nil {
		t.Fatal(err)
	}
	_, err = l.Begin(key, limits)
	var over *budget.OverError
	if !errors.As(err, &over) || over.Limit != "concurrent" || over.Most != 2 {
		t.Fatalf("the third at once: %v", err)
	}
	a.End()
	a.End() // twice is once
	b, err := l.Begin(key, limits)
	if err != nil {
		t.Fatal(err)
	}
	b.End()
	_, err = l.Begin(key, limits)
	if !errors.As(err, &over) || over.Limit != "requests" || !over.Again.After(c.at) || over.Again.After(c.at.Add(62*time.Minute)) {
		t.Fatalf("the fourth: %v", err)
	}
	c.at = over.Again
	if u, err := l.Begin(key, limits); err != nil {
		t.Errorf("at the time that was named there is no room: %v", err)
	} else {
		u.End()
	}
	if _, err := l.Begin(budget.Key{From: "other", To: "hub"}, limits); err != nil {
		t.Errorf("another source is held back: %v", err)
	}
}

func TestNewLimitsHoldForWhatIsOpen(t *testing.T) {
	c := newClock()
	l := open(t, "", c)
	u, err := l.Begin(key, policy.Limits{Bytes: policy.Amount{Most: 1000, Per: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	if n := u.Grant(600); n != 600 {
		t.Fatal(n)
	}
	if _, err := l.Begin(key, policy.Limits{Bytes: policy.Amount{Most: 100, Per: 24 * time.Hour}}); err == nil {
		t.Error("600 are used of 100, and there is room")
	}
	if n := u.Grant(1); n != 0 {
		t.Errorf("%d were granted", n)
	}
}

func TestWhatCannotBeReadIsNoFreshBudget(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "cut": `{"version":1,"used":[{"fr`, "newer": `{"version":2}`,
		"parts": `{"version":1,"used":[{"from":"a","to":"b","bytes":{"per_ns":0,"last":9,"parts":[1]}}]}`} {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := budget.Open(budget.Options{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMany: all goroutines together get what there is, and not a byte more.
func TestMany(t *testing.T) {
	c := newClock()
	l := open(t, "", c)
	limits := policy.Limits{Bytes: policy.Amount{Most: 10_000, Per: time.Hour}}
	var got atomic.Int64
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			for range 200 {
				u, err := l.Begin(key, limits)
				if err != nil {
					return
				}
				got.Add(u.Grant(rand.Int64N(50)))
				u.End()
			}
		})
	}
	g.Wait()
	if n := got.Load(); n != 10_000 {
		t.Errorf("%d of 10000", n)
	}
	for _, u := range l.Usage() {
		if u.Concurrent != 0 || u.Bytes != 10_000 {
			t.Errorf("%+v", u)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"used":[{"from":"a","to":"b","bytes":{"per_ns":3600000000000,"last":500000,"parts":[1,2,3]},"requests":{"per_ns":0,"last":0}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c := newClock()
		l, err := budget.Open(budget.Options{Path: path, Now: c.now})
		if err != nil {
			return
		}
		u, err := l.Begin(key, policy.Limits{Bytes: policy.Amount{Most: 10, Per: time.Hour}})
		if err == nil {
			if n := u.Grant(20); n > 10 {
				t.Errorf("%d of 10", n)
			}
		}
		l.Usage()
	})
}

func BenchmarkGrant(b *testing.B) {
	l := open(b, "", newClock())
	u, err := l.Begin(key, policy.Limits{Bytes: policy.Amount{Most: 1 << 62, Per: time.Hour}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		u.Grant(256)
	}
}
