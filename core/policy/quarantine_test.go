package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/core/source"
)

const laboratory = `version: 1
platform: p
zones: {data: {role: data}, inner: {role: data, in: data}, train: {role: training}, out: {role: custom}, void: {role: custom}}
workloads:
  store: {zone: data, serves: {api: http/8080}}
  cache: {zone: inner, serves: {kv: redis/6379}}
  trainer: {zone: train}
  eval: {zone: train, serves: {ui: http/80}}
  logs: {zone: out, serves: {in: syslog/514, otlp: otlp/4317}}
  gw: {zone: out, serves: {proxy: http/3128}}
gateway: gw/proxy
telemetry: {to: logs/otlp, evidence: true, because: x, owner: y}
flows:
  - {from: zone/train, to: store/api, may: read, because: x, owner: y}
  - {from: trainer, to: logs/in, evidence: true, because: x, owner: y}
  - {from: trainer, to: eval/ui, because: x, owner: y}
  - {from: eval, to: cache/kv, because: x, owner: y}
  - {from: store, to: cache/kv, because: x, owner: y, until: 2026-11-21}
egress:
  - {from: trainer, to: pypi, because: x, owner: y}
exposures:
  - {to: eval/ui, from: internet, because: x, owner: y}
`

func ask(from, to string, port uint16) policy.Question {
	return policy.Question{From: party(from), To: party(to), Protocol: netset.TCP, Port: port}
}

func quarantine(target string, keep bool) policy.Quarantine {
	return policy.Quarantine{Target: target, Because: "it beacons", Operator: "ann", At: now.Add(-time.Minute), KeepEvidence: keep}
}

func TestQuarantine(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(laboratory))
	if ds.HasErrors() {
		t.Fatal(print(ds))
	}
	inet := policy.Party{Kind: policy.OutsideParty, Name: policy.Internet}
	pypi := policy.Party{Kind: policy.OutsideParty, Name: "pypi"}
	says := func(target string) string {
		return target + " is quarantined since 2026-11-22T11:59:00Z by ann: it beacons"
	}
	for _, c := range []struct {
		name string
		list []policy.Quarantine
		q    policy.Question
		why  string // empty if it is allowed
	}{
		{"nobody", nil, ask("trainer", "store", 8080), ""},
		{"its own permissions", []policy.Quarantine{quarantine("trainer", false)}, ask("trainer", "eval", 80), says("trainer")},
		{"those of its zone", []policy.Quarantine{quarantine("trainer", false)}, ask("trainer", "store", 8080), says("trainer")},
		{"not those of others in its zone", []policy.Quarantine{quarantine("trainer", false)}, ask("eval", "store", 8080), ""},
		{"what leads to it", []policy.Quarantine{quarantine("eval", false)}, ask("trainer", "eval", 80), says("eval")},
		{"what is exposed", []policy.Quarantine{quarantine("eval", false)}, policy.Question{From: inet, To: party("eval"), Port: 80}, says("eval")},
		{"its way out", []policy.Quarantine{quarantine("trainer", false)}, ask("trainer", "gw", 3128), says("trainer")},
		{"the way through a gateway", []policy.Quarantine{quarantine("gw", false)},
			policy.Question{From: party("trainer"), To: pypi, Port: 443}, says("gw")},
		{"a zone, and what is inside it", []policy.Quarantine{quarantine("zone/data", false)}, ask("eval", "cache", 6379), says("zone/data")},
		{"evidence is not kept unasked", []policy.Quarantine{quarantine("trainer", false)}, ask("trainer", "logs", 514), says("trainer")},
		{"evidence is kept", []policy.Quarantine{quarantine("trainer", true)}, ask("trainer", "logs", 514), ""},
		{"evidence of everybody is kept", []policy.Quarantine{quarantine("zone/train", true)}, ask("eval", "logs", 4317), ""},
		{"nothing else is kept with it", []policy.Quarantine{quarantine("trainer", true)}, ask("trainer", "store", 8080), says("trainer")},
		{"one that keeps nothing wins", []policy.Quarantine{quarantine("trainer", true), quarantine("zone/train", false)}, ask("trainer", "logs", 514), says("trainer")},
		{"no evidence to one in quarantine", []policy.Quarantine{quarantine("trainer", true), quarantine("logs", true)}, ask("trainer", "logs", 514), says("logs")},
		{"an unknown target", []policy.Quarantine{quarantine("trainr", false), quarantine("zone/trian", false), quarantine("train", false), quarantine("all", false),
			quarantine("", false), quarantine("zone/", false), quarantine("pypi", false)}, ask("trainer", "eval", 80), ""},
		{"what was never permitted", []policy.Quarantine{quarantine("trainer", false)}, ask("trainer", "store", 22), "the nearest is flow zone/train → store/api, which allows only"},
		{"what was not permitted to it", []policy.Quarantine{quarantine("trainer", false)}, ask("trainer", "cache", 6379), "the nearest is flow eval → cache/kv, which is for eval"},
		{"what expired before", []policy.Quarantine{quarantine("store", false)}, ask("store", "cache", 6379), "flow store → cache/kv expired on 2026-11-21"},
	} {
		q := c.q
		q.Protocol = netset.TCP
		a := in.Quarantined(c.list).Decide(q)
		if a.Allowed != (c.why == "") || !strings.HasPrefix(a.Why(), c.why) {
			t.Errorf("%s: allowed %v, %q, want %q", c.name, a.Allowed, a.Why(), c.why)
		}
		if strings.Contains(c.why, "quarantined") && (a.Nearest == nil || !strings.HasPrefix(a.Nearest.Name, "flow ") &&
			a.Nearest.Kind != policy.ExposureKind && a.Nearest.Kind != policy.GatewayKind && a.Nearest.Kind != policy.EgressKind) {
			t.Errorf("%s: nearest is %+v", c.name, a.Nearest)
		}
	}
}

