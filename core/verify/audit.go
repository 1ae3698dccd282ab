package verify

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/reach"
)

// Recognised says what an endpoint was recognised as.
type Recognised struct {
	ID       string // stable id of the kind of component
	Title    string // `vLLM`, `Ray head`
	Class    string // `inference-server`, `notebook`, …
	Role     string // of the zone where it usually belongs
	Evidence []string
	// Sensitive are ports that give more than the service: consoles, job
	// submission, raw storage.
	Sensitive []SensitivePort
}

// SensitivePort is a port that should not be reachable from everywhere.
type SensitivePort struct {
	Port uint16
	Name string
	Why  string
}

// AuditReport is the outcome of [Audit].
type AuditReport struct {
	Findings []finding.Finding
	Flatness reach.Flatness
	// Components lists what was recognised, by workload.
	Components []Component
}

// Component is a recognised workload.
type Component struct {
	Workload string
	Part     string
	Recognised
}

// auditor looks for what is wrong with an estate on its own.
type auditor struct {
	a     *reach.Analysis
	known [][]Recognised // by endpoint
	seen  map[string]bool
	out   []finding.Finding
}

// Audit looks for public exposure, missing isolation, flatness, unrestricted
// egress, access to the metadata service and reachable consoles, with no
// policy at all. recognise says what an endpoint is, best guess first.
func Audit(a *reach.Analysis, recognise func(endpoint int) []Recognised) AuditReport {
	u := &auditor{a: a, known: make([][]Recognised, len(a.Net.Endpoints)), seen: map[string]bool{}}
	var components []Component
	for i := range a.Net.Endpoints {
		e := &a.Net.Endpoints[i]
		if e.Kind != network.Workload {
			continue
		}
		u.known[i] = recognise(i)
		if len(u.known[i]) > 0 {
			components = append(components, Component{e.Workload, e.Part, u.known[i][0]})
		}
	}
	flat := a.Flatness()
	u.published()
	u.isolation()
	u.flat(flat)
	u.egress()
	u.metadata()
	u.consoles()
	u.hostShared()
	u.relays()
	u.out = append(u.out, DeadRules(a)...)
	finding.Sort(u.out)
	return AuditReport{Findings: u.out, Flatness: flat, Components: components}
}

func (u *auditor) add(f finding.Finding) { u.out = append(u.out, f) }

// title names an endpoint with what it was recognised as.
func (u *auditor) title(e int) string {
	name := u.a.Net.Endpoints[e].Name()
	if len(u.known[e]) > 0 {
		return name + " (" + u.known[e][0].Title + ")"
	}
	return name
}

// scopes yields the workload endpoints by scope, sorted by name.
func (u *auditor) scopes() []scopeGroup {
	byName := map[string]*scopeGroup{}
	for i := range u.a.Net.Endpoints {
		e := &u.a.Net.Endpoints[i]
		if e.Kind != network.Workload {
			continue
		}
		name := "(no scope)"
		g := byName[name]
		if e.Scope >= 0 {
			name = u.a.Net.Scopes[e.Scope].Name
			g = byName[name]
		}
		if g == nil {
			g = &scopeGroup{name: name}
			byName[name] = g
		}
		g.endpoints = append(g.endpoints, i)
	}
	out := make([]scopeGroup, 0, len(byName))
	for _, g := range byName {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b scopeGroup) int { return strings.Compare(a.name, b.name) })
	return out
}

type scopeGroup struct {
	name      string
	endpoints []int
}

// severityFor raises the severity where AI components are among the endpoints.
func (u *auditor) severityFor(endpoints []int, base finding.Severity) finding.Severity {
	for _, e := range endpoints {
		if len(u.known[e]) > 0 {
			return min(base+1, finding.High)
		}
	}
	return base
}

func (u *auditor) names(endpoints []int, n int) string {
	var names []string
	for _, e := range endpoints {
		t := u.title(e)
		if !slices.Contains(names, t) {
			names = append(names, t)
		}
	}
	return list(names, n)
}

