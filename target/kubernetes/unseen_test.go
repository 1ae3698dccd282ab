package kubernetes_test

import (
	"testing"

	"bulkhead/core/netset"
	"bulkhead/core/reach"
)

// TestNamedPortOfUnseenTemplate: an operator makes the pods of this service
// from a template that the manifests do not show, so a policy that allows a
// port by name may allow any, and must not be read as denying all.
func TestNamedPortOfUnseenTemplate(t *testing.T) {
	n := importText(t, []byte(`apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: llm, namespace: s}
spec: {predictor: {model: {modelFormat: {name: huggingface}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: s, labels: {app: client}}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: s}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}, {port: 22}]}]
`))
	a := reach.New(n)
	from, to := a.Find("client"), a.Find("llm")
	if len(from) != 1 || len(to) == 0 {
		t.Fatal(from, to)
	}
	d := a.BetweenEndpoints(from[0], to[0])
	if !d.Allow.Equal(netset.Port(netset.TCP, 22)) || !d.Unknown.Has(netset.TCP, 8080) || d.Unknown.Has(netset.UDP, 53) {
		t.Errorf("allow %q, unknown %q", d.Allow, d.Unknown)
	}
	// A pod whose template is there names what it names.
	if back := a.BetweenEndpoints(to[0], from[0]); back.May().Has(netset.TCP, 8080) {
		t.Errorf("the way back: %v", back)
	}
}
