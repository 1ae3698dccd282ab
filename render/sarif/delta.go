package sarif

import (
	"fmt"
	"io"

	"bulkhead/core/finding"
	"bulkhead/core/source"
	"bulkhead/core/verify"
	"bulkhead/render"
)

// Delta prints what a change brings that needs a reviewer: the findings that
// only the later side has, and every flow that it opens. What it closes is not
// a result; the other formats list it.
func Delta(w io.Writer, d *render.Delta) error {
	r := &render.Report{Tool: d.Tool, Verb: "diff", Inputs: []string{d.Before, d.After}, Coverage: d.Coverage}
	r.Findings = append(r.Findings, d.Findings...)
	for _, part := range []struct {
		rule, says, verb string
		changes          []verify.Change
	}{
		{"opened-exposure", "a way in from outside that was not there before", "reaches", d.Exposures},
		{"opened-egress", "a way out that was not there before", "can send to", d.Egress},
		{"opened-flow", "a flow that was not there before", "can reach", d.Edges},
	} {
		for _, c := range part.changes {
			if c.Added.IsEmpty() {
				continue
			}
			f := finding.New(part.rule, finding.Low, c.From+" → "+c.To, c.Added.String())
			f.Title = fmt.Sprintf("%s now %s %s on %s", c.From, part.verb, c.To, c.Added)
			f.Detail = part.says
			f.Remedy = "approve it if it is meant, otherwise take it out of the change"
			f.Pos = source.Pos{File: d.After, Line: 1, Col: 1}
			r.Findings = append(r.Findings, f)
		}
	}
	finding.Sort(r.Findings)
	return Report(w, r)
}
