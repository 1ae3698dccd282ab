package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/source"
)

// Resolvers are the resolvers that targets know by name, with the port that
// they listen on.
var Resolvers = map[string]uint16{"kubernetes": 53, "openshift": 5353}

// All is the group of every workload; ZonePrefix begins the name of a zone's.
const (
	All        = "all"
	ZonePrefix = "zone/"
)

// Resolve checks a policy and returns what it allows at now. The diagnostics
// are complete: they include every wrong reference, every access that its
// protocol cannot express and, as warnings, every permission that expired.
// The Intent holds what is right even when something else is wrong.
func Resolve(p *Policy, now time.Time) (*Intent, source.Diagnostics) {
	r := &resolver{
		in: &Intent{
			Policy:       p,
			At:           now,
			workloads:    map[string]*Workload{},
			zones:        map[string]*Zone{},
			destinations: map[string]*Destination{},
			groups:       map[string]*Group{},
		},
	}
	r.names()
	r.zones()
	r.workloads()
	r.gateway()
	r.flows()
	r.egress()
	r.endpoints()
	r.exposures()
	r.shortForms()
	r.others()
	r.mode()
	r.in.force, r.in.expired = newIndex(r.in.Permissions), newIndex(r.in.Expired)
	r.in.outside, r.in.past = newOutside(r.in.Permissions), newOutside(r.in.Expired)
	r.ds.Sort()
	return r.in, r.ds
}

type resolver struct {
	in *Intent
	ds source.Diagnostics
	// through is the gateway's workload and service, if one is declared.
	through        Party
	throughService *Service
}

// names indexes everything by name. Duplicates are errors of the parser; for
// policies made otherwise the first one counts.
func (r *resolver) names() {
	p := r.in.Policy
	index := func(what string, name Text, seen map[string]Text) bool {
		if first, dup := seen[name.Value]; dup {
			r.ds.Errorf("duplicate-name", name.Pos, "%s %q is declared twice", what, name.Value).
				WithNote(first.Pos, "first declared here").WithFix("rename or remove one of them")
			return false
		}
		seen[name.Value] = name
		return true
	}
	zones, workloads, dests := map[string]Text{}, map[string]Text{}, map[string]Text{}
	for i := range p.Zones {
		if index("zone", p.Zones[i].Name, zones) {
			r.in.zones[p.Zones[i].Name.Value] = &p.Zones[i]
		}
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if w.Name.Value == All || w.Name.Value == "zone" {
			r.ds.Errorf("reserved-name", w.Name.Pos, "workload name %q has a meaning of its own", w.Name.Value).WithFix("choose another name")
		}
		if index("workload", w.Name, workloads) {
			r.in.workloads[w.Name.Value] = w
		}
	}
	for i := range p.Destinations {
		if index("destination", p.Destinations[i].Name, dests) {
			r.in.destinations[p.Destinations[i].Name.Value] = &p.Destinations[i]
		}
	}
}

func (r *resolver) zones() {
	for i := range r.in.Policy.Zones {
		z := &r.in.Policy.Zones[i]
		if z.Role.Value != "" && !slices.Contains(Roles, Role(z.Role.Value)) {
			r.ds.Errorf("role", z.Role.Pos, "zone %s has the unknown role %q", z.Name.Value, z.Role.Value).
				WithFix("use one of data, training, artefacts, serving, logging, custom")
		}
		if z.In.Value == "" {
			continue
		}
		if r.in.zones[z.In.Value] == nil {
			r.unknown("zone", z.In, keys(r.in.zones))
			continue
		}
		// Only the first zone of a cycle, in the order of the text, reports it.
		chain := []string{z.Name.Value}
		for at := r.in.zones[z.In.Value]; at != nil; at = r.in.zones[at.In.Value] {
			if at == z {
				if slices.Min(chain) == z.Name.Value {
					r.ds.Errorf("cyclic-zone", z.In.Pos, "zone %s is inside itself: %s", z.Name.Value,
						strings.Join(append(chain, z.Name.Value), " in ")).WithFix("remove one in:")
				}
				break
			}
			if slices.Contains(chain, at.Name.Value) {
				break
			}
			chain = append(chain, at.Name.Value)
		}
	}
}

