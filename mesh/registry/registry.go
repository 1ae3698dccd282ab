// Package registry knows everything that is open, and decides about it.
//
// It promises that nothing undeclared stays open: a connection is registered
// before its first decision, so that a generation that comes into force at any
// moment either decides it first or finds it and decides it again. What the new
// generation denies is closed; nothing else is touched.
//
// The decision is that of [policy.Intent.Decide] and of nothing else. Before
// the first generation everything is denied.
package registry

import (
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/core/policy"
)

// Force is a generation in force. It is read only.
type Force struct {
	Number uint64
	Digest string
	Intent *policy.Intent
	// Since is when it came into force here.
	Since time.Time
}

// Verdict is a decision, and who made it.
type Verdict struct {
	policy.Answer
	// Generation is that of the policy that decided, 0 if there was none.
	Generation uint64
}

// Reason says why something open was closed.
type Reason struct {
	Says       string // for a record: lower case, one line
	Rule       string // the nearest permission, as file:line and name
	Generation uint64
}

// Why says why the verdict is no.
func (v Verdict) Why() string {
	if v.Generation == 0 {
		return "no valid generation is in force: everything is denied"
	}
	return v.Answer.Why()
}

// Registry holds what is open on a node. Its methods may be called at any time
// from any goroutine.
type Registry struct {
	force atomic.Pointer[Force]
	next  atomic.Uint64

	// enforcing keeps generations in order; it guards nothing else.
	enforcing sync.Mutex

	shards [shardCount]shard
}

const shardCount = 64

type shard struct {
	mu   sync.Mutex
	open map[uint64]*Entry
}

// New returns a registry that denies everything until the first Enforce.
func New() *Registry {
	r := &Registry{}
	for i := range r.shards {
		r.shards[i].open = map[uint64]*Entry{}
	}
	return r
}

// Force returns the generation in force, nil before the first.
func (r *Registry) Force() *Force { return r.force.Load() }

// Entry is one open connection, stream or request. Its owner must call Done.
type Entry struct {
	r  *Registry
	id uint64
	q  policy.Question

	revoked atomic.Bool

	mu     sync.Mutex // guards the following
	reason Reason
	closer func(Reason)
}

// Open registers what is about to be decided. The question must not change
// afterwards, its Request included.
func (r *Registry) Open(q policy.Question) *Entry {
	e := &Entry{r: r, id: r.next.Add(1), q: q}
	s := &r.shards[e.id%shardCount]
	s.mu.Lock()
	s.open[e.id] = e
	s.mu.Unlock()
	return e
}

// Decide decides by the generation in force. An answer of allow holds only as
// long as Revoked is false.
func (e *Entry) Decide() Verdict { return e.r.decide(e.r.force.Load(), e.q) }

// Decide decides about something that does not stay open.
func (r *Registry) Decide(q policy.Question) Verdict { return r.decide(r.force.Load(), q) }

func (r *Registry) decide(f *Force, q policy.Question) Verdict {
	if f == nil {
		return Verdict{} // nothing is in force
	}
	return Verdict{f.Intent.Decide(q), f.Number}
}

// OnRevoke says how to close it. If it was revoked before, closer is called at
// once. It is called at most once, must not block, and may run while the owner
// still sets up or tears down.
func (e *Entry) OnRevoke(closer func(Reason)) {
	e.mu.Lock()
	if e.revoked.Load() {
		reason := e.reason
		e.mu.Unlock()
		closer(reason)
		return
	}
	e.closer = closer
	e.mu.Unlock()
}

// Revoked reports whether the policy took it back. Whoever moves bytes asks
// before every write: it is set for everything that a generation denies before
// the first socket is closed.
func (e *Entry) Revoked() bool { return e.revoked.Load() }

// Reason returns why it was revoked.
func (e *Entry) Reason() Reason {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reason
}

// Done forgets it. It may be called more than once.
func (e *Entry) Done() {
	s := &e.r.shards[e.id%shardCount]
	s.mu.Lock()
	delete(s.open, e.id)
	s.mu.Unlock()
}

// Enforced says what a generation did.
type Enforced struct{ Kept, Closed int }

// Enforce puts f in force and closes what it denies. When it returns, nothing
// that f denies moves another byte, and everything of it was told to close. A
// generation older than the one in force changes nothing.
func (r *Registry) Enforce(f *Force) Enforced {
	r.enforcing.Lock()
	defer r.enforcing.Unlock()
	if now := r.force.Load(); now != nil && f.Number < now.Number {
		return Enforced{Kept: r.Len()}
	}
	r.force.Store(f)
	var out Enforced
	var denied []*Entry
	known := map[policy.Question]Verdict{} // requests are told apart by their pointer
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, e := range s.open {
			v, ok := known[e.q]
			if !ok {
				v = r.decide(f, e.q)
				if e.q.Request == nil {
					known[e.q] = v
				}
			}
			if v.Allowed {
				out.Kept++
				continue
			}
			if e.revoke(v) {
				denied = append(denied, e)
			}
		}
		s.mu.Unlock()
	}
	for _, e := range denied {
		e.close()
	}
	out.Closed = len(denied)
	return out
}

// revoke marks it, and reports whether it was not marked before.
func (e *Entry) revoke(v Verdict) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.revoked.Load() {
		return false
	}
	e.reason = Reason{Says: v.Why(), Rule: RuleOf(v.Nearest), Generation: v.Generation}
	e.revoked.Store(true)
	return true
}

func (e *Entry) close() {
	e.mu.Lock()
	closer, reason := e.closer, e.reason
	e.closer = nil
	e.mu.Unlock()
	if closer != nil {
		closer(reason)
	}
}

// Len returns how much is open.
func (r *Registry) Len() int {
	n := 0
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		n += len(s.open)
		s.mu.Unlock()
	}
	return n
}

// Questions returns what is open, in no order.
func (r *Registry) Questions() []policy.Question {
	var out []policy.Question
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, e := range s.open {
			out = append(out, e.q)
		}
		s.mu.Unlock()
	}
	return out
}

// RuleOf names a permission for a record: its place and its name, empty for
// none.
func RuleOf(p *policy.Permission) string {
	if p == nil {
		return ""
	}
	return p.Pos.String() + " " + p.Name
}
