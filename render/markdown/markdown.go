// Package markdown prints answers as comments for a pull request, in the
// dialect of GitHub and GitLab.
//
// What it prints comes from configuration that strangers may have written: it
// escapes everything, so that no name can become markup or a mention.
package markdown

import (
	"fmt"
	"io"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/verify"
	"bulkhead/render"
)

// The numbers of rows after which a table is cut: a comment has at most 65536
// characters.
const (
	rowFold     = 60
	findingFold = 20
)

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// special are the characters that can begin markup inside a line.
const special = "\\`*_{}[]<>()#+!|~@&$"

// escape makes text stand for itself.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < ' ' || r == 0x7f:
			b.WriteByte(' ')
			continue
		case r == '@':
			// A backslash does not keep a mention from being one.
			b.WriteString("@\u200b")
			continue
		case strings.ContainsRune(special, r):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// code returns text as a code span, which shows it as it is.
func code(text string) string {
	if text == "" {
		return ""
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r == 0x7f:
			return ' '
		case r == '`':
			return '\''
		}
		return r
	}, text)
	// In a table a bar ends the cell even inside of code.
	return "`" + strings.ReplaceAll(text, "|", "\\|") + "`"
}

// Delta writes what changes between two versions.
func Delta(w io.Writer, d *render.Delta) error {
	p := &printer{w: w}
	p.printf("### bulkhead: %s\n\n", headline(d))
	p.printf("%s → %s\n\n", code(d.Before), code(d.After))
	if !d.IsEmpty() {
		p.summary(d)
		for _, f := range cut(d.Findings, findingFold) {
			p.finding(&f)
		}
		p.more(len(d.Findings) - findingFold)
		p.changes("Flows", "from", "to", d.Edges)
		p.changes("From outside", "through", "to", d.Exposures)
		p.changes("To outside", "from", "to", d.Egress)
		p.workloads(d)
		p.resolved(d.Resolved)
	}
	p.coverage(d.Coverage)
	return p.err
}

