package node

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/host"
	"bulkhead/mesh/proxy"
	"bulkhead/mesh/registry"
)

// The ports of the data plane. The first of those that take datagrams is
// firstUDP; there is one for each service that a workload sends them to.
const (
	resolverPort = 53
	tunnelPort   = 15008
	firstUDP     = 15020
	maxUDP       = 4096
)

// layout is what a generation means for one node. It is computed from the
// generation, and from the layout before it only to keep the ports of captures.
type layout struct {
	plan    host.Plan
	world   *proxy.World
	members []member
	// doors are the services that something outside may reach.
	doors []outerDoor
	// limits say what of the policy this node cannot do, one line each.
	limits []string
	// gatewayAt is where the gateway and the resolver are; endpoints are the private
	// ones, endpointsAt where each is.
	gatewayAt   []netip.Addr
	endpoints   []endpoint.Endpoint
	endpointsAt map[string][]netip.Addr

	before *layout // nil for the first; forgotten when the layout is complete
	// shared are the workloads that are processes in the machine's own namespace.
	shared map[string]bool
	// unbound says which existing processes could not be found.
	unbound error
}

// bind looks up the control groups of workloads that are processes which run
// already. What is not found has no place on this machine until it is.
func (l *layout) bind(find func(host.Binding) (string, error)) {
	var errs []error
	members, plan := l.members[:0:0], l.plan.Members[:0:0]
	for i, m := range l.members {
		at := l.plan.Members[i]
		if m.binding.Unit != "" || m.binding.Cgroup != "" {
			path, err := find(m.binding)
			if err != nil {
				errs = append(errs, fmt.Errorf("workload %s: %w", at.Name, err))
				continue
			}
			at.CgroupPath = path
		}
		members, plan = append(members, m), append(plan, at)
	}
	l.members, l.plan.Members, l.unbound = members, plan, errors.Join(errs...)
	gone := func(name string) bool {
		return !slices.ContainsFunc(plan, func(m host.Member) bool { return m.Name == name })
	}
	if l.unbound != nil {
		l.plan.Plain = slices.DeleteFunc(l.plan.Plain, func(p host.Plain) bool { return gone(p.From) || gone(p.To) })
	}
}

// member is a workload of this node.
type member struct {
	workload *policy.Workload
	binding  host.Binding
}

type outerDoor struct {
	workload string
	port     uint16
}

// arrange computes the layout of a node.
func arrange(node string, o *generation.Order, p *generation.Plan, in *policy.Intent, bindings map[string]host.Binding, before *layout) *layout {
	l := &layout{
		before: before,
		shared: map[string]bool{},
		plan:   host.Plan{Platform: o.Platform, Names: map[string][]netip.Addr{}},
		world:  &proxy.World{TrustDomain: o.TrustDomain, Intent: in, Generation: o.Number, Places: map[netip.Addr]proxy.Place{}, UDP: map[string][]proxy.UDPCapture{}},
	}
	for name, s := range p.Addresses.Zones {
		l.plan.Zones = append(l.plan.Zones, host.Zone{Name: name, V4: s.V4, V6: s.V6})
	}
	slices.SortFunc(l.plan.Zones, func(a, b host.Zone) int { return cmp.Compare(a.Name, b.Name) })
	local := map[string]bool{}
	for i := range p.Policy.Workloads {
		w := &p.Policy.Workloads[i]
		a, ok := p.Addresses.Workloads[w.Name.Value]
		if !ok {
			continue
		}
		b, bound := bindings[w.Name.Value]
		at := ""
		if bound {
			at = assigned(o, b)
		}
		l.place(w, a, o, at, at == node)
		if at == node {
			local[w.Name.Value] = true
			l.members = append(l.members, member{w, b})
			if b.Unit != "" || b.Cgroup != "" {
				l.shared[w.Name.Value] = true
			}
			l.plan.Members = append(l.plan.Members, host.Member{Name: w.Name.Value, Zone: w.Zone.Value, V4: a.V4, V6: a.V6,
				Serves: served(w)})
		}
	}
	l.outside(in, p, bindings)
	l.permissions(in, p.Addresses, local)
	l.before = nil
	return l
}

