package probe

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// How long something that opens is watched, and how long something that must not
// may take to show that it did.
const (
	holdOpen   = 250 * time.Millisecond
	holdClosed = 2 * time.Second
)

// planner makes the cases of one plan.
type planner struct {
	*Platform
	filter Filter
	names  []string // of all workloads, in the order of the policy
	local  map[string]*Member
	cases  []*Case
	dials  map[string]int // how many cases of a workload dial
}

// The local ports of cases, below those that the kernel gives by itself. While
// conntrack remembers a redirected connection, another one from the same port gets
// another by address translation, and its records could not be found.
const (
	firstLocal = 20000
	localPorts = 12000
)

// localPort is the next local port of a workload's case.
func (pl *planner) localPort(from string) uint16 {
	pl.dials[from]++
	return uint16(firstLocal + (pl.FirstPort+pl.dials[from])%localPorts)
}

// Plan lists what to try, in the order of the policy. What is expected of a pair
// is what the intent decides.
func Plan(p *Platform, f Filter) []*Case {
	pl := &planner{Platform: p, filter: f, local: map[string]*Member{}, dials: map[string]int{}}
	for i := range p.Intent.Policy.Workloads {
		pl.names = append(pl.names, p.Intent.Policy.Workloads[i].Name.Value)
	}
	for i := range p.Members {
		pl.local[p.Members[i].Name] = &p.Members[i]
	}
	for i := range p.Members {
		m := &p.Members[i]
		if m.Untried != "" {
			if f.From == "" || f.From == m.Name {
				pl.add(Case{Kind: prohibitedPair, Name: m.Name + ": everything", From: m.Name, Policy: "nothing can be tried as this workload",
					Untried: m.Untried, want: wantStop})
			}
			continue
		}
		for _, to := range pl.names {
			if to != m.Name && len(p.Addresses[to]) > 0 {
				pl.pair(m, to)
			}
		}
		pl.attacks(m)
	}
	pl.tunnels()
	return pl.cases
}

// add numbers a case, unless the filter leaves it out.
func (pl *planner) add(c Case) {
	if f := pl.filter; f.From != "" && f.From != c.From || f.To != "" && f.To != c.To {
		return
	}
	c.Number = len(pl.cases) + 1
	c.ID = pl.Run + "-" + strconv.Itoa(c.Number)
	c.Task.ID = c.ID
	if c.Task.To.IsValid() && !c.Here {
		c.Task.From = pl.localPort(c.From)
	}
	_, here := pl.local[c.To]
	c.remote = !here
	if c.To == "" && c.silent != "" {
		c.remote = false // it is outside
	} else if why := pl.Silent[c.To]; why != "" {
		c.silent = why
	}
	pl.cases = append(pl.cases, &c)
}

