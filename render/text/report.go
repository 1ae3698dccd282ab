package text

import (
	"fmt"
	"io"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/render"
)

// Of the findings of one rule and severity the first is shown in full, with its
// witness and fix, and so is every critical one; the next take a line or two,
// and after foldAfter only their subjects are listed.
const foldAfter = 8

// Report prints findings, the worst first and those of one rule together, and
// a summary at the end, where a terminal leaves it in view.
func Report(w io.Writer, r *render.Report, line Line, o Options) error {
	p := &printer{w: w, o: o}
	for i := range r.Diagnostics {
		p.diagnostic(&r.Diagnostics[i], line)
	}
	if len(r.Diagnostics) > 0 {
		p.printf("\n")
	}
	for _, g := range groups(r.Findings) {
		p.group(g)
	}
	p.summary(r)
	return p.err
}

// groups cuts findings, which are sorted, where the severity or rule changes.
func groups(fs []finding.Finding) [][]finding.Finding {
	var out [][]finding.Finding
	for i := range fs {
		if i == 0 || fs[i].Rule != fs[i-1].Rule || fs[i].Severity != fs[i-1].Severity {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], fs[i])
	}
	return out
}

var symbols = [...]string{"·", "○", "●", "▲", "✖"}

func (p *printer) severity(s finding.Severity) string {
	return p.paint([...]style{dim, blue, yellow, red, red}[s], symbols[s]+" "+s.String())
}

func (p *printer) group(g []finding.Finding) {
	p.printf("%s  %s", p.severity(g[0].Severity), p.paint(bold, g[0].Rule))
	if len(g) > 1 {
		p.printf("  %s", p.paint(dim, fmt.Sprintf("%d findings", len(g))))
	}
	p.printf("\n")
	shown := g
	if !p.o.All && len(g) > foldAfter+1 {
		shown = g[:foldAfter]
	}
	for i := range shown {
		p.finding(&shown[i], i > 0 && !p.o.All && shown[i].Severity < finding.Critical)
	}
	if rest := g[len(shown):]; len(rest) > 0 {
		subjects := make([]string, len(rest))
		for i := range rest {
			subjects[i] = rest[i].Subject
		}
		p.wrapped("  ", fmt.Sprintf("… and %d more of this rule: %s", len(rest), listing(subjects, 6)))
	}
	if len(g) > 1 && !p.o.All && g[0].Severity < finding.Critical {
		p.printf("  %s\n", p.paint(dim, "--all shows each with its witness"))
	}
	p.printf("\n")
}

// finding prints one, in brief only what it is and where.
func (p *printer) finding(f *finding.Finding, brief bool) {
	p.hanging("  ", "    ", f.Title)
	place := f.Subject
	if f.Pos.IsValid() {
		place += "  " + f.Pos.Short()
	}
	p.printf("    %s\n", p.paint(dim, place+"  "+f.ID))
	if brief {
		return
	}
	if f.Detail != "" {
		p.wrapped("    ", f.Detail)
	}
	if f.Witness != nil {
		p.witness("    ", f.Witness)
	}
	for _, n := range f.Notes {
		p.hanging("    note: ", "      ", notePlace(n.Pos)+n.Text)
	}
	if f.Remedy != "" {
		p.hanging("    fix: ", "         ", f.Remedy)
	}
}

func notePlace(at source.Pos) string {
	if at.IsValid() {
		return at.Short() + ": "
	}
	return ""
}

// witness prints a connection and the path it takes, one step a line.
func (p *printer) witness(indent string, w *finding.Witness) {
	p.printf("%s%s → %s, %s: %s\n", indent, w.From, w.To, w.Traffic, p.verdict(w.Verdict))
	for i, h := range w.Hops {
		first := fmt.Sprintf("%s  %d %s ", indent, i+1, mark(h.Verdict))
		rest := strings.Repeat(" ", len([]rune(first)))
		text := h.At
		if h.Why != "" {
			text += ": " + h.Why
		}
		// Only the symbol is painted, after the width was counted.
		first = strings.Replace(first, mark(h.Verdict), p.mark(h.Verdict), 1)
		p.hanging(first, rest, text)
		var cites []string
		for _, r := range h.Rules {
			if r.Pos.IsValid() {
				cites = append(cites, r.Pos.Short())
			}
		}
		if len(cites) > 0 {
			p.printf("%s%s\n", rest, p.paint(dim, "at "+listing(cites, 4)))
		}
	}
}

func (p *printer) summary(r *render.Report) {
	p.facts(r.Facts)
	p.coverage(r.Coverage)
	for _, a := range r.Assumptions {
		p.hanging("assumed: ", "         ", a.Says)
	}
	counts := r.Counts()
	var parts []string
	for s := finding.Critical; ; s-- {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], p.severity(s)))
		}
		if s == finding.Info {
			break
		}
	}
	if len(parts) == 0 {
		if !r.Diagnostics.HasErrors() {
			p.printf("%s\n", p.paint(green, "✓ no findings"))
		}
		return
	}
	p.printf("%s\n", strings.Join(parts, "  "))
}

// coverage says how much was understood, in two lines unless all is wanted.
func (p *printer) coverage(c *network.Coverage) {
	if c == nil {
		return
	}
	p.printf("read %s, understood %d", plural(c.Objects, "object", "objects"), c.Understood)
	if len(c.Ignored) == 0 {
		p.printf("\n")
		return
	}
	p.printf("; not read:\n")
	gaps := render.Gaps(c)
	for i, g := range gaps {
		if i == foldAfter && !p.o.All && len(gaps) > foldAfter+1 {
			p.printf("  … and %d more reasons (--all shows them)\n", len(gaps)-i)
			break
		}
		lowers := ""
		if g.Matters {
			lowers = "; this can change verdicts"
		}
		p.hanging("  ", "    ", fmt.Sprintf("%s: %s%s", p.members(g), g.Why, lowers))
	}
}

func (p *printer) members(g render.Gap) string {
	n := 2
	if p.o.All {
		n = len(g.Members)
	}
	names := make([]string, 0, len(g.Members))
	for _, m := range g.Members {
		name := strings.TrimSpace(m.Kind + " " + m.Name)
		if m.Pos.IsValid() {
			name = strings.TrimSpace(name + " (" + m.Pos.Short() + ")")
		}
		names = append(names, name)
	}
	return listing(names, n)
}
