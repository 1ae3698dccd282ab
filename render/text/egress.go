package text

import (
	"fmt"
	"io"
	"strings"
	"time"

	"bulkhead/render"
)

// EgressAudit prints what was called outside, what no rule needs first.
func EgressAudit(w io.Writer, a *render.EgressAudit, o Options) error {
	p := &printer{w: w, o: o}
	for _, f := range a.Files {
		p.printf("%s: %s, %s, %s", f.Name, f.Format, plural(f.Lines, "line", "lines"), plural(f.Calls, "call", "calls"))
		if f.Unknown > 0 {
			p.printf(", %s", p.paint(yellow, fmt.Sprintf("%d not understood", f.Unknown)))
		}
		p.printf("\n")
		for _, x := range f.Examples {
			p.printf("  %s\n", p.paint(dim, x))
		}
	}
	titles := map[render.EgressState]string{
		render.EgressUnneeded: p.paint(red, "called, and no rule needs it"),
		render.EgressUnmapped: p.paint(yellow, "called by nobody that the policy knows"),
		render.EgressCalled:   "called; there is no policy to ask",
		render.EgressDenied:   "refused, and no rule permits it",
		render.EgressNeeded:   p.paint(green, "called, and a rule permits it"),
	}
	shown, last := 0, render.EgressState("")
	for i := range a.Calls {
		c := &a.Calls[i]
		if c.State != last {
			p.printf("\n%s\n", titles[c.State])
			last, shown = c.State, 0
		}
		shown++
		if shown > mostCalls && !o.All {
			if shown == mostCalls+1 {
				p.printf("  … %d more; --all shows them\n", sameState(a.Calls[i:]))
			}
			continue
		}
		p.call(c)
	}
	if len(a.Unused) > 0 {
		p.printf("\nrules that no call needed\n")
		for _, r := range a.Unused {
			p.printf("  %s  %s\n", r.Name, p.paint(dim, r.At))
		}
	}
	if len(a.Calls) == 0 {
		p.printf("note: no call outside is in what was read: that shows neither that nothing is called, nor that a rule is unused\n")
	}
	if len(a.Unmapped) > 0 {
		p.hanging("note: ", "      ", "say which workload a source is with --source SOURCE=WORKLOAD: "+listing(a.Unmapped, 8))
	}
	if a.Inner > 0 {
		p.hanging("note: ", "      ", plural(a.Inner, "call leads", "calls lead")+" to private addresses without a name: they are not outside, and left out")
	}
	if a.Cut > 0 {
		p.hanging("note: ", "      ", fmt.Sprintf("there are more different calls than can be told apart: %d calls are left out", a.Cut))
	}
	p.printf("\n%s\n", p.egressSummary(a))
	return p.err
}

// mostCalls is how many calls of one kind are shown.
const mostCalls = 20

func sameState(calls []render.EgressCall) int {
	n := 0
	for n < len(calls) && calls[n].State == calls[0].State {
		n++
	}
	return n
}

func (p *printer) call(c *render.EgressCall) {
	from, to := c.Workload, c.Host
	if from == "" {
		from = c.Source
	}
	if to == "" {
		to = c.Addr.String()
	}
	if c.Destination != "" && c.Destination != to {
		to = c.Destination + " (" + to + ")"
	}
	if c.Port != 0 {
		to = fmt.Sprintf("%s:%d", to, c.Port)
	}
	if c.Protocol != "tcp" {
		to += "/" + c.Protocol
	}
	if c.Host != "" && c.Addr.IsValid() {
		to += " at " + c.Addr.String()
	}
	p.printf("  %s → %s  %s", from, to, p.paint(dim, fmt.Sprintf("%s, %s out, %s in", times(c.Count), bytes(c.Out), bytes(c.In))))
	if !c.First.IsZero() {
		p.printf("  %s", p.paint(dim, c.First.Format(time.DateTime)+" to "+c.Last.Format(time.DateTime)))
	}
	p.printf("\n")
	if len(c.Risks) > 0 {
		p.hanging("      ", "      ", p.paint(yellow, "! ")+strings.Join(c.Risks, "; "))
	}
	switch {
	case c.Rule != "":
		p.hanging("      ", "      ", "by "+c.Rule)
	case c.Why != "":
		p.hanging("      ", "      ", c.Why)
	}
}

func (p *printer) egressSummary(a *render.EgressAudit) string {
	n := map[render.EgressState]int{}
	for i := range a.Calls {
		n[a.Calls[i].State]++
	}
	if a.Policy == "" {
		return fmt.Sprintf("%s; write a policy, or draft rules with --draft FILE", plural(len(a.Calls), "different call", "different calls"))
	}
	return fmt.Sprintf("compared with %s: %d unneeded · %d needed · %d refused · %d unmapped · %s unused", a.Policy,
		n[render.EgressUnneeded], n[render.EgressNeeded], n[render.EgressDenied], n[render.EgressUnmapped], plural(len(a.Unused), "rule", "rules"))
}
