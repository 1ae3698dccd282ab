package generation

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// TestResolverIsIntent: whatever it remembers, it says what Intent says, with
// clocks and plans going forth and back.
func TestResolverIsIntent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Resolver
		plans := map[string]*Plan{}
		for _, name := range []string{"one", "two"} {
			p := dated()
			p.Policy.Flows[0].Until = until(now.AddDate(0, 0, rapid.IntRange(-2, 3).Draw(t, "day")).Format(time.DateOnly)).Until
			plans[name] = p
		}
		q := policy.Question{From: policy.Party{Name: "a"}, To: policy.Party{Name: "b"}, Protocol: netset.TCP, Port: 80}
		for range rapid.IntRange(1, 12).Draw(t, "orders") {
			hours := func(of string) time.Time {
				return now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, of)) * time.Hour)
			}
			name := rapid.SampledFrom([]string{"one", "two"}).Draw(t, "plan")
			o := &Order{Number: 1, Plan: name, At: hours("at")}
			if rapid.Bool().Draw(t, "held") {
				o.Quarantines = []policy.Quarantine{{Target: "a"}}
			}
			at := hours("now")
			want, _ := Intent(o, plans[name], at)
			got, _ := r.Intent(o, plans[name], at)
			if w, g := want.Decide(q), got.Decide(q); w.Allowed != g.Allowed || w.Why() != g.Why() {
				t.Fatalf("plan %s, order at %v, now %v: %v %q, want %v %q", name, o.At, at, g.Allowed, g.Why(), w.Allowed, w.Why())
			}
		}
	})
}
