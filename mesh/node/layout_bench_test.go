package node

import (
	"fmt"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/registry"
)

// BenchmarkForce10k: what a node does with a new plan of 10,000 workloads, 200 of
// them its own, apart from the kernel's share.
func BenchmarkForce10k(b *testing.B) {
	text := func(s string) policy.Text { return policy.Text{Value: s} }
	p := &policy.Policy{Platform: text("big")}
	for i := range 40 {
		p.Zones = append(p.Zones, policy.Zone{Name: text(fmt.Sprintf("z%d", i)), Role: text("custom")})
	}
	for i := range 10_000 {
		p.Workloads = append(p.Workloads, policy.Workload{Name: text(fmt.Sprintf("w%d", i)), Zone: text(fmt.Sprintf("z%d", i%40)),
			Serves: []policy.Service{{Name: text("api"), Protocol: text("http"), Lo: 8080, Hi: 8080}},
			Bindings: []policy.Binding{{Target: text("host"), Fields: []policy.Field{
				{Key: text("node"), Text: text(fmt.Sprintf("n%d", i%50))}}}}})
		for _, k := range []int{1, 7, 31} {
			p.Flows = append(p.Flows, policy.Flow{From: []policy.Text{text(fmt.Sprintf("w%d", i))},
				To: []policy.Text{text(fmt.Sprintf("w%d/api", (i*k+k)%10_000))}})
		}
	}
	addrs, err := generation.Allocate(p, generation.Addresses{})
	if err != nil {
		b.Fatal(err)
	}
	data, digest, err := (&generation.Plan{Policy: p, Addresses: addrs}).Pack()
	if err != nil {
		b.Fatal(err)
	}
	o := &generation.Order{Number: 1, Platform: "big", TrustDomain: "big.test", At: time.Now(), Plan: digest}
	r := registry.New()
	for b.Loop() {
		plan, err := generation.Unpack(data, digest)
		if err != nil {
			b.Fatal(err)
		}
		in, ds := generation.Intent(o, plan, time.Now())
		if ds.HasErrors() {
			b.Fatal(ds)
		}
		bound, err := bindings(plan.Policy)
		if err != nil {
			b.Fatal(err)
		}
		l := arrange("n3", o, plan, in, bound, nil)
		if len(l.members) != 200 {
			b.Fatalf("%d members", len(l.members))
		}
		r.Enforce(&registry.Force{Number: o.Number, Digest: digest, Intent: in})
	}
}
