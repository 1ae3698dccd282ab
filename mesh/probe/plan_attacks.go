package probe

import (
	"fmt"
	"net/netip"

	"bulkhead/core/netset"
	"bulkhead/mesh/identity"
)

// The ports of the data plane in a workload's namespace; see docs/design/mesh.md.
const (
	capturePort = 15001
	tunnelPort  = 15008
	firstUDP    = 15020
	nodePort    = 15009
	busPort     = 15010
)

// attacks adds what somebody tries who has taken a workload over.
func (pl *planner) attacks(m *Member) {
	victim := pl.victim(m.Name)
	pl.add(Case{Kind: ownIdentity, Name: m.Name + ": who am I", From: m.Name, Policy: "a workload gets its own identity and no other",
		want: wantOwnIdentity, own: pl.identity(m.Name), Task: Task{Do: FetchSVID}})
	if victim != "" {
		pl.reachTunnel(m, victim)
		pl.spoof(m, victim)
	}
	pl.outside(m)
	pl.egress(m)
	pl.loopback(m)
	pl.sockets(m, victim)
	pl.kernel(m)
}

// victim is whom a workload attacks: one that it may talk to, if there is one,
// because the ways to it are open.
func (pl *planner) victim(from string) string {
	if pl.filter.To != "" && pl.filter.To != from && len(pl.Addresses[pl.filter.To]) > 0 {
		return pl.filter.To
	}
	other := ""
	for _, to := range pl.names {
		if to == from || len(pl.Addresses[to]) == 0 {
			continue
		}
		if !pl.Intent.Between(party(from), party(to)).IsEmpty() && pl.local[to] != nil {
			return to
		}
		if other == "" || pl.local[other] == nil {
			other = to
		}
	}
	return other
}

// identity is the SPIFFE ID of a workload, empty if its names make none.
func (pl *planner) identity(name string) string {
	id, err := identity.ID(pl.TrustDomain, pl.Zones[name], name)
	if err != nil {
		return ""
	}
	return id.String()
}

const notDirectly = "a workload speaks to no proxy but its own"

// reachTunnel dials the other's proxy, past the own one. Inside a namespace the
// own proxy is met first; behind it is what the node itself attacks.
func (pl *planner) reachTunnel(m *Member, to string) {
	for _, addr := range pl.Addresses[to] {
		c := pl.refused(directTunnel, m, addr, tunnelPort, notDirectly)
		c.To = to
		pl.add(c)
	}
	for _, a := range intrusions {
		addr := pl.Addresses[to][0]
		c := pl.refused(a.kind, m, addr, tunnelPort, notDirectly)
		c.To, c.Name = to, fmt.Sprintf("%s → %s from inside: %s", m.Name, to, a.kind.Title)
		pl.intrusion(&c, a)
		if a.credential.isOwn() && m.Anonymous {
			continue
		}
		pl.add(c)
	}
}

// intrusion is an attack on the mutual TLS of a tunnel.
type intrusion struct {
	kind       Kind
	act        Act
	credential Credential
	otherName  bool // ask for another's server name
}

var intrusions = []intrusion{
	{kind: noCertificate, act: OpenTunnel, credential: None},
	{kind: wrongDomain, act: OpenTunnel, credential: OtherDomain},
	{kind: expiredSVID, act: OpenTunnel, credential: Expired},
	{kind: selfMade, act: OpenTunnel, credential: SelfMade},
	{kind: forgedLeaf, act: OpenTunnel, credential: Forged},
	{kind: otherSNI, act: OpenTunnel, credential: Own, otherName: true},
	{kind: oldTLS, act: OpenTunnel, credential: OldTLS},
	{kind: plainToTLS, act: SpeakPlain},
}

// isOwn reports whether it is made with the attacker's real certificate.
func (c Credential) isOwn() bool { return c == Own || c == OldTLS || c == Forged }

// intrusion fills in a task. The identity that is claimed is one that the target
// would let in: the attacker's own where it is permitted, which is the victim's
// dearest client.
func (pl *planner) intrusion(c *Case, a intrusion) {
	t := &c.Task
	t.Do, t.Credential, t.Workload = a.act, a.credential, c.To
	t.Claim = pl.identity(pl.client(c.To, c.From))
	if a.credential == Expired {
		t.Claim = pl.identity(c.From)
	}
	t.ServerName = identity.ServerName(pl.Zones[c.To], c.To)
	if a.otherName {
		t.ServerName = identity.ServerName(pl.Zones[c.From], c.From)
	}
	t.Port = 1
	if _, port, ok := pl.open(pl.client(c.To, c.From), c.To); ok {
		t.Port = port
	}
}

