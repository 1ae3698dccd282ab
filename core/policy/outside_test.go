package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// The pools from which random policies and questions about the outside are made:
// names that are nearly each other, and addresses of every kind.
var (
	outsideNames = []string{"a.test", "b.a.test", "c.b.a.test", "nota.test", "*.a.test", "*.b.a.test", "*.test.example", "z.test.example", "A.test"}
	outsideHosts = []string{"", "a.test", "b.a.test", "c.b.a.test", "d.c.b.a.test", "nota.test", "a.test.example", "test.example", "z.test.example",
		".a.test", "b..a.test", "..a.test", "a.test.", "A.test", "test", "8.8.8.8", "127.0.0.1", "1.a.test", "*.a.test", "2130706433", "::1"}
	outsideCIDRs = []string{"0.0.0.0/0", "::/0", "8.8.8.0/24", "8.8.8.8", "10.0.0.0/8", "10.0.0.5", "127.0.0.1", "169.254.169.254", "169.254.0.0/16", "fd00::/8"}
	outsideAddrs = []string{"", "8.8.8.8", "8.8.8.9", "9.9.9.9", "10.0.0.5", "10.1.0.1", "127.0.0.1", "169.254.169.254", "169.254.1.1", "100.100.100.200",
		"::ffff:10.0.0.5", "::ffff:8.8.8.8", "fe80::1%eth0", "2606:4700::1", "2606:4700::1%eth0", "64:ff9b::a00:5", "fd00::1", "::", "224.0.0.1"}
	outsideSources = []string{"w0", "w1", "w2", "w3", "gw", "zone/x", "zone/y", "all"}
)

// world is a random policy of egress with what holds in it, said independently.
type world struct {
	p      *policy.Policy
	in     *policy.Intent // in quarantine, if held is not empty
	base   *policy.Intent
	held   []string // workloads in quarantine
	mode   string   // empty for enforce
	modeOf []string
}

func text(s string) policy.Text { return policy.Text{Value: s} }

func draw[T any](t *rapid.T, what string, from []T) T { return rapid.SampledFrom(from).Draw(t, what) }

func drawTexts(t *rapid.T, what string, from []string, least, most int) []policy.Text {
	var out []policy.Text
	for range rapid.IntRange(least, most).Draw(t, what) {
		out = append(out, text(draw(t, what, from)))
	}
	return out
}

func drawWhy(t *rapid.T) policy.Why {
	w := policy.Why{Because: text("x"), Owner: text("y")}
	if days := draw(t, "until", []int{-1, -1, 0, 1}); days >= 0 {
		w.Until.Time = now.Truncate(24*time.Hour).AddDate(0, 0, days-1) // yesterday, or today, which still counts
	}
	return w
}

// members says which workloads a word means.
func members(word string) []string {
	switch word {
	case "all":
		return []string{"w0", "w1", "w2", "w3", "gw"}
	case "zone/x":
		return []string{"w0", "w1"}
	case "zone/y":
		return []string{"w2", "w3", "gw"}
	case "nobody", "zone/none":
		return nil
	}
	return []string{word}
}

