package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
)

// Mode says what the kernel enforces.
type Mode string

// The modes.
const (
	// Root is namespaces and filters, made as root.
	Root Mode = "root"
	// User is the same inside a user namespace of an ordinary user.
	User Mode = "user"
	// Cooperative is no enforcement at all: workloads get addresses on loopback
	// and are asked to use them.
	Cooperative Mode = "cooperative"
)

// Options says for whom and where a Host works.
type Options struct {
	Platform string
	// StateDir and RunDir must exist. Nothing in StateDir is touched. In RunDir
	// the folder `live` and the file `lock` belong to the Host.
	StateDir, RunDir string
	// Guarded are folders that no workload may change, such as that of the
	// policy: one that runs as the user who wrote it would permit itself
	// everything. They are real paths, and exist.
	Guarded []string
	Mode    Mode
	Log     *slog.Logger
}

// Plan is everything that a machine must enforce. What it does not name is
// denied.
type Plan struct {
	Platform string
	Zones    []Zone
	Members  []Member // the workloads of this machine
	Doors    []Door
	Plain    []Plain
	Names    map[string][]netip.Addr // every workload of the platform
	// Resolvers are where workloads find a resolver.
	Resolvers []netip.Addr
}

// Zone is a subnet of the mesh.
type Zone struct {
	Name   string
	V4, V6 netip.Prefix
}

// Member is a workload of this machine.
type Member struct {
	Name, Zone string
	V4, V6     netip.Addr // either may be missing
	UDP        []UDPCapture
	// CgroupPath binds it to processes that already run: a folder of the cgroup
	// v2 hierarchy, as `system.slice/postgresql.service` or as an absolute path.
	CgroupPath string
	Serves     []Port
}

// UDPCapture sends the workload's datagrams to To to loopback, port Local.
type UDPCapture struct {
	To    netip.AddrPort
	Local uint16
}

// Port is a range of ports of "tcp" or "udp".
type Port struct {
	Network string
	Lo, Hi  uint16
}

// Door lets tunnels cross the fabric from one zone to another, or within one.
type Door struct{ From, To string }

// Plain lets workload From send to the ports of workload To without the proxy.
// Both are members of this machine.
type Plain struct {
	From, To string
	Network  string // "tcp" or "udp"
	Lo, Hi   uint16
	Rule     string // the permission, for records
}

// The ports that the mesh uses in a workload's namespace. A workload can
// neither reach them by itself nor bind them.
const (
	CapturePort = 15001
	TunnelPort  = 15008
)

// The limits of a plan.
const (
	maxMembers = 16382
	maxName    = 253
	maxTuples  = 1 << 16
)

// check returns every way in which a plan cannot be enforced.
func (p *Plan) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(p.Members) > maxMembers {
		bad("the plan has %d members; a machine takes %d", len(p.Members), maxMembers)
	}
	if len(p.Plain) > maxTuples || len(p.Doors) > maxTuples {
		bad("the plan has more than %d doors or plaintext flows", maxTuples)
	}
	zones := p.checkZones(bad)
	members := p.checkMembers(zones, bad)
	for _, d := range p.Doors {
		if _, ok := zones[d.From]; !ok {
			bad("a door leads from zone %q, which the plan does not have", d.From)
		}
		if _, ok := zones[d.To]; !ok {
			bad("a door leads to zone %q, which the plan does not have", d.To)
		}
	}
	seen := map[Plain]bool{}
	for _, t := range p.Plain {
		t.check(members, bad)
		key := t
		key.Rule = ""
		if seen[key] {
			bad("plaintext flow %s is declared twice", t)
		}
		seen[key] = true
	}
	return errors.Join(errs...)
}

// within returns what is left of p, which is in force, when everything is taken
// away that o does not permit in the same words.
func (p Plan) within(o Plan) Plan {
	zone := func(p *Plan, name string) (z Zone) {
		if i := slices.IndexFunc(p.Zones, func(z Zone) bool { return z.Name == name }); i >= 0 {
			z = p.Zones[i]
		}
		return z
	}
	p.Doors = slices.DeleteFunc(slices.Clone(p.Doors), func(d Door) bool {
		return !slices.Contains(o.Doors, d) || zone(&p, d.From) != zone(&o, d.From) || zone(&p, d.To) != zone(&o, d.To)
	})
	said := map[Plain]bool{}
	for _, t := range o.Plain {
		t.Rule = ""
		said[t] = true
	}
	p.Plain = slices.DeleteFunc(slices.Clone(p.Plain), func(t Plain) bool {
		t.Rule = ""
		return !said[t]
	})
	var members []Member
	for _, m := range p.Members {
		i := slices.IndexFunc(o.Members, func(n Member) bool { return n.same(&m) })
		if i < 0 {
			continue
		}
		m.UDP = slices.DeleteFunc(slices.Clone(m.UDP), func(c UDPCapture) bool { return !slices.Contains(o.Members[i].UDP, c) })
		members = append(members, m)
	}
	p.Members = members
	return p
}

// onlyIPv4 is the plan for a kernel without IPv6.
func (p Plan) onlyIPv4() Plan {
	p.Members = slices.Clone(p.Members)
	for i := range p.Members {
		m := &p.Members[i]
		m.V6 = netip.Addr{}
		m.UDP = slices.DeleteFunc(slices.Clone(m.UDP), func(c UDPCapture) bool { return c.To.Addr().Is6() })
	}
	return p
}

