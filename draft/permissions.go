package draft

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/verify"
)

// services collects the ports that a unit declares and those that fronts
// forward to it.
func (d *drafter) services() {
	forwarded := map[int]netset.Traffic{}
	for _, p := range append(d.Analysis.Published(), d.Analysis.Relayed()...) {
		forwarded[p.Endpoint] = forwarded[p.Endpoint].Union(p.Route.At(&d.Analysis.Net.Endpoints[p.Endpoint]).AnyRequests())
	}
	for u := range d.units {
		un := &d.units[u]
		names := map[string]bool{}
		var have netset.Traffic
		add := func(name string, t netset.Traffic) {
			run := t.Runs()[0]
			if t.Overlaps(have) {
				return
			}
			have = have.Union(t)
			name = cmp.Or(slug(name), fmt.Sprintf("port-%d", run.Lo))
			if names[name] {
				name = slug(fmt.Sprintf("%.40s-%s-%d", name, run.Protocol, run.Lo))
			}
			names[name] = true
			un.services = append(un.services, service{name: name, protocol: protocolOf(name, run.Protocol), traffic: t, lo: run.Lo})
		}
		for _, e := range un.endpoints {
			for _, p := range d.Analysis.Net.Endpoints[e].Ports {
				if t := netset.Port(p.Protocol, p.Number); !t.IsEmpty() && p.Protocol.HasPorts() {
					add(p.Name, t)
				}
			}
		}
		for _, e := range un.endpoints {
			for _, r := range forwarded[e].Runs() {
				if r.Lo == r.Hi && r.Protocol.HasPorts() {
					add("", netset.Port(r.Protocol, r.Lo))
				}
			}
		}
	}
}

// protocolOf guesses what a port speaks from its name.
func protocolOf(name string, p netset.Protocol) string {
	switch {
	case p == netset.UDP:
		return "udp"
	case p == netset.SCTP:
		return "sctp"
	case strings.Contains(name, "grpc"):
		return "grpc"
	case strings.HasPrefix(name, "https"):
		return "https"
	case strings.HasPrefix(name, "http"):
		return "http"
	}
	return "tcp"
}

// flows declares, for every service, the units that the estate lets reach it.
// Services with the same sources share a flow.
func (d *drafter) flows() {
	type target struct {
		unit int
		svc  *service
	}
	bySources := map[string][]target{}
	sources := map[string][]bool{}
	var order []string
	for u := range d.units {
		for s := range d.units[u].services {
			svc := &d.units[u].services[s]
			key, from := d.sourcesOf(u, svc)
			if !slices.Contains(from, true) {
				continue
			}
			if bySources[key] == nil {
				order = append(order, key)
				sources[key] = from
			}
			bySources[key] = append(bySources[key], target{u, svc})
		}
	}
	for _, key := range order {
		f := policy.Flow{From: d.compress(sources[key])}
		whole := map[int]int{}
		for _, t := range bySources[key] {
			whole[t.unit]++
		}
		for _, t := range bySources[key] {
			un := &d.units[t.unit]
			if n := whole[t.unit]; n == len(un.services) && n > 1 {
				if &un.services[0] == t.svc {
					f.To = append(f.To, text(un.name))
				}
				continue
			}
			f.To = append(f.To, text(un.name+"/"+t.svc.name))
		}
		f.Why = d.why("draft: the estate allows it today", false)
		d.out.Policy.Flows = append(d.out.Policy.Flows, f)
		d.out.Flows = append(d.out.Flows, "guess: nothing tells who really calls these; replace the sources by those that do, and say why")
	}
}

// sourcesOf says for each unit whether the estate lets all of it use a service
// of all of a unit, itself included. Units whose endpoints are of the same
// classes have the same sources; the key is equal for equal sources.
func (d *drafter) sourcesOf(to int, svc *service) (key string, from []bool) {
	alike := d.classesOf(to) + "|" + svc.traffic.Key()
	if found, ok := d.sources[alike]; ok {
		return found.key, found.from
	}
	from = make([]bool, len(d.units))
	byClasses := map[string]bool{}
	for u := range d.units {
		classes := d.classesOf(u)
		allowed, ok := byClasses[classes]
		if !ok {
			allowed = d.allAllowed(u, to, svc.traffic)
			byClasses[classes] = allowed
		}
		from[u] = allowed
	}
	key = fmt.Sprint(from)
	d.sources[alike] = sourceSet{key, from}
	return key, from
}

// classesOf names the set of classes that a unit's endpoints are of.
func (d *drafter) classesOf(u int) string {
	if d.units[u].classes == "" {
		var cs []int
		for _, e := range d.units[u].endpoints {
			cs = append(cs, int(d.Analysis.ClassOf(e)))
		}
		slices.Sort(cs)
		d.units[u].classes = fmt.Sprint(slices.Compact(cs))
	}
	return d.units[u].classes
}

