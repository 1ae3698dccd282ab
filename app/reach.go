package app

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/render"
)

// ReachFilter limits an answer to some edges; empty fields do not.
type ReachFilter struct {
	From, To string
}

// Reach says who can reach what in an estate.
func (e *Env) Reach(in Input, only ReachFilter) (*Estate, *render.Reach, error) {
	est, err := e.readEstate(in)
	if err != nil {
		return nil, nil, err
	}
	x := newEdges(est.Analysis)
	if err := x.limit(only); err != nil {
		return nil, nil, err
	}
	return est, &render.Reach{
		Edges: x.edges(),
		Exposures: x.outside(x.to, func(c reach.ClassID) []reach.OutsideEdge {
			return est.Analysis.OutsideTo(c)
		}),
		Egress: x.outside(x.from, func(c reach.ClassID) []reach.OutsideEdge {
			return est.Analysis.ToOutside(c)
		}),
		Published:   x.published(),
		Platform:    x.platform(),
		Coverage:    est.Net.Coverage,
		Assumptions: est.Net.Assumptions,
		Facts:       reachFacts(est.Analysis, x),
	}, nil
}

// edges expands the answers for classes to workloads while they are asked for.
type edges struct {
	*roster
	a        *reach.Analysis
	from, to []bool // the workloads that were asked for
	rows     map[reach.ClassID][]classEdge
	kept     int // entries of rows
	grants   map[string]*render.Grant
}

// classEdge is what a class may send another.
type classEdge struct {
	to    reach.ClassID
	d     reach.Decision
	rules []source.Pos
	grant *render.Grant
}

// keepRows bounds the memory for what classes may send each other.
const keepRows = 1 << 20

func newEdges(a *reach.Analysis) *edges {
	x := &edges{roster: newRoster(a), a: a, rows: map[reach.ClassID][]classEdge{}, grants: map[string]*render.Grant{}}
	x.from, x.to = everyone(len(x.names)), everyone(len(x.names))
	return x
}

func everyone(n int) []bool {
	all := make([]bool, n)
	for i := range all {
		all[i] = true
	}
	return all
}

func (x *edges) limit(only ReachFilter) (err error) {
	if only.From != "" {
		if x.from, err = x.matching(only.From); err != nil {
			return err
		}
	}
	if only.To != "" {
		x.to, err = x.matching(only.To)
	}
	return err
}

// matching returns the workloads that a filter means: a name, its ending, or a
// scope such as `shop/`.
func (x *edges) matching(text string) ([]bool, error) {
	out := make([]bool, len(x.names))
	found := false
	mark := func(i int) { out[i], found = true, true }
	if scope, ok := strings.CutSuffix(text, "/"); ok {
		for i, n := range x.names {
			if strings.HasPrefix(n, scope+"/") {
				mark(i)
			}
		}
	} else {
		for _, e := range x.a.Find(text) {
			if i, ok := slices.BinarySearch(x.names, x.a.Net.Endpoints[e].Workload); ok {
				mark(i)
			}
		}
	}
	if !found {
		return nil, unknownWorkload(text, x.names)
	}
	return out, nil
}

// row returns what a class may send to workloads.
func (x *edges) row(c reach.ClassID) []classEdge {
	if row, ok := x.rows[c]; ok {
		return row
	}
	var row []classEdge
	for to, d := range x.a.From(c) {
		if len(x.workloads(to)) == 0 {
			continue
		}
		rules := places(x.a.Rules(c, to))
		row = append(row, classEdge{to, d, rules, x.grant(d, rules)})
	}
	if x.kept += len(row); x.kept > keepRows {
		clear(x.rows)
		x.kept = len(row)
	}
	x.rows[c] = row
	return row
}

// places returns where rules are, to the line, in order and each once.
func places(rules []finding.Rule) []source.Pos {
	var out []source.Pos
	for _, r := range rules {
		if r.Pos.IsValid() {
			out = append(out, source.Pos{File: r.Pos.File, Line: r.Pos.Line})
		}
	}
	return distinctPlaces(out)
}

func distinctPlaces(ps []source.Pos) []source.Pos {
	slices.SortFunc(ps, source.Pos.Compare)
	return slices.Compact(ps)
}

