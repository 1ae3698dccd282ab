package verify

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/core/source"
)

// Bindings say which endpoints of an estate the parties of a policy are.
type Bindings struct {
	// Workloads maps a workload of the policy to endpoints, Resolvers the name
	// of a resolver.
	Workloads map[string][]int
	Resolvers map[string][]int
	// ResolverAddrs maps a resolver to addresses of no endpoint at which it may
	// answer as well, such as a cache on every machine.
	ResolverAddrs map[string]netset.Addrs
	// Maybe lists endpoints that a binding may mean: their labels or names are
	// not settled by the input.
	Maybe map[string][]int
}

// Report is the outcome of [Verify].
type Report struct {
	Findings []finding.Finding
	// Pairs counts the ordered pairs of parties that were compared, Proven
	// those where the estate allows exactly what is declared.
	Pairs, Proven int64
	// Bound and Unbound count the endpoints.
	Bound, Unbound int
}

// verifier compares an intent with an estate, group by group: endpoints of one
// class that are the same parties are one group.
type verifier struct {
	in     *policy.Intent
	a      *reach.Analysis
	bound  Bindings
	groups []group
	// byClass lists the groups of a class, byParty those of a party.
	byClass map[reach.ClassID][]int
	byParty map[policy.Party][]int
	report  Report
	leaks   map[leakKey]*leak
	seen    map[string]bool // ids of findings that several endpoints share
}

type group struct {
	class     reach.ClassID
	parties   []policy.Party // empty for endpoints that the policy does not know
	endpoints []int
}

// leakKey is what one leak finding is about: the same undeclared traffic to
// the same party, from any number of sources.
type leakKey struct {
	rule, to, traffic string
}

type leak struct {
	from []string
	one  reach.Question
	sev  finding.Severity
	pos  source.Pos
}

// Verify compares an estate with an intent.
func Verify(in *policy.Intent, a *reach.Analysis, bound Bindings) Report {
	v := &verifier{in: in, a: a, bound: bound,
		byClass: map[reach.ClassID][]int{}, byParty: map[policy.Party][]int{}, leaks: map[leakKey]*leak{}, seen: map[string]bool{}}
	v.bind()
	v.compareEdges()
	v.checkFlows()
	v.compareEgress()
	v.compareExposures()
	v.flushLeaks()
	v.report.Findings = append(v.report.Findings, DeadRules(a)...)
	finding.Sort(v.report.Findings)
	return v.report
}

func (v *verifier) add(f finding.Finding) { v.report.Findings = append(v.report.Findings, f) }

// bind groups the endpoints and reports bindings that do not hold.
func (v *verifier) bind() {
	parties := make([][]policy.Party, len(v.a.Net.Endpoints))
	assign := func(p policy.Party, endpoints []int) {
		for _, e := range endpoints {
			if !slices.Contains(parties[e], p) {
				parties[e] = append(parties[e], p)
			}
		}
	}
	for i := range v.in.Policy.Workloads {
		w := &v.in.Policy.Workloads[i]
		name := w.Name.Value
		assign(policy.Party{Kind: policy.WorkloadParty, Name: name}, v.bound.Workloads[name])
		v.checkBinding(w)
	}
	for name, endpoints := range v.bound.Resolvers {
		assign(policy.Party{Kind: policy.ResolverParty, Name: name}, endpoints)
	}
	ids := map[string]int{}
	for i := range v.a.Net.Endpoints {
		e := &v.a.Net.Endpoints[i]
		switch e.Kind {
		case network.Host:
			parties[i] = []policy.Party{{Kind: policy.HostsParty, Name: policy.Hosts}}
		case network.Control:
			parties[i] = []policy.Party{{Kind: policy.ControlParty, Name: policy.ControlPlane}}
		default:
			v.countBinding(e, parties[i])
		}
		key := fmt.Sprint(v.a.ClassOf(i), parties[i])
		id, ok := ids[key]
		if !ok {
			id = len(v.groups)
			ids[key] = id
			v.groups = append(v.groups, group{class: v.a.ClassOf(i), parties: parties[i]})
			v.byClass[v.a.ClassOf(i)] = append(v.byClass[v.a.ClassOf(i)], id)
			for _, p := range parties[i] {
				v.byParty[p] = append(v.byParty[p], id)
			}
		}
		v.groups[id].endpoints = append(v.groups[id].endpoints, i)
	}
}