// outside says where the gateway, the resolver and the private endpoints are. They
// are at the same addresses in every namespace, and nowhere on the fabric: what is
// sent there is captured.
func (l *layout) outside(in *policy.Intent, p *generation.Plan, bindings map[string]host.Binding) {
	w := l.world
	l.gatewayAt = gatewayAt(l.plan.Platform)
	l.plan.Names[GatewayName] = l.gatewayAt
	l.plan.Resolvers = l.gatewayAt[:1]
	w.Gateway, w.Proxies, w.Endpoints = map[netip.Addr]bool{}, map[netip.AddrPort]bool{}, map[netip.Addr]proxy.Endpoint{}
	for _, a := range l.gatewayAt {
		w.Gateway[a] = true
	}
	l.endpoints, l.endpointsAt = endpoint.Of(in), map[string][]netip.Addr{}
	for _, e := range l.endpoints {
		a := p.Addresses.Endpoints[e.Name]
		l.endpointsAt[e.Name] = []netip.Addr{a.V4, a.V6}
		for _, addr := range l.endpointsAt[e.Name] {
			w.Endpoints[addr] = proxy.Endpoint{Name: e.Name, Consumers: e.Consumers, Workload: e.Workload}
		}
	}
	for name, b := range bindings {
		if !b.Gateway {
			continue
		}
		for _, r := range tcpPorts(in.Workload(name)) {
			for _, addr := range l.plan.Names[name] {
				w.Proxies[netip.AddrPortFrom(addr, r)] = true
			}
		}
	}
	for i := range in.Permissions {
		if q := &in.Permissions[i]; q.Kind == policy.EgressKind && q.Traffic.HasRequests() && !q.Inspect && q.Traffic.Opens(netset.TCP, 443) {
			l.limits = append(l.limits, q.Name+" is limited to some requests, which nobody can read in TLS: at port 443 it is denied; add inspect: true or enforcedBy: application, or remove may:")
		}
	}
}

// tcpPorts are the first TCP ports of the services of a workload.
func tcpPorts(w *policy.Workload) []uint16 {
	var out []uint16
	for i := range w.Serves {
		for _, r := range w.Serves[i].Traffic().Runs() {
			if r.Protocol == netset.TCP {
				out = append(out, r.Lo)
			}
		}
	}
	return out
}

// resolving captures the questions of those who may use the resolver.
func (l *layout) resolving(p *policy.Permission, local map[string]bool, seen map[string]map[netip.AddrPort]bool) {
	for _, from := range p.From.Members {
		if from.Kind == policy.WorkloadParty && local[from.Name] {
			l.capture(p, from.Name, resolverPort, l.gatewayAt, seen)
		}
	}
}

// assigned returns the node of a binding: the one that it names, otherwise the
// first node of the order.
func assigned(o *generation.Order, b host.Binding) string {
	if b.Node == "" && len(o.Nodes) > 0 {
		return o.Nodes[0].Name
	}
	return b.Node
}

// Assigned reports whether a generation places a workload on a node. One without
// a binding to a host is on none.
func Assigned(o *generation.Order, p *generation.Plan, node, workload string) bool {
	for i := range p.Policy.Workloads {
		w := &p.Policy.Workloads[i]
		if w.Name.Value != workload {
			continue
		}
		for _, b := range w.Bindings {
			if b.Target.Value == host.BindingName {
				parsed, ds := host.ParseBinding(b)
				return !ds.HasErrors() && assigned(o, parsed) == node
			}
		}
	}
	return false
}

