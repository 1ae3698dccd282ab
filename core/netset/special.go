package netset

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// specialRange is a block of addresses that no public name has for a good
// reason.
type specialRange struct{ cidr, kind string }

// Metadata is the kind of addresses at which clouds give credentials and
// settings to whoever asks from inside. Some of them are public by their form.
const Metadata = "cloud metadata"

// specialRanges are the IANA IPv4 and IPv6 special-purpose address registries
// (RFC 6890 and its updates; read on 2026-11-22), whatever they say of global
// reachability, with multicast (RFC 5771, RFC 4291), the metadata services of
// clouds, and the forms of IPv6 that carry an IPv4 address. The first match counts.
var specialRanges = []specialRange{
	{"169.254.169.254/32", Metadata},     // AWS, Azure, GCP, OpenStack, and others
	{"169.254.169.252/32", Metadata},     // GKE: workload identity
	{"169.254.170.2/32", Metadata},       // AWS: credentials of ECS tasks
	{"169.254.170.23/32", Metadata},      // AWS: EKS pod identity
	{"169.254.0.23/32", Metadata},        // Tencent
	{"169.254.10.10/32", Metadata},       // Tencent
	{"169.254.42.42/32", Metadata},       // Scaleway
	{"100.100.100.200/32", Metadata},     // Alibaba
	{"168.63.129.16/32", Metadata},       // Azure WireServer
	{"192.0.0.192/32", Metadata},         // Oracle
	{"fd00:ec2::/32", Metadata},          // AWS
	{"fd20:ce::254/128", Metadata},       // GCP
	{"fd00:c1::a9fe:a9fe/128", Metadata}, // Oracle
	{"fd00:42::42/128", Metadata},        // Scaleway
	{"fd00:a9fe:a9fe::1/128", Metadata},  // Akamai
	{"fd00:100::100:200/128", Metadata},  // Alibaba
	{"fe80::a9fe:a9fe/128", Metadata},    // OpenStack

	{"0.0.0.0/8", "this network"},
	{"10.0.0.0/8", "private"},
	{"100.64.0.0/10", "shared address space"},
	{"127.0.0.0/8", "loopback"},
	{"169.254.0.0/16", "link-local"},
	{"172.16.0.0/12", "private"},
	{"192.0.0.0/24", "IETF protocol assignments"},
	{"192.0.2.0/24", "documentation"},
	{"192.31.196.0/24", "AS112"},
	{"192.52.193.0/24", "AMT relay"},
	{"192.88.99.0/24", "6to4 relay"},
	{"192.168.0.0/16", "private"},
	{"192.175.48.0/24", "AS112"},
	{"198.18.0.0/15", "benchmarking"},
	{"198.51.100.0/24", "documentation"},
	{"203.0.113.0/24", "documentation"},
	{"224.0.0.0/4", "multicast"},
	{"255.255.255.255/32", "broadcast"},
	{"240.0.0.0/4", "reserved"},

	{"::/128", "unspecified"},
	{"::1/128", "loopback"},
	{"::ffff:0:0/96", "IPv4-mapped"},
	{"::ffff:0:0:0/96", "IPv4-translated"},
	{"::/96", "IPv4-compatible"},
	{"64:ff9b::/96", "NAT64"},
	{"64:ff9b:1::/48", "local NAT64"},
	{"::/8", "reserved"},
	{"100::/64", "discard only"},
	{"100:0:0:1::/64", "dummy prefix"},
	{"2001::/32", "Teredo"},
	{"2001::/23", "IETF protocol assignments"},
	{"2001:db8::/32", "documentation"},
	{"2002::/16", "6to4"},
	{"2620:4f:8000::/48", "AS112"},
	{"3fff::/20", "documentation"},
	{"5f00::/16", "segment routing"},
	{"fc00::/7", "unique local"},
	{"fe80::/10", "link-local"},
	{"fec0::/10", "site-local"},
	{"ff00::/8", "multicast"},
}

var specialTable = func() []struct {
	prefix netip.Prefix
	kind   string
} {
	out := make([]struct {
		prefix netip.Prefix
		kind   string
	}, len(specialRanges))
	for i, r := range specialRanges {
		out[i].prefix, out[i].kind = netip.MustParsePrefix(r.cidr), r.kind
	}
	return out
}()

// unicast6 is all that IANA has given out as global unicast (RFC 4291 section
// 2.4): what is outside is reserved.
var unicast6 = netip.MustParsePrefix("2000::/3")

