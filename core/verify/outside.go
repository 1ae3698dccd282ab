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
)

// compareEgress compares what each declared workload may send outside.
func (v *verifier) compareEgress() {
	out := map[policy.Party][]*policy.Permission{}
	resolving := map[policy.Party][]*policy.Permission{}
	for i := range v.in.Permissions {
		p := &v.in.Permissions[i]
		if at := v.bound.ResolverAddrs[p.To.Name]; p.To.Kind == policy.ResolverParty && !at.IsEmpty() {
			also := *p
			also.Addrs = at
			for _, m := range p.From.Members {
				resolving[m] = append(resolving[m], &also)
			}
			continue
		}
		if p.To.Kind != policy.OutsideParty || p.Via != "" || p.Kind == policy.ExposureKind {
			continue
		}
		for _, m := range p.From.Members {
			out[m] = append(out[m], p)
		}
	}
	for i := range v.in.Policy.Workloads {
		w := policy.Party{Kind: policy.WorkloadParty, Name: v.in.Policy.Workloads[i].Name.Value}
		for _, gi := range v.byParty[w] {
			edges := v.a.ToOutside(v.groups[gi].class)
			// A resolver may answer at its addresses, and need not: what
			// is closed there is not broken.
			v.egressLeaks(w, &v.groups[gi], edges, slices.Concat(out[w], resolving[w]))
			v.egressBroken(w, &v.groups[gi], edges, out[w])
		}
	}
}

// internetPart is what findings call the public addresses.
const internetPart = "the internet"

// egressLeaks finds what may leave beyond the declared destinations. Private
// space is reported apart from the internet: it is where other workloads and
// the metadata service are.
func (v *verifier) egressLeaks(w policy.Party, g *group, edges []reach.OutsideEdge, perms []*policy.Permission) {
	for _, e := range edges {
		if e.Name != "" {
			var want netset.Traffic
			for _, p := range perms {
				if holdsName(p.ByName(), e.Name) {
					want = want.Union(p.Traffic)
				}
			}
			if extra := e.Allow.Subtract(want.AnyRequests()); !extra.IsEmpty() {
				v.egressFinding("egress-leak", finding.High, w, g, e.Name, v.a.ClassOfName(e.Name), extra)
			} else if possible := e.Unknown.Subtract(want.AnyRequests()); !possible.IsEmpty() {
				v.egressFinding("possible-egress-leak", finding.Low, w, g, e.Name, v.a.ClassOfName(e.Name), possible)
			}
			continue
		}
		for _, part := range []struct {
			name  string
			addrs netset.Addrs
			sev   finding.Severity
		}{
			{internetPart, e.Addrs.Intersect(netset.PublicAddrs()), finding.High},
			{"private addresses", e.Addrs.Subtract(netset.PublicAddrs()), finding.Medium},
		} {
			v.egressPart(w, g, part.name, part.addrs, part.sev, e.Decision, perms)
		}
	}
}

// egressPart compares one part of the outside, split by the declared CIDRs.
// Where only names are declared, every address allowed is wider than declared.
func (v *verifier) egressPart(w policy.Party, g *group, name string, addrs netset.Addrs, sev finding.Severity, d reach.Decision, perms []*policy.Permission) {
	if addrs.IsEmpty() {
		return
	}
	sets := make([]netset.Addrs, len(perms))
	for i, p := range perms {
		sets[i] = p.Addrs
	}
	atoms, in := netset.Atoms(sets)
	var leaked []netset.Addrs
	var extra, possible, wider netset.Traffic
	for i, atom := range atoms {
		if atom = atom.Intersect(addrs); atom.IsEmpty() {
			continue
		}
		var want netset.Traffic
		for _, id := range in[i] {
			want = want.Union(perms[id].Traffic)
		}
		if more := d.Allow.Subtract(want.AnyRequests()); !more.IsEmpty() {
			leaked = append(leaked, atom)
			extra = extra.Union(more)
		}
		possible = possible.Union(d.Unknown.Subtract(want.AnyRequests()))
		wider = wider.Union(d.Allow.Intersect(want.AnyRequests()).Subtract(want))
	}
	if extra.IsEmpty() {
		if !wider.IsEmpty() {
			v.egressFinding("wider-requests", finding.Low, w, g, name, v.classAt(addrs), wider)
		}
		if !possible.IsEmpty() {
			v.egressFinding("possible-egress-leak", finding.Low, w, g, name, v.classAt(addrs), possible)
		}
		return
	}
	at := netset.UnionAddrs(leaked)
	where := name
	if cidrs := at.CIDRs(); len(cidrs) <= 3 {
		where = strings.Join(cidrs, ", ")
	}
	rule := "egress-leak"
	if named := namedTraffic(perms); name == internetPart && !named.IsEmpty() && extra.SubsetOf(named.AnyRequests()) {
		rule = "egress-wider"
	}
	v.egressFinding(rule, sev, w, g, where, v.classAt(at), extra)
}