func drawWorld(t *rapid.T) *world {
	w := &world{p: &policy.Policy{Zones: []policy.Zone{{Name: text("x"), Role: text("custom")}, {Name: text("y"), Role: text("custom")}}}}
	for name, zone := range map[string]string{"w0": "x", "w1": "x", "w2": "y", "w3": "y"} {
		w.p.Workloads = append(w.p.Workloads, policy.Workload{Name: text(name), Zone: text(zone)})
	}
	slices.SortFunc(w.p.Workloads, func(a, b policy.Workload) int { return strings.Compare(a.Name.Value, b.Name.Value) })
	w.p.Workloads = append(w.p.Workloads, policy.Workload{Name: text("gw"), Zone: text("y"),
		Serves: []policy.Service{{Name: text("proxy"), Protocol: text("http"), Lo: 3128, Hi: 3128}}})
	for i := range rapid.IntRange(0, 3).Draw(t, "destinations") {
		w.p.Destinations = append(w.p.Destinations, policy.Destination{Name: text(fmt.Sprint("d", i)), Hosts: drawTexts(t, "hosts", outsideNames, 1, 3),
			Addresses: drawTexts(t, "addresses", outsideCIDRs, 0, 2)})
	}
	to := slices.Concat(outsideNames, outsideCIDRs)
	for _, d := range w.p.Destinations {
		to = append(to, d.Name.Value, d.Name.Value)
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "egress") {
		w.p.Egress = append(w.p.Egress, policy.Egress{From: drawTexts(t, "from", outsideSources, 1, 2), To: drawTexts(t, "to", to, 1, 2),
			Ports: drawTexts(t, "ports", []string{"443", "80"}, 0, 1), May: drawTexts(t, "may", []string{"read", "GET /x"}, 0, 1), Why: drawWhy(t),
			Pos: source.Pos{File: "p", Line: 100 + i, Col: 1}})
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "endpoints") {
		w.p.Endpoints = append(w.p.Endpoints, policy.Endpoint{Name: text(fmt.Sprint("e", i)), Hosts: drawTexts(t, "hosts", outsideNames, 1, 2),
			Address: text(draw(t, "address", outsideCIDRs)), Consumers: drawTexts(t, "consumers", outsideSources, 1, 1), Why: drawWhy(t)})
	}
	w.drawGateway(t)
	w.base, _ = policy.Resolve(w.p, now)
	var list []policy.Quarantine
	for _, target := range drawTexts(t, "quarantine", []string{"w0", "w2", "gw", "zone/x"}, 0, 2) {
		list = append(list, policy.Quarantine{Target: target.Value})
		w.held = append(w.held, members(target.Value)...)
	}
	w.in = w.base.Quarantined(list)
	return w
}

func (w *world) drawGateway(t *rapid.T) {
	g := &policy.Gateway{Mode: text(draw(t, "mode", []string{"", policy.Enforce, policy.ReportOnly, policy.Observe, "obsrve"})), Why: drawWhy(t),
		For: drawTexts(t, "for", append([]string{"nobody", "zone/none"}, outsideSources...), 0, 2)}
	if rapid.Bool().Draw(t, "through") {
		g.Through = text("gw/proxy")
	}
	if rapid.IntRange(0, 3).Draw(t, "unexplained") == 0 {
		g.Owner = policy.Text{}
	}
	w.p.Gateway = g
	known := g.Mode.Value == policy.ReportOnly || g.Mode.Value == policy.Observe
	today := now.Truncate(24 * time.Hour)
	if !known || g.Owner.Value == "" || g.Until.Time.IsZero() || g.Until.Time.Before(today) {
		return
	}
	w.mode = g.Mode.Value
	for _, f := range g.For {
		w.modeOf = append(w.modeOf, members(f.Value)...)
	}
	if len(g.For) == 0 {
		w.modeOf = members("all")
	}
}

func drawQuestion(t *rapid.T) policy.Question {
	q := policy.Question{From: party(draw(t, "from", []string{"w0", "w1", "w2", "w3", "gw", "nobody"})), To: policy.Outside, Protocol: netset.TCP,
		Port: draw(t, "port", []uint16{443, 443, 80, 22}), Host: draw(t, "host", outsideHosts), Via: draw(t, "via", []string{"", "gw", "w3"})}
	if a := draw(t, "addr", outsideAddrs); a != "" {
		q.Addr = netip.MustParseAddr(a)
	}
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		q.Whole = true
	case 1:
		q.Request = &netset.Request{Method: draw(t, "method", []string{"GET", "PUT"}), Host: q.Host, Path: draw(t, "path", []string{"/x", "/y", "/%78", "/y/../x"})}
	}
	return q
}

