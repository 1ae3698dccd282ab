package policyfile

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// checker compares documents with the language. It also knows what the files
// before declared, so that names are unique across all of them.
type checker struct {
	ds bounded
	// names holds, by section, where each name is declared.
	names map[string]map[string]source.Pos
	// settings holds what is given once for the whole policy.
	settings map[string]yamldoc.Value
}

func newChecker() *checker {
	return &checker{names: map[string]map[string]source.Pos{}, settings: map[string]yamldoc.Value{}}
}

// A spot is what a message calls the value that it is about. It is a chain so
// that the text is only made when there is a message.
type spot struct {
	outer *spot
	text  string
}

func (s *spot) in(text string) *spot { return &spot{outer: s, text: text} }

func (s *spot) String() string {
	if s.outer == nil || s.outer.outer == nil {
		return s.text
	}
	return s.outer.String() + ", " + s.text
}

// value checks v against a shape.
func (c *checker) value(at *spot, v yamldoc.Value, s *shape) {
	kind := v.Kind()
	switch {
	case kind == yamldoc.Null:
		c.ds.errorf(ruleEmpty, v.Pos(), "remove it, or give "+s.wants(), "%s has no value", at)
	case kind == yamldoc.Scalar && s.scalar != nil:
		c.scalar(at, v, s.scalar)
	case kind == yamldoc.List && s.list != nil:
		c.list(at, v, s)
	case kind == yamldoc.Map && s.record != nil:
		c.record(at, v, s)
	case kind == yamldoc.Map && s.named != nil:
		c.named(at, v, s)
	default:
		c.ds.errorf(ruleType, v.Pos(), "write "+s.wants(), "%s is %s", at, described(v))
	}
}

func described(v yamldoc.Value) string {
	text, ok := v.Text()
	switch {
	case !ok:
		return v.Kind().String()
	case v.IsString():
		return "the text " + quoted(text)
	}
	switch v.Node().Tag {
	case "!!int", "!!float":
		return "the number " + unquoted(text)
	case "!!bool":
		return "the boolean " + text
	}
	return "the value " + quoted(text)
}

func (c *checker) scalar(at *spot, v yamldoc.Value, s *syntax) {
	text, _ := v.Text()
	if fix, ok := s.accepts(v); !ok {
		c.ds.errorf(ruleType, v.Pos(), fix, "%s is %s, not %s", at, described(v), s.wants)
		return
	}
	if s.check == nil {
		return
	}
	if f := s.check(text); f != nil {
		c.ds.errorf(f.rule, v.Pos(), f.fix, "%s: %s", at, f.says)
	}
}

// accepts reports whether the kind of a scalar is the one that is meant, or
// else how to write it.
func (s *syntax) accepts(v yamldoc.Value) (fix string, ok bool) {
	text, _ := v.Text()
	tag := v.Node().Tag
	isText := tag == "!!str" || tag == "!!timestamp" && v.Node().Style == 0
	isNumber := tag == "!!int" || tag == "!!float"
	switch s.kind {
	case textual:
		return "put it in quotes: " + strconv.Quote(text), isText
	case number:
		return "write it as a number, without quotes", isNumber
	case truth:
		_, isBool := v.Bool()
		return "write true or false, without quotes", isBool && (text == "true" || text == "false")
	case numberOrText:
		quotedNumber := isText && v.Node().Style != 0 && !strings.Contains(text, "-")
		return "write it as a number, without quotes", (isText || isNumber) && !quotedNumber
	}
	return "", true
}

func (c *checker) list(at *spot, v yamldoc.Value, s *shape) {
	if v.Len() == 0 && !s.mayBeEmpty {
		c.ds.errorf(ruleEmpty, v.Pos(), "remove it, or give "+s.wants(), "%s is an empty list", at)
	}
	for i, item := range v.Items() {
		if c.ds.full() {
			c.ds.count++
			return
		}
		spot := at
		if s.list.noun != "" {
			spot = at.in(fmt.Sprintf("%s %d", s.list.noun, i+1))
			if at.outer != nil && at.outer.outer == nil {
				spot.outer = at.outer // "flow 3", not "flows, flow 3"
			}
		}
		c.value(spot, item, s.list)
	}
}