func (v *verifier) checkBinding(w *policy.Workload) {
	name := w.Name.Value
	switch {
	case len(w.Bindings) == 0:
		f := finding.New("no-binding", finding.Medium, name, "")
		f.Title = fmt.Sprintf("workload %s says nowhere where it runs", name)
		f.Detail = "Its permissions can neither be compared with the estate nor compiled."
		f.Pos, f.Remedy = w.Name.Pos, "add at: with the target's selector to the workload"
		v.add(f)
	case len(v.bound.Workloads[name]) == 0 && len(v.bound.Maybe[name]) > 0:
		f := finding.New("uncertain-binding", finding.Medium, name, "")
		f.Title = fmt.Sprintf("whether workload %s is in the estate is not in the input", name)
		f.Pos, f.Remedy = w.Bindings[0].Target.Pos, "bind it by a label that is set in the input"
		v.add(f)
	case len(v.bound.Workloads[name]) == 0:
		f := finding.New("unmatched-binding", finding.High, name, "")
		f.Title = fmt.Sprintf("the binding of workload %s matches nothing in the estate", name)
		f.Detail = "Nothing is proven about it: a misspelt selector looks the same as a workload that is not deployed."
		f.Pos, f.Remedy = w.Bindings[0].Target.Pos, "correct what its at: says, or remove the workload"
		v.add(f)
	}
}

func (v *verifier) countBinding(e *network.Endpoint, parties []policy.Party) {
	switch len(parties) {
	case 0:
		v.report.Unbound++
		f := finding.New("unbound-workload", finding.Low, e.Workload, "")
		if v.seen[f.ID] {
			return
		}
		v.seen[f.ID] = true
		f.Title = fmt.Sprintf("%s is deployed but not in the policy", e.Workload)
		f.Detail = "Everything it can reach among declared workloads is a leak; what it does among its like is not judged."
		f.Pos, f.Remedy = e.Pos, "declare it as a workload, or remove it"
		v.add(f)
	default:
		v.report.Bound++
		if len(parties) < 2 {
			return
		}
		names := make([]string, len(parties))
		for i, p := range parties {
			names[i] = p.Name
		}
		f := finding.New("ambiguous-binding", finding.High, e.Name(), "")
		f.Title = fmt.Sprintf("%s is bound by %s at once", e.Name(), strings.Join(names, " and "))
		f.Detail = "It has the permissions of all of them."
		f.Pos, f.Remedy = e.Pos, "make the labels of the bindings exclude each other"
		v.add(f)
	}
}

// expected is what the intent allows between two groups.
func (v *verifier) expected(from, to *group) netset.Traffic {
	var t netset.Traffic
	for _, p := range from.parties {
		for _, q := range to.parties {
			t = t.Union(v.in.Between(p, q))
			if q.Kind == policy.ControlParty {
				t = t.Union(v.byAddress(p, to))
			}
		}
	}
	return t
}

// byAddress is what a party may send to the control plane as an address: the
// policy has no other name for it on that side.
func (v *verifier) byAddress(from policy.Party, to *group) netset.Traffic {
	var t netset.Traffic
	for i := range v.in.Permissions {
		p := &v.in.Permissions[i]
		if p.To.Kind == policy.OutsideParty && !p.Addrs.IsEmpty() && p.From.Has(from) &&
			slices.ContainsFunc(to.endpoints, func(e int) bool { return p.Addrs.Overlaps(v.a.Net.Endpoints[e].Addrs) }) {
			t = t.Union(p.Traffic)
		}
	}
	return t
}

// compareEdges finds every edge of the estate that goes beyond the intent.
func (v *verifier) compareEdges() {
	proven := map[[2]int]bool{}
	for gi := range v.groups {
		from := &v.groups[gi]
		for dst, d := range v.a.From(from.class) {
			for _, gj := range v.byClass[dst] {
				to := &v.groups[gj]
				if !v.judged(from, to) || gi == gj && len(from.endpoints) == 1 && !v.manyInstances(from) {
					continue
				}
				if v.compareEdge(from, to, d) {
					proven[[2]int{gi, gj}] = true
				} else {
					proven[[2]int{gi, gj}] = false
				}
			}
		}
	}
	for gi := range v.groups {
		for gj := range v.groups {
			if !v.judged(&v.groups[gi], &v.groups[gj]) {
				continue
			}
			v.report.Pairs++
			if ok, seen := proven[[2]int{gi, gj}]; ok || !seen && v.expected(&v.groups[gi], &v.groups[gj]).IsEmpty() {
				v.report.Proven++
			}
		}
	}
}

