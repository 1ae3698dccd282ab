// Package budget counts how much each source has used of each destination, and
// says when it is too much: bytes, requests, and what is open at once.
//
// It promises that in no time of the length that a limit is for more passes than
// the limit: the time slides, and does not begin anew at midnight. What was used is
// kept over restarts; a crash forgets at most what was used since the last save,
// some seconds. A clock that is set back gives nothing back.
//
// What is dangerous: bytes count when they are granted. Who takes a grant and
// neither uses nor returns it has used it.
package budget

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"bulkhead/core/policy"
	"bulkhead/internal/atomicfile"
)

// Key is a source and a destination, as the policy names them.
type Key struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Options say where a Ledger keeps what was used.
type Options struct {
	Path string // empty for memory alone
	Now  func() time.Time
}

// Ledger holds what was used. Its methods may be called from any goroutine.
type Ledger struct {
	o Options

	mu    sync.Mutex // guards the following, and makes accounts
	open  map[Key]*account
	saved int // how many accounts the last save had
}

// account is what one source used of one destination.
type account struct {
	mu         sync.Mutex // guards the following
	limits     policy.Limits
	bytes      window
	requests   window
	concurrent int
	uses       int // of them that have not ended
}

const (
	// slots is how many parts a time has. The part at hand and all before count, so
	// that a window of that length, wherever it begins, is within them.
	slots = 60
	// maxState is the longest state that is read.
	maxState = 64 << 20
	// saveEvery is how much time a crash can forget.
	saveEvery = 5 * time.Second
	// maxAccounts bounds the memory; sources and destinations are the policy's own.
	maxAccounts = 1 << 20
)

// Open reads what was used before.
func Open(o Options) (*Ledger, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Ledger{o: o, open: map[Key]*account{}}
	if o.Path == "" {
		return l, nil
	}
	info, err := os.Stat(o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%s has %d bytes, more than budgets can have: remove it to begin with fresh budgets", o.Path, info.Size())
	}
	text, err := os.ReadFile(o.Path)
	if err != nil {
		return nil, err
	}
	if err := l.read(text); err != nil {
		return nil, fmt.Errorf("%s does not hold the budgets that were used: %w; remove it to begin with fresh ones", o.Path, err)
	}
	return l, nil
}

// OverError says which limit is used up.
type OverError struct {
	Key
	Limit string // bytes, requests or concurrent
	Most  uint64
	Per   time.Duration // 0 for concurrent
	// Again is when there may be room again, zero if that is not known.
	Again time.Time
}

func (e *OverError) Error() string {
	if e.Per == 0 {
		return fmt.Sprintf("its budget is used up: %s has %d connections to %s open, which is all that it may", e.From, e.Most, e.To)
	}
	return fmt.Sprintf("its budget is used up: %s may use %d %s of %s in %s; there is room again at %s",
		e.From, e.Most, e.Limit, e.To, e.Per, e.Again.UTC().Format(time.RFC3339))
}

// Use is one request or tunnel that counts. Its owner must call End.
type Use struct {
	l    *Ledger
	key  Key
	a    *account
	once sync.Once
}

// Begin counts one request, unless a limit is used up: then it returns an
// *OverError. The limits are those in force now, for what is open too.
func (l *Ledger) Begin(k Key, limits policy.Limits) (*Use, error) {
	a, err := l.account(k)
	if err != nil {
		return nil, err
	}
	now := l.o.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit(limits, now)
	over := func(what string, most uint64, w *window) error {
		e := &OverError{Key: k, Limit: what, Most: most}
		if w != nil {
			e.Per, e.Again = w.per, w.again(now)
		}
		return e
	}
	switch {
	case limits.Concurrent > 0 && a.concurrent >= limits.Concurrent:
		return nil, over("concurrent", uint64(limits.Concurrent), nil)
	case limits.Bytes.Most > 0 && a.bytes.room(now, limits.Bytes.Most) == 0:
		return nil, over("bytes", limits.Bytes.Most, &a.bytes)
	case limits.Requests.Most > 0 && a.requests.room(now, limits.Requests.Most) == 0:
		return nil, over("requests", limits.Requests.Most, &a.requests)
	}
	a.requests.add(now, 1)
	a.concurrent++
	a.uses++
	return &Use{l: l, key: k, a: a}, nil
}

