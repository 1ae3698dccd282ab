package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"bulkhead/mesh/node"
	"bulkhead/mesh/report"
)

// Probe attacks the platform that runs here, from inside its workloads. An empty
// from or to is every workload. What was found is returned only if all of it was:
// a part proves nothing.
func (e *Env) Probe(ctx context.Context, platform, from, to string) (*report.Probe, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	var out report.Probe
	var end *report.ProbeEnd
	for event, err := range admin.Probe(ctx, node.ProbeQuestion{From: from, To: to}) {
		switch {
		case err != nil:
			return nil, asked(err)
		case event.Head != nil:
			out.ProbeHead = *event.Head
		case event.Result != nil:
			out.Results = append(out.Results, *event.Result)
			e.progress("attacking", int64(len(out.Results)), int64(out.Cases))
		case event.End != nil:
			end = event.End
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case end == nil:
		return nil, errors.New("the node hung up before the end")
	case end.Problem != "":
		return nil, errors.New(end.Problem)
	case len(out.Results) != out.Cases:
		return nil, fmt.Errorf("%d of %d results arrived", len(out.Results), out.Cases)
	}
	return summed(&out, end), nil
}

// summed puts the results in the order of the plan and counts them.
func summed(p *report.Probe, end *report.ProbeEnd) *report.Probe {
	results := p.Results
	slices.SortFunc(results, func(a, b report.ProbeResult) int { return cmp.Compare(a.Number, b.Number) })
	p.Results = p.Results[:0:0]
	for i := range results {
		p.Add(results[i])
	}
	p.Took, p.Clean = end.Took, p.IsClean()
	return p
}
