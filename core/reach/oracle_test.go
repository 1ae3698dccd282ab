package reach

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// The oracle decides one packet at a time, straight from the meaning that
// package network states, in a world where every open question has an answer.
// It shares no code with the engine but the types.

// world answers what the network leaves open.
type world struct {
	n *network.Network
	// addr is where each endpoint really is.
	addr []netip.Addr
	// value settles unsettled attributes, by endpoint and key.
	value map[string]string
	// absent says of attributes that may not be there that they are not.
	absent map[string]bool
	// ports are what endpoints declare beyond what is seen.
	ports map[int][]network.Port
	// effective settles uncertain rules and paths, by name.
	effective map[string]bool
}

type packet struct {
	src, dst int // endpoints, or -1
	srcIP    netip.Addr
	dstIP    netip.Addr
	proto    netset.Protocol
	port     uint16
}

func (w *world) means(id network.PredicateID, endpoint int, ip netip.Addr) bool {
	p := w.n.Predicates()[id]
	if p.Everything {
		return true
	}
	if endpoint < 0 {
		return p.Addrs.Contains(ip)
	}
	e := w.n.Endpoints[endpoint]
	if !p.AddrsOutsideOnly && p.Addrs.Contains(w.addr[endpoint]) {
		return true
	}
	if e.Identity != "" && p.Identities.Contains(e.Identity) {
		return true
	}
	if !p.Endpoints || p.Kinds&e.EndOf() == 0 {
		return false
	}
	var scope map[string]string
	if e.Scope >= 0 {
		sc := w.n.Scopes[e.Scope]
		if p.ScopeName != "" && p.ScopeName != sc.Name {
			return false
		}
		scope = sc.Attributes
	} else if p.ScopeName != "" || len(p.Scope) > 0 {
		return false
	}
	return w.selects(p.Scope, scope, -1) && w.selects(p.Attributes, e.Attributes, endpoint)
}

func (w *world) selects(s network.Selector, attributes map[string]string, endpoint int) bool {
	for _, r := range s {
		v, ok := attributes[r.Key]
		switch v {
		case network.Unsettled:
			v = w.value[fmt.Sprint(endpoint, r.Key)]
		case network.Unstated:
			v = w.value[fmt.Sprint(endpoint, r.Key)]
			ok = !w.absent[fmt.Sprint(endpoint, r.Key)]
		}
		in := false
		for _, want := range r.Values {
			in = in || ok && want == v
		}
		holds := map[network.Operator]bool{network.In: in, network.NotIn: !in, network.Exists: ok, network.DoesNotExist: !ok}[r.Op]
		if !holds {
			return false
		}
	}
	return true
}

func (w *world) ruleMatches(r *network.Rule, k packet, subject, peer int, peerIP netip.Addr) bool {
	if r.Uncertain != "" && !w.effective[r.Name] {
		return false
	}
	if !w.means(r.Subject, subject, netip.Addr{}) {
		return false
	}
	peerOK := false
	for _, p := range r.Peers {
		peerOK = peerOK || w.means(p, peer, peerIP)
	}
	if !peerOK {
		return false
	}
	if r.Traffic.Has(k.proto, k.port) {
		return true
	}
	if k.dst >= 0 {
		for _, np := range r.Named {
			for _, p := range append(w.ports[k.dst], w.n.Endpoints[k.dst].Ports...) {
				if p.Name == np.Name && p.Protocol == np.Protocol && p.Protocol == k.proto && p.Number == k.port {
					return true
				}
			}
		}
	}
	return false
}

// outcomes returns every result that the layer can have for the packet: more
// than one only where rules of equal priority disagree.
func (w *world) outcomes(l *network.Layer, dir network.Direction, k packet) map[bool]bool {
	subject, peer, peerIP := k.src, k.dst, k.dstIP
	if dir == network.Ingress {
		subject, peer, peerIP = k.dst, k.src, k.srcIP
	}
	if subject < 0 {
		return map[bool]bool{true: true}
	}
	return w.tables(l.Tables[dir], l.Default, k, subject, peer, peerIP)
}

