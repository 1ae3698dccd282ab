// Package budget counts how much each source has used of each destination, and
// says when it is too much: bytes, requests, and what is open at once.
//
// It promises that in no time of the length that a limit is for more passes than
// the limit: the time slides, and does not begin anew at midnight. Bytes are taken
// from the budget before they pass, and count until that time is over after the
// last moment at which they can have passed. What was used is kept over restarts; a
// crash forgets at most what was used since the last save, some seconds. A clock
// that is set gives nothing back: forwards as long as the process runs, and back over
// restarts too.
//
// What is dangerous: a key is one budget. Whoever asks for one key with different
// limits in turn holds each use to its own and to those that came last. A limit for
// a longer time than any before it knows only what the shorter ones remember.
package budget

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"bulkhead/core/policy"
)

// Key is a source and a destination, as the policy names them.
type Key struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Options say where a Ledger keeps what was used.
type Options struct {
	Path string           // empty for memory alone
	Now  func() time.Time // time.Now if nil
	Log  *slog.Logger     // slog.Default if nil
}

// Ledger holds what was used. Its methods may be called from any goroutine.
type Ledger struct {
	o     Options
	clock clock

	mu   sync.Mutex // guards open
	open map[Key]*account

	saving sync.Mutex // held while the file is replaced; guards the following
	onDisk bool       // whether the file says that anything was used
}

// account is what one source used of one destination.
type account struct {
	mu sync.Mutex // guards the following
	// gone says that the ledger forgot it: whoever still has it asks again.
	gone            bool
	limits          policy.Limits // those that came last
	forced          policy.Limits // those of the last call of Limit
	epoch           uint64        // how often it was called
	bytes, requests counter
	// granted are the bytes that may be passing now, of all uses.
	granted uint64
	uses    int
}

// maxAccounts bounds the memory, to some 100 MiB; sources and destinations are the
// policy's own.
const maxAccounts = 1 << 16

// OverError says which limit is used up.
type OverError struct {
	Key
	Limit string // bytes, requests or concurrent
	Most  uint64
	Per   time.Duration // 0 for concurrent
	// Again is when there is room again, zero where that depends on what is open.
	Again time.Time
}

