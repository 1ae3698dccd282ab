package text

import (
	"fmt"
	"io"

	"bulkhead/core/finding"
	"bulkhead/core/verify"
	"bulkhead/render"
)

// changeFold is how many changes of a kind are shown.
const changeFold = 25

// Delta prints what changes between two versions.
func Delta(w io.Writer, d *render.Delta, o Options) error {
	p := &printer{w: w, o: o}
	p.printf("%s\n", p.paint(bold, fmt.Sprintf("%s: %s → %s", d.What, d.Before, d.After)))
	if d.IsEmpty() {
		p.printf("%s\n", p.paint(green, "✓ nothing changes in who can reach whom"))
		p.coverage(d.Coverage)
		return p.err
	}
	p.names("+ workload", green, d.AddedWorkloads)
	p.names("- workload", red, d.RemovedWorkloads)
	p.changes("flows", d.Edges)
	p.changes("from outside", d.Exposures)
	p.changes("to outside", d.Egress)
	if len(d.Findings) > 0 {
		p.printf("\n%s\n", p.paint(bold, "new findings"))
		for _, g := range groups(d.Findings) {
			p.group(g)
		}
	}
	p.resolved(d.Resolved)
	p.coverage(d.Coverage)
	p.printf("%s, %s wider, %s, %s resolved\n",
		plural(len(d.Edges)+len(d.Exposures)+len(d.Egress), "change", "changes"), fmt.Sprint(d.Wider()),
		plural(len(d.Findings), "new finding", "new findings"), fmt.Sprint(len(d.Resolved)))
	return p.err
}

func (p *printer) names(what string, s style, names []string) {
	if len(names) == 0 {
		return
	}
	n := 8
	if p.o.All {
		n = len(names)
	}
	p.hanging(p.paint(s, what)+" ", "    ", listing(names, n))
}

func (p *printer) changes(title string, cs []verify.Change) {
	if len(cs) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(bold, title))
	for i := range cs {
		if i == changeFold && !p.o.All && len(cs) > changeFold+1 {
			p.printf("  … and %d more (--all shows them)\n", len(cs)-i)
			return
		}
		c := &cs[i]
		if !c.Added.IsEmpty() {
			p.hanging("  "+p.paint(green, "+")+" ", "      ", fmt.Sprintf("%s → %s  %s", c.From, c.To, c.Added))
		}
		if !c.Removed.IsEmpty() {
			p.hanging("  "+p.paint(red, "-")+" ", "      ", fmt.Sprintf("%s → %s  %s", c.From, c.To, c.Removed))
		}
		if !c.Unsure.IsEmpty() {
			p.hanging("  "+p.paint(yellow, "?")+" ", "      ", fmt.Sprintf("%s → %s  %s (not decided by the input)", c.From, c.To, c.Unsure))
		}
	}
}

func (p *printer) resolved(fs []finding.Finding) {
	if len(fs) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(bold, "resolved"))
	for i := range fs {
		if i == changeFold && !p.o.All {
			p.printf("  … and %d more (--all shows them)\n", len(fs)-i)
			return
		}
		p.hanging("  ", "    ", fs[i].Title+"  "+p.paint(dim, fs[i].ID))
	}
}
