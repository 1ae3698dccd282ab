package app

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/core/verify"
	"bulkhead/recognise"
	"bulkhead/render"
)

// Audit looks for what is wrong with an estate on its own, with no policy.
func (e *Env) Audit(in Input) (*Estate, *render.Report, error) {
	est, err := e.readEstate(in)
	if err != nil {
		return nil, nil, err
	}
	table, err := e.signatures(in)
	if err != nil {
		return nil, nil, err
	}
	found := verify.Audit(est.Analysis, recogniser(est.Net, table))
	r := e.estateReport("audit", est)
	r.Findings = found.Findings
	r.Facts = append(reachFacts(est.Analysis, newEdges(est.Analysis)), componentFact(found.Components))
	return est, r, nil
}

func (e *Env) estateReport(verb string, est *Estate) *render.Report {
	r := e.report(verb, est.Inputs)
	r.Coverage, r.Assumptions = &est.Net.Coverage, est.Net.Assumptions
	return r
}

// componentFact says what was recognised, the most frequent first.
func componentFact(components []verify.Component) render.Fact {
	counts := map[string]map[string]bool{}
	for _, c := range components {
		if counts[c.Title] == nil {
			counts[c.Title] = map[string]bool{}
		}
		counts[c.Title][c.Workload] = true
	}
	titles := make([]string, 0, len(counts))
	for t := range counts {
		titles = append(titles, t)
	}
	slices.SortFunc(titles, func(a, b string) int {
		if d := len(counts[b]) - len(counts[a]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	f := render.Fact{Name: "components", Value: strconv.Itoa(len(components))}
	if len(titles) > 0 {
		parts := make([]string, len(titles))
		for i, t := range titles {
			if parts[i] = t; len(counts[t]) > 1 {
				parts[i] = fmt.Sprintf("%s ×%d", t, len(counts[t]))
			}
		}
		f.Says = "recognised: " + strings.Join(parts, ", ")
	}
	return f
}

// signatures returns the table of components, with the user's own added. An
// entry of the user replaces the built-in one of the same id.
func (e *Env) signatures(in Input) (*recognise.Table, error) {
	table := recognise.Builtin()
	if in.Signatures == "" {
		return table, nil
	}
	text, err := os.ReadFile(e.abs(in.Signatures))
	if err != nil {
		return nil, wrongInput("name a file in the form of recognise/signatures.yaml", "--signatures: %v", err)
	}
	own, err := recognise.Parse(in.Signatures, text)
	var problems recognise.Problems
	switch {
	case errors.As(err, &problems):
		var ds source.Diagnostics
		for _, p := range problems {
			ds.Errorf("signatures", source.Pos{File: p.File, Line: p.Line, Col: p.Col}, "%s", p.Message)
		}
		return nil, &BadInput{ds, e.lines(nil)}
	case err != nil:
		return nil, err
	}
	return table.Extend(own), nil
}

// recogniser says what the endpoints of a network are, best guess first.
func recogniser(n *network.Network, table *recognise.Table) func(int) []verify.Recognised {
	return func(i int) []verify.Recognised {
		e := &n.Endpoints[i]
		var out []verify.Recognised
		for _, m := range table.Recognise(factsOf(e)) {
			r := verify.Recognised{ID: m.Signature.ID, Title: m.Signature.Title, Class: string(m.Signature.Class),
				Role: string(m.Signature.Zone), Evidence: m.Evidence}
			for _, p := range m.Signature.Sensitive {
				r.Sensitive = append(r.Sensitive, verify.SensitivePort{Port: uint16(p.Port), Name: p.Name, Why: p.Why})
			}
			out = append(out, r)
		}
		return out
	}
}

func factsOf(e *network.Endpoint) recognise.Facts {
	f := recognise.Facts{
		Group: e.Facts.Group, Kind: e.Facts.Kind, Name: e.Facts.Name, Part: e.Part,
		Images: e.Facts.Images, Commands: e.Facts.Commands, Labels: map[string]string{},
	}
	for k, v := range e.Attributes {
		// Attributes that are no labels, and values that are not known, begin
		// with a zero byte.
		if !strings.HasPrefix(k, "\x00") && !strings.HasPrefix(v, "\x00") {
			f.Labels[k] = v
		}
	}
	for _, p := range e.Ports {
		f.Ports = append(f.Ports, int(p.Number))
	}
	return f
}
