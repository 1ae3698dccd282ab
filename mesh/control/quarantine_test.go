package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead/core/policy"
)

func trainer() policy.Quarantine {
	return policy.Quarantine{Target: "trainer", Because: "it beacons", Operator: "ana"}
}

func TestQuarantineIsConfirmed(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	wait(t, "a heartbeat", func() bool { return p.ctl.Status().Nodes[0].Live })
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	t.Logf("%+v", e)
	if len(e.Nodes) != 1 || e.Nodes[0].Closed != 1 || len(e.Missing) != 0 || e.Unchanged || len(e.Problems) != 0 {
		t.Errorf("the effect is %+v", e)
	}
	if o, _, _ := n.latest(); o.Number != e.Generation || len(o.Quarantines) != 1 || o.Quarantines[0].Because != "it beacons" {
		t.Errorf("in force is %+v, not generation %d", o, e.Generation)
	}
	again, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	if !again.Unchanged || again.Generation != e.Generation || len(again.Nodes) != 1 {
		t.Errorf("the second one did %+v", again)
	}
	free, err := p.ctl.Release(t.Context(), "trainer", "clean", "ben")
	must(t, err)
	if o, _, _ := n.latest(); len(o.Quarantines) != 0 || free.Unchanged || o.Number != free.Generation {
		t.Errorf("in force after release is %+v", o)
	}
	events, err := p.ctl.History()
	must(t, err)
	if len(events) != 3 || events[1].Operator != "ana" || events[2].Event != EventRelease || events[2].Because != "clean" {
		t.Errorf("the history is %+v", events)
	}
}

func TestQuarantineOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	p.join("n1").waitNumber(1)
	for _, q := range []policy.Quarantine{
		{Target: "trainr", Because: "x", Operator: "y"},
		{Target: "training", Because: "x", Operator: "y"},
		{Target: "trainer", Operator: "y"},
		{Target: "trainer", Because: "x"},
		{Target: "trainer", Because: strings.Repeat("x", maxBecause+1), Operator: "y"},
	} {
		if e, err := p.ctl.Quarantine(t.Context(), q); err == nil {
			t.Errorf("%+v made %+v", q, e)
		} else {
			t.Log(err)
		}
	}
	if _, err := p.ctl.Release(t.Context(), "nobody", "x", "y"); err == nil {
		t.Error("nobody was released")
	}
	if e, err := p.ctl.Release(t.Context(), "store", "x", "y"); err != nil || !e.Unchanged {
		t.Errorf("to release what is free did %+v, %v", e, err)
	}
}

func TestQuarantineNamesTheNodeThatIsAway(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	a, b := p.join("n1"), p.join("n2")
	a.waitNumber(1)
	b.waitNumber(1)
	wait(t, "heartbeats", func() bool { s := p.ctl.Status(); return s.Nodes[0].Live && s.Nodes[1].Live })
	b.stop()
	began := time.Now()
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	t.Logf("%+v after %s", e, time.Since(began))
	if len(e.Nodes) != 1 || e.Nodes[0].Node != "n1" || len(e.Missing) != 1 || e.Missing[0].Node != "n2" || e.Missing[0].Heard.IsZero() {
		t.Errorf("the effect is %+v", e)
	}
	if time.Since(began) > confirmWait+time.Second {
		t.Errorf("it took %s", time.Since(began))
	}
	b.start()
	if o := b.waitNumber(e.Generation); len(o.Quarantines) != 1 {
		t.Error("the node that came back does not know of the quarantine")
	}
	b.neverBack()
}

func TestQuarantineNamesTheNodeThatCannot(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	wait(t, "a heartbeat", func() bool { return p.ctl.Status().Nodes[0].Live })
	n.mu.Lock()
	n.refuse = errTest
	n.mu.Unlock()
	began := time.Now()
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	if len(e.Missing) != 1 || !strings.Contains(e.Missing[0].Why, errTest.Error()) || time.Since(began) > 2*time.Second {
		t.Errorf("the effect is %+v after %s", e, time.Since(began))
	}
	n.mu.Lock()
	n.refuse = nil
	n.mu.Unlock()
	n.waitNumber(e.Generation)
}

func TestReleaseSaysWhatStillHolds(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	p.join("n1").waitNumber(1)
	zone := trainer()
	zone.Target = "zone/training"
	for _, q := range []policy.Quarantine{trainer(), zone} {
		if _, err := p.ctl.Quarantine(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	e, err := p.ctl.Release(t.Context(), "trainer", "clean", "ben")
	must(t, err)
	if len(e.Problems) != 1 || !strings.Contains(e.Problems[0], "zone/training") {
		t.Errorf("the problems are %q", e.Problems)
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y, evidence: true}"))
	p.join("n1").waitNumber(1)
	wait(t, "two", func() bool { s, err := p.ctl.Preview("store"); return err == nil && len(s.Permissions) == 2 })
	s, err := p.ctl.Preview("zone/training")
	must(t, err)
	if len(s.Workloads) != 1 || len(s.Permissions) != 1 || s.Already != nil {
		t.Errorf("the scope is %+v", s)
	}
	if _, err := p.ctl.Preview("nobody"); err == nil {
		t.Error("there is a scope of nobody")
	}
}

// TestQuarantineOnAFullDisk: whoever fills the disk does not keep itself from
// being cut off.
func TestQuarantineOnAFullDisk(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	full := func(path string, data []byte) error {
		if _, err := os.Stat(filepath.Join(p.sub("control"), reserveFile)); err == nil {
			return syscall.ENOSPC
		}
		return writeDurably(path, data)
	}
	p.ctl.mu.Lock()
	p.ctl.shelf.write = full
	p.ctl.mu.Unlock()
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y}"))
	wait(t, "a problem", func() bool { return len(p.ctl.Status().Problems) > 0 })
	if o, plan, _ := n.latest(); len(plan.Policy.Flows) != 1 {
		t.Errorf("generation %d came about on a full disk", o.Number)
	}
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	if o := n.waitNumber(e.Generation); len(o.Quarantines) != 1 {
		t.Error("no quarantine")
	}
}

func TestAFullDiskMakesNoGeneration(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	before := n.waitNumber(1)
	p.ctl.mu.Lock()
	p.ctl.shelf.write = func(string, []byte) error { return syscall.ENOSPC }
	p.ctl.mu.Unlock()
	if _, err := p.ctl.Quarantine(t.Context(), trainer()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the error is %v", err)
	}
	if after, _, _ := n.latest(); after.Number != before.Number {
		t.Errorf("generation %d came about", after.Number)
	}
	events, err := p.ctl.History()
	must(t, err)
	if last := events[len(events)-1]; last.Event != EventFailed || last.Error == "" {
		t.Errorf("the history ends with %+v", last)
	}
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y}"))
	wait(t, "a problem", func() bool { return len(p.ctl.Status().Problems) > 0 })
	p.ctl.mu.Lock()
	p.ctl.shelf.write = writeDurably
	p.ctl.mu.Unlock()
	n.waitNumber(before.Number + 1)
	wait(t, "no problem", func() bool { return len(p.ctl.Status().Problems) == 0 })
}
