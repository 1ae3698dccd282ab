package reach

import (
	"slices"

	"bulkhead/core/network"
)

// Flatness says how much of an estate can talk to how much of it.
type Flatness struct {
	Workloads int
	// Pairs counts ordered pairs of different workloads; Allowed those with
	// any traffic allowed, Unknown those with none allowed and some unknown.
	Pairs, Allowed, Unknown int64
}

// Share returns the part of all pairs that can talk, 0 for no pairs.
func (f Flatness) Share() float64 {
	if f.Pairs == 0 {
		return 0
	}
	return float64(f.Allowed) / float64(f.Pairs)
}

// Flatness counts the ordered pairs of workloads that can talk. Workloads of
// several parts can talk if any of their parts can.
func (a *Analysis) Flatness() Flatness {
	ids := map[string]int{}
	parts := map[int][]ClassID{} // of workloads that are in several classes
	single := make([]int64, a.part.outside)
	classes := map[int][]ClassID{}
	for i := range a.Net.Endpoints {
		e := &a.Net.Endpoints[i]
		if e.Kind != network.Workload {
			continue
		}
		id, ok := ids[e.Workload]
		if !ok {
			id = len(ids)
			ids[e.Workload] = id
		}
		if c := a.part.of[i]; !slices.Contains(classes[id], c) {
			classes[id] = append(classes[id], c)
		}
	}
	for id, cs := range classes {
		if len(cs) == 1 {
			single[cs[0]]++
		} else {
			parts[id] = cs
		}
	}
	f := Flatness{Workloads: len(ids), Pairs: int64(len(ids)) * int64(len(ids)-1)}
	count := func(pairs int64, d Decision) {
		if !d.Allow.IsEmpty() {
			f.Allowed += pairs
		} else if !d.Unknown.IsEmpty() {
			f.Unknown += pairs
		}
	}
	for src := range a.part.outside {
		if single[src] == 0 {
			continue
		}
		a.from(src, func(dst ClassID, id decisionID) bool {
			if dst < a.part.outside {
				pairs := single[src] * single[dst]
				if src == dst {
					pairs -= single[src]
				}
				count(pairs, a.cache.decisions.get(id))
			}
			return true
		})
	}
	a.countParts(parts, single, count)
	return f
}

// countParts adds the pairs in which a workload of several classes takes part.
func (a *Analysis) countParts(parts map[int][]ClassID, single []int64, count func(int64, Decision)) {
	union := func(from, to []ClassID) Decision {
		var d Decision
		for _, s := range from {
			for _, t := range to {
				d = d.Or(a.Between(s, t))
			}
		}
		return d
	}
	for id, cs := range parts {
		for c := range a.part.outside {
			if single[c] > 0 {
				other := []ClassID{c}
				count(single[c], union(cs, other))
				count(single[c], union(other, cs))
			}
		}
		for id2, cs2 := range parts {
			if id != id2 {
				count(1, union(cs, cs2))
			}
		}
	}
}