func (d *drafter) allAllowed(from, to int, t netset.Traffic) bool {
	for _, e := range d.units[from].endpoints {
		for _, f := range d.units[to].endpoints {
			if !t.SubsetOf(d.Analysis.BetweenEndpoints(e, f).Allow) {
				return false
			}
		}
	}
	return true
}

// compress names a set of units by all, by whole zones, and one by one.
func (d *drafter) compress(in []bool) []policy.Text {
	if !slices.Contains(in, false) {
		return []policy.Text{text(policy.All)}
	}
	total, count := map[string]int{}, map[string]int{}
	for u := range d.units {
		total[d.units[u].zone]++
		if in[u] {
			count[d.units[u].zone]++
		}
	}
	var out []policy.Text
	for _, z := range d.out.Policy.Zones {
		if n := z.Name.Value; count[n] == total[n] && total[n] > 1 {
			out = append(out, text(policy.ZonePrefix+n))
		}
	}
	for u := range d.units {
		if z := d.units[u].zone; in[u] && (count[z] < total[z] || total[z] == 1) {
			out = append(out, text(d.units[u].name))
		}
	}
	return out
}

// dns declares name resolution for those that can use it.
func (d *drafter) dns() {
	for name, endpoints := range d.Resolvers {
		port := policy.Resolvers[name]
		t := netset.Port(netset.UDP, port).Union(netset.Port(netset.TCP, port))
		in := make([]bool, len(d.units))
		for u := range d.units {
			in[u] = true
			for _, e := range d.units[u].endpoints {
				for _, f := range endpoints {
					in[u] = in[u] && t.SubsetOf(d.Analysis.BetweenEndpoints(e, f).Allow)
				}
			}
		}
		if len(endpoints) > 0 && slices.Contains(in, true) {
			d.out.Policy.DNS = &policy.DNS{To: text(name), From: d.compress(in), Why: d.why("draft: names are resolved by the cluster", false)}
			return
		}
	}
	d.out.Policy.DNS = &policy.DNS{To: text("kubernetes"), From: []policy.Text{text(policy.All)}, Why: d.why("draft: names are resolved by the cluster", false)}
}

// exposures declares what fronts publish, and what the control plane calls.
func (d *drafter) exposures() {
	type key struct{ to, from string }
	seen := map[key]bool{}
	add := func(unitIndex int, t netset.Traffic, from []policy.Text, comment string, dated bool) {
		un := &d.units[unitIndex]
		for _, s := range un.services {
			if !s.traffic.SubsetOf(t.AnyRequests()) {
				continue
			}
			k := key{un.name + "/" + s.name, fmt.Sprint(from)}
			if seen[k] {
				continue
			}
			seen[k] = true
			e := policy.Exposure{To: []policy.Text{text(k.to)}, From: from, Why: d.why("draft: it is published today", dated)}
			d.out.Policy.Exposures = append(d.out.Policy.Exposures, e)
			d.out.Exposed = append(d.out.Exposed, comment)
		}
	}
	for _, p := range d.Analysis.Published() {
		u, ok := d.byEnd[p.Endpoint]
		if !ok {
			continue
		}
		switch {
		case p.Front.Reach == network.ReachUnknown || p.Allow.IsEmpty():
			d.warn("%s (%s) may publish %s: %s", p.Front.Name, p.Front.Pos.Short(), d.units[u].name, p.Front.Why)
		case p.Front.Reach == network.ReachPublic:
			comment := fmt.Sprintf("guess: %s (%s) publishes it to the internet; is that meant?", p.Front.Name, p.Front.Pos.Short())
			add(u, p.Allow, clientTexts(p.Clients, []policy.Text{text(policy.Internet)}), comment, true)
		default:
			private := []policy.Text{text("10.0.0.0/8"), text("172.16.0.0/12"), text("192.168.0.0/16")}
			comment := fmt.Sprintf("guess: %s (%s) publishes it to private networks; narrow the addresses", p.Front.Name, p.Front.Pos.Short())
			add(u, p.Allow, clientTexts(p.Clients, private), comment, true)
		}
	}
	for _, p := range d.Analysis.Relayed() {
		u, ok := d.byEnd[p.Endpoint]
		if ok && d.viaControl(p.Front) && !p.Allow.IsEmpty() {
			add(u, p.Allow, []policy.Text{text(policy.ControlPlane)},
				fmt.Sprintf("%s (%s): the control plane calls it", p.Front.Name, p.Front.Pos.Short()), false)
		}
	}
}

func (d *drafter) viaControl(f *network.Front) bool {
	for _, c := range d.Analysis.Means(f.Via) {
		cl := &d.Analysis.Classes()[c]
		if !cl.Outside() && d.Analysis.Net.Endpoints[cl.Endpoints[0]].Kind == network.Control {
			return true
		}
	}
	return false
}

// clientTexts names the clients of a front, when few networks say it, and
// otherwise those that its reach suggests.
func clientTexts(clients netset.Addrs, otherwise []policy.Text) []policy.Text {
	cidrs := clients.CIDRs()
	if len(cidrs) == 0 || len(cidrs) > 20 || clients.Overlaps(netset.MustAddrs("0.0.0.0/8")) {
		return otherwise
	}
	out := make([]policy.Text, len(cidrs))
	for i, c := range cidrs {
		out[i] = text(c)
	}
	return out
}