func (w *world) tables(tables []network.Table, def network.Action, k packet, subject, peer int, peerIP netip.Addr) map[bool]bool {
	if len(tables) == 0 {
		return map[bool]bool{def == network.Allow: true}
	}
	t := &tables[0]
	rest := func() map[bool]bool { return w.tables(tables[1:], def, k, subject, peer, peerIP) }
	undecided := func() map[bool]bool {
		for _, iso := range t.Isolates {
			if w.means(iso.Subject, subject, netip.Addr{}) {
				return map[bool]bool{false: true}
			}
		}
		return rest()
	}
	if !t.Ordered {
		for i := range t.Rules {
			if w.ruleMatches(&t.Rules[i], k, subject, peer, peerIP) {
				return map[bool]bool{true: true}
			}
		}
		return undecided()
	}
	// The lowest priority with a match decides; each group answers with its
	// first match.
	best := 0
	first := map[int]network.Action{}
	for i := range t.Rules {
		r := &t.Rules[i]
		if !w.ruleMatches(r, k, subject, peer, peerIP) {
			continue
		}
		if len(first) > 0 && r.Priority > best {
			continue
		}
		if len(first) == 0 || r.Priority < best {
			best, first = r.Priority, map[int]network.Action{}
		}
		if _, ok := first[r.Group]; !ok {
			first[r.Group] = r.Action
		}
	}
	if len(first) == 0 {
		return undecided()
	}
	out := map[bool]bool{}
	for _, action := range first {
		switch action {
		case network.Allow:
			out[true] = true
		case network.Deny:
			out[false] = true
		case network.Pass:
			for v := range undecided() {
				out[v] = true
			}
		}
	}
	return out
}

func (w *world) end(endpoint int) network.End {
	if endpoint < 0 {
		return network.EndOutside
	}
	return w.n.Endpoints[endpoint].EndOf()
}

// passes returns the results that the packet can have over all paths.
func (w *world) passes(k packet) map[bool]bool {
	possible := map[bool]bool{false: true}
	for pi := range w.n.Paths {
		p := &w.n.Paths[pi]
		if p.From&w.end(k.src) == 0 || p.To&w.end(k.dst) == 0 || p.Uncertain != "" && !w.effective[p.Name] {
			continue
		}
		one := w.alongPath(p, k)
		next := map[bool]bool{}
		for a := range possible {
			for b := range one {
				next[a || b] = true
			}
		}
		possible = next
	}
	return possible
}

func (w *world) alongPath(p *network.Path, k packet) map[bool]bool {
	possible := map[bool]bool{true: true}
	cur := k
	var inner []packet
	for i := range p.Steps {
		s := &p.Steps[i]
		switch s.Kind {
		case network.Wrap:
			inner = append(inner, cur)
			cur.proto, cur.port, _, _ = s.Outer.Example()
		case network.Unwrap:
			cur = inner[len(inner)-1]
			inner = inner[:len(inner)-1]
		case network.Replace:
			cur.src = -1
			cur.srcIP, _ = s.Peer.Example()
		case network.Filter:
			asked := cur
			if s.Direction == network.Egress {
				asked.src = k.src
			}
			one := w.outcomes(&w.n.Layers[s.Layer], s.Direction, asked)
			next := map[bool]bool{}
			for a := range possible {
				for b := range one {
					next[a && b] = true
				}
			}
			possible = next
		}
	}
	return possible
}

