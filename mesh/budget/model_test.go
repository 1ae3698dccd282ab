package budget

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/policy"
)

var trainer = Key{"trainer", "model-hub"}

// hand is a clock that is set by hand.
type hand struct{ at time.Time }

func (h *hand) now() time.Time { return h.at }

func newHand() *hand { return &hand{time.Date(2026, 11, 29, 23, 59, 59, 0, time.UTC)} }

func open(t interface {
	Helper()
	Fatal(...any)
}, path string, h *hand) *Ledger {
	t.Helper()
	l, err := Open(Options{Path: path, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func begin(t interface {
	Helper()
	Fatal(...any)
}, l *Ledger, limits policy.Limits) *Use {
	t.Helper()
	u, err := l.Begin(trainer, limits)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func bytesPer(most uint64, per time.Duration) policy.Limits {
	return policy.Limits{Bytes: policy.Amount{Most: most, Per: per}}
}

// model is what a ledger must do, written as a list of what happened.
type model struct {
	limits  policy.Limits
	settled []event // grants, at the last moment at which they can have passed
	passed  []event // bytes, when they passed
	begun   []event
}

type event struct {
	at time.Time
	n  uint64
}

func used(list []event, now time.Time, per time.Duration) (n uint64) {
	step := (int64(per)-1)/60 + 1
	from := (now.UnixNano()/step - 60) * step
	for _, e := range list {
		if e.at.UnixNano() >= from {
			n += e.n
		}
	}
	return n
}

// worst returns the most that there was in any time of a length.
func worst(list []event, per time.Duration) (most uint64) {
	for i := range list {
		sum := uint64(0)
		for _, e := range list[i:] {
			if !e.at.After(list[i].at.Add(per)) {
				sum += e.n
			}
		}
		most = max(most, sum)
	}
	return most
}

// open use of the model.
type modelUse struct {
	u       *Use
	granted uint64 // and neither passed nor returned
	counts  uint64 // what the ledger counts of it
}

// TestWindowSlides: whatever is asked for when, no time of the length of a limit
// sees more than the limit, and nothing is refused for which there is room. Bytes
// pass at any time after they were granted; the ledger is closed and opened.
func TestWindowSlides(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "budgets.json")
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		h := newHand()
		per := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 61, 1, time.Second + 7}).Draw(t, "per")
		m := model{limits: policy.Limits{
			Bytes:      policy.Amount{Most: rapid.Uint64Range(1, 1000).Draw(t, "bytes"), Per: per},
			Requests:   policy.Amount{Most: rapid.Uint64Range(1, 20).Draw(t, "requests"), Per: per},
			Concurrent: rapid.IntRange(1, 6).Draw(t, "concurrent"),
		}}
		l := open(t, path, h)
		var uses []*modelUse
		pick := func() *modelUse {
			if len(uses) == 0 {
				t.Skip("nothing is open")
			}
			return uses[rapid.IntRange(0, len(uses)-1).Draw(t, "use")]
		}
		settle := func(u *modelUse) {
			m.settled = append(m.settled, event{h.at, u.counts})
			u.counts = 0
		}
		pass := func(u *modelUse, n uint64) {
			m.passed = append(m.passed, event{h.at, n})
			u.granted -= n
		}
		granted := func() (n uint64) {
			for _, u := range uses {
				n += u.counts
			}
			return n
		}
		step := time.Duration((int64(per)-1)/60 + 1)
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				switch rapid.IntRange(0, 3).Draw(t, "how") {
				case 0:
					h.at = h.at.Add(time.Duration(rapid.Int64Range(0, 3*int64(per)).Draw(t, "by")))
				case 1: // to the border of a part, and around it
					h.at = time.Unix(0, (h.at.UnixNano()/int64(step)+rapid.Int64Range(1, 70).Draw(t, "parts"))*int64(step)+rapid.Int64Range(0, 1).Draw(t, "past"))
				case 2:
					h.at = h.at.Add(per)
				case 3:
					h.at = h.at.Add(step)
				}
			},
			"begin": func(t *rapid.T) {
				u, err := l.Begin(trainer, m.limits)
				want := ""
				switch {
				case len(uses) >= m.limits.Concurrent:
					want = "concurrent"
				case used(m.settled, h.at, per)+granted() >= m.limits.Bytes.Most:
					want = "bytes"
				case used(m.begun, h.at, per) >= m.limits.Requests.Most:
					want = "requests"
				}
				if want == "" {
					if err != nil {
						t.Fatalf("refused: %v", err)
					}
					m.begun = append(m.begun, event{h.at, 1})
					uses = append(uses, &modelUse{u: u})
					return
				}
				var over *OverError
				if !errors.As(err, &over) || over.Limit != want {
					t.Fatalf("got %v, want the limit %s", err, want)
				}
				m.checkAgain(t, over, h.at, granted())
			},
			"grant": func(t *rapid.T) {
				u := pick()
				pass(u, u.granted) // as who asks for more says
				settle(u)
				n := rapid.Int64Range(1, 300).Draw(t, "want")
				room := m.limits.Bytes.Most - min(m.limits.Bytes.Most, used(m.settled, h.at, per)+granted())
				if got, want := uint64(u.u.Grant(n)), min(uint64(n), room); got != want {
					t.Fatalf("granted %d, want %d", got, want)
				} else {
					u.granted, u.counts = got, got
				}
			},
			"pass": func(t *rapid.T) {
				u := pick()
				pass(u, rapid.Uint64Range(0, u.granted).Draw(t, "n"))
			},
			"return": func(t *rapid.T) {
				u := pick()
				n := rapid.Uint64Range(0, u.granted).Draw(t, "n")
				u.u.Return(int64(n))
				u.granted -= n
				u.counts -= n
			},
			"end": func(t *rapid.T) {
				u := pick()
				pass(u, rapid.Uint64Range(0, u.granted).Draw(t, "n"))
				u.u.End()
				settle(u)
				uses = slices.DeleteFunc(uses, func(o *modelUse) bool { return o == u })
			},
			"restart": func(t *rapid.T) {
				if err := l.Save(); err != nil {
					t.Fatal(err)
				}
				for _, u := range uses { // a crash: what was granted passed by now
					pass(u, u.granted)
					settle(u)
				}
				uses = nil
				l = open(t, path, h)
			},
			"usage": func(t *rapid.T) {
				for _, u := range l.Usage() {
					want := used(m.settled, h.at, per) + granted()
					if u.Bytes != want || u.Requests != used(m.begun, h.at, per) || u.Concurrent != len(uses) {
						t.Fatalf("usage is %+v, want %d bytes, %d requests, %d open", u, want, used(m.begun, h.at, per), len(uses))
					}
				}
			},
		})
		if n := worst(m.passed, per); n > m.limits.Bytes.Most {
			t.Fatalf("%d bytes passed in %s, and %d may", n, per, m.limits.Bytes.Most)
		}
		if n := worst(m.begun, per); n > m.limits.Requests.Most {
			t.Fatalf("%d requests began in %s, and %d may", n, per, m.limits.Requests.Most)
		}
	})
}

