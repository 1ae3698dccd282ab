package netset

// fromDFA returns the language of a complete automaton in which every state can be reached.
func fromDFA(d dfa) Language {
	r := newReduction(d)
	r.refine()
	return Language{r.quotient().encode()}
}

// reduction finds the states of an automaton that accept the same strings, in O(m log m) for m transitions, after
// Valmari, "Fast brief practical DFA minimization" (2012): blocks of states and cords of equally labelled
// transitions refine each other. Nearly all transitions of a list of paths lead to the state that refuses (or,
// in a complement, that accepts) everything; the algorithm may leave out those that lead to one such sink, so m is
// close to the number of states.
type reduction struct {
	automaton dfa
	decided   []decision // per state: whether what follows still matters
	omitted   decision   // the sink whose transitions are left out
	sinks     [3]int     // a representative state per decision, -1 for none

	tails, labels, heads []uint32 // the transitions that are kept
	blocks, cords        partition
}

type decision uint8

const (
	undecided decision = iota // some continuations are accepted, some are not
	refused                   // none is accepted
	granted                   // all are accepted
)

func newReduction(d dfa) *reduction {
	r := &reduction{automaton: d, decided: make([]decision, len(d)), sinks: [3]int{-1, -1, -1}}
	accepting, refusing := d.reaching(true), d.reaching(false)
	var leading [3]int
	for i := range d {
		switch {
		case !accepting[i]:
			r.decided[i] = refused
		case !refusing[i]:
			r.decided[i] = granted
		}
		if r.sinks[r.decided[i]] < 0 {
			r.sinks[r.decided[i]] = i
		}
	}
	for _, s := range d {
		for _, e := range s.edges {
			leading[r.decided[e.to]]++
		}
	}
	r.omitted = refused
	if leading[granted] > leading[refused] {
		r.omitted = granted
	}
	return r
}

// reaching marks the states from which a state that accepts (or one that refuses) can be reached.
func (d dfa) reaching(accepting bool) []bool {
	before := make([]int, len(d)+1)
	for _, s := range d {
		for _, e := range s.edges {
			before[e.to+1]++
		}
	}
	for i := range d {
		before[i+1] += before[i]
	}
	sources, next := make([]uint32, before[len(d)]), append([]int(nil), before...)
	marked := make([]bool, len(d))
	var queue []uint32
	for i, s := range d {
		for _, e := range s.edges {
			sources[next[e.to]] = uint32(i)
			next[e.to]++
		}
		if s.accepts == accepting {
			marked[i] = true
			queue = append(queue, uint32(i))
		}
	}
	for len(queue) > 0 {
		state := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, from := range sources[before[state]:before[state+1]] {
			if !marked[from] {
				marked[from] = true
				queue = append(queue, from)
			}
		}
	}
	return marked
}

// representative stands for all states with the same decision; undecided states stand for themselves.
func (r *reduction) representative(state uint32) uint32 {
	if d := r.decided[state]; d != undecided {
		return uint32(r.sinks[d])
	}
	return state
}

// collectTransitions lists the transitions that matter, one per label: a label is a range of bytes that no edge of
// the automaton tells apart.
func (r *reduction) collectTransitions() (labelCount int) {
	var ends [256]bool
	for _, s := range r.automaton {
		for _, e := range s.edges {
			ends[e.last] = true
		}
	}
	var labelOf [256]uint32
	for b := range 256 {
		labelOf[b] = uint32(labelCount)
		if ends[b] {
			labelCount++
		}
	}
	for i, s := range r.automaton {
		state := uint32(i)
		if r.decided[i] == r.omitted || r.representative(state) != state {
			continue
		}
		label := uint32(0)
		for _, e := range s.edges {
			after := labelOf[e.last] + 1
			if r.decided[e.to] == r.omitted {
				label = after
				continue
			}
			for ; label < after; label++ {
				r.tails = append(r.tails, state)
				r.labels = append(r.labels, label)
				r.heads = append(r.heads, r.representative(e.to))
			}
		}
	}
	return labelCount
}

func (r *reduction) refine() {
	labelCount := r.collectTransitions()
	r.blocks = newPartition(len(r.automaton))
	for i, s := range r.automaton {
		if s.accepts {
			r.blocks.mark(uint32(i))
		}
	}
	r.blocks.split()
	r.cords = newPartition(len(r.tails))
	r.cords.group(r.labels, labelCount)
	incoming, at := r.incoming()

	block := 1 // the first block tells nothing that its rest does not
	for cord := 0; cord < r.cords.len(); cord++ {
		for _, t := range r.cords.members(cord) {
			r.blocks.mark(r.tails[t])
		}
		r.blocks.split()
		for ; block < r.blocks.len(); block++ {
			for _, state := range r.blocks.members(block) {
				for _, t := range incoming[at[state]:at[state+1]] {
					r.cords.mark(t)
				}
			}
			r.cords.split()
		}
	}
}

