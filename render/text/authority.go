package text

import (
	"io"
	"strings"
	"time"

	"bulkhead/mesh/report"
)

// Authority prints what a certificate authority has, and what can be done with it
// next.
func Authority(w io.Writer, a *report.Authority, now time.Time, o Options) error {
	p := &printer{w: w, o: o}
	rest := "not encrypted at rest"
	if a.Encrypted {
		rest = "encrypted at rest"
	}
	p.printf("authority of %s, keys %s\n\n", p.paint(bold, a.TrustDomain), rest)
	for _, r := range a.Roots {
		p.certificate("root, "+r.Stage, r.Certificate)
	}
	p.certificate("intermediate", a.Intermediate)
	p.printf("\nthe intermediate and what it signs are replaced by themselves; the root in steps\n")
	for _, s := range a.Steps {
		p.rotation(s, now)
	}
	if len(a.Unaware) > 0 {
		p.hanging(p.paint(yellow, "! "), "  ", "away since before the new root was prepared: "+strings.Join(a.Unaware, ", ")+
			". What it signs is not believed there until they are back.")
	}
	return p.err
}

func (p *printer) certificate(what string, c report.Certificate) {
	p.printf("  %-14s  %s to %s  %s\n", what, c.From.Format(time.DateOnly), c.Until.Format(time.DateOnly),
		p.paint(dim, c.Fingerprint[:min(16, len(c.Fingerprint))]))
}

// rotation prints what can be done, and from when on.
func (p *printer) rotation(s report.AuthorityStep, now time.Time) {
	when := p.paint(green, "now")
	if wait := s.From.Sub(now); wait > 0 {
		when = p.paint(yellow, "from "+s.From.Local().Format(time.DateTime)+", in "+age(wait))
	}
	p.printf("  %s  %s\n      %s\n", p.paint(bold, "bulkhead authority "+s.Step), when, stepSays[s.Step])
}

var stepSays = map[string]string{
	"prepare":  "make a new root and publish it beside the one that signs",
	"activate": "sign with the new root, now that everybody knows it",
	"retire":   "believe the old root no more: what it signed has expired",
}
