package control

import (
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
)

func TestAChangeReachesTheNode(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	o := n.waitNumber(1)
	if o.Platform != testPlatform || o.TrustDomain != testDomain {
		t.Errorf("the order is for %s, %s", o.Platform, o.TrustDomain)
	}
	began := time.Now()
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y}"))
	wait(t, "two flows", func() bool { _, plan, _ := n.latest(); return plan != nil && len(plan.Policy.Flows) == 2 })
	t.Logf("from the file to the node in %s", time.Since(began))
	first, _, _ := n.latest()
	wait(t, "a confirmation", func() bool {
		s := p.ctl.Status()
		return len(s.Nodes) == 1 && s.Nodes[0].Live && s.Nodes[0].Generation == first.Number && s.Nodes[0].Open == 7
	})
	n.neverBack()
}

func TestAPolicyThatIsWrongChangesNothing(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	before := n.waitNumber(1)
	for name, text := range map[string]string{
		"syntax":       "version: [",
		"reference":    testPolicy("  - {from: nobody, to: store/api, because: x, owner: y}"),
		"failed test":  testPolicy("tests:", "  - {from: trainer, to: store/api, deny: [any]}"),
		"platform":     strings.Replace(testPolicy(), "platform: acme.ai", "platform: other", 1),
		"trust domain": strings.Replace(testPolicy(), "acme.test", "other.test", 1),
		"empty":        "",
	} {
		t.Run(name, func(t *testing.T) {
			p.setPolicy(text)
			wait(t, "a problem", func() bool { return len(p.ctl.Status().Problems) > 0 })
			says := p.ctl.Status().Problems[0]
			t.Log(says)
			if !strings.Contains(says, "stays in force") {
				t.Errorf("it does not say what is in force: %s", says)
			}
			p.setPolicy(testPolicy())
			wait(t, "no problem", func() bool { return len(p.ctl.Status().Problems) == 0 })
		})
	}
	if after, _, _ := n.latest(); after.Plan != before.Plan || after.Number != before.Number {
		t.Errorf("generation %d followed %d", after.Number, before.Number)
	}
}

func TestARestartGoesOn(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	if _, err := p.ctl.Quarantine(t.Context(), policy.Quarantine{Target: "trainer", Because: "test", Operator: "me"}); err != nil {
		t.Fatal(err)
	}
	before, _, _ := n.latest()
	p.stop()
	p.startControl()
	time.Sleep(3 * pollEvery)
	if s := p.ctl.Status(); s.Generation != before.Number || len(s.Quarantines) != 1 || len(s.Problems) != 0 {
		t.Errorf("after a restart without a change it has %+v, not generation %d", s, before.Number)
	}
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y}"))
	o := n.waitNumber(before.Number + 1)
	if len(o.Quarantines) != 1 {
		t.Errorf("a changed policy lost the quarantine")
	}
	n.neverBack()
}

func TestTimeNeverRunsBack(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	p.clock.Store(int64(48 * time.Hour))
	if _, err := p.ctl.Quarantine(t.Context(), policy.Quarantine{Target: "trainer", Because: "test", Operator: "me"}); err != nil {
		t.Fatal(err)
	}
	forward, _, _ := n.latest()
	p.clock.Store(0)
	if _, err := p.ctl.Release(t.Context(), "trainer", "test", "me"); err != nil {
		t.Fatal(err)
	}
	back, _, _ := n.latest()
	if back.Number <= forward.Number || back.At.Before(forward.At) {
		t.Errorf("generation %d at %s followed %d at %s", back.Number, back.At, forward.Number, forward.At)
	}
	if s := p.ctl.Status(); len(s.Problems) == 0 || !strings.Contains(s.Problems[0], "set the clock") {
		t.Errorf("nobody is told of the clock: %v", s.Problems)
	}
}

func TestAPermissionThatEndsMakesAGeneration(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	tomorrow := p.now().UTC().Add(24 * time.Hour).Format(time.DateOnly)
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y, until: " + tomorrow + "}"))
	n := p.join("n1")
	wait(t, "two flows", func() bool { _, plan, _ := n.latest(); return plan != nil && len(plan.Policy.Flows) == 2 })
	before, _, _ := n.latest()
	p.clock.Store(int64(72 * time.Hour))
	after := n.waitNumber(before.Number + 1)
	if after.Plan != before.Plan || !after.At.After(before.At.Add(48*time.Hour)) {
		t.Errorf("generation %d is at %s with plan %s", after.Number, after.At, after.Plan)
	}
	// With control away the node sees to it by itself.
	p.clock.Store(0)
	time.Sleep(5 * pollEvery)
	if o, _, _ := n.latest(); o.Number != after.Number {
		t.Errorf("a clock that was set back made generation %d", o.Number)
	}
}

func TestANodeEndsPermissionsWithoutControl(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	tomorrow := p.now().UTC().Add(24 * time.Hour).Format(time.DateOnly)
	p.setPolicy(testPolicy("  - {from: store, to: store/api, because: x, owner: y, until: " + tomorrow + "}"))
	n := p.join("n1")
	wait(t, "two flows", func() bool { _, plan, _ := n.latest(); return plan != nil && len(plan.Policy.Flows) == 2 })
	p.stop()
	_, _, times := n.latest()
	p.clock.Store(int64(72 * time.Hour))
	wait(t, "to be applied again", func() bool { _, _, again := n.latest(); return again > times })
}