// account returns the account of a key, and makes one.
func (l *Ledger) account(k Key) (*account, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.open[k]
	if a == nil {
		if len(l.open) >= maxAccounts {
			return nil, fmt.Errorf("there are %d budgets in use: more are refused", maxAccounts)
		}
		a = &account{}
		l.open[k] = a
	}
	return a, nil
}

// limit brings an account to the limits in force. The lock is held.
func (a *account) limit(limits policy.Limits, now time.Time) {
	if limits == a.limits {
		return
	}
	a.limits = limits
	a.bytes.reshape(limits.Bytes.Per, now)
	a.requests.reshape(limits.Requests.Per, now)
}

// Grant returns how many of the wanted bytes may pass now, and counts them; 0 says
// that the budget is used up.
func (u *Use) Grant(want int64) int64 {
	now := u.l.o.Now()
	u.a.mu.Lock()
	defer u.a.mu.Unlock()
	n := uint64(max(want, 0))
	if most := u.a.limits.Bytes.Most; most > 0 {
		n = min(n, u.a.bytes.room(now, most))
	}
	u.a.bytes.add(now, n)
	return int64(n)
}

// Return gives bytes back that were granted and did not pass.
func (u *Use) Return(n int64) {
	u.a.mu.Lock()
	defer u.a.mu.Unlock()
	u.a.bytes.remove(uint64(max(n, 0)))
}

// End says that it is over. It may be called more than once.
func (u *Use) End() {
	u.once.Do(func() {
		u.a.mu.Lock()
		defer u.a.mu.Unlock()
		u.a.concurrent--
		u.a.uses--
	})
}

// Usage is what was used within the times of the limits.
type Usage struct {
	Key
	Bytes, Requests uint64
	Concurrent      int
	Limits          policy.Limits
}

// Usage returns what was used, sorted, and forgets what no longer counts.
func (l *Ledger) Usage() []Usage {
	now := l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Usage
	for k, a := range l.open {
		a.mu.Lock()
		u := Usage{k, a.bytes.used(now), a.requests.used(now), a.concurrent, a.limits}
		idle := a.uses == 0 && u.Bytes == 0 && u.Requests == 0
		a.mu.Unlock()
		if idle {
			delete(l.open, k)
			continue
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b Usage) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	return out
}

// Run saves what is used until ctx ends, and then once more.
func (l *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return l.Save()
		case <-tick.C:
			_ = l.Save() // again in a moment; the last one says what is wrong
		}
	}
}

// state is what lies on disk.
type state struct {
	Version int      `json:"version"`
	Used    []stated `json:"used"`
}

type stated struct {
	Key
	Bytes    windowState `json:"bytes"`
	Requests windowState `json:"requests"`
}

type windowState struct {
	Per  time.Duration `json:"per_ns"`
	Last int64         `json:"last"`
	// Parts are from the oldest to the one that is Last.
	Parts []uint64 `json:"parts,omitempty"`
}

const stateVersion = 1

// Save writes what was used.
func (l *Ledger) Save() error {
	if l.o.Path == "" {
		return nil
	}
	used := l.Usage()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(used) == 0 && l.saved == 0 {
		return nil
	}
	s := state{Version: stateVersion}
	for _, u := range used {
		a := l.open[u.Key]
		a.mu.Lock()
		s.Used = append(s.Used, stated{u.Key, a.bytes.state(), a.requests.state()})
		a.mu.Unlock()
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(l.o.Path, append(text, '\n'), 0o600); err != nil {
		return err
	}
	l.saved = len(used)
	return nil
}

func (l *Ledger) read(text []byte) error {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	if s.Version != stateVersion {
		return fmt.Errorf("its version is %d and not %d", s.Version, stateVersion)
	}
	for _, u := range s.Used {
		a := &account{}
		if err := errors.Join(a.bytes.restore(u.Bytes), a.requests.restore(u.Requests)); err != nil {
			return err
		}
		l.open[u.Key] = a
	}
	l.saved = len(s.Used)
	return nil
}
