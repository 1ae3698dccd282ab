package host

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// packet is what rules look at.
type packet struct {
	in, out          string
	from, to         netip.Addr
	proto            uint8
	fromPort, toPort uint16
	mark, ctMark     uint32
	dir              direction
	broken, dnat     bool
	syn, rst         bool
	cgroup           *cgroup
}

// judge is what a base chain does with a packet: accept or one of the others,
// and the port if it was redirected.
func (t table) judge(name string, p *packet) verdict {
	for _, c := range t.chains {
		if c.name != name {
			continue
		}
		if v, ok := t.walk(c, p); ok {
			return v
		}
		if c.drop {
			return verdict{kind: drop}
		}
	}
	return verdict{kind: accept}
}

func (t table) walk(c chain, p *packet) (verdict, bool) {
	for _, r := range c.rule {
		if !r.matches(p) {
			continue
		}
		switch r.do.kind {
		case logged:
		case setMark:
			p.mark = r.do.mark
		case setCtMark:
			p.ctMark = r.do.mark
		case jump:
			i := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == r.do.chain })
			if v, ok := t.walk(t.chains[i], p); ok {
				return v, true
			}
		case redirectBy:
			for e := range r.do.set.has {
				if r.do.set.holds(e, p, false) {
					return verdict{kind: redirect, port: e.value}, true
				}
			}
		default:
			return r.do, true
		}
	}
	return verdict{}, false
}

func (r rule) matches(p *packet) bool {
	version := uint8(6)
	if p.to.Is4() {
		version = 4
	}
	tcp := p.proto == protoTCP
	switch {
	case r.family != 0 && r.family != version,
		r.in != "" && r.in != p.in,
		r.out != "" && r.out != p.out,
		r.proto != 0 && r.proto != p.proto,
		r.fromPort.hi != 0 && (p.fromPort < r.fromPort.lo || p.fromPort > r.fromPort.hi),
		r.toPort.hi != 0 && (p.toPort < r.toPort.lo || p.toPort > r.toPort.hi),
		r.mark != 0 && r.mark != p.mark,
		r.ctMark != 0 && r.ctMark != p.ctMark,
		r.dir != anyDirection && (p.broken || r.dir != p.dir),
		r.broken && !p.broken,
		r.dnat && !p.dnat,
		r.syn && !(tcp && p.syn),
		r.rst && !(tcp && p.rst),
		r.socketIn != nil && (p.cgroup == nil || *p.cgroup != *r.socketIn):
		return false
	}
	if r.within == nil {
		return true
	}
	found := false
	for e := range r.within.set.has {
		found = found || r.within.set.holds(e, p, r.within.back)
	}
	return found != r.within.not
}

func (s *set) holds(e element, p *packet, back bool) bool {
	from, to, port := p.from, p.to, p.toPort
	if back {
		from, to, port = p.to, p.from, p.fromPort
	}
	for _, f := range s.key {
		switch f {
		case fieldIn:
			if e.in != p.in {
				return false
			}
		case fieldFrom:
			if !e.from.Contains(from) {
				return false
			}
		case fieldTo:
			if !e.to.Contains(to) {
				return false
			}
		case fieldProto:
			if e.proto != p.proto {
				return false
			}
		case fieldToPort:
			if port < e.toPort.lo || port > e.toPort.hi {
				return false
			}
		}
	}
	return true
}

// deliver sends a packet of one member to another the whole way, and reports
// whether it arrives at the other's namespace.
func (p *Plan) deliver(k packet, from, to *Member) bool {
	tuples := p.tuples()
	link := func(w string) string { return "w" + w }
	k.in, k.out = "", meshLink
	source := memberFilter(from, tuples)
	// The kernel asks this chain about the first packet of a connection.
	if v := source.judge("redirect", &k); v.kind == redirect && k.dir == original && !k.broken {
		return false // it goes to the proxy
	}
	if source.judge("output", &k).kind != accept {
		return false
	}
	k.mark, k.in, k.out = 0, link(from.Name), link(to.Name)
	if fabricFilter(p, tuples, link).judge("forward", &k).kind != accept {
		return false
	}
	k.in, k.out = meshLink, ""
	return memberFilter(to, tuples).judge("input", &k).kind == accept
}