// grant returns the one grant with these texts.
func (x *edges) grant(d reach.Decision, rules []source.Pos) *render.Grant {
	g := render.Grant{Allow: d.Allow.String(), Unknown: d.Unknown.String()}
	for _, r := range rules {
		g.Rules = append(g.Rules, r.Short())
	}
	key := g.Allow + "\x00" + g.Unknown + "\x00" + strings.Join(g.Rules, "\x00")
	if got, ok := x.grants[key]; ok {
		return got
	}
	x.grants[key] = &g
	return &g
}

// merged is what several parts of two workloads may send each other.
type merged struct {
	d     reach.Decision
	rules []source.Pos
}

type workloadEdge struct {
	to    int32
	grant *render.Grant
}

// edges yields the edges in the order of their ends.
func (x *edges) edges() iter.Seq[render.Edge] {
	return func(yield func(render.Edge) bool) {
		var out []workloadEdge
		for w := range x.names {
			if !x.from[w] {
				continue
			}
			out = x.edgesOf(int32(w), out[:0])
			for _, e := range out {
				if !yield(render.Edge{From: x.names[w], To: x.names[e.to], Grant: e.grant}) {
					return
				}
			}
		}
	}
}

// edgesOf appends the edges of one workload. Only where one of the two has
// several parts must decisions be joined.
func (x *edges) edgesOf(w int32, out []workloadEdge) []workloadEdge {
	var parts map[int32]*merged
	single := len(x.classes[w]) == 1
	for _, c := range x.classes[w] {
		for _, e := range x.row(c) {
			for _, to := range x.workloads(e.to) {
				if to == w || !x.to[to] {
					continue
				}
				if single && len(x.classes[to]) == 1 {
					out = append(out, workloadEdge{to, e.grant})
					continue
				}
				if parts == nil {
					parts = map[int32]*merged{}
				}
				m := parts[to]
				if m == nil {
					m = &merged{}
					parts[to] = m
				}
				m.d = m.d.Or(e.d)
				m.rules = append(m.rules, e.rules...)
			}
		}
	}
	for to, m := range parts {
		out = append(out, workloadEdge{to, x.grant(m.d, distinctPlaces(m.rules))})
	}
	slices.SortFunc(out, func(a, b workloadEdge) int { return cmp.Compare(a.to, b.to) })
	return out
}

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

func reachFacts(a *reach.Analysis, x *edges) []render.Fact {
	flat := a.Flatness()
	public := map[string]bool{}
	for _, p := range a.Published() {
		if p.Front.Reach == network.ReachPublic {
			public[a.Net.Endpoints[p.Endpoint].Workload] = true
		}
	}
	open := 0
	for _, classes := range x.classes {
		if slices.ContainsFunc(classes, func(c reach.ClassID) bool { return opensAnywhere(a, c) }) {
			open++
		}
	}
	num := strconv.Itoa
	return []render.Fact{
		{Name: "workloads", Value: num(flat.Workloads), Says: num(flat.Workloads) + " workloads"},
		{Name: "classes", Value: num(a.EndpointClasses()), Says: num(a.EndpointClasses()) + " classes"},
		{Name: "pairs", Value: strconv.FormatInt(flat.Pairs, 10)},
		{Name: "pairsAllowed", Value: strconv.FormatInt(flat.Allowed, 10)},
		{Name: "pairsUnknown", Value: strconv.FormatInt(flat.Unknown, 10)},
		{Name: "share", Value: strconv.FormatFloat(flat.Share(), 'f', 4, 64), Says: fmt.Sprintf("%.1f%% of pairs can talk", 100*flat.Share())},
		{Name: "publishedToInternet", Value: num(len(public)), Says: num(len(public)) + " published to the internet"},
		{Name: "unrestrictedEgress", Value: num(open), Says: num(open) + " can open connections to all of the internet"},
	}
}

var publicV4 = netset.PublicAddrs().Intersect(netset.AnyV4())

// opensAnywhere reports whether a class may open some TCP connection to every
// public address.
func opensAnywhere(a *reach.Analysis, c reach.ClassID) bool {
	left := publicV4
	for _, e := range a.ToOutside(c) {
		if !e.Allow.Protocol(netset.TCP).IsEmpty() {
			left = left.Subtract(e.Addrs)
		}
	}
	return left.IsEmpty()
}
