package netset

import (
	"fmt"
	"strings"
)

// MaxStates bounds the automata that [UnionOf] and [Segments] build, and so the memory that a hostile or merely
// huge list of patterns can take. Two thousand unrelated paths of sixty bytes need 114,000 states; a state takes
// about 25 bytes.
//
// There is no approximate answer beyond the limit: a set that decides between allow and deny may be neither too
// large nor too small, so these functions return an error. The operations on two languages are exact whatever
// the size; see [Language] for their cost.
const MaxStates = 1 << 18

// Language is an immutable set of byte strings: of paths, or of host names. The zero value holds nothing.
//
// It is a regular language, stored as the encoding of its minimal automaton. Equal sets therefore have equal
// encodings: == compares sets, and a Language can be the key of a map. Bytes are compared as they are, without
// any idea of case, Unicode or percent-encoding.
//
// [Language.Contains] takes time in proportion to the string and allocates nothing. An operation on two languages
// of n and m states takes time and memory in proportion to the pairs of states that one string can reach together:
// about n+m for the lists of paths that people write, n·m at worst. Combine long lists with [UnionOf], which is
// faster and bounded, and check [Language.States] against [MaxStates] when folding over foreign input.
type Language struct {
	encoded encodedDFA
}

var anyString = Language{dfa{{accepts: true, edges: []dfaEdge{{last: 255, to: 0}}}}.encode()}

// NoStrings is the empty set, the same as the zero Language.
func NoStrings() Language { return Language{} }

// AnyString is the set of all byte strings, the empty one included.
func AnyString() Language { return anyString }

// Exact is the set of the one string s.
func Exact(s string) Language { return chain(s, false) }

// Prefix is the set of all strings that begin with s, s itself included. Prefix("") is [AnyString].
// A prefix is text, not a path: Prefix("/admin") holds "/administrator"; [Segments] stops at separators.
func Prefix(s string) Language { return chain(s, true) }

// chain builds the automaton that reads s and then accepts either nothing more or anything more. It is minimal and
// numbered as encode wants it, except for the empty string with open end.
func chain(s string, open bool) Language {
	if s == "" && open {
		return anyString
	}
	// The state that refuses gets the number that breadth-first order would give it: it is met while leaving
	// the start, before or after the second state, depending on whether a byte below s[0] exists.
	dead, n := uint32(1), uint32(len(s))
	if n > 0 && s[0] == 0 {
		dead = 2
	}
	at := func(i uint32) uint32 { // number of the state that has read i bytes
		switch {
		case i == 0:
			return 0
		case i == 1 && dead == 2:
			return 1
		}
		return i + 1
	}
	states := make(dfa, n+2)
	states[dead].edges = []dfaEdge{{255, dead}}
	for i := range n {
		b, edges := s[i], make([]dfaEdge, 0, 3)
		if b > 0 {
			edges = append(edges, dfaEdge{b - 1, dead})
		}
		edges = append(edges, dfaEdge{b, at(i + 1)})
		if b < 255 {
			edges = append(edges, dfaEdge{255, dead})
		}
		states[at(i)].edges = edges
	}
	end := &states[at(n)]
	end.accepts = true
	end.edges = []dfaEdge{{255, dead}}
	if open {
		end.edges[0].to = at(n)
	}
	return Language{states.encode()}
}

// Suffix is the set of all strings that end with s, s itself included. Suffix("") is [AnyString].
func Suffix(s string) Language {
	// Knuth, Morris and Pratt: a state says how much of s the text read so far ends with. Where the next byte is
	// not the expected one, it behaves as the state of the longest shorter match does.
	states := make(dfa, 1, len(s)+1)
	states[0].edges = []dfaEdge{{255, 0}}
	shorter := uint32(0)
	for i := range len(s) {
		b, next := s[i], uint32(i+1)
		states = append(states, dfaState{})
		afterByte := states[shorter].target(b)
		if i == 0 {
			afterByte = 0
		}
		states[i].edges = redirect(states[shorter].edges, b, next)
		shorter = afterByte
		states[next].edges = states[shorter].edges
	}
	states[len(s)].accepts = true
	return fromDFA(states)
}

// redirect returns a copy of edges in which byte b leads to another state.
func redirect(edges []dfaEdge, b byte, to uint32) []dfaEdge {
	out := make([]dfaEdge, 0, len(edges)+2)
	first := 0
	for _, e := range edges {
		if int(b) >= first && b <= e.last {
			if int(b) > first {
				out = append(out, dfaEdge{b - 1, e.to})
			}
			out = append(out, dfaEdge{b, to})
			if b < e.last {
				out = append(out, e)
			}
		} else {
			out = append(out, e)
		}
		first = int(e.last) + 1
	}
	return out
}

// unionFanIn is how many languages are determinised together: many, so that a list of exact strings becomes one
// trie at once; not all, so that the sets of states behind one step stay small.
const unionFanIn = 64

