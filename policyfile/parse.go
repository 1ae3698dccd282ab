package policyfile

import (
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// File is one text of a policy, by the name that positions show.
type File struct {
	Name string
	Text []byte
}

// Parse reads the files of a policy and merges them by name, in their order.
// A name that is declared twice and a setting that is given twice with
// different values are errors that show both places.
//
// To the destinations of the files it appends those of the [Catalogue] that
// the files do not declare: an entry of the user replaces the built-in one of
// the same name as a whole. An endpoint to one of the [Services] that names no
// hosts gets those of the service, and so it is with ports and protocol.
//
// When any diagnostic is an error the policy is nil.
func Parse(files []File) (*policy.Policy, source.Diagnostics) {
	p, c := readDeclared(files)
	fillEndpoints(p, &c.ds)
	ds := c.ds.done()
	if ds.HasErrors() {
		return nil, ds
	}
	addCatalogue(p)
	return p, ds
}

// Salvage returns what can be read of files that [Parse] has errors for, so
// that the rest can be checked for further ones. It must never decide.
func Salvage(files []File) *policy.Policy {
	p, c := readDeclared(files)
	fillEndpoints(p, &c.ds)
	addCatalogue(p)
	return p
}

func addCatalogue(p *policy.Policy) {
	declared := make(map[string]bool, len(p.Destinations))
	for _, d := range p.Destinations {
		declared[d.Name.Value] = true
	}
	for _, d := range Catalogue() {
		if !declared[d.Name.Value] {
			p.Destinations = append(p.Destinations, d)
		}
	}
}

// parseDeclared is Parse without what is built in.
func parseDeclared(files []File) (*policy.Policy, source.Diagnostics) {
	p, c := readDeclared(files)
	ds := c.ds.done()
	if ds.HasErrors() {
		return nil, ds
	}
	return p, ds
}

// readDeclared reads what can be read. The checker has what is wrong with it.
func readDeclared(files []File) (*policy.Policy, *checker) {
	c := newChecker()
	if len(files) == 0 {
		c.ds.errorf(ruleNoPolicy, source.Pos{}, "write a policy, or let `bulkhead init` draft one",
			"there is no policy: no file was given")
	}
	p := &policy.Policy{}
	for _, f := range files {
		root, _ := c.file(f)
		readPolicy(p, root)
	}
	return p, c
}

// file checks one file and returns its document, as far as there is one. It
// reports whether the document has the shape of a policy; what is read of one
// that does not is only salvage.
func (c *checker) file(f File) (yamldoc.Value, bool) {
	return c.document(f, language, "the policy")
}

// document checks one file against a shape; what is what messages call it.
func (c *checker) document(f File, s *shape, what string) (yamldoc.Value, bool) {
	before := c.ds.count
	limits := yamldoc.PolicyLimits
	limits.RepeatedKeys = true // reported here, with both places
	if len(f.Text) <= limits.Bytes {
		if hidden(f.Name, f.Text, &c.ds); c.ds.count > before {
			return yamldoc.Value{}, false
		}
	}
	var root yamldoc.Value
	for v, d := range yamldoc.Documents(f.Name, f.Text, limits) {
		if d != nil {
			c.ds.add(*d)
			return yamldoc.Value{}, false
		}
		if root.Kind() != yamldoc.Missing {
			c.ds.errorf(ruleDocuments, v.Pos(), "put it into a file of its own",
				"a second document begins here, where a policy file holds one")
			return yamldoc.Value{}, false
		}
		root = v
	}
	if k := root.Kind(); k == yamldoc.Missing || k == yamldoc.Null {
		c.ds.errorf(ruleNoPolicy, source.Pos{File: f.Name, Line: 1, Col: 1},
			"write `version: 1` and what is permitted", "the file holds no policy")
		return yamldoc.Value{}, false
	}
	c.value(&spot{text: what}, root, s)
	return root, c.ds.count == before
}

// bounded collects diagnostics up to a number that a person may read, so that
// hostile text cannot make a report that is larger than itself.
type bounded struct {
	list  source.Diagnostics
	count int
}

const maxDiagnostics = 100

func (b *bounded) full() bool { return b.count >= maxDiagnostics }

func (b *bounded) add(d source.Diagnostic) *source.Diagnostic {
	if b.count++; b.count > maxDiagnostics {
		return &source.Diagnostic{} // nobody sees what is added to it
	}
	d.Message, d.Fix = shown(d.Message), shown(d.Fix)
	b.list = append(b.list, d)
	return &b.list[len(b.list)-1]
}

func (b *bounded) errorf(rule string, pos source.Pos, fix, format string, args ...any) *source.Diagnostic {
	if b.full() {
		b.count++
		return &source.Diagnostic{}
	}
	f := wrong(rule, fix, format, args...)
	return b.add(source.Diagnostic{Rule: rule, Pos: pos, Message: f.says, Fix: fix})
}

// done sorts the diagnostics and says when some were left out.
func (b *bounded) done() source.Diagnostics {
	b.list.Sort()
	if b.count > maxDiagnostics {
		b.list.Errorf(ruleTooMany, b.list[len(b.list)-1].Pos, "there are %d more errors", b.count-maxDiagnostics).
			WithFix("correct these first")
	}
	return b.list
}