// genNetwork draws a small network. open permits facts that are not known.
func genNetwork(t *rapid.T, open bool) *network.Network {
	n := &network.Network{}
	keys, values := []string{"app", "tier"}, []string{"a", "b"}
	attrs := func(label string) map[string]string {
		m := map[string]string{}
		for _, k := range keys {
			switch rapid.IntRange(0, 4).Draw(t, label+k) {
			case 0:
				m[k] = "a"
			case 1:
				m[k] = "b"
			case 2:
				if open {
					m[k] = network.Unsettled
				}
			case 3:
				if open {
					m[k] = network.Unstated
				}
			}
		}
		return m
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "scopes") {
		m := attrs("scope")
		for k, v := range m {
			if v == network.Unsettled || v == network.Unstated {
				delete(m, k)
			}
		}
		n.Scopes = append(n.Scopes, network.Scope{Name: fmt.Sprintf("ns%d", i), Attributes: m})
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "endpoints") {
		e := network.Endpoint{
			Workload:   fmt.Sprintf("w%d", i),
			Scope:      rapid.IntRange(-1, len(n.Scopes)-1).Draw(t, "scope"),
			Attributes: attrs("labels"),
			Kind:       rapid.SampledFrom([]network.Kind{network.Workload, network.Workload, network.Workload, network.Host, network.Control}).Draw(t, "kind"),
			Addrs:      netset.Addr(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 7).Draw(t, "ip"))})),
			AddrsKnown: true,
		}
		if rapid.IntRange(0, 5).Draw(t, "shared") == 0 {
			e.Attachment = network.HostShared
			e.Everywhere = rapid.Bool().Draw(t, "everywhere")
		}
		if rapid.IntRange(0, 4).Draw(t, "identity") == 0 {
			e.Identity = "id-" + rapid.SampledFrom(values).Draw(t, "id")
		}
		e.PortsUnseen = open && rapid.IntRange(0, 3).Draw(t, "ports unseen") == 0
		if open && rapid.IntRange(0, 3).Draw(t, "addr unknown") == 0 {
			e.Addrs, e.AddrsKnown = netset.MustAddrs("10.0.0.0/29"), false
		}
		for _, number := range []uint16{80, 81} {
			if rapid.Bool().Draw(t, "named") {
				e.Ports = append(e.Ports, network.Port{Name: rapid.SampledFrom([]string{"http", "web"}).Draw(t, "portname"), Protocol: netset.TCP, Number: number})
			}
		}
		n.Endpoints = append(n.Endpoints, e)
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "layers") {
		n.Layers = append(n.Layers, genLayer(t, n, open, i, keys, values))
	}
	genPaths(t, n, open)
	return n
}

func genSelector(t *rapid.T, keys, values []string) network.Selector {
	var s network.Selector
	for range rapid.IntRange(0, 2).Draw(t, "requirements") {
		r := network.Requirement{Key: rapid.SampledFrom(keys).Draw(t, "key"), Op: network.Operator(rapid.IntRange(0, 3).Draw(t, "op"))}
		if r.Op <= network.NotIn {
			r.Values = rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, 2, rapid.ID).Draw(t, "values")
		}
		s = append(s, r)
	}
	return s
}

func genPredicate(t *rapid.T, n *network.Network, keys, values []string) network.PredicateID {
	var p network.Predicate
	switch rapid.IntRange(0, 5).Draw(t, "predicate") {
	case 0:
		p.Everything = true
	case 1:
		bits := rapid.IntRange(28, 32).Draw(t, "bits")
		ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 15).Draw(t, "cidr"))})
		p.Addrs = netset.AddrsOf(netip.PrefixFrom(ip, bits))
		if rapid.Bool().Draw(t, "except") {
			p.Addrs = p.Addrs.Subtract(netset.Addr(ip))
		}
		p.AddrsOutsideOnly = rapid.IntRange(0, 3).Draw(t, "outside only") == 0
	case 2:
		p.Identities = netset.Identity("id-" + rapid.SampledFrom(values).Draw(t, "id"))
	default:
		p.Endpoints = true
		if rapid.Bool().Draw(t, "by name") {
			p.ScopeName = rapid.SampledFrom(n.Scopes).Draw(t, "scope").Name
		} else {
			p.Scope = genSelector(t, keys, values)
		}
		p.Attributes = genSelector(t, keys, values)
		if rapid.IntRange(0, 3).Draw(t, "kinds") == 0 {
			p.Kinds = network.EndOwn | network.EndHost
		}
	}
	return n.Predicate(p)
}

