package policyfile

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// Draft is a policy to be written for a person to go on with: each entry can
// carry a comment that says how it was guessed.
type Draft struct {
	Policy *policy.Policy
	// Header is the comment on top. It may have several lines, as all comments
	// may; none of them begins with a `#`.
	Header string
	// Comments stand above the entries they are for.
	Comments map[Entry]string
}

// Entry names a section of a policy, an entry of it by name, or an item of it
// by number. Make one with [SectionEntry], [NamedEntry] or [NumberedEntry].
type Entry struct {
	section string
	name    string
	number  int // from 1; 0 is none
}

// SectionEntry names a section as a whole, such as "flows".
func SectionEntry(section string) Entry { return Entry{section: section} }

// NamedEntry names an entry of a section of names: zones, workloads,
// destinations, endpoints.
func NamedEntry(section, name string) Entry { return Entry{section: section, name: name} }

// NumberedEntry names an item of a section that is a list, by its index in the
// slice of the policy.
func NumberedEntry(section string, index int) Entry {
	return Entry{section: section, number: index + 1}
}

func (e Entry) String() string {
	switch {
	case e.name != "":
		return e.section + "." + e.name
	case e.number > 0:
		return fmt.Sprintf("%s[%d]", e.section, e.number-1)
	}
	return e.section
}

// Marshal writes a policy as formatted text that parses back to the same
// policy. It refuses a policy that no text can express, such as one with a
// malformed name, and a comment for an entry that is not there. Built-in
// destinations are not written.
func Marshal(d Draft) ([]byte, error) {
	t := encode(d.Policy)
	used := 0
	comment := func(p *part, e Entry) {
		if text, ok := d.Comments[e]; ok {
			p.head = commentLines(text)
			p.blank = true
			used++
		}
	}
	for _, section := range t.parts {
		comment(section, SectionEntry(section.key))
		for i, p := range section.value.parts {
			if p.key != "" {
				comment(p, NamedEntry(section.key, p.key))
			} else {
				comment(p, NumberedEntry(section.key, i))
			}
		}
	}
	if used < len(d.Comments) {
		return nil, fmt.Errorf("comments for entries that the policy does not have: %s", strings.Join(stray(d, t), ", "))
	}
	var header []string
	if d.Header != "" {
		header = commentLines(d.Header)
	}
	text := document(header, t, nil)
	if err := verifyText(text, d.Policy); err != nil {
		return nil, err
	}
	return text, nil
}

// stray returns the entries with comments that t does not have.
func stray(d Draft, t *tree) []string {
	have := map[Entry]bool{}
	for _, section := range t.parts {
		have[SectionEntry(section.key)] = true
		for i, p := range section.value.parts {
			have[NamedEntry(section.key, p.key)] = p.key != ""
			have[NumberedEntry(section.key, i)] = p.key == ""
		}
	}
	var names []string
	for e := range d.Comments {
		if !have[e] {
			names = append(names, e.String())
		}
	}
	slices.Sort(names)
	return names
}

// commentLines turns a text into comment lines, without what does not show.
func commentLines(text string) []string {
	var lines []string
	for l := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		l = strings.Map(func(r rune) rune {
			if isHidden(r) || r == unicode.ReplacementChar {
				return ' '
			}
			return r
		}, l)
		lines = append(lines, strings.TrimRight("# "+l, " "))
	}
	return lines
}

// verifyText reports where the text does not say what the policy does.
func verifyText(text []byte, want *policy.Policy) error {
	got, ds := parseDeclared([]File{{Name: "draft", Text: text}})
	if ds.HasErrors() {
		return fmt.Errorf("the policy cannot be written: %w", ds)
	}
	own := *want
	own.Destinations, own.Endpoints = ownDestinations(want), ownEndpoints(want)
	if at, same := equal(reflect.ValueOf(&own), reflect.ValueOf(got), "policy"); !same {
		return fmt.Errorf("the policy cannot be written: %s has no such form in the language", at)
	}
	return nil
}

// equal compares two values without their positions and reports where they
// first differ. An empty list is as good as none, and white space in texts
// is that of a text for people.
func equal(a, b reflect.Value, at string) (where string, same bool) {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return at, a.IsNil() == b.IsNil()
		}
		return equal(a.Elem(), b.Elem(), at)
	case reflect.Slice:
		if a.Len() != b.Len() {
			return at, false
		}
		for i := range a.Len() {
			if where, same := equal(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", at, i)); !same {
				return where, false
			}
		}
		return "", true
	case reflect.Struct:
		return equalFields(a, b, at)
	case reflect.String:
		return at, folded(a.String()) == folded(b.String())
	}
	return at, a.Equal(b)
}

func equalFields(a, b reflect.Value, at string) (where string, same bool) {
	switch x := a.Interface().(type) {
	case source.Pos:
		return "", true
	case time.Time:
		return at, x.Equal(b.Interface().(time.Time))
	}
	for i := range a.NumField() {
		if where, same := equal(a.Field(i), b.Field(i), at+"."+a.Type().Field(i).Name); !same {
			return where, false
		}
	}
	return "", true
}
