package policyfile

import (
	"slices"
	"strings"
)

// A shape says what a value of the language may be, for each form that YAML
// has: a scalar, a list, a map with keys that the language fixes, a map with
// names that the user chooses. A form that is nil is not accepted, so a short
// form beside a long one is simply a shape with both.
type shape struct {
	// noun is what one such value is called in messages: "flow".
	noun   string
	doc    string
	scalar *syntax
	list   *shape // of the items
	record *record
	named  *named
	// mayBeEmpty accepts an empty list or map. Elsewhere they are refused: an
	// empty `from` would read as nobody to one person and as anybody to another.
	mayBeEmpty bool
}

// A record is a map with fixed keys, in the order in which they are written.
type record struct {
	keys []key
	// oneOf names keys of which at least one must be there.
	oneOf []string
}

type key struct {
	name     string
	doc      string
	shape    *shape
	required bool
}

// A named map holds items by a name that the user chooses.
type named struct {
	name *syntax
	item *shape
}

func (r *record) key(name string) *key {
	for i := range r.keys {
		if r.keys[i].name == name {
			return &r.keys[i]
		}
	}
	return nil
}

func (r *record) names() []string {
	names := make([]string, len(r.keys))
	for i, k := range r.keys {
		names[i] = k.name
	}
	return names
}

// order returns the place of a key among the keys of r.
func (r *record) order(name string) int {
	return slices.IndexFunc(r.keys, func(k key) bool { return k.name == name })
}

// wants says in words what a value of the shape may be.
func (s *shape) wants() string {
	var forms []string
	if s.scalar != nil {
		forms = append(forms, s.scalar.wants)
	}
	if s.list != nil {
		if s.scalar != nil && s.list.scalar == s.scalar {
			forms = append(forms, "a list of them")
		} else {
			forms = append(forms, "a list of "+s.list.plural())
		}
	}
	if s.record != nil {
		forms = append(forms, "a map with the keys "+strings.Join(s.record.names(), ", "))
	}
	if s.named != nil {
		forms = append(forms, "a map from names to "+s.named.item.plural())
	}
	return strings.Join(forms, ", or ")
}

func (s *shape) plural() string {
	switch {
	case s.noun != "":
		return s.noun + "s"
	case s.scalar != nil && s.scalar.plural != "":
		return s.scalar.plural
	}
	return "values"
}

// The constructors below keep the table in language.go readable.

func one(s *syntax) *shape { return &shape{scalar: s} }

func oneOrMore(s *syntax) *shape { return &shape{scalar: s, list: one(s)} }

func fixed(keys ...key) *record { return &record{keys: keys} }

// shortOr is a record with a short form: only what the scalar says.
func shortOr(s *syntax, keys ...key) *shape { return &shape{scalar: s, record: fixed(keys...)} }

func optional(name, doc string, s *shape) key { return key{name: name, doc: doc, shape: s} }

func required(name, doc string, s *shape) key {
	return key{name: name, doc: doc, shape: s, required: true}
}

func section(name, doc, noun string, keys ...key) key {
	item := &shape{noun: noun, doc: doc, record: fixed(keys...)}
	return key{name: name, doc: doc, shape: &shape{list: item, mayBeEmpty: true}}
}

func namedSection(name, doc, noun string, names *syntax, keys ...key) key {
	item := &shape{noun: noun, doc: doc, record: fixed(keys...), mayBeEmpty: true}
	return key{name: name, doc: doc, shape: &shape{named: &named{name: names, item: item}, mayBeEmpty: true}}
}