// place says where proxies find a workload and under which name programs do.
func (l *layout) place(w *policy.Workload, a generation.Address, o *generation.Order, at string, here bool) {
	l.plan.Names[w.Name.Value] = []netip.Addr{a.V4, a.V6}
	where := proxy.Place{Workload: w.Name.Value, Zone: w.Zone.Value}
	if !here {
		for _, n := range o.Nodes {
			if n.Name == at {
				where.Tunnel = n.Tunnel
			}
		}
	}
	for _, addr := range []netip.Addr{a.V4, a.V6} {
		if here {
			where.Tunnel = netip.AddrPortFrom(addr, tunnelPort)
		}
		l.world.Places[addr] = where
	}
}

// served returns the ports of a workload.
func served(w *policy.Workload) []host.Port {
	var out []host.Port
	for i := range w.Serves {
		for _, r := range w.Serves[i].Traffic().Runs() {
			if name := network(r.Protocol); name != "" {
				out = append(out, host.Port{Network: name, Lo: r.Lo, Hi: r.Hi})
			}
		}
	}
	return out
}

// network names what the data plane carries, empty for anything else.
func network(p netset.Protocol) string {
	switch p {
	case netset.TCP:
		return "tcp"
	case netset.UDP:
		return "udp"
	}
	return ""
}