// checkAgain holds an error to the time it names: the first at which there is room.
func (m *model) checkAgain(t *rapid.T, over *OverError, now time.Time, granted uint64) {
	list, amount, per := m.settled, m.limits.Bytes, m.limits.Bytes.Per
	switch over.Limit {
	case "concurrent":
		if !over.Again.IsZero() {
			t.Fatalf("concurrent uses have room at %s", over.Again)
		}
		return
	case "requests":
		list, amount, granted = m.begun, m.limits.Requests, 0
	}
	if over.Again.IsZero() {
		if granted < amount.Most {
			t.Fatalf("no time is named, though only %d of %d are granted", granted, amount.Most)
		}
		return
	}
	if used(list, over.Again, per)+granted >= amount.Most || used(list, over.Again.Add(-1), per)+granted < amount.Most || !over.Again.After(now) {
		t.Fatalf("at %s it is not the case that there is room and was none before", over.Again)
	}
}

// TestClockThatIsSetBack: nothing comes back. After a restart the time that passes
// counts, so that a clock that once was years ahead does not stop a source for
// years.
func TestClockThatIsSetBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, back := range []time.Duration{time.Second, time.Hour, 30 * 24 * time.Hour, 50 * 365 * 24 * time.Hour} {
			path := filepath.Join(t.TempDir(), "budgets.json")
			h := newHand()
			start := h.at
			l := open(t, path, h)
			limits := bytesPer(100, time.Hour)
			u := begin(t, l, limits)
			if n := u.Grant(1000); n != 100 {
				t.Fatalf("granted %d, want 100", n)
			}
			u.End()
			h.at = h.at.Add(-back)
			if restart {
				if err := l.Save(); err != nil {
					t.Fatal(err)
				}
				l = open(t, path, h)
				start = h.at
			}
			for range 59 {
				if _, err := l.Begin(trainer, limits); err == nil {
					t.Fatalf("the clock went back by %s, and the budget is there again", back)
				}
				h.at = h.at.Add(time.Minute)
			}
			h.at = start.Add(62 * time.Minute)
			begin(t, l, limits).End()
		}
	}
}

