package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
)

// Change is what appears and vanishes between two parties.
type Change struct {
	From, To string
	// Added was not allowed and is, Removed was and is not, for certain on
	// both sides; Unsure is what may have appeared or vanished.
	Added, Removed, Unsure netset.Traffic
}

func (c *Change) isEmpty() bool {
	return c.Added.IsEmpty() && c.Removed.IsEmpty() && c.Unsure.IsEmpty()
}

// Delta is the difference between two estates or two intents.
type Delta struct {
	// Edges are between workloads, Exposures from outside, Egress to outside.
	Edges, Exposures, Egress []Change
	// AddedWorkloads and RemovedWorkloads exist on one side only.
	AddedWorkloads, RemovedWorkloads []string
	// Findings are what the change brings that needs a person: findings of the
	// later side that the earlier did not have, and Resolved the reverse.
	Findings, Resolved []finding.Finding
}

// IsEmpty reports whether nothing changed.
func (d *Delta) IsEmpty() bool {
	return len(d.Edges)+len(d.Exposures)+len(d.Egress)+len(d.AddedWorkloads)+len(d.RemovedWorkloads)+len(d.Findings)+len(d.Resolved) == 0
}

// sides are the endpoints of a workload before and after.
type sides struct {
	name          string
	before, after []reach.ClassID
}

// Diff compares two estates. Workloads are the same if their names are.
// The work is done once for all workloads that are alike on both sides.
func Diff(before, after *reach.Analysis) Delta {
	var d Delta
	groups := jointGroups(before, after)
	for _, g := range groups {
		for _, s := range g {
			switch {
			case len(s.before) == 0:
				d.AddedWorkloads = append(d.AddedWorkloads, s.name)
			case len(s.after) == 0:
				d.RemovedWorkloads = append(d.RemovedWorkloads, s.name)
			}
		}
	}
	for _, from := range groups {
		for _, to := range groups {
			c := compare(pairDecision(before, from[0].before, to[0].before), pairDecision(after, from[0].after, to[0].after))
			if c.isEmpty() {
				continue
			}
			for _, f := range from {
				for _, t := range to {
					if f.name == t.name {
						continue
					}
					c.From, c.To = f.name, t.name
					d.Edges = append(d.Edges, c)
				}
			}
		}
	}
	d.outside(before, after, groups)
	d.sort()
	return d
}

func (d *Delta) sort() {
	slices.Sort(d.AddedWorkloads)
	slices.Sort(d.RemovedWorkloads)
	for _, cs := range [][]Change{d.Edges, d.Exposures, d.Egress} {
		slices.SortFunc(cs, func(a, b Change) int { return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To)) })
	}
}

// jointGroups groups workloads that are of the same classes on both sides.
func jointGroups(before, after *reach.Analysis) [][]sides {
	byName := map[string]*sides{}
	collect := func(a *reach.Analysis, into func(*sides) *[]reach.ClassID) {
		for i := range a.Net.Endpoints {
			e := &a.Net.Endpoints[i]
			if e.Kind != network.Workload {
				continue
			}
			s := byName[e.Workload]
			if s == nil {
				s = &sides{name: e.Workload}
				byName[e.Workload] = s
			}
			if cs := into(s); !slices.Contains(*cs, a.ClassOf(i)) {
				*cs = append(*cs, a.ClassOf(i))
			}
		}
	}
	collect(before, func(s *sides) *[]reach.ClassID { return &s.before })
	collect(after, func(s *sides) *[]reach.ClassID { return &s.after })
	groups := map[string][]sides{}
	for _, s := range byName {
		slices.Sort(s.before)
		slices.Sort(s.after)
		key := fmt.Sprint(s.before, s.after)
		groups[key] = append(groups[key], *s)
	}
	out := make([][]sides, 0, len(groups))
	for _, g := range groups {
		slices.SortFunc(g, func(a, b sides) int { return strings.Compare(a.name, b.name) })
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b []sides) int { return strings.Compare(a[0].name, b[0].name) })
	return out
}