// client is a workload that may talk to another, by preference not the attacker.
func (pl *planner) client(of, attacker string) string {
	for _, name := range pl.names {
		if name != of && name != attacker && !pl.Intent.Between(party(name), party(of)).Protocol(netset.TCP).IsEmpty() {
			return name
		}
	}
	return attacker
}

// open returns a TCP port of another that from may open.
func (pl *planner) open(from, to string) (netset.Protocol, uint16, bool) {
	t := pl.Intent.Between(party(from), party(to)).Protocol(netset.TCP).AnyRequests().Subtract(pl.exempt(from, to))
	p, port, _, ok := t.Example()
	return p, port, ok
}

// refused is a TCP connection that the proxy must refuse.
func (pl *planner) refused(kind Kind, m *Member, addr netip.Addr, port uint16, policy string) Case {
	to := netip.AddrPortFrom(addr, port)
	return Case{Kind: kind, Name: m.Name + " → " + to.String(), From: m.Name, Policy: policy, want: wantProxyRefusal,
		Task: Task{Do: DialTCP, To: to, Bind: pl.own(m.Name, addr), Hold: holdClosed}}
}

const noWayOut = "there is no way out of the mesh"

func (pl *planner) outside(m *Member) {
	tcp := func(kind Kind, port uint16, addrs ...string) {
		for _, text := range addrs {
			if c := pl.refused(kind, m, netip.MustParseAddr(text), port, noWayOut); c.Task.Bind.IsValid() {
				pl.add(c)
			}
		}
	}
	tcp(metadata, 80, "169.254.169.254", "169.254.170.2", "fd00:ec2::254")
	tcp(outsideDNS, 53, "8.8.8.8", "1.1.1.1", "2001:4860:4860::8888")
	tcp(outsideHost, 443, "1.1.1.1", "169.254.0.1", "10.0.0.1", "2606:4700:4700::1111")
	for _, addr := range pl.Machine {
		for _, port := range []uint16{22, nodePort, busPort} {
			if c := pl.refused(machinePorts, m, addr, port, noWayOut); c.Task.Bind.IsValid() {
				pl.add(c)
			}
		}
	}
	pl.datagrams(outsideDNS, m, 53, "8.8.8.8", "1.1.1.1", "2001:4860:4860::8888")
	pl.datagrams(metadata, m, 80, "169.254.169.254")
	pl.datagrams(broadcast, m, 9, "255.255.255.255", "224.0.0.251", "ff0e::fb")
}

func (pl *planner) datagrams(kind Kind, m *Member, port uint16, addrs ...string) {
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		to := netip.AddrPortFrom(addr, port)
		c := Case{Kind: kind, Name: m.Name + " → udp " + to.String(), From: m.Name, Policy: noWayOut, want: wantKernelRefusal,
			accept: []string{"EPERM", "ENETUNREACH", "EACCES"}, Task: Task{Do: SendUDP, To: to, Bind: pl.own(m.Name, addr), Hold: holdOpen}}
		if c.Task.Bind.IsValid() {
			pl.add(c)
		}
	}
}

// loopback dials the proxy's own ports, where what is redirected arrives.
func (pl *planner) loopback(m *Member) {
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, addr := range append(addrs, pl.Addresses[m.Name]...) {
		for _, port := range []uint16{capturePort, tunnelPort} {
			c := pl.refused(loopback, m, addr, port, "what the proxy listens on is not the workload's")
			c.want, c.accept = wantKernelRefusal, []string{"ECONNREFUSED", "EPERM"}
			if !addr.IsLoopback() {
				c.Task.Bind = addr
			} else {
				c.Task.Bind = netip.Addr{}
			}
			pl.add(c)
		}
	}
	if m.Datagrams {
		return // what is sent to a capture goes where the policy permits
	}
	c := Case{Kind: loopback, Name: fmt.Sprintf("%s → udp 127.0.0.1:%d", m.Name, firstUDP), From: m.Name, Policy: "no datagrams are captured",
		want: wantKernelRefusal, accept: []string{"ECONNREFUSED", "EPERM"},
		Task: Task{Do: SendUDP, To: netip.AddrPortFrom(addrs[0], firstUDP), Hold: holdOpen}}
	pl.add(c)
}