// named says whether a name of a policy means a host, label by label.
func named(name, host string) bool {
	want, got := strings.Split(strings.ToLower(name), "."), strings.Split(host, ".")
	if slices.Contains(got, "") {
		return false
	}
	if want[0] != "*" {
		return slices.Equal(want, got)
	}
	want = want[1:]
	return len(got) > len(want) && slices.Equal(want, got[len(got)-len(want):])
}

func within(a netip.Addr, set netset.Addrs) bool {
	for _, p := range set.Prefixes() {
		if a.Zone() == "" && p.Contains(a) {
			return true
		}
	}
	return false
}

// permits is the oracle: whether one permission permits the question.
func permits(w *world, p *policy.Permission, q policy.Question) bool {
	if p.To.Kind != policy.OutsideParty || !slices.Contains(p.From.Members, q.From) || p.Via != "" && (p.Via != q.Via || slices.Contains(w.held, p.Via)) {
		return false
	}
	switch {
	case q.Host != "" && (p.Kind == policy.EndpointKind || !slices.ContainsFunc(p.Names, func(n string) bool { return named(n, q.Host) })):
		return false
	case q.Host == "" && !(q.Addr.IsValid() && within(q.Addr, p.Addrs)):
		return false
	case q.Addr.IsValid() && netset.Special(q.Addr) != "" && !within(q.Addr.Unmap(), p.Special):
		return false
	case p.Traffic.Has(q.Protocol, q.Port):
		return true
	case q.Whole:
		return false
	case q.Request == nil:
		return p.Traffic.Opens(q.Protocol, q.Port)
	}
	return p.Traffic.HasRequest(q.Protocol, q.Port, *q.Request) && !strings.ContainsAny(q.Request.Path, "%") && !strings.Contains(q.Request.Path, "..")
}

// TestOutsideEqualsScan holds the decision about the outside against a scan of all
// permissions, for random policies, modes and quarantines.
func TestOutsideEqualsScan(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for range 40 {
			w.check(t, drawQuestion(t), seen)
		}
	})
	for _, what := range []string{"allowed", "denied", "relaxed", "special allowed"} {
		if seen[what] == 0 {
			t.Errorf("nothing was ever %s", what)
		}
	}
}

func (w *world) check(t *rapid.T, q policy.Question, seen map[string]int) {
	held := slices.Contains(w.held, q.From.Name) || slices.Contains(w.held, q.Via)
	var want *policy.Permission
	for i := range w.base.Permissions {
		if p := &w.base.Permissions[i]; want == nil && !held && permits(w, p, q) {
			want = p
		}
	}
	a := w.in.Decide(q)
	special := q.Addr.IsValid() && netset.Special(q.Addr) != ""
	relaxed := ""
	literal := slices.Contains([]string{"8.8.8.8", "127.0.0.1", "2130706433", "::1"}, q.Host)
	if want == nil && !held && slices.Contains(w.modeOf, q.From.Name) && !special && (q.Host != "" || q.Addr.IsValid()) && (!literal || q.Addr.IsValid()) {
		relaxed = w.mode
	}
	if a.Allowed != (want != nil || relaxed != "") || a.Relaxed != relaxed || (a.Permission != nil) != (want != nil) {
		t.Fatalf("%+v: %+v, %q; want %v, relaxed %q", q, a, a.Why(), want, relaxed)
	}
	if want != nil && (a.Permission.Name != want.Name || a.Permission.Pos != want.Pos) {
		t.Fatalf("%+v: by %s at %s, want %s at %s", q, a.Permission.Name, a.Permission.Pos, want.Name, want.Pos)
	}
	if (a.Why() == "") != (want != nil) {
		t.Fatalf("%+v: says %q", q, a.Why())
	}
	if a.Permission != nil && a.Permission.Why.Until.Expired(now) {
		t.Fatalf("%+v: allowed by what expired", q)
	}
	w.checkNames(t, q, want != nil)
	switch {
	case want != nil && special:
		seen["special allowed"]++
	case want != nil:
		seen["allowed"]++
	case relaxed != "":
		seen["relaxed"]++
	default:
		seen["denied"]++
	}
}

