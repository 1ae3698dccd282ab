package targettest

import (
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/target"
)

// packet is the opening of a connection, or one request on it.
type packet struct {
	protocol netset.Protocol
	port     uint16
	request  *netset.Request
}

func (k packet) in(t netset.Traffic) bool {
	if k.request != nil {
		return t.HasRequest(k.protocol, k.port, *k.request)
	}
	return t.Opens(k.protocol, k.port)
}

// oracle knows what a policy allows less and more than itself by its residue.
type oracle struct {
	suite   *Suite
	in      *policy.Intent
	residue []target.Residue

	// narrowed are the permissions that a narrower residue takes out, gone the
	// workloads of which it takes out something, widened those of a wider one.
	narrowed map[*policy.Permission]bool
	gone     map[string]bool
	widened  map[string]bool
}

func (o *oracle) prepare() {
	o.narrowed, o.gone, o.widened = map[*policy.Permission]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range o.residue {
		switch isWorkload := o.in.Workload(r.Permission) != nil; {
		case isWorkload && r.Wider:
			o.widened[r.Permission] = true
		case isWorkload:
			o.gone[r.Permission] = true
		case !r.Wider:
			for _, p := range o.named(r) {
				o.narrowed[p] = true
			}
		}
	}
}

// named returns the permissions that a residue is about.
func (o *oracle) named(r target.Residue) []*policy.Permission {
	var out []*policy.Permission
	for i := range o.in.Permissions {
		if p := &o.in.Permissions[i]; p.Name == r.Permission {
			out = append(out, p)
		}
	}
	return out
}

// known reports whether the policy speaks of p as one of its workloads.
func (o *oracle) known(p *Place) bool { return p.Is.Kind == policy.WorkloadParty && p.Is.Name != "" }

// places returns every endpoint, and addresses and names outside that differ
// for some permission.
func (o *oracle) places(t rapid.TB, e Estate, a *reach.Analysis) []Place {
	var out []Place
	for i := range a.Net.Endpoints {
		ep := &a.Net.Endpoints[i]
		p := Place{Endpoint: ep, class: a.ClassOf(i)}
		switch at := slices.IndexFunc(e.Deployed, func(d Deployed) bool { return d.Name == ep.Workload }); {
		case ep.Kind == network.Host:
			p.Is = policy.Party{Kind: policy.HostsParty, Name: policy.Hosts}
		case ep.Kind == network.Control:
			p.Is = policy.Party{Kind: policy.ControlParty, Name: policy.ControlPlane}
		case at < 0:
			t.Fatalf("the estate does not list endpoint %s", ep.Workload)
		default:
			p.Deployed = e.Deployed[at]
		}
		out = append(out, p)
	}
	for _, d := range e.Deployed {
		if len(a.Find(d.Name)) == 0 {
			t.Fatalf("the importer does not find %s", d.Name)
		}
	}
	for _, ip := range o.addresses() {
		if !e.Options.Workloads.Contains(ip) {
			out = append(out, Place{Addr: ip, class: a.ClassOfAddr(ip)})
		}
	}
	for _, name := range o.domains() {
		out = append(out, Place{Domain: name, class: a.ClassOfName(name)})
	}
	return out
}