func genTraffic(t *rapid.T) (netset.Traffic, []network.NamedPort) {
	switch rapid.IntRange(0, 4).Draw(t, "traffic") {
	case 0:
		return netset.All(), nil
	case 1:
		return netset.Port(netset.UDP, 80), nil
	case 2:
		return netset.Traffic{}, []network.NamedPort{{Protocol: netset.TCP, Name: rapid.SampledFrom([]string{"http", "web"}).Draw(t, "name")}}
	default:
		lo := uint16(rapid.IntRange(79, 82).Draw(t, "lo"))
		return netset.Ports(netset.TCP, lo, lo+uint16(rapid.IntRange(0, 2).Draw(t, "n"))), nil
	}
}

func genLayer(t *rapid.T, n *network.Network, open bool, li int, keys, values []string) network.Layer {
	l := network.Layer{Name: fmt.Sprintf("layer%d", li), Default: network.Action(rapid.IntRange(0, 1).Draw(t, "default"))}
	for dir := range l.Tables {
		for ti := range rapid.IntRange(0, 3).Draw(t, "tables") {
			tab := network.Table{Name: fmt.Sprintf("t%d", ti), Ordered: rapid.Bool().Draw(t, "ordered")}
			for ri := range rapid.IntRange(0, 4).Draw(t, "rules") {
				r := network.Rule{Name: fmt.Sprintf("l%d d%d t%d r%d", li, dir, ti, ri), Subject: genPredicate(t, n, keys, values)}
				for range rapid.IntRange(0, 2).Draw(t, "peers") {
					r.Peers = append(r.Peers, genPredicate(t, n, keys, values))
				}
				r.Traffic, r.Named = genTraffic(t)
				if tab.Ordered {
					r.Action = network.Action(rapid.IntRange(0, 2).Draw(t, "action"))
					r.Priority = rapid.IntRange(0, 2).Draw(t, "priority")
					r.Group = rapid.IntRange(0, 1).Draw(t, "group")
				}
				if open && rapid.IntRange(0, 5).Draw(t, "uncertain") == 0 {
					r.Uncertain = "drawn"
				}
				tab.Rules = append(tab.Rules, r)
			}
			for range rapid.IntRange(0, 1).Draw(t, "isolates") {
				tab.Isolates = append(tab.Isolates, network.Isolation{Name: "iso", Subject: genPredicate(t, n, keys, values)})
			}
			l.Tables[dir] = append(l.Tables[dir], tab)
		}
	}
	return l
}

const everyEnd = network.EndOwn | network.EndShared | network.EndSharedEverywhere | network.EndHost | network.EndControl | network.EndOutside

func genPaths(t *rapid.T, n *network.Network, open bool) {
	filter := func(l int, d network.Direction) network.Step {
		return network.Step{Kind: network.Filter, Layer: l, Direction: d}
	}
	last := len(n.Layers) - 1
	direct := network.Path{Name: "direct", From: everyEnd, To: everyEnd}
	switch rapid.IntRange(0, 3).Draw(t, "shape") {
	case 0: // a tunnel that the last layer does not see into
		direct.Steps = []network.Step{
			filter(0, network.Egress),
			{Kind: network.Wrap, Outer: netset.Port(netset.TCP, 81)},
			filter(last, network.Egress), filter(last, network.Ingress),
			{Kind: network.Unwrap},
			filter(0, network.Ingress),
		}
	case 1: // a source replaced on the way
		ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(8, 15).Draw(t, "snat"))})
		direct.Steps = []network.Step{
			filter(0, network.Egress),
			{Kind: network.Replace, Peer: netset.Addr(ip)},
			filter(last, network.Ingress),
		}
	default:
		for l := range n.Layers {
			direct.Steps = append(direct.Steps, filter(l, network.Egress), filter(l, network.Ingress))
		}
	}
	n.Paths = append(n.Paths, direct)
	if rapid.Bool().Draw(t, "second path") {
		p := network.Path{Name: "local", From: network.EndHost | network.EndShared, To: network.EndOwn, Steps: []network.Step{filter(0, network.Ingress)}}
		if open {
			p.Uncertain = "drawn"
		}
		n.Paths = append(n.Paths, p)
	}
}

