package reach

import (
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// OutsideEdge is what passes between a class of endpoints and a part of the
// outside: addresses, or the name of a place.
type OutsideEdge struct {
	Addrs netset.Addrs
	Name  string
	Decision
}

// OutsideTo returns what the outside may send to a class, as the layers see
// it: whether anything publishes the class is asked of [Analysis.Published].
// Addresses with the same decision are one edge; edges are disjoint.
func (a *Analysis) OutsideTo(dst ClassID) []OutsideEdge {
	return a.outsideEdges(func(c ClassID) decisionID {
		if c >= a.part.names {
			return deniedID
		}
		return a.pairID(c, dst)
	})
}

// ToOutside returns what a class may send outside.
func (a *Analysis) ToOutside(src ClassID) []OutsideEdge {
	return a.outsideEdges(func(c ClassID) decisionID { return a.pairID(src, c) })
}

func (a *Analysis) outsideEdges(decide func(ClassID) decisionID) []OutsideEdge {
	byID := map[decisionID][]netset.Addrs{}
	var order []decisionID
	var out []OutsideEdge
	for c := a.part.outside; int(c) < len(a.part.classes); c++ {
		id := decide(c)
		if id == deniedID {
			continue
		}
		if c >= a.part.names {
			out = append(out, OutsideEdge{Name: a.part.classes[c].Name, Decision: a.cache.decisions.get(id)})
			continue
		}
		if byID[id] == nil {
			order = append(order, id)
		}
		byID[id] = append(byID[id], a.part.classes[c].Addrs)
	}
	for _, id := range order {
		out = append(out, OutsideEdge{Addrs: netset.UnionAddrs(byID[id]), Decision: a.cache.decisions.get(id)})
	}
	return out
}

// Publication is a way in: a front that forwards clients from outside to an
// endpoint, with what of it passes the layers.
type Publication struct {
	Front    *network.Front
	Route    *network.Route
	Endpoint int
	// Clients are the addresses that the decision holds for.
	Clients netset.Addrs
	Decision
}

// Published returns the ways in through fronts that clients outside can use,
// or may be able to, in the order of the fronts. A front that is reachable
// only from inside the estate publishes nothing.
func (a *Analysis) Published() []Publication {
	var out []Publication
	for fi := range a.Net.Fronts {
		f := &a.Net.Fronts[fi]
		if f.Reach == network.ReachInside {
			continue
		}
		for ri := range f.Routes {
			r := &f.Routes[ri]
			for _, m := range a.members(r.Backends) {
				out = append(out, a.publish(f, r, m)...)
			}
		}
	}
	return out
}

// Relayed returns what the proxies of fronts and the control plane send to
// endpoints, for every front that names who opens its connections.
func (a *Analysis) Relayed() []Publication {
	var out []Publication
	for fi := range a.Net.Fronts {
		f := &a.Net.Fronts[fi]
		if !f.Proxied {
			continue
		}
		relays := a.relays(f)
		for ri := range f.Routes {
			r := &f.Routes[ri]
			for _, m := range a.members(r.Backends) {
				d, _ := a.fromAll(relays, a.part.of[m.endpoint], a.Between)
				if m.match != network.Yes {
					d = d.doubt()
				}
				at := r.At(&a.Net.Endpoints[m.endpoint])
				one := Decision{Allow: d.Allow.Intersect(at), Unknown: d.Unknown.Intersect(at)}
				out = append(out, Publication{Front: f, Route: r, Endpoint: int(m.endpoint), Decision: one})
			}
		}
	}
	return out
}

// relays returns the classes that open the connections of a proxied front.
func (a *Analysis) relays(f *network.Front) []ClassID {
	var out []ClassID
	for _, m := range a.members(f.Via) {
		out = append(out, a.part.of[m.endpoint])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// publish decides for one endpoint behind a route. Where the platform may
// replace the client's address by a host's, only what passes either way is
// certain; behind a proxy, what the proxy may send.
func (a *Analysis) publish(f *network.Front, r *network.Route, m member) []Publication {
	endpoint, class := int(m.endpoint), a.part.of[m.endpoint]
	at := r.At(&a.Net.Endpoints[endpoint])
	if at.IsEmpty() && r.Name != "" && a.Net.Endpoints[endpoint].PortsUnseen {
		at, m.match = netset.Whole(r.Protocol), min(m.match, network.Maybe)
	}
	if at.IsEmpty() {
		return nil
	}
	replaced, replaces := a.replacement(f, class)
	groups := map[decisionID][]netset.Addrs{}
	var order []decisionID
	for c := a.part.outside; c < a.part.names; c++ {
		clients := a.part.classes[c].Addrs
		if !f.Clients.IsEmpty() {
			if clients = clients.Intersect(f.Clients); clients.IsEmpty() {
				continue
			}
		}
		var d Decision
		switch {
		case !replaces || f.Source == network.SourceKept && !f.Proxied:
			d = a.Between(c, class)
		case f.Source == network.SourceReplaced || f.Proxied:
			d = replaced
		default:
			k := a.Between(c, class)
			d = bounds(k.Allow.Intersect(replaced.Allow), k.May().Union(replaced.May()))
		}
		d = Decision{Allow: d.Allow.Intersect(at), Unknown: d.Unknown.Intersect(at)}
		if m.match != network.Yes {
			d = d.doubt()
		}
		if d.IsDenied() {
			continue
		}
		id := a.cache.decisions.id(d)
		if groups[id] == nil {
			order = append(order, id)
		}
		groups[id] = append(groups[id], clients)
	}
	out := make([]Publication, 0, len(order))
	for _, id := range order {
		out = append(out, Publication{Front: f, Route: r, Endpoint: endpoint,
			Clients: netset.UnionAddrs(groups[id]), Decision: a.cache.decisions.get(id)})
	}
	return out
}

// replacement decides what arrives when the client's address was replaced: by
// a relay's, or by a host's. A relay that is not in the input may or may not
// get through.
func (a *Analysis) replacement(f *network.Front, dst ClassID) (d Decision, found bool) {
	if f.Proxied {
		if d, found = a.fromAll(a.relays(f), dst, a.Between); !found {
			return Decision{Unknown: netset.All()}, true
		}
		return d, true
	}
	var hosts []ClassID
	for c := range a.part.outside {
		if a.part.classes[c].end == network.EndHost {
			hosts = append(hosts, c)
		}
	}
	return a.fromAll(hosts, dst, a.hostRemote)
}

// fromAll decides what reaches a class from any of several: certain is only
// what each of them may send.
func (a *Analysis) fromAll(sources []ClassID, dst ClassID, decide func(src, dst ClassID) Decision) (d Decision, found bool) {
	var must, may netset.Traffic
	for i, c := range sources {
		one := decide(c, dst)
		if i == 0 {
			must = one.Allow
		} else {
			must = must.Intersect(one.Allow)
		}
		may = may.Union(one.May())
	}
	return bounds(must, may), len(sources) > 0
}

// hostRemote decides what a host sends to an endpoint that may run on another
// host. A host always reaches what runs on itself, so what only that path
// lets through is possible and not certain.
func (a *Analysis) hostRemote(host, dst ClassID) Decision {
	var d Decision
	for _, p := range a.pathsBetween(network.EndHost, a.part.classes[dst].end) {
		one := a.compose(p, host, dst)
		if p.Uncertain != "" || p.Local {
			one = one.doubt()
		}
		d = d.Or(one)
	}
	return d
}

// Find returns the endpoints that text names: the exact workload name, with or
// without a part, or its unambiguous ending such as `web`, `shop/web`.
func (a *Analysis) Find(text string) []int {
	var exact, ending []int
	for i := range a.Net.Endpoints {
		e := &a.Net.Endpoints[i]
		switch {
		case e.Workload == text || e.Name() == text:
			exact = append(exact, i)
		case strings.HasSuffix(e.Workload, "/"+text) || strings.HasSuffix(e.Name(), "/"+text),
			shortName(e.Workload) == text:
			ending = append(ending, i)
		}
	}
	if exact != nil {
		return exact
	}
	return ending
}

// shortName drops the kind: scope/Kind/name becomes scope/name.
func shortName(workload string) string {
	parts := strings.Split(workload, "/")
	if len(parts) != 3 {
		return workload
	}
	return parts[0] + "/" + parts[2]
}

// Workloads returns the names of the workloads, sorted, each once.
func (a *Analysis) Workloads() []string {
	var names []string
	for i := range a.Net.Endpoints {
		if a.Net.Endpoints[i].Kind == network.Workload {
			names = append(names, a.Net.Endpoints[i].Workload)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