func (e *OverError) Error() string {
	if e.Per == 0 {
		return fmt.Sprintf("its budget is used up: %s has %d connections to %s open, which is all that it may", e.From, e.Most, e.To)
	}
	again := "when what is open ends"
	if !e.Again.IsZero() {
		again = "at " + e.Again.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("its budget is used up: %s may use %d %s of %s in %s; there is room again %s", e.From, e.Most, e.Limit, e.To, e.Per, again)
}

// Use is one request or tunnel that counts. Its owner must call End.
type Use struct {
	l *Ledger
	a *account

	// The account's lock guards the following.
	limits  policy.Limits
	epoch   uint64
	granted uint64 // by the last Grant, and not returned
	ended   bool
}

// Begin counts one request, unless a limit is used up: then it returns an
// *OverError. What is open under the key is held to these limits too from now on.
func (l *Ledger) Begin(k Key, limits policy.Limits) (*Use, error) {
	now := l.clock.now()
	a, err := l.take(k)
	if err != nil {
		return nil, err
	}
	defer a.mu.Unlock()
	a.hold(limits, now)
	if over := a.over(now, limits); over != nil {
		over.Key = k
		if !over.Again.IsZero() {
			over.Again = l.clock.shown(over.Again)
		}
		return nil, over
	}
	a.requests.add(now, 1)
	a.uses++
	return &Use{l: l, a: a, limits: limits, epoch: a.epoch}, nil
}

// Limit says which limits are in force now, wider ones for what is open included.
func (l *Ledger) Limit(k Key, limits policy.Limits) {
	l.mu.Lock()
	a := l.open[k]
	l.mu.Unlock()
	if a == nil {
		return
	}
	now := l.clock.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hold(limits, now)
	a.forced = limits
	a.epoch++
}

// take returns the account of a key, locked.
func (l *Ledger) take(k Key) (*account, error) {
	for {
		l.mu.Lock()
		a := l.open[k]
		if a == nil {
			if len(l.open) >= maxAccounts {
				l.mu.Unlock()
				return nil, fmt.Errorf("%d pairs of source and destination have used their budgets: no other is counted until one of them no longer counts", maxAccounts)
			}
			a = &account{}
			l.open[k] = a
		}
		l.mu.Unlock()
		a.mu.Lock()
		if !a.gone {
			return a, nil
		}
		a.mu.Unlock()
	}
}

// hold makes limits those that came last. The lock is held, as in all that follow.
func (a *account) hold(limits policy.Limits, now int64) {
	a.limits = limits
	a.bytes.cover(limits.Bytes.Per, now)
	a.requests.cover(limits.Requests.Per, now)
}

func (a *account) over(now int64, limits policy.Limits) *OverError {
	if most := limits.Concurrent; most > 0 && a.uses >= most {
		return &OverError{Limit: "concurrent", Most: uint64(most)}
	}
	for _, x := range []struct {
		limit   string
		amount  policy.Amount
		count   *counter
		granted uint64
	}{
		{"bytes", limits.Bytes, &a.bytes, a.granted},
		{"requests", limits.Requests, &a.requests, 0},
	} {
		if x.count.room(now, x.amount, x.granted) == 0 {
			return &OverError{Limit: x.limit, Most: x.amount.Most, Per: x.amount.Per, Again: x.count.again(now, x.amount, x.granted)}
		}
	}
	return nil
}

// maxGrant keeps sums of grants far from overflowing.
const maxGrant = 1 << 40

// Grant returns how many of the wanted bytes may pass now, and counts them; 0 says
// that the budget is used up. To ask for more is to say that what was granted
// before has passed.
func (u *Use) Grant(want int64) int64 {
	now := u.l.clock.now()
	a := u.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if u.ended || want <= 0 {
		return 0
	}
	u.settle(now)
	if u.epoch != a.epoch {
		u.limits, u.epoch = a.forced, a.epoch
	}
	n := min(uint64(want), maxGrant, a.bytes.room(now, u.limits.Bytes, a.granted))
	if a.limits.Bytes != u.limits.Bytes {
		n = min(n, a.bytes.room(now, a.limits.Bytes, a.granted))
	}
	u.granted = n
	a.granted = plus(a.granted, n)
	return int64(n)
}

// settle counts what was granted as used now, the last moment at which it can have
// passed.
func (u *Use) settle(now int64) {
	u.a.bytes.add(now, u.granted)
	u.a.granted -= u.granted
	u.granted = 0
}

// Return gives bytes of the last grant back that did not pass, and will not.
func (u *Use) Return(n int64) {
	u.a.mu.Lock()
	defer u.a.mu.Unlock()
	back := min(uint64(max(n, 0)), u.granted)
	u.granted -= back
	u.a.granted -= back
}

// End says that it is over. It may be called more than once.
func (u *Use) End() {
	now := u.l.clock.now()
	u.a.mu.Lock()
	defer u.a.mu.Unlock()
	if u.ended {
		return
	}
	u.settle(now)
	u.ended = true
	u.a.uses--
}

// Usage is what was used within the times of the limits that came last.
type Usage struct {
	Key
	Bytes, Requests uint64
	Concurrent      int
	Limits          policy.Limits
}

// Usage returns what was used, sorted.
func (l *Ledger) Usage() []Usage {
	now := l.clock.now()
	var out []Usage
	l.each(now, func(k Key, a *account) {
		out = append(out, Usage{k, plus(a.bytes.used(now, a.limits.Bytes.Per), a.granted), a.requests.used(now, a.limits.Requests.Per), a.uses, a.limits})
	})
	slices.SortFunc(out, func(a, b Usage) int { return compareKeys(a.Key, b.Key) })
	return out
}

func compareKeys(a, b Key) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) }

// each calls do for every account, which is locked, and forgets those that no longer
// count.
func (l *Ledger) each(now int64, do func(Key, *account)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, a := range l.open {
		a.mu.Lock()
		if a.idle(now) {
			a.gone = true
			delete(l.open, k)
		} else {
			do(k, a)
		}
		a.mu.Unlock()
	}
}

// idle reports whether an account is as good as a new one, and forgets what of it is.
func (a *account) idle(now int64) bool {
	if a.uses > 0 {
		return false
	}
	a.bytes.forget(now)
	a.requests.forget(now)
	return len(a.bytes) == 0 && len(a.requests) == 0
}

// plus adds, and stays at the most instead of beginning anew.
func plus(a, b uint64) uint64 {
	if b > math.MaxUint64-a {
		return math.MaxUint64
	}
	return a + b
}
