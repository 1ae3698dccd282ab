// Package yamldoc reads YAML and JSON text into values that know their place.
//
// It promises that hostile text costs at most what its [Limits] say and that
// every problem comes back as a diagnostic at file:line:col. Scalars keep
// their text: the reader decides what type it wants and says so where the
// text is something else.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"bulkhead/core/source"
)

// Limits bound what a text may cost.
type Limits struct {
	Bytes int // of the text
	Depth int // of nesting
	Nodes int // of one document, aliases counted as often as they are used
	// Aliases permits anchors, aliases and merge keys. Where it is not set they
	// are an error.
	Aliases bool
	// NoTags makes explicit tags such as !!str an error.
	NoTags bool
	// RepeatedKeys permits a key to be given twice in a map, for a reader that
	// reports that itself, with both places. Get finds the first.
	RepeatedKeys bool
}

// ManifestLimits suit machine-made input of whole clusters; PolicyLimits what
// people write.
var (
	ManifestLimits = Limits{Bytes: 64 << 20, Depth: 100, Nodes: 4 << 20, Aliases: true}
	PolicyLimits   = Limits{Bytes: 4 << 20, Depth: 32, Nodes: 1 << 20, NoTags: true}
)

// Kind is the shape of a [Value].
type Kind uint8

const (
	// Missing is the zero Value: there is nothing.
	Missing Kind = iota
	// Null is an explicit or empty null.
	Null
	// Scalar is text; List and Map are what they say.
	Scalar
	List
	Map
)

func (k Kind) String() string {
	return [...]string{"nothing", "null", "a scalar", "a list", "a map"}[k]
}

// Value is a node of a document. The zero Value is Missing; every method can
// be called on it.
type Value struct {
	file string
	node *yaml.Node
}

// Documents yields the documents of a text in order. On a text that is broken
// or breaks a limit it yields what came before and then one Missing value with
// the diagnostic; nothing follows, since the rest cannot be trusted.
func Documents(file string, text []byte, limits Limits) iter.Seq2[Value, *source.Diagnostic] {
	return func(yield func(Value, *source.Diagnostic) bool) {
		if len(text) > limits.Bytes {
			d := source.Diagnostic{Rule: "too-large", Pos: source.Pos{File: file, Line: 1, Col: 1},
				Message: fmt.Sprintf("the text is larger than the limit of %d MiB", limits.Bytes>>20),
				Fix:     "split it into several files"}
			yield(Value{}, &d)
			return
		}
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
		loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(
			loaderlimits.New(loaderlimits.DepthValue(limits.Depth), loaderlimits.AliasNone())))
		if err != nil {
			yield(Value{}, diagnose(file, err))
			return
		}
		for {
			var doc yaml.Node
			err := loader.Load(&doc)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Value{}, diagnose(file, err))
				return
			}
			root := &doc
			if doc.Kind == yaml.DocumentNode {
				if len(doc.Content) == 0 {
					continue
				}
				root = doc.Content[0]
			}
			c := checker{file: file, limits: limits}
			if c.check(root, 0); c.found != nil {
				yield(Value{}, c.found)
				return
			}
			if !yield(Value{file: file, node: root}, nil) {
				return
			}
		}
	}
}

// checker walks a document the way a reader will, following aliases, and
// finds the first breach of a limit.
type checker struct {
	file   string
	limits Limits
	nodes  int
	found  *source.Diagnostic
}

func (c *checker) fail(n *yaml.Node, rule, fix, format string, args ...any) {
	if c.found == nil {
		c.found = &source.Diagnostic{Rule: rule, Pos: pos(c.file, n), Message: fmt.Sprintf(format, args...), Fix: fix}
	}
}

func (c *checker) check(n *yaml.Node, depth int) {
	if c.found != nil {
		return
	}
	if c.nodes++; c.nodes > c.limits.Nodes {
		c.fail(n, "too-many-values", "split it, or write out fewer aliases",
			"the document has more than %d values", c.limits.Nodes)
		return
	}
	if depth > c.limits.Depth {
		c.fail(n, "too-deep", "flatten it", "values are nested more than %d deep", c.limits.Depth)
		return
	}
	if !c.limits.Aliases && (n.Anchor != "" || n.Kind == yaml.AliasNode) {
		c.fail(n, "alias", "write the value out", "anchors and aliases are not accepted here")
		return
	}
	if c.limits.NoTags && n.Style&yaml.TaggedStyle != 0 {
		c.fail(n, "tag", "remove it; quote a text that looks like a number", "tag %s is not accepted here", n.Tag)
		return
	}
	if n.Kind == yaml.AliasNode {
		c.check(n.Alias, depth+1)
		return
	}
	if n.Kind == yaml.MappingNode {
		c.checkKeys(n)
	}
	for _, child := range n.Content {
		c.check(child, depth+1)
	}
}

func (c *checker) checkKeys(n *yaml.Node) {
	var seen map[string]*yaml.Node
	if len(n.Content) > 2 {
		seen = make(map[string]*yaml.Node, len(n.Content)/2)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode {
			c.fail(k, "key", "write a plain word", "a key must be a scalar")
			return
		}
		if k.Value == "<<" && k.Tag == "!!merge" && !c.limits.Aliases {
			c.fail(k, "alias", "write the values out", "merge keys are not accepted here")
			return
		}
		if first := seen[k.Value]; first != nil && !c.limits.RepeatedKeys {
			c.fail(k, "duplicate-key", "keep one of them", "key %q is given twice, first at line %d", k.Value, first.Line)
			return
		}
		if seen != nil {
			seen[k.Value] = k
		}
	}
}

var linePattern = regexp.MustCompile(`line (\d+)(?:, column (\d+))?`)