// checkNames: a name that could be allowed is worth resolving, and one that nothing
// names is not.
func (w *world) checkNames(t *rapid.T, q policy.Question, allowed bool) {
	if q.Host == "" {
		return
	}
	possible := w.in.NamesPossible(q.From, q.Host)
	if allowed && !possible {
		t.Fatalf("%+v: allowed, and not possible", q)
	}
	var want []string
	for i := range w.in.Permissions {
		p := &w.in.Permissions[i]
		if p.To.Kind == policy.OutsideParty && p.Kind != policy.EndpointKind && p.From.Has(q.From) &&
			slices.ContainsFunc(p.Names, func(n string) bool { return named(n, q.Host) }) {
			want = append(want, p.Name)
		}
	}
	var got []string
	for _, p := range w.in.Naming(q.From, q.Host) {
		got = append(got, p.Name)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v: named by %v, want %v", q, got, want)
	}
	relaxed := w.mode != "" && slices.Contains(w.modeOf, q.From.Name)
	if possible != (!slices.Contains(w.held, q.From.Name) && (relaxed || len(want) > 0)) {
		t.Fatalf("%+v: possible %v, named by %v, relaxed %v", q, possible, want, relaxed)
	}
}

// gatewayPolicy is a platform with one source, egress and a gateway of its own.
func gatewayPolicy(t *testing.T, more string) *policy.Intent {
	t.Helper()
	in, ds := resolve(t, "p.yaml", []byte(`version: 1
platform: p
zones: {z: {role: custom}}
workloads:
  job: {zone: z}
  eval: {zone: z}
  gw: {zone: z, serves: {proxy: http/3128}}
`+more))
	if ds.HasErrors() {
		t.Fatal(print(ds))
	}
	return in
}

func askOutside(from, host, addr, via string) policy.Question {
	q := policy.Question{From: party(from), To: policy.Outside, Host: host, Via: via, Protocol: netset.TCP, Port: 443}
	if addr != "" {
		q.Addr = netip.MustParseAddr(addr)
	}
	return q
}

