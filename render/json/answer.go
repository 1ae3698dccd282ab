package json

import (
	"io"

	"bulkhead/render"
)

type answer struct {
	Schema   string    `json:"schema"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Traffic  string    `json:"traffic"`
	Deployed *deployed `json:"deployed,omitempty"`
	Declared *declared `json:"declared,omitempty"`
	Differ   bool      `json:"differ"`
	Notes    []string  `json:"notes"`
}

type deployed struct {
	Verdict string      `json:"verdict"`
	Witness *witness    `json:"witness"`
	Allow   string      `json:"allow"`
	Unknown string      `json:"unknown"`
	Others  []*witness  `json:"others"`
	WaysIn  []published `json:"waysIn"`
}

type declared struct {
	Verdict    string   `json:"verdict"`
	Allow      string   `json:"allow"`
	Permission string   `json:"permission,omitempty"`
	At         string   `json:"at,omitempty"`
	Why        string   `json:"why,omitempty"`
	Via        string   `json:"via,omitempty"`
	Terms      []string `json:"terms,omitempty"`
	Because    string   `json:"because,omitempty"`
	Owner      string   `json:"owner,omitempty"`
	Until      string   `json:"until,omitempty"`
}

// Answer writes whether one party reaches another.
func Answer(w io.Writer, a *render.Answer) error {
	doc := answer{Schema: AnswerSchema, From: a.From, To: a.To, Traffic: a.Traffic, Differ: a.Differ(), Notes: list(a.Notes)}
	if d := a.Deployed; d != nil {
		x := &deployed{Verdict: d.Verdict.String(), Witness: witnessOf(&d.Witness), Allow: d.Allow, Unknown: d.Unknown,
			Others: []*witness{}, WaysIn: []published{}}
		for i := range d.Others {
			x.Others = append(x.Others, witnessOf(&d.Others[i]))
		}
		for i := range d.WaysIn {
			x.WaysIn = append(x.WaysIn, publishedOf(&d.WaysIn[i]))
		}
		doc.Deployed = x
	}
	if d := a.Declared; d != nil {
		doc.Declared = &declared{d.Verdict.String(), d.Allow, d.Permission, d.At, d.Why, d.Via, d.Terms, d.Because, d.Owner, d.Until}
	}
	return write(w, doc)
}

type closure struct {
	Schema  string      `json:"schema"`
	Verb    string      `json:"verb"`
	Subject string      `json:"subject"`
	Traffic string      `json:"traffic"`
	Of      int         `json:"of"`
	Steps   []step      `json:"steps"`
	Outside []place     `json:"outside"`
	WaysIn  []published `json:"waysIn"`
	Further int         `json:"further"`
	Notes   []string    `json:"notes"`
}

type step struct {
	Name    string `json:"name"`
	Hops    int    `json:"hops"`
	Over    string `json:"over,omitempty"`
	Allow   string `json:"allow"`
	Unknown string `json:"unknown"`
}

type place struct {
	Place   string `json:"place"`
	Allow   string `json:"allow"`
	Unknown string `json:"unknown"`
}

// Closure writes what a party reaches, or what reaches it.
func Closure(w io.Writer, c *render.Closure) error {
	doc := closure{Schema: ClosureSchema, Verb: c.Verb, Subject: c.Subject, Traffic: c.Traffic, Of: c.Of,
		Steps: []step{}, Outside: []place{}, WaysIn: []published{}, Further: c.Cut, Notes: list(c.Notes)}
	for _, s := range c.Steps {
		doc.Steps = append(doc.Steps, step(s))
	}
	for _, o := range c.Outside {
		doc.Outside = append(doc.Outside, place{o.Place, o.Allow, o.Unknown})
	}
	for i := range c.WaysIn {
		doc.WaysIn = append(doc.WaysIn, publishedOf(&c.WaysIn[i]))
	}
	return write(w, doc)
}
