package reach

import (
	"iter"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// Spread says how to walk from a party over chains of connections.
type Spread struct {
	// Forward follows what is opened from the start: its blast radius.
	// Otherwise the walk follows what is opened to it: who can reach it.
	Forward bool
	// First limits the traffic of the connection at the start.
	First netset.Traffic
	// Unknown goes on from what is reached only by what is not decided.
	Unknown bool
}

// Hop is a connection on the way of a [Spread], between a class that was
// reached before and one next to it.
type Hop struct {
	At, To ClassID
	// Far is how many connections To is away from the start over this one.
	Far int
	Decision
}

// Spread yields the connections of a walk, nearest first, when everything that
// is reached can be made to open further connections, or to accept them. Every
// class of workloads is walked from once; every connection of it is yielded,
// so that a class can come up several times.
func (a *Analysis) Spread(start []ClassID, s Spread) iter.Seq[Hop] {
	return func(yield func(Hop) bool) {
		seen := map[ClassID]bool{}
		front := start
		for far := 1; len(front) > 0; far++ {
			limit := netset.All()
			if far == 1 {
				limit = s.First
			}
			var next []ClassID
			for _, at := range front {
				for to, d := range a.neighbours(at, s.Forward) {
					d = Decision{Allow: d.Allow.Intersect(limit), Unknown: d.Unknown.Intersect(limit)}
					if d.IsDenied() {
						continue
					}
					if !yield(Hop{at, to, far, d}) {
						return
					}
					if (!d.Allow.IsEmpty() || s.Unknown) && !seen[to] && a.isWorkload(to) {
						seen[to] = true
						next = append(next, to)
					}
				}
			}
			front = next
		}
	}
}

// neighbours yields the classes one connection away, those of endpoints only
// when the walk goes backwards.
func (a *Analysis) neighbours(at ClassID, forward bool) iter.Seq2[ClassID, Decision] {
	if forward {
		return a.From(at)
	}
	return func(yield func(ClassID, Decision) bool) {
		for from := range a.part.outside {
			if !yield(from, a.Between(from, at)) {
				return
			}
		}
	}
}

func (a *Analysis) isWorkload(c ClassID) bool {
	const workload = network.EndOwn | network.EndShared | network.EndSharedEverywhere
	return a.part.classes[c].end&workload != 0
}
