package netset

import (
	"encoding/binary"
	"math"
	"slices"
)

// unbounded is the state limit of operations that must not fail.
const unbounded = math.MaxInt

// dfa is a complete deterministic automaton over bytes; state 0 is the start.
type dfa []dfaState

type dfaState struct {
	accepts bool
	edges   []dfaEdge // ascending by last; together they cover every byte
}

// dfaEdge leads all bytes after the previous edge's last, up to its own last, to one state.
type dfaEdge struct {
	last byte
	to   uint32
}

func (s dfaState) target(b byte) uint32 {
	for _, e := range s.edges {
		if b <= e.last {
			return e.to
		}
	}
	return 0
}

// encodedDFA is a minimal automaton, numbered breadth first, as an immutable string that is walked in place:
// the number of states, the offset of each state's record, the records. A record is whether the state accepts,
// the number of edges less one, then the edges. The automaton that accepts nothing is the empty string.
type encodedDFA string

const (
	wordSize   = 4
	recordHead = 2
	edgeSize   = 1 + wordSize
)

func (d dfa) encode() encodedDFA {
	if len(d) == 1 && !d[0].accepts {
		return ""
	}
	size := wordSize * (1 + len(d))
	for _, s := range d {
		size += recordHead + edgeSize*len(s.edges)
	}
	out := binary.LittleEndian.AppendUint32(make([]byte, 0, size), uint32(len(d)))
	offset := wordSize * (1 + len(d))
	for _, s := range d {
		out = binary.LittleEndian.AppendUint32(out, uint32(offset))
		offset += recordHead + edgeSize*len(s.edges)
	}
	for _, s := range d {
		accepts := byte(0)
		if s.accepts {
			accepts = 1
		}
		out = append(out, accepts, byte(len(s.edges)-1))
		for _, e := range s.edges {
			out = binary.LittleEndian.AppendUint32(append(out, e.last), e.to)
		}
	}
	return encodedDFA(out)
}

func (e encodedDFA) word(at int) uint32 {
	return uint32(e[at]) | uint32(e[at+1])<<8 | uint32(e[at+2])<<16 | uint32(e[at+3])<<24
}

func (e encodedDFA) len() int { return int(e.word(0)) }

// record is the offset of a state's record.
func (e encodedDFA) record(state uint32) int { return int(e.word(wordSize * (1 + int(state)))) }

func (e encodedDFA) accepts(state uint32) bool { return e[e.record(state)] == 1 }

// edges is the offset of a state's first edge, and the number of its edges.
func (e encodedDFA) edges(state uint32) (first, n int) {
	at := e.record(state)
	return at + recordHead, int(e[at+1]) + 1
}

func (e encodedDFA) edge(at int) dfaEdge { return dfaEdge{last: e[at], to: e.word(at + 1)} }

func (e encodedDFA) step(state uint32, b byte) uint32 {
	first, n := e.edges(state)
	low, high := 0, n-1
	for low < high {
		if middle := (low + high) / 2; e[first+middle*edgeSize] < b {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return e.word(first + low*edgeSize + 1)
}

// isSink reports whether no byte leads out of the state: in a minimal automaton, one of the two states in which
// everything is decided.
func (e encodedDFA) isSink(state uint32) bool {
	first, n := e.edges(state)
	return n == 1 && e.word(first+1) == state
}

// flip accepts where e refuses. The result is minimal and in order because e is.
func (e encodedDFA) flip() encodedDFA {
	out := []byte(e)
	for i := range e.len() {
		out[e.record(uint32(i))] ^= 1
	}
	return encodedDFA(out)
}

// distances returns for each state how many bytes it is from acceptance, -1 for never.
func (e encodedDFA) distances() []int {
	before, distance := make([][]uint32, e.len()), make([]int, e.len())
	var queue []uint32
	for i := range distance {
		state := uint32(i)
		first, n := e.edges(state)
		for k := range n {
			to := e.word(first + k*edgeSize + 1)
			before[to] = append(before[to], state)
		}
		distance[i] = -1
		if e.accepts(state) {
			distance[i] = 0
			queue = append(queue, state)
		}
	}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		for _, from := range before[state] {
			if distance[from] < 0 {
				distance[from] = distance[state] + 1
				queue = append(queue, from)
			}
		}
	}
	return distance
}

// subset walks both automata together until a state accepts in a and refuses in b.
func subset(a, b encodedDFA) bool {
	type pair struct{ a, b uint32 }
	seen := map[pair]bool{{0, 0}: true}
	queue := []pair{{0, 0}}
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if a.accepts(p.a) && !b.accepts(p.b) {
			return false
		}
		if a.isSink(p.a) && !a.accepts(p.a) || b.isSink(p.b) && b.accepts(p.b) {
			continue
		}
		atA, _ := a.edges(p.a)
		atB, _ := b.edges(p.b)
		for {
			ea, eb := a.edge(atA), b.edge(atB)
			if next := (pair{ea.to, eb.to}); !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
			if ea.last == 255 && eb.last == 255 {
				break
			}
			if ea.last <= eb.last {
				atA += edgeSize
			}
			if eb.last <= ea.last {
				atB += edgeSize
			}
		}
	}
	return true
}