// incoming lists the transitions by the state they lead to: those of state s are list[at[s]:at[s+1]].
func (r *reduction) incoming() (list []uint32, at []int) {
	at = make([]int, len(r.automaton)+1)
	for _, head := range r.heads {
		at[head+1]++
	}
	for i := range r.automaton {
		at[i+1] += at[i]
	}
	list, next := make([]uint32, len(r.heads)), append([]int(nil), at...)
	for t, head := range r.heads {
		list[next[head]] = uint32(t)
		next[head]++
	}
	return list, at
}

// quotient merges each block into one state, and numbers the states in breadth-first order, which makes the result
// the same for every automaton of the language.
func (r *reduction) quotient() dfa {
	// States with one decision are equivalent; they need not share a block, but their representative does for them.
	blockOf := func(state uint32) uint32 { return r.blocks.set[r.representative(state)] }
	const unseen = ^uint32(0)
	numbers := make([]uint32, r.blocks.len())
	for i := range numbers {
		numbers[i] = unseen
	}
	order := []uint32{0}
	numbers[blockOf(0)] = 0
	var out dfa
	var edges []dfaEdge
	var kept pool[dfaEdge]
	for i := 0; i < len(order); i++ {
		source := r.automaton[r.representative(order[i])]
		edges = edges[:0]
		for _, e := range source.edges {
			b := blockOf(e.to)
			if numbers[b] == unseen {
				numbers[b] = uint32(len(order))
				order = append(order, e.to)
			}
			edges = appendEdge(edges, dfaEdge{e.last, numbers[b]})
		}
		out = append(out, dfaState{source.accepts, kept.keep(edges)})
	}
	return out
}

// partition is a set of the numbers below n, split into sets that only ever become finer. Marking an element and
// splitting off the marked ones take constant time per mark.
type partition struct {
	elements    []uint32 // grouped by set
	position    []uint32 // of an element in elements
	set         []uint32 // of an element
	first, past []uint32 // per set: its range in elements
	marked      []uint32 // per set: how many of its first elements are marked
	touched     []uint32 // sets with a mark
}

func newPartition(n int) partition {
	p := partition{elements: make([]uint32, n), position: make([]uint32, n), set: make([]uint32, n)}
	for i := range n {
		p.elements[i], p.position[i] = uint32(i), uint32(i)
	}
	if n > 0 {
		p.first, p.past, p.marked = []uint32{0}, []uint32{uint32(n)}, []uint32{0}
	}
	return p
}

func (p *partition) len() int { return len(p.first) }

// members is valid until the next mark or split of this partition.
func (p *partition) members(set int) []uint32 { return p.elements[p.first[set]:p.past[set]] }

// group replaces the partition by one set per label that occurs.
func (p *partition) group(labels []uint32, labelCount int) {
	count := make([]uint32, labelCount+1)
	for _, label := range labels {
		count[label+1]++
	}
	p.first, p.past, p.marked = nil, nil, nil
	setOf := make([]uint32, labelCount)
	for label := range labelCount {
		setOf[label] = uint32(len(p.first))
		if n := count[label+1]; n > 0 {
			p.first = append(p.first, count[label])
			p.past = append(p.past, count[label]+n)
			p.marked = append(p.marked, 0)
		}
		count[label+1] += count[label]
	}
	for i, label := range labels {
		at := count[label]
		count[label]++
		p.elements[at], p.position[i], p.set[i] = uint32(i), at, setOf[label]
	}
}

// mark must not be called twice for one element between splits.
func (p *partition) mark(element uint32) {
	set, i := p.set[element], p.position[element]
	j := p.first[set] + p.marked[set]
	p.elements[i] = p.elements[j]
	p.position[p.elements[i]] = i
	p.elements[j] = element
	p.position[element] = j
	if p.marked[set] == 0 {
		p.touched = append(p.touched, set)
	}
	p.marked[set]++
}

// split separates, in every set, the marked elements from the others; the smaller part becomes the new set.
func (p *partition) split() {
	for _, set := range p.touched {
		middle := p.first[set] + p.marked[set]
		p.marked[set] = 0
		if middle == p.past[set] {
			continue
		}
		added := uint32(len(p.first))
		if middle-p.first[set] <= p.past[set]-middle {
			p.first, p.past = append(p.first, p.first[set]), append(p.past, middle)
			p.first[set] = middle
		} else {
			p.first, p.past = append(p.first, middle), append(p.past, p.past[set])
			p.past[set] = middle
		}
		p.marked = append(p.marked, 0)
		for _, element := range p.elements[p.first[added]:p.past[added]] {
			p.set[element] = added
		}
	}
	p.touched = p.touched[:0]
}