func TestQuarantineTarget(t *testing.T) {
	in, _ := resolve(t, "p.yaml", []byte(laboratory))
	for target, want := range map[string]string{
		"trainer":    "[trainer]",
		"zone/data":  "[store cache]",
		"zone/inner": "[cache]",
		"zone/void":  "[]",
		"trainr":     `"trainr" is neither a workload nor a zone of the policy: did you mean trainer?`,
		"zone/trian": `"zone/trian" is neither a workload nor a zone of the policy: did you mean zone/train?`,
		"train":      `"train" is a zone: write zone/train to quarantine each of its workloads`,
		"all":        `"all" is neither a workload nor a zone of the policy: write WORKLOAD or zone/NAME`,
		"":           `"" is neither a workload nor a zone of the policy: write WORKLOAD or zone/NAME`,
		"zone/":      `"zone/" is neither a workload nor a zone of the policy: write WORKLOAD or zone/NAME`,
	} {
		parties, err := in.QuarantineTarget(target)
		got := fmt.Sprint(err)
		if err == nil {
			names := []string{}
			for _, p := range parties {
				names = append(names, p.Name)
			}
			got = fmt.Sprint(names)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", target, got, want)
		}
	}
}

// TestQuarantineIsSeenByTests: everything that asks the intent sees it.
func TestQuarantineIsSeenByTests(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(laboratory+`tests:
  - {from: eval, to: store/api, allow: [GET /x]}
  - {from: trainer, to: store/api, deny: any}
  - {from: trainer, to: pypi, deny: any}
`))
	if ds.HasErrors() {
		t.Fatal(print(ds))
	}
	if got := in.RunTests(); len(got) != 2 {
		t.Errorf("before: %v", got)
	}
	held := in.Quarantined([]policy.Quarantine{quarantine("trainer", false)})
	if got := held.RunTests(); len(got) != 0 {
		t.Errorf("in quarantine: %v", got)
	}
	for _, p := range held.Permissions {
		if p.From.Has(party("trainer")) || slices.Contains(p.From.Members, party("trainer")) {
			t.Errorf("%s is still there", p.Name)
		}
	}
	if got := in.RunTests(); len(got) != 2 || in.Decide(ask("trainer", "eval", 80)).Allowed != true {
		t.Error("the quarantine changed the intent that it was made from")
	}
}

var names = []string{"a", "b", "c", "d", "e", "f"}

