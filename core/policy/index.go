package policy

// index finds the permissions of a list by their parties, in the order of the
// list. Those from one party are found by the pair, so that a service with ten
// thousand clients, each permitted by itself, costs no more than one with two.
type index struct {
	perms  []Permission
	to     map[Party][]int32    // all, by To
	groups map[Party][]int32    // those not from exactly one party, by To
	single map[[2]Party][]int32 // the others, by their From and To
}

func newIndex(perms []Permission) index {
	x := index{perms: perms,
		to:     make(map[Party][]int32),
		groups: make(map[Party][]int32),
		single: make(map[[2]Party][]int32, len(perms)),
	}
	for i := range perms {
		p := &perms[i]
		x.to[p.To] = append(x.to[p.To], int32(i))
		if len(p.From.Members) == 1 {
			pair := [2]Party{p.From.Members[0], p.To}
			x.single[pair] = append(x.single[pair], int32(i))
		} else {
			x.groups[p.To] = append(x.groups[p.To], int32(i))
		}
	}
	return x
}

// walk goes through the permissions from one party to another.
type walk struct {
	perms     []Permission
	from      Party
	one, many []int32 // what is left; those in many may not be from the party
}

func (x *index) between(from, to Party) walk {
	return walk{perms: x.perms, from: from, one: x.single[[2]Party{from, to}], many: x.groups[to]}
}

// next returns the next permission, nil at the end.
func (w *walk) next() *Permission {
	for len(w.one) > 0 || len(w.many) > 0 {
		if len(w.many) == 0 || len(w.one) > 0 && w.one[0] < w.many[0] {
			p := &w.perms[w.one[0]]
			w.one = w.one[1:]
			return p
		}
		p := &w.perms[w.many[0]]
		w.many = w.many[1:]
		if p.From.Has(w.from) {
			return p
		}
	}
	return nil
}

// first returns the first permission that holds the question, nil if none does.
func (x *index) first(q *Question) *Permission {
	w := x.between(q.From, q.To)
	for p := w.next(); p != nil; p = w.next() {
		if p.holds(q) {
			return p
		}
	}
	return nil
}

// nearest returns the last permission between the parties of the question, or
// else the first to the one that is asked for.
func (x *index) nearest(q *Question) (near *Permission) {
	w := x.between(q.From, q.To)
	for p := w.next(); p != nil; p = w.next() {
		near = p
	}
	if list := x.to[q.To]; near == nil && len(list) > 0 {
		near = &x.perms[list[0]]
	}
	return near
}
