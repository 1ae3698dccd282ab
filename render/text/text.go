// Package text prints answers for a person at a terminal.
//
// Colour only repeats what a word or a symbol already says. Where something is
// folded or cut, the text says how many were left out and how to see them.
package text

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"bulkhead/core/finding"
	"bulkhead/render"
)

// Options fit the text to where it is shown. The zero value is for a file.
type Options struct {
	Colour bool
	// Width is the number of columns, 0 for no limit.
	Width int
	// All shows what would be folded.
	All bool
}

// printer writes with the first error kept.
type printer struct {
	w   io.Writer
	o   Options
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, clean(fmt.Sprintf(format, args...), p.o.Colour))
	}
}

// Clean returns text without the control characters by which a name in an
// input could take over the terminal.
func Clean(text string) string { return clean(text, false) }

// clean keeps line breaks, tabs and, if it may, the colours of paint: a name
// that imitates those changes nothing but colours.
func clean(text string, colours bool) string {
	if !strings.ContainsFunc(text, isControl) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		if m := colour.FindString(text); colours && m != "" {
			b.WriteString(m)
			text = text[len(m):]
			continue
		}
		r, n := utf8.DecodeRuneInString(text)
		if isControl(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
		text = text[n:]
	}
	return b.String()
}

var colour = regexp.MustCompile(`^\x1b\[[0-9]{1,2}m`)

func isControl(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0
}

type style string

// The styles are SGR parameters of ECMA-48.
const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	blue   style = "34"
)

func (p *printer) paint(s style, text string) string {
	if !p.o.Colour || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

func (p *printer) verdict(v finding.Verdict) string {
	switch v {
	case finding.Allowed:
		return p.paint(green, "allow")
	case finding.Unknown:
		return p.paint(yellow, "unknown")
	}
	return p.paint(red, "deny")
}

func mark(v finding.Verdict) string {
	return [...]string{"✗", "?", "✓"}[v]
}

func (p *printer) mark(v finding.Verdict) string {
	return p.paint([...]style{red, yellow, green}[v], mark(v))
}

// wrapped prints text between an indent and the width. Further lines are
// indented like the first.
func (p *printer) wrapped(indent, text string) {
	p.hanging(indent, indent, text)
}

// hanging is wrapped with another indent for further lines.
func (p *printer) hanging(first, rest, text string) {
	for i, line := range wrap(text, p.o.Width-utf8.RuneCountInString(rest)) {
		if i > 0 {
			first = rest
		}
		p.printf("%s%s\n", first, line)
	}
}

// wrap breaks text at spaces into lines of at most width columns; a word that
// is longer stands alone. Widths below 20 do not wrap.
func wrap(text string, width int) []string {
	if width < 20 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	var line strings.Builder
	at := 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		if at > 0 && at+1+n > width {
			lines = append(lines, line.String())
			line.Reset()
			at = 0
		}
		if at > 0 {
			line.WriteByte(' ')
			at++
		}
		line.WriteString(word)
		at += n
	}
	return append(lines, line.String())
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// listing joins names and cuts after n of them.
func listing(names []string, n int) string {
	if len(names) > n {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
	}
	return strings.Join(names, ", ")
}

// facts prints a summary in as few lines as fit.
func (p *printer) facts(fs []render.Fact) {
	var says []string
	for _, f := range fs {
		if f.Says != "" {
			says = append(says, f.Says)
		}
	}
	if len(says) > 0 {
		p.wrapped("", strings.Join(says, " · "))
	}
}

// Cleaned returns a writer that passes text on without the control characters
// by which a program could take over the terminal.
func Cleaned(w io.Writer) io.Writer { return cleaned{w} }

type cleaned struct{ w io.Writer }

func (c cleaned) Write(b []byte) (int, error) {
	if _, err := io.WriteString(c.w, clean(string(b), false)); err != nil {
		return 0, err
	}
	return len(b), nil
}