// drawIntent draws a policy of all kinds of permission.
func drawIntent(t *rapid.T) *policy.Intent {
	var p policy.Policy
	text := func(s string) policy.Text { return policy.Text{Value: s} }
	texts := func(g *rapid.Generator[string], label string) []policy.Text {
		var out []policy.Text
		for _, s := range rapid.SliceOfNDistinct(g, 1, 3, rapid.ID[string]).Draw(t, label) {
			out = append(out, text(s))
		}
		return out
	}
	p.Zones = []policy.Zone{{Name: text("y")}, {Name: text("z"), In: text("y")}, {Name: text("w")}}
	for i, n := range names {
		p.Workloads = append(p.Workloads, policy.Workload{Name: text(n), Zone: text(rapid.SampledFrom([]string{"y", "z", "w"}).Draw(t, "zone")),
			Serves: []policy.Service{{Name: text("x"), Protocol: text("http"), Lo: uint16(80 + i), Hi: uint16(80 + i)}}})
	}
	from := rapid.SampledFrom(append([]string{"all", "zone/y", "zone/z", "zone/w"}, names...))
	to := rapid.SampledFrom(append([]string{"zone/z"}, names...))
	for range rapid.IntRange(0, 8).Draw(t, "flows") {
		f := policy.Flow{From: texts(from, "from"), To: texts(to, "to"), Evidence: rapid.Bool().Draw(t, "evidence")}
		if rapid.Bool().Draw(t, "limited") {
			f.May = []policy.Text{text("read")}
		}
		if rapid.IntRange(0, 4).Draw(t, "expired") == 0 {
			f.Until = policy.Date{Time: now.AddDate(0, 0, -5)}
		}
		p.Flows = append(p.Flows, f)
	}
	if rapid.Bool().Draw(t, "gateway") {
		p.Gateway = &policy.Gateway{Through: text("f/x")}
	}
	if rapid.Bool().Draw(t, "out") {
		p.Egress = []policy.Egress{{From: texts(from, "leaves"), To: []policy.Text{text("example.com")}}}
		p.Exposures = []policy.Exposure{{To: texts(to, "exposed"), From: []policy.Text{text("internet")}}}
	}
	if rapid.Bool().Draw(t, "telemetry") {
		p.Telemetry = &policy.Telemetry{To: text("e/x"), Evidence: rapid.Bool().Draw(t, "kept")}
	}
	in, _ := policy.Resolve(&p, now) // a zone without services is an error and permits nothing
	return in
}

func drawQuarantines(t *rapid.T, label string) []policy.Quarantine {
	targets := rapid.SampledFrom(append([]string{"zone/y", "zone/z", "zone/w", "nobody"}, names...))
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) policy.Quarantine {
		return policy.Quarantine{Target: targets.Draw(t, "target"), Because: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "because"),
			KeepEvidence: rapid.Bool().Draw(t, "keep")}
	}), 0, 3).Draw(t, label)
}

// everybody are all parties of a drawn intent.
func everybody() []policy.Party {
	out := []policy.Party{{Kind: policy.OutsideParty, Name: policy.Internet}, {Kind: policy.OutsideParty, Name: "example.com"}, party("nobody")}
	for _, n := range names {
		out = append(out, party(n))
	}
	return out
}

// said is everything that an intent answers, as text.
func said(in *policy.Intent) string {
	var b strings.Builder
	for _, p := range in.Permissions {
		fmt.Fprintf(&b, "%s from %v to %v: %s\n", p.Name, p.From.Members, p.To, p.Traffic)
	}
	for _, from := range everybody() {
		for _, to := range everybody() {
			for _, port := range []uint16{80, 81, 82, 83, 84, 85, 443} {
				a := in.Decide(policy.Question{From: from, To: to, Protocol: netset.TCP, Port: port})
				fmt.Fprintf(&b, "%v → %v: %v %s\n", from, to, a.Allowed, a.Why())
			}
		}
	}
	return b.String()
}

// same reports the first line that differs.
func same(t *rapid.T, what, got, want string) {
	if got == want {
		return
	}
	lines := strings.Split(want, "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(lines) || line != lines[i] {
			t.Fatalf("%s: %q, want %q", what, line, lines[min(i, len(lines)-1)])
		}
	}
	t.Fatalf("%s: shorter", what)
}

func TestQuarantineProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, a, b := drawIntent(t), drawQuarantines(t, "a"), drawQuarantines(t, "b")
		before := said(in)
		both := in.Quarantined(slices.Concat(a, b))
		once := said(both)
		same(t, "one after the other", said(in.Quarantined(a).Quarantined(b)), once)
		same(t, "again", said(both.Quarantined(a)), once)
		same(t, "what it was made from", said(in), before)
		checkQuarantined(t, in, both, slices.Concat(a, b))
	})
}

// checkQuarantined holds what is left between each two parties against what the
// rules say, one permission at a time.
func checkQuarantined(t *rapid.T, in, got *policy.Intent, list []policy.Quarantine) {
	keeps := map[policy.Party]bool{} // quarantined → all of its quarantines keep evidence
	for _, q := range list {
		parties, err := in.QuarantineTarget(q.Target)
		if (err != nil) != (q.Target == "nobody") {
			t.Fatal(err)
		}
		for _, p := range parties {
			all, again := keeps[p]
			keeps[p] = q.KeepEvidence && (all || !again)
		}
	}
	for _, from := range everybody() {
		for _, to := range everybody() {
			var want netset.Traffic
			for _, p := range in.Permissions {
				keep, held := keeps[from]
				_, toHeld := keeps[to]
				_, viaHeld := keeps[party(p.Via)]
				if p.To == to && p.From.Has(from) && !toHeld && !(p.Via != "" && viaHeld) && (!held || keep && p.Evidence) {
					want = want.Union(p.Traffic)
				}
			}
			if left := got.Between(from, to); !left.Equal(want) {
				t.Fatalf("%v → %v: %s, want %s", from, to, left, want)
			}
		}
	}
}