// diagnose turns an error of the library into a diagnostic, keeping the place
// that its text or its fields name.
func diagnose(file string, err error) *source.Diagnostic {
	d := &source.Diagnostic{Rule: "yaml", Pos: source.Pos{File: file, Line: 1, Col: 1}}
	text := err.Error()
	var one *yaml.LoadError
	var many *yaml.LoadErrors
	if errors.As(err, &many) && len(many.Errors) > 0 {
		one = many.Errors[0]
	}
	if one != nil || errors.As(err, &one) {
		d.Pos.Line, d.Pos.Col = max(one.Mark.Line, 1), max(one.Mark.Column, 1)
		text = one.Message
	} else if m := linePattern.FindStringSubmatch(text); m != nil {
		d.Pos.Line, _ = strconv.Atoi(m[1])
		if m[2] != "" {
			d.Pos.Col, _ = strconv.Atoi(m[2])
		}
	}
	text = strings.TrimPrefix(text, "go-yaml load error")
	text = strings.TrimPrefix(text, "yaml: ")
	if i := strings.IndexByte(text, '\n'); i > 0 {
		text = text[:i]
	}
	d.Message = "not valid YAML: " + strings.TrimSpace(text)
	d.Fix = "look at the indentation and quoting here"
	return d
}

func pos(file string, n *yaml.Node) source.Pos {
	return source.Pos{File: file, Line: n.Line, Col: n.Column}
}

// resolved follows an alias; the document was checked to hold no cycle.
func (v Value) resolved() *yaml.Node {
	n := v.node
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// Kind returns the shape of v.
func (v Value) Kind() Kind {
	n := v.resolved()
	switch {
	case n == nil:
		return Missing
	case n.Kind == yaml.MappingNode:
		return Map
	case n.Kind == yaml.SequenceNode:
		return List
	case n.Tag == "!!null":
		return Null
	}
	return Scalar
}

// Pos returns the place of v; for an alias the place where it is used.
func (v Value) Pos() source.Pos {
	if v.node == nil {
		return source.Pos{File: v.file}
	}
	return pos(v.file, v.node)
}

// Node returns the node of the YAML library under v, nil if there is none. It
// is for writers, which need the styles; readers use the other methods.
func (v Value) Node() *yaml.Node { return v.node }

// Text returns the text of a scalar.
func (v Value) Text() (string, bool) {
	if v.Kind() != Scalar {
		return "", false
	}
	return v.resolved().Value, true
}

// IsString reports whether v is a scalar that YAML reads as a string, and not
// as a number, boolean or date.
func (v Value) IsString() bool { return v.Kind() == Scalar && v.resolved().Tag == "!!str" }

// Int returns the number of a scalar that YAML reads as an integer.
func (v Value) Int() (int64, bool) {
	if v.Kind() != Scalar || v.resolved().Tag != "!!int" {
		return 0, false
	}
	i, err := strconv.ParseInt(strings.ReplaceAll(v.resolved().Value, "_", ""), 0, 64)
	return i, err == nil
}

// Bool returns the value of a scalar that YAML reads as a boolean.
func (v Value) Bool() (value, ok bool) {
	if v.Kind() != Scalar || v.resolved().Tag != "!!bool" {
		return false, false
	}
	return strings.EqualFold(v.resolved().Value, "true"), true
}

// Items yields the items of a list; of anything else, none.
func (v Value) Items() iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.Kind() != List {
			return
		}
		for i, c := range v.resolved().Content {
			if !yield(i, Value{v.file, c}) {
				return
			}
		}
	}
}

// Len returns the number of items of a list or entries of a map.
func (v Value) Len() int {
	switch v.Kind() {
	case List:
		return len(v.resolved().Content)
	case Map:
		return len(v.resolved().Content) / 2
	}
	return 0
}

// Entries yields the keys and values of a map; of anything else, none. Merge
// keys are expanded: an entry of the map itself comes before and wins.
func (v Value) Entries() iter.Seq2[Value, Value] {
	return func(yield func(Value, Value) bool) {
		if v.Kind() != Map {
			return
		}
		var merged []*yaml.Node
		seen := map[string]bool{}
		each := func(n *yaml.Node, first bool) bool {
			for i := 0; i+1 < len(n.Content); i += 2 {
				k, val := n.Content[i], n.Content[i+1]
				if k.Tag == "!!merge" {
					merged = append(merged, val)
					continue
				}
				if len(merged) > 0 || !first {
					if seen[k.Value] {
						continue
					}
				}
				seen[k.Value] = true
				if !yield(Value{v.file, k}, Value{v.file, val}) {
					return false
				}
			}
			return true
		}
		if !each(v.resolved(), true) {
			return
		}
		for i := 0; i < len(merged); i++ {
			n := Value{v.file, merged[i]}.resolved()
			if n.Kind == yaml.SequenceNode {
				merged = append(merged, n.Content...)
				continue
			}
			if n.Kind == yaml.MappingNode && !each(n, false) {
				return
			}
		}
	}
}

// Get returns the value of a key of a map, Missing if there is none.
func (v Value) Get(key string) Value {
	if v.Kind() != Map {
		return Value{file: v.file}
	}
	n := v.resolved()
	merges := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return Value{v.file, n.Content[i+1]}
		}
		merges = merges || n.Content[i].Tag == "!!merge"
	}
	if merges {
		for k, val := range v.Entries() {
			if t, _ := k.Text(); t == key {
				return val
			}
		}
	}
	return Value{file: v.file}
}

// At walks a chain of keys.
func (v Value) At(keys ...string) Value {
	for _, k := range keys {
		v = v.Get(k)
	}
	return v
}
