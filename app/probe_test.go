package app

import (
	"testing"
	"time"

	"bulkhead/mesh/report"
)

// TestResultsAreInTheOrderOfThePlan, whatever the order in which they come.
func TestResultsAreInTheOrderOfThePlan(t *testing.T) {
	p := &report.Probe{}
	for _, n := range []int{3, 1, 2} {
		p.Results = append(p.Results, report.ProbeResult{Number: n, Kind: []string{"", "a", "b", "a"}[n], Outcome: report.AsExpected})
	}
	got := summed(p, &report.ProbeEnd{Took: time.Second})
	if !got.Clean || got.Took != time.Second || len(got.Counts) != 2 || got.Counts[0].Kind != "a" || got.Counts[0].Cases != 2 {
		t.Errorf("got %+v", got)
	}
	for i, r := range got.Results {
		if r.Number != i+1 {
			t.Errorf("result %d has number %d", i, r.Number)
		}
	}
}

func TestAProbeIsNotCleanWithASurprise(t *testing.T) {
	for _, o := range []report.Outcome{report.Surprise, report.Broken, "something new"} {
		p := &report.Probe{Results: []report.ProbeResult{{Number: 1, Outcome: report.AsExpected}, {Number: 2, Outcome: o}}}
		if summed(p, &report.ProbeEnd{}).Clean {
			t.Errorf("it is clean with %s", o)
		}
	}
}
