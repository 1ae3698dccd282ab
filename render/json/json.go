// Package json prints answers for other programs.
//
// Every document names its schema. Within a version of it fields may be added;
// none is removed or changes its meaning. Lists are never null.
package json

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/render"
)

// The schemas.
const (
	FindingsSchema = "bulkhead/findings/v1"
	ReachSchema    = "bulkhead/reach/v1"
	AnswerSchema   = "bulkhead/answer/v1"
	ClosureSchema  = "bulkhead/closure/v1"
)

type report struct {
	Schema      string            `json:"schema"`
	Tool        tool              `json:"tool"`
	Verb        string            `json:"verb"`
	At          string            `json:"at,omitempty"`
	Inputs      []string          `json:"inputs"`
	Summary     map[string]int    `json:"summary"`
	Facts       map[string]string `json:"facts"`
	Findings    []result          `json:"findings"`
	Diagnostics []diagnostic      `json:"diagnostics"`
	Coverage    *coverage         `json:"coverage,omitempty"`
	Assumptions []assumption      `json:"assumptions"`
}

type tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type result struct {
	ID       string            `json:"id"`
	Rule     string            `json:"rule"`
	Severity string            `json:"severity"`
	Title    string            `json:"title"`
	Detail   string            `json:"detail,omitempty"`
	Subject  string            `json:"subject"`
	At       string            `json:"at,omitempty"`
	Witness  *witness          `json:"witness,omitempty"`
	Remedy   string            `json:"remedy,omitempty"`
	Notes    []note            `json:"notes,omitempty"`
	Facts    map[string]string `json:"facts,omitempty"`
}

type witness struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Traffic string `json:"traffic"`
	Verdict string `json:"verdict"`
	Hops    []hop  `json:"hops"`
}

type hop struct {
	At      string `json:"at"`
	Verdict string `json:"verdict"`
	Why     string `json:"why,omitempty"`
	Rules   []rule `json:"rules"`
}

type rule struct {
	Name string `json:"name"`
	At   string `json:"at,omitempty"`
}

type note struct {
	At   string `json:"at,omitempty"`
	Says string `json:"says"`
}

type diagnostic struct {
	Severity string `json:"severity"`
	Rule     string `json:"rule,omitempty"`
	At       string `json:"at,omitempty"`
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"`
	Notes    []note `json:"notes,omitempty"`
}

type coverage struct {
	Objects    int       `json:"objects"`
	Understood int       `json:"understood"`
	Ignored    []ignored `json:"ignored"`
}

type ignored struct {
	At      string `json:"at"`
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"`
	Why     string `json:"why"`
	Matters bool   `json:"matters"`
}

type assumption struct {
	ID   string `json:"id"`
	Says string `json:"says"`
}

// Report writes findings as one document.
func Report(w io.Writer, r *render.Report) error {
	doc := report{
		Schema:      FindingsSchema,
		Tool:        tool{r.Tool.Name, r.Tool.Version},
		Verb:        r.Verb,
		Inputs:      list(r.Inputs),
		Summary:     map[string]int{"total": len(r.Findings)},
		Facts:       facts(r.Facts),
		Findings:    make([]result, 0, len(r.Findings)),
		Diagnostics: make([]diagnostic, 0, len(r.Diagnostics)),
		Coverage:    coverageOf(r.Coverage),
		Assumptions: assumptions(r.Assumptions),
	}
	if !r.At.IsZero() {
		doc.At = r.At.UTC().Format(time.RFC3339)
	}
	counts := r.Counts()
	for s := finding.Info; s <= finding.Critical; s++ {
		doc.Summary[s.String()] = counts[s]
	}
	for i := range r.Findings {
		doc.Findings = append(doc.Findings, resultOf(&r.Findings[i]))
	}
	for i := range r.Diagnostics {
		d := &r.Diagnostics[i]
		doc.Diagnostics = append(doc.Diagnostics, diagnostic{
			Severity: d.Severity.String(), Rule: d.Rule, At: d.Pos.String(), Message: d.Message, Fix: d.Fix, Notes: notes(d.Notes)})
	}
	return write(w, doc)
}

func resultOf(f *finding.Finding) result {
	return result{
		ID: f.ID, Rule: f.Rule, Severity: f.Severity.String(), Title: f.Title, Detail: f.Detail,
		Subject: f.Subject, At: f.Pos.String(), Witness: witnessOf(f.Witness), Remedy: f.Remedy,
		Notes: notes(f.Notes), Facts: f.Facts,
	}
}

func witnessOf(w *finding.Witness) *witness {
	if w == nil {
		return nil
	}
	out := &witness{From: w.From, To: w.To, Traffic: w.Traffic, Verdict: w.Verdict.String(), Hops: []hop{}}
	for _, h := range w.Hops {
		x := hop{At: h.At, Verdict: h.Verdict.String(), Why: h.Why, Rules: []rule{}}
		for _, r := range h.Rules {
			x.Rules = append(x.Rules, rule{r.Name, r.Pos.Short()})
		}
		out.Hops = append(out.Hops, x)
	}
	return out
}

func notes(ns []source.Note) []note {
	var out []note
	for _, n := range ns {
		out = append(out, note{n.Pos.String(), n.Text})
	}
	return out
}

func coverageOf(c *network.Coverage) *coverage {
	if c == nil {
		return nil
	}
	out := &coverage{Objects: c.Objects, Understood: c.Understood, Ignored: []ignored{}}
	for _, i := range c.Ignored {
		out.Ignored = append(out.Ignored, ignored{i.Pos.Short(), i.Kind, i.Name, i.Why, i.Matters})
	}
	return out
}

func assumptions(as []network.Assumption) []assumption {
	out := []assumption{}
	for _, a := range as {
		out = append(out, assumption{a.ID, a.Says})
	}
	return out
}

func facts(fs []render.Fact) map[string]string {
	out := map[string]string{}
	for _, f := range fs {
		out[f.Name] = f.Value
	}
	return out
}

func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// write prints a document for people who look at it too: indented, and with
// arrows and ampersands as they are.
func write(w io.Writer, doc any) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return err
	}
	return b.Flush()
}

// compact returns v on one line.
func compact(buf *bytes.Buffer, v any) []byte {
	buf.Reset()
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // the types of this package always encode
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}
