package kubernetes

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// parseRange reads `10.0.0.0/24` or `10.0.0.1-10.0.0.9`.
func parseRange(text string) (netset.Addrs, bool) {
	if strings.Contains(text, "/") {
		a, err := netset.ParseCIDR(strings.TrimSpace(text))
		return a, err == nil || !a.IsEmpty()
	}
	first, last, ok := strings.Cut(text, "-")
	from, err := netip.ParseAddr(strings.TrimSpace(first))
	to, err2 := netip.ParseAddr(strings.TrimSpace(last))
	if !ok || err != nil || err2 != nil {
		return netset.Addrs{}, false
	}
	r := netipx.IPRangeFrom(from, to)
	if !r.IsValid() {
		return netset.Addrs{}, false
	}
	return netset.AddrsOf(r.Prefixes()...), true
}

// addFronts adds everything that publishes a workload.
func (b *builder) addFronts() {
	b.none = b.n.Predicate(network.Predicate{})
	b.indexEndpoints()
	for _, s := range b.serviceList {
		b.addServiceFronts(s)
	}
	b.addHostPorts()
	b.addIngresses()
	b.addGateways()
	b.addOpenShiftRoutes()
	b.addTargetBindings()
	b.addHooks()
}

// anyone are the clients of a front that admits all.
func anyone(clients netset.Addrs) netset.Addrs {
	if clients.IsEmpty() {
		return netset.AnyAddr()
	}
	return clients
}

// pods returns the predicate of the pods behind a service, and whether there
// is one.
func (b *builder) pods(s *service) (network.PredicateID, bool) {
	if !s.selects {
		return b.none, false
	}
	sel := s.selector
	if s.maker != nil {
		top := s.maker.top()
		sel = append(sel[:len(sel):len(sel)], network.Requirement{
			Key: WorkloadAttribute, Op: network.In, Values: []string{top.kind + "/" + top.name}})
	}
	return b.n.Predicate(network.Predicate{Endpoints: true, Kinds: podEnds, ScopeName: s.namespace, Attributes: sel}), true
}

// routes returns where the ports of s lead. asPort maps a port of the service
// to that of the front.
func (b *builder) routes(s *service, asPort func(*servicePort) uint16) []network.Route {
	var out []network.Route
	pods, ok := b.pods(s)
	for i := range s.ports {
		p := &s.ports[i]
		if !ok {
			out = append(out, b.backendRoutes(s, p, asPort(p))...)
			continue
		}
		r := network.Route{Protocol: p.protocol, Port: asPort(p), Backends: pods, Number: p.number, Name: p.target, Pos: p.pos}
		if s.headless {
			r.Number, r.Name = p.port, "" // clients talk to the pods themselves
		}
		out = append(out, r)
	}
	return out
}

// backendRoutes returns the routes to the addresses behind a service without
// a selector.
func (b *builder) backendRoutes(s *service, p *servicePort, port uint16) []network.Route {
	var out []network.Route
	for _, e := range b.slices[s.objectName] {
		for _, ep := range e.ports {
			if ep.name != p.name || ep.protocol != p.protocol {
				continue
			}
			base := network.Route{Protocol: p.protocol, Port: port, Number: ep.port, Backends: b.none, Pos: e.pos}
			var outside netset.Addrs
			for _, name := range e.pods {
				base.Backends = b.n.Predicate(network.Predicate{Endpoints: true, Kinds: podEnds, ScopeName: s.namespace,
					Attributes: network.Selector{{Key: WorkloadAttribute, Op: network.In, Values: []string{b.topOfPod(s.namespace, name)}}}})
				out = append(out, base)
			}
			for _, a := range e.addrs {
				if i, ok := b.byAddr[a]; ok {
					if len(e.pods) == 0 {
						inside := base
						inside.Backends = b.n.Predicate(network.Predicate{Addrs: b.n.Endpoints[i].Addrs})
						out = append(out, inside)
					}
				} else if len(e.pods) == 0 {
					outside = outside.Union(netset.Addr(a))
				}
			}
			if !outside.IsEmpty() {
				base.Backends, base.Address = b.none, outside
				out = append(out, base)
			}
		}
	}
	return out
}

// topOfPod returns the attribute of the workload that a Pod belongs to.
func (b *builder) topOfPod(namespace, name string) string {
	if w := b.livePods[objectName{namespace, name}]; w != nil {
		top := w.top()
		return top.kind + "/" + top.name
	}
	return "Pod/" + name
}

