package sarif

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/verify"
	"bulkhead/render"
)

func TestDeltaShowsWhatOpens(t *testing.T) {
	d := &render.Delta{Before: "old.yaml", After: "new.yaml"}
	d.Edges = []verify.Change{
		{From: "a", To: "b", Added: netset.Port(netset.TCP, 80)},
		{From: "a", To: "c", Removed: netset.Port(netset.TCP, 80)},
	}
	d.Exposures = []verify.Change{{From: "internet", To: "b", Added: netset.All()}}
	f := finding.New("invariant/data-internet", finding.High, "x", "")
	f.Title = "data is exposed"
	d.Findings = []finding.Finding{f}
	var out bytes.Buffer
	if err := Delta(&out, d); err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	var rules []string
	for _, r := range doc.Runs[0].Results {
		rules = append(rules, r.RuleID)
		if len(r.Locations) == 0 || len(r.Fingerprints) == 0 {
			t.Errorf("%s has no place or no fingerprint", r.RuleID)
		}
	}
	if want := []string{"invariant/data-internet", "opened-exposure", "opened-flow"}; !slices.Equal(rules, want) {
		t.Errorf("results %v, want %v", rules, want)
	}
}
