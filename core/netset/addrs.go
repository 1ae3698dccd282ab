package netset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// Addrs is a set of IPv4 and IPv6 addresses. The zero value is empty. An
// IPv4-mapped IPv6 address is the IPv4 address it maps: filters see the latter.
type Addrs struct {
	set *netipx.IPSet
}

// AddrsOf returns the addresses of the prefixes.
func AddrsOf(prefixes ...netip.Prefix) Addrs {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		b.AddPrefix(p.Masked())
	}
	return built(&b)
}

// Addr returns the set of one address.
func Addr(a netip.Addr) Addrs {
	a = a.Unmap()
	return AddrsOf(netip.PrefixFrom(a, a.BitLen()))
}

var (
	anyAddr   = MustAddrs("0.0.0.0/0", "::/0")
	anyV4     = MustAddrs("0.0.0.0/0")
	anyV6     = MustAddrs("::/0")
	nonPublic = MustAddrs(
		// IANA IPv4 and IPv6 special-purpose address registries, the blocks that
		// are not globally reachable, and multicast.
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
		"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/8", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
		"3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")
)

// AnyAddr returns every address, AnyV4 and AnyV6 those of one family.
func AnyAddr() Addrs { return anyAddr }

// AnyV4 returns every IPv4 address.
func AnyV4() Addrs { return anyV4 }

// AnyV6 returns every IPv6 address.
func AnyV6() Addrs { return anyV6 }

// PublicAddrs returns the globally reachable unicast addresses.
func PublicAddrs() Addrs { return anyAddr.Subtract(nonPublic) }

// MustAddrs parses CIDRs that are constants of the program; it panics on
// anything else and must never be given input.
func MustAddrs(cidrs ...string) Addrs {
	prefixes := make([]netip.Prefix, len(cidrs))
	for i, c := range cidrs {
		prefixes[i] = netip.MustParsePrefix(c)
	}
	return AddrsOf(prefixes...)
}

// ParseCIDR reads `10.0.0.0/8` or a single address. Bits set behind the mask
// are an error, since they mean that one of the two is a slip.
func ParseCIDR(text string) (Addrs, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return Addrs{}, fmt.Errorf("%q is not an address or CIDR", text)
		}
		return Addr(a), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return Addrs{}, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8 or 2001:db8::/32", text)
	}
	if p.Masked() != p {
		return AddrsOf(p), &HostBitsError{Prefix: p}
	}
	return AddrsOf(p), nil
}

// HostBitsError says that a CIDR has bits set behind its mask. The set that
// [ParseCIDR] returns with it is that of the masked prefix, which is how
// kernels and clouds read such a CIDR.
type HostBitsError struct{ Prefix netip.Prefix }

func (e *HostBitsError) Error() string {
	return fmt.Sprintf("%s has bits set behind its mask: write %s or %s/%d",
		e.Prefix, e.Prefix.Masked(), e.Prefix.Addr(), e.Prefix.Addr().BitLen())
}

func built(b *netipx.IPSetBuilder) Addrs {
	// The builder only fails on invalid addresses; netip cannot make those
	// from a parsed prefix, and an invalid one was never added.
	s, err := b.IPSet()
	if err != nil || len(s.Ranges()) == 0 {
		return Addrs{}
	}
	return Addrs{set: s}
}

// IsEmpty reports whether no address is in a.
func (a Addrs) IsEmpty() bool { return a.set == nil }

// Contains reports whether ip is in a.
func (a Addrs) Contains(ip netip.Addr) bool { return a.set != nil && a.set.Contains(ip.Unmap()) }

// Equal reports whether a and b are the same set.
func (a Addrs) Equal(b Addrs) bool {
	if a.set == nil || b.set == nil {
		return a.set == b.set
	}
	return a.set == b.set || a.set.Equal(b.set)
}

// Union returns what is in a or b.
func (a Addrs) Union(b Addrs) Addrs {
	switch {
	case a.set == nil:
		return b
	case b.set == nil:
		return a
	}
	var sb netipx.IPSetBuilder
	sb.AddSet(a.set)
	sb.AddSet(b.set)
	return built(&sb)
}

// UnionAddrs returns what is in any of the sets.
func UnionAddrs(sets []Addrs) Addrs {
	if len(sets) == 1 {
		return sets[0]
	}
	var sb netipx.IPSetBuilder
	for _, s := range sets {
		if s.set != nil {
			sb.AddSet(s.set)
		}
	}
	return built(&sb)
}

// Intersect returns what is in both.
func (a Addrs) Intersect(b Addrs) Addrs {
	if a.set == nil || b.set == nil {
		return Addrs{}
	}
	var sb netipx.IPSetBuilder
	sb.AddSet(a.set)
	sb.Intersect(b.set)
	return built(&sb)
}

