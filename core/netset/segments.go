package netset

import (
	"fmt"
	"strings"
)

const (
	// MaxPatternBytes is the longest pattern that [Segments] takes.
	MaxPatternBytes = 1024
	// MaxWildcards is how many wildcard segments a pattern may have.
	MaxWildcards = 8

	// maxPatternStates bounds one pattern: behind a leading "**", every further wildcard can double the automaton.
	maxPatternStates = 1 << 14
)

// Segments is the set of the strings that a pattern of segments, divided by the byte sep, describes: paths with '/',
// host names with '.'. A segment of the pattern is
//
//   - "*": one segment, which is not empty and may be any bytes but sep;
//   - "**", as the first or the last segment: one or more segments like that, divided by one sep each;
//   - anything else: that text exactly, which may be empty.
//
// So "/a/*" holds "/a/b" but not "/a", "/a/" or "/a/b/"; "/a/**" holds "/a/b" and "/a/b/c" but not "/a", "/a/",
// "/a//b" or "/a/b/"; "/**" does not hold "/"; "*.example.com" with '.' holds "x.example.com" but not
// "x.y.example.com", which "**.example.com" holds; neither holds "example.com".
//
// A wildcard takes any bytes: ".." and "%2e%2e" are segments like others. Whoever asks about live traffic first
// refuses what is outside [NormalPaths].
//
// It is an error if the pattern is empty, is longer than [MaxPatternBytes], has more than [MaxWildcards]
// wildcards, has "**" in the middle, has '*' beside other text in one segment, if sep is '*', or if the wildcards
// behind a leading "**" make the automaton too large.
func Segments(pattern string, sep byte) (Language, error) {
	segments, err := splitPattern(pattern, sep)
	if err != nil {
		return Language{}, err
	}
	n := segmentsNFA(segments, sep)
	d, ok := n.determinise(maxPatternStates)
	if !ok {
		return Language{}, fmt.Errorf("pattern %q: the wildcards behind the leading ** need more than %d automaton "+
			"states: use fewer of them", pattern, maxPatternStates)
	}
	return fromDFA(d), nil
}

func splitPattern(pattern string, sep byte) ([]string, error) {
	switch {
	case sep == '*':
		return nil, fmt.Errorf("pattern %q: the separator must not be '*', which is the wildcard", shortened(pattern))
	case pattern == "":
		return nil, fmt.Errorf("pattern %q: it must not be empty", pattern)
	case len(pattern) > MaxPatternBytes:
		return nil, fmt.Errorf("pattern %q: it has %d bytes, the limit is %d",
			shortened(pattern), len(pattern), MaxPatternBytes)
	}
	segments := strings.Split(pattern, string([]byte{sep}))
	wildcards := 0
	for i, segment := range segments {
		switch {
		case !strings.Contains(segment, "*"):
			continue
		case segment == "**" && i > 0 && i < len(segments)-1:
			return nil, fmt.Errorf("pattern %q: ** may only be the first or the last segment", pattern)
		case segment != "*" && segment != "**":
			return nil, fmt.Errorf("pattern %q: segment %q mixes a wildcard with text: only whole segments may be "+
				"* or **", pattern, segment)
		}
		wildcards++
	}
	if wildcards > MaxWildcards {
		return nil, fmt.Errorf("pattern %q: it has %d wildcard segments, the limit is %d",
			pattern, wildcards, MaxWildcards)
	}
	return segments, nil
}

// shortened keeps an error about an overlong text readable.
func shortened(text string) string {
	if len(text) > 60 {
		return text[:60] + "..."
	}
	return text
}

// segmentsNFA is deterministic but for a leading "**", where a separator may end the run or not.
func segmentsNFA(segments []string, sep byte) nfa {
	var n nfa
	add := func() uint32 {
		n.states = append(n.states, nfaState{})
		return uint32(len(n.states) - 1)
	}
	connect := func(from, to uint32, b byte) {
		n.states[from].edges = append(n.states[from].edges, nfaEdge{b, b, to})
	}
	connectOthers := func(from, to uint32) { // every byte but sep
		edges := &n.states[from].edges
		if sep > 0 {
			*edges = append(*edges, nfaEdge{0, sep - 1, to})
		}
		if sep < 255 {
			*edges = append(*edges, nfaEdge{sep + 1, 255, to})
		}
	}
	at := add()
	n.starts = []uint32{at}
	for i, segment := range segments {
		if i > 0 {
			next := add()
			connect(at, next, sep)
			at = next
		}
		if segment == "*" || segment == "**" {
			inside := add()
			connectOthers(at, inside)
			connectOthers(inside, inside)
			if segment == "**" {
				connect(inside, at, sep)
			}
			at = inside
			continue
		}
		for k := range len(segment) {
			next := add()
			connect(at, next, segment[k])
			at = next
		}
	}
	n.states[at].accepts = true
	return n
}
