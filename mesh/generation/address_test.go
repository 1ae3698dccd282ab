package generation

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"bulkhead/core/policy"
)

func policyOf(zones, workloads map[string]string) *policy.Policy {
	p := &policy.Policy{Platform: text("acme")}
	for i := range 40 {
		if z := fmt.Sprint("z", i); zones[z] != "" {
			p.Zones = append(p.Zones, policy.Zone{Name: text(z)})
		}
		if w := fmt.Sprint("w", i); workloads[w] != "" {
			p.Workloads = append(p.Workloads, policy.Workload{Name: text(w), Zone: text(workloads[w])})
		}
	}
	return p
}

// checkAddresses holds what is allocated against the promises.
func checkAddresses(t interface{ Fatalf(string, ...any) }, p *policy.Policy, a Addresses) {
	all4, all6 := netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd00::/8")
	taken := map[netip.Addr]string{}
	for name, z := range a.Zones {
		if !all4.Contains(z.V4.Addr()) || !all6.Contains(z.V6.Addr()) || z.V4.Bits() != 18 || z.V6.Bits() != 64 || z.V4 != z.V4.Masked() || z.V6 != z.V6.Masked() {
			t.Fatalf("zone %s has %v and %v", name, z.V4, z.V6)
		}
		for other, y := range a.Zones {
			if other != name && (y.V4.Overlaps(z.V4) || y.V6.Overlaps(z.V6)) {
				t.Fatalf("zones %s and %s overlap", name, other)
			}
		}
	}
	if len(a.Zones) != len(p.Zones) || len(a.Workloads) != len(p.Workloads) {
		t.Fatalf("%d zones and %d workloads, want %d and %d", len(a.Zones), len(a.Workloads), len(p.Zones), len(p.Workloads))
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		at := a.Workloads[w.Name.Value]
		zone := a.Zones[w.Zone.Value]
		if at.Zone != w.Zone.Value || !zone.V4.Contains(at.V4) || !zone.V6.Contains(at.V6) {
			t.Fatalf("%s is at %v and %v, outside its zone %s %v %v", w.Name.Value, at.V4, at.V6, w.Zone.Value, zone.V4, zone.V6)
		}
		if at.V4 == zone.V4.Addr() || at.V6 == zone.V6.Addr() || !zone.V4.Contains(at.V4.Next()) {
			t.Fatalf("%s has the network's or the broadcast address %v", w.Name.Value, at.V4)
		}
		for _, addr := range []netip.Addr{at.V4, at.V6} {
			if other := taken[addr]; other != "" {
				t.Fatalf("%s and %s are both at %v", w.Name.Value, other, addr)
			}
			taken[addr] = w.Name.Value
		}
	}
}

func TestAllocateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zoneNames := rapid.SampledFrom([]string{"z0", "z1", "z2", "z3"})
		var before Addresses
		for range rapid.IntRange(1, 8).Draw(t, "policies") {
			zones, workloads := map[string]string{}, map[string]string{}
			for _, z := range rapid.SliceOfDistinct(zoneNames, rapid.ID[string]).Draw(t, "zones") {
				zones[z] = z
			}
			for i := range 40 {
				z := zoneNames.Draw(t, "zone")
				if zones[z] != "" && rapid.Bool().Draw(t, "there") {
					workloads[fmt.Sprint("w", i)] = z
				}
			}
			p := policyOf(zones, workloads)
			got, err := Allocate(p, before)
			if err != nil {
				t.Fatal(err)
			}
			checkAddresses(t, p, got)
			given := map[netip.Addr]string{}
			for name, old := range before.Workloads {
				given[old.V4] = name
				if now, ok := got.Workloads[name]; ok && now.Zone == old.Zone && before.Zones[old.Zone] == got.Zones[old.Zone] && now != old {
					t.Fatalf("%s moved from %v to %v", name, old.V4, now.V4)
				}
			}
			for name, z := range before.Zones {
				if now, ok := got.Zones[name]; ok && now != z {
					t.Fatalf("zone %s moved", name)
				}
			}
			for name, at := range got.Workloads {
				if old := given[at.V4]; old != "" && old != name {
					t.Fatalf("%s has the address that %s just had", name, old)
				}
			}
			if again, err := Allocate(p, got); err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Fatalf("the same policy again: %v, %v", again, err)
			}
			before = got
		}
	})
}