func (d *drafter) warn(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(d.out.Warnings, s) {
		d.out.Warnings = append(d.out.Warnings, s)
	}
}

// wanted says which destinations the classes of components usually need, and
// what a component of the class is called.
var wanted = map[string]struct {
	name string
	to   []string
}{
	"inference-server": {"an inference server", []string{"huggingface"}},
	"training-job":     {"a training job", []string{"huggingface", "pypi"}},
	"notebook":         {"a notebook", []string{"huggingface", "pypi"}},
}

// egress guesses named destinations for what was recognised and can call out.
func (d *drafter) egress() {
	byClass := map[string][]bool{}
	can := 0
	for u := range d.units {
		if !d.canCallOut(u) {
			continue
		}
		can++
		if len(d.units[u].known) == 0 || wanted[d.units[u].known[0].Class].to == nil || d.units[u].zone == string(policy.Data) {
			continue
		}
		class := d.units[u].known[0].Class
		if byClass[class] == nil {
			byClass[class] = make([]bool, len(d.units))
		}
		byClass[class][u] = true
	}
	classes := make([]string, 0, len(byClass))
	for c := range byClass {
		classes = append(classes, c)
	}
	slices.Sort(classes)
	for _, c := range classes {
		e := policy.Egress{From: d.compress(byClass[c]), Why: d.why("draft: "+wanted[c].name+" usually fetches from there", false)}
		for _, w := range wanted[c].to {
			e.To = append(e.To, text(w))
		}
		d.out.Policy.Egress = append(d.out.Policy.Egress, e)
		d.out.Egress = append(d.out.Egress, "guess: what "+wanted[c].name+" usually needs; list what yours really calls")
	}
	if can > 0 {
		d.warn("%d workloads can call any address on the internet today; only the named destinations under egress: are declared, and bulkhead verify lists the rest", can)
	}
}

// control warns of workloads that use the platform's own API: the policy knows
// its address only if the user gives it.
func (d *drafter) control() {
	n := 0
	for u := range d.units {
		for i := range d.Analysis.Net.Endpoints {
			e := &d.Analysis.Net.Endpoints[i]
			if e.Kind == network.Control && !d.Analysis.BetweenEndpoints(d.units[u].endpoints[0], i).Allow.IsEmpty() {
				n++
				break
			}
		}
	}
	if n > 0 {
		d.warn("%s can call the control plane's API today; those that need it (controllers, operators, jobs that start jobs) need its address under egress:, such as {from: NAME, to: 10.0.0.1/32, ports: [443]}", count(n, "workload", "workloads"))
	}
}

func (d *drafter) canCallOut(u int) bool {
	https := netset.Port(netset.TCP, 443)
	for _, e := range d.units[u].endpoints {
		open := false
		for _, out := range d.Analysis.ToOutside(d.Analysis.ClassOf(e)) {
			open = open || https.SubsetOf(out.Allow) && netset.PublicAddrs().Intersect(netset.AnyV4()).SubsetOf(out.Addrs)
		}
		if !open {
			return false
		}
	}
	return len(d.units[u].endpoints) > 0
}

// relax accepts, with a date, every invariant that the draft breaks.
func (d *drafter) relax() {
	in, _ := policy.Resolve(d.out.Policy, d.Now)
	count := map[string]int{}
	for _, f := range verify.Check(in) {
		if id, ok := strings.CutPrefix(f.Rule, "invariant/"); ok && f.Severity > finding.Info {
			count[id]++
		}
	}
	for _, id := range verify.InvariantIDs(d.out.Policy) {
		if count[id] == 0 {
			continue
		}
		r := policy.Relaxation{Invariant: text(id), Why: d.why("draft: what the estate allows today breaks it", true)}
		d.out.Policy.Relaxations = append(d.out.Policy.Relaxations, r)
		d.out.Relaxed = append(d.out.Relaxed, fmt.Sprintf("%d permissions above break it (%s); tighten them and remove this", count[id], says(id)))
	}
}

func says(id string) string {
	for _, inv := range verify.Invariants {
		if inv.ID == id {
			return inv.Says
		}
	}
	return "no chain of permissions leads from the internet to changing data or artefacts"
}

func (d *drafter) header() {
	lines := []string{
		fmt.Sprintf("Drafted by bulkhead init on %s from %d workloads. It declares what the estate", d.Now.UTC().Format("2006-01-02"), len(d.units)),
		"allows today: permissive first. Every guess is marked; go through them, tighten, and say why.",
		"",
		"Next: bulkhead check; bulkhead verify PATH; bulkhead compile --target kubernetes.",
	}
	if len(d.out.Warnings) > 0 {
		lines = append(lines, "", "Left for you to decide:")
		for _, w := range d.out.Warnings {
			lines = append(lines, "  - "+w)
		}
	}
	d.out.Header = strings.Join(lines, "\n")
}
