package text

import (
	"io"
	"strings"

	"bulkhead/core/source"
)

// Line returns a line of an input, counted from 1, and whether it is at hand.
type Line func(file string, line int) (string, bool)

// Diagnostics prints what is wrong with an input, each with the line in
// question and how to put it right. Errors come alone: warnings can wait until
// they are gone. Warnings of one rule are cut after a few.
func Diagnostics(w io.Writer, ds source.Diagnostics, line Line, o Options) error {
	p := &printer{w: w, o: o}
	errors := ds.HasErrors()
	hidden := 0
	shown := map[string]int{}
	for i := range ds {
		d := &ds[i]
		if d.Severity == source.Warning {
			shown[d.Rule]++
			if errors || !o.All && shown[d.Rule] > foldAfter {
				hidden++
				continue
			}
		}
		p.diagnostic(d, line)
	}
	switch {
	case hidden > 0 && errors:
		p.printf("and %s, shown once the errors are gone\n", plural(hidden, "warning", "warnings"))
	case hidden > 0:
		p.printf("and %s of the same kinds (--all shows them)\n", plural(hidden, "more warning", "more warnings"))
	}
	return p.err
}

func (p *printer) diagnostic(d *source.Diagnostic, line Line) {
	if d.Pos.IsValid() {
		p.printf("%s ", p.paint(bold, d.Pos.String()+":"))
	}
	colour := red
	if d.Severity == source.Warning {
		colour = yellow
	}
	p.printf("%s %s", p.paint(colour, d.Severity.String()+":"), d.Message)
	if d.Rule != "" {
		p.printf(" %s", p.paint(dim, "["+d.Rule+"]"))
	}
	p.printf("\n")
	p.snippet(d.Pos, line)
	for _, n := range d.Notes {
		if n.Pos.IsValid() {
			p.printf("    note: %s: %s\n", n.Pos, n.Text)
		} else {
			p.printf("    note: %s\n", n.Text)
		}
	}
	if d.Fix != "" {
		p.hanging("    fix: ", "         ", d.Fix)
	}
}

// maxSnippet is the longest line that is worth showing: machine-made input may
// be one line of megabytes.
const maxSnippet = 160

func (p *printer) snippet(at source.Pos, line Line) {
	if line == nil || at.Line == 0 || at.Col == 0 {
		return
	}
	text, ok := line(at.File, at.Line)
	if !ok || strings.TrimSpace(text) == "" {
		return
	}
	runes := []rune(strings.TrimRight(text, "\r\n"))
	col := min(at.Col-1, len(runes))
	from := 0
	if len(runes) > maxSnippet {
		from = max(0, col-maxSnippet/2)
		runes = runes[from:min(len(runes), from+maxSnippet)]
		col -= from
	}
	// The line under it keeps tabs, so that the caret stands under its column
	// whatever their width.
	var under strings.Builder
	for _, r := range runes[:col] {
		if r == '\t' {
			under.WriteByte('\t')
		} else {
			under.WriteByte(' ')
		}
	}
	under.WriteByte('^')
	for i := col + 1; i < len(runes) && wordRune(runes[i]) && col < len(runes) && wordRune(runes[col]); i++ {
		under.WriteByte('~')
	}
	p.printf("    %s\n    %s\n", p.paint(dim, string(runes)), p.paint(red, under.String()))
}

func wordRune(r rune) bool {
	return r != ' ' && r != '\t' && !strings.ContainsRune(":,{}[]\"'#", r)
}