// classAt returns the class of one of the addresses.
func (v *verifier) classAt(addrs netset.Addrs) reach.ClassID {
	ip, ok := addrs.Example()
	if !ok {
		return -1
	}
	return v.a.ClassOfAddr(ip)
}

func namedTraffic(perms []*policy.Permission) netset.Traffic {
	var t netset.Traffic
	for _, p := range perms {
		if len(p.ByName()) > 0 {
			t = t.Union(p.Traffic)
		}
	}
	return t
}

func (v *verifier) egressFinding(rule string, sev finding.Severity, w policy.Party, g *group, to string, class reach.ClassID, extra netset.Traffic) {
	f := finding.New(rule, sev, w.Name, to+" "+extra.String())
	if v.seen[f.ID] {
		return
	}
	v.seen[f.ID] = true
	switch rule {
	case "wider-requests":
		f.Title = fmt.Sprintf("%s can send %s more requests than declared: %s", w.Name, to, extra)
		f.Detail = "No layer in the input filters requests, so every request passes on the declared port."
		f.Remedy = "send it through an egress gateway that keeps to the operations, or declare all requests"
	case "egress-leak":
		f.Title = fmt.Sprintf("%s can send %s to %s, which is not declared", w.Name, extra, to)
		f.Remedy = "close it (bulkhead compile writes the configuration), or declare the egress with a reason"
	case "egress-wider":
		f.Title = fmt.Sprintf("%s can send %s to %s; only named destinations are declared", w.Name, extra, to)
		f.Detail = "The layers in the input see addresses and not names, so that any host on the port can be reached."
		f.Remedy = "send it through an egress gateway (gateway: in the policy), or compile for a target whose layers know names"
	default:
		f.Title = fmt.Sprintf("whether %s can send %s to %s is not in the input", w.Name, extra, to)
		f.Facts = map[string]string{"verdict": "unknown"}
		f.Remedy = "give the missing input, or close it"
	}
	e := &v.a.Net.Endpoints[g.endpoints[0]]
	f.Pos = e.Pos
	if class >= 0 {
		wit := v.a.Explain(reach.Question{From: g.class, To: class, FromName: w.Name, ToName: to, Traffic: preferred(extra)})
		f.Witness = &wit
	}
	v.add(f)
}

// holdsName reports whether patterns cover name; both may begin with `*.`.
func holdsName(patterns []string, name string) bool {
	for _, p := range patterns {
		if p == name || strings.HasPrefix(p, "*.") && strings.HasSuffix(strings.TrimPrefix(name, "*"), p[1:]) && len(name) > len(p)-1 {
			return true
		}
	}
	return false
}

// egressBroken finds declared destinations that cannot be reached. A name can
// be reached where the layers allow it by name or allow all public addresses.
func (v *verifier) egressBroken(w policy.Party, g *group, edges []reach.OutsideEdge, perms []*policy.Permission) {
	for _, p := range perms {
		names := p.ByName()
		if len(names) == 0 && p.Addrs.IsEmpty() {
			continue
		}
		var allowed, may netset.Traffic
		if len(names) > 0 {
			allowed, may = nameReach(names, edges)
		} else {
			allowed, may = addrReach(p.Addrs, edges)
		}
		rule, sev := "broken-flow", finding.High
		switch {
		case p.Traffic.SubsetOf(allowed):
			continue
		case p.Traffic.SubsetOf(may):
			rule, sev = "unproven-flow", finding.Low
		}
		f := finding.New(rule, sev, p.Name, w.Name)
		f.Pos = p.Pos
		if rule == "broken-flow" {
			f.Title = fmt.Sprintf("%s is declared, but %s cannot send %s there", p.Name, w.Name, p.Traffic)
			f.Remedy = "open it in the layer that denies, declare a gateway, or remove the declaration"
			w := v.outsideWitness(g, p)
			f.Witness = w
		} else {
			f.Title = fmt.Sprintf("%s is declared, but whether %s can reach it depends on where its name points", p.Name, w.Name)
			f.Facts = map[string]string{"verdict": "unknown"}
			f.Remedy = "use a layer that knows names, or send it through an egress gateway"
		}
		v.add(f)
	}
}