// TestOutsideProperties states what must never be, in every mode.
func TestOutsideProperties(t *testing.T) {
	const egress = `
egress:
  - {from: job, to: ["*.x.test", 0.0.0.0/0, "::/0"], because: x, owner: y}
  - {from: job, to: inner, because: x, owner: y}
  - {from: job, to: old.test, because: x, owner: y, until: 2026-11-21}
destinations:
  inner: {hosts: inner.test, addresses: 10.2.0.0/16}
`
	for _, mode := range []string{policy.Enforce, policy.ReportOnly, policy.Observe} {
		in := gatewayPolicy(t, "gateway: {mode: "+mode+", for: job, because: x, owner: y, until: 2026-12-31}\n"+egress)
		relaxed := mode != policy.Enforce
		if m := in.Mode(party("job")); m != mode {
			t.Errorf("%s: the mode of job is %s", mode, m)
		}
		if m := in.Mode(party("eval")); m != policy.Enforce {
			t.Errorf("%s: the mode of eval is %s", mode, m)
		}
		for _, c := range []struct {
			q       policy.Question
			allowed bool // by a permission
			never   bool // in any mode
		}{
			{askOutside("job", "a.x.test", "93.184.215.14", ""), true, false},
			{askOutside("job", "b.a.x.test", "93.184.215.14", ""), true, false},
			{askOutside("job", "x.test", "93.184.215.14", ""), false, false},
			{askOutside("job", "notx.test", "93.184.215.14", ""), false, false},
			{askOutside("job", "ax.test", "", ""), false, false},
			{askOutside("job", "a.x.test", "10.0.0.1", ""), false, true},
			{askOutside("job", "a.x.test", "169.254.169.254", ""), false, true},
			{askOutside("job", "a.x.test", "::ffff:127.0.0.1", ""), false, true},
			{askOutside("job", "a.x.test", "64:ff9b::a00:1", ""), false, true},
			{askOutside("job", "a.x.test", "2002:7f00:1::", ""), false, true},
			{askOutside("job", "unknown.test", "127.0.0.1", ""), false, true},
			{askOutside("job", "", "10.0.0.1", ""), false, true},
			{askOutside("job", "", "8.8.8.8", ""), true, false},
			{askOutside("job", "", "2606:4700::1", ""), true, false},
			{askOutside("job", "8.8.8.8", "", ""), false, true},
			{askOutside("job", "127.0.0.1", "", ""), false, true},
			{askOutside("job", "inner.test", "10.2.3.4", ""), true, false},
			{askOutside("job", "inner.test", "::ffff:10.2.3.4", ""), true, false},
			{askOutside("job", "inner.test", "10.3.3.4", ""), false, true},
			{askOutside("job", "a.x.test", "10.2.3.4", ""), false, true}, // declared for another
			{askOutside("job", "", "10.2.3.4", ""), false, true},
			{askOutside("job", "old.test", "93.184.215.14", ""), false, false},
			{askOutside("eval", "a.x.test", "93.184.215.14", ""), false, true},
			{askOutside("nobody", "a.x.test", "93.184.215.14", ""), false, true},
			{policy.Question{From: party("job"), To: policy.Outside, Protocol: netset.TCP, Port: 443}, false, true},
		} {
			a := in.Decide(c.q)
			if (a.Permission != nil) != c.allowed {
				t.Errorf("%s: %s from %s: permission %v", mode, c.q.Host, c.q.From.Name, a.Permission)
			}
			if want := c.allowed || relaxed && !c.never; a.Allowed != want || (a.Relaxed != "") != (want && !c.allowed) {
				t.Errorf("%s: %s at %s from %s: allowed %v, relaxed %q", mode, c.q.Host, c.q.Addr, c.q.From.Name, a.Allowed, a.Relaxed)
			}
			if held := in.Quarantined([]policy.Quarantine{quarantine("job", true)}).Decide(c.q); c.q.From == party("job") && (held.Allowed || !strings.Contains(held.Why(), "quarantined") && c.q != (policy.Question{From: party("job"), To: policy.Outside, Protocol: netset.TCP, Port: 443})) {
				t.Errorf("%s: %s at %s in quarantine: allowed %v, %q", mode, c.q.Host, c.q.Addr, held.Allowed, held.Why())
			}
		}
		if a := in.Decide(askOutside("job", "old.test", "", "")); a.Why() != "egress job → old.test expired on 2026-11-21" {
			t.Errorf("%s: %q", mode, a.Why())
		}
		if a := in.Decide(askOutside("job", "inner.test", "10.3.3.4", "")); a.Why() != "inner.test is at 10.3.3.4 (private), which egress job → inner does not declare" {
			t.Errorf("%s: %q", mode, a.Why())
		}
	}
}