// permissions adds what follows from what is permitted: doors between zones,
// exemptions, captures of datagrams, and doors to outside.
func (l *layout) permissions(in *policy.Intent, addrs generation.Addresses, local map[string]bool) {
	doors := map[host.Door]bool{}
	udp := map[string]map[netip.AddrPort]bool{}
	for i := range in.Permissions {
		p := &in.Permissions[i]
		if p.To.Kind == policy.ResolverParty {
			l.resolving(p, local, udp)
			continue
		}
		if p.To.Kind != policy.WorkloadParty {
			continue
		}
		to, known := addrs.Workloads[p.To.Name]
		if !known {
			continue
		}
		if p.Kind == policy.ExposureKind {
			l.expose(p, local)
			continue
		}
		for _, from := range p.From.Members {
			if from.Kind != policy.WorkloadParty || !local[from.Name] {
				continue
			}
			if p.Plaintext && l.exempt(p, from.Name, local) {
				continue
			}
			if local[p.To.Name] {
				doors[host.Door{From: addrs.Workloads[from.Name].Zone, To: to.Zone}] = true
			}
			l.datagrams(p, from.Name, to, udp)
		}
	}
	for d := range doors {
		l.plan.Doors = append(l.plan.Doors, d)
	}
	slices.SortFunc(l.plan.Doors, func(a, b host.Door) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	for i := range l.plan.Members {
		m := &l.plan.Members[i]
		for _, c := range l.world.UDP[m.Name] {
			m.UDP = append(m.UDP, host.UDPCapture{To: c.To, Local: c.Local})
		}
	}
}

// exempt lets a pair through that is not captured, and reports whether it does:
// the kernel can only do so between two namespaces of this node. Every other such
// flow is captured like any that is not plaintext.
func (l *layout) exempt(p *policy.Permission, from string, local map[string]bool) bool {
	why := ""
	switch to := p.To.Name; {
	case from == to:
		return true // nothing of it leaves the namespace
	case !local[to]:
		why = to + " is on another node"
	case l.shared[from]:
		why = from + " is bound to processes that run already"
	case l.shared[to]:
		why = to + " is bound to processes that run already"
	}
	if why != "" {
		l.limits = append(l.limits, p.Name+" is plaintext, and "+why+": it travels over mutual TLS")
		return false
	}
	for _, r := range p.Traffic.Runs() {
		name := network(r.Protocol)
		if name == "tcp" && r.Lo <= tunnelPort && tunnelPort <= r.Hi {
			l.limits = append(l.limits, fmt.Sprintf("%s names port %d, which belongs to the mesh: it is denied", p.Name, tunnelPort))
			l.pass(p, from, name, r.Lo, tunnelPort-1)
			l.pass(p, from, name, tunnelPort+1, r.Hi)
			continue
		}
		l.pass(p, from, name, r.Lo, r.Hi)
	}
	return true
}

// pass exempts a range of ports, unless it is empty or exempt already.
func (l *layout) pass(p *policy.Permission, from, network string, lo, hi uint16) {
	same := func(t host.Plain) bool {
		return t.From == from && t.To == p.To.Name && t.Network == network && t.Lo <= lo && hi <= t.Hi
	}
	if network != "" && lo <= hi && !slices.ContainsFunc(l.plan.Plain, same) {
		l.plan.Plain = append(l.plan.Plain, host.Plain{From: from, To: p.To.Name, Network: network, Lo: lo, Hi: hi, Rule: registry.RuleOf(p)})
	}
}

// datagrams gives each service that from may send datagrams to a port that takes
// them.
func (l *layout) datagrams(p *policy.Permission, from string, to generation.Address, seen map[string]map[netip.AddrPort]bool) {
	for _, r := range p.Traffic.Runs() {
		if r.Protocol != netset.UDP {
			continue
		}
		for port := int(r.Lo); port <= int(r.Hi); port++ {
			if !l.capture(p, from, uint16(port), []netip.Addr{to.V4, to.V6}, seen) {
				return
			}
		}
	}
}

// captureFor returns the port at which datagrams from a workload to dst arrive.
// It stays the same, and a port that meant something else a moment ago is not
// used: datagrams that are on their way must not change their destination. The
// processes that run already share the machine's own ports.
func (l *layout) captureFor(from string, dst netip.AddrPort) uint16 {
	used := map[uint16]bool{}
	l.captures(l.world, from, func(name string, c proxy.UDPCapture) { used[c.Local] = true })
	kept := uint16(0)
	if l.before != nil {
		l.captures(l.before.world, from, func(name string, c proxy.UDPCapture) {
			if name == from && c.To == dst && !used[c.Local] {
				kept = c.Local
			}
		})
		if kept != 0 {
			return kept
		}
		l.captures(l.before.world, from, func(name string, c proxy.UDPCapture) { used[c.Local] = true })
	}
	port := uint16(firstUDP)
	for used[port] {
		port++
	}
	return port
}

// capture gives the datagrams of a workload to a port at some addresses a port that
// takes them. It reports false if there are too many.
func (l *layout) capture(p *policy.Permission, from string, port uint16, at []netip.Addr, seen map[string]map[netip.AddrPort]bool) bool {
	for _, addr := range at {
		dst := netip.AddrPortFrom(addr, port)
		if seen[from] == nil {
			seen[from] = map[netip.AddrPort]bool{}
		}
		if seen[from][dst] {
			continue
		}
		if len(l.world.UDP[from]) == maxUDP {
			l.limits = append(l.limits, p.Name+" names more UDP ports than a workload can have: the rest is denied")
			return false
		}
		seen[from][dst] = true
		l.world.UDP[from] = append(l.world.UDP[from], proxy.UDPCapture{To: dst, Local: l.captureFor(from, dst)})
	}
	return true
}

// captures yields the captures that must not have the same port as those of a
// workload.
func (l *layout) captures(w *proxy.World, of string, each func(name string, c proxy.UDPCapture)) {
	names := []string{of}
	if l.shared[of] {
		names = slices.Collect(maps.Keys(l.shared))
	}
	for _, name := range names {
		for _, c := range w.UDP[name] {
			each(name, c)
		}
	}
}

// expose opens a door to outside for each port of a service of this node.
func (l *layout) expose(p *policy.Permission, local map[string]bool) {
	if !local[p.To.Name] {
		return
	}
	for _, r := range p.Traffic.Runs() {
		if r.Protocol != netset.TCP {
			l.limits = append(l.limits, p.Name+" exposes what is not TCP: it is denied")
			continue
		}
		for port := int(r.Lo); port <= int(r.Hi); port++ {
			d := outerDoor{p.To.Name, uint16(port)}
			if !slices.Contains(l.doors, d) {
				l.doors = append(l.doors, d)
			}
		}
	}
}
