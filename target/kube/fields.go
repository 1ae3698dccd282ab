package kube

import (
	"iter"
	"slices"
	"strings"

	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// Reader is where the nodes of one object report what is wrong.
type Reader struct {
	// Object names the object in messages: `NetworkPolicy shop/web`.
	Object string
	Diags  *source.Diagnostics
}

// Node is a value of an object together with the name of the field it is in.
// An explicit null is read as absent, as the API server does. Every method
// can be called on a node that is absent.
type Node struct {
	Value yamldoc.Value
	r     *Reader
	name  string
}

// Root returns the node of a whole object.
func Root(v yamldoc.Value, r *Reader) Node { return Node{Value: v, r: r, name: "the object"} }

// Errorf reports an error at n. The message begins with the object's name.
func (n Node) Errorf(rule, format string, args ...any) *source.Diagnostic {
	return n.r.Diags.Errorf(rule, n.Value.Pos(), n.r.Object+": "+format, args...)
}

// Warnf reports a warning at n.
func (n Node) Warnf(rule, format string, args ...any) *source.Diagnostic {
	return n.r.Diags.Warnf(rule, n.Value.Pos(), n.r.Object+": "+format, args...)
}

// Of returns the node of another value of the same object, such as a key, to
// report at.
func (n Node) Of(v yamldoc.Value) Node { return Node{Value: v, r: n.r, name: n.name} }

// Name returns the name of the field that n is the value of.
func (n Node) Name() string { return n.name }

// Pos returns the place of n.
func (n Node) Pos() source.Pos { return n.Value.Pos() }

// Has reports whether there is a value other than null.
func (n Node) Has() bool {
	k := n.Value.Kind()
	return k != yamldoc.Missing && k != yamldoc.Null
}

// Field returns the value of a key, absent if there is none.
func (n Node) Field(key string) Node {
	return Node{Value: n.Value.Get(key), r: n.r, name: key}
}

// At walks a chain of keys.
func (n Node) At(keys ...string) Node {
	for _, k := range keys {
		n = n.Field(k)
	}
	return n
}

// is reports whether n has the wanted shape, and an error when it has another.
func (n Node) is(want yamldoc.Kind) bool {
	if !n.Has() {
		return false
	}
	if n.Value.Kind() == want {
		return true
	}
	n.Errorf("wrong-type", "%s must be %s, not %s", n.name, want, n.Value.Kind())
	return false
}

// Known reports an error for every key of the map n that is not among the
// known ones, and one when n is not a map. It reports whether n is a map.
func (n Node) Known(known ...string) bool {
	if !n.is(yamldoc.Map) {
		return false
	}
	for k := range n.Value.Entries() {
		key, _ := k.Text()
		if slices.Contains(known, key) {
			continue
		}
		d := n.Of(k).Errorf("unknown-field", "%s has no field %q", n.name, key)
		if near := source.Nearest(key, known); near != "" {
			d.WithFix("did you mean %q?", near)
		} else {
			d.WithFix("the fields are %s", strings.Join(known, ", "))
		}
	}
	return true
}

// Map reports whether n is a map, and an error when it is something else.
func (n Node) Map() bool { return n.is(yamldoc.Map) }

// Items yields the items of the list n; of anything else it reports an error.
func (n Node) Items() iter.Seq2[int, Node] {
	return func(yield func(int, Node) bool) {
		if !n.is(yamldoc.List) {
			return
		}
		for i, v := range n.Value.Items() {
			if !yield(i, Node{Value: v, r: n.r, name: "an item of " + n.name}) {
				return
			}
		}
	}
}

// Len returns the number of items or entries of n.
func (n Node) Len() int { return n.Value.Len() }

// Text returns the string n; ok is false when it is absent or no string,
// which is reported.
func (n Node) Text() (text string, ok bool) {
	if !n.is(yamldoc.Scalar) {
		return "", false
	}
	text, _ = n.Value.Text()
	if !n.Value.IsString() {
		n.Errorf("wrong-type", "%s must be a string, and %s is not one", n.name, text).WithFix("quote it: %q", text)
		return text, false
	}
	return text, true
}

// Int returns the whole number n, which must be in [lo, hi].
func (n Node) Int(lo, hi int64) (value int64, ok bool) {
	if !n.is(yamldoc.Scalar) {
		return 0, false
	}
	text, _ := n.Value.Text()
	value, ok = n.Value.Int()
	if !ok {
		n.Errorf("wrong-type", "%s must be a whole number, and %q is not one", n.name, text)
		return 0, false
	}
	if value < lo || value > hi {
		n.Errorf("out-of-range", "%s is %d, outside of %d to %d", n.name, value, lo, hi)
		return 0, false
	}
	return value, true
}

// Bool returns the boolean n.
func (n Node) Bool() (value, ok bool) {
	if !n.is(yamldoc.Scalar) {
		return false, false
	}
	value, ok = n.Value.Bool()
	if !ok {
		text, _ := n.Value.Text()
		d := n.Errorf("wrong-type", "%s must be true or false, not %q", n.name, text)
		switch strings.ToLower(text) {
		case "yes", "on", "true":
			d.WithFix("write true")
		case "no", "off", "false":
			d.WithFix("write false")
		}
	}
	return value, ok
}

// OneOf returns the string n, which must be one of the known words.
func (n Node) OneOf(known ...string) (word string, ok bool) {
	word, ok = n.Text()
	if !ok || slices.Contains(known, word) {
		return word, ok
	}
	d := n.Errorf("unknown-value", "%s cannot be %q", n.name, word)
	if near := source.Nearest(word, known); near != "" {
		d.WithFix("did you mean %q?", near)
	} else {
		d.WithFix("write one of %s", strings.Join(known, ", "))
	}
	return word, false
}

// Strings returns the list of strings n.
func (n Node) Strings() []string {
	var out []string
	for _, item := range n.Items() {
		if t, ok := item.Text(); ok {
			out = append(out, t)
		}
	}
	return out
}

// StringMap returns the map of strings n.
func (n Node) StringMap() map[string]string {
	if !n.is(yamldoc.Map) {
		return nil
	}
	out := make(map[string]string, n.Len())
	for k, v := range n.Value.Entries() {
		key, _ := k.Text()
		val := Node{Value: v, r: n.r, name: n.name + "." + key}
		if !val.Has() {
			out[key] = ""
			continue
		}
		if t, ok := val.Text(); ok {
			out[key] = t
		}
	}
	return out
}