func pairDecision(a *reach.Analysis, from, to []reach.ClassID) reach.Decision {
	var d reach.Decision
	for _, f := range from {
		for _, t := range to {
			d = d.Or(a.Between(f, t))
		}
	}
	return d
}

func compare(before, after reach.Decision) Change {
	c := Change{
		Added:   after.Allow.Subtract(before.May()),
		Removed: before.Allow.Subtract(after.May()),
	}
	if !before.Unknown.Equal(after.Unknown) {
		changed := before.Unknown.Subtract(after.Unknown).Union(after.Unknown.Subtract(before.Unknown))
		c.Unsure = changed.Subtract(c.Added).Subtract(c.Removed)
	}
	return c
}

// outside compares what outside may reach, by front and by what the layers let
// in, and egress by destination.
func (d *Delta) outside(before, after *reach.Analysis, groups [][]sides) {
	for _, g := range groups {
		one := &g[0]
		egress := changesOf(edgeParts(one.before, before.ToOutside), edgeParts(one.after, after.ToOutside))
		exposed := changesOf(edgeParts(one.before, before.OutsideTo), edgeParts(one.after, after.OutsideTo))
		for _, s := range g {
			for _, c := range egress {
				c.From, c.To = s.name, c.where()
				d.Egress = append(d.Egress, c.Change)
			}
			for _, c := range exposed {
				c.From, c.To = c.where(), s.name
				d.Exposures = append(d.Exposures, c.Change)
			}
		}
	}
	d.fronts(before, after)
}

// fronts compares what fronts publish, and to whom.
func (d *Delta) fronts(before, after *reach.Analysis) {
	pub := func(a *reach.Analysis) map[[2]string][]outsidePart {
		out := map[[2]string][]outsidePart{}
		for _, p := range a.Published() {
			key := [2]string{fmt.Sprintf("%s (%s)", p.Front.Name, p.Front.Reach), a.Net.Endpoints[p.Endpoint].Workload}
			out[key] = append(out[key], outsidePart{addrs: clientsOf(p), d: p.Decision})
		}
		return out
	}
	x, y := pub(before), pub(after)
	keys := map[[2]string]bool{}
	for k := range x {
		keys[k] = true
	}
	for k := range y {
		keys[k] = true
	}
	for k := range keys {
		_, was := x[k]
		_, is := y[k]
		for _, c := range changesOf(x[k], y[k]) {
			c.From, c.To = k[0], k[1]
			if was && is && !c.addrs.Equal(netset.AnyAddr()) {
				c.From += " from " + c.where()
			}
			d.Exposures = append(d.Exposures, c.Change)
		}
	}
}

// outsidePart is what passes to or from a part of the outside: some addresses
// or a name.
type outsidePart struct {
	addrs netset.Addrs
	name  string
	d     reach.Decision
}

func edgeParts(classes []reach.ClassID, edges func(reach.ClassID) []reach.OutsideEdge) []outsidePart {
	var out []outsidePart
	for _, c := range classes {
		for _, e := range edges(c) {
			out = append(out, outsidePart{e.Addrs, e.Name, e.Decision})
		}
	}
	return out
}

// placeChange is a change at a part of the outside.
type placeChange struct {
	Change
	addrs netset.Addrs
	name  string
}

func (c *placeChange) where() string {
	if c.name != "" {
		return c.name
	}
	return c.addrs.String()
}

// changesOf compares the parts of the address space that either side tells
// apart, and names.
func changesOf(x, y []outsidePart) []placeChange {
	sets := make([]netset.Addrs, 0, len(x)+len(y))
	for _, p := range slices.Concat(x, y) {
		sets = append(sets, p.addrs)
	}
	at := func(parts []outsidePart, addrs netset.Addrs, name string) reach.Decision {
		var d reach.Decision
		for _, p := range parts {
			if name != "" && p.name == name || name == "" && p.addrs.Overlaps(addrs) {
				d = d.Or(p.d)
			}
		}
		return d
	}
	byChange := map[string]*Change{}
	where := map[string][]netset.Addrs{}
	var out []placeChange
	atoms, _ := netset.Atoms(sets)
	for _, atom := range atoms {
		c := compare(at(x, atom, ""), at(y, atom, ""))
		key := c.Added.Key() + "|" + c.Removed.Key() + "|" + c.Unsure.Key()
		if key == "||" {
			continue
		}
		byChange[key] = &c
		where[key] = append(where[key], atom)
	}
	for key, c := range byChange {
		out = append(out, placeChange{Change: *c, addrs: netset.UnionAddrs(where[key])})
	}
	names := map[string]bool{}
	for _, p := range slices.Concat(x, y) {
		if p.name != "" && !names[p.name] {
			names[p.name] = true
			c := compare(at(x, netset.Addrs{}, p.name), at(y, netset.Addrs{}, p.name))
			if !c.isEmpty() {
				out = append(out, placeChange{Change: c, name: p.name})
			}
		}
	}
	slices.SortFunc(out, func(a, b placeChange) int { return strings.Compare(a.where(), b.where()) })
	return out
}

