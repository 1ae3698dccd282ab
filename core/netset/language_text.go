package netset

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

const (
	maxListed      = 24   // texts that String lists
	maxWidened     = 4    // texts where it allows exceptions
	maxExceptions  = 4    // texts in the exceptions of one of them
	maxCoverStates = 512  // automata up to this size are searched for patterns
	maxComparisons = 4000 // of sets during that search
)

// String describes the set for people, the same way for equal sets:
//
//	nothing                        the empty set
//	*                              every string
//	/a, /b, ""                     these strings
//	/x*, *x                        the strings that begin, or end, with x
//	prefix /x/, suffix .x          the same, where a star would look like a wildcard segment
//	/a/*, /a/**, **.example.com    patterns of Segments
//	/a/* (except /a/b)             a pattern without some strings or patterns
//
// Texts with a character that has a meaning here are quoted. A list that is too long ends with the number of strings
// left out; a set without a short description is described by its size, a member and a checksum, and two of those
// may, though they hardly will, look the same.
func (l Language) String() string {
	switch {
	case l.IsEmpty():
		return "nothing"
	case l.IsAll():
		return "*"
	}
	if members, rest := l.members(maxListed); rest != infinitelyMany {
		return joinTexts(members, rest)
	}
	if l.States() <= maxCoverStates {
		d := describer{shapes: map[string][]shape{}, budget: maxComparisons}
		if texts, rest := d.cover(l, maxListed, 0); rest != infinitelyMany {
			return joinTexts(texts, rest)
		}
		if texts, rest := d.cover(l, maxWidened, maxExceptions); rest != infinitelyMany {
			return joinTexts(texts, rest)
		}
	}
	checksum := fnv.New64a()
	checksum.Write([]byte(l.encoded))
	example, _ := l.Example()
	return fmt.Sprintf("a set of %d states with %s (%016x)", l.States(), quoted(example), checksum.Sum64())
}

func joinTexts(texts []string, rest uint64) string {
	switch {
	case rest >= tooManyToCount:
		texts = append(texts, "and very many more")
	case rest > 0:
		texts = append(texts, fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(texts, ", ")
}

// quoted leaves plain text alone and quotes what could be misread.
func quoted(text string) string {
	if plain(text) && text != "" {
		return text
	}
	return strconv.QuoteToASCII(text)
}

func plain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`*",|()[]`, r)
	})
}

const (
	infinitelyMany = ^uint64(0)
	tooManyToCount = infinitelyMany - 1
)

// members lists the first members in the order of their bytes, and counts the others.
func (l Language) members(atMost int) (listed []string, rest uint64) {
	if l.IsEmpty() {
		return nil, 0
	}
	count, ok := l.encoded.counts()
	if !ok {
		return nil, infinitelyMany
	}
	type visit struct {
		state uint32
		depth int
		b     byte // that led here, at depth-1
	}
	var text []byte
	for stack := []visit{{}}; len(stack) > 0 && len(listed) < atMost; {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v.depth > 0 {
			text = append(text[:v.depth-1], v.b)
		}
		if l.encoded.accepts(v.state) {
			listed = append(listed, quoted(string(text)))
		}
		for b := 255; b >= 0; b-- {
			if to := l.encoded.step(v.state, byte(b)); count[to] > 0 {
				stack = append(stack, visit{to, v.depth + 1, byte(b)})
			}
		}
	}
	if count[0] >= tooManyToCount {
		return listed, tooManyToCount
	}
	return listed, count[0] - uint64(len(listed))
}

// counts says how many strings are accepted from each state, and false if they are infinitely many.
func (e encodedDFA) counts() ([]uint64, bool) {
	distance, waiting := e.distances(), make([]int, e.len())
	before := make([][]uint32, e.len()) // once per edge, among states that can reach acceptance
	for i := range before {
		first, n := e.edges(uint32(i))
		for k := range n {
			if to := e.edge(first + k*edgeSize).to; distance[to] >= 0 {
				before[to] = append(before[to], uint32(i))
				waiting[i]++
			}
		}
	}
	var ready []uint32
	for i := range before {
		if waiting[i] == 0 {
			ready = append(ready, uint32(i))
		}
	}
	count, done := make([]uint64, e.len()), 0
	for ; len(ready) > 0; done++ {
		state := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		if e.accepts(state) {
			count[state] = 1
		}
		first, n := e.edges(state)
		for k, low := 0, 0; k < n; k++ {
			edge := e.edge(first + k*edgeSize)
			count[state] = addUpTo(count[state], uint64(int(edge.last)+1-low), count[edge.to])
			low = int(edge.last) + 1
		}
		for _, from := range before[state] {
			if waiting[from]--; waiting[from] == 0 {
				ready = append(ready, from)
			}
		}
	}
	return count, done == e.len()
}

// addUpTo is sum + times*n, or tooManyToCount.
func addUpTo(sum, times, n uint64) uint64 {
	const enough = tooManyToCount / 512 // no sum of two products below it overflows
	if n >= enough || sum >= enough {
		return tooManyToCount
	}
	return sum + times*n
}