// judged reports whether the policy has a say about a pair: one of the two is
// a workload of the policy. Hosts reach what runs on them in any case.
func (v *verifier) judged(from, to *group) bool {
	isHost := func(g *group) bool { return len(g.parties) > 0 && g.parties[0].Kind == policy.HostsParty }
	isOurs := func(g *group) bool { return len(g.parties) > 0 && g.parties[0].Kind == policy.WorkloadParty }
	return !isHost(from) && !isHost(to) && (isOurs(from) || isOurs(to))
}

// manyInstances reports whether an endpoint stands for several instances that
// could talk to each other: a template, which may be scaled, or more than one
// address of a family.
func (v *verifier) manyInstances(g *group) bool {
	e := &v.a.Net.Endpoints[g.endpoints[0]]
	if !e.AddrsKnown {
		return true
	}
	var v4, v6 bool
	for _, p := range e.Addrs.Prefixes() {
		seen := &v6
		if p.Addr().Is4() {
			seen = &v4
		}
		if *seen || !p.IsSingleIP() {
			return true
		}
		*seen = true
	}
	return false
}

// compareEdge records what an edge allows beyond the intent and reports
// whether it is exactly what is declared.
func (v *verifier) compareEdge(from, to *group, d reach.Decision) bool {
	want := v.expected(from, to)
	ports := want.AnyRequests()
	sev := finding.High
	switch {
	case sameParties(from, to):
		sev = finding.Low
	case isControl(from) || isControl(to):
		sev = finding.Low
	case len(to.parties) == 0:
		sev = finding.Medium
	}
	if extra := d.Allow.Subtract(ports); !extra.IsEmpty() {
		v.leak("leak", sev, from, to, extra)
	}
	if extra := d.Allow.Intersect(ports).Subtract(want); !extra.IsEmpty() {
		v.leak("wider-requests", finding.Low, from, to, extra)
	}
	if extra := d.Unknown.Subtract(ports); !extra.IsEmpty() {
		v.leak("possible-leak", finding.Low, from, to, extra)
	}
	return d.Allow.Equal(want) && d.Unknown.IsEmpty()
}

func isControl(g *group) bool {
	return len(g.parties) > 0 && g.parties[0].Kind == policy.ControlParty
}

func sameParties(a, b *group) bool { return len(a.parties) > 0 && slices.Equal(a.parties, b.parties) }

func (v *verifier) groupName(g *group) string {
	if len(g.parties) > 0 {
		return g.parties[0].Name
	}
	return v.a.Net.Endpoints[g.endpoints[0]].Workload
}

// leak records undeclared traffic. Unbound groups stand for each of their
// workloads.
func (v *verifier) leak(rule string, sev finding.Severity, from, to *group, extra netset.Traffic) {
	sources, targets := v.names(from), v.names(to)
	for _, target := range targets {
		key := leakKey{rule, target, extra.String()}
		l := v.leaks[key]
		if l == nil {
			l = &leak{sev: sev, one: reach.Question{From: from.class, To: to.class,
				FromName: sources[0], ToName: target, Traffic: example(extra)},
				pos: v.a.Net.Endpoints[to.endpoints[0]].Pos}
			v.leaks[key] = l
		}
		l.sev = max(l.sev, sev)
		for _, s := range sources {
			if !slices.Contains(l.from, s) {
				l.from = append(l.from, s)
			}
		}
	}
}

func (v *verifier) names(g *group) []string {
	if len(g.parties) > 0 {
		return []string{g.parties[0].Name}
	}
	var out []string
	for _, e := range g.endpoints {
		if n := v.a.Net.Endpoints[e].Workload; !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func (v *verifier) flushLeaks() {
	for key, l := range v.leaks {
		slices.Sort(l.from)
		f := finding.New(key.rule, l.sev, key.to, key.traffic)
		from := list(l.from, 4)
		switch key.rule {
		case "leak":
			f.Title = fmt.Sprintf("%s can reach %s on %s, which is not declared", from, key.to, key.traffic)
			f.Remedy = "close it (bulkhead compile writes the configuration), or declare the flow with a reason"
			if len(l.from) == 1 && l.from[0] == key.to {
				f.Title = fmt.Sprintf("instances of %s can reach each other on %s, which is not declared", key.to, key.traffic)
			}
		case "wider-requests":
			f.Title = fmt.Sprintf("%s can send %s more requests than declared: %s", from, key.to, key.traffic)
			f.Detail = "No layer in the input filters requests, so every request passes on the declared port."
			f.Remedy = "enforce the operations with a mesh policy or a proxy, or declare enforcedBy: application"
		case "possible-leak":
			f.Title = fmt.Sprintf("whether %s can reach %s on %s is not in the input", from, key.to, key.traffic)
			f.Facts = map[string]string{"verdict": "unknown"}
			f.Remedy = "give the missing input (the witness names it), or close it"
		}
		if f.Facts == nil {
			f.Facts = map[string]string{}
		}
		f.Facts["from"], f.Facts["traffic"] = strings.Join(l.from, ","), key.traffic
		w := v.a.Explain(l.one)
		f.Witness, f.Pos = &w, l.pos
		v.add(f)
	}
}

// example returns one connection of t, keeping its requests.
func example(t netset.Traffic) netset.Traffic {
	p, port, _, ok := t.Example()
	if !ok {
		return t
	}
	return t.Intersect(netset.Port(p, port))
}

// list joins names, cutting after n.
func list(names []string, n int) string {
	switch {
	case len(names) == 0:
		return "nothing"
	case len(names) == 1:
		return names[0]
	case len(names) <= n:
		return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n-1], ", "), len(names)-n+1)
}

