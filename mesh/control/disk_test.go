package control

import (
	"errors"
	"testing"
	"time"

	"bulkhead/mesh/generation"
)

// TestAShelfIsNeverHalf: whatever step a crash comes at, the old generation is
// there or the new one.
func TestAShelfIsNeverHalf(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	p.join("n1").waitNumber(1)
	old := p.ctl.current()
	plan := *old.plan
	plan.Addresses = generation.Addresses{}
	packed, digest, err := plan.Pack()
	must(t, err)
	order := *old.order
	order.Number, order.Plan, order.At = 2, digest, time.Now().UTC()
	sealed, err := generation.Seal(&order, p.ctl.key)
	must(t, err)
	next := &force{sealed: sealed, order: &order, plan: &plan, packed: packed}
	for step := range 3 {
		s := shelf{t.TempDir(), writeDurably}
		must(t, s.save(old))
		writes := 0
		s.write = func(path string, data []byte) error {
			if writes++; writes > step {
				return errors.New("no power")
			}
			return writeDurably(path, data)
		}
		err := s.save(next)
		got, lerr := s.load(p.ctl.public())
		must(t, lerr)
		if want := uint64(1); err != nil && got.order.Number != want || err == nil && got.order.Number != 2 {
			t.Errorf("after %d writes generation %d is there (%v)", step, got.order.Number, err)
		}
	}
}

// TestANodeTakesNothingOlderThanItsCredential: also one whose disk is empty.
func TestANodeTakesNothingOlderThanItsCredential(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	first := p.ctl.current().sealed
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	cred := p.credential("n2")
	p.stop()
	bus := p.stranger(t)
	must(t, bus.nc.Publish(p.ctl.n.orderSubject(), first))
	late := &node{t: t, p: p, name: "n2", cred: cred}
	late.start()
	t.Cleanup(func() { late.stop() })
	wait(t, "a refusal", func() bool { return late.client.Status().Refused > 0 })
	// The newer one may still be on the bus, and is no wrong one to take.
	if o, _, times := late.latest(); times > 1 || times == 1 && o.Number < e.Generation {
		t.Errorf("generation %d is in force, after %d were; none older than %d should be", o.Number, times, e.Generation)
	}
}