// spoof sends with the address of another workload, by preference one that may.
func (pl *planner) spoof(m *Member, to string) {
	whose := pl.client(to, m.Name)
	for _, name := range pl.names {
		if whose == m.Name && name != to && len(pl.Addresses[name]) > 0 {
			whose = name
		}
	}
	port := uint16(1)
	if runs := pl.served(to).Protocol(netset.TCP).Runs(); len(runs) > 0 {
		port = runs[0].Lo
	}
	if runs := pl.exempt(m.Name, to).Protocol(netset.TCP).Runs(); len(runs) > 0 {
		port = runs[0].Lo // what is exempt leaves without the proxy
	}
	for _, addr := range pl.Addresses[to] {
		source := pl.own(whose, addr)
		if whose == m.Name || !source.IsValid() || !pl.own(m.Name, addr).IsValid() {
			continue
		}
		c := Case{Kind: spoofed, From: m.Name, To: to, Policy: "a packet has the address of its sender", want: wantStop,
			accept: []string{"EADDRNOTAVAIL", "EPERM", "ENETUNREACH", timedOut}}
		c.Task = Task{Do: DialTCP, To: netip.AddrPortFrom(addr, port), Bind: source, Hold: holdOpen}
		name := fmt.Sprintf("%s → %s as %s", m.Name, c.Task.To, source)
		c.Name = name
		pl.add(c)
		c.Task.Free, c.Name = true, name+", bound by force"
		pl.add(c)
		c.Task.Do, c.accept, c.Name = SendUDP, []string{"EPERM", "EADDRNOTAVAIL", "ENETUNREACH"}, name+", a datagram"
		pl.add(c)
	}
}

// tunnels adds what the node attacks itself: the mutual TLS of each workload,
// with sockets that pass the filter. That they do is shown by one stream that is
// permitted.
func (pl *planner) tunnels() {
	for i := range pl.Members {
		m := &pl.Members[i]
		from := pl.attacker(m.Name)
		if from == "" || m.Anonymous {
			continue
		}
		to := netip.AddrPortFrom(pl.Addresses[m.Name][0], tunnelPort)
		base := Case{Here: true, From: from, To: m.Name, Policy: "only a proven identity may ask, and only for what it is permitted",
			Task: Task{Do: OpenTunnel, To: to, Credential: Own, Claim: from, Peer: pl.identity(m.Name), Workload: m.Name, Port: 1}}
		if !pl.Doors[[2]string{pl.Zones[from], pl.Zones[m.Name]}] {
			base.accept = []string{"ECONNREFUSED", "EHOSTUNREACH", "ECONNRESET"} // of the fabric
		}
		for _, a := range intrusions {
			c := base
			c.Kind, c.want = a.kind, wantHandshakeRefusal
			c.Name = fmt.Sprintf("%s → the tunnel of %s: %s", from, m.Name, a.kind.Title)
			c.accept = append([]string{tlsAlert, endOfFile, "ECONNRESET", "EPIPE"}, base.accept...)
			pl.intrusion(&c, a)
			pl.add(c)
		}
		pl.streams(base)
	}
}

// streams asks for streams with a certificate that is right.
func (pl *planner) streams(base Case) {
	if _, port, ok := pl.open(base.From, base.To); ok && base.accept == nil {
		c := base
		c.Kind, c.want, c.Task.Port = control, wantStream, port
		c.Name = fmt.Sprintf("%s → the tunnel of %s, port %d", c.From, c.To, port)
		c.Policy = says(pl.decide(c.From, c.To, netset.TCP, port))
		pl.add(c)
	}
	c := base
	c.Kind, c.want = deniedStream, wantStreamRefusal
	for _, t := range pl.targets(c.From, c.To) {
		if a := pl.decide(c.From, c.To, netset.TCP, t.port); t.protocol == netset.TCP && !a.Allowed {
			c.Task.Port, c.Policy = t.port, says(a)
			break
		}
	}
	c.Name = fmt.Sprintf("%s → the tunnel of %s, port %d", c.From, c.To, c.Task.Port)
	if !pl.decide(c.From, c.To, netset.TCP, c.Task.Port).Allowed {
		pl.add(c)
	}
	c = base
	c.Kind, c.want, c.Task.Workload = strayStream, wantStreamRefusal, base.From
	c.Name = fmt.Sprintf("%s → %s through the tunnel of %s", c.From, c.Task.Workload, c.To)
	c.Policy = "a tunnel leads to one workload"
	pl.add(c)
}

// attacker is a member that the fabric lets through to another: one that may talk
// to it, else one whose zone has a door to it, else any. It has a certificate.
func (pl *planner) attacker(to string) string {
	best, rank := "", 0
	for i := range pl.Members {
		m := &pl.Members[i]
		if m.Name == to || m.Anonymous || m.Untried != "" || pl.filter.From != "" && pl.filter.From != m.Name {
			continue
		}
		r := 1
		if pl.Doors[[2]string{pl.Zones[m.Name], pl.Zones[to]}] {
			r = 2
			if _, _, ok := pl.open(m.Name, to); ok {
				r = 3
			}
		}
		if r > rank {
			best, rank = m.Name, r
		}
	}
	return best
}
