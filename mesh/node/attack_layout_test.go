package node

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/host"
	"bulkhead/policyfile"
)

// laidOut returns the layout of the only node for a policy.
func laidOut(t *testing.T, text string) *layout {
	t.Helper()
	p, ds := policyfile.Parse([]policyfile.File{{Name: "bulkhead.yaml", Text: []byte(text)}})
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	addresses, err := generation.Allocate(p, generation.Addresses{})
	must(t, err)
	in, ds := policy.Resolve(p, time.Now())
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	b, err := bindings(p)
	must(t, err)
	o := &generation.Order{Number: 1, Platform: "p", TrustDomain: "p.example", Nodes: []generation.Node{{Name: "n1"}, {Name: "n2", Tunnel: netip.MustParseAddrPort("192.0.2.2:15009")}}}
	return arrange("n1", o, &generation.Plan{Policy: p, Addresses: addresses}, in, b, nil)
}

const plaintextPolicy = `
version: 1
platform: p
zones: {z: {role: training}}
workloads:
  a: {zone: z, at: {host: {run: [x]}}}
  b: {zone: z, serves: {all: tcp/15000-15100, some: tcp/9000-9010, dns: udp/53}, at: {host: {run: [x]}}}
  bound: {zone: z, serves: {c: tcp/7000, d: udp/7001}, at: {host: {cgroup: /x}}}
  far: {zone: z, serves: {c: tcp/7000, d: udp/7001}, at: {host: {run: [x], node: n2}}}
flows:
`

// What one flow asks for and the kernel cannot do must not make the whole plan
// impossible.
func TestPlaintextThatTheKernelCannotDo(t *testing.T) {
	for name, c := range map[string]struct {
		flows string
		want  []host.Plain
		limit string
	}{
		"twice": {"  - {from: a, to: b/some, plaintext: true, because: x, owner: x}\n  - {from: [a, far], to: b/some, plaintext: true, because: x, owner: x}\n",
			[]host.Plain{{From: "a", To: "b", Network: "tcp", Lo: 9000, Hi: 9010}}, ""},
		"the mesh's port": {"  - {from: a, to: b/all, plaintext: true, because: x, owner: x}\n",
			[]host.Plain{{From: "a", To: "b", Network: "tcp", Lo: 15000, Hi: 15007}, {From: "a", To: "b", Network: "tcp", Lo: 15009, Hi: 15100}}, "belongs to the mesh"},
		"itself": {"  - {from: zone/z, to: b/some, plaintext: true, because: x, owner: x}\n",
			[]host.Plain{{From: "a", To: "b", Network: "tcp", Lo: 9000, Hi: 9010}}, "bound is bound to processes that run already"},
		"a bound one":  {"  - {from: a, to: bound, plaintext: true, because: x, owner: x}\n", nil, "bound is bound to processes that run already"},
		"another node": {"  - {from: a, to: far, plaintext: true, because: x, owner: x}\n", nil, "far is on another node"},
	} {
		t.Run(name, func(t *testing.T) {
			l := laidOut(t, plaintextPolicy+c.flows)
			if len(l.plan.Plain) != len(c.want) {
				t.Fatalf("%v", l.plan.Plain)
			}
			for i, p := range l.plan.Plain {
				if p.Rule = ""; p != c.want[i] {
					t.Errorf("%v, want %v", p, c.want[i])
				}
			}
			if says := strings.Join(l.limits, "\n"); !strings.Contains(says, c.limit) || c.limit == "" && says != "" {
				t.Errorf("limits: %q", says)
			}
			switch name {
			case "a bound one", "another node": // captured instead
				if len(l.world.UDP["a"]) != 2 {
					t.Errorf("datagrams are not captured: %v", l.world.UDP)
				}
				if here := name == "a bound one"; here != (len(l.plan.Doors) == 1) {
					t.Errorf("doors: %v", l.plan.Doors)
				}
			}
		})
	}
}
