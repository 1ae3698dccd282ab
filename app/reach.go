package app

import (
	"cmp"
	"fmt"
	"iter"
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
