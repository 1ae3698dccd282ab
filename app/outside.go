package app

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/reach"
	"bulkhead/render"
)

// outsidePart is what passes between a workload and one place outside.
type outsidePart struct {
	prefix netip.Prefix
	name   string
	grant  *render.Grant
}

// outside yields what passes between workloads and the outside: one entry for
// each CIDR or name. Workloads of the same classes share the work.
func (x *edges) outside(want []bool, ask func(reach.ClassID) []reach.OutsideEdge) iter.Seq[render.Outside] {
	return func(yield func(render.Outside) bool) {
		known := map[string][]outsidePart{}
		for w, name := range x.names {
			if !want[w] {
				continue
			}
			key := fmt.Sprint(x.classes[w])
			parts, ok := known[key]
			if !ok {
				parts = x.outsideParts(x.classes[w], ask)
				known[key] = parts
			}
			for _, p := range parts {
				place := p.name
				if place == "" {
					place = p.prefix.String()
				}
				if !yield(render.Outside{Workload: name, Place: place, Grant: p.grant}) {
					return
				}
			}
		}
	}
}

func (x *edges) outsideParts(classes []reach.ClassID, ask func(reach.ClassID) []reach.OutsideEdge) []outsidePart {
	var all []reach.OutsideEdge
	for _, c := range classes {
		all = append(all, ask(c)...)
	}
	if len(classes) > 1 {
		all = joinOutside(all)
	}
	var out []outsidePart
	for _, e := range all {
		g := x.grant(e.Decision, nil)
		if e.Name != "" {
			out = append(out, outsidePart{name: e.Name, grant: g})
		}
		for _, p := range e.Addrs.Prefixes() {
			out = append(out, outsidePart{prefix: p, grant: g})
		}
	}
	slices.SortFunc(out, func(a, b outsidePart) int {
		return cmp.Or(strings.Compare(a.name, b.name), a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	return out
}

// joinOutside makes the edges of several parts disjoint: addresses where the
// parts together have one decision are one edge again.
func joinOutside(all []reach.OutsideEdge) []reach.OutsideEdge {
	sets := make([]netset.Addrs, len(all))
	names := map[string]reach.Decision{}
	for i, e := range all {
		sets[i] = e.Addrs
		if e.Name != "" {
			names[e.Name] = names[e.Name].Or(e.Decision)
		}
	}
	type same struct {
		d     reach.Decision
		addrs []netset.Addrs
	}
	byKey := map[string]*same{}
	var order []string
	atoms, in := netset.Atoms(sets)
	for i, atom := range atoms {
		var d reach.Decision
		for _, id := range in[i] {
			d = d.Or(all[id].Decision)
		}
		if d.IsDenied() {
			continue
		}
		key := d.Allow.Key() + "|" + d.Unknown.Key()
		if byKey[key] == nil {
			byKey[key] = &same{d: d}
			order = append(order, key)
		}
		byKey[key].addrs = append(byKey[key].addrs, atom)
	}
	var out []reach.OutsideEdge
	for _, key := range order {
		out = append(out, reach.OutsideEdge{Addrs: netset.UnionAddrs(byKey[key].addrs), Decision: byKey[key].d})
	}
	for name, d := range names {
		out = append(out, reach.OutsideEdge{Name: name, Decision: d})
	}
	return out
}
