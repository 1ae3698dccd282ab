// Package sarif prints findings as SARIF 2.1.0, for code scanning.
//
// It keeps to the part of the format that GitHub reads: each rule says what it
// is and what to do, each result has a place and a fingerprint, so that a
// result is recognised again when lines move. The path of a witness is a code
// flow.
package sarif

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/source"
	"bulkhead/render"
)

const schemaURI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

// maxResults is how many results of a run GitHub accepts; the worst come first.
const maxResults = 25000

type document struct {
	Schema  string `json:"$schema"`
	Version string `json:"version"`
	Runs    []run  `json:"runs"`
}

type run struct {
	Tool       tool         `json:"tool"`
	ColumnKind string       `json:"columnKind"`
	Invocation []invocation `json:"invocations"`
	Results    []result     `json:"results"`
}

type tool struct {
	Driver driver `json:"driver"`
}

type driver struct {
	Name    string `json:"name"`
	Version string `json:"semanticVersion,omitempty"`
	URI     string `json:"informationUri,omitempty"`
	Rules   []rule `json:"rules"`
}

type rule struct {
	ID            string         `json:"id"`
	Name          string         `json:"name"`
	Short         message        `json:"shortDescription"`
	Full          message        `json:"fullDescription"`
	Help          help           `json:"help"`
	Configuration configuration  `json:"defaultConfiguration"`
	Properties    map[string]any `json:"properties"`
}

type help struct {
	Text     string `json:"text"`
	Markdown string `json:"markdown,omitempty"`
}

type configuration struct {
	Level string `json:"level"`
}

type message struct {
	Text string `json:"text"`
}

type invocation struct {
	Successful    bool           `json:"executionSuccessful"`
	Notifications []notification `json:"toolExecutionNotifications,omitempty"`
}

type notification struct {
	Level     string     `json:"level"`
	Message   message    `json:"message"`
	Locations []location `json:"locations,omitempty"`
}

type result struct {
	RuleID       string            `json:"ruleId"`
	RuleIndex    int               `json:"ruleIndex"`
	Level        string            `json:"level"`
	Message      message           `json:"message"`
	Locations    []location        `json:"locations"`
	Related      []location        `json:"relatedLocations,omitempty"`
	CodeFlows    []codeFlow        `json:"codeFlows,omitempty"`
	Fingerprints map[string]string `json:"partialFingerprints"`
	Properties   map[string]any    `json:"properties,omitempty"`
}

type location struct {
	ID       *int     `json:"id,omitempty"`
	Physical physical `json:"physicalLocation"`
	Message  *message `json:"message,omitempty"`
}

type physical struct {
	Artifact artifact `json:"artifactLocation"`
	Region   region   `json:"region"`
}

type artifact struct {
	URI string `json:"uri"`
}

type region struct {
	StartLine   int `json:"startLine"`
	StartColumn int `json:"startColumn,omitempty"`
}

type codeFlow struct {
	ThreadFlows []threadFlow `json:"threadFlows"`
}

type threadFlow struct {
	Locations []flowLocation `json:"locations"`
}

type flowLocation struct {
	Location location `json:"location"`
}

// Report writes findings as one run.
func Report(w io.Writer, r *render.Report) error {
	rules := rulesOf(r)
	index := map[string]int{}
	for i, one := range rules {
		index[one.ID] = i
	}
	out := run{
		Tool:       tool{driver{Name: r.Tool.Name, Version: r.Tool.Version, URI: r.Tool.URI, Rules: rules}},
		ColumnKind: "unicodeCodePoints",
		Invocation: []invocation{{Successful: true, Notifications: notifications(r)}},
		Results:    []result{},
	}
	for i := range r.Diagnostics {
		out.Results = append(out.Results, diagnosticResult(&r.Diagnostics[i], index))
	}
	for i := range r.Findings {
		if len(out.Results) == maxResults {
			break
		}
		out.Results = append(out.Results, findingResult(r, &r.Findings[i], index))
	}
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(document{schemaURI, "2.1.0", []run{out}}); err != nil {
		return err
	}
	return b.Flush()
}

// rulesOf describes each rule by the first finding of it, the worst.
func rulesOf(r *render.Report) []rule {
	rules := []rule{}
	seen := map[string]bool{}
	for i := range r.Findings {
		f := &r.Findings[i]
		if seen[f.Rule] {
			continue
		}
		seen[f.Rule] = true
		rules = append(rules, newRule(f.Rule, cmp.Or(f.Detail, f.Title), cmp.Or(f.Remedy, "see the message"), level(f.Severity),
			map[string]any{"tags": []string{"security", "network"}, "precision": "very-high", "security-severity": score(f.Severity)}))
	}
	for i := range r.Diagnostics {
		d := &r.Diagnostics[i]
		id := diagnosticRule(d)
		if seen[id] {
			continue
		}
		seen[id] = true
		rules = append(rules, newRule(id, "the policy breaks the rule "+id, cmp.Or(d.Fix, "see the message"), d.Severity.String(),
			map[string]any{"tags": []string{"policy"}}))
	}
	return rules
}

func newRule(id, full, fix, level string, properties map[string]any) rule {
	words := strings.ReplaceAll(id, "-", " ")
	return rule{
		ID: id, Name: id, Short: message{words}, Full: message{full},
		Help: help{Text: fix, Markdown: "**Fix:** " + fix}, Configuration: configuration{level}, Properties: properties,
	}
}