func (p *Plan) checkZones(bad func(string, ...any)) map[string]Zone {
	zones := map[string]Zone{}
	for _, z := range p.Zones {
		if _, ok := zones[z.Name]; ok {
			bad("zone %q is there twice", z.Name)
		}
		zones[z.Name] = z
		if z.V4.IsValid() && (!z.V4.Addr().Is4() || z.V4.Bits() < 8) {
			bad("zone %q: %s is no IPv4 subnet of a zone", z.Name, z.V4)
		}
		if z.V6.IsValid() && (!z.V6.Addr().Is6() || z.V6.Addr().Is4In6() || z.V6.Bits() < 16) {
			bad("zone %q: %s is no IPv6 subnet of a zone", z.Name, z.V6)
		}
		for _, o := range p.Zones {
			if o.Name != z.Name && (z.V4.IsValid() && o.V4.IsValid() && z.V4.Overlaps(o.V4) || z.V6.IsValid() && o.V6.IsValid() && z.V6.Overlaps(o.V6)) {
				bad("the subnets of zones %q and %q overlap", z.Name, o.Name)
			}
		}
	}
	return zones
}

func (p *Plan) checkMembers(zones map[string]Zone, bad func(string, ...any)) map[string]Member {
	members := map[string]Member{}
	owner := map[netip.Addr]string{}
	for _, m := range p.Members {
		if m.Name == "" || len(m.Name) > maxName {
			bad("a workload's name must have 1 to %d bytes", maxName)
		}
		if _, ok := members[m.Name]; ok {
			bad("workload %q is there twice", m.Name)
		}
		members[m.Name] = m
		z, ok := zones[m.Zone]
		if !ok {
			bad("workload %q is in zone %q, which the plan does not have", m.Name, m.Zone)
		}
		if !m.V4.IsValid() && !m.V6.IsValid() {
			bad("workload %q has no address", m.Name)
		}
		if m.V4.IsValid() && (!m.V4.Is4() || !z.V4.Contains(m.V4)) {
			bad("workload %q: %s is not in the IPv4 subnet of its zone", m.Name, m.V4)
		}
		if m.V6.IsValid() && (!m.V6.Is6() || m.V6.Zone() != "" || !z.V6.Contains(m.V6)) {
			bad("workload %q: %s is not in the IPv6 subnet of its zone", m.Name, m.V6)
		}
		for _, a := range m.addresses() {
			if other, ok := owner[a]; ok {
				bad("workloads %q and %q have the same address %s", other, m.Name, a)
			}
			owner[a] = m.Name
		}
		m.checkCaptures(bad)
	}
	return members
}

func (m *Member) checkCaptures(bad func(string, ...any)) {
	local, to := map[uint16]bool{}, map[netip.AddrPort]bool{}
	for _, c := range m.UDP {
		if !c.To.IsValid() || c.To.Addr().Is4In6() || c.To.Addr().Zone() != "" || c.To.Port() == 0 {
			bad("workload %q: %s is no destination of datagrams", m.Name, c.To)
		}
		if c.Local <= TunnelPort {
			bad("workload %q: datagrams to %s cannot be captured at port %d: it must be above %d", m.Name, c.To, c.Local, TunnelPort)
		}
		if local[c.Local] || to[c.To] {
			bad("workload %q: datagrams to %s at port %d are captured twice", m.Name, c.To, c.Local)
		}
		local[c.Local], to[c.To] = true, true
	}
}

func (t Plain) check(members map[string]Member, bad func(string, ...any)) {
	from, okFrom := members[t.From]
	to, okTo := members[t.To]
	switch {
	case !okFrom || !okTo:
		bad("plaintext flow %s: both ends must be workloads of this machine", t)
	case t.From == t.To:
		bad("plaintext flow %s: a workload reaches itself without a rule", t)
	case from.CgroupPath != "" || to.CgroupPath != "":
		bad("plaintext flow %s: a workload that is bound by unit or cgroup cannot have one; let bulkhead run it, or remove `plaintext: true`", t)
	}
	if t.Network != "tcp" && t.Network != "udp" {
		bad("plaintext flow %s: the network must be tcp or udp", t)
	}
	if t.Lo == 0 || t.Hi < t.Lo {
		bad("plaintext flow %s: the ports are no range", t)
	}
	if t.Network == "tcp" && t.Lo <= TunnelPort && TunnelPort <= t.Hi {
		bad("plaintext flow %s: port %d belongs to the mesh", t, TunnelPort)
	}
}

func (t Plain) String() string {
	return fmt.Sprintf("%s to %s, %s %d-%d", t.From, t.To, t.Network, t.Lo, t.Hi)
}

func (m *Member) addresses() []netip.Addr {
	var out []netip.Addr
	if m.V4.IsValid() {
		out = append(out, m.V4)
	}
	if m.V6.IsValid() {
		out = append(out, m.V6)
	}
	return out
}

// address returns the member's address of the same family as like.
func (m *Member) address(like netip.Addr) netip.Addr {
	if like.Is4() {
		return m.V4
	}
	return m.V6
}

// same reports whether a namespace that was made for m still serves for o.
func (m *Member) same(o *Member) bool {
	return m.Name == o.Name && m.Zone == o.Zone && m.V4 == o.V4 && m.V6 == o.V6 && m.CgroupPath == o.CgroupPath
}

// Denial is something that a filter refused.
type Denial struct {
	Workload string // whose filter, or from whose interface
	Network  string // tcp, udp, icmp, or a number as `protocol 47`
	From, To netip.AddrPort
	// Spoofed says that the source was not the workload's own address.
	Spoofed bool
	// Lost is how many denials of this workload were not reported before it.
	Lost uint64
}

// PlainCount is how much a plaintext flow has carried since it was declared.
type PlainCount struct {
	Plain
	Out, In Count // from From to To, and back
}

// Count is a number of packets and their bytes.
type Count struct{ Packets, Bytes uint64 }
