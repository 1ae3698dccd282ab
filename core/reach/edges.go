package reach

import (
	"iter"
	"slices"

	"bulkhead/core/network"
)

// destGroup is a set of classes that treat every source by the same defaults.
type destGroup struct {
	classes []ClassID
}

// group prepares enumeration: it groups destinations by their defaults and
// inverts the exceptions, so that the edges of a class are found in time
// proportional to their number.
func (a *Analysis) group() {
	n := len(a.part.classes)
	a.sources = make([][]*row, n)
	a.rowUsers = map[*row][]ClassID{}
	for _, sides := range a.sides {
		s := sides[network.Ingress]
		for c, r := range s.rows {
			if r == nil {
				continue
			}
			users := a.rowUsers[r]
			if users == nil {
				for _, e := range r.entries {
					a.sources[e.class] = append(a.sources[e.class], r)
				}
			}
			a.rowUsers[r] = append(users, ClassID(c))
		}
	}
	replaced := a.replacedSources()
	groups := map[string]int32{}
	a.groupOf = make([]int32, n)
	var buf []byte
	for c := range n {
		buf = append(buf[:0], byte(a.part.classes[c].end))
		for _, sides := range a.sides {
			r := sides[network.Ingress].rows[c]
			if r == nil {
				buf = append(buf, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			buf = appendID(buf, r.def)
			for _, src := range replaced {
				buf = appendID(buf, r.at(src))
			}
		}
		g, ok := groups[string(buf)]
		if !ok {
			g = int32(len(a.groups))
			groups[string(buf)] = g
			a.groups = append(a.groups, destGroup{})
		}
		a.groups[g].classes = append(a.groups[g].classes, ClassID(c))
		a.groupOf[c] = g
	}
}

func appendID(b []byte, id decisionID) []byte {
	return append(b, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
}

func (a *Analysis) replacedSources() []ClassID {
	var out []ClassID
	for _, p := range a.Net.Paths {
		for _, s := range p.Steps {
			if s.Kind == network.Replace {
				out = append(out, a.classesIn(s.Peer)...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// special returns the classes that src does not treat by its defaults or that
// do not treat src by theirs, ascending.
func (a *Analysis) special(src ClassID) []ClassID {
	var out []ClassID
	for _, sides := range a.sides {
		if r := sides[network.Egress].rows[src]; r != nil {
			for _, e := range r.entries {
				out = append(out, e.class)
			}
		}
	}
	for _, r := range a.sources[src] {
		out = append(out, a.rowUsers[r]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// From yields the classes that src may send anything to, with the decision.
// The class itself is among them if its members may reach each other.
func (a *Analysis) From(src ClassID) iter.Seq2[ClassID, Decision] {
	return func(yield func(ClassID, Decision) bool) {
		a.from(src, func(dst ClassID, id decisionID) bool {
			return yield(dst, a.cache.decisions.get(id))
		})
	}
}

func (a *Analysis) from(src ClassID, yield func(ClassID, decisionID) bool) {
	special := a.special(src)
	for _, dst := range special {
		if id := a.pairID(src, dst); id != deniedID && !yield(dst, id) {
			return
		}
	}
	for g := range a.groups {
		classes := a.groups[g].classes
		id, known := deniedID, false
		for _, dst := range classes {
			if _, found := slices.BinarySearch(special, dst); found {
				continue
			}
			if !known {
				id, known = a.pairID(src, dst), true
				if id == deniedID {
					break
				}
			}
			if !yield(dst, id) {
				return
			}
		}
	}
}

// Between decides between two classes.
func (a *Analysis) Between(src, dst ClassID) Decision {
	return a.cache.decisions.get(a.pairID(src, dst))
}

// BetweenEndpoints decides between two endpoints.
func (a *Analysis) BetweenEndpoints(src, dst int) Decision {
	return a.Between(a.part.of[src], a.part.of[dst])
}

// Changed yields the class edges that differ from an earlier analysis of the
// same Analyzer, with what was and what is. It looks only at classes whose
// rows differ. The two must have the same classes ([Analysis.SameClasses]),
// layers and paths: otherwise they can only be compared by endpoint.
func (a *Analysis) Changed(before *Analysis) iter.Seq2[[2]ClassID, [2]Decision] {
	return func(yield func([2]ClassID, [2]Decision) bool) {
		n := len(a.part.classes)
		changed := [2]map[ClassID]bool{{}, {}}
		for l := range a.sides {
			for dir := range a.sides[l] {
				for c := range n {
					if a.sides[l][dir].rows[c] != before.sides[l][dir].rows[c] {
						changed[dir][ClassID(c)] = true
					}
				}
			}
		}
		visit := func(src, dst ClassID) bool {
			x, y := before.pairID(src, dst), a.pairID(src, dst)
			return x == y || yield([2]ClassID{src, dst}, [2]Decision{a.cache.decisions.get(x), a.cache.decisions.get(y)})
		}
		for src := range ClassID(n) {
			if changed[network.Egress][src] {
				for dst := range ClassID(n) {
					if !visit(src, dst) {
						return
					}
				}
				continue
			}
			for dst := range changed[network.Ingress] {
				if !visit(src, dst) {
					return
				}
			}
		}
	}
}

// SameClasses reports whether class numbers mean the same parties in both.
func (a *Analysis) SameClasses(before *Analysis) bool {
	return len(a.sides) == len(before.sides) && a.digest == before.digest
}