func BenchmarkQuarantine10k(b *testing.B) {
	in := large(b, 10_000)
	for name, list := range map[string][]policy.Quarantine{
		"workload": {quarantine("w17", false)},
		"hub":      {quarantine("hub", false)},
		"zone":     {quarantine("zone/z", true)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				in.Quarantined(list)
			}
		})
	}
}

func TestRates(t *testing.T) {
	for text, want := range map[string]uint64{
		"1B/s": 1, "100MiB/s": 100 << 20, "2KiB/s": 2048, "3kB/s": 3000, "1GB/s": 1e9, "5MB/s": 5e6, "8kbit/s": 1000, "10Mbit/s": 1_250_000,
		"100Gbit/s": 12_500_000_000, "1024GiB/s": 1 << 40, "1GiB/s": 1 << 30,
		"": 0, "/s": 0, "B/s": 0, "1/s": 0, "1B": 0, "0B/s": 0, "01B/s": 0, "1 B/s": 0, "+1B/s": 0, "-1B/s": 0, "1.5MB/s": 0, "1e3B/s": 0, "1b/s": 0,
		"1bit/s": 0, "1MiB/s/s": 0, "1025GiB/s": 0, "18446744073709551616B/s": 0, "18446744073709551615GiB/s": 0, "٣B/s": 0,
	} {
		got, err := policy.ParseRate(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("100MiB/s")
	f.Add("18446744073709551615GiB/s")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := policy.ParseRate(text)
		if (err == nil) != (n > 0) || n > 1<<40 {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	})
}

// TestFlowTerms: what a flow says beyond its traffic reaches the permission,
// and a flow with wrong terms permits nothing.
func TestFlowTerms(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(`version: 1
platform: p
zones: {z: {role: training}}
workloads: {a: {zone: z}, s: {zone: z, serves: {x: http/80, nccl: nccl/29500}}}
telemetry: {to: s/x, from: a, evidence: true}
flows:
  - {from: a, to: s/nccl, plaintext: true, because: x, owner: y}
  - {from: a, to: s/x, rate: 1MiB/s, evidence: true, because: x, owner: y}
  - {from: a, to: s/x, because: x, owner: y}
`))
	if ds.HasErrors() {
		t.Fatal(print(ds))
	}
	var got []string
	for _, p := range in.Permissions {
		got = append(got, fmt.Sprintf("%s %v %d %v", p.Kind, p.Plaintext, p.Rate, p.Evidence))
	}
	want := []string{"flow true 0 false", "flow false 1048576 true", "flow false 0 false", "telemetry false 0 true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	text := func(s string) policy.Text { return policy.Text{Value: s, Pos: source.Pos{Line: 1}} }
	why := policy.Why{Because: text("x"), Owner: text("y")}
	for name, f := range map[string]policy.Flow{
		"a rate that cannot be read":      {Rate: text("fast"), Why: why},
		"plaintext without a reason":      {Plaintext: true, Why: policy.Why{Owner: text("y")}},
		"plaintext without an owner":      {Plaintext: true, Why: policy.Why{Because: text("x")}},
		"plaintext with a rate":           {Plaintext: true, Rate: text("1B/s"), Why: why},
		"plaintext limited at a service":  {Plaintext: true, May: []policy.Text{text("GET /x")}, Why: why},
		"plaintext limited at one of two": {Plaintext: true, May: []policy.Text{text("call")}, To: []policy.Text{text("s/x"), text("g/rpc")}, Why: why},
	} {
		p := *in.Policy
		f.From = []policy.Text{text("a")}
		if f.To == nil {
			f.To = []policy.Text{text("s/x")}
		}
		p.Workloads = append(slices.Clone(p.Workloads), policy.Workload{Name: text("g"), Zone: text("z"),
			Serves: []policy.Service{{Name: text("rpc"), Protocol: text("grpc"), Lo: 9090, Hi: 9090}}})
		p.Flows, p.Telemetry = []policy.Flow{f}, nil
		if wrong, ds := policy.Resolve(&p, now); !ds.HasErrors() || len(wrong.Permissions) > 0 {
			t.Errorf("%s: %d permissions, %v", name, len(wrong.Permissions), ds)
		}
	}
}