func (v *verifier) outsideWitness(g *group, p *policy.Permission) *finding.Witness {
	to := reach.ClassID(-1)
	if ip, ok := p.Addrs.Example(); ok {
		to = v.a.ClassOfAddr(ip)
	} else if ip, ok := netset.PublicAddrs().Example(); ok {
		to = v.a.ClassOfAddr(ip)
	}
	if to < 0 {
		return nil
	}
	w := v.a.Explain(reach.Question{From: g.class, To: to, FromName: v.groupName(g), ToName: p.To.Name, Traffic: example(p.Traffic)})
	return &w
}

// nameReach returns what is allowed, and what may be, to every one of names.
func nameReach(names []string, edges []reach.OutsideEdge) (allowed, may netset.Traffic) {
	pub, pubMay := addrReach(netset.PublicAddrs(), edges)
	_, somewhere := anyReach(netset.PublicAddrs(), edges)
	for i, n := range names {
		byName := pub
		mayName := pubMay.Union(somewhere)
		for _, e := range edges {
			if e.Name != "" && holdsName([]string{e.Name}, n) {
				byName, mayName = byName.Union(e.Allow), mayName.Union(e.May())
			}
		}
		if i == 0 {
			allowed, may = byName, mayName
		} else {
			allowed, may = allowed.Intersect(byName), may.Intersect(mayName)
		}
	}
	return allowed, may
}

// addrReach returns what is allowed, and what may be, to every address.
func addrReach(addrs netset.Addrs, edges []reach.OutsideEdge) (allowed, may netset.Traffic) {
	rest := addrs
	first := true
	for _, e := range edges {
		if !e.Addrs.Overlaps(addrs) {
			continue
		}
		rest = rest.Subtract(e.Addrs)
		if first {
			allowed, may, first = e.Allow, e.May(), false
		} else {
			allowed, may = allowed.Intersect(e.Allow), may.Intersect(e.May())
		}
	}
	if first || !rest.IsEmpty() {
		return netset.Traffic{}, netset.Traffic{}
	}
	return allowed, may
}

// anyReach returns what is allowed, and what may be, to any address at all.
func anyReach(addrs netset.Addrs, edges []reach.OutsideEdge) (allowed, may netset.Traffic) {
	for _, e := range edges {
		if e.Addrs.Overlaps(addrs) {
			allowed, may = allowed.Union(e.Allow), may.Union(e.May())
		}
	}
	return allowed, may
}

// compareExposures compares who outside reaches each declared workload: what
// fronts publish, what the layers would let in, and what should be reachable.
func (v *verifier) compareExposures() {
	declared := map[policy.Party][]*policy.Permission{}
	for i := range v.in.Permissions {
		p := &v.in.Permissions[i]
		if p.Kind == policy.ExposureKind && p.From.Members[0].Kind == policy.OutsideParty {
			declared[p.To] = append(declared[p.To], p)
		}
	}
	published := map[int][]reach.Publication{}
	for _, p := range v.a.Published() {
		published[p.Endpoint] = append(published[p.Endpoint], p)
	}
	for i := range v.in.Policy.Workloads {
		w := policy.Party{Kind: policy.WorkloadParty, Name: v.in.Policy.Workloads[i].Name.Value}
		var pubs []reach.Publication
		for _, gi := range v.byParty[w] {
			for _, e := range v.groups[gi].endpoints {
				pubs = append(pubs, published[e]...)
			}
			v.latent(w, &v.groups[gi], declared[w])
		}
		for _, p := range pubs {
			v.publication(w, p, declared[w])
		}
		if len(v.byParty[w]) > 0 {
			v.brokenExposures(w, pubs, declared[w])
		}
	}
}

// clientsOf returns the addresses from which a publication can really be used.
func clientsOf(p reach.Publication) netset.Addrs {
	if p.Front.Reach == network.ReachPrivate {
		return p.Clients.Subtract(netset.PublicAddrs())
	}
	return p.Clients
}

// undeclared returns the addresses from which traffic is not declared, and
// what of it is not.
func undeclared(clients netset.Addrs, t netset.Traffic, declared []*policy.Permission) (netset.Addrs, netset.Traffic) {
	return beyond(clients, t, declared, func(more, want netset.Traffic) netset.Traffic { return more.Subtract(want.AnyRequests()) })
}

// widerRequests returns the same for the requests that are not declared on ports
// that are.
func widerRequests(clients netset.Addrs, t netset.Traffic, declared []*policy.Permission) (netset.Addrs, netset.Traffic) {
	return beyond(clients, t, declared, func(more, want netset.Traffic) netset.Traffic {
		return more.Intersect(want.AnyRequests()).Subtract(want)
	})
}

