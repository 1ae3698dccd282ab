package text

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"bulkhead/render"
)

// What is shown at most without --all: lines of one zone, zones, names in a
// list. edgeKeep is how many edges of a zone are looked at to fold them.
const (
	edgeFold = 10
	zoneFold = 30
	nameFold = 3
	edgeKeep = 20000
)

// Reach prints who can reach what, edges grouped by the zone that opens them
// and equal ones folded.
func Reach(w io.Writer, r *render.Reach, o Options) error {
	p := &printer{w: w, o: o}
	p.facts(r.Facts)
	p.edges(r)
	p.outside("from outside, as far as the layers decide", " ← ", r.Exposures)
	p.outside("to outside", " → ", r.Egress)
	if len(r.Published) > 0 {
		p.printf("\n%s\n", p.paint(bold, "published"))
		for i := range r.Published {
			p.printf("  %s\n", r.Published[i].To)
			p.published(&r.Published[i])
		}
	}
	p.printf("\n")
	p.coverage(&r.Coverage)
	for _, a := range r.Assumptions {
		p.hanging("assumed: ", "         ", a.Says)
	}
	return p.err
}

// zone is what stands before the first slash of a name.
func zone(name string) (zone, rest string) {
	zone, rest, ok := strings.Cut(name, "/")
	if !ok {
		return "", name
	}
	return zone, rest
}

// opened is the edges that the workloads of a zone open.
type opened struct {
	zone  string
	count int
	edges []render.Edge
}

func (p *printer) edges(r *render.Reach) {
	var at opened
	zones, hidden, hiddenEdges := 0, 0, 0
	flush := func() {
		switch {
		case at.count == 0:
		case !p.o.All && zones >= zoneFold:
			hidden++
			hiddenEdges += at.count
		default:
			zones++
			p.opened(&at)
		}
	}
	for e := range r.Edges {
		if p.err != nil {
			return
		}
		if z, _ := zone(e.From); z != at.zone || at.count == 0 {
			flush()
			at = opened{zone: z}
		}
		if at.count++; len(at.edges) < edgeKeep {
			at.edges = append(at.edges, e)
		}
	}
	flush()
	switch {
	case zones == 0:
		p.printf("\nno workload can reach another\n")
	case hidden > 0:
		p.printf("\n… and %d edges from %s (--from NAMESPACE/ or --all shows them)\n", hiddenEdges, plural(hidden, "more namespace", "more namespaces"))
	}
}

func (p *printer) opened(at *opened) {
	p.printf("\n%s  %s\n", p.paint(bold, at.zone), p.paint(dim, plural(at.count, "edge", "edges")))
	lines := fold(at.edges, at.zone)
	for i, l := range lines {
		if i == edgeFold && !p.o.All && len(lines) > edgeFold+1 {
			rest := at.count
			for _, shown := range lines[:i] {
				rest -= shown.count
			}
			p.printf("  … and %s (--all shows them)\n", plural(rest, "more edge", "more edges"))
			return
		}
		n := nameFold
		if p.o.All {
			n = at.count
		}
		p.hanging("  ", "      ", fmt.Sprintf("%s → %s  %s", listing(l.from, n), listing(l.to, n), grant(l.grant)))
		if len(l.grant.Rules) > 0 {
			p.printf("      %s\n", p.paint(dim, "by "+listing(l.grant.Rules, nameFold)))
		}
	}
	if at.count > len(at.edges) {
		p.printf("  … and %d more edges (--format json has them all)\n", at.count-len(at.edges))
	}
}

// bundle is a set of edges from each of from to each other of to.
type bundle struct {
	from, to []string
	count    int
	grant    *render.Grant
}

