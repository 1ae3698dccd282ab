package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/policyfile"
)

// TestDecideEqualsBetween: the single decision and its symbolic form agree.
func TestDecideEqualsBetween(t *testing.T) {
	in, _ := resolve(t, "p.yaml", []byte(platform))
	parties := []policy.Party{party("store"), party("cache"), party("job"), party("eval"), party("gw"),
		{Kind: policy.OutsideParty, Name: policy.Internet}, {Kind: policy.OutsideParty, Name: "pypi"}, {Kind: policy.OutsideParty, Name: "203.0.113.0/24"}}
	rapid.Check(t, func(t *rapid.T) {
		q := policy.Question{
			From: rapid.SampledFrom(parties).Draw(t, "from"), To: rapid.SampledFrom(parties).Draw(t, "to"),
			Port:     rapid.SampledFrom([]uint16{80, 443, 3128, 5432, 6379, 8080}).Draw(t, "port"),
			Protocol: rapid.SampledFrom([]netset.Protocol{netset.TCP, netset.UDP}).Draw(t, "protocol"),
		}
		all := in.Between(q.From, q.To)
		check := func(what string, want bool) {
			if got := in.Decide(q); got.Allowed != want {
				t.Fatalf("%s: %+v: Decide %v, Between %v", what, q, got.Allowed, want)
			} else if got.Allowed != (got.Permission != nil) || got.Allowed != (got.Why() == "") {
				t.Fatalf("%s: %+v: %+v, which says %q", what, q, got, got.Why())
			}
		}
		check("opening", all.Opens(q.Protocol, q.Port))
		q.Whole = true
		check("whole", all.Has(q.Protocol, q.Port))
		q.Whole = false
		q.Request = &netset.Request{Method: rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method"), Host: "h",
			Path: rapid.SampledFrom([]string{"/", "/public/x", "/public", "/x/y"}).Draw(t, "path")}
		check("request", all.HasRequest(q.Protocol, q.Port, *q.Request))
	})
}

// TestWholeNeedsEveryRequest: what is limited to some requests may open, but
// not where nobody will look at them.
func TestWholeNeedsEveryRequest(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(platform))
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	inet := policy.Party{Kind: policy.OutsideParty, Name: policy.Internet}
	for _, c := range []struct {
		name     string
		from, to policy.Party
		port     uint16
		opens    bool
		whole    bool
	}{
		{"limited by a word", party("eval"), party("store"), 8080, true, false},
		{"limited by a pattern", inet, party("eval"), 80, true, false},
		{"limited, and by another permission not", party("job"), party("store"), 8080, true, true},
		{"left to the application", party("eval"), party("store"), 5432, true, true},
		{"not limited", party("job"), party("cache"), 6379, true, true},
		{"denied", party("store"), party("cache"), 6379, false, false},
	} {
		q := policy.Question{From: c.from, To: c.to, Protocol: netset.TCP, Port: c.port}
		if got := in.Decide(q).Allowed; got != c.opens {
			t.Errorf("%s: opens %v", c.name, got)
		}
		q.Whole = true
		a := in.Decide(q)
		if a.Allowed != c.whole {
			t.Errorf("%s: whole %v", c.name, a.Allowed)
		}
		if c.opens && !c.whole && !strings.Contains(a.Why(), "which allows only") {
			t.Errorf("%s: %q", c.name, a.Why())
		}
		q.Request = &netset.Request{Method: "GET", Host: "h", Path: "/public/x"}
		if got := in.Decide(q).Allowed; got != c.whole {
			t.Errorf("%s: a request does not make it less than whole: %v", c.name, got)
		}
	}
}

// TestFirstInPolicyOrderDecides: whether a permission is of a group or of one
// party, the first that holds the question is the one that is named.
func TestFirstInPolicyOrderDecides(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(`version: 1
platform: p
zones: {z: {role: custom}}
workloads: {a: {zone: z}, b: {zone: z}, s: {zone: z, serves: {x: http/80}}}
flows:
  - {from: b, to: s/x, may: GET /b, because: x, owner: y}
  - {from: zone/z, to: s/x, may: GET /zone, because: x, owner: y}
  - {from: a, to: s/x, may: [GET /a, GET /zone], because: x, owner: y}
  - {from: all, to: s/x, may: [GET /a, GET /all], because: x, owner: y}
`))
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	for path, want := range map[string]int{"/zone": 7, "/a": 8, "/all": 9, "/b": 0} {
		a := in.Decide(policy.Question{From: party("a"), To: party("s"), Protocol: netset.TCP, Port: 80, Request: &netset.Request{Method: "GET", Path: path}})
		switch {
		case want == 0 && (a.Allowed || a.Nearest.Pos.Line != 9):
			t.Errorf("%s: %+v, %s", path, a, a.Why())
		case want > 0 && (!a.Allowed || a.Permission.Pos.Line != want):
			t.Errorf("%s: decided by %+v, want line %d", path, a.Permission, want)
		}
	}
}

