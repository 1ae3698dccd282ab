package app

import (
	"slices"

	"bulkhead/core/network"
	"bulkhead/core/reach"
)

// roster lists the workloads of an estate by name. A workload of several parts
// may be of several classes; most are of one.
type roster struct {
	names   []string          // ascending
	classes [][]reach.ClassID // by workload, ascending
	members [][]int32         // by class: the workloads in it, ascending
}

func newRoster(a *reach.Analysis) *roster {
	r := &roster{names: a.Workloads(), members: make([][]int32, a.EndpointClasses())}
	r.classes = make([][]reach.ClassID, len(r.names))
	index := make(map[string]int32, len(r.names))
	for i, n := range r.names {
		index[n] = int32(i)
	}
	for i := range a.Net.Endpoints {
		e := &a.Net.Endpoints[i]
		if e.Kind != network.Workload {
			continue
		}
		w, c := index[e.Workload], a.ClassOf(i)
		if !slices.Contains(r.classes[w], c) {
			r.classes[w] = append(r.classes[w], c)
			r.members[c] = append(r.members[c], w)
		}
	}
	for i := range r.classes {
		slices.Sort(r.classes[i])
	}
	for i := range r.members {
		slices.Sort(r.members[i])
	}
	return r
}

// workloads returns the workloads in a class, none for a class that is outside
// or of hosts.
func (r *roster) workloads(c reach.ClassID) []int32 {
	if int(c) >= len(r.members) {
		return nil
	}
	return r.members[c]
}
