package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/policy"
	"bulkhead/core/verify"
	"bulkhead/policyfile"
)

// TestDraftsHold drafts a policy from every estate at hand: it must be free of
// errors and findings, and declare nothing that the estate denies.
func TestDraftsHold(t *testing.T) {
	inputs := []string{"../examples/ai-platform/kubernetes"}
	for _, real := range []string{"../../shared/inputs/kubeflow/install.yaml", "../../shared/inputs/kubeflow/install-ambient.yaml", "../../shared/inputs/ai-on-eks"} {
		if _, err := os.Stat(real); err != nil {
			t.Logf("SKIPPED %s: it is not here; put the folder of real inputs beside the repository to run this", real)
			continue
		}
		inputs = append(inputs, real)
	}
	for _, in := range inputs {
		t.Run(filepath.Base(in), func(t *testing.T) {
			e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
			est, text, err := e.Init(Input{Paths: []string{in}})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), "# guess:") {
				t.Error("no guess is marked")
			}
			p, ds := policyfile.Parse([]policyfile.File{{Name: "draft.yaml", Text: text}})
			if len(ds) > 0 {
				t.Fatal(ds)
			}
			intent, ds := policy.Resolve(p, e.Now)
			if len(ds) > 0 {
				t.Fatal(ds)
			}
			for _, f := range verify.Check(intent) {
				// What a draft cannot know is how much may leave.
				if f.Severity > finding.Info && f.Rule != "multi-tenant-egress" {
					t.Errorf("check: %s: %s", f.Rule, f.Title)
				}
			}
			for _, f := range verify.Verify(intent, est.Analysis, bind(intent, est.Net)).Findings {
				switch f.Rule {
				case "broken-flow", "unmatched-binding", "unbound-workload", "ambiguous-binding", "no-binding":
					t.Errorf("verify: %s: %s (%s)", f.Rule, f.Title, f.Pos)
				}
			}
		})
	}
}