// Subtract returns what is in a and not in b.
func (a Addrs) Subtract(b Addrs) Addrs {
	if a.set == nil || b.set == nil {
		return a
	}
	var sb netipx.IPSetBuilder
	sb.AddSet(a.set)
	sb.RemoveSet(b.set)
	return built(&sb)
}

// Overlaps reports whether a and b share an address.
func (a Addrs) Overlaps(b Addrs) bool {
	return a.set != nil && b.set != nil && a.set.Overlaps(b.set)
}

// SubsetOf reports whether all of a is in b.
func (a Addrs) SubsetOf(b Addrs) bool {
	for _, r := range a.Ranges() {
		if b.set == nil || !b.set.ContainsRange(r) {
			return false
		}
	}
	return true
}

// SubsetByFamily reports for each family whether a has addresses of it and all
// of them are in b.
func (a Addrs) SubsetByFamily(b Addrs) (v4, v6 bool) {
	var has, all [2]bool
	all = [2]bool{true, true}
	for _, r := range a.Ranges() {
		family := 0
		if r.From().Is6() {
			family = 1
		}
		has[family] = true
		all[family] = all[family] && b.set != nil && b.set.ContainsRange(r)
	}
	return has[0] && all[0], has[1] && all[1]
}

// Ranges returns the maximal ranges of a, sorted, IPv4 first.
func (a Addrs) Ranges() []netipx.IPRange {
	if a.set == nil {
		return nil
	}
	return a.set.Ranges()
}

// Prefixes returns the fewest prefixes that make up a, sorted, IPv4 first.
func (a Addrs) Prefixes() []netip.Prefix {
	if a.set == nil {
		return nil
	}
	return a.set.Prefixes()
}

// CIDRs returns the prefixes as text.
func (a Addrs) CIDRs() []string {
	ps := a.Prefixes()
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

// Example returns the lowest address of a.
func (a Addrs) Example() (netip.Addr, bool) {
	rs := a.Ranges()
	if len(rs) == 0 {
		return netip.Addr{}, false
	}
	return rs[0].From(), true
}

// String returns the CIDRs, comma-separated; `any` for every address.
func (a Addrs) String() string {
	if a.Equal(anyAddr) {
		return "any"
	}
	return strings.Join(a.CIDRs(), ",")
}

// Key returns a string that is equal for equal sets and for no others.
func (a Addrs) Key() string {
	var b []byte
	for _, r := range a.Ranges() {
		from, to := r.From().AsSlice(), r.To().AsSlice()
		b = append(b, byte(len(from)))
		b = append(b, from...)
		b = append(b, to...)
	}
	return string(b)
}

// Atoms splits the whole address space into the coarsest parts that none of
// the given sets tells apart. Parts that the same sets contain are one atom,
// even where they do not touch. in lists, for each atom, the indexes of the
// sets that contain it, ascending. Both families are covered entirely.
//
// The cost is one sort of all range ends and one pass over them.
func Atoms(sets []Addrs) (atoms []Addrs, in [][]int) {
	type edge struct {
		at    netip.Addr
		set   int
		opens bool
	}
	var edges []edge
	for i, s := range sets {
		for _, r := range s.Ranges() {
			edges = append(edges, edge{r.From(), i, true})
			if next := r.To().Next(); next.IsValid() {
				edges = append(edges, edge{next, i, false})
			}
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	parts := map[string]*netipx.IPSetBuilder{}
	var order []string
	members := map[string][]int{}
	for _, whole := range []netipx.IPRange{anyV4.Ranges()[0], anyV6.Ranges()[0]} {
		open := map[int]bool{}
		from := whole.From()
		flush := func(to netip.Addr) {
			ids := make([]int, 0, len(open))
			for id := range open {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			key := fmt.Sprint(ids)
			b := parts[key]
			if b == nil {
				b = &netipx.IPSetBuilder{}
				parts[key] = b
				order = append(order, key)
				members[key] = ids
			}
			b.AddRange(netipx.IPRangeFrom(from, to))
		}
		for i := 0; i < len(edges); {
			at := edges[i].at
			if at.BitLen() != from.BitLen() {
				i++
				continue
			}
			if from.Less(at) {
				flush(at.Prev())
				from = at
			}
			for ; i < len(edges) && edges[i].at == at; i++ {
				if edges[i].opens {
					open[edges[i].set] = true
				} else {
					delete(open, edges[i].set)
				}
			}
		}
		flush(whole.To())
	}
	for _, key := range order {
		atoms = append(atoms, built(parts[key]))
		in = append(in, members[key])
	}
	return atoms, in
}
