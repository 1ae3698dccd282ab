package text

import (
	"fmt"
	"io"

	"bulkhead/core/finding"
	"bulkhead/render"
)

// Answer prints whether one party reaches another and what decides.
func Answer(w io.Writer, a *render.Answer, o Options) error {
	p := &printer{w: w, o: o}
	p.printf("%s", p.paint(bold, a.From+" → "+a.To))
	if a.Traffic != "" {
		p.printf("  %s", a.Traffic)
	}
	p.printf("\n")
	both := a.Declared != nil && a.Deployed != nil && a.Declared.Via == ""
	if d := a.Declared; d != nil {
		p.declared(d)
	}
	if d := a.Deployed; d != nil {
		p.deployed(d)
	}
	if both {
		p.compare(a)
	}
	for _, n := range a.Notes {
		p.hanging("  note: ", "        ", n)
	}
	return p.err
}

func (p *printer) declared(d *render.Declared) {
	p.printf("  declared: %s\n", p.verdict(d.Verdict))
	if d.Permission != "" && d.Verdict == finding.Allowed {
		p.hanging("    ", "      ", fmt.Sprintf("by %s (%s)", d.Permission, d.At))
		if d.Via != "" {
			p.hanging("    ", "      ", "through the gateway "+d.Via+", and no other way")
		}
		for _, t := range d.Terms {
			p.hanging("    ", "      ", t)
		}
		if d.Because != "" {
			p.hanging("    ", "      ", "because "+d.Because)
		}
		if d.Owner != "" {
			until := ""
			if d.Until != "" {
				until = ", until " + d.Until
			}
			p.printf("    owner %s%s\n", d.Owner, until)
		}
	} else if d.Why != "" {
		at := ""
		if d.At != "" {
			at = " (" + d.At + ")"
		}
		p.hanging("    ", "      ", d.Why+at)
	}
	if d.Allow != "" {
		p.hanging("    ", "      ", "declared between the two: "+d.Allow)
	}
}

func (p *printer) deployed(d *render.Deployed) {
	p.printf("  deployed: %s\n", p.verdict(d.Verdict))
	p.witness("    ", &d.Witness)
	if d.Allow != "" {
		p.hanging("    ", "      ", "passes between the two: "+d.Allow)
	} else {
		p.printf("    nothing passes for certain between the two\n")
	}
	if d.Unknown != "" {
		p.hanging("    ", "      ", "not decided by the input: "+d.Unknown)
	}
	for i := range d.Others {
		p.printf("  but for other parts:\n")
		p.witness("    ", &d.Others[i])
	}
	for i := range d.WaysIn {
		p.published(&d.WaysIn[i])
	}
}

func (p *printer) compare(a *render.Answer) {
	dep, dec := a.Deployed.Verdict, a.Declared.Verdict
	switch {
	case dep == dec:
		p.printf("  %s\n", p.paint(green, "✓ the configuration does what the policy says"))
	case dep == finding.Unknown:
		p.printf("  %s\n", p.paint(yellow, "? the input does not show whether the configuration does what the policy says"))
	case dep == finding.Allowed:
		p.printf("  %s\n", p.paint(red, "✖ a leak: the configuration lets through what the policy denies"))
	default:
		p.printf("  %s\n", p.paint(red, "✖ a broken flow: the configuration denies what the policy allows"))
	}
}

func (p *printer) published(w *render.Published) {
	text := fmt.Sprintf("way in: %s", w.By)
	if w.At != "" {
		text += ", " + w.At
	}
	if w.Allow != "" {
		text += " → " + w.Allow
	}
	if w.Unknown != "" {
		text += " (not decided: " + w.Unknown + ")"
	}
	text += ", " + w.Reach
	if w.Why != "" {
		text += ": " + w.Why
	}
	if w.Pos.IsValid() {
		text += " (" + w.Pos.Short() + ")"
	}
	p.hanging("    ", "      ", text)
}

// closureFold is how many parties of one distance are shown.
const closureFold = 20

// Closure prints what a party reaches, or what reaches it, by distance.
func Closure(w io.Writer, c *render.Closure, o Options) error {
	p := &printer{w: w, o: o}
	reaches := "can reach"
	if c.Verb == "who-can-reach" {
		reaches = "can be reached by"
	}
	on := ""
	if c.Traffic != "" {
		on = " on " + c.Traffic
	}
	p.printf("%s\n", p.paint(bold, fmt.Sprintf("%s %s %d of %s%s", c.Subject, reaches, len(c.Steps), plural(c.Of, "workload", "workloads"), on)))
	shown := 0
	for i := range c.Steps {
		s := &c.Steps[i]
		if i == 0 || s.Hops != c.Steps[i-1].Hops {
			shown = 0
			if s.Hops == 1 {
				p.printf("directly\n")
			} else {
				p.printf("over %d connections\n", s.Hops)
			}
		}
		if shown++; shown > closureFold && !o.All {
			rest := 0
			for j := i; j < len(c.Steps) && c.Steps[j].Hops == s.Hops; j++ {
				rest++
			}
			if shown == closureFold+1 {
				p.printf("  … and %d more (--all shows them)\n", rest)
			}
			continue
		}
		p.step(c, s)
	}
	if c.Cut > 0 {
		p.printf("%d more are further away (--hops shows them)\n", c.Cut)
	}
	for i, out := range c.Outside {
		if i == 0 {
			p.printf("outside\n")
		}
		p.printf("  %s  %s\n", out.Place, grant(out.Grant))
	}
	for i := range c.WaysIn {
		p.published(&c.WaysIn[i])
	}
	for _, n := range c.Notes {
		p.hanging("note: ", "      ", n)
	}
	return p.err
}

func (p *printer) step(c *render.Closure, s *render.Step) {
	over := ""
	if s.Hops > 1 {
		over = " over " + s.Over
		if c.Verb == "blast" {
			over = " from " + s.Over
		}
	}
	p.printf("  %s%s  %s\n", s.Name, p.paint(dim, over), grant(&render.Grant{Allow: s.Allow, Unknown: s.Unknown}))
}

func grant(g *render.Grant) string {
	switch {
	case g.Unknown == "":
		return g.Allow
	case g.Allow == "":
		return "not decided: " + g.Unknown
	}
	return g.Allow + " (not decided: " + g.Unknown + ")"
}