// genWorld settles what is open.
func genWorld(t *rapid.T, n *network.Network) *world {
	w := &world{n: n, value: map[string]string{}, absent: map[string]bool{}, ports: map[int][]network.Port{}, effective: map[string]bool{}}
	for i, e := range n.Endpoints {
		ip, _ := e.Addrs.Example()
		if !e.AddrsKnown {
			ip = netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 7).Draw(t, "real ip"))})
		}
		w.addr = append(w.addr, ip)
		if e.PortsUnseen && rapid.Bool().Draw(t, "more ports") {
			w.ports[i] = []network.Port{{Name: rapid.SampledFrom([]string{"http", "web"}).Draw(t, "unseen name"), Protocol: netset.TCP, Number: uint16(rapid.IntRange(79, 82).Draw(t, "unseen number"))}}
		}
		for _, k := range []string{"app", "tier"} {
			w.value[fmt.Sprint(i, k)] = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "real value")
			w.absent[fmt.Sprint(i, k)] = rapid.Bool().Draw(t, "absent")
		}
	}
	for _, l := range n.Layers {
		for _, ts := range l.Tables {
			for _, tab := range ts {
				for _, r := range tab.Rules {
					if r.Uncertain != "" {
						w.effective[r.Name] = rapid.Bool().Draw(t, "effective")
					}
				}
			}
		}
	}
	for _, p := range n.Paths {
		if p.Uncertain != "" {
			w.effective[p.Name] = rapid.Bool().Draw(t, "path exists")
		}
	}
	return w
}

var oracleTraffic = []struct {
	proto netset.Protocol
	port  uint16
}{
	{netset.TCP, 78}, {netset.TCP, 79}, {netset.TCP, 80}, {netset.TCP, 81}, {netset.TCP, 82}, {netset.TCP, 83},
	{netset.TCP, 84}, {netset.TCP, 85}, {netset.UDP, 80}, {netset.UDP, 81}, {netset.SCTP, 80}, {netset.ICMP, 8 << 8}, {netset.Other, 47},
}

// checkAgainst compares every packet between endpoints and with the outside.
// In a settled network the answers are equal; otherwise an allow or deny of
// the engine holds in this world.
func checkAgainst(t *rapid.T, a *Analysis, w *world, settled bool) {
	check := func(k packet, src, dst ClassID) {
		for _, tr := range oracleTraffic {
			k.proto, k.port = tr.proto, tr.port
			got := a.Between(src, dst)
			want := w.passes(k)
			allow, unknown := got.Allow.Has(k.proto, k.port), got.Unknown.Has(k.proto, k.port)
			switch {
			case allow && want[false]:
				t.Fatalf("%d→%d (%v→%v) %v/%d: engine allows, the oracle can deny", k.src, k.dst, k.srcIP, k.dstIP, k.proto, k.port)
			case !allow && !unknown && want[true]:
				t.Fatalf("%d→%d (%v→%v) %v/%d: engine denies, the oracle can allow", k.src, k.dst, k.srcIP, k.dstIP, k.proto, k.port)
			case settled && unknown && len(want) == 1:
				t.Fatalf("%d→%d (%v→%v) %v/%d: engine says unknown, the oracle only %v", k.src, k.dst, k.srcIP, k.dstIP, k.proto, k.port, want)
			}
		}
	}
	outside := []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.14"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2001:db8::1")}
	for i := range w.n.Endpoints {
		for j := range w.n.Endpoints {
			if i != j {
				check(packet{src: i, dst: j, srcIP: w.addr[i], dstIP: w.addr[j]}, a.ClassOf(i), a.ClassOf(j))
			}
		}
		for _, ip := range outside {
			out := a.ClassOfAddr(ip)
			check(packet{src: i, dst: -1, srcIP: w.addr[i], dstIP: ip}, a.ClassOf(i), out)
			check(packet{src: -1, dst: i, srcIP: ip, dstIP: w.addr[i]}, out, a.ClassOf(i))
		}
	}
}

