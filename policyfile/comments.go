package policyfile

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// The YAML library drops comments in braces and moves others, so this file
// finds them itself. It needs no full grammar: the library has said where each
// scalar and collection begins and how it is written, which leaves only the
// ends of quoted texts and blocks to be found.

// A comment is one `#` to the end of its line.
type comment struct {
	text      string
	line, col int
	// own says that nothing but dashes stands before it on its line.
	own bool
	// afterBlank says that the line before is blank.
	afterBlank bool
	// open is the collections in braces that it stands in, outermost first.
	open []*yaml.Node
}

// A cell is a place in the text, counted from 0.
type cell struct{ line, col int }

// commentScanner walks a text once.
type commentScanner struct {
	lines [][]rune
	// begins holds the quoted and block scalars, plain scalars, and
	// collections in braces, by where they begin.
	begins map[cell]*yaml.Node
	// indents holds the indentation of the collection around a block scalar.
	indents map[*yaml.Node]int

	line, col int // from 0
	open      []*yaml.Node
	found     []comment
}

// commentsOf returns the comments of a text whose document is root.
func commentsOf(text string, root *yaml.Node) []comment {
	s := &commentScanner{begins: map[cell]*yaml.Node{}, indents: map[*yaml.Node]int{}}
	for l := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		s.lines = append(s.lines, []rune(strings.TrimSuffix(l, "\r")))
	}
	s.note(root, 0)
	for s.line = 0; s.line < len(s.lines); s.line++ {
		s.col = 0
		s.scanLine()
	}
	return s.found
}

// note remembers where the nodes begin. A node within a key-value pair that
// has no braces of its own begins where its key does, and is left out.
func (s *commentScanner) note(n *yaml.Node, indent int) {
	at := cell{n.Line - 1, n.Column - 1}
	switch n.Kind {
	case yaml.ScalarNode:
		s.begins[at] = n
		s.indents[n] = indent
	default:
		if isFlow(n) && at.line < len(s.lines) && at.col < len(s.lines[at.line]) &&
			strings.ContainsRune("{[", s.lines[at.line][at.col]) {
			s.begins[at] = n
		}
		for _, c := range n.Content {
			s.note(c, n.Column-1)
		}
	}
}

// scanLine scans from the current place to the end of the line, or of the
// scalar that begins on it.
func (s *commentScanner) scanLine() {
	for s.col < len(s.lines[s.line]) {
		row := s.lines[s.line]
		n := s.begins[cell{s.line, s.col}]
		r := row[s.col]
		switch {
		case n != nil && n.Kind != yaml.ScalarNode:
			s.open = append(s.open, n)
			s.col++
		case n != nil && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
			s.skipQuoted(r)
		case n != nil && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
			s.skipBlock(n)
			return
		case n != nil && n.Value != "":
			s.skipPlain()
		case r == '#' && (s.col == 0 || strings.ContainsRune(" \t,[]{}:\"'", row[s.col-1])):
			s.comment()
			return
		case (r == '}' || r == ']') && len(s.open) > 0:
			s.open = s.open[:len(s.open)-1]
			s.col++
		default:
			s.col++
		}
	}
}

func (s *commentScanner) comment() {
	row := s.lines[s.line]
	c := comment{text: strings.TrimRight(string(row[s.col:]), " \t"), line: s.line + 1, col: s.col + 1,
		open: slices.Clone(s.open)}
	if lead := string(row[:s.col]); strings.Trim(lead, " \t-") == "" {
		c.own = true
		if dash := strings.IndexByte(lead, '-'); dash >= 0 {
			c.col = dash + 1 // it is about the item
		}
	}
	c.afterBlank = s.line > 0 && isBlank(s.lines[s.line-1])
	s.found = append(s.found, c)
}

func isBlank(row []rune) bool { return strings.Trim(string(row), " \t") == "" }

// skipQuoted moves behind the end of a quoted text, which may be on a later
// line.
func (s *commentScanner) skipQuoted(quote rune) {
	for s.col++; ; s.line, s.col = s.line+1, 0 {
		if s.line >= len(s.lines) {
			s.line, s.col = len(s.lines)-1, len(s.lines[len(s.lines)-1])
			return
		}
		for row := s.lines[s.line]; s.col < len(row); s.col++ {
			doubled := quote == '\'' && row[s.col] == quote && s.col+1 < len(row) && row[s.col+1] == quote
			switch {
			case quote == '"' && row[s.col] == '\\', doubled:
				s.col++
			case row[s.col] == quote:
				s.col++
				return
			}
		}
	}
}

// skipPlain moves to where a bare text ends on this line.
func (s *commentScanner) skipPlain() {
	row := s.lines[s.line]
	for s.col++; s.col < len(row); s.col++ {
		r := row[s.col]
		switch {
		case r == '#' && (row[s.col-1] == ' ' || row[s.col-1] == '\t'):
			return
		case r == ':' && (s.col+1 == len(row) || strings.ContainsRune(" \t", row[s.col+1])):
			return
		case len(s.open) > 0 && strings.ContainsRune(",[]{}", r):
			return
		}
	}
}

// skipBlock moves to the last line of a block scalar, after any comment on its
// first.
func (s *commentScanner) skipBlock(n *yaml.Node) {
	row := s.lines[s.line]
	explicit := 0
	for ; s.col < len(row); s.col++ {
		if row[s.col] >= '1' && row[s.col] <= '9' {
			explicit = s.indents[n] + int(row[s.col]-'0')
		}
		if row[s.col] == '#' {
			s.comment()
			break
		}
	}
	least := explicit
	for ; s.line+1 < len(s.lines); s.line++ {
		next := s.lines[s.line+1]
		if isBlank(next) {
			continue
		}
		indent := 0
		for indent < len(next) && next[indent] == ' ' {
			indent++
		}
		if least == 0 {
			least = max(indent, s.indents[n]+1)
		}
		if indent < least {
			break
		}
	}
	s.col = len(s.lines[s.line])
}