// indexEndpoints prepares the look-ups of fronts.
func (b *builder) indexEndpoints() {
	b.byAddr = map[netip.Addr]int{}
	b.byScope = map[int][]int{}
	b.byLabel = map[scopedLabel][]int{}
	b.livePods = map[objectName]*workload{}
	if len(b.slices) > 0 {
		for _, w := range b.workloads {
			if w.pod {
				b.livePods[objectName{w.namespace, w.name}] = w
			}
		}
	}
	wanted := map[string]bool{}
	for _, s := range b.serviceList {
		for _, r := range s.selector {
			wanted[r.Key] = true
		}
	}
	for i := b.first; i < len(b.n.Endpoints); i++ {
		e := &b.n.Endpoints[i]
		if e.Kind != network.Workload {
			continue
		}
		b.byScope[e.Scope] = append(b.byScope[e.Scope], i)
		for k, v := range e.Attributes {
			if wanted[k] {
				b.byLabel[scopedLabel{e.Scope, k, v}] = append(b.byLabel[scopedLabel{e.Scope, k, v}], i)
			}
		}
		if e.AddrsKnown && e.Attachment == network.Own {
			for _, p := range e.Addrs.Prefixes() {
				if p.IsSingleIP() {
					b.byAddr[p.Addr()] = i
				}
			}
		}
	}
}

type scopedLabel struct {
	scope      int
	key, value string
}

// selected returns the endpoints that a selector means or may mean, by the
// shortest list of candidates that one of its requirements leaves.
func (b *builder) selected(namespace string, sel network.Selector) []int {
	scope, ok := b.scopes[namespace]
	if !ok {
		return nil
	}
	candidates := b.byScope[scope]
	for _, r := range sel {
		if r.Op != network.In || len(r.Values) != 1 {
			continue
		}
		sure := b.byLabel[scopedLabel{scope, r.Key, r.Values[0]}]
		maybe := b.byLabel[scopedLabel{scope, r.Key, network.Unsettled}]
		if len(sure)+len(maybe) < len(candidates) {
			candidates = append(sure[:len(sure):len(sure)], maybe...)
		}
	}
	var out []int
	for _, i := range candidates {
		if sel.Match(b.n.Endpoints[i].Attributes) != network.No {
			out = append(out, i)
		}
	}
	return out
}

// addServiceFronts adds the fronts of a Service: inside always, and on nodes, load
// balancers and external addresses as its type says.
func (b *builder) addServiceFronts(s *service) {
	name := "Service " + s.String()
	if s.maker != nil {
		name += " (made for " + s.maker.kind + " " + s.maker.name + ")"
	} else if s.selects && len(b.selected(s.namespace, s.selector)) == 0 {
		b.ds.Warnf("no-backend", s.pos, "Service %s selects %s, and no pod of the input has these labels", s.String(), s.selector).
			WithFix("check the labels of the pods, or include what runs them")
	}
	dns := s.name + "." + s.namespace + ".svc"
	if s.kind == "ExternalName" {
		b.addExternalName(s, name, dns)
		return
	}
	same := func(p *servicePort) uint16 { return p.port }
	inside := network.Front{Name: name, Reach: network.ReachInside, Why: "a cluster address", Clients: netset.AnyAddr(),
		Source: network.SourceKept, Hosts: []string{dns}, Addresses: s.addresses, Routes: b.routes(s, same), Pos: s.pos}
	b.addFront(inside)
	if !s.externalIPs.IsEmpty() {
		f := inside
		f.Name, f.Addresses, f.Source, f.Hosts = name+" (external IPs)", s.externalIPs, network.SourceReplaced, nil
		if s.local {
			f.Source = network.SourceKept
		}
		f.Reach, f.Why = reachOfAddresses(s.externalIPs, nil)
		b.addFront(f)
	}
	if s.tailnet {
		f := inside
		f.Name, f.Source, f.Hosts, f.Addresses = name+" (tailnet)", network.SourceReplaced, nil, netset.Addrs{}
		f.Reach, f.Why = network.ReachPrivate, "annotation tailscale.com/expose publishes it in the tailnet"
		b.addFront(f)
	}
	if s.kind == "NodePort" || s.kind == "LoadBalancer" && !s.noNodePorts {
		f := inside
		f.Name, f.Hosts = name+" (NodePort)", nil
		f.Source = network.SourceReplaced
		if s.local {
			f.Source = network.SourceKept
		}
		f.Reach, f.Why = b.nodeReach()
		f.Addresses, _ = b.nodeAddrs()
		f.Routes = b.routes(s, func(p *servicePort) uint16 { return p.node })
		b.addFront(f)
	}
	if s.kind == "LoadBalancer" {
		f := inside
		f.Name, f.Clients, f.Hosts, f.Addresses = name+" (LoadBalancer)", anyone(s.lb.clients), s.lb.hosts, s.lb.addresses
		f.Reach, f.Why = b.balancerReach(&s.lb)
		f.Source = balancerSource(s)
		b.addFront(f)
	}
}

func balancerSource(s *service) network.Source {
	switch {
	case s.lb.sourceSet:
		return s.lb.source
	case s.local:
		return network.SourceKept
	}
	return network.SourceReplaced
}

