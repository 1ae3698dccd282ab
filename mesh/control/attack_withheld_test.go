package control

import (
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/generation"
)

// Who owns the bus can withhold a plan. That must not keep a quarantine from a
// node that has the order.
func TestAWithheldPlanKeepsNoQuarantineBack(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	before := n.waitNumber(1)
	bus := p.stranger(t)
	p.stop() // it would take the bus back
	q := trainer()
	q.At = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	withheld := strings.Repeat("ab", 32)
	p.hostile(t, bus, p.ctl.key, func(o *generation.Order) {
		o.Number, o.Plan, o.Quarantines = o.Number+1, withheld, []policy.Quarantine{q}
	})
	wait(t, "the quarantine", func() bool { o, _, _ := n.latest(); return len(o.Quarantines) == 1 })
	if o, plan, _ := n.latest(); o.Number != before.Number || o.Plan != before.Plan || plan == nil || o.Quarantines[0] != q {
		t.Errorf("in force is %+v", o)
	}
	// What is released in the same way stays held until its plan is there.
	p.hostile(t, bus, p.ctl.key, func(o *generation.Order) {
		o.Number, o.Plan, o.Quarantines = o.Number+2, withheld, nil
	})
	wait(t, "a problem with the newer one", func() bool { return strings.Contains(strings.Join(n.client.Status().Problems, ""), "generation 3") })
	if o, _, times := n.latest(); len(o.Quarantines) != 1 || times != 2 {
		t.Errorf("after %d times in force is %+v", times, o)
	}
	// The node says that it is behind: nothing was confirmed.
	if s := n.client.Status(); s.Generation != before.Number {
		t.Errorf("the node reports generation %d", s.Generation)
	}
	n.neverBack()
}