func (r *resolver) workloads() {
	for i := range r.in.Policy.Workloads {
		w := &r.in.Policy.Workloads[i]
		if w.Zone.Value == "" {
			r.ds.Errorf("no-zone", w.Name.Pos, "workload %s is in no zone", w.Name.Value).WithFix("add zone: NAME")
		} else if r.in.zones[w.Zone.Value] == nil {
			r.unknown("zone", w.Zone, keys(r.in.zones))
		}
		for j := range w.Serves {
			s := &w.Serves[j]
			if _, ok := ProtocolByName(s.Protocol.Value); !ok {
				r.unknown("protocol", s.Protocol, protocolNames())
			}
			for k := range w.Serves[:j] {
				o := &w.Serves[k]
				if o.Traffic().Overlaps(s.Traffic()) {
					r.ds.Errorf("duplicate-port", s.Name.Pos, "services %s and %s of workload %s use the same port", o.Name.Value, s.Name.Value, w.Name.Value).
						WithNote(o.Name.Pos, "the other service").WithFix("give each its own port, or keep one")
				}
			}
		}
	}
}

func (r *resolver) gateway() {
	g := r.in.Policy.Gateway
	if g == nil || g.Through.Value == "" {
		return
	}
	targets := r.targets(g.Through)
	switch {
	case len(targets) > 1:
		r.ds.Errorf("gateway", g.Through.Pos, "gateway %q means %d services", g.Through.Value, len(targets)).
			WithFix("name one as WORKLOAD/SERVICE")
	case len(targets) == 1:
		r.through = Party{WorkloadParty, targets[0].workload.Name.Value}
		r.throughService = targets[0].service
	}
}

// permit records a permission, in force or expired.
func (r *resolver) permit(p Permission) {
	if p.Traffic.IsEmpty() {
		return
	}
	if p.Why.Until.Expired(r.in.At) {
		r.ds.Warnf("expired", p.Why.Until.Pos, "%s expired on %s: it is denied", p.Name, p.Why.Until.Time.Format(time.DateOnly)).
			WithFix("renew until: after a review, or remove it")
		r.in.Expired = append(r.in.Expired, p)
		return
	}
	r.in.Permissions = append(r.in.Permissions, p)
}

var anyHTTPS = Protocol{Name: "https", Transports: []netset.Protocol{netset.TCP}, Requests: HTTP}

func (r *resolver) egress() {
	for i := range r.in.Policy.Egress {
		e := &r.in.Policy.Egress[i]
		from := r.groups(e.From)
		a := resolveAccess(e.May, anyHTTPS, nil, e.EnforcedBy, &r.ds)
		budget, ok := r.limits(&e.Budget)
		accept := r.accepts(e)
		if !ok {
			continue
		}
		for _, to := range e.To {
			d, ok := r.destination(to, e.Region, e.Ports)
			if !ok {
				continue
			}
			for _, g := range from {
				p := Permission{
					Kind: EgressKind, From: g, To: Party{OutsideParty, to.Value}, Names: d.names, Addrs: d.addrs, Special: d.special, Fixed: d.fixed,
					Traffic: d.traffic.Limit(a.requests), ByApplication: a.byApp, Inspect: e.Inspect, Budget: budget,
					NoServerName: accept[AcceptNoName], EncryptedHello: accept[AcceptEncryptedHello], AnyProtocol: accept[AcceptAnyProtocol], Why: e.Why,
					Name: fmt.Sprintf("egress %s → %s", g.Name, to.Value), Pos: e.Pos,
				}
				if r.throughService != nil && g.without(r.through) != nil {
					r.throughGateway(p, d)
					p.Via = r.through.Name
				}
				r.permit(p)
			}
		}
	}
}