// published reports what fronts let in from outside, once per front and
// workload.
func (u *auditor) published() {
	for _, p := range u.a.Published() {
		e := &u.a.Net.Endpoints[p.Endpoint]
		if p.Front.Reach == network.ReachPrivate {
			f := finding.New("private-exposure", finding.Info, e.Workload, p.Front.Name)
			f.Title = fmt.Sprintf("%s publishes %s to private networks on %s", p.Front.Name, u.title(p.Endpoint), p.May())
			f.Detail, f.Pos = p.Front.Why, p.Front.Pos
			u.once(f)
			continue
		}
		public := p.Clients.Intersect(netset.PublicAddrs())
		if public.IsEmpty() {
			continue
		}
		u.publicFinding(p, e, public)
	}
}

func (u *auditor) publicFinding(p reach.Publication, e *network.Endpoint, public netset.Addrs) {
	certain := p.Front.Reach == network.ReachPublic && !p.Allow.IsEmpty()
	rule, sev, verb := "public-exposure", finding.High, "publishes"
	if !certain {
		rule, sev, verb = "possible-public-exposure", finding.Medium, "may publish"
		if len(u.known[p.Endpoint]) > 0 {
			sev = finding.High
		}
	}
	from := "the internet"
	if cidrs := public.CIDRs(); !public.Equal(netset.PublicAddrs()) && len(cidrs) <= 4 {
		from = strings.Join(cidrs, ", ")
	}
	f := finding.New(rule, sev, e.Workload, p.Front.Name)
	f.Title = fmt.Sprintf("%s %s %s to %s on %s", p.Front.Name, verb, u.title(p.Endpoint), from, p.May())
	f.Detail, f.Pos = p.Front.Why, p.Front.Pos
	if s, ok := u.sensitiveAt(p.Endpoint, p.May()); ok && certain {
		f.Severity = finding.Critical
		f.Detail += fmt.Sprintf("; port %d is its %s: %s", s.Port, s.Name, s.Why)
	}
	f.Remedy = "make the front internal, or put an authenticating gateway before it and declare the exposure with an owner and a date"
	f.Facts = map[string]string{"indicator": "F2", "reach": p.Front.Reach.String(), "workload": e.Name()}
	if ip, ok := public.Example(); ok {
		w := u.a.Explain(reach.Question{From: u.a.ClassOfAddr(ip), To: u.a.ClassOf(p.Endpoint), FromName: ip.String(), ToName: e.Name(), Traffic: example(p.May())})
		w.Hops = append([]finding.Hop{frontHop(p)}, w.Hops...)
		w.Verdict = finding.Allowed
		if !certain {
			w.Verdict = finding.Unknown
		}
		f.Witness = &w
	}
	u.once(f)
}

// once adds a finding unless one with its id is there.
func (u *auditor) once(f finding.Finding) {
	if !u.seen[f.ID] {
		u.seen[f.ID] = true
		u.add(f)
	}
}

func (u *auditor) sensitiveAt(e int, t netset.Traffic) (SensitivePort, bool) {
	for _, k := range u.known[e] {
		for _, s := range k.Sensitive {
			if t.Overlaps(netset.Port(netset.TCP, s.Port)) {
				return s, true
			}
		}
	}
	return SensitivePort{}, false
}

// isolation reports scopes with endpoints that no rule isolates in one
// direction or both.
func (u *auditor) isolation() {
	for _, g := range u.scopes() {
		var open [2][]int
		for _, e := range g.endpoints {
			for _, dir := range []network.Direction{network.Egress, network.Ingress} {
				if u.a.Net.Endpoints[e].Attachment == network.Own && u.a.Isolated(u.a.ClassOf(e), dir) != network.Yes {
					open[dir] = append(open[dir], e)
				}
			}
		}
		in, out := open[network.Ingress], open[network.Egress]
		if len(in)+len(out) == 0 {
			continue
		}
		worst := in
		f := finding.New("no-isolation", u.severityFor(in, finding.Medium), g.name, "")
		if len(in) == 0 {
			worst = out
			f.Severity = finding.Medium
		}
		of := count(u.distinct(g.endpoints), "workload", "workloads")
		switch {
		case len(in) == 0:
			f.Title = fmt.Sprintf("%s: %d of %s may connect to everything", g.name, u.distinct(out), of)
		case len(out) == 0:
			f.Title = fmt.Sprintf("%s: everything may connect to %d of %s", g.name, u.distinct(in), of)
		default:
			f.Title = fmt.Sprintf("%s: everything may connect to %d of %s, and %d may connect to everything", g.name, u.distinct(in), of, u.distinct(out))
		}
		f.Detail = "No rule isolates " + u.names(worst, 5) + "."
		f.Pos = u.a.Net.Endpoints[worst[0]].Pos
		f.Remedy = "deny by default in " + g.name + " and allow what is needed: bulkhead init drafts the policy, bulkhead compile writes the configuration"
		if len(in) > 0 {
			f.Witness = u.into(in[0])
		}
		if f.Witness == nil && len(out) > 0 {
			f.Witness = u.outward(out[0], netset.PublicAddrs().Intersect(netset.AnyV4()), "any public address")
		}
		f.Facts = map[string]string{"indicator": "F4", "ingress": fmt.Sprint(len(in)), "egress": fmt.Sprint(len(out)), "of": fmt.Sprint(len(g.endpoints))}
		u.add(f)
	}
}