// TestVia: where a gateway is declared, it is the only way out, and its own way
// out is its own.
func TestVia(t *testing.T) {
	in := gatewayPolicy(t, `
gateway: gw/proxy
egress:
  - {from: [job, gw], to: pypi, may: read, because: x, owner: y, budget: {bytes: 1GiB/day}}
  - {from: eval, to: bedrock, region: eu-west-1, because: x, owner: y}
  - {from: job, to: bedrock, region: us-east-1, because: x, owner: y}
`)
	for _, c := range []struct {
		from, host, via string
		kind            policy.Kind // empty if it is denied
	}{
		{"job", "pypi.org", "gw", policy.EgressKind},
		{"job", "pypi.org", "", ""},
		{"job", "pypi.org", "eval", ""},
		{"eval", "pypi.org", "gw", ""},
		{"gw", "pypi.org", "", policy.GatewayKind},
		{"gw", "bedrock-runtime.eu-west-1.amazonaws.com", "", policy.GatewayKind},
		{"gw", "bedrock-runtime.us-east-1.amazonaws.com", "", policy.GatewayKind},
		{"eval", "bedrock-runtime.us-east-1.amazonaws.com", "gw", ""},
		{"gw", "github.com", "", ""},
	} {
		a := in.Decide(askOutside(c.from, c.host, "93.184.215.14", c.via))
		if a.Allowed != (c.kind != "") || a.Allowed && a.Permission.Kind != c.kind {
			t.Errorf("%s to %s via %q: %+v, %s", c.from, c.host, c.via, a.Permission, a.Why())
		}
		if a.Permission != nil && a.Permission.Kind == policy.GatewayKind && !a.Permission.Budget.IsZero() {
			t.Errorf("%s to %s: what a source may use is no limit of the gateway", c.from, c.host)
		}
	}
	if a := in.Decide(askOutside("job", "pypi.org", "", "")); a.Why() != "egress job → pypi goes through gw only" {
		t.Errorf("without the gateway: %q", a.Why())
	}
	held := in.Quarantined([]policy.Quarantine{quarantine("gw", false)})
	for _, via := range []string{"gw", ""} {
		if a := held.Decide(askOutside("job", "pypi.org", "", via)); a.Allowed {
			t.Errorf("via %q: a quarantined gateway lets out", via)
		}
	}
	// A gateway in quarantine lets out nothing that goes through it by chance, either.
	in = gatewayPolicy(t, "egress: [{from: job, to: pypi, because: x, owner: y}]\ngateway: {mode: observe, because: x, owner: y, until: 2026-12-31}\n")
	held = in.Quarantined([]policy.Quarantine{quarantine("gw", false)})
	for _, host := range []string{"pypi.org", "github.com"} {
		if a := held.Decide(askOutside("job", host, "", "gw")); a.Allowed || !strings.Contains(a.Why(), "gw is quarantined") {
			t.Errorf("%s: allowed %v, %q", host, a.Allowed, a.Why())
		}
		if a := held.Decide(askOutside("job", host, "", "")); !a.Allowed {
			t.Errorf("%s: not through it: %q", host, a.Why())
		}
	}
}

// TestModeNeedsAReason: a mode that is not explained, has ended, is not known or is
// for nobody relaxes nothing.
func TestModeNeedsAReason(t *testing.T) {
	base := policy.Gateway{Mode: text(policy.Observe), Why: policy.Why{Because: text("x"), Owner: text("y"), Until: policy.Date{Time: now.AddDate(0, 1, 0)}}}
	for name, c := range map[string]struct {
		change  func(*policy.Gateway)
		relaxed bool
	}{
		"explained":    {func(*policy.Gateway) {}, true},
		"no reason":    {func(g *policy.Gateway) { g.Because = policy.Text{} }, false},
		"no owner":     {func(g *policy.Gateway) { g.Owner = policy.Text{} }, false},
		"no end":       {func(g *policy.Gateway) { g.Until = policy.Date{} }, false},
		"ended":        {func(g *policy.Gateway) { g.Until.Time = now.AddDate(0, 0, -1).Truncate(24 * time.Hour) }, false},
		"last day":     {func(g *policy.Gateway) { g.Until.Time = now.Truncate(24 * time.Hour) }, true},
		"unknown mode": {func(g *policy.Gateway) { g.Mode = text("off") }, false},
		"enforce":      {func(g *policy.Gateway) { g.Mode = text(policy.Enforce) }, false},
		"for nobody":   {func(g *policy.Gateway) { g.For = []policy.Text{text("jbo")} }, false},
		"for another":  {func(g *policy.Gateway) { g.For = []policy.Text{text("eval")} }, false},
		"for its zone": {func(g *policy.Gateway) { g.For = []policy.Text{text("zone/z")} }, true},
	} {
		g := base
		c.change(&g)
		p := &policy.Policy{Zones: []policy.Zone{{Name: text("z"), Role: text("custom")}}, Gateway: &g,
			Workloads: []policy.Workload{{Name: text("job"), Zone: text("z")}, {Name: text("eval"), Zone: text("z")}}}
		in, _ := policy.Resolve(p, now)
		if a := in.Decide(askOutside("job", "a.test", "", "")); a.Allowed != c.relaxed || (a.Relaxed == policy.Observe) != c.relaxed {
			t.Errorf("%s: allowed %v, relaxed %q", name, a.Allowed, a.Relaxed)
		}
	}
}