// shape is a set that has a short text.
type shape struct {
	text string
	set  Language
}

// describer looks for the description of one set, with bounded effort.
type describer struct {
	shapes map[string][]shape // by the text they are around
	budget int
}

func (d *describer) shapesAround(text string) []shape {
	if _, ok := d.shapes[text]; !ok {
		d.shapes[text] = shapesAround(text)
	}
	return d.shapes[text]
}

// cover describes l as a list of shapes: it takes a shortest string that is not described yet and widens it to
// the most general shape within l. Where exceptions are allowed, a shape may exceed l by as many.
// The rest is how many strings are left out.
func (d *describer) cover(l Language, atMost, exceptions int) (texts []string, rest uint64) {
	remaining := l
	for len(texts) < atMost && !remaining.IsEmpty() {
		member, _ := remaining.Example()
		shapes := d.shapesAround(member)
		if d.budget -= len(shapes); d.budget < 0 {
			break
		}
		best := shapes[slices.IndexFunc(shapes, func(s shape) bool { return s.set.SubsetOf(l) })]
		if exceptions > 0 {
			best = d.widen(l, shapes, exceptions, best)
		}
		texts = append(texts, best.text)
		remaining = remaining.Subtract(best.set)
	}
	slices.Sort(texts)
	_, rest = remaining.members(0)
	return texts, rest
}

// widen takes the shape that is within l but for the fewest exceptions, though at least one; the fallback if there is
// none.
func (d *describer) widen(l Language, shapes []shape, atMost int, fallback shape) shape {
	best, fewest := fallback, atMost+1
	for _, s := range shapes {
		excess := s.set.Subtract(l)
		if excess.IsEmpty() || excess.States() > maxCoverStates {
			continue
		}
		texts, rest := excess.members(fewest - 1)
		if rest == infinitelyMany {
			texts, rest = d.cover(excess, fewest-1, 0)
		}
		if rest == 0 && len(texts) < fewest {
			fewest = len(texts)
			best = shape{fmt.Sprintf("%s (except %s)", s.text, strings.Join(texts, ", ")), s.set}
		}
	}
	return best
}

// shapesAround lists shapes that hold the text, the more general ones first; the last is the text alone.
func shapesAround(text string) []shape {
	shapes := []shape{{"*", anyString}}
	sep := byte('.')
	if strings.Contains(text, "/") {
		sep = '/'
	}
	for i := 1; i <= len(text); i++ {
		part := text[:i]
		label := quoted(part) + "*"
		if last := part[i-1]; last == '/' || last == '.' || !plain(part) {
			label = "prefix " + quoted(part)
		}
		shapes = append(shapes, shape{label, Prefix(part)})
	}
	for i := len(text) - 1; i >= 0; i-- {
		part := text[i:]
		label := "*" + quoted(part)
		if part[0] == '/' || part[0] == '.' || !plain(part) {
			label = "suffix " + quoted(part)
		}
		shapes = append(shapes, shape{label, Suffix(part)})
	}
	shapes = append(shapes, segmentShapes(text, sep)...)
	return append(shapes, shape{quoted(text), Exact(text)})
}

// segmentShapes are the patterns of segments that hold the text. Where the text has many segments, stars are tried in
// the first few only.
func segmentShapes(text string, sep byte) []shape {
	divider := string(sep)
	segments := strings.Split(text, divider)
	var shapes []shape
	add := func(pattern []string) {
		if s, ok := segmentShape(pattern, sep); ok {
			shapes = append(shapes, s)
		}
	}
	for i := range segments { // wildcards for a run at the end, at the beginning, then for single segments
		if !slices.Contains(segments[i:], "") {
			starred(segments[:i], func(head []string) { add(append(head, "**")) })
		}
	}
	for i := range segments {
		if !slices.Contains(segments[:len(segments)-i], "") {
			starred(segments[len(segments)-i:], func(tail []string) { add(append([]string{"**"}, tail...)) })
		}
	}
	starred(segments, add)
	return shapes
}

// starred calls visit with all ways to put a star for some of the first segments, most stars first.
func starred(segments []string, visit func([]string)) {
	var places []int
	for i, segment := range segments {
		if segment != "" && len(places) < 4 {
			places = append(places, i)
		}
	}
	for chosen := 1<<len(places) - 1; chosen >= 0; chosen-- {
		pattern := slices.Clone(segments)
		for bit, place := range places {
			if chosen>>bit&1 == 1 {
				pattern[place] = "*"
			}
		}
		visit(pattern)
	}
}

func segmentShape(pattern []string, sep byte) (shape, bool) {
	label := strings.Join(pattern, string(sep))
	if !strings.Contains(label, "*") {
		return shape{}, false
	}
	set, err := Segments(label, sep)
	if err != nil {
		return shape{}, false
	}
	switch {
	case label == "*":
		label = "any text without " + string(sep)
	case label == "**":
		label = "any segments divided by " + string(sep)
	case !plain(strings.ReplaceAll(label, "*", "")):
		label = "pattern " + strconv.QuoteToASCII(label)
	}
	return shape{label, set}, true
}