func (c *checker) record(at *spot, v yamldoc.Value, s *shape) {
	seen := map[string]yamldoc.Value{}
	for k, val := range v.Entries() {
		if c.ds.full() {
			c.ds.count++
			return
		}
		text, _ := k.Text()
		known := s.record.key(text)
		if known == nil {
			c.unknownKey(at, k, s.record)
			continue
		}
		if first, ok := seen[text]; ok {
			c.ds.errorf(ruleDupKey, k.Pos(), "keep one of them", "%s: key %s is given twice", at, text).
				WithNote(first.Pos(), "first given here")
			continue
		}
		seen[text] = k
		if at.outer == nil {
			c.setting(k, val, known)
		}
		c.value(at.in(text), val, known.shape)
	}
	for _, k := range s.record.keys {
		if _, ok := seen[k.name]; k.required && !ok {
			c.ds.errorf(ruleMissing, v.Pos(), "add "+k.name+": "+k.shape.wants(), "%s: %s is missing", at, k.name)
		}
	}
	for i, name := range s.record.oneOf {
		if _, ok := seen[name]; ok {
			break
		}
		if i == len(s.record.oneOf)-1 {
			names := strings.Join(s.record.oneOf, " or ")
			c.ds.errorf(ruleMissing, v.Pos(), "add "+names, "%s: neither %s is given", at,
				strings.Join(s.record.oneOf, " nor "))
		}
	}
}

func (c *checker) unknownKey(at *spot, k yamldoc.Value, r *record) {
	text, _ := k.Text()
	fix := "the keys are " + strings.Join(r.names(), ", ")
	if near := source.Nearest(strings.ToLower(text), r.names()); near != "" {
		fix = "write " + near + "? " + strings.ToUpper(fix[:1]) + fix[1:]
	}
	c.ds.errorf(ruleUnknownKey, k.Pos(), fix, "%s: there is no key %s", at, quoted(text))
}

// setting remembers what is given for the policy as a whole and refuses a
// second value in another file.
func (c *checker) setting(k, val yamldoc.Value, known *key) {
	if known.shape.scalar == nil || known.name == "version" {
		return // sections merge; the version is that of the file
	}
	first, ok := c.settings[known.name]
	if !ok {
		c.settings[known.name] = val
		return
	}
	a, aok := first.Text()
	b, bok := val.Text()
	var d *source.Diagnostic
	switch {
	case aok && bok && a == b:
		return
	case aok && bok:
		d = c.ds.errorf(ruleConflict, k.Pos(), "keep one of them", "%s is %s here and %s in another file", known.name,
			quoted(b), quoted(a))
	default:
		d = c.ds.errorf(ruleConflict, k.Pos(), "keep one of them", "%s is given in two files", known.name)
	}
	d.WithNote(first.Pos(), "first given here")
}

func (c *checker) named(at *spot, v yamldoc.Value, s *shape) {
	if v.Len() == 0 && !s.mayBeEmpty {
		c.ds.errorf(ruleEmpty, v.Pos(), "remove it, or give "+s.wants(), "%s is an empty map", at)
	}
	seen := map[string]source.Pos{}
	if at.outer != nil && at.outer.outer == nil { // a section of the policy
		if c.names[at.text] == nil {
			c.names[at.text] = seen
		}
		seen = c.names[at.text]
	}
	noun := s.named.item.noun
	for k, val := range v.Entries() {
		if c.ds.full() {
			c.ds.count++
			return
		}
		text, ok := k.Text()
		if !ok {
			text = k.Node().Value
		}
		where := at.in(strings.TrimSpace(noun + " " + unquoted(text)))
		if at.outer != nil && at.outer.outer == nil {
			where.outer = at.outer
		}
		if f := s.named.name.check(text); f != nil {
			c.ds.errorf(f.rule, k.Pos(), f.fix, "%s: %s", where, f.says)
		}
		if first, ok := seen[text]; ok {
			c.ds.errorf(ruleDupName, k.Pos(), "rename or remove one of them", "%s is declared twice", where).
				WithNote(first, "first declared here")
			continue
		}
		seen[text] = k.Pos()
		c.value(where, val, s.named.item)
	}
}

// isFlow reports whether a collection is written in braces or brackets.
func isFlow(n *yaml.Node) bool { return n.Style&yaml.FlowStyle != 0 }
