package generation

import (
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

func text(s string) policy.Text { return policy.Text{Value: s} }

func until(day string) policy.Why {
	t, err := time.Parse(time.DateOnly, day)
	if err != nil {
		panic(err)
	}
	return policy.Why{Until: policy.Date{Time: t}}
}

func dated() *Plan {
	return &Plan{Policy: &policy.Policy{
		Zones: []policy.Zone{{Name: text("z")}},
		Workloads: []policy.Workload{{Name: text("a"), Zone: text("z")},
			{Name: text("b"), Zone: text("z"), Serves: []policy.Service{{Name: text("x"), Protocol: text("http"), Lo: 80, Hi: 80}}}},
		Flows: []policy.Flow{{From: []policy.Text{text("a")}, To: []policy.Text{text("b/x")}, Why: until("2026-11-25")}},
	}}
}

func TestIntent(t *testing.T) {
	p, o := dated(), &Order{Number: 1, At: now}
	q := policy.Question{From: policy.Party{Name: "a"}, To: policy.Party{Name: "b"}, Protocol: netset.TCP, Port: 80}
	for name, c := range map[string]struct {
		at    time.Time
		now   time.Time
		held  bool
		allow bool
		why   string
	}{
		"in force":                {now, now, false, true, ""},
		"expired":                 {now, now.AddDate(0, 0, 4), false, false, "expired on 2026-11-25"},
		"a clock that went back":  {now.AddDate(0, 0, 4), now, false, false, "expired on 2026-11-25"},
		"in quarantine":           {now, now, true, false, "a is quarantined since"},
		"the last moment":         {now, time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC), false, true, ""},
		"a clock before the last": {now, time.Time{}, false, true, ""},
	} {
		o.At, o.Quarantines = c.at, nil
		if c.held {
			o.Quarantines = []policy.Quarantine{{Target: "a"}}
		}
		in, ds := Intent(o, p, c.now)
		if ds.HasErrors() {
			t.Fatal(ds)
		}
		if a := in.Decide(q); a.Allowed != c.allow || !strings.Contains(a.Why(), c.why) {
			t.Errorf("%s: %v, %q", name, a.Allowed, a.Why())
		}
	}
}

func TestNext(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 11, d, 0, 0, 0, 0, time.UTC) }
	p := dated()
	p.Policy.Egress = []policy.Egress{{Why: until("2026-11-23")}}
	p.Policy.Endpoints = []policy.Endpoint{{Why: until("2026-11-26")}, {}}
	p.Policy.Exposures = []policy.Exposure{{Why: until("2026-11-27")}}
	p.Policy.DNS = &policy.DNS{Why: until("2026-11-28")}
	p.Policy.Telemetry = &policy.Telemetry{Why: until("2026-11-21")}
	p.Policy.Relaxations = []policy.Relaxation{{Why: until("2026-11-22")}} // permits nothing
	at, o := now, &Order{Number: 1, At: now}
	for _, want := range []int{24, 26, 27, 28, 29} {
		next := Next(o, p, at)
		if !next.Equal(day(want)) {
			t.Fatalf("after %v: %v, want the %dth", at, next, want)
		}
		at = next
	}
	if next := Next(o, p, at); !next.IsZero() {
		t.Errorf("after the last: %v", next)
	}
	if next := Next(o, p, time.Time{}); !next.Equal(day(24)) {
		t.Errorf("with a clock before the order's: %v", next)
	}
}

// TestNextIsWhenIntentChanges: from one moment to just before the next, a
// generation allows the same; at the next, less.
func TestNextIsWhenIntentChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, o := dated(), &Order{Number: 1, At: now.AddDate(0, 0, rapid.IntRange(-3, 3).Draw(t, "order"))}
		p.Policy.Flows = nil
		for range rapid.IntRange(0, 5).Draw(t, "flows") {
			f := policy.Flow{From: []policy.Text{text("a")}, To: []policy.Text{text("b/x")}}
			if rapid.Bool().Draw(t, "dated") {
				f.Why = until(now.AddDate(0, 0, rapid.IntRange(-3, 5).Draw(t, "day")).Format(time.DateOnly))
			}
			p.Policy.Flows = append(p.Policy.Flows, f)
		}
		at := now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "hours")) * time.Hour)
		count := func(at time.Time) int { in, _ := Intent(o, p, at); return len(in.Permissions) }
		next := Next(o, p, at)
		if next.IsZero() {
			if count(at) != count(at.AddDate(100, 0, 0)) {
				t.Fatal("something expires that was not announced")
			}
			return
		}
		if !next.After(at) || count(next.Add(-1)) != count(at) || count(next) >= count(at) {
			t.Fatalf("%v → %v: %d, just before %d, then %d", at, next, count(at), count(next.Add(-1)), count(next))
		}
	})
}

func TestTrustDomain(t *testing.T) {
	for _, c := range []struct{ declared, platform, want string }{
		{"ai.acme.internal", "acme", "ai.acme.internal"},
		{"", "acme", "acme.bulkhead.internal"},
		{"", "", "platform.bulkhead.internal"},
		{"", "acme_2.eu-west", "acme_2.eu-west.bulkhead.internal"},
		{"AI.Acme", "", "ai.acme"},
		{"spiffe://ai/x", "", "spiffe---ai-x"},
	} {
		if got := TrustDomain(&policy.Policy{TrustDomain: text(c.declared), Platform: text(c.platform)}); got != c.want {
			t.Errorf("%q, %q: %q, want %q", c.declared, c.platform, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := &policy.Policy{TrustDomain: text(rapid.String().Draw(t, "declared")), Platform: text(rapid.String().Draw(t, "platform"))}
		got := TrustDomain(p)
		td, err := spiffeid.TrustDomainFromString(got)
		if err != nil || td.Name() != got {
			t.Fatalf("%q: %v, %v", got, td, err)
		}
	})
}