// declared reports whether a plan permits a packet, said independently of the
// rules.
func (p *Plan) declared(k packet, from, to *Member) bool {
	if k.from != from.address(k.from) || k.to != to.address(k.to) || k.broken {
		return false
	}
	plain := func(a, b *Member, port uint16) bool {
		return slices.ContainsFunc(p.Plain, func(t Plain) bool {
			return t.From == a.Name && t.To == b.Name && protoOf(t.Network) == k.proto && t.Lo <= port && port <= t.Hi
		})
	}
	door := func(a, b *Member) bool { return slices.Contains(p.Doors, Door{a.Zone, b.Zone}) }
	opens := k.proto == protoTCP && k.syn
	if plain(from, to, k.toPort) && !(opens && k.dir == reply) {
		return true
	}
	if k.dir == reply && !opens && plain(to, from, k.fromPort) {
		return true
	}
	if k.proto != protoTCP {
		return false
	}
	if k.mark == proxyMark && k.dir == original && k.toPort == TunnelPort && door(from, to) {
		return true
	}
	return (k.mark == proxyMark || k.rst) && k.dir == reply && !opens && k.fromPort == TunnelPort && door(to, from)
}

// randomPlan is a small plan in which much collides.
func randomPlan(r *rand.Rand) Plan {
	p := Plan{Platform: "x"}
	zones := 1 + r.IntN(3)
	for i := range zones {
		p.Zones = append(p.Zones, Zone{fmt.Sprint("z", i), netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(i * 64), 0}), 18),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 7: byte(i)}), 64)})
	}
	for i := range 2 + r.IntN(4) {
		z := i % zones
		p.Members = append(p.Members, Member{Name: fmt.Sprint("w", i), Zone: fmt.Sprint("z", z),
			V4: netip.AddrFrom4([4]byte{100, 64, byte(z * 64), byte(i + 1)}), V6: netip.AddrFrom16([16]byte{0xfd, 7: byte(z), 15: byte(i + 1)})})
	}
	for range r.IntN(4) {
		p.Doors = append(p.Doors, Door{fmt.Sprint("z", r.IntN(zones)), fmt.Sprint("z", r.IntN(zones))})
	}
	for range r.IntN(5) {
		lo := randomPort(r)
		p.Plain = append(p.Plain, Plain{From: fmt.Sprint("w", r.IntN(len(p.Members))), To: fmt.Sprint("w", r.IntN(len(p.Members))),
			Network: []string{"tcp", "udp"}[r.IntN(2)], Lo: lo, Hi: lo + uint16(r.IntN(3))})
	}
	for i := range p.Members {
		for j := range r.IntN(3) {
			to := p.Members[r.IntN(len(p.Members))]
			p.Members[i].UDP = append(p.Members[i].UDP, UDPCapture{netip.AddrPortFrom(to.V4, randomPort(r)), 15020 + uint16(j)})
		}
	}
	return p
}

func randomPort(r *rand.Rand) uint16 {
	return []uint16{53, 80, 9000, 9001, 9002, CapturePort - 1, CapturePort, TunnelPort, TunnelPort + 1, 15020, uint16(1 + r.IntN(65530))}[r.IntN(11)]
}

func randomPacket(r *rand.Rand, p *Plan) (k packet, from, to *Member) {
	pick := func() *Member { return &p.Members[r.IntN(len(p.Members))] }
	from, to = pick(), pick()
	k = packet{
		proto: []uint8{protoTCP, protoTCP, protoUDP, protoICMP, 132}[r.IntN(5)], fromPort: randomPort(r), toPort: randomPort(r),
		mark: []uint32{0, 0, proxyMark, 1}[r.IntN(4)], dir: direction(1 + r.IntN(2)), broken: r.IntN(8) == 0, syn: r.IntN(3) == 0, rst: r.IntN(4) == 0,
	}
	spoof := pick()
	if r.IntN(4) > 0 {
		spoof = from
	}
	k.from, k.to = spoof.V4, to.V4
	if r.IntN(2) == 0 {
		k.from, k.to = spoof.V6, to.V6
	}
	return k, from, to
}