// checkEdges holds enumeration against the pairwise answers.
func checkEdges(t *rapid.T, a *Analysis) {
	for src := range a.Classes() {
		seen := map[ClassID]Decision{}
		for dst, d := range a.From(ClassID(src)) {
			if _, twice := seen[dst]; twice {
				t.Fatalf("edge %d→%d enumerated twice", src, dst)
			}
			seen[dst] = d
		}
		for dst := range a.Classes() {
			want := a.Between(ClassID(src), ClassID(dst))
			got := seen[ClassID(dst)]
			if !want.Allow.Equal(got.Allow) || !want.Unknown.Equal(got.Unknown) {
				t.Fatalf("edge %d→%d enumerated as %v, asked as %v", src, dst, got, want)
			}
		}
	}
}

// checkWitnesses replays: what a witness says of one connection is what the
// sets say, and it names what decided.
func checkWitnesses(t *rapid.T, a *Analysis) {
	for src := range a.Classes() {
		for dst := range a.Classes() {
			if a.Classes()[src].Outside() && a.Classes()[dst].Outside() {
				continue
			}
			d := a.Between(ClassID(src), ClassID(dst))
			for _, tr := range oracleTraffic {
				one := netset.Port(tr.proto, tr.port)
				w := a.Explain(Question{From: ClassID(src), To: ClassID(dst), Traffic: one})
				if want := verdictOn(d, one); w.Verdict != want {
					t.Fatalf("%d→%d %v: the witness says %v, the sets %v: %+v", src, dst, one, w.Verdict, want, w.Hops)
				}
				if len(w.Hops) == 0 || w.Hops[len(w.Hops)-1].Why == "" {
					t.Fatalf("%d→%d %v: a witness without a reason", src, dst, one)
				}
			}
		}
	}
}

func TestClassesEqualNaiveEvaluation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := genNetwork(t, false)
		a := New(n)
		checkAgainst(t, a, genWorld(t, n), true)
		checkEdges(t, a)
		checkWitnesses(t, a)
	})
}

func TestUnknownBoundsEveryWorld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := genNetwork(t, true)
		a := New(n)
		for range 4 {
			checkAgainst(t, a, genWorld(t, n), false)
		}
		checkEdges(t, a)
		checkWitnesses(t, a)
	})
}

