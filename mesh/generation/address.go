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
	// Endpoints are those of private endpoints that lead outside, by name.
	Endpoints map[string]Address
}

// Gateway returns where the egress gateway and the resolver are in a platform.
// They are at every workload's own machine: nothing to these addresses leaves it.
func Gateway(platform string) Address { return subnet(platform, ownZone).address(OwnZone, 0) }

// OwnZone is the name of the platform's own zone, which no policy can give.
const OwnZone = "-"

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
// network uses; a zone has 16,382 addresses of it, and there are 255 zones besides
// the platform's own.
// The IPv6 space is a unique local /48 (RFC 4193) made from the platform's name,
// with a /64 for each zone.
var space4 = netip.MustParseAddr("100.64.0.0")

const (
	zoneBits = 14
	maxZones = 255
	// ownZone is the zone of the gateway, the resolver and the private endpoints.
	ownZone      = 255
	maxWorkloads = 1<<zoneBits - 2
)

// Allocate gives every zone and workload of a policy its address. What had one
// before keeps it, as long as its zone stays the same. One that was just given
// up is given to another only if there is no fresh one: somebody may still hold
// it for the one that had it.
func Allocate(p *policy.Policy, before Addresses) (Addresses, error) {
	out := Addresses{Zones: map[string]Subnet{}, Workloads: map[string]Address{}, Endpoints: map[string]Address{}}
	zones := newPool(maxZones)
	for _, s := range before.Zones {
		zones.recent[s.Index] = true
	}
	for i := range p.Zones {
		name := p.Zones[i].Name.Value
		if s, ok := before.Zones[name]; ok {
			out.Zones[name] = s
			zones.used[s.Index] = true
		}
	}
	for i := range p.Zones {
		name := p.Zones[i].Name.Value
		if _, ok := out.Zones[name]; ok {
			continue
		}
		index, ok := zones.take()
		if !ok {
			return Addresses{}, fmt.Errorf("there are more than %d zones: merge some", maxZones)
		}
		out.Zones[name] = subnet(p.Platform.Value, index)
	}
	if err := out.allocate(p.Workloads, before.Workloads); err != nil {
		return Addresses{}, err
	}
	return out, out.allocateEndpoints(p, before.Endpoints)
}

// allocateEndpoints gives private endpoints addresses of the platform's own zone,
// of which the gateway has the first.
func (a *Addresses) allocateEndpoints(p *policy.Policy, before map[string]Address) error {
	own := newPool(maxWorkloads)
	own.used[0] = true
	for _, old := range before {
		own.recent[old.Index] = true
	}
	for i := range p.Endpoints {
		if old, ok := before[p.Endpoints[i].Name.Value]; ok {
			a.Endpoints[p.Endpoints[i].Name.Value] = old
			own.used[old.Index] = true
		}
	}
	zone := subnet(p.Platform.Value, ownZone)
	for i := range p.Endpoints {
		name := p.Endpoints[i].Name.Value
		if _, ok := a.Endpoints[name]; ok {
			continue
		}
		index, ok := own.take()
		if !ok {
			return fmt.Errorf("there are more than %d endpoints", maxWorkloads-1)
		}
		a.Endpoints[name] = zone.address(OwnZone, index)
	}
	return nil
}

// allocate gives workloads their addresses in the zones of a.
func (a *Addresses) allocate(workloads []policy.Workload, before map[string]Address) error {
	pools := make(map[string]*pool, len(a.Zones))
	for zone := range a.Zones {
		pools[zone] = newPool(maxWorkloads)
	}
	for _, old := range before {
		if in := pools[old.Zone]; in != nil {
			in.recent[old.Index] = true
		}
	}
	for i := range workloads {
		w := &workloads[i]
		old, ok := before[w.Name.Value]
		if in := pools[w.Zone.Value]; ok && in != nil && old.Zone == w.Zone.Value {
			a.Workloads[w.Name.Value] = old
			in.used[old.Index] = true
		}
	}
	for i := range workloads {
		w := &workloads[i]
		name, zone := w.Name.Value, w.Zone.Value
		in := pools[zone]
		if _, ok := a.Workloads[name]; ok || in == nil {
			continue
		}
		index, ok := in.take()
		if !ok {
			return fmt.Errorf("zone %s has more than %d workloads: split it", zone, maxWorkloads)
		}
		a.Workloads[name] = a.Zones[zone].address(zone, index)
	}
	return nil
}

// pool gives away the indexes below a limit: first those that nobody has or just
// had, then any that nobody has.
type pool struct {
	limit        int
	used, recent map[int]bool
	fresh, any   int // none below is left
}

func newPool(limit int) *pool {
	return &pool{limit: limit, used: map[int]bool{}, recent: map[int]bool{}}
}

func (p *pool) take() (index int, ok bool) {
	for ; p.fresh < p.limit; p.fresh++ {
		if !p.used[p.fresh] && !p.recent[p.fresh] {
			p.used[p.fresh] = true
			return p.fresh, true
		}
	}
	for ; p.any < p.limit; p.any++ {
		if !p.used[p.any] {
			p.used[p.any] = true
			return p.any, true
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