// into shows one connection to an endpoint, from another scope if any can.
func (u *auditor) into(target int) *finding.Witness {
	to := &u.a.Net.Endpoints[target]
	best := -1
	for c := range u.a.EndpointClasses() {
		if u.a.Between(reach.ClassID(c), u.a.ClassOf(target)).Allow.IsEmpty() {
			continue
		}
		for _, i := range u.a.Classes()[c].Endpoints {
			e := &u.a.Net.Endpoints[i]
			if e.Kind != network.Workload || e.Workload == to.Workload {
				continue
			}
			if best < 0 || u.a.Net.Endpoints[best].Scope == to.Scope && e.Scope != to.Scope {
				best = int(i)
			}
		}
	}
	if best < 0 {
		return nil
	}
	return u.between(best, target)
}

// between shows one connection that passes between two endpoints.
func (u *auditor) between(from, to int) *finding.Witness {
	w := u.a.Explain(reach.Question{From: u.a.ClassOf(from), To: u.a.ClassOf(to),
		FromName: u.a.Net.Endpoints[from].Name(), ToName: u.a.Net.Endpoints[to].Name(),
		Traffic: preferred(u.a.BetweenEndpoints(from, to).Allow)})
	return &w
}

// anyPair shows one pair of workloads that can talk.
func (u *auditor) anyPair() *finding.Witness {
	for i := range u.a.Net.Endpoints {
		if u.a.Net.Endpoints[i].Kind == network.Workload {
			if w := u.into(i); w != nil {
				return w
			}
		}
	}
	return nil
}