func beyond(clients netset.Addrs, t netset.Traffic, declared []*policy.Permission, extraOf func(t, want netset.Traffic) netset.Traffic) (netset.Addrs, netset.Traffic) {
	var extra netset.Traffic
	var from []netset.Addrs
	sets := make([]netset.Addrs, len(declared))
	for i, p := range declared {
		sets[i] = p.Addrs
		if p.From.Name == policy.Internet {
			// What may be reached from the internet may be reached from every
			// network on the way.
			sets[i] = netset.AnyAddr()
		}
	}
	atoms, in := netset.Atoms(sets)
	for i, atom := range atoms {
		if atom = atom.Intersect(clients); atom.IsEmpty() {
			continue
		}
		var want netset.Traffic
		for _, id := range in[i] {
			want = want.Union(declared[id].Traffic)
		}
		if more := extraOf(t, want); !more.IsEmpty() {
			extra = extra.Union(more)
			from = append(from, atom)
		}
	}
	return netset.UnionAddrs(from), extra
}

func (v *verifier) publication(w policy.Party, p reach.Publication, declared []*policy.Permission) {
	clients := clientsOf(p)
	public := clients.Intersect(netset.PublicAddrs())
	for _, part := range []struct {
		where string
		addrs netset.Addrs
		sev   finding.Severity
	}{
		{internetPart, public, finding.Critical},
		{"private networks", clients.Subtract(netset.PublicAddrs()), finding.Medium},
	} {
		from, extra := undeclared(part.addrs, p.Allow, declared)
		rule, sev, facts := "undeclared-exposure", part.sev, map[string]string(nil)
		if p.Front.Reach == network.ReachUnknown || extra.IsEmpty() {
			f2, more := undeclared(part.addrs, p.May(), declared)
			if more.IsEmpty() {
				v.widerExposure(w, p, part.where, part.addrs, declared)
				continue
			}
			from, extra, rule, sev = f2, more, "possible-exposure", finding.Medium
			facts = map[string]string{"verdict": "unknown"}
		}
		f := finding.New(rule, sev, w.Name, p.Front.Name+part.where)
		f.Title = fmt.Sprintf("%s publishes %s to %s on %s, which is not declared", p.Front.Name, w.Name, part.where, extra)
		if rule == "possible-exposure" {
			f.Title = fmt.Sprintf("%s may publish %s to %s on %s, which is not declared", p.Front.Name, w.Name, part.where, extra)
		}
		f.Detail, f.Facts, f.Pos = p.Front.Why, facts, p.Front.Pos
		f.Remedy = "make the front internal or remove it, or declare the exposure with an owner and a date"
		f.Witness = v.publicationWitness(w, p, from, extra)
		v.add(f)
	}
}

// widerExposure reports a front that forwards more requests than are declared.
func (v *verifier) widerExposure(w policy.Party, p reach.Publication, where string, clients netset.Addrs, declared []*policy.Permission) {
	from, extra := widerRequests(clients, p.Allow, declared)
	if extra.IsEmpty() {
		return
	}
	sev := finding.Low
	if where == internetPart {
		sev = finding.Medium
	}
	f := finding.New("wider-requests", sev, w.Name, p.Front.Name+where)
	f.Title = fmt.Sprintf("%s forwards more requests to %s from %s than declared: %s", p.Front.Name, w.Name, where, extra)
	f.Detail = "Neither the front nor a layer in the input keeps to the declared requests."
	f.Remedy = "limit the front to the declared hosts, paths and methods, or declare all requests"
	f.Pos = p.Front.Pos
	f.Witness = v.publicationWitness(w, p, from, extra)
	v.add(f)
}

func (v *verifier) publicationWitness(w policy.Party, p reach.Publication, from netset.Addrs, extra netset.Traffic) *finding.Witness {
	ip, ok := from.Example()
	if !ok {
		return nil
	}
	q := reach.Question{From: v.a.ClassOfAddr(ip), To: v.a.ClassOf(p.Endpoint), FromName: ip.String(), ToName: w.Name, Traffic: example(extra)}
	wit := v.a.Explain(q)
	wit.Hops = append([]finding.Hop{frontHop(p)}, wit.Hops...)
	return &wit
}