// TestNamesThatAreAddresses: no permission by name is for what is an address.
func TestNamesThatAreAddresses(t *testing.T) {
	for _, host := range []string{"*.0.0.1", "*.8.8.8", "x.0x7f", "127.0.0.1", "a.test.1"} {
		p := &policy.Policy{Zones: []policy.Zone{{Name: text("z"), Role: text("custom")}}, Workloads: []policy.Workload{{Name: text("job"), Zone: text("z")}},
			Destinations: []policy.Destination{{Name: text("d"), Hosts: []policy.Text{text(host)}}},
			Egress:       []policy.Egress{{From: []policy.Text{text("job")}, To: []policy.Text{text("d")}}},
			Endpoints:    []policy.Endpoint{{Name: text("e"), Hosts: []policy.Text{text(host)}, Consumers: []policy.Text{text("job")}}}}
		if host[0] == '*' {
			p.Egress[0].To = append(p.Egress[0].To, text(host))
		}
		in, ds := policy.Resolve(p, now)
		if len(in.Permissions) > 0 || !ds.HasErrors() {
			t.Errorf("%s: %+v", host, in.Permissions)
		}
	}
}

// manyOutside returns an intent of n rules of egress of each kind: names,
// wildcards, CIDRs, one name from different workloads and from different zones,
// and expired ones.
func manyOutside(tb testing.TB, n int) *policy.Intent {
	tb.Helper()
	p := &policy.Policy{}
	why := policy.Why{Because: text("x"), Owner: text("y")}
	past := why
	past.Until.Time = now.AddDate(0, 0, -7)
	rule := func(from, to string, w policy.Why) {
		p.Egress = append(p.Egress, policy.Egress{From: []policy.Text{text(from)}, To: []policy.Text{text(to)}, Why: w})
	}
	for i := range n {
		zone, job := fmt.Sprint("z", i/2), fmt.Sprint("w", i)
		if i%2 == 0 {
			p.Zones = append(p.Zones, policy.Zone{Name: text(zone), Role: text("custom")})
		}
		p.Workloads = append(p.Workloads, policy.Workload{Name: text(job), Zone: text(zone)})
		rule("w7", fmt.Sprintf("h%d.names.test", i), why)
		rule("w7", fmt.Sprintf("*.h%d.wild.test", i), why)
		rule("w7", fmt.Sprintf("20.%d.%d.0/%d", i/256, i%256, 24+i%8), why)
		rule(job, "one.test", why)
		rule(job, "203.0.114.0/24", why)
		rule(job, "old.test", past)
		if i%2 == 0 {
			rule("zone/"+zone, "zones.test", why)
		}
	}
	in, ds := policy.Resolve(p, now)
	if ds.HasErrors() {
		tb.Fatal(ds[0])
	}
	return in
}