// checkFlows finds every permission between parties of the estate that the
// estate does not let through.
func (v *verifier) checkFlows() {
	for i := range v.in.Permissions {
		p := &v.in.Permissions[i]
		if p.To.Kind == policy.OutsideParty || p.Kind == policy.ExposureKind && p.From.Members[0].Kind == policy.OutsideParty {
			continue
		}
		if p.To.Kind == policy.ResolverParty && len(v.byParty[p.To]) == 0 {
			f := finding.New("unproven-dns", finding.Info, p.Name, "")
			f.Title = fmt.Sprintf("no %s resolver is in the input, so that %s is not proven", p.To.Name, p.Name)
			f.Pos, f.Remedy = p.Pos, "add the resolver's manifests to the input"
			v.add(f)
			continue
		}
		var broken, unproven []string
		var one *reach.Question
		for _, m := range p.From.Members {
			b, u, q := v.checkPair(p, m)
			if b {
				broken = append(broken, m.Name)
			} else if u {
				unproven = append(unproven, m.Name)
			}
			if q != nil && (one == nil || b && len(broken) == 1) {
				one = q
			}
		}
		if len(broken) > 0 {
			v.flowFinding("broken-flow", finding.High, p, broken, one)
		}
		if len(unproven) > 0 {
			v.flowFinding("unproven-flow", finding.Low, p, unproven, one)
		}
	}
}

// checkPair says whether a member of a permission is cut off from any
// instance of what it is permitted to reach.
func (v *verifier) checkPair(p *policy.Permission, from policy.Party) (broken, unproven bool, one *reach.Question) {
	want := p.Traffic
	for _, gi := range v.byParty[from] {
		for _, gj := range v.byParty[p.To] {
			d := v.a.Between(v.groups[gi].class, v.groups[gj].class)
			missing := want.Subtract(d.May())
			unsure := want.Subtract(d.Allow)
			if missing.IsEmpty() && unsure.IsEmpty() {
				continue
			}
			if !missing.IsEmpty() && !broken {
				broken = true
				one = &reach.Question{From: v.groups[gi].class, To: v.groups[gj].class, FromName: from.Name, ToName: p.To.Name, Traffic: example(missing)}
			}
			unproven = true
			if one == nil {
				one = &reach.Question{From: v.groups[gi].class, To: v.groups[gj].class, FromName: from.Name, ToName: p.To.Name, Traffic: example(unsure)}
			}
		}
	}
	return broken, unproven, one
}

func (v *verifier) flowFinding(rule string, sev finding.Severity, p *policy.Permission, from []string, q *reach.Question) {
	f := finding.New(rule, sev, p.Name, p.Traffic.String()+strings.Join(from, ","))
	f.Pos = p.Pos
	f.Facts = map[string]string{"from": strings.Join(from, ","), "to": p.To.Name, "traffic": p.Traffic.String()}
	if rule == "broken-flow" {
		f.Title = fmt.Sprintf("%s is declared, but %s cannot reach %s on %s", p.Name, list(from, 4), p.To.Name, p.Traffic)
		f.Remedy = "open it in the layer that denies (the witness names it), or remove the declaration"
	} else {
		f.Title = fmt.Sprintf("%s is declared, but whether %s can reach %s is not in the input", p.Name, list(from, 4), p.To.Name)
		f.Remedy = "give the missing input (the witness names it)"
		f.Facts["verdict"] = "unknown"
	}
	if q != nil {
		w := v.a.Explain(*q)
		f.Witness = &w
	}
	v.add(f)
}
