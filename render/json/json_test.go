package json

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/render"
)

func TestReachIsOneDocument(t *testing.T) {
	with := &render.Grant{Allow: "TCP 80", Rules: []string{"a.yaml:1"}}
	without := &render.Grant{Unknown: "all"}
	r := &render.Reach{
		Edges: slices.Values([]render.Edge{{From: `n/Pod/"a"`, To: "n/Pod/b→", Grant: with}, {From: "x", To: "y", Grant: without}}),
		// The grant of an edge may be that of an exposure too.
		Exposures: slices.Values([]render.Outside{{Workload: "x", Place: "0.0.0.0/0", Grant: with}}),
		Egress:    slices.Values([]render.Outside{{Workload: "x", Place: "*.example.com", Grant: without}}),
		Published: []render.Published{{By: "Service", To: "x", Reach: "public", At: "TCP 443", Allow: "TCP 80"}},
		Coverage:  network.Coverage{Objects: 2, Understood: 1, Ignored: []network.Ignored{{Kind: "Foo", Why: "w", Pos: source.Pos{File: "x.yaml", Line: 9, Col: 2}}}},
	}
	var b bytes.Buffer
	if err := Reach(&b, r); err != nil {
		t.Fatal(err)
	}
	type outside struct {
		From, To, Allow, Unknown string
		Rules                    []string
	}
	var doc struct {
		Schema                             string
		Edges, Exposures, Egress, Platform []outside
		Published                          []map[string]any
		Facts                              map[string]string
		Assumptions                        []any
		Coverage                           struct {
			Objects, Understood int
			Ignored             []map[string]any
		}
	}
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.Schema != ReachSchema || len(doc.Edges) != 2 || doc.Edges[0].From != `n/Pod/"a"` || doc.Edges[0].To != "n/Pod/b→" || doc.Edges[0].Rules[0] != "a.yaml:1" {
		t.Errorf("edges %+v", doc.Edges)
	}
	if doc.Edges[1].Rules == nil || doc.Edges[1].Unknown != "all" {
		t.Errorf("rules of an edge without any are no list: %+v", doc.Edges[1])
	}
	if e := doc.Exposures[0]; e.To != "x" || e.From != "0.0.0.0/0" || e.Allow != "TCP 80" || e.Rules != nil {
		t.Errorf("exposure %+v", e)
	}
	if e := doc.Egress[0]; e.From != "x" || e.To != "*.example.com" || e.Unknown != "all" {
		t.Errorf("egress %+v", e)
	}
	if doc.Platform == nil || doc.Assumptions == nil || doc.Coverage.Ignored[0]["at"] != "x.yaml:9" {
		t.Errorf("%+v", doc)
	}
}

func TestReportNamesItsSchemaAndLeavesNoListNull(t *testing.T) {
	f := finding.New("r", finding.Low, "s", "k")
	f.Witness = &finding.Witness{Hops: []finding.Hop{{At: "x"}}}
	for _, r := range []*render.Report{{}, {Findings: []finding.Finding{f}, Coverage: &network.Coverage{}}} {
		var b bytes.Buffer
		if err := Report(&b, r); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b.Bytes(), []byte("null")) {
			t.Errorf("null in %s", &b)
		}
		var doc map[string]any
		if err := json.Unmarshal(b.Bytes(), &doc); err != nil || doc["schema"] != FindingsSchema {
			t.Errorf("%v: %s", err, &b)
		}
	}
}