// throughGateway adds what an egress permission implies where a gateway is
// declared: the way to it, and its own way out.
func (r *resolver) throughGateway(p Permission, d place) {
	g := p.From.without(r.through)
	way := p
	way.Kind, way.From, way.To, way.Service = GatewayKind, g, r.through, r.throughService
	way.Names, way.Addrs, way.Traffic = nil, netset.Addrs{}, r.throughService.Traffic()
	way.Name = fmt.Sprintf("gateway for %s", p.Name)
	r.permit(way)
	out := p
	out.Kind, out.From, out.Traffic, out.Budget = GatewayKind, r.single(r.through), d.traffic, Limits{}
	out.Name = fmt.Sprintf("gateway %s → %s", r.through.Name, p.To.Name)
	for i := range r.in.Permissions {
		q := &r.in.Permissions[i]
		if q.Kind == GatewayKind && q.To == out.To && q.From == out.From && slices.Equal(q.Names, out.Names) && out.Traffic.SubsetOf(q.Traffic) {
			return
		}
	}
	r.permit(out)
}

// without returns g without p, nil if nothing is left.
func (g *Group) without(p Party) *Group {
	if !g.Has(p) {
		return g
	}
	members := make([]Party, 0, len(g.Members)-1)
	for _, m := range g.Members {
		if m != p {
			members = append(members, m)
		}
	}
	if len(members) == 0 {
		return nil
	}
	return newGroup(g.Name, members)
}

// place is a destination with everything filled in.
type place struct {
	names   []string
	addrs   netset.Addrs
	special netset.Addrs
	fixed   []netip.Addr
	traffic netset.Traffic
}

// accepts reads what an egress accepts besides TLS with the right name.
func (r *resolver) accepts(e *Egress) map[string]bool {
	out := map[string]bool{}
	for _, word := range e.Accept {
		if !slices.Contains(Accepts, word.Value) {
			r.ds.Errorf("accept", word.Pos, "accept %q is not known", word.Value).WithFix("write %s", strings.Join(Accepts, ", "))
		}
		out[word.Value] = true
	}
	return out
}

// destination resolves a destination name, a host name or a CIDR.
func (r *resolver) destination(to, region Text, ports []Text) (place, bool) {
	var out place
	d := r.in.destinations[to.Value]
	switch {
	case d != nil:
		for _, h := range d.Hosts {
			name := h.Value
			if strings.Contains(name, "{region}") {
				if region.Value == "" {
					r.ds.Errorf("region", to.Pos, "destination %s differs by region", to.Value).
						WithNote(h.Pos, "its host is %s", name).WithFix("add region: NAME to the permission")
					return place{}, false
				}
				name = strings.ReplaceAll(name, "{region}", region.Value)
			}
			if !isHost(name) {
				r.ds.Errorf("host", h.Pos, "destination %s: %q is not a host name", to.Value, name).WithFix("write a name such as api.example.com or *.example.com")
				return place{}, false
			}
			out.names = append(out.names, name)
		}
		if len(ports) == 0 {
			ports = d.Ports
		}
		out.special = r.special(d.Addresses)
		out.fixed = fixed(d.Addresses)
	case looksLikeAddr(to.Value):
		a, err := netset.ParseCIDR(to.Value)
		if err != nil {
			r.ds.Errorf("cidr", to.Pos, "%v", err).WithFix("write a CIDR such as 203.0.113.0/24")
			return place{}, false
		}
		out.addrs, out.special = a, netset.DeclaredSpecial(a)
	case strings.Contains(to.Value, "."):
		if !isHost(to.Value) {
			r.ds.Errorf("host", to.Pos, "%q is not a host name", to.Value).WithFix("write a name such as api.example.com or *.example.com")
			return place{}, false
		}
		out.names = []string{strings.ToLower(to.Value)}
	default:
		r.unknown("destination", to, keys(r.in.destinations))
		return place{}, false
	}
	out.traffic = r.ports(ports)
	return out, true
}

func (r *resolver) ports(ports []Text) netset.Traffic {
	if len(ports) == 0 {
		return netset.Port(netset.TCP, 443)
	}
	var t netset.Traffic
	for _, p := range ports {
		n, err := strconv.ParseUint(p.Value, 10, 16)
		if err != nil || n == 0 {
			r.ds.Errorf("port", p.Pos, "port %q is not a number from 1 to 65535", p.Value).WithFix("write a number such as 443")
			continue
		}
		t = t.Union(netset.Port(netset.TCP, uint16(n)))
	}
	return t
}

