package verify_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/policy"
	"bulkhead/core/verify"
	"bulkhead/policyfile"
)

// TestPlaintextIsListed: an exemption from encryption shows up in a check, and in
// the difference that it makes.
func TestPlaintextIsListed(t *testing.T) {
	resolve := func(flow string) *policy.Intent {
		p, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(`version: 1
platform: p
zones: {training: {role: training}}
workloads:
  a: {zone: training}
  b: {zone: training, serves: {nccl: nccl/29600}}
flows:
  - ` + flow + "\n")}})
		if ds.HasErrors() {
			t.Fatal(ds)
		}
		in, ds := policy.Resolve(p, time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC))
		if ds.HasErrors() {
			t.Fatal(ds)
		}
		return in
	}
	sealed := resolve("{from: a, to: b/nccl, because: x, owner: y}")
	open := resolve("{from: a, to: b/nccl, plaintext: true, because: collectives (ML-88), owner: y}")
	is := func(f finding.Finding) bool { return f.Rule == "plaintext" && strings.Contains(f.Detail, "ML-88") }
	if slices.ContainsFunc(verify.Check(sealed), is) || !slices.ContainsFunc(verify.Check(open), is) {
		t.Error("the exemption, and only it, should be a finding")
	}
	if d := verify.DiffIntents(sealed, open); !slices.ContainsFunc(d.Findings, is) {
		t.Errorf("the difference does not show the exemption: %+v", d.Findings)
	}
}
