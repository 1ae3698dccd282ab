package policyfile

import (
	"bulkhead/core/source"
)

// Format brings the text of one file into its canonical form: sections and
// keys in the order of the language, two spaces of indentation, short items in
// braces, texts wrapped, comments kept. It changes nothing of what the text
// means, and formatting twice is the same as once.
//
// A text with errors is not formatted: the result is nil and the diagnostics
// are those of [Parse].
func Format(name string, text []byte) ([]byte, source.Diagnostics) {
	c := newChecker()
	root, ok := c.file(File{Name: name, Text: text})
	if !ok {
		return nil, c.ds.done()
	}
	t := withComments(string(text), root.Node())
	return document(t.header, t.tree, t.footer), nil
}