func diagnosticRule(d *source.Diagnostic) string { return "policy-" + cmp.Or(d.Rule, "error") }

func level(s finding.Severity) string {
	return [...]string{"note", "note", "warning", "error", "error"}[s]
}

// score places a severity on the scale that GitHub sorts by: above 9 is
// critical, from 7 high, from 4 medium.
func score(s finding.Severity) string {
	return [...]string{"0.1", "2.0", "5.0", "8.0", "9.5"}[s]
}

func findingResult(r *render.Report, f *finding.Finding, index map[string]int) result {
	text := f.Title
	if f.Detail != "" {
		text += "\n\n" + f.Detail
	}
	if w := f.Witness; w != nil {
		text += fmt.Sprintf("\n\n%s → %s, %s: %s", w.From, w.To, w.Traffic, w.Verdict)
		for i, h := range w.Hops {
			text += fmt.Sprintf("\n%d. %s %s: %s", i+1, h.Verdict, h.At, h.Why)
		}
	}
	if f.Remedy != "" {
		text += "\n\nFix: " + f.Remedy
	}
	out := result{
		RuleID: f.Rule, RuleIndex: index[f.Rule], Level: level(f.Severity), Message: message{text},
		Locations: []location{place(placeOf(r, f))},
		Fingerprints: map[string]string{
			"primaryLocationLineHash": f.ID[strings.LastIndexByte(f.ID, ':')+1:] + ":1",
			"bulkhead/v1":             f.ID,
		},
		Properties: map[string]any{"subject": f.Subject, "severity": f.Severity.String()},
	}
	out.Related, out.CodeFlows = paths(f)
	return out
}

// placeOf is where a finding is shown: its own place, that of the first rule
// of its witness, or the input as a whole.
func placeOf(r *render.Report, f *finding.Finding) source.Pos {
	if f.Pos.IsValid() {
		return f.Pos
	}
	if f.Witness != nil {
		for _, h := range f.Witness.Hops {
			for _, rule := range h.Rules {
				if rule.Pos.IsValid() {
					return rule.Pos
				}
			}
		}
	}
	if len(r.Inputs) > 0 {
		return source.Pos{File: r.Inputs[0], Line: 1}
	}
	return source.Pos{File: "bulkhead.yaml", Line: 1}
}

// paths returns the notes and rules of a finding as related locations, and its
// witness as a code flow.
func paths(f *finding.Finding) (related []location, flows []codeFlow) {
	add := func(at source.Pos, text string) {
		if !at.IsValid() {
			return
		}
		id := len(related)
		l := place(at)
		l.ID, l.Message = &id, &message{text}
		related = append(related, l)
	}
	for _, n := range f.Notes {
		add(n.Pos, n.Text)
	}
	if f.Witness == nil {
		return related, nil
	}
	var steps []flowLocation
	for _, h := range f.Witness.Hops {
		for _, r := range h.Rules {
			if !r.Pos.IsValid() {
				continue
			}
			add(r.Pos, r.Name)
			l := place(r.Pos)
			l.Message = &message{h.At + ": " + h.Why}
			steps = append(steps, flowLocation{l})
		}
	}
	if len(steps) > 0 {
		flows = []codeFlow{{[]threadFlow{{steps}}}}
	}
	return related, flows
}

func diagnosticResult(d *source.Diagnostic, index map[string]int) result {
	id := diagnosticRule(d)
	text := d.Message
	if d.Fix != "" {
		text += "\n\nFix: " + d.Fix
	}
	out := result{RuleID: id, RuleIndex: index[id], Level: d.Severity.String(), Message: message{text},
		Locations:    []location{place(d.Pos)},
		Fingerprints: map[string]string{"bulkhead/v1": finding.New(id, finding.Info, d.Pos.File, d.Message).ID}}
	for i, n := range d.Notes {
		if n.Pos.IsValid() {
			l := place(n.Pos)
			l.ID, l.Message = &i, &message{n.Text}
			out.Related = append(out.Related, l)
		}
	}
	return out
}

// notifications tell what was not understood.
func notifications(r *render.Report) []notification {
	var out []notification
	for _, g := range render.Gaps(r.Coverage) {
		n := notification{Level: "note", Message: message{fmt.Sprintf("%s and %d more: %s", g.Members[0].Kind, len(g.Members)-1, g.Why)}}
		if g.Matters {
			n.Level = "warning"
		}
		if g.Members[0].Pos.IsValid() {
			n.Locations = []location{place(g.Members[0].Pos)}
		}
		out = append(out, n)
	}
	return out
}

func place(at source.Pos) location {
	return location{Physical: physical{artifact{uri(at.File)}, region{max(at.Line, 1), at.Col}}}
}

// uri returns a file name as a relative reference, or as an absolute URI for
// an absolute name.
func uri(file string) string {
	switch {
	case file == "" || file == "-":
		return "stdin"
	case path.IsAbs(file):
		return (&url.URL{Scheme: "file", Path: file}).String()
	}
	parts := strings.Split(path.Clean(file), "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	// A colon in the first part would be taken for the end of a scheme.
	parts[0] = strings.ReplaceAll(parts[0], ":", "%3A")
	return strings.Join(parts, "/")
}