// nfa is an automaton that may be in several states at once; bytes without an edge lead nowhere.
type nfa struct {
	states []nfaState
	starts []uint32
	pool   pool[nfaEdge]
}

type nfaState struct {
	accepts bool
	edges   []nfaEdge
}

type nfaEdge struct {
	first, last byte
	to          uint32
}

// add makes n accept also what e accepts.
func (n *nfa) add(e encodedDFA) {
	if e == "" {
		return
	}
	base := uint32(len(n.states))
	n.starts = append(n.starts, base)
	var edges []nfaEdge
	refuses := func(s uint32) bool { return e.isSink(s) && !e.accepts(s) }
	for i := range e.len() {
		state := uint32(i)
		at, count := e.edges(state)
		edges = edges[:0]
		for k, first := 0, byte(0); k < count; k++ {
			edge := e.edge(at + k*edgeSize)
			if !refuses(edge.to) {
				edges = append(edges, nfaEdge{first, edge.last, base + edge.to})
			}
			first = edge.last + 1
		}
		n.states = append(n.states, nfaState{e.accepts(state), n.pool.keep(edges)})
	}
}

// acceptsAll reports whether everything is accepted from this state on, as far as one look can tell.
func (n *nfa) acceptsAll(state uint32) bool {
	s := n.states[state]
	return s.accepts && len(s.edges) == 1 && s.edges[0] == nfaEdge{0, 255, state}
}

// determinise is the subset construction. It returns false when it would need more than maxStates states.
func (n *nfa) determinise(maxStates int) (dfa, bool) {
	c := subsetConstruction{source: n, numbers: map[string]uint32{}, single: make([]uint32, len(n.states))}
	c.number(slices.Clone(n.starts))
	for i := 0; i < len(c.subsets); i++ {
		if len(c.subsets) > maxStates {
			return nil, false
		}
		c.result = append(c.result, c.state(c.subsets[i]))
	}
	return c.result, true
}

// subsetConstruction numbers the sets of states that one string can lead to.
type subsetConstruction struct {
	source  *nfa
	numbers map[string]uint32
	single  []uint32 // numbers of the sets of one state, plus one: most sets are
	subsets [][]uint32
	result  dfa

	key        []byte
	targets    [256][]uint32
	edges      []dfaEdge
	subsetPool pool[uint32]
	edgePool   pool[dfaEdge]
}

// number returns the number of a set of states; it sorts the set and does not keep it.
func (c *subsetConstruction) number(set []uint32) uint32 {
	if !slices.IsSorted(set) {
		slices.Sort(set)
	}
	set = slices.Compact(set)
	for i, state := range set {
		if c.source.acceptsAll(state) { // the others add nothing
			set = set[i : i+1]
			break
		}
	}
	added := uint32(len(c.subsets))
	if len(set) == 1 {
		if number := c.single[set[0]]; number > 0 {
			return number - 1
		}
		c.single[set[0]] = added + 1
	} else {
		c.key = c.key[:0]
		for _, state := range set {
			c.key = binary.LittleEndian.AppendUint32(c.key, state)
		}
		if number, known := c.numbers[string(c.key)]; known {
			return number
		}
		c.numbers[string(c.key)] = added
	}
	c.subsets = append(c.subsets, c.subsetPool.keep(set))
	return added
}

// state builds the deterministic state of a set: it cuts the bytes where any edge begins or ends, and collects the
// targets of every piece.
func (c *subsetConstruction) state(set []uint32) dfaState {
	var out dfaState
	c.edges = c.edges[:0]
	var ends [256]bool
	ends[255] = true
	for _, s := range set {
		out.accepts = out.accepts || c.source.states[s].accepts
		for _, e := range c.source.states[s].edges {
			ends[e.last] = true
			if e.first > 0 {
				ends[e.first-1] = true
			}
		}
	}
	var pieceOf [256]uint8
	var lasts [256]byte
	pieces := 0
	for b := range 256 {
		pieceOf[b] = uint8(pieces)
		if ends[b] {
			lasts[pieces] = byte(b)
			c.targets[pieces] = c.targets[pieces][:0]
			pieces++
		}
	}
	for _, s := range set {
		for _, e := range c.source.states[s].edges {
			for p := int(pieceOf[e.first]); p <= int(pieceOf[e.last]); p++ {
				c.targets[p] = append(c.targets[p], e.to)
			}
		}
	}
	for p := range pieces {
		c.edges = appendEdge(c.edges, dfaEdge{lasts[p], c.number(c.targets[p])})
	}
	out.edges = c.edgePool.keep(c.edges)
	return out
}

// appendEdge keeps edges as few as possible: neighbours with one target are one edge.
func appendEdge(edges []dfaEdge, e dfaEdge) []dfaEdge {
	if n := len(edges); n > 0 && edges[n-1].to == e.to {
		edges[n-1].last = e.last
		return edges
	}
	return append(edges, e)
}

// pool keeps many short slices in few allocations.
type pool[T any] struct{ chunk []T }

func (p *pool[T]) keep(values []T) []T {
	if cap(p.chunk)-len(p.chunk) < len(values) {
		p.chunk = make([]T, 0, max(min(2*cap(p.chunk), 1<<16), len(values), 64))
	}
	from := len(p.chunk)
	p.chunk = append(p.chunk, values...)
	return p.chunk[from:len(p.chunk):len(p.chunk)]
}