// WithFindings adds the findings that only one side has.
func (d *Delta) WithFindings(before, after []finding.Finding) {
	had := map[string]bool{}
	for _, f := range before {
		had[f.ID] = true
	}
	has := map[string]bool{}
	for _, f := range after {
		has[f.ID] = true
		if !had[f.ID] {
			d.Findings = append(d.Findings, f)
		}
	}
	for _, f := range before {
		if !has[f.ID] {
			d.Resolved = append(d.Resolved, f)
		}
	}
}

// placesChanged returns what appears and vanishes where a party outside that has
// kept its name stands for other hosts or addresses than before.
func placesChanged(before, after *policy.Intent, from, to policy.Party) []Change {
	places := func(in *policy.Intent) map[string]netset.Traffic {
		out := map[string]netset.Traffic{}
		for _, p := range in.PermissionsTo(to) {
			if p.From.Has(from) {
				for _, at := range slices.Concat(p.Names, p.Addrs.CIDRs()) {
					out[at] = out[at].Union(p.Traffic)
				}
			}
		}
		return out
	}
	x, y := places(before), places(after)
	var out []Change
	for at, t := range y {
		if _, was := x[at]; !was {
			out = append(out, Change{From: from.Name, To: to.Name + " (" + at + ")", Added: t})
		}
	}
	for at, t := range x {
		if _, is := y[at]; !is {
			out = append(out, Change{From: from.Name, To: to.Name + " (" + at + ")", Removed: t})
		}
	}
	return out
}

// DiffIntents compares what two policies allow, with the invariants that the
// change breaks or mends.
func DiffIntents(before, after *policy.Intent) Delta {
	var d Delta
	for i := range after.Policy.Workloads {
		if n := after.Policy.Workloads[i].Name.Value; before.Workload(n) == nil {
			d.AddedWorkloads = append(d.AddedWorkloads, n)
		}
	}
	for i := range before.Policy.Workloads {
		if n := before.Policy.Workloads[i].Name.Value; after.Workload(n) == nil {
			d.RemovedWorkloads = append(d.RemovedWorkloads, n)
		}
	}
	pairs := map[[2]policy.Party]bool{}
	for _, in := range []*policy.Intent{before, after} {
		for i := range in.Permissions {
			p := &in.Permissions[i]
			for _, m := range p.From.Members {
				pairs[[2]policy.Party{m, p.To}] = true
			}
		}
	}
	for pair := range pairs {
		x, y := before.Between(pair[0], pair[1]), after.Between(pair[0], pair[1])
		if pair[1].Kind == policy.OutsideParty && !x.IsEmpty() && !y.IsEmpty() {
			d.Egress = append(d.Egress, placesChanged(before, after, pair[0], pair[1])...)
		}
		if x.Equal(y) {
			continue
		}
		c := Change{From: pair[0].Name, To: pair[1].Name, Added: y.Subtract(x), Removed: x.Subtract(y)}
		switch {
		case pair[0].Kind != policy.WorkloadParty:
			d.Exposures = append(d.Exposures, c)
		case pair[1].Kind == policy.OutsideParty:
			d.Egress = append(d.Egress, c)
		default:
			d.Edges = append(d.Edges, c)
		}
	}
	d.WithFindings(Check(before), Check(after))
	d.sort()
	return d
}
