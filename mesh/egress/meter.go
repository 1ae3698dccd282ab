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

	mu      sync.Mutex // guards the following
	granted int64
	over    bool
}

func newGate(a *ask, m *tunnel.Meter) *gate { return &gate{entry: a.entry, ask: a, meter: m} }

// Revoked reports whether nothing may pass any more.
func (t *gate) Revoked() bool {
	if t.entry.Revoked() {
		return true
	}
	if t.ask.use == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.over && t.meter.Out.Load()+t.meter.In.Load() >= t.granted {
		n := t.ask.use.Grant(grantSize)
		t.granted += n
		t.over = n == 0
	}
	return t.over
}

// end gives back what was granted and not used, and says why the transfer ended.
func (t *gate) end(err error) error {
	if t.ask.use == nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if left := t.granted - t.meter.Out.Load() - t.meter.In.Load(); left > 0 {
		t.ask.use.Return(left)
		t.granted -= left
	}
	if t.over && !t.entry.Revoked() {
		return errBudget
	}
	return err
}