// frontHop is the first hop of a way in.
func frontHop(p reach.Publication) finding.Hop {
	why := p.Front.Why
	if p.Route.Port != 0 {
		why = fmt.Sprintf("%s; it forwards %s %d to %s", why, p.Route.Protocol, p.Route.Port, p.May())
	}
	verdict := finding.Allowed
	if p.Front.Reach == network.ReachUnknown {
		verdict = finding.Unknown
	}
	return finding.Hop{At: p.Front.Name, Verdict: verdict, Why: strings.TrimPrefix(why, "; "),
		Rules: []finding.Rule{{Name: p.Front.Name, Pos: p.Front.Pos}}}
}

// latent finds what the layers would let in from outside although nothing
// publishes it: it needs only a route, which some networks have.
func (v *verifier) latent(w policy.Party, g *group, declared []*policy.Permission) {
	var extra netset.Traffic
	var from []netset.Addrs
	for _, e := range v.a.OutsideTo(g.class) {
		addrs, more := undeclared(e.Addrs, e.Allow, declared)
		if !more.IsEmpty() {
			extra = extra.Union(more)
			from = append(from, addrs)
		}
	}
	if extra.IsEmpty() {
		return
	}
	addrs := netset.UnionAddrs(from)
	where := "outside addresses"
	if cidrs := addrs.CIDRs(); len(cidrs) <= 3 {
		where = strings.Join(cidrs, ", ")
	}
	f := finding.New("latent-exposure", finding.Low, w.Name, "")
	if v.seen[f.ID] {
		return
	}
	v.seen[f.ID] = true
	f.Title = fmt.Sprintf("no layer keeps %s from reaching %s on %s", where, w.Name, extra)
	f.Detail = "Nothing has to publish it where the network routes to the workload's own address."
	f.Pos = v.a.Net.Endpoints[g.endpoints[0]].Pos
	f.Remedy = "isolate its ingress (bulkhead compile writes the configuration)"
	if class := v.classAt(addrs); class >= 0 {
		wit := v.a.Explain(reach.Question{From: class, To: g.class, ToName: w.Name, Traffic: preferred(extra)})
		f.Witness = &wit
	}
	v.add(f)
}

// brokenExposures finds declared exposures that do not work.
func (v *verifier) brokenExposures(w policy.Party, pubs []reach.Publication, declared []*policy.Permission) {
	for _, p := range declared {
		var allowed, may netset.Traffic
		for _, pub := range pubs {
			if !p.Addrs.Overlaps(clientsOf(pub)) {
				continue
			}
			may = may.Union(pub.May())
			if pub.Front.Reach != network.ReachUnknown {
				allowed = allowed.Union(pub.Allow)
			}
		}
		// A front that forwards fewer requests than declared is narrower, not
		// broken, unless the declaration names requests.
		if !p.Traffic.HasRequests() {
			allowed, may = allowed.AnyRequests(), may.AnyRequests()
		}
		if p.Traffic.SubsetOf(allowed) {
			continue
		}
		var direct netset.Traffic
		for _, gi := range v.byParty[w] {
			got, _ := addrReach(p.Addrs, v.a.OutsideTo(v.groups[gi].class))
			direct = direct.Union(got)
		}
		f := finding.New("broken-flow", finding.High, p.Name, "")
		f.Pos = p.Pos
		switch {
		case p.Traffic.SubsetOf(may):
			f = finding.New("unproven-flow", finding.Low, p.Name, "")
			f.Pos = p.Pos
			f.Title = fmt.Sprintf("%s is declared, but whether it works is not in the input", p.Name)
			f.Facts = map[string]string{"verdict": "unknown"}
			f.Remedy = "keep the client's address all the way to the workload, or let the front's own addresses in (exposures: from: CIDR)"
		case p.Traffic.SubsetOf(direct):
			f = finding.New("unpublished-exposure", finding.Info, p.Name, "")
			f.Pos = p.Pos
			f.Title = fmt.Sprintf("%s is declared and no layer denies it, but nothing in the input publishes %s", p.Name, w.Name)
			f.Remedy = "add the load balancer or route to the input, or remove the exposure"
		default:
			f.Title = fmt.Sprintf("%s is declared, but %s does not get through", p.Name, p.Traffic.Subtract(allowed))
			f.Remedy = "open the layer that denies, or remove the declaration"
			if ip, ok := p.Addrs.Example(); ok && len(v.byParty[w]) > 0 {
				wit := v.a.Explain(reach.Question{From: v.a.ClassOfAddr(ip), To: v.groups[v.byParty[w][0]].class, FromName: p.From.Name, ToName: w.Name, Traffic: example(p.Traffic)})
				f.Witness = &wit
			}
		}
		v.add(f)
	}
}