func looksLikeAddr(s string) bool {
	return strings.ContainsAny(s, "/:") || s != "" && strings.Trim(s, "0123456789.") == ""
}

// isHost accepts a valid host name that nobody takes for an address.
func isHost(s string) bool { return validHost(s) && !endsInNumber(s) }

// validHost accepts a host name of LDH labels (RFC 1123 section 2.1) with at
// most one leading `*.` label.
func validHost(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

func (r *resolver) endpoints() {
	for i := range r.in.Policy.Endpoints {
		e := &r.in.Policy.Endpoints[i]
		p := Permission{Kind: EndpointKind, Inspect: e.Inspect, Why: e.Why, Pos: e.Pos}
		var ok bool
		if p.Budget, ok = r.limits(&e.Budget); !ok {
			continue
		}
		if workload, _, ok := strings.Cut(e.Service.Value, "/"); ok && r.in.workloads[workload] != nil {
			r.internalEndpoint(e, p)
			continue
		}
		r.externalEndpoint(e, p)
	}
}

// internalEndpoint permits its consumers to use a service of the platform, once
// the service's owner has agreed.
func (r *resolver) internalEndpoint(e *Endpoint, p Permission) {
	if e.Accepted.By.Value == "" {
		r.ds.Warnf("pending", e.Pos, "endpoint %s is pending: the owner of %s has not accepted it, and it permits nothing", e.Name.Value, e.Service.Value).
			WithFix("add accepted: {by: OWNER, on: DATE} once they have")
		r.groups(e.Consumers)
		r.targets(e.Service)
		return
	}
	for _, t := range r.targets(e.Service) {
		proto, _ := ProtocolByName(t.service.Protocol.Value)
		a := resolveAccess(e.May, proto, t.service, e.EnforcedBy, &r.ds)
		p.To, p.Service, p.Traffic, p.ByApplication = Party{WorkloadParty, t.workload.Name.Value}, t.service, t.service.traffic(a), a.byApp
		r.consumers(e, p)
	}
}

// externalEndpoint permits its consumers to use a service outside.
func (r *resolver) externalEndpoint(e *Endpoint, p Permission) {
	if e.Address.Value != "" {
		a, err := netset.ParseCIDR(e.Address.Value)
		if err != nil {
			r.ds.Errorf("cidr", e.Address.Pos, "endpoint %s: %v", e.Name.Value, err).WithFix("write the endpoint's address, such as 10.0.3.4")
			return
		}
		p.Addrs, p.Special = a, netset.DeclaredSpecial(a)
	}
	for _, h := range e.Hosts {
		name := strings.ReplaceAll(h.Value, "{region}", e.Region.Value)
		if !isHost(name) {
			r.ds.Errorf("region", e.Pos, "endpoint %s: its host is %s, and it has no region", e.Name.Value, h.Value).WithFix("add region: NAME")
			return
		}
		p.Names = append(p.Names, strings.ToLower(name))
	}
	proto := anyHTTPS
	if e.Protocol.Value != "" {
		var ok bool
		if proto, ok = ProtocolByName(e.Protocol.Value); !ok {
			r.unknown("protocol", e.Protocol, protocolNames())
			return
		}
	}
	a := resolveAccess(e.May, proto, nil, e.EnforcedBy, &r.ds)
	p.To, p.Traffic, p.ByApplication = Party{OutsideParty, EndpointPrefix + e.Name.Value}, r.ports(e.Ports).Limit(a.requests), a.byApp
	r.consumers(e, p)
}

// EndpointPrefix begins the name of the party that an endpoint to a service outside is.
const EndpointPrefix = "endpoint/"

func (r *resolver) consumers(e *Endpoint, p Permission) {
	for _, g := range r.groups(e.Consumers) {
		p.From, p.Name = g, fmt.Sprintf("endpoint %s for %s", e.Name.Value, g.Name)
		r.permit(p)
	}
}

func (r *resolver) exposures() {
	for i := range r.in.Policy.Exposures {
		e := &r.in.Policy.Exposures[i]
		for _, to := range e.To {
			for _, t := range r.targets(to) {
				proto, _ := ProtocolByName(t.service.Protocol.Value)
				a := resolveAccess(e.May, proto, t.service, Text{}, &r.ds)
				for _, from := range e.From {
					party, addrs, ok := r.outside(from)
					if !ok {
						continue
					}
					r.permit(Permission{Kind: ExposureKind, From: r.single(party), To: Party{WorkloadParty, t.workload.Name.Value},
						Service: t.service, Traffic: t.service.traffic(a), Addrs: addrs, Why: e.Why,
						Name: fmt.Sprintf("exposure %s → %s/%s", from.Value, t.workload.Name.Value, t.service.Name.Value), Pos: e.Pos})
				}
			}
		}
	}
}

func (r *resolver) outside(from Text) (Party, netset.Addrs, bool) {
	switch from.Value {
	case Internet:
		return Party{OutsideParty, Internet}, netset.PublicAddrs(), true
	case Hosts:
		return Party{HostsParty, Hosts}, netset.Addrs{}, true
	case ControlPlane:
		return Party{ControlParty, ControlPlane}, netset.Addrs{}, true
	}
	addrs, err := netset.ParseCIDR(from.Value)
	if err != nil {
		r.ds.Errorf("exposure-from", from.Pos, "%q is not a source outside", from.Value).
			WithFix("write internet, hosts, control-plane, or a CIDR")
		return Party{}, netset.Addrs{}, false
	}
	return Party{OutsideParty, from.Value}, addrs, true
}

func (r *resolver) shortForms() {
	if d := r.in.Policy.DNS; d != nil {
		if port, ok := Resolvers[d.To.Value]; ok {
			t := netset.Port(netset.UDP, port).Union(netset.Port(netset.TCP, port))
			for _, g := range r.groupsOrAll(d.From) {
				r.permit(Permission{Kind: DNSKind, From: g, To: Party{ResolverParty, d.To.Value}, Traffic: t, Why: d.Why,
					Name: fmt.Sprintf("dns %s → %s", g.Name, d.To.Value), Pos: d.Pos})
			}
		} else {
			r.service(Permission{Kind: DNSKind, Why: d.Why, Pos: d.Pos}, d.To, d.From)
		}
	}
	if t := r.in.Policy.Telemetry; t != nil {
		r.service(Permission{Kind: TelemetryKind, Evidence: t.Evidence, Why: t.Why, Pos: t.Pos}, t.To, t.From)
	}
}

// service completes a permission of a short form for each service in to.
func (r *resolver) service(p Permission, to Text, from []Text) {
	for _, t := range r.targets(to) {
		self := Party{WorkloadParty, t.workload.Name.Value}
		for _, g := range r.groupsOrAll(from) {
			if g = g.without(self); g == nil {
				continue
			}
			p.From, p.To, p.Service, p.Traffic = g, self, t.service, t.service.Traffic()
			p.Name = fmt.Sprintf("%s %s → %s/%s", p.Kind, g.Name, t.workload.Name.Value, t.service.Name.Value)
			r.permit(p)
		}
	}
}

// others checks the parts that permit nothing: their references must hold.
func (r *resolver) others() {
	p := r.in.Policy
	for i := range p.Relaxations {
		r.groups(p.Relaxations[i].For)
		if d := p.Relaxations[i].Until; d.Expired(r.in.At) {
			r.ds.Warnf("expired", d.Pos, "the relaxation of %s expired on %s", p.Relaxations[i].Invariant.Value, d.Time.Format(time.DateOnly)).
				WithFix("renew until: after a review, or remove it")
		}
	}
	for i := range p.Invariants {
		r.groups(p.Invariants[i].From)
		for _, to := range p.Invariants[i].To {
			if to.Value != Internet {
				r.group(to)
			}
		}
	}
	for i := range p.Tests {
		r.checkTest(&p.Tests[i])
	}
}
