package text

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"bulkhead/mesh/report"
)

// maxShown is how many kinds of surprise are shown, and how many reasons of any
// other outcome; maxAlike how many that are alike.
const (
	maxShown = 20
	maxAlike = 2
)

// Probe prints what an attack found: surprises first, then the counts.
func Probe(w io.Writer, r *report.Probe, o Options) error {
	p := &printer{w: w, o: o}
	p.printf("%s on %s: %s in %s, generation %d\n", p.paint(bold, r.Platform), r.Node, plural(len(r.Results), "case", "cases"), age(r.Took), r.Generation)
	p.surprises(r.Results)
	p.unsettled(r.Results, report.Broken, "permitted, and not working")
	p.counts(r.Counts, false)
	p.counts(r.Counts, true)
	p.unsettled(r.Results, report.Untried, "not tried, and so not proven")
	p.printf("\n%s\n", p.conclusion(r))
	return p.err
}

func only(results []report.ProbeResult, o report.Outcome) []report.ProbeResult {
	return slices.DeleteFunc(slices.Clone(results), func(r report.ProbeResult) bool { return r.Outcome != o })
}

// surprises prints the first of those that are alike in full, and how many follow.
func (p *printer) surprises(results []report.ProbeResult) {
	found := only(results, report.Surprise)
	if len(found) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(red, plural(len(found), "SURPRISE", "SURPRISES")))
	type alike struct{ from, says string }
	var order []alike
	groups := map[alike][]*report.ProbeResult{}
	for i := range found {
		k := alike{found[i].From, found[i].Says}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], &found[i])
	}
	for i, k := range order {
		if i == maxShown {
			p.printf("  … and %d other kinds of surprise; --format json has all\n", len(order)-i)
			return
		}
		for j, r := range groups[k] {
			if j == maxAlike {
				p.printf("    … and %d more like it from %s; --format json has all\n", len(groups[k])-j, k.from)
				break
			}
			p.surprise(r)
		}
	}
}

func (p *printer) surprise(r *report.ProbeResult) {
	p.hanging("  "+p.paint(red, "✗")+" ", "    ", fmt.Sprintf("%s: %s", p.paint(bold, r.Name), r.Says))
	p.hanging("      expected  ", "                ", r.Expected+": "+r.Policy)
	p.hanging("      observed  ", "                ", r.Observed)
	for _, e := range r.Evidence {
		p.hanging("      evidence  ", "                ", evidence(&e))
	}
	if len(r.Evidence) == 0 {
		p.printf("      evidence  no flow record\n")
	}
	p.printf("      probe     %s\n", r.ID)
}

// eventWords say what happened, by the event of a record.
var eventWords = map[string]string{"open": "opened", "deny": "refused", "fail": "given up", "request": "answered"}

// evidence is a record in one line.
func evidence(e *report.ProbeEvidence) string {
	word, by := eventWords[e.Event], "proxy of the "+e.Side
	if word == "" {
		word = e.Event
	}
	if e.Side == "kernel" {
		by = e.Side
	}
	parts := []string{fmt.Sprintf("%s by the %s", word, by)}
	if e.Method != "" {
		parts = append(parts, fmt.Sprintf("%s %d", e.Method, e.Status))
	}
	if e.Rule != "" {
		parts = append(parts, e.Rule)
	}
	parts = append(parts, fmt.Sprintf("generation %d", e.Generation))
	if e.Why != "" {
		parts = append(parts, e.Why)
	}
	return strings.Join(parts, " · ")
}

// unsettled lists cases of an outcome, folded by what is said of them.
func (p *printer) unsettled(results []report.ProbeResult, o report.Outcome, title string) {
	found := only(results, o)
	if len(found) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(yellow, title))
	var order []string
	names := map[string][]string{}
	for _, r := range found {
		if names[r.Says] == nil {
			order = append(order, r.Says)
		}
		names[r.Says] = append(names[r.Says], r.Name)
	}
	for i, says := range order {
		if i == maxShown {
			p.printf("  … and %d other reasons; --format json has all\n", len(order)-i)
			return
		}
		p.hanging("  "+p.paint(yellow, "?")+" ", "    ", says)
		p.wrapped("      ", listing(names[says], 3))
	}
}

// counts prints a table of the kinds that come from the policy, or of the attacks.
func (p *printer) counts(counts []report.ProbeCount, attacks bool) {
	width, any := 0, false
	for _, c := range counts {
		if c.Attack == attacks {
			width, any = max(width, utf8.RuneCountInString(c.Title)), true
		}
	}
	if !any {
		return
	}
	p.printf("\n")
	if attacks {
		p.printf("attacks that failed, as they must\n")
	}
	for _, c := range counts {
		if c.Attack != attacks {
			continue
		}
		mark := p.paint(green, "✓")
		switch {
		case c.Surprises > 0 || c.Broken > 0:
			mark = p.paint(red, "✗")
		case c.AsExpected < c.Cases:
			mark = p.paint(yellow, "?")
		}
		p.printf("  %s %-*s  %d/%d\n", mark, width, c.Title, c.AsExpected, c.Cases)
	}
}

func (p *printer) conclusion(r *report.Probe) string {
	var surprises, broken, untried int
	for _, c := range r.Counts {
		surprises, broken, untried = surprises+c.Surprises, broken+c.Broken, untried+c.Untried
	}
	var parts []string
	if surprises > 0 {
		parts = append(parts, p.paint(red, plural(surprises, "surprise", "surprises")))
	}
	if broken > 0 {
		parts = append(parts, p.paint(yellow, fmt.Sprintf("%d permitted and not working", broken)))
	}
	if r.Clean {
		parts = append(parts, p.paint(green, "no surprise"))
	}
	if untried > 0 {
		parts = append(parts, fmt.Sprintf("%d not tried", untried))
	}
	return strings.Join(parts, ", ")
}
