package netset

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// genAddrs draws prefixes from 10.0.0.0/28 and 2001:db8::/124, together with
// the plain set of their addresses.
func genAddrs(t *rapid.T) (Addrs, map[netip.Addr]bool) {
	var ps []netip.Prefix
	for range rapid.IntRange(0, 4).Draw(t, "prefixes") {
		low := byte(rapid.IntRange(0, 15).Draw(t, "low"))
		bits := rapid.IntRange(28, 32).Draw(t, "bits")
		if rapid.Bool().Draw(t, "v6") {
			ps = append(ps, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: low}), bits+96))
		} else {
			ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, low}), bits))
		}
	}
	m := map[netip.Addr]bool{}
	for _, ip := range addrUniverse() {
		for _, p := range ps {
			if p.Contains(ip) {
				m[ip] = true
			}
		}
	}
	return AddrsOf(ps...), m
}

func addrUniverse() []netip.Addr {
	var out []netip.Addr
	for i := range byte(16) {
		out = append(out, netip.AddrFrom4([4]byte{10, 0, 0, i}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i}))
	}
	return append(out, netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"),
		netip.MustParseAddr("::"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
}

func TestAddrsEqualModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, am := genAddrs(t)
		b, bm := genAddrs(t)
		for _, ip := range addrUniverse() {
			if a.Contains(ip) != am[ip] || a.Union(b).Contains(ip) != (am[ip] || bm[ip]) ||
				a.Intersect(b).Contains(ip) != (am[ip] && bm[ip]) || a.Subtract(b).Contains(ip) != (am[ip] && !bm[ip]) ||
				UnionAddrs([]Addrs{a, b, {}}).Contains(ip) != (am[ip] || bm[ip]) {
				t.Fatalf("%v with %v is wrong at %v", a, b, ip)
			}
		}
		if a.SubsetOf(b) != a.Subtract(b).IsEmpty() || a.Overlaps(b) != !a.Intersect(b).IsEmpty() {
			t.Fatalf("SubsetOf or Overlaps of %v and %v", a, b)
		}
		if (a.Key() == b.Key()) != a.Equal(b) || !a.Subtract(b).Union(a.Intersect(b)).Equal(a) {
			t.Fatalf("%v and %v are not canonical", a, b)
		}
	})
}

// TestAtoms: atoms partition both families, and no set tells apart what one
// atom holds.
func TestAtoms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sets []Addrs
		for range rapid.IntRange(0, 5).Draw(t, "sets") {
			s, _ := genAddrs(t)
			if rapid.IntRange(0, 4).Draw(t, "whole") == 0 {
				s = AnyAddr().Subtract(s)
			}
			sets = append(sets, s)
		}
		atoms, in := Atoms(sets)
		if u := UnionAddrs(atoms); !u.Equal(AnyAddr()) {
			t.Fatalf("atoms cover %v", u)
		}
		seen := map[string]bool{}
		for i, a := range atoms {
			for j := range atoms[:i] {
				if a.Overlaps(atoms[j]) {
					t.Fatalf("atoms %v and %v overlap", a, atoms[j])
				}
			}
			members := map[int]bool{}
			key := ""
			for _, id := range in[i] {
				members[id] = true
				key += string(rune('a' + id))
			}
			if seen[key] {
				t.Fatalf("two atoms are in the same sets %q", key)
			}
			seen[key] = true
			for id, s := range sets {
				if members[id] && !a.SubsetOf(s) || !members[id] && a.Overlaps(s) {
					t.Fatalf("atom %v and set %v: in=%v", a, s, members[id])
				}
			}
		}
	})
}

func TestParseCIDR(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "1.2.3.4": "1.2.3.4/32", "2001:db8::/32": "2001:db8::/32",
		"::ffff:10.0.0.1": "10.0.0.1/32", "0.0.0.0/0": "0.0.0.0/0", "::ffff:0:0/96": "0.0.0.0/0",
	} {
		a, err := ParseCIDR(text)
		if err != nil || a.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, a, err, want)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/33", "10.0.0", "fe80::1%eth0", "1.2.3.4/", "010.0.0.1", "a/8", "::/129"} {
		if a, err := ParseCIDR(bad); err == nil {
			t.Errorf("%q was read as %q", bad, a)
		}
	}
	a, err := ParseCIDR("10.1.2.3/8")
	if _, ok := err.(*HostBitsError); !ok || a.String() != "10.0.0.0/8" {
		t.Errorf("host bits: %q, %v", a, err)
	}
}

func TestPublicAddrs(t *testing.T) {
	for ip, want := range map[string]bool{
		"8.8.8.8": true, "10.0.0.1": false, "169.254.169.254": false, "100.64.0.1": false, "172.31.0.1": false, "172.32.0.1": true,
		"2600::1": true, "fd00:ec2::254": false, "::1": false, "::ffff:10.0.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false, "240.0.0.1": false,
	} {
		if got := PublicAddrs().Contains(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s public: %v, want %v", ip, got, want)
		}
	}
}

func FuzzParseCIDR(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "::/0", "1.2.3.4", "::ffff:1.2.3.4/100", "fe80::1%a/64"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseCIDR(s)
		if err != nil {
			return
		}
		for _, c := range a.CIDRs() {
			if b, err := ParseCIDR(c); err != nil || !b.SubsetOf(a) {
				t.Fatalf("%q gives %q, which does not read back: %v", s, c, err)
			}
		}
	})
}