// TestAgainIsInTheSystemsTime, also where the ledger's own is ahead of it.
func TestAgainIsInTheSystemsTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budgets.json")
	h := newHand()
	l := open(t, path, h)
	limits := bytesPer(100, time.Hour)
	u := begin(t, l, limits)
	u.Grant(100)
	u.End()
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	h.at = h.at.Add(-1000 * time.Hour)
	l = open(t, path, h)
	_, err := l.Begin(trainer, limits)
	var over *OverError
	if !errors.As(err, &over) {
		t.Fatalf("got %v", err)
	}
	if wait := over.Again.Sub(h.at); wait < time.Hour || wait > time.Hour+2*time.Minute {
		t.Fatalf("there is room in %s, want about an hour", wait)
	}
	h.at = over.Again.Add(-1)
	if _, err := l.Begin(trainer, limits); err == nil {
		t.Error("there is room before the time that was named")
	}
	h.at = over.Again
	begin(t, l, limits).End()
}

// TestSlowExfiltration: a little every hour is a lot in a day, over restarts and
// midnight, however often it is asked for.
func TestSlowExfiltration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budgets.json")
	h := newHand()
	limits := bytesPer(1<<20, 24*time.Hour)
	var passed []event
	for range 3 * 24 * 6 {
		l := open(t, path, h)
		if u, err := l.Begin(trainer, limits); err == nil {
			passed = append(passed, event{h.at, uint64(u.Grant(20 << 10))})
			u.End()
		}
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
		h.at = h.at.Add(10 * time.Minute)
	}
	if n := worst(passed, 24*time.Hour); n > 1<<20 || n < 1<<20-20<<10 {
		t.Errorf("%d bytes passed in a day, want nearly %d", n, 1<<20)
	}
}

// TestOtherLimitsForgetNothing: asking for the same pair under another limit, of
// another time or none, neither gives a budget back nor widens what is open.
func TestOtherLimitsForgetNothing(t *testing.T) {
	day := bytesPer(1000, 24*time.Hour)
	for name, other := range map[string]policy.Limits{
		"none":     {},
		"requests": {Requests: policy.Amount{Most: 1000, Per: time.Hour}},
		"minute":   bytesPer(1000, time.Minute),
		"week":     bytesPer(1<<40, 7*24*time.Hour),
		"wider":    bytesPer(1<<40, 24*time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHand()
			l := open(t, "", h)
			u := begin(t, l, day)
			if n := u.Grant(600); n != 600 {
				t.Fatalf("granted %d, want 600", n)
			}
			for range 10 {
				v := begin(t, l, other)
				h.at = h.at.Add(61 * time.Minute)
				l.Usage()
				v.End()
				l.Usage()
			}
			if n := u.Grant(600); n != 400 {
				t.Errorf("what is open got %d, want the 400 that were left", n)
			}
			u.End()
			if _, err := l.Begin(trainer, day); err == nil {
				t.Error("the budget of the day is there again")
			}
		})
	}
}

