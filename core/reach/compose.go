package reach

import (
	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// composeKey names the composition of the decisions along all paths between
// two kinds of ends. Compositions of more than eight filters are not kept.
type composeKey struct {
	from, to network.End
	n        uint8
	ids      [8]decisionID
}

// pathsBetween returns the paths that apply between two kinds of ends.
func (a *Analysis) pathsBetween(from, to network.End) []*network.Path {
	key := [2]network.End{from, to}
	paths, ok := a.paths[key]
	if !ok {
		for i := range a.Net.Paths {
			p := &a.Net.Paths[i]
			if p.From&from != 0 && p.To&to != 0 {
				paths = append(paths, p)
			}
		}
		a.paths[key] = paths
	}
	return paths
}

// pairID decides between two classes: the union over all paths of what passes
// every step of the path.
func (a *Analysis) pairID(src, dst ClassID) decisionID {
	from, to := a.part.classes[src].end, a.part.classes[dst].end
	paths := a.pathsBetween(from, to)
	key := composeKey{from: from, to: to}
	overflow := false
	for _, p := range paths {
		a.eachFilter(p, src, dst, func(id decisionID) {
			if int(key.n) == len(key.ids) {
				overflow = true
				return
			}
			key.ids[key.n] = id
			key.n++
		})
	}
	if !overflow {
		if id, ok := a.memo[key]; ok {
			return id
		}
	}
	var d Decision
	for _, p := range paths {
		one := a.compose(p, src, dst)
		if p.Uncertain != "" {
			one = one.doubt()
		}
		d = d.Or(one)
	}
	id := a.cache.decisions.id(d)
	if !overflow {
		a.memo[key] = id
	}
	return id
}

// eachFilter calls f with the decision of every filter on a path, in order. A
// filter behind a replaced source is asked for each class of that source.
func (a *Analysis) eachFilter(p *network.Path, src, dst ClassID, f func(decisionID)) {
	var replaced []ClassID
	for i := range p.Steps {
		s := &p.Steps[i]
		switch s.Kind {
		case network.Replace:
			replaced = a.classesIn(s.Peer)
		case network.Filter:
			if s.Direction == network.Ingress && replaced != nil {
				for _, c := range replaced {
					f(a.filterID(s, c, dst))
				}
				continue
			}
			f(a.filterID(s, src, dst))
		}
	}
}

// filterID is what a filter step decides between two classes.
func (a *Analysis) filterID(s *network.Step, src, dst ClassID) decisionID {
	subject, peer := src, dst
	if s.Direction == network.Ingress {
		subject, peer = dst, src
	}
	r := a.sides[s.Layer][s.Direction].rows[subject]
	if r == nil {
		// A party outside is nobody's subject: the layer has no say.
		return allID
	}
	return r.at(peer)
}

// compose walks one path. Inside a tunnel filters see only its outer traffic:
// what is inside passes exactly if that does.
func (a *Analysis) compose(p *network.Path, src, dst ClassID) Decision {
	type tunnel struct {
		inner Decision
		outer netset.Traffic
	}
	var tunnels []tunnel
	var replaced []ClassID
	d := Decision{Allow: netset.All()}
	for i := range p.Steps {
		s := &p.Steps[i]
		switch s.Kind {
		case network.Filter:
			d = d.and(a.filter(s, src, dst, replaced))
		case network.Wrap:
			tunnels = append(tunnels, tunnel{d, s.Outer})
			d = Decision{Allow: s.Outer}
		case network.Unwrap:
			if len(tunnels) == 0 {
				continue
			}
			t := tunnels[len(tunnels)-1]
			tunnels = tunnels[:len(tunnels)-1]
			switch {
			case t.outer.SubsetOf(d.Allow):
				d = t.inner
			case t.outer.Overlaps(d.May()):
				d = t.inner.doubt()
			default:
				d = Decision{}
			}
		case network.Replace:
			replaced = a.classesIn(s.Peer)
		}
	}
	return d
}

// filter is the decision of one step. Behind a replaced source that may be any
// of several, only what all of them may send is certain.
func (a *Analysis) filter(s *network.Step, src, dst ClassID, replaced []ClassID) Decision {
	if s.Direction != network.Ingress || replaced == nil {
		return a.cache.decisions.get(a.filterID(s, src, dst))
	}
	var must, may netset.Traffic
	for i, c := range replaced {
		d := a.cache.decisions.get(a.filterID(s, c, dst))
		if i == 0 {
			must = d.Allow
		} else {
			must = must.Intersect(d.Allow)
		}
		may = may.Union(d.May())
	}
	return bounds(must, may)
}

// classesIn returns the classes of addresses that make up addrs, which are the
// addresses of a Replace step.
func (a *Analysis) classesIn(addrs netset.Addrs) []ClassID {
	var out []ClassID
	for c := a.part.outside; c < a.part.names; c++ {
		if a.part.classes[c].Addrs.Overlaps(addrs) {
			out = append(out, c)
		}
	}
	return out
}