// fold joins edges with the same grant that go from the same sources to the
// same destinations, and those of sources that all reach each other. The
// result covers every edge exactly once; no name reaches itself.
func fold(edges []render.Edge, home string) []bundle {
	bySource := join(edges, func(e render.Edge) bundle {
		_, from := zone(e.From)
		to := strings.TrimPrefix(e.To, home+"/")
		return bundle{from: []string{from}, to: []string{to}, count: 1, grant: e.Grant}
	}, func(b bundle) string { return b.from[0] })
	out := join(bySource, func(b bundle) bundle { return b }, func(b bundle) string { return strings.Join(b.to, "\x00") })
	together := func(b bundle) []string {
		all := append(slices.Clone(b.to), b.from...)
		slices.Sort(all)
		return all
	}
	alone := func(b bundle) bool { return len(b.from) > 1 }
	singles := slices.DeleteFunc(slices.Clone(out), alone)
	cliques := join(singles, func(b bundle) bundle { return b }, func(b bundle) string { return strings.Join(together(b), "\x00") })
	result := slices.DeleteFunc(out, func(b bundle) bool { return !alone(b) })
	for _, c := range cliques {
		if len(c.from) > 1 {
			all := append(c.to, c.from...)
			slices.Sort(all)
			c.to = slices.Compact(all)
		}
		result = append(result, c)
	}
	slices.SortStableFunc(result, func(a, b bundle) int { return strings.Compare(a.from[0], b.from[0]) })
	return result
}

// join merges the bundles of items that agree in their key and grant, in the
// order in which they first appear.
func join[T any](items []T, as func(T) bundle, key func(bundle) string) []bundle {
	type group struct {
		key   string
		grant *render.Grant
	}
	index := map[group]int{}
	var out []bundle
	for _, item := range items {
		b := as(item)
		k := group{key(b), b.grant}
		i, ok := index[k]
		if !ok {
			index[k] = len(out)
			out = append(out, b)
			continue
		}
		into := &out[i]
		into.count += b.count
		if !slices.Equal(into.from, b.from) {
			into.from = append(into.from, b.from...)
		}
		if !slices.Equal(into.to, b.to) {
			into.to = append(into.to, b.to...)
		}
	}
	return out
}

// outsideFold is how many lines of places outside are shown.
const outsideFold = 12

func (p *printer) outside(title, arrow string, seq func(func(render.Outside) bool)) {
	type line struct {
		places    []string
		grant     *render.Grant
		workloads []string
	}
	index := map[string]int{}
	var lines []line
	add := func(name string, places []string, grants []*render.Grant) {
		// Workloads with the same places and grants share a line for each
		// grant.
		byGrant := map[*render.Grant][]string{}
		var order []*render.Grant
		for i, g := range grants {
			if byGrant[g] == nil {
				order = append(order, g)
			}
			byGrant[g] = append(byGrant[g], places[i])
		}
		for _, g := range order {
			k := fmt.Sprintf("%p\x00%s", g, strings.Join(byGrant[g], "\x00"))
			i, ok := index[k]
			if !ok {
				i = len(lines)
				index[k] = i
				lines = append(lines, line{places: byGrant[g], grant: g})
			}
			lines[i].workloads = append(lines[i].workloads, name)
		}
	}
	var name string
	var places []string
	var grants []*render.Grant
	for o := range seq {
		if o.Workload != name && len(places) > 0 {
			add(name, places, grants)
			places, grants = nil, nil
		}
		name = o.Workload
		places = append(places, o.Place)
		grants = append(grants, o.Grant)
	}
	if len(places) > 0 {
		add(name, places, grants)
	}
	if len(lines) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(bold, title))
	slices.SortStableFunc(lines, func(a, b line) int { return len(b.workloads) - len(a.workloads) })
	for i, l := range lines {
		n := nameFold
		if p.o.All {
			n = len(l.workloads) + len(l.places)
		} else if i == outsideFold && len(lines) > outsideFold+1 {
			p.printf("  … and %d more (--all shows them)\n", len(lines)-i)
			return
		}
		p.hanging("  ", "      ", fmt.Sprintf("%s%s%s  %s", listing(l.workloads, n), arrow, listing(l.places, n), grant(l.grant)))
	}
}
