package policyfile

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"bulkhead/internal/yamldoc"
)

// The form of a formatted policy: values that fit into a line and are not
// nested further than maxFlowDepth stand in braces, all others on lines of
// their own.
const (
	maxColumns   = 110
	maxFlowDepth = 3
	indentation  = 2
)

// emitter writes trees.
type emitter struct{ b strings.Builder }

// document writes a whole policy with the comments before and after it.
func document(header []string, t *tree, footer []string) []byte {
	var e emitter
	if len(header) > 0 {
		e.comments(header, 0)
		e.b.WriteByte('\n')
	}
	for i, p := range t.parts {
		if i > 0 && (p.stands() || t.parts[i-1].stands()) {
			e.b.WriteByte('\n')
		}
		e.part(p, 0)
	}
	if len(footer) > 0 {
		e.b.WriteByte('\n')
		e.comments(footer, 0)
	}
	return []byte(e.b.String())
}

// stands reports whether a top-level entry stands apart from its neighbours.
func (p *part) stands() bool {
	return len(p.head) > 0 || len(p.foot) > 0 || p.value.form != yamldoc.Scalar && len(p.value.parts) > 0
}

func (e *emitter) comments(lines []string, indent int) {
	for _, l := range lines {
		if l != "" {
			e.b.WriteString(strings.Repeat(" ", indent))
			e.b.WriteString(l)
		}
		e.b.WriteByte('\n')
	}
}

// part writes an entry of a map with all that belongs to it.
func (e *emitter) part(p *part, indent int) {
	e.comments(p.head, indent)
	e.b.WriteString(strings.Repeat(" ", indent))
	e.entry(p, indent)
	e.comments(p.foot, indent)
}

// entry writes `key: value`, the line being indented already.
func (e *emitter) entry(p *part, indent int) {
	key := scalarText(p.key, asKey)
	e.b.WriteString(key)
	e.b.WriteByte(':')
	used := indent + utf8.RuneCountInString(key) + 2
	if text, ok := p.value.oneLine(used, indent == 0); ok {
		e.b.WriteByte(' ')
		e.b.WriteString(text)
		e.endLine(p.line)
		return
	}
	if p.value.form == yamldoc.Scalar {
		e.b.WriteString(" >-")
		e.endLine(p.line)
		e.wrapped(p.value.bare, indent+indentation)
		return
	}
	e.endLine(p.line)
	e.block(p.value, indent+indentation, indent == 0)
}

func (e *emitter) endLine(comment string) {
	if comment != "" {
		e.b.WriteByte(' ')
		e.b.WriteString(comment)
	}
	e.b.WriteByte('\n')
}

// block writes the parts of a collection on lines of their own. Only the items
// of a section keep the blank lines between them.
func (e *emitter) block(t *tree, indent int, section bool) {
	for i, p := range t.parts {
		if !section {
			p.head, p.foot = noBlanks(p.head), noBlanks(p.foot)
		} else if p.blank && i > 0 {
			e.b.WriteByte('\n')
		}
		if t.form == yamldoc.Map {
			e.part(p, indent)
		} else {
			e.item(p, indent)
		}
	}
}

func noBlanks(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return l == "" })
}

// item writes an item of a list. What is said of the first key of a map that
// stands on the line of the dash is said of the item.
func (e *emitter) item(p *part, indent int) {
	head := p.head
	if p.value.form == yamldoc.Map && len(p.value.parts) > 0 {
		first := p.value.parts[0]
		head = append(slices.Clone(head), noBlanks(first.head)...)
		first.head = nil
	}
	text, short := p.value.oneLine(indent+2, false)
	if !short && p.value.form == yamldoc.Map && p.line != "" {
		head = append(slices.Clone(head), p.line)
	}
	e.comments(head, indent)
	e.b.WriteString(strings.Repeat(" ", indent))
	e.b.WriteString("- ")
	switch {
	case short:
		e.b.WriteString(text)
		e.endLine(p.line)
	case p.value.form == yamldoc.Scalar:
		e.b.WriteString(">-")
		e.endLine(p.line)
		e.wrapped(p.value.bare, indent+indentation)
	default: // a map: the language has no lists within lists
		e.inner(p.value, indent+indentation)
	}
	e.comments(p.foot, indent)
}

