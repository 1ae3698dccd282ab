package egress

import (
	"errors"
	"sync"

	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// grantSize is how much of a budget is taken at a time. A transfer ends at most
// this much after its budget is used up.
const grantSize = 256 << 10

var errBudget = errors.New("its byte budget is used up")

// gate says whether bytes may still pass: while the permission is in force and
// there is budget for what the meter has counted.
type gate struct {
	entry *registry.Entry
	ask   *ask
	meter *tunnel.Meter

	mu         sync.Mutex // guards the following, and ask.use while bytes move
	generation uint64     // whose limits count
	granted    int64
	over       bool
}

func newGate(a *ask, m *tunnel.Meter) *gate {
	return &gate{entry: a.entry, ask: a, meter: m, generation: a.verdict.Generation}
}

// Revoked reports whether nothing may pass any more.
func (t *gate) Revoked() bool {
	if t.entry.Revoked() {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.follow()
	if t.ask.use == nil {
		return t.over
	}
	for !t.over && t.meter.Out.Load()+t.meter.In.Load() >= t.granted {
		n := t.ask.use.Grant(grantSize)
		t.granted += n
		t.over = n == 0
	}
	return t.over
}

// follow brings what is open under the limits of a newer generation. The lock is
// held.
func (t *gate) follow() {
	g := t.ask.s.g
	if g.generation() == t.generation {
		return
	}
	v := t.entry.Decide()
	t.generation = v.Generation
	p := v.Permission
	switch {
	case p == nil || g.o.Budgets == nil:
	case t.ask.use != nil:
		g.o.Budgets.Limit(t.ask.budgetOf(t.ask.charged), p.Budget)
	case !p.Budget.IsZero():
		use, err := g.o.Budgets.Begin(t.ask.budgetOf(p), p.Budget)
		t.over = err != nil
		t.ask.use, t.ask.charged = use, p
		t.granted = t.meter.Out.Load() + t.meter.In.Load() // what passed before is nobody's
	}
}

// end gives back what was granted and not used, and says why the transfer ended.
func (t *gate) end(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ask.use != nil {
		if left := t.granted - t.meter.Out.Load() - t.meter.In.Load(); left > 0 {
			t.ask.use.Return(left)
			t.granted -= left
		}
	}
	if t.over && err != nil && !t.entry.Revoked() {
		return errBudget
	}
	return err
}