// Special says what kind of special-purpose address a is, empty if it is one
// that a server on the internet can have. An address that carries another one
// inside is special whatever it carries, an IPv4-mapped one included, and so is
// one with a zone.
func Special(a netip.Addr) string {
	if !a.IsValid() || a.Zone() != "" {
		return "no address"
	}
	if specialAddrs.set.Contains(a) { // an IPv4-mapped address as what it is
		for i := range specialTable {
			if r := &specialTable[i]; r.prefix.Contains(a) {
				return r.kind
			}
		}
		return "reserved"
	}
	if a.Is4() {
		return ""
	}
	if !unicast6.Contains(a) {
		return "reserved"
	}
	// ISATAP (RFC 5214 section 6.1): an interface identifier under any prefix.
	if b := a.As16(); b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return "ISATAP"
	}
	return ""
}

// specialAddrs are all ranges of the table, metadataAddrs those of [Metadata].
var specialAddrs, metadataAddrs = func() (all, metadata Addrs) {
	var a, m netipx.IPSetBuilder
	for _, r := range specialTable {
		a.AddPrefix(r.prefix)
		if r.kind == Metadata {
			m.AddPrefix(r.prefix)
		}
	}
	return built(&a), built(&m)
}()

// CarriesIPv4 reports whether a is an IPv6 address that carries an IPv4 one, so that
// what is sent to it may leave for anywhere.
func CarriesIPv4(a netip.Addr) bool {
	switch Special(a) {
	case "IPv4-mapped", "IPv4-translated", "IPv4-compatible", "NAT64", "local NAT64", "6to4", "Teredo", "ISATAP":
		return true
	}
	return false
}

// LeadsToMetadata reports whether a is the address of a cloud's metadata service, or
// one that carries it.
func LeadsToMetadata(a netip.Addr) bool {
	if Special(a) == Metadata {
		return true
	}
	if b := a.As16(); localNAT64.Contains(a) && metadataAddrs.Contains(netip.AddrFrom4([4]byte(b[12:]))) {
		return true
	}
	return slices.ContainsFunc(carriers, func(c carrier) bool { return c.metadata.Contains(a) })
}

// DeclaredSpecial returns the special-purpose addresses that a declared CIDR
// opens. One that reaches into public space opens none of them, so that
// 0.0.0.0/0 means the internet; and a metadata service is opened only by its own
// address. Both hold for the IPv4 addresses that IPv6 ones carry too: 64:ff9b::/96
// opens the internet behind NAT64, and not what is private behind it.
func DeclaredSpecial(cidr Addrs) Addrs {
	prefixes := cidr.Prefixes()
	switch {
	case !cidr.SubsetOf(specialAddrs):
		return Addrs{}
	case len(prefixes) == 1 && prefixes[0].IsSingleIP():
		return cidr
	}
	opened := cidr.Subtract(metadataAddrs)
	for _, c := range carriers {
		opened = c.limit(opened)
	}
	for _, p := range opened.Intersect(localNAT64).Prefixes() {
		if c, err := p.Addr().Prefix(96); err == nil && p.Bits() >= 96 {
			opened = newCarrier(c, 12).limit(opened)
		} else {
			opened = opened.Subtract(AddrsOf(p)) // where in it the IPv4 address is depends on the translator
		}
	}
	return opened.Subtract(teredo)
}

var (
	localNAT64 = MustAddrs("64:ff9b:1::/48")
	// teredo addresses end with what they carry, so that no CIDR is free of any.
	teredo = MustAddrs("2001::/32")

	carriers = []carrier{
		newCarrier(netip.MustParsePrefix("64:ff9b::/96"), 12),
		newCarrier(netip.MustParsePrefix("::ffff:0:0:0/96"), 12),
		newCarrier(netip.MustParsePrefix("::/96"), 12),
		newCarrier(netip.MustParsePrefix("2002::/16"), 2),
	}
)

// carrier is a range of IPv6 addresses which carry IPv4 ones, all at the same
// place, with those among them that carry a special-purpose one or a metadata
// service.
type carrier struct{ all, special, metadata Addrs }

func newCarrier(all netip.Prefix, at int) carrier {
	var special, metadata []netip.Prefix
	for _, r := range specialTable {
		if !r.prefix.Addr().Is4() {
			continue
		}
		b, inner := all.Masked().Addr().As16(), r.prefix.Addr().As4()
		copy(b[at:], inner[:])
		p := netip.PrefixFrom(netip.AddrFrom16(b), 8*at+r.prefix.Bits())
		special = append(special, p)
		if r.kind == Metadata {
			metadata = append(metadata, p)
		}
	}
	return carrier{AddrsOf(all), AddrsOf(special...), AddrsOf(metadata...)}
}

// limit removes from what a CIDR opens the addresses whose IPv4 address it would
// not open.
func (c carrier) limit(opened Addrs) Addrs {
	if part := opened.Intersect(c.all); part.SubsetOf(c.special) {
		return opened.Subtract(c.metadata)
	}
	return opened.Subtract(c.special)
}
