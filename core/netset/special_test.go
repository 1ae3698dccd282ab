package netset

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// special4 is an independent table of special-purpose IPv4 addresses: first and
// last, in numbers.
var special4 = [][2]uint32{
	{0, 0x00ffffff}, {0x0a000000, 0x0affffff}, {0x64400000, 0x647fffff}, {0x7f000000, 0x7fffffff},
	{0xa83f8110, 0xa83f8110}, {0xa9fe0000, 0xa9feffff}, {0xac100000, 0xac1fffff}, {0xc0000000, 0xc00000ff},
	{0xc0000200, 0xc00002ff}, {0xc01fc400, 0xc01fc4ff}, {0xc034c100, 0xc034c1ff}, {0xc0586300, 0xc05863ff},
	{0xc0a80000, 0xc0a8ffff}, {0xc0af3000, 0xc0af30ff}, {0xc6120000, 0xc613ffff}, {0xc6336400, 0xc63364ff},
	{0xcb007100, 0xcb0071ff}, {0xe0000000, 0xffffffff},
}

func isSpecial4(n uint32) bool {
	return slices.ContainsFunc(special4, func(r [2]uint32) bool { return n >= r[0] && n <= r[1] })
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// Every block of the registries, to the address.
func TestSpecialFollowsTheRegistries(t *testing.T) {
	for _, r := range special4 {
		for n, want := range map[uint32]bool{r[0]: true, r[1]: true, r[0] + (r[1]-r[0])/2: true, r[0] - 1: isSpecial4(r[0] - 1), r[1] + 1: isSpecial4(r[1] + 1)} {
			if got := Special(addr4(n)); (got != "") != want {
				t.Errorf("%v is %q", addr4(n), got)
			}
		}
	}
	for _, c := range []struct{ kind, first, last, before, after string }{
		{"this network", "0.0.0.0", "0.255.255.255", "", "1.0.0.0"},
		{"private", "10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"},
		{"shared address space", "100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"},
		{"loopback", "127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"},
		{"link-local", "169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"},
		{"private", "172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"},
		{"IETF protocol assignments", "192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"},
		{"documentation", "192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"},
		{"AS112", "192.31.196.0", "192.31.196.255", "192.31.195.255", "192.31.197.0"},
		{"AMT relay", "192.52.193.0", "192.52.193.255", "192.52.192.255", "192.52.194.0"},
		{"6to4 relay", "192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"},
		{"private", "192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"},
		{"AS112", "192.175.48.0", "192.175.48.255", "192.175.47.255", "192.175.49.0"},
		{"benchmarking", "198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"},
		{"documentation", "198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"},
		{"documentation", "203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"},
		{"multicast", "224.0.0.0", "239.255.255.255", "223.255.255.255", ""},
		{"reserved", "240.0.0.0", "255.255.255.254", "", ""},
		{"broadcast", "255.255.255.255", "255.255.255.255", "", ""},

		{"unspecified", "::", "::", "", ""},
		{"loopback", "::1", "::1", "", ""},
		{"IPv4-compatible", "::2", "::ffff:ffff", "", ""},
		{"reserved", "::1:0:0", "::fffe:ffff:ffff", "", ""},
		{"IPv4-mapped", "::ffff:0:0", "::ffff:255.255.255.255", "", ""},
		{"reserved", "::1:0:0:0", "::fffe:ffff:ffff:ffff", "", ""},
		{"IPv4-translated", "::ffff:0:0:0", "::ffff:0:ffff:ffff", "", ""},
		{"reserved", "::ffff:1:0:0", "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"NAT64", "64:ff9b::", "64:ff9b::ffff:ffff", "", ""},
		{"local NAT64", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"reserved", "64:ff9b:2::", "ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"discard only", "100::", "100::ffff:ffff:ffff:ffff", "", ""},
		{"dummy prefix", "100:0:0:1::", "100::1:ffff:ffff:ffff:ffff", "", ""},
		{"reserved", "100:0:0:2::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", "2000::"},
		{"Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"IETF protocol assignments", "2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "", "2001:200::"},
		{"documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"},
		{"6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"},
		{"AS112", "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff", "2620:4f:8001::"},
		{"documentation", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"},
		{"reserved", "4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"segment routing", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"reserved", "5f01::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"unique local", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"reserved", "fe00::", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"link-local", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"site-local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
		{"multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", ""},
	} {
		for _, text := range []string{c.first, c.last} {
			if got := Special(netip.MustParseAddr(text)); got != c.kind {
				t.Errorf("%s is %q, want %q", text, got, c.kind)
			}
		}
		for _, text := range []string{c.before, c.after} {
			if text == "" {
				continue
			}
			if got := Special(netip.MustParseAddr(text)); got != "" {
				t.Errorf("%s beside %s is %q", text, c.kind, got)
			}
		}
	}
}

func TestSpecialAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"169.254.169.254": Metadata, "168.63.129.16": Metadata, "192.0.0.192": Metadata, "100.100.100.200": Metadata, "169.254.42.42": Metadata,
		"fd00:ec2::254": Metadata, "fd00:ec2::23": Metadata, "fd20:ce::254": Metadata, "fd00:42::42": Metadata, "fe80::a9fe:a9fe": Metadata,
		"168.63.129.15": "", "168.63.129.17": "", "1.1.1.1": "", "8.8.8.8": "", "2606:4700::1111": "", "2a00:1450:4001::200e": "",
		"2606:4700::5efe:102:304": "ISATAP", "2606:4700::200:5efe:8.8.8.8": "ISATAP", "2606:4700::100:5efe:8.8.8.8": "",
		"fe80::1%eth0": "no address", "2606:4700::1%1": "no address", "::ffff:8.8.8.8%1": "no address",
		"::ffff:8.8.8.8": "IPv4-mapped", "::8.8.8.8": "IPv4-compatible", "64:ff9b::8.8.8.8": "NAT64", "2002:808:808::": "6to4",
	} {
		if got := Special(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
	if Special(netip.Addr{}) == "" {
		t.Error("no address is public")
	}
}

// embedded decodes the IPv4 addresses that an IPv6 address carries in any form
// that RFCs define (4291, 2765, 6052, 8215, 3056, 4380, 5214).
func embedded(b [16]byte) (out []uint32) {
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	last := uint32(low)
	switch {
	case high == 0 && (low>>32 == 0 || low>>32 == 0xffff || low>>32 == 0xffff0000):
		out = append(out, last)
	case high == 0x0064ff9b_00000000 && low>>32 == 0:
		out = append(out, last)
	case high>>16 == 0x0064ff9b_0001: // RFC 6052 with prefixes of 48, 56, 64 and 96 bits
		out = append(out, uint32(high&0xffff)<<16|uint32(low>>40&0xffff), uint32(high&0xff)<<24|uint32(low>>32&0xffffff), uint32(low>>24), last)
	case high>>48 == 0x2002:
		out = append(out, uint32(high>>16))
	case high>>32 == 0x20010000:
		out = append(out, uint32(high), ^last) // the server, and the client with its bits inverted
	}
	switch low >> 32 {
	case 0x00005efe, 0x02005efe:
		out = append(out, last)
	}
	return out
}

// carrying returns the IPv6 addresses that carry an IPv4 address, in every form.
func carrying(n uint32) (out []netip.Addr) {
	add := func(high, low uint64) {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], high)
		binary.BigEndian.PutUint64(b[8:], low)
		out = append(out, netip.AddrFrom16(b))
	}
	v := uint64(n)
	add(0, v)
	add(0, 0xffff<<32|v)
	add(0, 0xffff0000<<32|v)
	add(0x0064ff9b_00000000, v)
	add(0x0064ff9b_00010000, v)
	add(0x0064ff9b_00010203, 0x0405_0607<<32|v)
	add(0x0064ff9b_0001<<16|v>>16, v&0xffff<<40)
	add(0x0064ff9b_0001_0000|v>>24, v&0xffffff<<32)
	add(0x0064ff9b_0001_0000, v<<24)
	add(0x2002<<48|v<<16|1, 1)
	add(0x20010000<<32|0x41f00001, 0x8000<<48|0x63bf<<32|uint64(^n))
	add(0x20010000<<32|v, 1)
	for _, prefix := range []uint64{0x26064700 << 32, 0x2a001450_40010000, 0xfe80 << 48} {
		add(prefix, 0x00005efe<<32|v)
		add(prefix, 0x02005efe<<32|v)
	}
	return out
}

// FuzzAddressPolicy: no address that carries a special-purpose one is public,
// and neither is any that the standard library or [PublicAddrs] knows not to be.
func FuzzAddressPolicy(f *testing.F) {
	for _, r := range special4 {
		for _, n := range r {
			for _, a := range append(carrying(n), addr4(n)) {
				f.Add(a.AsSlice())
			}
		}
	}
	for _, a := range carrying(0x08080808) {
		f.Add(a.AsSlice())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		kind := Special(a)
		if a.Is4() {
			n := binary.BigEndian.Uint32(b)
			if (kind != "") != isSpecial4(n) {
				t.Errorf("%v is %q", a, kind)
			}
			for _, c := range carrying(n) {
				if Special(c) == "" {
					t.Errorf("%v, which carries %v, is public", c, a)
				}
			}
		} else if inner := embedded(a.As16()); kind == "" && len(inner) > 0 {
			t.Errorf("%v carries %v, and is public", a, addr4(inner[0]))
		}
		if Special(a.WithZone("1")) == "" && a.Is6() {
			t.Errorf("%v in a zone is public", a)
		}
		if kind != "" {
			return
		}
		if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsMulticast() || !PublicAddrs().Contains(a) {
			t.Errorf("%v is public", a)
		}
		if DeclaredSpecial(Addr(a)).Contains(a) {
			t.Errorf("declaring %v, which is public, opens it", a)
		}
	})
}

func TestDeclaredSpecial(t *testing.T) {
	for _, c := range []struct {
		cidr         string
		open, closed []string
	}{
		{"0.0.0.0/0", nil, []string{"10.0.0.1", "127.0.0.1", "169.254.169.254", "8.8.8.8", "168.63.129.16"}},
		{"::/0", nil, []string{"::1", "fd00::1", "64:ff9b::a00:1", "2606:4700::1", "10.0.0.1", "::ffff:10.0.0.1"}},
		{"0.0.0.0/1", nil, []string{"10.0.0.1", "127.0.0.1"}},
		{"10.0.0.0/7", nil, []string{"10.0.0.1", "11.0.0.1"}},
		{"168.63.129.0/24", nil, []string{"168.63.129.16", "168.63.129.1"}},
		{"8.8.8.8", nil, []string{"8.8.8.8"}},
		{"10.0.0.0/8", []string{"10.0.0.1", "10.255.255.255", "::ffff:10.0.0.1"}, []string{"11.0.0.0", "64:ff9b::a00:1", "::a00:1", "2002:a00:1::", "192.168.0.1"}},
		{"10.1.2.3", []string{"10.1.2.3"}, []string{"10.1.2.4"}},
		{"169.254.0.0/16", []string{"169.254.1.1", "169.254.169.253", "169.254.169.255"}, []string{"169.254.169.254", "169.254.170.2", "169.254.42.42"}},
		{"169.254.169.254/31", []string{"169.254.169.255"}, []string{"169.254.169.254"}},
		{"169.254.169.254", []string{"169.254.169.254"}, []string{"169.254.169.253", "64:ff9b::a9fe:a9fe"}},
		{"169.254.169.254/32", []string{"169.254.169.254"}, nil},
		{"::ffff:169.254.169.254", []string{"169.254.169.254"}, nil},
		{"::ffff:169.254.0.0/112", []string{"169.254.1.1"}, []string{"169.254.169.254"}},
		{"168.63.129.16", []string{"168.63.129.16"}, []string{"168.63.129.17"}},
		{"100.64.0.0/10", []string{"100.64.0.1"}, []string{"100.100.100.200"}},
		{"fc00::/7", []string{"fd00::1", "fc00::1"}, []string{"fd00:ec2::254", "fd20:ce::254", "fd00:42::42"}},
		{"fd00:ec2::/32", nil, []string{"fd00:ec2::254", "fd00:ec2::1"}},
		{"fd00:ec2::254", []string{"fd00:ec2::254"}, []string{"fd00:ec2::23"}},
		{"fe80::/10", []string{"fe80::1"}, []string{"fe80::a9fe:a9fe"}},
		{"2000::/3", nil, []string{"2001:db8::1", "2002:a00:1::"}},

		// What IPv6 addresses carry.
		{"64:ff9b::/96", []string{"64:ff9b::808:808"}, []string{"64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a83f:8110"}},
		{"64:ff9b::a00:0/104", []string{"64:ff9b::a00:1"}, []string{"64:ff9b::808:808", "10.0.0.1"}},
		{"64:ff9b::a9fe:0/112", []string{"64:ff9b::a9fe:1"}, []string{"64:ff9b::a9fe:a9fe"}},
		{"64:ff9b::a9fe:a9fe", []string{"64:ff9b::a9fe:a9fe"}, []string{"169.254.169.254"}},
		{"64:ff9b::/32", nil, []string{"64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1::808:808"}},
		{"64:ff9b:1::/48", nil, []string{"64:ff9b:1::808:808", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::"}},
		{"64:ff9b:1::/96", []string{"64:ff9b:1::808:808"}, []string{"64:ff9b:1::a00:1", "64:ff9b:1::a9fe:a9fe"}},
		{"64:ff9b:1:2::a00:0/104", []string{"64:ff9b:1:2::a00:1"}, []string{"64:ff9b:1::a00:1"}},
		{"2002::/16", []string{"2002:808:808::1"}, []string{"2002:a00:1::1", "2002:a9fe:a9fe::1"}},
		{"2002:a00::/24", []string{"2002:a00:1::1"}, nil},
		{"2001::/23", []string{"2001:1::1"}, []string{"2001::1"}},
		{"2001::/32", nil, []string{"2001:0:41f0:1:8000:63bf:5601:5601"}},
		{"::/96", []string{"::808:808"}, []string{"::a9fe:a9fe", "::1", "::7f00:1"}},
		{"::1", []string{"::1"}, []string{"127.0.0.1"}},
		{"::/8", nil, []string{"::1", "10.0.0.1", "169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "::ffff:0:a9fe:a9fe"}},
	} {
		a, err := ParseCIDR(c.cidr)
		if err != nil {
			t.Fatal(err)
		}
		opened := DeclaredSpecial(a)
		for _, text := range c.open {
			if !opened.Contains(netip.MustParseAddr(text)) {
				t.Errorf("%s does not open %s", c.cidr, text)
			}
		}
		for _, text := range c.closed {
			if opened.Contains(netip.MustParseAddr(text)) {
				t.Errorf("%s opens %s", c.cidr, text)
			}
		}
	}
	if !DeclaredSpecial(Addrs{}).IsEmpty() {
		t.Error("no CIDR opens something")
	}
}

// Whatever is declared opens nothing but special-purpose addresses that it holds,
// and no metadata service, not even as it is carried at a known place, but by
// its own address.
func TestDeclaredSpecialOpensNoMore(t *testing.T) {
	var metadata []netip.Addr
	for _, r := range specialTable {
		if r.kind == Metadata {
			metadata = append(metadata, r.prefix.Addr())
			if r.prefix.Addr().Is4() {
				b := r.prefix.Addr().As4()
				for _, a := range carrying(binary.BigEndian.Uint32(b[:])) {
					if !isatap(a) { // its place is in every prefix
						metadata = append(metadata, a)
					}
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		around := rapid.SampledFrom(append(slices.Clone(metadata), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2606:4700::1"), netip.MustParseAddr("10.0.0.1"))).Draw(t, "around")
		prefix, err := around.Prefix(rapid.IntRange(0, around.BitLen()).Draw(t, "bits"))
		if err != nil {
			t.Fatal(err)
		}
		declared := AddrsOf(prefix)
		opened := DeclaredSpecial(declared)
		if !opened.SubsetOf(declared) {
			t.Fatalf("%v opens %v", prefix, opened)
		}
		for _, r := range opened.Ranges() {
			for _, a := range []netip.Addr{r.From(), r.To()} {
				if Special(a) == "" {
					t.Fatalf("%v opens %v, which is public", prefix, a)
				}
			}
		}
		if single := declared.Prefixes(); len(single) == 1 && single[0].IsSingleIP() {
			return
		}
		for _, a := range metadata {
			if opened.Contains(a) && !(localNAT64.Contains(a) && prefix.Bits() >= 96) {
				t.Fatalf("%v opens %v", prefix, a)
			}
		}
	})
}

func isatap(a netip.Addr) bool {
	low := a.As16()
	return binary.BigEndian.Uint32(low[8:])&^(2<<24) == 0x5efe
}

func BenchmarkSpecial(b *testing.B) {
	for _, text := range []string{"151.101.1.6", "2606:4700::1111"} {
		a := netip.MustParseAddr(text)
		b.Run(text, func(b *testing.B) {
			for b.Loop() {
				if Special(a) != "" {
					b.Fatal(a)
				}
			}
		})
	}
}