// outsideQuestions are some that manyOutside allows, and some that it denies.
func outsideQuestions() (allowed, denied []policy.Question) {
	const public = "93.184.215.14"
	get := askOutside("w7", "h9000.names.test", public, "")
	get.Request = &netset.Request{Method: "GET", Host: "h9000.names.test", Path: "/x/y"}
	allowed = []policy.Question{askOutside("w7", "h9999.names.test", public, ""), get, askOutside("w7", "a.b.c.h4321.wild.test", public, ""),
		askOutside("w7", "", "20.1.8.9", ""), askOutside("w9000", "one.test", public, ""), askOutside("w9000", "", "203.0.114.9", ""),
		askOutside("w9001", "zones.test", public, "")}
	denied = []policy.Question{askOutside("w8", "h9999.names.test", public, ""), askOutside("w7", "h9999.names.test", "10.0.0.1", ""),
		askOutside("w7", "h4321.wild.test", public, ""), askOutside("w7", "a.b.c.d.e.f.g.h.i.test", public, ""), askOutside("w7", "", "21.0.0.1", ""),
		askOutside("w7", "", "fd00::1", ""), askOutside("nobody", "one.test", public, ""), askOutside("w9000", "old.test", public, ""),
		askOutside("nobody", "zones.test", public, "")}
	return allowed, denied
}

func TestOutsideAllocatesNothing(t *testing.T) {
	in := manyOutside(t, 10_000)
	held := in.Quarantined([]policy.Quarantine{{Target: "w9000"}, {Target: "w1"}})
	allowed, denied := outsideQuestions()
	for i, q := range append(allowed, denied...) {
		if got := in.Decide(q); got.Allowed != (i < len(allowed)) {
			t.Errorf("%s %s from %s: allowed %v, %s", q.Host, q.Addr, q.From.Name, got.Allowed, got.Why())
		}
		for name, in := range map[string]*policy.Intent{"": in, " in quarantine": held} {
			if n := testing.AllocsPerRun(100, func() { in.Decide(q); in.NamesPossible(q.From, "") }); n != 0 {
				t.Errorf("%s %s from %s%s: %v allocations", q.Host, q.Addr, q.From.Name, name, n)
			}
		}
	}
}

func BenchmarkOutside10k(b *testing.B) {
	in := manyOutside(b, 10_000)
	allowed, denied := outsideQuestions()
	for i, q := range append(allowed, denied...) {
		verdict := "denied"
		if i < len(allowed) {
			verdict = "allowed"
		}
		b.Run(strings.Join([]string{verdict, q.From.Name, q.Host + q.Addr.String()}, "/"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if in.Decide(q).Allowed != (i < len(allowed)) {
					b.Fatal(q)
				}
			}
		})
	}
}

// TestEndpointAddresses: an endpoint leads to the addresses that are declared, or,
// without any, to public ones.
func TestEndpointAddresses(t *testing.T) {
	in := gatewayPolicy(t, `
endpoints:
  near: {hosts: near.test.example, address: 10.0.3.4, consumers: job, because: x, owner: y}
  far: {hosts: far.test.example, consumers: job, because: x, owner: y}
  pending: {service: gw/proxy, consumers: job, because: x, owner: y}
`)
	for _, c := range []struct {
		to, addr string
		allowed  bool
	}{
		{"near", "", true}, {"near", "10.0.3.4", true}, {"near", "10.0.3.5", false}, {"near", "93.184.215.14", false},
		{"far", "", true}, {"far", "93.184.215.14", true}, {"far", "10.0.3.4", false}, {"far", "169.254.169.254", false}, {"far", "::ffff:127.0.0.1", false},
	} {
		q := policy.Question{From: party("job"), To: policy.Party{Kind: policy.OutsideParty, Name: policy.EndpointPrefix + c.to}, Protocol: netset.TCP, Port: 443}
		if c.addr != "" {
			q.Addr = netip.MustParseAddr(c.addr)
		}
		if got := in.Decide(q).Allowed; got != c.allowed {
			t.Errorf("%s at %q: allowed %v", c.to, c.addr, got)
		}
	}
	for _, host := range []string{"near.test.example", "far.test.example"} {
		if in.Decide(askOutside("job", host, "93.184.215.14", "")).Allowed {
			t.Errorf("the name of an endpoint is no way out: %s", host)
		}
	}
	if in.Decide(ask("job", "gw", 3128)).Allowed {
		t.Error("a pending endpoint permits")
	}
}
