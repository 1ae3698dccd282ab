package policyfile

import (
	"unicode"
	"unicode/utf8"

	"bulkhead/core/source"
)

// isHidden reports whether a character does not show, or changes how the text
// around it shows: control characters, line breaks that editors do not count,
// bidirectional marks, and the byte order mark within a text.
func isHidden(r rune) bool {
	switch {
	case unicode.IsControl(r):
		return true
	case r == '\u2028', r == '\u2029', r == '\ufeff', r == '\u061c', r == '\u200b', r == '\u200e', r == '\u200f':
		return true
	}
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// hidden reports the characters of a text that do not show. It looks at all of
// the text, comments included, before any of it is parsed: a parser takes some
// of them as line breaks, an editor does not, and the reviewer sees another
// policy than the program.
func hidden(file string, text []byte, ds *bounded) {
	pos := source.Pos{File: file, Line: 1, Col: 1}
	for i := 0; i < len(text) && !ds.full(); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			ds.errorf(ruleHidden, pos, "save the file as UTF-8", "byte 0x%02x is not UTF-8", text[i])
		case r == '\n', r == '\t', r == '\r' && i+1 < len(text) && text[i+1] == '\n':
		case r == '\ufeff' && i == 0:
			pos.Col-- // the mark that some editors put first has no width
		case isHidden(r):
			ds.errorf(ruleHidden, pos, "remove it", "the text has the character %U, which does not show", r)
		}
		pos.Col++
		if r == '\n' {
			pos.Line++
			pos.Col = 1
		}
		i += size
	}
}