// UnionOf is the set of the strings that are in at least one of parts. It is an error if an automaton on the way
// has more than [MaxStates] states, counted before it is minimised; this takes long lists of long strings,
// or hundreds of patterns with wildcards at unrelated positions.
func UnionOf(parts []Language) (Language, error) {
	level := make([]Language, 0, len(parts))
	seen := make(map[Language]bool, len(parts))
	for _, part := range parts {
		if part.IsAll() {
			return anyString, nil
		}
		if !part.IsEmpty() && !seen[part] {
			seen[part] = true
			level = append(level, part)
		}
	}
	for len(level) > 1 {
		next := level[:0]
		for len(level) > 0 {
			group := level[:min(unionFanIn, len(level))]
			level = level[len(group):]
			merged, ok := unionOfSome(group, MaxStates)
			if !ok {
				return Language{}, fmt.Errorf("union of %d patterns: it needs more than %d automaton states: "+
					"use fewer patterns, or fewer wildcard positions", len(parts), MaxStates)
			}
			next = append(next, merged)
		}
		level = next
	}
	if len(level) == 0 {
		return Language{}, nil
	}
	return level[0], nil
}

func unionOfSome(parts []Language, maxStates int) (Language, bool) {
	switch len(parts) {
	case 0:
		return Language{}, true
	case 1:
		return parts[0], true
	}
	var n nfa
	for _, part := range parts {
		n.add(part.encoded)
	}
	d, ok := n.determinise(maxStates)
	if !ok {
		return Language{}, false
	}
	return fromDFA(d), true
}

// Union is the set of the strings that are in l, in m or in both.
func (l Language) Union(m Language) Language {
	switch {
	case l == m, m.IsEmpty(), l.IsAll():
		return l
	case l.IsEmpty(), m.IsAll():
		return m
	}
	both, _ := unionOfSome([]Language{l, m}, unbounded)
	return both
}

// Intersect is the set of the strings that are in both l and m.
func (l Language) Intersect(m Language) Language {
	return l.Complement().Union(m.Complement()).Complement()
}

// Subtract is the set of the strings that are in l and not in m.
func (l Language) Subtract(m Language) Language {
	return l.Complement().Union(m).Complement()
}

// Complement is the set of all byte strings that are not in l.
func (l Language) Complement() Language {
	switch {
	case l.IsEmpty():
		return anyString
	case l.IsAll():
		return Language{}
	}
	return Language{l.encoded.flip()}
}

// Contains reports whether s is in the set.
func (l Language) Contains(s string) bool {
	if l.IsEmpty() {
		return false
	}
	at := uint32(0)
	for i := range len(s) {
		at = l.encoded.step(at, s[i])
	}
	return l.encoded.accepts(at)
}

// Equal reports whether both hold the same strings. It is the same as ==.
func (l Language) Equal(m Language) bool { return l == m }

// IsEmpty reports whether the set holds no string.
func (l Language) IsEmpty() bool { return l.encoded == "" }

// IsAll reports whether the set holds every string.
func (l Language) IsAll() bool { return l == anyString }

// SubsetOf reports whether every string of l is in m. It stops at the first difference and builds no automaton.
func (l Language) SubsetOf(m Language) bool {
	if l == m || l.IsEmpty() || m.IsAll() {
		return true
	}
	if m.IsEmpty() || l.IsAll() {
		return false
	}
	return subset(l.encoded, m.encoded)
}

// States is the number of states of the minimal automaton: the size of the set's description, and what
// [MaxStates] is about. The empty set has one.
func (l Language) States() int {
	if l.IsEmpty() {
		return 1
	}
	return l.encoded.len()
}

// Key is a string that is the same for equal sets and for no others. It is not for reading, and not for storing:
// another version may encode differently.
func (l Language) Key() string { return string(l.encoded) }

// examplePreference orders bytes by how well they read in an example.
const examplePreference = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_/.~:@!$&'()+,;=%*#?"

// Example returns a shortest member of the set, and false if there is none. Among the shortest it takes letters and
// digits first, then other printable bytes; it is the same for equal sets.
func (l Language) Example() (string, bool) {
	if l.IsEmpty() {
		return "", false
	}
	left := l.encoded.distances()
	var b strings.Builder
	for at := uint32(0); left[at] > 0; {
		next, to := l.exampleStep(at, left)
		b.WriteByte(next)
		at = to
	}
	return b.String(), true
}

func (l Language) exampleStep(at uint32, left []int) (byte, uint32) {
	for i := range len(examplePreference) {
		if to := l.encoded.step(at, examplePreference[i]); left[to] == left[at]-1 {
			return examplePreference[i], to
		}
	}
	for i := range 256 {
		b := byte(' ' + i) // printable bytes come before control characters
		if to := l.encoded.step(at, b); left[to] == left[at]-1 {
			return b, to
		}
	}
	return 0, at // not reached: distances says that some byte leads closer
}