// TestLongerLimitKnowsWhatShorterOnesRemember, and never less than they do.
func TestLongerLimitKnowsWhatShorterOnesRemember(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHand()
		l := open(t, "", h)
		pers := []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}
		first := rapid.SampledFrom(pers).Draw(t, "first")
		second := rapid.SampledFrom(pers).Draw(t, "second")
		var list []event
		u := begin(t, l, bytesPer(1<<40, first))
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			n := u.Grant(rapid.Int64Range(1, 1000).Draw(t, "bytes"))
			u.settle(l.clock.now())
			list = append(list, event{h.at, uint64(n)})
			h.at = h.at.Add(time.Duration(rapid.Int64Range(0, int64(first/4)).Draw(t, "by")))
		}
		v := begin(t, l, bytesPer(1<<40, second))
		got := l.Usage()[0].Bytes
		exact := uint64(0)
		for _, e := range list {
			if h.at.Sub(e.at) <= min(first, second) {
				exact += e.n
			}
		}
		if got < exact {
			t.Fatalf("%d bytes count, and %d were used in the last %s", got, exact, min(first, second))
		}
		u.End()
		v.End()
		h.at = h.at.Add(max(first, second) * 61 / 60).Add(max(first, second) / 30)
		if usage := l.Usage(); len(usage) > 0 {
			t.Fatalf("after its time it still counts: %+v", usage)
		}
	})
}

// TestChangedLimits: lower ones hold what is open at once, wider ones as soon as
// they are said to be in force.
func TestChangedLimits(t *testing.T) {
	h := newHand()
	l := open(t, "", h)
	u := begin(t, l, bytesPer(1000, time.Hour))
	u.Grant(100)
	begin(t, l, bytesPer(300, time.Hour)).End()
	if n := u.Grant(1000); n != 200 {
		t.Errorf("after a lower limit %d were granted, want 200", n)
	}
	l.Limit(trainer, bytesPer(5000, time.Hour))
	if n := u.Grant(10000); n != 4700 {
		t.Errorf("after a wider limit %d were granted, want 4700", n)
	}
	l.Limit(trainer, policy.Limits{})
	if n := u.Grant(10000); n != 10000 {
		t.Errorf("without a limit %d were granted, want 10000", n)
	}
	l.Limit(trainer, bytesPer(1, time.Hour))
	begin := func() error { _, err := l.Begin(trainer, policy.Limits{}); return err }
	if err := begin(); err != nil {
		t.Error(err)
	}
	if n := u.Grant(1); n != 0 {
		t.Errorf("a use that was limited got %d after another came without limits, want 0", n)
	}
}

// TestReturn: nothing comes back that was not granted, or has passed.
func TestReturn(t *testing.T) {
	h := newHand()
	l := open(t, "", h)
	limits := bytesPer(1000, time.Hour)
	u, v := begin(t, l, limits), begin(t, l, limits)
	v.Grant(500)
	u.Grant(300)
	u.Return(math.MaxInt64)
	u.Return(1)
	u.Return(-5)
	u.Return(math.MinInt64)
	if got := l.Usage()[0].Bytes; got != 500 {
		t.Fatalf("%d bytes count, want 500", got)
	}
	u.Grant(200)
	u.Grant(100)
	u.Return(300)
	u.End()
	u.Return(300)
	u.End()
	if n := u.Grant(1); n != 0 {
		t.Errorf("a use that ended got %d", n)
	}
	if got := l.Usage()[0]; got.Bytes != 700 || got.Concurrent != 1 {
		t.Fatalf("usage is %+v, want 700 bytes and one use", got)
	}
	for _, want := range []int64{0, -1, math.MinInt64} {
		if n := v.Grant(want); n != 0 {
			t.Errorf("granted %d of %d", n, want)
		}
	}
}

// TestSumsDoNotOverflow: the largest grants of a budget without a limit do not make
// it a small one.
func TestSumsDoNotOverflow(t *testing.T) {
	h := newHand()
	l := open(t, "", h)
	u := begin(t, l, bytesPer(math.MaxUint64, time.Hour))
	for range 100 {
		u.a.bytes.add(l.clock.now(), math.MaxUint64/3)
		u.Grant(math.MaxInt64)
	}
	if got := l.Usage()[0].Bytes; got < math.MaxUint64-maxGrant {
		t.Errorf("%d bytes count", got)
	}
	if n := u.Grant(1); n != 0 {
		t.Errorf("granted %d, want 0", n)
	}
}

