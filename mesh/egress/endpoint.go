package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/policy"
	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/outside"
)

// ServeEndpoint serves a connection of a client to a private endpoint that leads
// outside, and closes it. Where the endpoint's protocol shows requests in the
// clear, or its TLS is inspected, each is decided; otherwise bytes pass untouched.
func (g *Gateway) ServeEndpoint(ctx context.Context, conn net.Conn, c Client, name string, port uint16) {
	s := g.begin(ctx, c, func() { resetConn(conn) })
	if s == nil {
		g.tooMany(conn, c)
		return
	}
	defer s.end()
	e := g.endpoint(name)
	if e == nil {
		s.malformed(fmt.Sprintf("generation %d has no endpoint %s", g.generation(), name), 404)
		resetConn(conn)
		return
	}
	in := reader{conn: conn}
	a := s.newAsk(outside.Target{Port: port})
	a.endpoint = e
	if proto, ok := policy.ProtocolByName(e.Protocol.Value); ok && proto.Requests != policy.Opaque && proto.Name != "https" {
		p := &proxied{s: s, in: in, fixed: outside.Target{Host: firstHost(e), Port: port}, endpoint: e}
		p.serve()
		p.close()
		return
	}
	if endpoint.SpeaksTLS(e) {
		host, r := s.endpointName(a, &in)
		if r != nil {
			a.recordRefusal(r)
			resetConn(conn)
			return
		}
		a.target.Host = host
	}
	if r := a.decide(true); r != nil {
		a.recordRefusal(r)
		resetConn(conn)
		return
	}
	s.captured(a, &in, nil)
}

// endpoint returns the endpoint of that name in the policy in force, nil if there
// is none.
func (g *Gateway) endpoint(name string) *policy.Endpoint {
	f := g.o.Registry.Force()
	if f == nil {
		return nil
	}
	for i := range f.Intent.Policy.Endpoints {
		if e := &f.Intent.Policy.Endpoints[i]; e.Name.Value == name {
			return e
		}
	}
	return nil
}

// partyOf returns the party that an endpoint to something outside is.
func partyOf(e *policy.Endpoint) policy.Party {
	return policy.Party{Kind: policy.OutsideParty, Name: policy.EndpointPrefix + e.Name.Value}
}

// hostsOf returns the names of an endpoint.
func hostsOf(e *policy.Endpoint) []string {
	out := make([]string, len(e.Hosts))
	for i, h := range e.Hosts {
		out[i] = strings.ToLower(strings.ReplaceAll(h.Value, "{region}", e.Region.Value))
	}
	return out
}

// firstHost returns the first name of an endpoint that is no pattern.
func firstHost(e *policy.Endpoint) string {
	hosts := hostsOf(e)
	if i := slices.IndexFunc(hosts, func(h string) bool { return !strings.HasPrefix(h, "*") }); i >= 0 {
		return hosts[i]
	}
	return ""
}

// endpointName reads whom a client wants of an endpoint. It must be one of the
// endpoint's names; without any, every name is the endpoint's.
func (s *session) endpointName(a *ask, in *reader) (string, *refusal) {
	g := s.g
	said, http, why := s.sniff(in)
	hosts := hostsOf(a.endpoint)
	switch {
	case http:
		return "", g.refuse(403, "endpoint %s speaks TLS, and its client does not", a.endpoint.Name.Value)
	case said == "" && len(hosts) == 0:
		return "", nil
	case said == "":
		return "", g.refuse(403, "%s", why)
	}
	name, err := outside.Canonical(said)
	if err != nil {
		return "", g.refuse(403, "the server name of its TLS is no host name: %v", err)
	}
	if len(hosts) == 0 {
		return name, nil
	}
	if !slices.ContainsFunc(hosts, func(h string) bool {
		suffix, wild := strings.CutPrefix(h, "*")
		return h == name || wild && len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	}) {
		return "", g.refuse(403, "its TLS is for %s, to which endpoint %s does not lead", name, a.endpoint.Name.Value)
	}
	return name, nil
}

// declaredAt returns where an endpoint is by its declaration, if it names single
// addresses.
func (a *ask) declaredAt() []netip.AddrPort {
	p := a.permission()
	if a.endpoint == nil || p == nil {
		return nil
	}
	var out []netip.AddrPort
	for _, prefix := range p.Addrs.Prefixes() {
		if !prefix.IsSingleIP() {
			return nil
		}
		out = append(out, netip.AddrPortFrom(prefix.Addr(), a.target.Port))
	}
	return out
}
