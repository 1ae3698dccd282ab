// Package source says where text came from: positions in files and the
// diagnostics that point at them.
//
// Everything that parses keeps a [Pos] for every value that can later decide
// a verdict, so that an answer can name the line that decided it. The package
// reads no files; a position is only a name.
package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a text. Line and Col count from 1; the zero Pos means
// that the place is not known.
type Pos struct {
	File string
	Line int
	Col  int
}

// IsValid reports whether p names a place at all.
func (p Pos) IsValid() bool { return p.File != "" || p.Line != 0 }

// String returns file:line:col, leaving out what is not known.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Short returns file:line, the form used where a rule is cited.
func (p Pos) Short() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Compare orders positions by file, line and column.
func (p Pos) Compare(q Pos) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Col, q.Col))
}

// Severity says how bad a diagnostic is.
type Severity uint8

const (
	// Error makes the input unusable.
	Error Severity = iota
	// Warning leaves it usable but probably not what was meant.
	Warning
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Note points at a second place that explains a diagnostic.
type Note struct {
	Pos  Pos
	Text string
}

// Diagnostic is one thing that is wrong with an input. Message names the
// object and the rule it breaks, Notes the other places involved, Fix what to
// write instead. Rule is a stable short name, e.g. "duplicate-name".
type Diagnostic struct {
	Severity Severity
	Rule     string
	Pos      Pos
	Message  string
	Notes    []Note
	Fix      string
}

// String returns the diagnostic on one line without its notes and fix.
func (d Diagnostic) String() string {
	var b strings.Builder
	if d.Pos.IsValid() {
		b.WriteString(d.Pos.String())
		b.WriteString(": ")
	}
	b.WriteString(d.Severity.String())
	b.WriteString(": ")
	b.WriteString(d.Message)
	if d.Rule != "" {
		fmt.Fprintf(&b, " [%s]", d.Rule)
	}
	return b.String()
}

// Diagnostics collects all that is wrong with an input, so that a user sees
// everything at once. It is an error when it holds at least one [Error].
type Diagnostics []Diagnostic

// Errorf appends an error.
func (ds *Diagnostics) Errorf(rule string, pos Pos, format string, args ...any) *Diagnostic {
	*ds = append(*ds, Diagnostic{Severity: Error, Rule: rule, Pos: pos, Message: fmt.Sprintf(format, args...)})
	return &(*ds)[len(*ds)-1]
}

// Warnf appends a warning.
func (ds *Diagnostics) Warnf(rule string, pos Pos, format string, args ...any) *Diagnostic {
	*ds = append(*ds, Diagnostic{Severity: Warning, Rule: rule, Pos: pos, Message: fmt.Sprintf(format, args...)})
	return &(*ds)[len(*ds)-1]
}

// WithNote adds a second place and returns d, for use right after Errorf.
func (d *Diagnostic) WithNote(pos Pos, format string, args ...any) *Diagnostic {
	d.Notes = append(d.Notes, Note{Pos: pos, Text: fmt.Sprintf(format, args...)})
	return d
}

// WithFix says what to write instead and returns d.
func (d *Diagnostic) WithFix(format string, args ...any) *Diagnostic {
	d.Fix = fmt.Sprintf(format, args...)
	return d
}

// HasErrors reports whether any diagnostic is an [Error].
func (ds Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Severity == Error })
}

// Err returns ds as an error when it holds one, otherwise nil.
func (ds Diagnostics) Err() error {
	if ds.HasErrors() {
		return ds
	}
	return nil
}

// Error joins the diagnostics, one a line.
func (ds Diagnostics) Error() string {
	lines := make([]string, len(ds))
	for i, d := range ds {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders by place, then message, and drops exact repeats.
func (ds *Diagnostics) Sort() {
	slices.SortStableFunc(*ds, func(a, b Diagnostic) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Message, b.Message))
	})
	*ds = slices.CompactFunc(*ds, func(a, b Diagnostic) bool {
		return a.Pos == b.Pos && a.Message == b.Message && a.Severity == b.Severity
	})
}
