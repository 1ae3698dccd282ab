package app

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/render"
)

// published returns the ways in. Parts of a workload behind the same port of a
// front are one.
func (x *edges) published() []render.Published {
	type key struct{ by, to, at, clients, reach string }
	decisions := map[key]reach.Decision{}
	index := map[key]int{}
	var out []render.Published
	for _, p := range x.a.Published() {
		to := x.a.Net.Endpoints[p.Endpoint].Workload
		if i, ok := slices.BinarySearch(x.names, to); !ok || !x.to[i] {
			continue
		}
		r := publishedOf(x.a, p)
		k := key{r.By, r.To, r.At, strings.Join(r.Clients, ","), r.Reach}
		i, ok := index[k]
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, r)
		}
		d := decisions[k].Or(p.Decision)
		decisions[k] = d
		out[i].Allow, out[i].Unknown = d.Allow.String(), d.Unknown.String()
	}
	slices.SortStableFunc(out, func(a, b render.Published) int {
		return cmp.Or(strings.Compare(a.To, b.To), strings.Compare(a.By, b.By), strings.Compare(a.At, b.At))
	})
	return out
}

func publishedOf(a *reach.Analysis, p reach.Publication) render.Published {
	at := ""
	if p.Route.Port != 0 {
		at = p.Route.Protocol.String() + " " + strconv.Itoa(int(p.Route.Port))
	}
	pos := p.Route.Pos
	if !pos.IsValid() {
		pos = p.Front.Pos
	}
	return render.Published{
		By: p.Front.Name, To: a.Net.Endpoints[p.Endpoint].Workload, Reach: p.Front.Reach.String(), Why: p.Front.Why,
		Clients: p.Clients.CIDRs(), At: at, Allow: p.Allow.String(), Unknown: p.Unknown.String(), Pos: pos,
	}
}

// platform returns what the platform's own parts may send to the workloads
// behind fronts through which they, and no clients, come.
func (x *edges) platform() []render.Edge {
	var out []render.Edge
	for i := range x.a.Net.Fronts {
		f := &x.a.Net.Fronts[i]
		if !f.Proxied {
			continue
		}
		for _, c := range x.a.Means(f.Via) {
			cl := &x.a.Classes()[c]
			if cl.Outside() || x.a.Net.Endpoints[cl.Endpoints[0]].Kind == network.Workload {
				continue
			}
			for ri := range f.Routes {
				out = append(out, x.platformRoute(c, f, &f.Routes[ri])...)
			}
		}
	}
	slices.SortFunc(out, func(a, b render.Edge) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To),
			strings.Compare(a.Allow, b.Allow), strings.Compare(a.Unknown, b.Unknown))
	})
	return slices.CompactFunc(out, func(a, b render.Edge) bool { return a.From == b.From && a.To == b.To && a.Grant == b.Grant })
}

func (x *edges) platformRoute(from reach.ClassID, f *network.Front, r *network.Route) []render.Edge {
	var out []render.Edge
	for _, to := range x.a.Means(r.Backends) {
		for _, e := range x.a.Classes()[to].Endpoints {
			end := &x.a.Net.Endpoints[e]
			if i, ok := slices.BinarySearch(x.names, end.Workload); !ok || !x.to[i] {
				continue
			}
			at := r.At(end)
			d := x.a.Between(from, to)
			d = reach.Decision{Allow: d.Allow.Intersect(at), Unknown: d.Unknown.Intersect(at)}
			if x.a.Match(r.Backends, to) != network.Yes {
				d = reach.Decision{Unknown: d.May()}
			}
			if d.IsDenied() {
				continue
			}
			g := x.grant(d, []source.Pos{{File: f.Pos.File, Line: f.Pos.Line}})
			out = append(out, render.Edge{From: x.a.ClassName(from), To: end.Workload, Grant: g})
		}
	}
	return out
}