func TestAllocateUpToTheLimits(t *testing.T) {
	zones := func(from, n int) *policy.Policy {
		p := &policy.Policy{Platform: text("acme")}
		for i := range n {
			p.Zones = append(p.Zones, policy.Zone{Name: text(fmt.Sprint("z", from+i))})
		}
		return p
	}
	p := zones(0, maxZones)
	got, err := Allocate(p, Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	checkAddresses(t, p, got)
	if _, err := Allocate(zones(0, maxZones+1), Addresses{}); err == nil {
		t.Error("more zones than there are subnets")
	}
	p = zones(maxZones, maxZones) // none of those before
	if got, err = Allocate(p, got); err != nil {
		t.Fatal(err)
	}
	checkAddresses(t, p, got)
	workloads := func(from, n int) *policy.Policy {
		p := zones(0, 1)
		for i := range n {
			p.Workloads = append(p.Workloads, policy.Workload{Name: text(fmt.Sprint("w", from+i)), Zone: text("z0")})
		}
		return p
	}
	p = workloads(0, maxWorkloads)
	if got, err = Allocate(p, Addresses{}); err != nil {
		t.Fatal(err)
	}
	checkAddresses(t, p, got)
	p = workloads(maxWorkloads, maxWorkloads)
	if got, err = Allocate(p, got); err != nil {
		t.Fatal(err)
	}
	checkAddresses(t, p, got)
	if _, err := Allocate(workloads(0, maxWorkloads+1), Addresses{}); err == nil {
		t.Error("more workloads than a zone has addresses")
	}
	p.Workloads = append(p.Workloads, policy.Workload{Name: text("stray"), Zone: text("nowhere")})
	if got, err = Allocate(p, got); err != nil || got.Workloads["stray"].V4.IsValid() {
		t.Errorf("a workload in no zone: %v, %v", got.Workloads["stray"], err)
	}
}

func TestPlatformsDifferInV6(t *testing.T) {
	a, b := subnet("acme", 3), subnet("other", 3)
	if a.V6.Overlaps(b.V6) || a.V4 != b.V4 {
		t.Errorf("%v, %v", a, b)
	}
}

// TestEndpointsHaveAddressesOfTheirOwn: none is the gateway's or a workload's, and
// what had one keeps it.
func TestEndpointsHaveAddressesOfTheirOwn(t *testing.T) {
	p := &policy.Policy{Platform: policy.Text{Value: "p"}}
	for _, name := range []string{"a", "b", "c"} {
		p.Endpoints = append(p.Endpoints, policy.Endpoint{Name: policy.Text{Value: name}})
	}
	first, err := Allocate(p, Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	gateway := Gateway("p")
	seen := map[netip.Addr]bool{gateway.V4: true, gateway.V6: true}
	for name, a := range first.Endpoints {
		if seen[a.V4] || seen[a.V6] || a.Zone != OwnZone {
			t.Errorf("endpoint %s is at %s and %s", name, a.V4, a.V6)
		}
		seen[a.V4], seen[a.V6] = true, true
	}
	p.Endpoints = p.Endpoints[1:]
	p.Endpoints = append(p.Endpoints, policy.Endpoint{Name: policy.Text{Value: "d"}})
	second, err := Allocate(p, first)
	if err != nil {
		t.Fatal(err)
	}
	if second.Endpoints["b"] != first.Endpoints["b"] || second.Endpoints["c"] != first.Endpoints["c"] {
		t.Error("an endpoint moved")
	}
	if second.Endpoints["d"].V4 == first.Endpoints["a"].V4 {
		t.Error("a new endpoint has the address that one just gave up")
	}
	plan := &Plan{Policy: p, Addresses: second}
	data, digest, err := plan.Pack()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Unpack(data, digest)
	if err != nil || again.Addresses.Endpoints["d"] != second.Endpoints["d"] {
		t.Errorf("unpacked: %+v, %v", again, err)
	}
}