// large returns an intent of n workloads: each may use the next but six, and
// all may use one, each by a permission of its own. Half are expired as well.
func large(tb testing.TB, n int) *policy.Intent {
	tb.Helper()
	var text strings.Builder
	text.WriteString("version: 1\nplatform: p\nzones: {z: {role: custom}}\nworkloads:\n  hub: {zone: z, serves: {a: http/8080, b: http/9090}}\n")
	for i := range n {
		fmt.Fprintf(&text, "  w%d: {zone: z, serves: {a: http/8080}}\n", i)
	}
	text.WriteString("flows:\n")
	for i := range n {
		fmt.Fprintf(&text, "  - {from: w%d, to: w%d/a, because: x, owner: y}\n", i, (i+7)%n)
		fmt.Fprintf(&text, "  - {from: w%d, to: hub/a, may: read, because: x, owner: y}\n", i)
		fmt.Fprintf(&text, "  - {from: w%d, to: hub/b, because: x, owner: y, until: 2026-01-01}\n", i)
	}
	p, ds := policyfile.Parse([]policyfile.File{{Name: "p", Text: []byte(text.String())}})
	if ds.HasErrors() {
		tb.Fatal(ds)
	}
	in, ds := policy.Resolve(p, now)
	if ds.HasErrors() {
		tb.Fatal(ds)
	}
	return in
}

// questions are some that the large intent allows, and some that it denies.
func questions() (allowed, denied []policy.Question) {
	get := &netset.Request{Method: "GET", Host: "h", Path: "/x/y/z"}
	put := &netset.Request{Method: "PUT", Host: "h", Path: "/x/y/z"}
	ask := func(from, to string, port uint16, r *netset.Request, whole bool) policy.Question {
		return policy.Question{From: party(from), To: party(to), Protocol: netset.TCP, Port: port, Request: r, Whole: whole}
	}
	allowed = []policy.Question{ask("w10", "w17", 8080, nil, false), ask("w17", "w24", 8080, nil, true),
		ask("w9000", "hub", 8080, nil, false), ask("w9000", "hub", 8080, get, false)}
	denied = []policy.Question{ask("w10", "w18", 8080, nil, false), ask("w9000", "hub", 8080, nil, true),
		ask("w9000", "hub", 8080, put, false), ask("w9000", "hub", 9090, nil, false), // expired
		ask("hub", "w1", 8080, nil, false), ask("w5", "hub", 22, nil, false), ask("nobody", "hub", 8080, get, false)}
	return allowed, denied
}

func TestDecideAllocatesNothing(t *testing.T) {
	in := large(t, 9_500)
	held := in.Quarantined([]policy.Quarantine{{Target: "w9000"}, {Target: "w24"}})
	allowed, denied := questions()
	for i, q := range append(allowed, denied...) {
		if got := in.Decide(q).Allowed; got != (i < len(allowed)) {
			t.Errorf("%+v: allowed %v", q, got)
		}
		for name, in := range map[string]*policy.Intent{"": in, " in quarantine": held} {
			if n := testing.AllocsPerRun(100, func() { in.Decide(q) }); n != 0 {
				t.Errorf("%+v%s: %v allocations", q, name, n)
			}
		}
	}
}

func BenchmarkDecide10kAllow(b *testing.B) {
	allowed, _ := questions()
	benchmarkDecide(b, allowed, true)
}

func BenchmarkDecide10kDeny(b *testing.B) {
	_, denied := questions()
	benchmarkDecide(b, denied, false)
}

func benchmarkDecide(b *testing.B, questions []policy.Question, want bool) {
	in := large(b, 10_000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if in.Decide(questions[i%len(questions)]).Allowed != want {
			b.Fatal(questions[i%len(questions)])
		}
	}
}

func BenchmarkResolve10k(b *testing.B) {
	in := large(b, 10_000)
	for b.Loop() {
		policy.Resolve(in.Policy, now)
	}
}