// addresses returns the first and last address of every block that a
// permission names, their neighbours, and some that stand for the rest.
func (o *oracle) addresses() []netip.Addr {
	var out []netip.Addr
	for _, text := range []string{"1.1.1.1", "9.9.9.9", "10.1.2.3", "192.168.7.7", "169.254.169.254", "169.254.20.10", "2606:4700::1111", "fd00::1"} {
		out = append(out, netip.MustParseAddr(text))
	}
	for i := range o.in.Permissions {
		if o.in.Permissions[i].To.Name == policy.Internet {
			continue
		}
		for j, r := range o.in.Permissions[i].Addrs.Ranges() {
			if j == 4 {
				break
			}
			for _, ip := range []netip.Addr{r.From(), r.From().Prev(), r.To(), r.To().Next()} {
				if ip.IsValid() {
					out = append(out, ip)
				}
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// domains returns a name for each that a permission states, and one more.
func (o *oracle) domains() []string {
	out := []string{"nobody.example.net"}
	for i := range o.in.Permissions {
		for _, n := range o.in.Permissions[i].Names {
			if rest, wild := strings.CutPrefix(n, "*."); wild {
				n = "a.b." + rest
			}
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// packets returns connections to every port at which some permission begins or
// ends, and beside it, and requests that permissions tell apart.
func (o *oracle) packets() []packet {
	ports := []uint16{1, 53, 443, 65535}
	requests := []netset.Request{{Method: "GET", Path: "/features/1"}, {Method: "PUT", Path: "/x"}}
	limited := false
	for i := range o.in.Permissions {
		t := o.in.Permissions[i].Traffic
		for _, r := range t.Runs() {
			ports = append(ports, r.Lo, r.Hi, max(r.Lo-1, 1), r.Hi+min(1, 65535-r.Hi))
			if r.AnyRequest {
				continue
			}
			limited = true
			for _, set := range []netset.Requests{r.Requests, r.Requests.Complement()} {
				if q, ok := set.Example(); ok {
					requests = append(requests, q)
				}
			}
		}
	}
	slices.Sort(ports)
	slices.SortFunc(requests, func(a, b netset.Request) int {
		return strings.Compare(a.Method+" "+a.Host+a.Path, b.Method+" "+b.Host+b.Path)
	})
	requests = slices.Compact(requests)
	var out []packet
	for _, proto := range []netset.Protocol{netset.TCP, netset.UDP, netset.SCTP} {
		for _, port := range slices.Compact(ports) {
			out = append(out, packet{protocol: proto, port: port})
			if limited && proto == netset.TCP {
				for i := range requests {
					out = append(out, packet{proto, port, &requests[i]})
				}
			}
		}
	}
	return out
}

// decide returns what an estate lets pass. A name that no rule mentions may be
// at any public address: it can be reached for certain where all of a family can.
func decide(a *reach.Analysis, from, to *Place) reach.Decision {
	if from.class >= 0 && to.class >= 0 {
		return a.Between(from.class, to.class)
	}
	var d reach.Decision
	for _, family := range []netset.Addrs{netset.AnyV4(), netset.AnyV6()} {
		allow := netset.All()
		for _, c := range a.Classes() {
			if ip, ok := c.Addrs.Intersect(netset.PublicAddrs()).Intersect(family).Example(); ok {
				allow = allow.Intersect(a.Between(from.class, a.ClassOfAddr(ip)).Allow)
			}
		}
		d.Allow = d.Allow.Union(allow)
	}
	return d
}

// compare checks every packet between two places.
func (o *oracle) compare(t rapid.TB, from, to *Place, got reach.Decision, packets []packet) {
	t.Helper()
	for _, k := range packets {
		want := o.allowed(o.parties(from, false), o.parties(to, false), from, to, k)
		allow, unknown := k.in(got.Allow), k.in(got.Unknown)
		switch {
		case want && allow:
		case want:
			t.Errorf("%s → %s: %s is declared and denied (unknown: %v), and no residue says so", from, to, describe(k), unknown)
			return
		case unknown && to.Domain != "" && !allow:
			// A name below a wildcard is of one class with the others below
			// it, so that a rule for one of those makes all of them unknown.
		case (allow || unknown) && !o.excused(from, to, k):
			t.Errorf("%s → %s: %s is allowed (unknown: %v) and not declared, and no residue says so", from, to, describe(k), unknown)
			return
		}
	}
}

func describe(k packet) string {
	t := netset.Port(k.protocol, k.port).String()
	if k.request != nil {
		t += " " + k.request.Method + " " + k.request.Host + k.request.Path
	}
	return t
}

// parties returns what a place is, with wide also what the target takes it for.
func (o *oracle) parties(p *Place, wide bool) []policy.Party {
	var out []policy.Party
	if p.Is.Name != "" && !(p.Unselectable && o.gone[p.Is.Name]) {
		out = append(out, p.Is)
	}
	if wide {
		for _, name := range p.Like {
			if o.widened[name] {
				out = append(out, policy.Party{Kind: policy.WorkloadParty, Name: name})
			}
		}
	}
	return out
}

// allowed reports whether some permission that is left lets a packet pass
// between parties, or a party and a place outside.
func (o *oracle) allowed(from, to []policy.Party, src, dst *Place, k packet) bool {
	for i := range o.in.Permissions {
		p := &o.in.Permissions[i]
		if o.narrowed[p] || p.Via != "" || !o.between(p, from, to, src, dst) || !k.in(p.Traffic) {
			continue
		}
		// The decision itself must agree.
		for _, m := range p.From.Members {
			if slices.Contains(from, m) || src.Outside() {
				q := policy.Question{From: m, To: p.To, Protocol: k.protocol, Port: k.port, Request: k.request}
				if o.in.Decide(q).Allowed {
					return true
				}
			}
		}
	}
	return false
}

// between reports whether p is for what is at src and dst.
func (o *oracle) between(p *policy.Permission, from, to []policy.Party, src, dst *Place) bool {
	return o.isFrom(p, from, src) && o.isTo(p, to, dst)
}

func (o *oracle) isFrom(p *policy.Permission, from []policy.Party, src *Place) bool {
	if src.Outside() {
		return p.From.Members[0].Kind == policy.OutsideParty && src.Addr.IsValid() && p.Addrs.Contains(src.Addr)
	}
	return slices.ContainsFunc(from, p.From.Has)
}

func (o *oracle) isTo(p *policy.Permission, to []policy.Party, dst *Place) bool {
	switch {
	case !dst.Outside():
		return slices.Contains(to, p.To)
	case p.To.Kind != policy.OutsideParty:
		return false
	case dst.Domain == "":
		return p.Addrs.Contains(dst.Addr)
	}
	for _, n := range p.ByName() {
		if n == dst.Domain || strings.HasPrefix(n, "*.") && strings.HasSuffix(dst.Domain, n[1:]) {
			return true
		}
	}
	return false
}

// excused reports whether a wider residue covers a packet.
func (o *oracle) excused(src, dst *Place, k packet) bool {
	from, to := o.parties(src, true), o.parties(dst, true)
	if o.allowed(from, to, src, dst, k) {
		return true // one of them is taken for another
	}
	if dst.Domain != "" && o.anywhere(from, src, k) {
		return true
	}
	for _, r := range o.residue {
		if !r.Wider {
			continue
		}
		if r.Permission == "" && o.suite.Everywhere != nil && o.suite.Everywhere(r.Limit, *src, *dst) {
			return true
		}
		widens := o.suite.Widens[r.Limit]
		for _, p := range o.named(r) {
			if p.Via != "" || o.narrowed[p] || !k.in(p.Traffic.AnyRequests()) {
				continue
			}
			// Only the side that is no workload can be wider.
			isFrom := o.isFrom(p, from, src) || widens != nil && p.From.Members[0].Kind != policy.WorkloadParty && widens(p, *src)
			isTo := o.isTo(p, to, dst) || widens != nil && p.To.Kind != policy.WorkloadParty && widens(p, *dst)
			if isFrom && isTo {
				return true
			}
		}
	}
	return false
}

// anywhere reports whether a permission for addresses lets a packet pass to
// some public ones: a name may lead there.
func (o *oracle) anywhere(from []policy.Party, src *Place, k packet) bool {
	for i := range o.in.Permissions {
		p := &o.in.Permissions[i]
		if p.To.Kind == policy.OutsideParty && p.Via == "" && p.Addrs.Overlaps(netset.PublicAddrs()) && o.isFrom(p, from, src) && k.in(p.Traffic.AnyRequests()) {
			return true
		}
	}
	return false
}
