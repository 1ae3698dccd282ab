package policyfile

import (
	"slices"

	"go.yaml.in/yaml/v4"

	"bulkhead/internal/yamldoc"
)

// A tree is a value to be written, with the comments around its parts. It
// comes from a text, to be formatted, or from a policy, to be drafted; there
// is one writer for both.
type tree struct {
	shape *shape // of the value; nil within a binding
	form  yamldoc.Kind
	// bare is the text of a scalar; plain says that it is written as it is, since it is
	// a number, boolean or date; other texts are quoted where they need it.
	bare  string
	plain bool
	prose bool
	parts []*part // of a list or map
}

// A part is an item of a list or an entry of a map.
type part struct {
	key   string // of an entry
	value *tree
	// head is the comment lines above, foot those below, line the one behind.
	// An empty line in head or foot is a blank line between comments.
	head, foot []string
	line       string
	blank      bool // a blank line stands before it
}

// treeOf turns a document that was checked into a tree, without comments. It
// calls place for each part in the order of the text, with the node where it
// begins, that of its value, and the collection it is in.
func treeOf(n *yaml.Node, s *shape, place func(p *part, at, value, in *yaml.Node)) *tree {
	t := &tree{shape: s}
	switch n.Kind {
	case yaml.MappingNode:
		t.form = yamldoc.Map
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			p := &part{key: k.Value}
			place(p, k, v, n)
			p.value = treeOf(v, s.entry(k.Value), place)
			t.parts = append(t.parts, p)
		}
		t.arrange()
	case yaml.SequenceNode:
		t.form = yamldoc.List
		for _, v := range n.Content {
			p := &part{}
			place(p, v, v, n)
			p.value = treeOf(v, s.list, place)
			t.parts = append(t.parts, p)
		}
	default:
		t.form = yamldoc.Scalar
		t.bare = n.Value
		t.plain = n.Tag != "!!str"
		t.settle()
	}
	return t
}

// entry returns the shape of the value of a key.
func (s *shape) entry(name string) *shape {
	switch {
	case s.record != nil && s.record.key(name) != nil:
		return s.record.key(name).shape
	case s.named != nil:
		return s.named.item
	}
	return nil
}

// arrange puts the entries of a record in the order of the language. Names
// that the user chose keep the user's order.
func (t *tree) arrange() {
	if t.shape == nil || t.shape.record == nil {
		return
	}
	slices.SortStableFunc(t.parts, func(a, b *part) int {
		return t.shape.record.order(a.key) - t.shape.record.order(b.key)
	})
}

// settle brings a scalar into its one form where the syntax has one.
func (t *tree) settle() {
	if t.shape == nil || t.shape.scalar == nil {
		return
	}
	switch s := t.shape.scalar; {
	case s.prose:
		t.prose, t.plain = true, false
		t.bare = folded(t.bare)
	case s.format == "date", s.kind == number, s.kind == truth:
		t.plain = true
	}
}

// scalarTree returns a text as a tree.
func scalarTree(text string, s *shape) *tree {
	t := &tree{shape: s, form: yamldoc.Scalar, bare: text}
	if s != nil && s.scalar != nil && s.scalar.kind == numberOrText {
		_, t.plain = parsePort(text)
	}
	t.settle()
	return t
}

// commented reports whether a comment stands anywhere within t, so that t must
// be written on several lines.
func (t *tree) commented() bool {
	for _, p := range t.parts {
		if len(p.head) > 0 || len(p.foot) > 0 || p.line != "" || p.value.commented() {
			return true
		}
	}
	return false
}

// depth counts the collections within each other.
func (t *tree) depth() int {
	if t.form == yamldoc.Scalar {
		return 0
	}
	deepest := 0
	for _, p := range t.parts {
		deepest = max(deepest, p.value.depth())
	}
	return deepest + 1
}