// own returns the address of a workload in the family of another.
func (pl *planner) own(name string, like netip.Addr) netip.Addr {
	for _, a := range pl.Addresses[name] {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func party(name string) policy.Party {
	return policy.Party{Kind: policy.WorkloadParty, Name: name}
}

func (pl *planner) decide(from, to string, p netset.Protocol, port uint16) policy.Answer {
	return pl.Intent.Decide(policy.Question{From: party(from), To: party(to), Protocol: p, Port: port})
}

// says names the permission that allows, or why there is none.
func says(a policy.Answer) string {
	if a.Allowed {
		return a.Permission.Name + " (" + a.Permission.Pos.String() + ")"
	}
	return a.Why()
}

// target is a port to try.
type target struct {
	protocol netset.Protocol
	port     uint16
	served   bool
}

// maxEach is how many ports of one service are tried one by one; of a longer
// range its ends and its middle.
const maxEach = 16

// targets are the ports of a workload that are tried: all that it serves, over
// both transports, the neighbours of what is exempt, and some that nobody serves.
func (pl *planner) targets(from, to string) []target {
	seen := map[target]bool{}
	var out []target
	add := func(p netset.Protocol, port uint16, served bool) {
		t := target{protocol: p, port: port}
		if port == 0 || port == capturePort || port == tunnelPort || seen[t] {
			return
		}
		seen[t] = true
		t.served = served
		out = append(out, t)
	}
	for _, r := range pl.served(to).Runs() {
		if r.Protocol != netset.TCP && r.Protocol != netset.UDP {
			continue
		}
		for _, port := range some(r.Lo, r.Hi) {
			add(r.Protocol, port, true)
		}
	}
	for _, t := range slices.Clone(out) {
		if t.protocol == netset.TCP {
			add(netset.UDP, t.port, false)
		}
	}
	for _, r := range pl.exempt(from, to).Union(pl.exempt(to, from)).Runs() {
		add(r.Protocol, r.Lo-1, false)
		if r.Hi < 65535 {
			add(r.Protocol, r.Hi+1, false)
		}
		for _, port := range some(r.Lo, r.Hi) {
			add(r.Protocol, port, false) // there and back
		}
	}
	for _, port := range []uint16{1, 22, 65535} {
		add(netset.TCP, port, false)
	}
	return out
}

// served is what a workload serves.
func (pl *planner) served(name string) netset.Traffic {
	var t netset.Traffic
	w := pl.Intent.Workload(name)
	for i := range w.Serves {
		t = t.Union(w.Serves[i].Traffic())
	}
	return t
}

func some(lo, hi uint16) []uint16 {
	if hi-lo >= maxEach {
		return []uint16{lo, lo + (hi-lo)/2, hi}
	}
	var out []uint16
	for port := int(lo); port <= int(hi); port++ {
		out = append(out, uint16(port))
	}
	return out
}

// exempt is what from may send to another without the proxy: what a plaintext
// permission holds, where both are on this node.
func (pl *planner) exempt(from, to string) netset.Traffic {
	var t netset.Traffic
	for _, name := range []string{from, to} {
		if m := pl.local[name]; m == nil || m.Untried != "" {
			return t
		}
	}
	for _, p := range pl.Intent.PermissionsTo(party(to)) {
		if p.Plaintext && p.From.Has(party(from)) {
			t = t.Union(p.Traffic)
		}
	}
	return t
}

// pair adds the cases from a member to another workload.
func (pl *planner) pair(m *Member, to string) {
	plain := pl.exempt(m.Name, to)
	near := plain.Union(pl.exempt(to, m.Name))
	for _, t := range pl.targets(m.Name, to) {
		answer := pl.decide(m.Name, to, t.protocol, t.port)
		for _, addr := range pl.Addresses[to] {
			own := pl.own(m.Name, addr)
			if !own.IsValid() {
				continue
			}
			c := Case{From: m.Name, To: to, Policy: says(answer), Task: Task{Do: DialTCP, To: netip.AddrPortFrom(addr, t.port), Bind: own, Hold: holdClosed}}
			c.Name = pairName(&c, t)
			if t.protocol == netset.UDP {
				c.Task.Do = SendUDP
			}
			c.judgePair(t, answer, plain, !near.IsEmpty())
			if c.want == wantPlain && addr != pl.Addresses[to][0] {
				// A proxy finds its server at any address; here the address counts.
				c.silent = "its server listens at " + pl.Addresses[to][0].String()
			}
			pl.add(c)
		}
		if answer.Allowed && t.protocol == netset.TCP && !plain.Opens(t.protocol, t.port) {
			pl.requests(m.Name, to, t.port)
		}
	}
}

func pairName(c *Case, t target) string {
	transport, version := "tcp", "IPv4"
	if t.protocol == netset.UDP {
		transport = "udp"
	}
	if c.Task.To.Addr().Is6() {
		version = "IPv6"
	}
	return fmt.Sprintf("%s → %s %s/%d over %s", c.From, c.To, transport, t.port, version)
}

// judgePair says what is expected of a pair.
func (c *Case) judgePair(t target, answer policy.Answer, plain netset.Traffic, near bool) {
	udp := t.protocol == netset.UDP
	switch {
	case answer.Allowed && plain.Opens(t.protocol, t.port):
		c.Kind, c.want, c.Task.Hold = plaintextOpen, wantPlain, holdOpen
	case answer.Allowed:
		c.Kind, c.want, c.Task.Hold = permittedPair, wantOpen, holdOpen
	case udp:
		c.Kind, c.want, c.accept = datagramToTCP, wantKernelRefusal, []string{"EPERM"}
		c.Task.Hold = holdOpen
		if t.served {
			c.Kind = prohibitedPair
		}
	default:
		c.Kind, c.want = unservedPort, wantProxyRefusal
		switch {
		case t.served:
			c.Kind = prohibitedPair
		case near:
			c.Kind = plaintextClosed
		}
	}
	if !answer.Allowed && near && !t.served {
		c.Kind = plaintextClosed
	}
}

// requests adds one request that is prohibited and one that is permitted, where
// the permission tells them apart.
func (pl *planner) requests(from, to string, port uint16) {
	q := policy.Question{From: party(from), To: party(to), Protocol: netset.TCP, Port: port, Whole: true}
	if pl.Intent.Decide(q).Allowed {
		return
	}
	addr := pl.Addresses[to][0]
	base := Case{From: from, To: to, Task: Task{Do: AskHTTP, To: netip.AddrPortFrom(addr, port), Bind: pl.own(from, addr)}}
	if !base.Task.Bind.IsValid() {
		return
	}
	ask := func(kind Kind, w want, r netset.Request) {
		c := base
		q.Whole, q.Request = false, &r
		c.Kind, c.want, c.Policy = kind, w, says(pl.Intent.Decide(q))
		c.Task.Method, c.Task.Host, c.Task.Path = r.Method, r.Host, r.Path
		c.Name = fmt.Sprintf("%s → %s:%d %s %s", from, to, port, r.Method, r.Path)
		pl.add(c)
	}
	if r, ok := pl.prohibited(q, to); ok {
		ask(prohibitedRequest, wantRequestRefusal, r)
	}
	if r, ok := pl.permitted(q, to); ok {
		ask(permittedRequest, wantRequest, r)
	}
}

// prohibited returns a request that the policy denies, the most harmless one that
// it does.
func (pl *planner) prohibited(q policy.Question, to string) (netset.Request, bool) {
	q.Whole = false
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PROBE"} {
		r := netset.Request{Method: method, Host: to, Path: "/.bulkhead-probe-" + pl.Run}
		q.Request = &r
		if !pl.Intent.Decide(q).Allowed {
			return r, true
		}
	}
	return netset.Request{}, false
}

// permitted returns a HEAD or GET request that the policy allows.
func (pl *planner) permitted(q policy.Question, to string) (netset.Request, bool) {
	q.Whole = false
	all := pl.Intent.Between(q.From, q.To).Intersect(netset.Port(q.Protocol, q.Port))
	for _, method := range []string{"HEAD", "GET"} {
		for _, hosts := range []netset.Language{netset.Exact(to), netset.AnyString()} {
			some := all.Limit(netset.RequestsOf(netset.Pattern{Methods: []string{method}, Hosts: hosts, Paths: netset.NormalPaths()}))
			_, _, r, ok := some.Example()
			if !ok {
				continue
			}
			r.Host = cmp.Or(r.Host, to)
			q.Request = &r
			if r.Method == method && sendable(r) && pl.Intent.Decide(q).Allowed {
				return r, true
			}
		}
	}
	return netset.Request{}, false
}

// sendable reports whether a request can be written in one line as it is.
func sendable(r netset.Request) bool {
	for _, text := range []string{r.Host, r.Path} {
		for _, b := range []byte(text) {
			if b <= ' ' || b >= 0x7f || b == '#' || b == '?' {
				return false
			}
		}
	}
	return r.Path != "" && r.Path[0] == '/' && len(r.Host)+len(r.Path) < maxText
}
