package app

import (
	"math/rand/v2"
	"testing"

	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/render"
)

// hopsFrom is the plain breadth-first search over endpoints that a closure
// must agree with: how many connections away each other workload is.
func hopsFrom(n *network.Network, edge func(i, j int) bool, start string) map[string]int {
	hops := map[string]int{}
	seen := make([]bool, len(n.Endpoints))
	var front []int
	for i := range n.Endpoints {
		if n.Endpoints[i].Workload == start {
			front = append(front, i)
		}
	}
	for at := 1; len(front) > 0; at++ {
		var next []int
		for _, i := range front {
			for j := range n.Endpoints {
				if seen[j] || n.Endpoints[j].Kind != network.Workload || !edge(i, j) {
					continue
				}
				seen[j] = true
				next = append(next, j)
				if w := n.Endpoints[j].Workload; w != start && hops[w] == 0 {
					hops[w] = at
				}
			}
		}
		front = next
	}
	return hops
}

func TestClosuresAreBreadthFirst(t *testing.T) {
	for seed := range uint64(300) {
		n := randomNetwork(rand.New(rand.NewPCG(seed, 3)))
		a := reach.New(n)
		passes := func(i, j int) bool { return !a.BetweenEndpoints(i, j).Allow.IsEmpty() }
		for _, forward := range []bool{true, false} {
			edge := passes
			verb := "blast"
			if !forward {
				edge = func(i, j int) bool { return passes(j, i) }
				verb = "who-can-reach"
			}
			subject, err := estateSide(a, "n/Pod/w0", nil)
			if err != nil {
				t.Fatal(err)
			}
			out := &render.Closure{Verb: verb}
			c := &closer{edges: newEdges(a), q: ClosureQuestion{Ask: Ask{Any: true}}, out: out, subject: subject, forward: forward}
			c.run()
			want := hopsFrom(n, edge, "n/Pod/w0")
			for _, s := range out.Steps {
				if want[s.Name] != s.Hops {
					t.Errorf("seed %d: %s: %s is %d away, not %d", seed, verb, s.Name, s.Hops, want[s.Name])
				}
				delete(want, s.Name)
			}
			if len(want) > 0 {
				t.Errorf("seed %d: %s misses %v", seed, verb, want)
			}
		}
	}
}
