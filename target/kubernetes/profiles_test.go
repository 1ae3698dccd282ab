package kubernetes

import (
	"strings"
	"testing"
	"time"

	"bulkhead/target"
)

func TestUnknownProfileNamesTheKnownOnes(t *testing.T) {
	_, err := New().NewImporter(target.Options{Profile: "celium"})
	if err == nil || !strings.Contains(err.Error(), `did you mean "cilium"?`) || !strings.Contains(err.Error(), "aws-vpc-cni") {
		t.Errorf("got %v", err)
	}
}

// A day of verification may be missing, but no source where there is one.
func TestEveryProfileSaysWhereItIsFrom(t *testing.T) {
	for _, p := range profiles {
		if _, err := time.Parse(time.DateOnly, p.Verified); err != nil && p.Verified != "" || p.Verified != "" && len(p.Sources) == 0 || p.Says == "" {
			t.Errorf("profile %s: verified %q, sources %q", p.Name, p.Verified, p.Sources)
		}
		for _, s := range p.Sources {
			if !strings.HasPrefix(s, "https://") {
				t.Errorf("profile %s: source %q", p.Name, s)
			}
		}
	}
}

// What a profile or a missing fact decides is recorded once it matters.
func TestAssumptions(t *testing.T) {
	ids := func(w *world) string {
		var out []string
		for _, a := range w.n.Assumptions {
			out = append(out, a.ID)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ name, profile, input, want string }{
		{"no policies", "", pods, ""},
		{"policies", "", pods + policyYAML("shop", "p", `{podSelector: {}}`), "profile protocols local-node"},
		{"cilium", "cilium", pods + policyYAML("shop", "p", `{podSelector: {}}`), "profile protocols local-node"},
		{"a block that holds some private addresses", "", pods + policyYAML("shop", "p", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]}`),
			"profile protocols local-node pod-addresses"},
		{"a block that holds none", "", pods + policyYAML("shop", "p", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 8.8.8.0/24}}]}]}`), "profile protocols local-node"},
		{"labels of a namespace that is not there", "", pods + deployment("x", "x", "") + policyYAML("shop", "p", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {a: b}}}]}]}`),
			"profile protocols local-node namespace-labels"},
		{"nothing enforces", "none", pods + policyYAML("shop", "p", `{podSelector: {}}`), "profile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ids(load(t, c.profile, c.input).clean()); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