// balancerReach is what annotations, class or addresses decided, or else the
// pools of the input that the address will come from.
func (b *builder) balancerReach(lb *balancer) (network.Reach, string) {
	if lb.awsDefault {
		return b.awsDefaultReach()
	}
	if !lb.decided && lb.metallb && b.hasPools {
		if r, _ := reachOfAddresses(b.pools, nil); r == network.ReachPrivate {
			return r, "all address pools of MetalLB are private"
		}
		return network.ReachPublic, "an address pool of MetalLB is public"
	}
	return lb.reach, lb.why
}

// addExternalName adds a service that is another name for something: for
// another service, what that one routes to; for a name outside, nothing.
func (b *builder) addExternalName(s *service, name, dns string) {
	f := network.Front{Name: name + " (ExternalName)", Reach: network.ReachInside, Why: "another name for " + s.externalName,
		Clients: netset.AnyAddr(), Source: network.SourceKept, Hosts: []string{dns}, Pos: s.pos}
	if other := b.aliased(s); other != nil {
		f.Routes = b.routes(other, func(p *servicePort) uint16 { return p.port })
	}
	b.addFront(f)
}

// aliased returns the service of the cluster that s is another name for, or nil.
func (b *builder) aliased(s *service) *service {
	parts := strings.Split(strings.TrimSuffix(s.externalName, "."), ".")
	if s.kind != "ExternalName" || len(parts) < 3 || parts[2] != "svc" {
		return nil
	}
	if other := b.services[objectName{parts[1], parts[0]}]; other != nil && other.kind != "ExternalName" {
		return other
	}
	return nil
}

// nodeReach says from where the nodes' own addresses can be reached.
func (b *builder) nodeReach() (network.Reach, string) {
	var external netset.Addrs
	known := len(b.nodes) > 0
	for _, nd := range b.nodes {
		external = external.Union(nd.external).Union(nd.ips.Intersect(netset.PublicAddrs()))
		known = known && !nd.ips.IsEmpty()
	}
	switch {
	case !external.IsEmpty():
		return network.ReachUnknown, "nodes have public addresses, and the firewall before them is not in the input"
	case known:
		return network.ReachPrivate, "all nodes have private addresses only"
	}
	return network.ReachUnknown, "the addresses of the nodes are not in the input"
}

func (b *builder) addFront(f network.Front) { b.n.Fronts = append(b.n.Fronts, f) }

// addHostPorts adds what listens on the nodes' addresses: ports of containers
// that the node forwards, and pods on the host's network.
func (b *builder) addHostPorts() {
	reach, why := b.nodeReach()
	addrs, _ := b.nodeAddrs()
	for _, w := range b.workloads {
		if w.covered || w.idle {
			continue
		}
		top := w.top()
		for i := range w.parts {
			p := &w.parts[i]
			f := network.Front{Reach: reach, Why: why, Clients: netset.AnyAddr(), Source: network.SourceKept, Addresses: addrs, Pos: w.pos}
			pods := func() network.PredicateID {
				sel := network.Equals(p.labels)
				return b.n.Predicate(network.Predicate{Endpoints: true, Kinds: podEnds, ScopeName: w.namespace, Attributes: settled(sel)})
			}
			switch {
			case p.hostNetwork && len(p.ports) > 0:
				f.Name = "host network of " + top.kind + " " + w.namespace + "/" + top.name
				for _, port := range p.ports {
					f.Routes = append(f.Routes, network.Route{Protocol: port.Protocol, Port: port.Number, Number: port.Number, Backends: pods(), Pos: p.pos})
				}
			case !p.hostNetwork && len(p.hostPorts) > 0:
				f.Name = "hostPort of " + top.kind + " " + w.namespace + "/" + top.name
				f.Source = network.SourceEither
				for _, h := range p.hostPorts {
					if a, err := netip.ParseAddr(h.addr); err == nil && a.IsLoopback() {
						continue
					}
					f.Routes = append(f.Routes, network.Route{Protocol: h.Protocol, Port: h.host, Number: h.Number, Backends: pods(), Pos: h.pos})
				}
			default:
				continue
			}
			if len(f.Routes) > 0 && !b.hasFront(&f) {
				b.addFront(f)
			}
		}
	}
}

// hasFront reports whether the last front is the same: the pods of one owner
// come one after the other, and most publish the same.
func (b *builder) hasFront(f *network.Front) bool {
	n := len(b.n.Fronts)
	return n > 0 && b.n.Fronts[n-1].Name == f.Name &&
		slices.EqualFunc(b.n.Fronts[n-1].Routes, f.Routes, func(x, y network.Route) bool {
			return x.Protocol == y.Protocol && x.Port == y.Port && x.Number == y.Number && x.Backends == y.Backends
		})
}

// settled leaves the requirements whose value is known: the rest could be
// met by nothing.
func settled(s network.Selector) network.Selector {
	var out network.Selector
	for _, r := range s {
		if r.Values[0] != network.Unsettled && r.Key != NodeAttribute {
			out = append(out, r)
		}
	}
	return out
}