func headline(d *render.Delta) string {
	switch {
	case d.IsEmpty():
		return "nothing changes in who can reach whom"
	case len(d.Findings) > 0:
		return count(len(d.Findings), "new finding needs a look", "new findings need a look")
	case d.Wider() > 0:
		return fmt.Sprintf("%s more through", count(d.Wider(), "change lets", "changes let"))
	}
	return "the network gets tighter"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func cut[T any](s []T, n int) []T { return s[:min(n, len(s))] }

func (p *printer) more(n int) {
	if n > 0 {
		p.printf("… and %d more\n\n", n)
	}
}

func (p *printer) summary(d *render.Delta) {
	p.printf("| | appear | vanish | not decided |\n|---|---:|---:|---:|\n")
	for _, row := range []struct {
		name string
		cs   []verify.Change
	}{{"flows", d.Edges}, {"from outside", d.Exposures}, {"to outside", d.Egress}} {
		var added, removed, unsure int
		for i := range row.cs {
			c := &row.cs[i]
			if !c.Added.IsEmpty() {
				added++
			}
			if !c.Removed.IsEmpty() {
				removed++
			}
			if !c.Unsure.IsEmpty() {
				unsure++
			}
		}
		p.printf("| %s | %d | %d | %d |\n", row.name, added, removed, unsure)
	}
	p.printf("| workloads | %d | %d | |\n", len(d.AddedWorkloads), len(d.RemovedWorkloads))
	p.printf("| findings | %d | %d | |\n\n", len(d.Findings), len(d.Resolved))
}

func (p *printer) changes(title, from, to string, cs []verify.Change) {
	if len(cs) == 0 {
		return
	}
	p.open(fmt.Sprintf("%s: %s", title, count(len(cs), "change", "changes")))
	p.printf("| | %s | %s | traffic |\n|---|---|---|---|\n", from, to)
	for i := range cut(cs, rowFold) {
		c := &cs[i]
		for _, row := range []struct{ sign, traffic string }{{"➕", c.Added.String()}, {"➖", c.Removed.String()}, {"❔", c.Unsure.String()}} {
			if row.traffic != "" {
				p.printf("| %s | %s | %s | %s |\n", row.sign, code(c.From), code(c.To), code(row.traffic))
			}
		}
	}
	p.printf("\n")
	p.more(len(cs) - rowFold)
	p.close()
}

func (p *printer) open(summary string) {
	p.printf("<details><summary>%s</summary>\n\n", html(summary))
}

func (p *printer) close() { p.printf("</details>\n\n") }

func (p *printer) workloads(d *render.Delta) {
	if len(d.AddedWorkloads)+len(d.RemovedWorkloads) == 0 {
		return
	}
	p.open("Workloads")
	for _, n := range cut(d.AddedWorkloads, rowFold) {
		p.printf("- ➕ %s\n", code(n))
	}
	for _, n := range cut(d.RemovedWorkloads, rowFold) {
		p.printf("- ➖ %s\n", code(n))
	}
	p.printf("\n")
	p.more(len(d.AddedWorkloads) - rowFold + max(0, len(d.RemovedWorkloads)-rowFold))
	p.close()
}

func (p *printer) resolved(fs []finding.Finding) {
	if len(fs) == 0 {
		return
	}
	p.open(count(len(fs), "finding resolved", "findings resolved"))
	for i := range cut(fs, rowFold) {
		p.printf("- %s %s\n", escape(fs[i].Title), code(fs[i].ID))
	}
	p.printf("\n")
	p.more(len(fs) - rowFold)
	p.close()
}

// Report writes findings, with a table in front of the details.
func Report(w io.Writer, r *render.Report) error {
	p := &printer{w: w}
	p.printf("### bulkhead %s: %s\n\n", escape(r.Verb), count(len(r.Findings), "finding", "findings"))
	for i := range r.Diagnostics {
		p.printf("- %s\n", escape(r.Diagnostics[i].String()))
	}
	if len(r.Diagnostics) > 0 {
		p.printf("\n")
	}
	if len(r.Findings) > 0 {
		p.printf("| severity | rule | subject |\n|---|---|---|\n")
		for i := range cut(r.Findings, rowFold) {
			f := &r.Findings[i]
			p.printf("| %s | %s | %s |\n", f.Severity, code(f.Rule), code(f.Subject))
		}
		p.printf("\n")
		p.more(len(r.Findings) - rowFold)
	}
	for _, f := range cut(r.Findings, findingFold) {
		p.finding(&f)
	}
	p.more(len(r.Findings) - findingFold)
	var facts []string
	for _, f := range r.Facts {
		if f.Says != "" {
			facts = append(facts, escape(f.Says))
		}
	}
	if len(facts) > 0 {
		p.printf("%s\n\n", strings.Join(facts, " · "))
	}
	p.coverage(r.Coverage)
	return p.err
}

func (p *printer) finding(f *finding.Finding) {
	p.printf("<details><summary><b>%s</b> %s</summary>\n\n", f.Severity, html(f.Title))
	if f.Detail != "" {
		p.printf("%s\n\n", escape(f.Detail))
	}
	if f.Pos.IsValid() {
		p.printf("%s, at %s\n\n", code(f.Subject), code(f.Pos.Short()))
	}
	if w := f.Witness; w != nil {
		p.printf("%s → %s, %s: **%s**\n\n", code(w.From), code(w.To), code(w.Traffic), w.Verdict)
		for i, h := range w.Hops {
			p.printf("%d. **%s** %s: %s", i+1, h.Verdict, escape(h.At), escape(h.Why))
			for _, r := range h.Rules {
				if r.Pos.IsValid() {
					p.printf(" %s", code(r.Pos.Short()))
				}
			}
			p.printf("\n")
		}
		p.printf("\n")
	}
	if f.Remedy != "" {
		p.printf("**Fix:** %s\n\n", escape(f.Remedy))
	}
	p.printf("%s\n\n", code(f.ID))
	p.close()
}

// html escapes text inside of a tag's content, where markdown is not read.
func html(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "[", "&#91;", "`", "&#96;", "@", "@\u200b", "\n", " ").Replace(text)
}

func (p *printer) coverage(c *network.Coverage) {
	if c == nil {
		return
	}
	p.printf("<sub>read %s, understood %d", count(c.Objects, "object", "objects"), c.Understood)
	if render.Lowered(c) {
		p.printf("; something that was not understood can change verdicts")
	}
	p.printf("</sub>\n")
	gaps := render.Gaps(c)
	if len(gaps) == 0 {
		return
	}
	p.printf("\n")
	p.open("Not read")
	for _, g := range cut(gaps, rowFold) {
		p.printf("- %s × %d: %s\n", code(g.Members[0].Kind), len(g.Members), escape(g.Why))
	}
	p.printf("\n")
	p.close()
}
