// Package endpoint says which private endpoints there are, for whom, and under
// which names and addresses.
//
// A private endpoint is a way to a provider's service, a service of the platform
// or a data source that exists for its consumers alone: for them its names lead to
// its address inside the mesh, for everybody else there is no such name and
// nothing at the address. [Names] is what a resolver may answer to whom.
//
// It promises that a name is private exactly while a permission in force lets the
// client use the endpoint: what expired, is pending or is in quarantine is gone
// from the next generation on.
package endpoint

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/registry"
)

// Domain is where names of the mesh's own are, below no zone of the internet.
const Domain = "bulkhead.internal"

// Name returns the name of an endpoint that it has besides those of its service.
func Name(endpoint string) string { return endpoint + ".endpoint." + Domain }

// Endpoint is a private endpoint as a generation has it.
type Endpoint struct {
	Name string
	// Workload is where one to a service of the platform leads, empty for something
	// outside. Port is its first port.
	Workload string
	Port     uint16
	// TLS says that its clients begin with TLS.
	TLS bool
	// Hosts are the names under which consumers know it, lower case; `*.x` is any
	// name below x.
	Hosts []string
	// Consumers may use it.
	Consumers map[string]bool
}

// Of returns the endpoints that somebody may use, in the order of the policy.
func Of(in *policy.Intent) []Endpoint {
	var out []Endpoint
	for i := range in.Policy.Endpoints {
		e := &in.Policy.Endpoints[i]
		x := Endpoint{Name: e.Name.Value, Consumers: map[string]bool{}, TLS: SpeaksTLS(e), Hosts: []string{Name(e.Name.Value)}}
		for j := range in.Permissions {
			p := &in.Permissions[j]
			if p.Kind != policy.EndpointKind || p.Pos != e.Pos {
				continue
			}
			for _, m := range p.From.Members {
				x.Consumers[m.Name] = true
			}
			if p.To.Kind == policy.WorkloadParty {
				x.Workload = p.To.Name
			}
			if runs := p.Traffic.Protocol(netset.TCP).Runs(); len(runs) > 0 {
				x.Port = runs[0].Lo
			}
			for _, name := range p.Names {
				if !slices.Contains(x.Hosts, name) {
					x.Hosts = append(x.Hosts, name)
				}
			}
		}
		if len(x.Consumers) > 0 {
			out = append(out, x)
		}
	}
	return out
}

// SpeaksTLS reports whether an endpoint's clients begin with TLS.
func SpeaksTLS(e *policy.Endpoint) bool {
	return e.Protocol.Value == "" || e.Protocol.Value == "https" || e.Protocol.Value == "tls"
}

// has reports whether an endpoint is known under a name.
func (e *Endpoint) has(name string) bool {
	return slices.ContainsFunc(e.Hosts, func(h string) bool {
		suffix, wild := strings.CutPrefix(h, "*")
		return h == name || wild && len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	})
}

// Names is what a resolver may answer to whom. It asks the generation in force.
type Names struct {
	registry *registry.Registry
	private  atomic.Pointer[directory]
}

// directory is the private names of one generation.
type directory struct {
	endpoints []Endpoint
	at        map[string][]netip.Addr // addresses by endpoint
	own       map[string][]netip.Addr // names that every client has
	gateway   []netip.Addr            // stands for every name that has no address for clients
}

// NewNames returns names without any endpoint.
func NewNames(r *registry.Registry) *Names {
	n := &Names{registry: r}
	n.private.Store(&directory{})
	return n
}

// Set says where endpoints are, and which names every client has besides, such as
// that of the gateway. Clients that are no consumer of an endpoint know nothing of
// it.
func (n *Names) Set(endpoints []Endpoint, at, own map[string][]netip.Addr, gateway []netip.Addr) {
	n.private.Store(&directory{endpoints, at, own, gateway})
}

// fixed returns the addresses that the policy declares for a name outside which a
// client may use, nil if it declares none.
func (n *Names) fixed(client, name string) []netip.Addr {
	f := n.registry.Force()
	if f == nil {
		return nil
	}
	for _, p := range f.Intent.Naming(party(client), name) {
		if len(p.Fixed) > 0 {
			return p.Fixed
		}
	}
	return nil
}

// Private returns the addresses of a private name for a client.
func (n *Names) Private(client, name string) ([]netip.Addr, bool) {
	d := n.private.Load()
	if addrs := d.own[name]; addrs != nil && client != "" {
		return addrs, true
	}
	if addrs := n.fixed(client, name); addrs != nil {
		if addrs[0].IsLoopback() {
			// Of the gateway's machine, and not of the client's: it is reached by
			// name, through the gateway.
			return d.gateway, len(d.gateway) > 0
		}
		return addrs, true
	}
	for i := range d.endpoints {
		e := &d.endpoints[i]
		if e.Consumers[client] && e.has(name) && n.mayUse(client, e) {
			return d.at[e.Name], true
		}
	}
	return nil, false
}

// mayUse asks the generation in force, which may be newer than what was set.
func (n *Names) mayUse(client string, e *Endpoint) bool {
	f := n.registry.Force()
	if f == nil {
		return false
	}
	for i := range f.Intent.Permissions {
		p := &f.Intent.Permissions[i]
		if p.Kind == policy.EndpointKind && p.From.Has(party(client)) && (p.To.Name == policy.EndpointPrefix+e.Name || e.Workload != "" && p.To.Name == e.Workload) {
			return true
		}
	}
	return false
}

func party(name string) policy.Party { return policy.Party{Kind: policy.WorkloadParty, Name: name} }

// Permitted reports whether a client may resolve a name outside: whether it may
// resolve at all, and some permission could lead it there.
func (n *Names) Permitted(client, name string) bool {
	f := n.registry.Force()
	return f != nil && client != "" && f.Intent.NamesPossible(party(client), name)
}

// Believes reports whether a client may be told that a name has a
// special-purpose address: whether its permission declares it.
func (n *Names) Believes(client, name string, a netip.Addr) bool {
	f := n.registry.Force()
	if f == nil {
		return false
	}
	for _, p := range f.Intent.Naming(party(client), name) {
		if p.Special.Contains(a) {
			return true
		}
	}
	return netset.Special(a) == ""
}