// distinct counts the workloads among endpoints.
func (u *auditor) distinct(endpoints []int) int {
	names := map[string]bool{}
	for _, e := range endpoints {
		names[u.a.Net.Endpoints[e].Workload] = true
	}
	return len(names)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (u *auditor) flat(f reach.Flatness) {
	if f.Pairs == 0 {
		return
	}
	sev := finding.Info
	switch share := f.Share(); {
	case share > 0.5:
		sev = finding.High
	case share > 0.2:
		sev = finding.Medium
	}
	out := finding.New("flat-network", sev, "the whole estate", "")
	out.Title = fmt.Sprintf("%.0f %% of all ordered pairs of workloads can talk (%d of %d)", 100*f.Share(), f.Allowed, f.Pairs)
	if f.Unknown > 0 {
		out.Title += fmt.Sprintf("; for %d more the input does not tell", f.Unknown)
	}
	out.Detail = "In a flat network one compromised workload reaches every other."
	out.Remedy = "group workloads into zones and allow only declared flows between them: bulkhead init drafts that"
	out.Witness = u.anyPair()
	out.Facts = map[string]string{"indicator": "F1", "share": fmt.Sprintf("%.4f", f.Share()), "pairs": fmt.Sprint(f.Pairs), "allowed": fmt.Sprint(f.Allowed)}
	u.add(out)
}

// egress reports endpoints that may send something to any public address.
func (u *auditor) egress() {
	for _, g := range u.scopes() {
		var open []int
		var traffic netset.Traffic
		for _, e := range g.endpoints {
			allowed, _ := addrReach(netset.PublicAddrs().Intersect(netset.AnyV4()), u.a.ToOutside(u.a.ClassOf(e)))
			if !allowed.IsEmpty() {
				open = append(open, e)
				traffic = traffic.Union(allowed)
			}
		}
		if len(open) == 0 {
			continue
		}
		f := finding.New("unrestricted-egress", u.severityFor(open, finding.Medium), g.name, "")
		f.Title = fmt.Sprintf("%s: %d of %s can call any address on the internet (%s)", g.name, u.distinct(open), count(u.distinct(g.endpoints), "workload", "workloads"), traffic)
		f.Detail = u.names(open, 5) + ". Whatever runs there can carry data out and fetch tools."
		e := open[0]
		f.Pos = u.a.Net.Endpoints[e].Pos
		f.Remedy = "deny egress by default; allow named destinations through an egress gateway"
		f.Facts = map[string]string{"indicator": "F3", "open": fmt.Sprint(len(open))}
		f.Witness = u.outward(e, netset.PublicAddrs().Intersect(netset.AnyV4()), "any public address")
		u.add(f)
	}
}

func (u *auditor) outward(e int, addrs netset.Addrs, name string) *finding.Witness {
	ip, ok := addrs.Example()
	if !ok {
		return nil
	}
	to := u.a.ClassOfAddr(ip)
	d := u.a.Between(u.a.ClassOf(e), to)
	w := u.a.Explain(reach.Question{From: u.a.ClassOf(e), To: to, FromName: u.a.Net.Endpoints[e].Name(), ToName: name, Traffic: preferred(d.Allow)})
	return &w
}

// preferred picks the connection that a witness shows: HTTPS if it is among
// them, otherwise the first.
func preferred(t netset.Traffic) netset.Traffic {
	for _, port := range []uint16{443, 80} {
		if p := netset.Port(netset.TCP, port); p.SubsetOf(t) {
			return p
		}
	}
	return example(t)
}

// Metadata services of the clouds: whoever reaches them may get the machine's
// credentials.
var metadataServices = []struct {
	addr string
	port uint16
	name string
}{
	{"169.254.169.254", 80, "the metadata service (169.254.169.254)"},
	{"fd00:ec2::254", 80, "the metadata service over IPv6 (fd00:ec2::254)"},
}

func (u *auditor) metadata() {
	for _, m := range metadataServices {
		addr := netip.MustParseAddr(m.addr)
		class := u.a.ClassOfAddr(addr)
		if class < 0 {
			continue
		}
		var open []int
		for i := range u.a.Net.Endpoints {
			e := &u.a.Net.Endpoints[i]
			if e.Kind == network.Workload && u.a.Between(u.a.ClassOf(i), class).Allow.Has(netset.TCP, m.port) {
				open = append(open, i)
			}
		}
		if len(open) == 0 {
			continue
		}
		sev := u.severityFor(open, finding.Medium)
		if m.addr != "169.254.169.254" {
			sev = finding.Low
		}
		f := finding.New("metadata-access", sev, m.addr, "")
		f.Title = fmt.Sprintf("%s can reach %s", count(u.distinct(open), "workload", "workloads"), m.name)
		f.Detail = u.names(open, 5) + ". It hands out the machine's credentials to whoever asks (AML.T0012, AML.T0055)."
		f.Pos = u.a.Net.Endpoints[open[0]].Pos
		f.Remedy = fmt.Sprintf("except %s/%d from egress rules, or deny egress by default; give workloads an identity of their own", m.addr, addr.BitLen())
		w := u.a.Explain(reach.Question{From: u.a.ClassOf(open[0]), To: class, FromName: u.a.Net.Endpoints[open[0]].Name(), ToName: m.addr, Traffic: netset.Port(netset.TCP, m.port)})
		f.Witness = &w
		f.Facts = map[string]string{"open": fmt.Sprint(len(open))}
		u.add(f)
	}
}

// consoles reports sensitive ports that other scopes can reach, once for each
// workload.
func (u *auditor) consoles() {
	for i := range u.a.Net.Endpoints {
		e := &u.a.Net.Endpoints[i]
		if len(u.known[i]) == 0 {
			continue
		}
		var ports netset.Traffic
		var says, why []string
		for _, s := range u.known[i][0].Sensitive {
			if serves(e, s.Port) {
				ports = ports.Union(netset.Port(netset.TCP, s.Port))
				says = append(says, fmt.Sprintf("%d (%s)", s.Port, s.Name))
				why = append(why, s.Name+": "+s.Why)
			}
		}
		if from, first := u.strangers(i, ports); len(from) > 0 {
			u.console(i, from, first, ports, says, why)
		}
	}
}

// serves reports whether an endpoint declares a port, or declares none at all
// and so may listen on its usual ones.
func serves(e *network.Endpoint, port uint16) bool {
	return len(e.Ports) == 0 || slices.ContainsFunc(e.Ports, func(p network.Port) bool { return p.Number == port })
}

// strangers returns the workloads of other scopes that reach any of the ports
// of an endpoint, and the first such endpoint.
func (u *auditor) strangers(target int, ports netset.Traffic) (names []string, first int) {
	first = -1
	for c := range u.a.EndpointClasses() {
		if !ports.Overlaps(u.a.Between(reach.ClassID(c), u.a.ClassOf(target)).Allow) {
			continue
		}
		for _, i := range u.a.Classes()[c].Endpoints {
			e := &u.a.Net.Endpoints[i]
			if e.Kind != network.Workload || e.Scope == u.a.Net.Endpoints[target].Scope {
				continue
			}
			if first < 0 || int(i) < first {
				first = int(i)
			}
			names = append(names, e.Workload)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), first
}

func (u *auditor) console(target int, from []string, first int, ports netset.Traffic, says, why []string) {
	to := &u.a.Net.Endpoints[target]
	reached := ports.Intersect(u.a.BetweenEndpoints(first, target).Allow)
	f := finding.New("console-reachable", finding.High, to.Name(), "")
	f.Title = fmt.Sprintf("%s outside %s can reach %s on %s", count(len(from), "workload", "workloads"), u.scopeName(to), u.title(target), list(says, 5))
	f.Detail = strings.Join(why, "; ")
	f.Pos = to.Pos
	f.Remedy = "allow these ports only to the workloads that need them"
	w := u.a.Explain(reach.Question{From: u.a.ClassOf(first), To: u.a.ClassOf(target), FromName: u.a.Net.Endpoints[first].Name(), ToName: to.Name(), Traffic: example(reached)})
	f.Witness = &w
	f.Facts = map[string]string{"component": u.known[target][0].ID, "from": fmt.Sprint(len(from)), "ports": ports.String()}
	u.once(f)
}

func (u *auditor) scopeName(e *network.Endpoint) string {
	if e.Scope < 0 {
		return "its scope"
	}
	return u.a.Net.Scopes[e.Scope].Name
}

// hostShared reports workloads on the host's network, where policies for
// workloads have no effect.
func (u *auditor) hostShared() {
	for i := range u.a.Net.Endpoints {
		e := &u.a.Net.Endpoints[i]
		if e.Kind != network.Workload || e.Attachment != network.HostShared {
			continue
		}
		f := finding.New("host-network", finding.Medium, e.Workload, e.Part)
		f.Title = u.title(i) + " shares the network of its host: no network policy applies to it"
		f.Detail = "It can reach whatever the host can, the metadata service included, and anything that reaches the host reaches its ports."
		f.Pos, f.Remedy = e.Pos, "give it a network of its own unless it is part of the network itself"
		u.add(f)
	}
}

// relays reports what a proxy or the control plane must reach and cannot: a
// webhook that fails, a route that answers with an error.
func (u *auditor) relays() {
	for _, p := range u.a.Relayed() {
		if !p.Allow.IsEmpty() || !p.Unknown.IsEmpty() || p.Route.At(&u.a.Net.Endpoints[p.Endpoint]).IsEmpty() {
			continue
		}
		e := &u.a.Net.Endpoints[p.Endpoint]
		from := u.a.Means(p.Front.Via)
		if len(from) == 0 {
			continue
		}
		f := finding.New("blocked-relay", finding.Medium, p.Front.Name, e.Workload)
		at := p.Route.At(e)
		f.Title = fmt.Sprintf("%s cannot work: %s cannot reach %s on %s", p.Front.Name, u.a.ClassName(from[0]), u.title(p.Endpoint), at)
		f.Detail = p.Front.Why
		f.Pos, f.Remedy = p.Front.Pos, "allow it in the layer that denies (the witness names it), or remove the front"
		w := u.a.Explain(reach.Question{From: from[0], To: u.a.ClassOf(p.Endpoint), ToName: e.Name(), Traffic: example(at)})
		f.Witness = &w
		u.once(f)
	}
}