// inner writes a map whose first line is begun by a dash.
func (e *emitter) inner(t *tree, indent int) {
	for i, p := range t.parts {
		p.foot = noBlanks(p.foot)
		if i == 0 {
			e.entry(p, indent)
			e.comments(p.foot, indent)
			continue
		}
		p.head = noBlanks(p.head)
		e.part(p, indent)
	}
}

// wrapped writes a text for people over several lines.
func (e *emitter) wrapped(text string, indent int) {
	column := 0
	for word := range strings.SplitSeq(text, " ") {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			e.b.WriteString(strings.Repeat(" ", indent))
			column = indent
		case column+1+n > maxColumns:
			e.b.WriteByte('\n')
			e.b.WriteString(strings.Repeat(" ", indent))
			column = indent
		default:
			e.b.WriteByte(' ')
			column++
		}
		e.b.WriteString(word)
		column += n
	}
	e.b.WriteByte('\n')
}

// oneLine returns the value as text of one line that begins at a column, if it
// can stand there. A section never does unless it is empty or short by itself.
func (t *tree) oneLine(column int, top bool) (string, bool) {
	if t.form == yamldoc.Scalar {
		text := t.scalar(inBlock)
		return text, !t.prose || column+utf8.RuneCountInString(text) <= maxColumns || !strings.Contains(t.bare, " ")
	}
	if len(t.parts) == 0 {
		return t.flow(), true
	}
	isSection := top && (t.shape == nil || t.shape.record == nil)
	if isSection || t.depth() > maxFlowDepth || t.commented() {
		return "", false
	}
	text := t.flow()
	return text, column+utf8.RuneCountInString(text) <= maxColumns
}

// flow writes a value in braces and brackets.
func (t *tree) flow() string {
	if t.form == yamldoc.Scalar {
		return t.scalar(inFlow)
	}
	texts := make([]string, len(t.parts))
	for i, p := range t.parts {
		texts[i] = p.value.flow()
		if t.form == yamldoc.Map {
			texts[i] = scalarText(p.key, asKey) + ": " + texts[i]
		}
	}
	if t.form == yamldoc.Map {
		return "{" + strings.Join(texts, ", ") + "}"
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func (t *tree) scalar(where context) string {
	if t.plain {
		return t.bare
	}
	return scalarText(t.bare, where)
}

// A context is where a scalar stands, which decides what it may look like.
type context string

const (
	inBlock context = "k: %\n"
	inFlow  context = "{k: %}\n"
	asKey   context = "{%: k}\n"
)

// scalarText returns text as YAML, quoted unless every reader of YAML takes
// the bare text as a string.
func scalarText(text string, where context) string {
	if isPlainWord(text) && !slices.Contains(otherTypes, strings.ToLower(text)) || readsBack(text, where) {
		return text
	}
	return strconv.Quote(text) // for valid UTF-8, its escapes are those of YAML
}

// otherTypes are words that some versions of YAML read as booleans or null.
var otherTypes = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"}

// isPlainWord is the quick answer for most texts: words of letters and the
// marks that names have.
func isPlainWord(text string) bool {
	if text == "" || !(text[0] >= 'a' && text[0] <= 'z' || text[0] >= 'A' && text[0] <= 'Z') {
		return false
	}
	for _, r := range text {
		if !isAlnum(r, true) && r != '-' && r != '_' && r != '.' && r != '/' {
			return false
		}
	}
	return true
}

// readsBack asks the parser whether it reads a bare text back as a string.
func readsBack(text string, where context) bool {
	if text == "" || strings.ContainsFunc(text, isHidden) || slices.Contains(otherTypes, strings.ToLower(text)) ||
		strings.ContainsRune("-?:=.~%@`!&*|>'\"#[]{},", rune(text[0])) {
		return false
	}
	var doc yaml.Node
	if err := yaml.Load([]byte(strings.Replace(string(where), "%", text, 1)), &doc); err != nil {
		return false
	}
	if len(doc.Content) != 1 || len(doc.Content[0].Content) != 2 {
		return false
	}
	n := doc.Content[0].Content[1]
	if where == asKey {
		n = doc.Content[0].Content[0]
	}
	return n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Style == 0 && n.Value == text
}