// TestOrderTiesAndDoubts draws nothing but rules: two endpoints, rules that mean
// both, every order, tie and doubt, in every world.
func TestOrderTiesAndDoubts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &network.Network{Endpoints: []network.Endpoint{
			{Workload: "a", Scope: -1, Addrs: netset.MustAddrs("10.0.0.1/32"), AddrsKnown: true},
			{Workload: "b", Scope: -1, Addrs: netset.MustAddrs("10.0.0.2/32"), AddrsKnown: true},
		}}
		everything := n.Predicate(network.Predicate{Everything: true})
		l := network.Layer{Name: "l", Default: network.Action(rapid.IntRange(0, 1).Draw(t, "default"))}
		var doubts []string
		for ti := range rapid.IntRange(1, 2).Draw(t, "tables") {
			tab := network.Table{Name: fmt.Sprint(ti), Ordered: rapid.IntRange(0, 3).Draw(t, "ordered") > 0}
			for ri := range rapid.IntRange(0, 4).Draw(t, "rules") {
				r := network.Rule{Name: fmt.Sprintf("t%d r%d", ti, ri), Subject: everything, Peers: []network.PredicateID{everything},
					Traffic: netset.Ports(netset.TCP, uint16(rapid.IntRange(79, 81).Draw(t, "lo")), 81)}
				if tab.Ordered {
					r.Action = network.Action(rapid.IntRange(0, 2).Draw(t, "action"))
					r.Priority = rapid.IntRange(0, 1).Draw(t, "priority")
					r.Group = rapid.IntRange(0, 1).Draw(t, "group")
				}
				if rapid.Bool().Draw(t, "doubt") {
					r.Uncertain = "drawn"
					doubts = append(doubts, r.Name)
				}
				tab.Rules = append(tab.Rules, r)
			}
			if rapid.Bool().Draw(t, "isolates") {
				tab.Isolates = []network.Isolation{{Name: "iso", Subject: everything}}
			}
			l.Tables[network.Egress] = append(l.Tables[network.Egress], tab)
		}
		n.Layers = []network.Layer{l}
		n.Paths = []network.Path{{Name: "direct", From: everyEnd, To: everyEnd, Steps: []network.Step{{Kind: network.Filter, Layer: 0, Direction: network.Egress}}}}
		a := New(n)
		for bits := range 1 << len(doubts) {
			w := &world{n: n, addr: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, effective: map[string]bool{}}
			for i, d := range doubts {
				w.effective[d] = bits>>i&1 == 1
			}
			checkAgainst(t, a, w, len(doubts) == 0)
		}
	})
}

// TestReuseEqualsFresh changes one rule table and holds the analysis that
// reuses the previous one against one made from nothing, and what it says has
// changed against the two compared pair by pair.
func TestReuseEqualsFresh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := NewAnalyzer()
		n := genNetwork(t, true)
		var before *Analysis
		for range 3 {
			reused, fresh := z.Analyze(n), New(n)
			if before != nil && reused.SameClasses(before) {
				checkChanged(t, before, reused)
			}
			before = reused
			for src := range fresh.Classes() {
				for dst := range fresh.Classes() {
					x, y := reused.Between(ClassID(src), ClassID(dst)), fresh.Between(ClassID(src), ClassID(dst))
					if !x.Allow.Equal(y.Allow) || !x.Unknown.Equal(y.Unknown) {
						t.Fatalf("%d→%d: %v reused, %v fresh", src, dst, x, y)
					}
				}
			}
			next := *n
			if rapid.Bool().Draw(t, "relabel") {
				next.Endpoints = append([]network.Endpoint(nil), n.Endpoints...)
				for i := range next.Endpoints {
					if rapid.Bool().Draw(t, "which") {
						next.Endpoints[i].Attributes = map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "new")}
					}
				}
			}
			next.Layers = append([]network.Layer(nil), n.Layers...)
			next.Layers[0] = genLayer(t, &next, true, 0, []string{"app", "tier"}, []string{"a", "b"})
			n = &next
		}
	})
}

func checkChanged(t *rapid.T, before, after *Analysis) {
	changed := map[[2]ClassID]bool{}
	for pair := range after.Changed(before) {
		changed[pair] = true
	}
	for src := range after.Classes() {
		for dst := range after.Classes() {
			pair := [2]ClassID{ClassID(src), ClassID(dst)}
			x, y := before.Between(pair[0], pair[1]), after.Between(pair[0], pair[1])
			if same := x.Allow.Equal(y.Allow) && x.Unknown.Equal(y.Unknown); same == changed[pair] {
				t.Fatalf("%d→%d: %v before, %v after, changed: %v", src, dst, x, y, changed[pair])
			}
		}
	}
}

func FuzzClassesEqualNaiveEvaluation(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		open := rapid.Bool().Draw(t, "open")
		n := genNetwork(t, open)
		a := New(n)
		checkAgainst(t, a, genWorld(t, n), !open)
		checkEdges(t, a)
	}))
}