// FuzzPlan: what the rules of a plan let pass from one workload to another is
// exactly what the plan declares.
func FuzzPlan(f *testing.F) {
	for i := range uint64(20) {
		f.Add(i, i)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		p := randomPlan(r)
		if p.check() != nil {
			return
		}
		for range 300 {
			k, from, to := randomPacket(r, &p)
			if from == to {
				continue
			}
			got, want := p.deliver(k, from, to), p.declared(k, from, to)
			if got && !want {
				t.Fatalf("%+v\nfrom %s to %s passes undeclared in\n%+v", k, from.Name, to.Name, p)
			}
			if want && !got {
				t.Fatalf("%+v\nfrom %s to %s is declared and does not pass in\n%+v", k, from.Name, to.Name, p)
			}
		}
	})
}

// TestFilterSelf: what a workload sends to itself reaches neither its proxy's
// capture port nor its tunnel port, and is never redirected.
func TestFilterSelf(t *testing.T) {
	m := &Member{Name: "a", Zone: "z", V4: netip.MustParseAddr("100.64.0.1")}
	f := memberFilter(m, nil)
	for port, want := range map[uint16]verdictKind{80: accept, CapturePort: reset, TunnelPort: reset} {
		for _, mark := range []uint32{0, proxyMark} {
			k := packet{out: "lo", from: m.V4, to: loopback4Test, proto: protoTCP, toPort: port, mark: mark, dir: original}
			if v := f.judge("redirect", &k); v.kind != accept {
				t.Errorf("port %d: redirected", port)
			}
			if v := f.judge("output", &k); v.kind != want {
				t.Errorf("port %d, mark %d: %d, want %d", port, mark, v.kind, want)
			}
		}
	}
	k := packet{out: meshLink, from: m.V4, to: netip.MustParseAddr("100.64.0.2"), proto: protoTCP, toPort: 80, dir: original}
	if v := f.judge("redirect", &k); v.kind != redirect || v.port != CapturePort {
		t.Errorf("not captured: %+v", v)
	}
	if v := f.judge("output", &k); v.kind == accept {
		t.Error("passes without having been redirected")
	}
	k.dnat = true
	if v := f.judge("output", &k); v.kind != accept {
		t.Error("does not reach the proxy")
	}
}

var loopback4Test = netip.MustParseAddr("127.0.0.1")

// FuzzPacket: no packet header breaks the parser, and addresses are of one
// family.
func FuzzPacket(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 53, 0, 80})
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 8, 0, 64, 47: 9}, 6, 0, 0, 0, 0, 0, 0, 0, 0, 53, 0, 80))
	f.Fuzz(func(t *testing.T, b []byte) {
		network, from, to, ok := parsePacket(b)
		if !ok {
			return
		}
		if network == "" || from.Addr().BitLen() != to.Addr().BitLen() || !from.IsValid() {
			t.Errorf("%q %v %v", network, from, to)
		}
	})
}

func TestParsePacket(t *testing.T) {
	v6 := func(next byte, rest ...byte) []byte {
		b := make([]byte, 40)
		b[0], b[6], b[23], b[39] = 0x60, next, 1, 2
		return append(b, rest...)
	}
	v4 := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 53, 0, 80}
	later := slices.Clone(v4)
	later[7] = 1
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"udp":            {v4, "udp 1.2.3.4:53 5.6.7.8:80"},
		"later fragment": {later, "udp 1.2.3.4:0 5.6.7.8:0"},
		"cut":            {v4[:21], "udp 1.2.3.4:0 5.6.7.8:0"},
		"short":          {v4[:19], ""},
		"nothing":        {nil, ""},
		"v6 tcp":         {v6(6, 0, 53, 0, 80), "tcp [::1]:53 [::2]:80"},
		"v6 hop by hop":  {v6(0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 53, 0, 80), "tcp [::1]:53 [::2]:80"},
		"v6 fragment":    {v6(44, 17, 0, 0, 8, 0, 0, 0, 0, 0, 53, 0, 80), "udp [::1]:0 [::2]:0"},
		"v6 gre":         {v6(47), "protocol 47 [::1]:0 [::2]:0"},
		"v6 extension 0": {v6(0, 0, 255), "protocol 0 [::1]:0 [::2]:0"},
	} {
		network, from, to, ok := parsePacket(c.b)
		got := ""
		if ok {
			got = fmt.Sprint(network, " ", from, " ", to)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
