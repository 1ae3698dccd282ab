package policyfile

import (
	"slices"

	"go.yaml.in/yaml/v4"
)

// An anchor is a part of a tree at its place in the text, so that the comments
// around it can be given to it.
type anchor struct {
	part      *part
	in        *yaml.Node // the collection that it is in
	outer     *anchor
	line, col int
}

// isTop reports whether the anchor is a section.
func (a *anchor) isTop() bool { return a.outer == nil }

// commentedTree is a tree with the comments that belong to no part of it.
type commentedTree struct {
	tree           *tree
	header, footer []string
}

// withComments builds the tree of a document and gives each of its comments to
// the part that it is about:
//
//   - one behind a value, to the value that ends there;
//   - one on a line of its own, to what follows at its indentation, or else to
//     what went before;
//   - those at the top with a blank line below, and those at the end, to the
//     document.
func withComments(text string, root *yaml.Node) commentedTree {
	var anchors []*anchor
	byCollection := map[*yaml.Node]*anchor{} // collection → the part whose value it is
	t := treeOf(root, language, func(p *part, at, value, in *yaml.Node) {
		a := &anchor{part: p, in: in, outer: byCollection[in], line: at.Line, col: at.Column}
		if in.Kind == yaml.SequenceNode && !isFlow(in) {
			a.col = in.Column // that of the dash
		}
		byCollection[value] = a
		anchors = append(anchors, a)
	})
	out := commentedTree{tree: t}
	at := attacher{anchors: anchors, out: &out}
	for _, c := range commentsOf(text, root) {
		at.add(c)
	}
	at.finish(text)
	return out
}

// attacher gives comments to anchors, both in the order of the text.
type attacher struct {
	anchors []*anchor
	next    int // the first anchor behind the comment at hand
	out     *commentedTree
	// waiting is the comments on lines of their own before the next anchor.
	waiting []comment
	heads   map[*part]bool
}

func (t *attacher) add(c comment) {
	for t.next < len(t.anchors) && before(t.anchors[t.next], c) {
		t.flush(t.anchors[t.next])
		t.next++
	}
	if c.own || t.next == 0 {
		t.waiting = append(t.waiting, c)
		return
	}
	a := t.anchors[t.next-1]
	// Climb out of all braces that are closed before the comment.
	for a.outer != nil && isFlow(a.in) && !slices.Contains(c.open, a.in) {
		a = a.outer
	}
	if a.part.line != "" {
		a.part.head = append(a.part.head, c.text)
		return
	}
	a.part.line = c.text
}

func before(a *anchor, c comment) bool {
	return a.line < c.line || a.line == c.line && a.col < c.col
}

// flush gives the waiting comments to the anchor that follows them, or to one
// before where their indentation says so. No anchor means the end.
func (t *attacher) flush(next *anchor) {
	for i, c := range t.waiting {
		a := t.owner(c, next)
		if a == nil {
			t.lead(t.waiting[i:], next)
			break
		}
		a.part.foot = append(a.part.foot, spaced(c)...)
	}
	t.waiting = nil
}

// owner returns the anchor before c that c belongs to by its indentation, nil
// if it belongs to what follows.
func (t *attacher) owner(c comment, next *anchor) *anchor {
	if t.next == 0 {
		return nil
	}
	last := t.anchors[t.next-1]
	if len(c.open) > 0 {
		if next != nil && slices.Contains(c.open, next.in) {
			return nil
		}
		for last.outer != nil && !slices.Contains(c.open, last.in) {
			last = last.outer
		}
		return notTop(last)
	}
	if next != nil && c.col <= next.col || c.col == 1 {
		return nil
	}
	for last.outer != nil && last.col > c.col {
		if last.outer.isTop() {
			break
		}
		last = last.outer
	}
	return notTop(last)
}

// notTop keeps comments from the foot of a section, where they would read as
// belonging to the next.
func notTop(a *anchor) *anchor {
	if a.isTop() {
		return nil
	}
	return a
}

// spaced returns the line of a comment, after an empty line where one stands
// in the text.
func spaced(c comment) []string {
	if c.afterBlank {
		return []string{"", c.text}
	}
	return []string{c.text}
}

// lead puts comments above an anchor, or at the begin or end of the document.
func (t *attacher) lead(group []comment, next *anchor) {
	var lines []string
	for i, c := range group {
		if i > 0 {
			lines = append(lines, spaced(c)...)
		} else {
			lines = append(lines, c.text)
		}
	}
	if next == nil {
		t.out.footer = append(t.out.footer, lines...)
		return
	}
	if t.heads == nil {
		t.heads = map[*part]bool{}
	}
	t.heads[next.part] = group[0].afterBlank
	next.part.head = append(next.part.head, lines...)
}

// finish gives away what is left and looks for blank lines between the parts.
func (t *attacher) finish(text string) {
	for ; t.next < len(t.anchors); t.next++ {
		t.flush(t.anchors[t.next])
	}
	t.flush(nil)
	blank := blankLines(text)
	for i, a := range t.anchors {
		above := blank[a.line-1]
		if len(a.part.head) == 0 {
			a.part.blank = above
			continue
		}
		a.part.blank = t.heads[a.part]
		if above {
			a.part.head = append(a.part.head, "")
		}
		if i == 0 {
			t.splitHeader(a.part)
		}
	}
}

// splitHeader moves what stands apart above the first part to the document, so
// that it stays on top whatever part comes first.
func (t *attacher) splitHeader(p *part) {
	at := len(p.head)
	for at > 0 && p.head[at-1] != "" {
		at--
	}
	if at == 0 {
		return
	}
	header := p.head[:at]
	for len(header) > 0 && header[len(header)-1] == "" {
		header = header[:len(header)-1]
	}
	t.out.header, p.head = header, p.head[at:]
}

// blankLines says which lines of a text, counted from 1, are blank.
func blankLines(text string) map[int]bool {
	blank := map[int]bool{}
	line, empty := 1, true
	for _, r := range text {
		switch r {
		case '\n':
			if empty {
				blank[line] = true
			}
			line, empty = line+1, true
		case ' ', '\t', '\r', '\ufeff':
		default:
			empty = false
		}
	}
	return blank
}