// TestIdleAccountsAreForgotten, and only they.
func TestIdleAccountsAreForgotten(t *testing.T) {
	h := newHand()
	l := open(t, "", h)
	for i := range 1000 {
		u, err := l.Begin(Key{"trainer", fmt.Sprint(i)}, policy.Limits{Requests: policy.Amount{Most: 1, Per: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		if i != 500 {
			u.End()
		}
	}
	h.at = h.at.Add(62 * time.Minute)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	if n := len(l.open); n != 1 {
		t.Errorf("%d accounts are kept, want 1", n)
	}
}

func TestTooManyAccounts(t *testing.T) {
	h := newHand()
	l := open(t, "", h)
	for i := range maxAccounts {
		l.open[Key{"", fmt.Sprint(i)}] = &account{uses: 1}
	}
	if _, err := l.Begin(trainer, policy.Limits{}); err == nil {
		t.Error("one more than the most is counted")
	}
}

// TestTogether: from many goroutines no more passes than may, while accounts are
// forgotten and saved.
func TestTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budgets.json")
	l, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	limits := policy.Limits{Bytes: policy.Amount{Most: 1 << 20, Per: 24 * time.Hour}, Concurrent: 5}
	var passed, openNow atomic.Int64
	var workers, sweep sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 2000 {
				u, err := l.Begin(trainer, limits)
				if err != nil {
					continue
				}
				if n := openNow.Add(1); n > 5 {
					t.Errorf("%d are open, and 5 may be", n)
				}
				n := u.Grant(100)
				u.Return(n / 2)
				passed.Add(n - n/2)
				openNow.Add(-1)
				u.End()
				// An account that never counts is forgotten all the time.
				if v, err := l.Begin(Key{"a", "b"}, policy.Limits{Concurrent: 1}); err == nil {
					v.Grant(1)
					v.End()
				}
			}
		})
	}
	done := make(chan struct{})
	sweep.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				l.Usage()
				l.Limit(Key{"a", "b"}, policy.Limits{Concurrent: 1})
			}
		}
	})
	sweep.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := l.Save(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	workers.Wait()
	close(done)
	sweep.Wait()
	if got := l.Usage()[0].Bytes; got != uint64(passed.Load()) || got > 1<<20 {
		t.Errorf("%d bytes count, %d passed", got, passed.Load())
	}
}

func TestErrors(t *testing.T) {
	h := newHand()
	l := open(t, "", h)
	limits := policy.Limits{Requests: policy.Amount{Most: 1, Per: time.Hour}, Concurrent: 1}
	u := begin(t, l, limits)
	_, err := l.Begin(trainer, limits)
	if want := "its budget is used up: trainer has 1 connections to model-hub open, which is all that it may"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	u.End()
	_, err = l.Begin(trainer, limits)
	if err == nil || !strings.Contains(err.Error(), "trainer may use 1 requests of model-hub in 1h0m0s; there is room again at 2026-11-30T01:00:00Z") {
		t.Errorf("got %v", err)
	}
	if _, err := l.Begin(Key{"a", "b"}, bytesPer(1, 0)); err == nil {
		t.Error("a limit without a time lets bytes pass")
	}
}

func BenchmarkSystemClock(b *testing.B) {
	l, err := Open(Options{})
	if err != nil {
		b.Fatal(err)
	}
	u, err := l.Begin(trainer, bytesPer(1<<62, 24*time.Hour))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			_ = time.Now()
		}
	})
	b.Run("grant", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			u.Grant(256)
		}
	})
}

func BenchmarkBegin(b *testing.B) {
	l, err := Open(Options{})
	if err != nil {
		b.Fatal(err)
	}
	limits := policy.Limits{Bytes: policy.Amount{Most: 1 << 50, Per: 24 * time.Hour}, Requests: policy.Amount{Most: 1 << 39, Per: time.Hour}, Concurrent: 10}
	b.ReportAllocs()
	for b.Loop() {
		u, err := l.Begin(trainer, limits)
		if err != nil {
			b.Fatal(err)
		}
		u.End()
	}
}
