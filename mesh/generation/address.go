package generation

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"bulkhead/core/policy"
)

// Addresses are the mesh's own addresses. No network outside knows them: each
// exists only between the namespaces of a node.
type Addresses struct {
	Zones     map[string]Subnet
	Workloads map[string]Address
}

// Subnet is a zone's share of the address space.
type Subnet struct {
	Index  int
	V4, V6 netip.Prefix
}

// Address is where a workload is.
type Address struct {
	Zone   string
	Index  int
	V4, V6 netip.Addr
}

// The address space. 100.64.0.0/10 (RFC 6598) is shared space that no public
// network uses; a zone has 16,382 addresses of it, and there are 256 zones.
// The IPv6 space is a unique local /48 (RFC 4193) made from the platform's name,
// with a /64 for each zone.
var space4 = netip.MustParseAddr("100.64.0.0")

const (
	zoneBits     = 14
	maxZones     = 256
	maxWorkloads = 1<<zoneBits - 2
)

// Allocate gives every zone and workload of a policy its address. What had one
// before keeps it, as long as its zone stays the same; an address that became
// free is given away last.
func Allocate(p *policy.Policy, before Addresses) (Addresses, error) {
	out := Addresses{Zones: map[string]Subnet{}, Workloads: map[string]Address{}}
	usedZones := map[int]bool{}
	for i := range p.Zones {
		name := p.Zones[i].Name.Value
		if s, ok := before.Zones[name]; ok {
			out.Zones[name] = s
			usedZones[s.Index] = true
		}
	}
	old := map[int]bool{}
	for _, s := range before.Zones {
		old[s.Index] = true
	}
	for i := range p.Zones {
		name := p.Zones[i].Name.Value
		if _, ok := out.Zones[name]; ok {
			continue
		}
		index, ok := free(maxZones, usedZones, old)
		if !ok {
			return Addresses{}, fmt.Errorf("there are more than %d zones", maxZones)
		}
		usedZones[index] = true
		out.Zones[name] = subnet(p.Platform.Value, index)
	}
	used := map[string]map[int]bool{}
	gone := map[string]map[int]bool{}
	for name := range out.Zones {
		used[name], gone[name] = map[int]bool{}, map[int]bool{}
	}
	for _, a := range before.Workloads {
		if gone[a.Zone] != nil {
			gone[a.Zone][a.Index] = true
		}
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if a, ok := before.Workloads[w.Name.Value]; ok && a.Zone == w.Zone.Value && used[a.Zone] != nil {
			out.Workloads[w.Name.Value] = a
			used[a.Zone][a.Index] = true
		}
	}
	next := map[string]int{}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		name, zone := w.Name.Value, w.Zone.Value
		if _, ok := out.Workloads[name]; ok || used[zone] == nil {
			continue
		}
		for used[zone][next[zone]] || gone[zone][next[zone]] {
			next[zone]++
		}
		index := next[zone]
		if index >= maxWorkloads {
			var ok bool
			if index, ok = free(maxWorkloads, used[zone], nil); !ok {
				return Addresses{}, fmt.Errorf("zone %s has more than %d workloads", zone, maxWorkloads)
			}
		}
		used[zone][index] = true
		out.Workloads[name] = out.Zones[zone].address(zone, index)
	}
	return out, nil
}

// free returns the first index below limit that is not used, and was not
// before if there is such a one.
func free(limit int, used, before map[int]bool) (int, bool) {
	for i := range limit {
		if !used[i] && !before[i] {
			return i, true
		}
	}
	for i := range limit {
		if !used[i] {
			return i, true
		}
	}
	return 0, false
}

func subnet(platform string, index int) Subnet {
	base := space4.As4()
	n := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	n += uint32(index) << zoneBits
	v4 := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	sum := sha256.Sum256([]byte("bulkhead/platform\n" + platform))
	var v6 [16]byte
	v6[0] = 0xfd
	copy(v6[1:6], sum[:5])
	v6[6], v6[7] = byte(index>>8), byte(index)
	return Subnet{Index: index,
		V4: netip.PrefixFrom(v4, 32-zoneBits),
		V6: netip.PrefixFrom(netip.AddrFrom16(v6), 64)}
}

// address returns the index-th address of a zone: .1 for the first, since .0 is
// the network.
func (s Subnet) address(zone string, index int) Address {
	host := uint32(index) + 1
	b4 := s.V4.Addr().As4()
	n := uint32(b4[0])<<24 | uint32(b4[1])<<16 | uint32(b4[2])<<8 | uint32(b4[3])
	n += host
	b6 := s.V6.Addr().As16()
	b6[12], b6[13], b6[14], b6[15] = byte(host>>24), byte(host>>16), byte(host>>8), byte(host)
	return Address{Zone: zone, Index: index,
		V4: netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}),
		V6: netip.AddrFrom16(b6)}
}
