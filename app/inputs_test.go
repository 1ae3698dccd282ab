package app

import (
	"os"
	"testing"
	"time"

	"bulkhead/core/finding"
)

func realInput(t *testing.T, path string) string {
	t.Helper()
	path = "../../shared/inputs/" + path
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: %s is not here; put the folder of real inputs beside the repository to run this", path)
	}
	return path
}

func byRule(fs []finding.Finding) map[string][]finding.Finding {
	out := map[string][]finding.Finding{}
	for _, f := range fs {
		out[f.Rule] = append(out[f.Rule], f)
	}
	return out
}

// TestAuditOfKubeflow: a platform with forty policies, read critically. The
// Istio kinds are no part of the verdicts and are listed as such.
func TestAuditOfKubeflow(t *testing.T) {
	e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	est, r, err := e.Audit(Input{Paths: []string{realInput(t, "kubeflow/install.yaml")}})
	if err != nil {
		t.Fatal(err)
	}
	rules := byRule(r.Findings)
	if len(rules["public-exposure"]) != 0 {
		t.Errorf("nothing is published as installed, but %v", rules["public-exposure"])
	}
	if f := rules["blocked-relay"]; len(f) != 1 || f[0].Subject != "ValidatingWebhookConfiguration llminferenceservice.serving.kserve.io" {
		t.Errorf("the webhook that its own policies shut out: %v", f)
	}
	if f := rules["flat-network"]; len(f) != 1 || f[0].Severity != finding.High {
		t.Errorf("flatness: %v", f)
	}
	ignored := map[string]int{}
	for _, i := range est.Net.Coverage.Ignored {
		if i.Matters {
			ignored[i.Kind]++
		}
		if !i.Pos.IsValid() || i.Why == "" {
			t.Errorf("%+v says too little", i)
		}
	}
	for kind, n := range map[string]int{"AuthorizationPolicy": 24, "PeerAuthentication": 2, "VirtualService": 11, "Gateway": 4, "Sidecar": 3, "DestinationRule": 10} {
		if ignored[kind] != n {
			t.Errorf("%d %s are listed as not understood, want %d", ignored[kind], kind, n)
		}
	}
}

// TestAuditOfAIOnEKS: manifests without any isolation. Every Ingress is found,
// and none is called public for certain: its controller is not in the input.
func TestAuditOfAIOnEKS(t *testing.T) {
	e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	est, r, err := e.Audit(Input{Paths: []string{realInput(t, "ai-on-eks")}})
	if err != nil {
		t.Fatal(err)
	}
	rules := byRule(r.Findings)
	if len(rules["public-exposure"]) != 0 {
		t.Errorf("called public for certain: %v", rules["public-exposure"])
	}
	fronts := map[string]bool{}
	for _, f := range rules["possible-public-exposure"] {
		fronts[f.Key] = true
		if f.Severity < finding.High {
			t.Errorf("%s may publish an AI component and is only %v", f.Key, f.Severity)
		}
	}
	for _, want := range []string{"dogbooth/dogbooth", "dogbooth-app/dogbooth-app", "llama2/llama2", "llama3/llama3", "mistral/mistral", "stablediffusion/stablediffusion"} {
		if !fronts["Ingress "+want] {
			t.Errorf("Ingress %s is not found among %v", want, fronts)
		}
	}
	if share := est.Analysis.Flatness().Share(); share != 1 {
		t.Errorf("%v of the pairs can talk in a flat network", share)
	}
}

// TestDiffOfKubeflow: the ambient installation adds the node proxy and changes
// nothing between the workloads that both have.
func TestDiffOfKubeflow(t *testing.T) {
	e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	_, d, err := e.Diff(realInput(t, "kubeflow/install.yaml"), realInput(t, "kubeflow/install-ambient.yaml"), Input{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.AddedWorkloads) != 1 || d.AddedWorkloads[0] != "istio-system/DaemonSet/ztunnel" || len(d.RemovedWorkloads) != 0 {
		t.Fatalf("workloads: +%v -%v", d.AddedWorkloads, d.RemovedWorkloads)
	}
	for _, c := range d.Edges {
		if c.From != d.AddedWorkloads[0] && c.To != d.AddedWorkloads[0] {
			t.Errorf("%s → %s changes: +%v -%v ?%v", c.From, c.To, c.Added, c.Removed, c.Unsure)
		}
	}
}
