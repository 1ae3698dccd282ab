// Package registry knows everything that is open, and decides about it.
//
// It promises that nothing undeclared stays open: a connection is registered
// before its first decision, so that a generation that comes into force at any
// moment either decides it first or finds it and decides it again. What the new
// generation denies is closed; nothing else is touched.
//
// The decision is that of [policy.Intent.Decide] and of nothing else. Before
// the first generation everything is denied.
//
// What is dangerous: an answer of allow is only as good as the next look at
// [Entry.Revoked], and a closer that blocks keeps those behind it open, though
// silent.
package registry

import (
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/core/netset"
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

	// denied is the decision that took it back, nil if none did. It is set once.
	denied atomic.Pointer[Verdict]

	mu     sync.Mutex // guards closer
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
// once. It is called at most once, and may run while the owner still sets up or
// tears down, also after Done. It must not block: it resets a socket or cancels
// a context, and leaves all else to the owner.
func (e *Entry) OnRevoke(closer func(Reason)) {
	e.mu.Lock()
	if v := e.denied.Load(); v != nil {
		e.mu.Unlock()
		closer(v.reason())
		return
	}
	e.closer = closer
	e.mu.Unlock()
}

// Revoked reports whether the policy took it back. Whoever moves bytes asks
// before every write: it is set for everything that a generation denies before
// the first socket is closed, and never unset, even if a later generation
// allows the same again.
func (e *Entry) Revoked() bool { return e.denied.Load() != nil }

// Reason returns why it was revoked, the zero Reason if it was not.
func (e *Entry) Reason() Reason {
	v := e.denied.Load()
	if v == nil {
		return Reason{}
	}
	return v.reason()
}

func (v *Verdict) reason() Reason {
	return Reason{Says: v.Why(), Rule: RuleOf(v.Nearest), Generation: v.Generation}
}

// Done forgets it. It may be called more than once.
func (e *Entry) Done() {
	s := &e.r.shards[e.id%shardCount]
	s.mu.Lock()
	delete(s.open, e.id)
	s.mu.Unlock()
}

// Enforced says what a generation did. What was revoked before and has not ended
// yet counts as neither.
type Enforced struct {
	Kept, Closed int
	// Refused says that it was not put in force and changed nothing.
	Refused bool
}

// Enforce puts f in force and closes what it denies. When it returns, nothing
// that f denies moves another byte, and everything that it took back was told to
// close.
//
// Refused is what is older than the generation in force, what has its number and
// is another, and what is no generation at all. The one in force may be enforced
// again: it allows less when a permission has expired.
func (r *Registry) Enforce(f *Force) Enforced {
	denied, out := r.revoke(f)
	for _, e := range denied {
		e.close()
	}
	return out
}

// revoke is the part of Enforce that is done for one generation after the other:
// the closing is not, so that no closer can keep the next generation waiting.
func (r *Registry) revoke(f *Force) (denied []*Entry, out Enforced) {
	r.enforcing.Lock()
	defer r.enforcing.Unlock()
	if !f.follows(r.force.Load()) {
		return nil, Enforced{Kept: r.Len(), Refused: true}
	}
	r.force.Store(f)
	known := map[asked]*Verdict{}
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, e := range s.open {
			key := askedBy(e.q)
			v := known[key]
			if v == nil {
				decided := r.decide(f, e.q)
				v = &decided
				known[key] = v
			}
			switch {
			case e.Revoked():
			case v.Allowed:
				out.Kept++
			case e.denied.CompareAndSwap(nil, v):
				denied = append(denied, e)
			}
		}
		s.mu.Unlock()
	}
	out.Closed = len(denied)
	return denied, out
}

func (f *Force) follows(last *Force) bool {
	switch {
	case f == nil || f.Intent == nil || f.Number == 0:
		return false
	case last == nil || f.Number > last.Number:
		return true
	}
	return f.Number == last.Number && f.Digest == last.Digest
}

// asked is a question by value: much of what is open asks the same.
type asked struct {
	q          policy.Question
	request    netset.Request
	hasRequest bool
}

func askedBy(q policy.Question) asked {
	a := asked{q: q}
	if q.Request != nil {
		a.request, a.hasRequest, a.q.Request = *q.Request, true, nil
	}
	return a
}

func (e *Entry) close() {
	e.mu.Lock()
	closer := e.closer
	e.closer = nil
	e.mu.Unlock()
	if closer != nil {
		closer(e.Reason())
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
