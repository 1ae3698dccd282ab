package netset

import "sync"

// NormalPaths is the set of request paths that every server reads the same way, as far as text can show: they
// begin with '/', have no empty segment except a last one, no "." or ".." segment (also not with ';' parameters), only
// the bytes that RFC 3986 allows in a path, and percent-encoding in upper case and only where it is needed, never
// for an unreserved byte, '/', '\', '%', ';' or a control character.
//
// A wildcard in a policy takes more than this. Two programs that disagree on "/public/%2e%2e/admin" are a way
// around the policy, so a decision about live traffic refuses paths outside this set, and an import of a
// platform that normalises paths may intersect with it.
func NormalPaths() Language { return normalPaths() }

var normalPaths = sync.OnceValue(func() Language {
	states := make(dfa, pathStates)
	for s := range states {
		states[s].accepts = s == pathSegmentStart || s == pathSegment
		for b := range 256 {
			to := pathStep(s, byte(b))
			states[s].edges = appendEdge(states[s].edges, dfaEdge{byte(b), uint32(to)})
		}
	}
	return fromDFA(states)
})

// The states of reading a path.
const (
	pathStart        = iota
	pathSegmentStart // after '/'
	pathSegment
	pathDot      // the segment so far is "."
	pathDotDot   // the segment so far is ".."
	pathPercent  // after '%'
	pathPercent2 // after "%2"; the other digits likewise
	pathPercent3
	pathPercent46 // after "%4" or "%6"
	pathPercent5
	pathPercent7
	pathPercent8F // after "%8" to "%F": no ASCII
	pathRefused
	pathStates
)

func pathStep(state int, b byte) int {
	switch state {
	case pathStart:
		if b == '/' {
			return pathSegmentStart
		}
	case pathSegmentStart, pathSegment, pathDot, pathDotDot:
		return segmentStep(state, b)
	default:
		return percentStep(state, b)
	}
	return pathRefused
}

func segmentStep(state int, b byte) int {
	switch {
	case b == '.' && state == pathSegmentStart:
		return pathDot
	case b == '.' && state == pathDot:
		return pathDotDot
	case b == '/' && state == pathSegment:
		return pathSegmentStart
	case b == ';' && (state == pathDot || state == pathDotDot):
		return pathRefused
	case b == '%':
		return pathPercent
	case isPathByte(b):
		return pathSegment
	}
	return pathRefused
}

// percentStep accepts a second digit only where the encoded byte needs its encoding.
func percentStep(state int, b byte) int {
	if b < '0' || b > '9' && b < 'A' || b > 'F' {
		return pathRefused
	}
	ok := false
	switch state {
	case pathPercent:
		switch b {
		case '2':
			return pathPercent2
		case '3':
			return pathPercent3
		case '4', '6':
			return pathPercent46
		case '5':
			return pathPercent5
		case '7':
			return pathPercent7
		case '8', '9', 'A', 'B', 'C', 'D', 'E', 'F':
			return pathPercent8F
		}
	case pathPercent2: // not '%', '-', '.', '/'
		ok = b != '5' && b != 'D' && b != 'E' && b != 'F'
	case pathPercent3: // not a decimal digit, not ';'
		ok = b > '9' && b != 'B'
	case pathPercent46: // '@' and '`'; the rest are letters
		ok = b == '0'
	case pathPercent5: // '[', ']', '^'; not '\', '_' or a letter
		ok = b == 'B' || b == 'D' || b == 'E'
	case pathPercent7: // '{', '|', '}'; not '~', DEL or a letter
		ok = b == 'B' || b == 'C' || b == 'D'
	case pathPercent8F:
		ok = true
	}
	if ok {
		return pathSegment
	}
	return pathRefused
}

// isPathByte reports whether b may stand for itself in a segment: RFC 3986 pchar without percent-encoding.
func isPathByte(b byte) bool {
	switch {
	case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		return true
	}
	switch b {
	case '-', '.', '_', '~', '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@':
		return true
	}
	return false
}
