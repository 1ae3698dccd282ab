package json

import (
	"io"

	"bulkhead/core/finding"
	"bulkhead/core/verify"
	"bulkhead/render"
)

// DeltaSchema is the schema of [Delta].
const DeltaSchema = "bulkhead/diff/v1"

type delta struct {
	Schema           string    `json:"schema"`
	Tool             tool      `json:"tool"`
	What             string    `json:"what"`
	Before           string    `json:"before"`
	After            string    `json:"after"`
	AddedWorkloads   []string  `json:"addedWorkloads"`
	RemovedWorkloads []string  `json:"removedWorkloads"`
	Edges            []change  `json:"edges"`
	Exposures        []change  `json:"exposures"`
	Egress           []change  `json:"egress"`
	Findings         []result  `json:"findings"`
	Resolved         []result  `json:"resolved"`
	Coverage         *coverage `json:"coverage,omitempty"`
}

type change struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Added   string `json:"added"`
	Removed string `json:"removed"`
	Unsure  string `json:"unsure"`
}

// Delta writes what changes between two versions.
func Delta(w io.Writer, d *render.Delta) error {
	return write(w, delta{
		Schema: DeltaSchema, Tool: tool{d.Tool.Name, d.Tool.Version}, What: d.What, Before: d.Before, After: d.After,
		AddedWorkloads: list(d.AddedWorkloads), RemovedWorkloads: list(d.RemovedWorkloads),
		Edges: changes(d.Edges), Exposures: changes(d.Exposures), Egress: changes(d.Egress),
		Findings: results(d.Findings), Resolved: results(d.Resolved), Coverage: coverageOf(d.Coverage),
	})
}

func changes(cs []verify.Change) []change {
	out := make([]change, 0, len(cs))
	for i := range cs {
		c := &cs[i]
		out = append(out, change{c.From, c.To, c.Added.String(), c.Removed.String(), c.Unsure.String()})
	}
	return out
}

func results(fs []finding.Finding) []result {
	out := make([]result, 0, len(fs))
	for i := range fs {
		out = append(out, resultOf(&fs[i]))
	}
	return out
}
