// Package yamltext writes YAML that people read and machines trust.
//
// It promises that what is written is read back equal whatever text it holds:
// a string that looks like a number, a date or one of YAML 1.1's booleans is
// quoted, and what does not print is escaped. Comments cannot end early: a
// line break or a control character in one is shown as its escape. The order
// is that of the calls, so that the same values give the same bytes.
//
// Text that is not UTF-8 cannot be written in YAML; each wrong byte becomes
// U+FFFD.
package yamltext

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

type kind uint8

const (
	scalar kind = iota
	mapping
	list
)

// Node is a value to write. The zero Node is an empty string.
type Node struct {
	kind    kind
	text    string // of a scalar, as it is written
	entries []Entry
	items   []Node
	above   []string
}

// Entry is a key of a map with its value.
type Entry struct {
	Key   string
	Value Node
}

// At returns an entry; a comment of the value stands above the key.
func At(key string, value Node) Entry { return Entry{key, value} }

// String returns a string.
func String(s string) Node { return Node{text: quoted(s)} }

// Int returns a number.
func Int(n int) Node { return Node{text: strconv.Itoa(n)} }

// Bool returns a truth value.
func Bool(b bool) Node { return Node{text: strconv.FormatBool(b)} }

// Map returns a map; keys must differ.
func Map(entries ...Entry) Node { return Node{kind: mapping, entries: entries} }

// List returns a list.
func List(items ...Node) Node { return Node{kind: list, items: items} }

// Strings returns a list of strings.
func Strings(texts ...string) Node {
	items := make([]Node, len(texts))
	for i, t := range texts {
		items[i] = String(t)
	}
	return List(items...)
}

// Above returns n with lines of comment above it.
func (n Node) Above(lines ...string) Node {
	n.above = append(n.above[:len(n.above):len(n.above)], lines...)
	return n
}

// Before returns n with lines of comment above those that it has.
func (n Node) Before(lines ...string) Node {
	n.above = append(lines[:len(lines):len(lines)], n.above...)
	return n
}

// Documents writes a stream of documents. The comments above each stand after
// the mark that begins it.
func Documents(docs ...Node) []byte {
	var w writer
	for i, d := range docs {
		if i > 0 {
			w.WriteString("---\n")
		}
		w.comment(d.above, 0)
		if d.empty() {
			w.WriteString(d.inline() + "\n")
		} else {
			w.block(d, 0)
		}
	}
	return w.Bytes()
}

// Plain writes n without any comment, for digests of what it says.
func Plain(n Node) []byte {
	w := writer{bare: true}
	if n.empty() {
		w.WriteString(n.inline() + "\n")
	} else {
		w.block(n, 0)
	}
	return w.Bytes()
}

// empty reports whether n is written on the line of its key.
func (n *Node) empty() bool {
	return n.kind == scalar || n.kind == mapping && len(n.entries) == 0 || n.kind == list && len(n.items) == 0
}

func (n *Node) inline() string {
	switch {
	case n.kind == mapping:
		return "{}"
	case n.kind == list:
		return "[]"
	case n.text == "":
		return `""`
	}
	return n.text
}

type writer struct {
	bytes.Buffer
	bare bool
}

func (w *writer) indent(depth int) {
	for range depth {
		w.WriteString("  ")
	}
}

func (w *writer) comment(lines []string, depth int) {
	if w.bare {
		return
	}
	for _, l := range lines {
		w.indent(depth)
		w.WriteString(strings.TrimRight("# "+printable(l), " ") + "\n")
	}
}

// block writes a map or list that is not empty, beginning at the start of a
// line.
func (w *writer) block(n Node, depth int) {
	for _, e := range n.entries {
		w.comment(e.Value.above, depth)
		w.indent(depth)
		w.entry(e, depth)
	}
	for _, item := range n.items {
		w.comment(item.above, depth)
		w.indent(depth)
		w.item(item, depth)
	}
}

// maxKey is the longest key that YAML takes without a mark (1024 characters,
// section 7.4.2 of YAML 1.2.2), less some room for the quotes.
const maxKey = 1000

func (w *writer) entry(e Entry, depth int) {
	key := quoted(e.Key)
	if len(key) > maxKey {
		w.WriteString("? " + key + "\n")
		w.indent(depth)
	} else {
		w.WriteString(key)
	}
	if e.Value.empty() {
		w.WriteString(": " + e.Value.inline() + "\n")
		return
	}
	w.WriteString(":\n")
	w.block(e.Value, depth+1)
}

// item writes an item of a list after its indentation. The first line of a
// map or list in it stands behind the dash.
func (w *writer) item(n Node, depth int) {
	w.WriteString("- ")
	switch {
	case n.empty():
		w.WriteString(n.inline() + "\n")
	case n.kind == mapping && len(n.entries[0].Value.above) == 0:
		w.entry(n.entries[0], depth+1)
		n.entries = n.entries[1:]
		w.block(n, depth+1)
	case n.kind == list && len(n.items[0].above) == 0:
		w.item(n.items[0], depth+1)
		n.items = n.items[1:]
		w.block(n, depth+1)
	default: // a comment comes first, which cannot follow the dash
		w.Truncate(w.Len() - 1)
		w.WriteString("\n")
		w.block(n, depth+1)
	}
}

// plain are the texts that need no quotes: words that begin with a letter, and
// IPv4 prefixes, which no reader takes for a number.
var plain = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_./-]*|[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2})$`)

// words are what readers of YAML 1.1 and 1.2 take for something else.
var words = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true,
	"true": true, "false": true, "null": true}

func quoted(s string) string {
	if plain.MatchString(s) && !words[strings.ToLower(s)] {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s { // a wrong byte is U+FFFD here
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			writeRune(&b, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// printable returns the text of a comment on one line.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		writeRune(&b, r)
	}
	return b.String()
}

// writeRune writes r, or its escape where r does not print: line breaks of any
// script, controls, and marks that change the order in which text is shown.
func writeRune(b *strings.Builder, r rune) {
	switch {
	case unicode.IsPrint(r):
		b.WriteRune(r)
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\t':
		b.WriteString(`\t`)
	case r < 0x100:
		fmt.Fprintf(b, `\x%02x`, r)
	case r < 0x10000:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		fmt.Fprintf(b, `\U%08x`, r)
	}
}
