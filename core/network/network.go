// Package network describes what is deployed: endpoints, the rule tables that
// filter between them, the fronts that publish them and the paths that
// connections take, each with the place in the configuration it came from.
//
// The model is neutral: importers of every platform fill one [Network], and
// package reach answers questions about all of them together. It promises no
// meaning of its own beyond what each type states; what an importer could not
// understand it must record in [Coverage], never leave out.
package network

import (
	"bulkhead/core/netset"
	"bulkhead/core/source"
)

// Network is an estate as read from configuration. Importers append to its
// slices; afterwards it is read only.
type Network struct {
	Scopes    []Scope
	Endpoints []Endpoint
	Layers    []Layer
	Paths     []Path
	Fronts    []Front
	Coverage  Coverage
	// Assumptions are the facts that the verdicts rest on and that the input
	// does not state, one sentence each.
	Assumptions []Assumption

	predicates []Predicate
	byKey      map[string]PredicateID
}

// Scope is a named set of endpoints that rules can select by attributes. Names
// are unique within a Network.
type Scope struct {
	Name       string
	Attributes map[string]string
	Pos        source.Pos
}

// Kind says what an endpoint is.
type Kind uint8

const (
	// Workload is something that people deploy.
	Workload Kind = iota
	// Host is the machine under the workloads, with its agents.
	Host
	// Control is the platform's own control plane.
	Control
)

// Attachment says how an endpoint meets the network.
type Attachment uint8

const (
	// Own is a network identity of its own, which filters apply to.
	Own Attachment = iota
	// HostShared is the host's network identity: filters for workloads do
	// not see it.
	HostShared
)

// Endpoint is a set of interchangeable instances with one network identity.
type Endpoint struct {
	Kind Kind
	// Workload is the name answers use, scope/Kind/name by the topmost owner.
	// Several endpoints may share it; Part tells them apart.
	Workload string
	Part     string
	// Scope is an index into Network.Scopes, or -1.
	Scope int
	// Attributes are what selectors match. They are shared, never written.
	Attributes map[string]string
	// Attachment and Everywhere place it: Everywhere says that an instance
	// runs on every host, so that it is local to every other endpoint.
	Attachment Attachment
	Everywhere bool
	// Addrs is where the instances are (exact when AddrsKnown), or the space
	// they may be in.
	Addrs      netset.Addrs
	AddrsKnown bool
	// Identity is the name it can prove, or empty.
	Identity string
	// Ports are the ports it declares. What it declares does not limit what
	// it listens on; names are what rules may refer to.
	Ports []Port
	// PortsUnseen says that it may declare ports that the input does not show,
	// so that a rule that names a port may mean any.
	PortsUnseen bool
	// Facts are not used for verdicts: they tell what the endpoint is.
	Facts Facts
	Pos   source.Pos
}

// Name returns the workload and its part.
func (e *Endpoint) Name() string {
	if e.Part == "" {
		return e.Workload
	}
	return e.Workload + "[" + e.Part + "]"
}

// Facts are what an endpoint says of itself.
type Facts struct {
	Group, Kind, Name string
	Images, Commands  []string
}

// Port is a declared port.
type Port struct {
	Name     string
	Protocol netset.Protocol
	Number   uint16
}

// Action is what a rule does to the traffic it matches.
type Action uint8

const (
	// Allow ends the layer: the traffic passes it.
	Allow Action = iota
	// Deny ends everything.
	Deny
	// Pass leaves the table: the next table of the layer decides.
	Pass
)

func (a Action) String() string { return [...]string{"allow", "deny", "pass"}[a] }

// Direction is the side of a connection that a table guards.
type Direction uint8

const (
	// Egress tables guard what their subject opens.
	Egress Direction = iota
	// Ingress tables guard what is opened to their subject.
	Ingress
)

func (d Direction) String() string { return [...]string{"egress", "ingress"}[d] }

// Layer is one mechanism that filters. For a subject and a peer its tables
// are asked in order; what no table decides gets Default.
type Layer struct {
	Name    string
	Tables  [2][]Table // by Direction
	Default Action     // Allow or Deny
}

// Table is an ordered or unordered set of rules.
type Table struct {
	Name string
	// Ordered tables decide by the rule of the lowest Priority that matches.
	// Rules of one Group are asked in the order of the slice. Groups of equal
	// priority have no order: where they disagree the outcome is unknown.
	// Unordered tables hold only Allow rules and pass the union.
	Ordered bool
	Rules   []Rule
	// Isolates lists the subjects for which what no rule of this table
	// decided is denied.
	Isolates []Isolation
}

// Isolation closes a table for its subjects.
type Isolation struct {
	Name    string
	Subject PredicateID
	Pos     source.Pos
}

// Rule matches the traffic of its subject to or from a peer.
type Rule struct {
	// Name says what it is to a person: `policy shop/web, ingress rule 1`.
	Name     string
	Subject  PredicateID
	Peers    []PredicateID // any of them
	Traffic  netset.Traffic
	Named    []NamedPort // added to Traffic, resolved at the destination
	Action   Action
	Priority int
	Group    int // of an ordered table: the object that states the rule
	// Uncertain says why it is not known whether the rule takes effect; empty
	// when it does.
	Uncertain string
	Pos       source.Pos
}

// NamedPort is a port that each destination numbers for itself.
type NamedPort struct {
	Protocol netset.Protocol
	Name     string
}

// Resolve returns the numbers that e gives to the named ports.
func (e *Endpoint) Resolve(named []NamedPort) netset.Traffic {
	var t netset.Traffic
	for _, n := range named {
		for _, p := range e.Ports {
			if p.Name == n.Name && p.Protocol == n.Protocol {
				t = t.Union(netset.Port(p.Protocol, p.Number))
			}
		}
	}
	return t
}

// End is a bit set of the kinds of places where a path begins or ends.
type End uint8

const (
	// EndOwn is a workload with a network identity of its own.
	EndOwn End = 1 << iota
	// EndShared is a workload on the host's network, on some hosts.
	EndShared
	// EndSharedEverywhere is one with an instance on every host.
	EndSharedEverywhere
	// EndHost is a host, EndControl the control plane.
	EndHost
	EndControl
	// EndOutside is an address or name outside the estate.
	EndOutside
)

// EndOf returns the kind of place that e is.
func (e *Endpoint) EndOf() End {
	switch {
	case e.Kind == Host:
		return EndHost
	case e.Kind == Control:
		return EndControl
	case e.Attachment == Own:
		return EndOwn
	case e.Everywhere:
		return EndSharedEverywhere
	}
	return EndShared
}

// Path says what a connection meets between two kinds of ends. A pair is
// connected by the union of all paths that apply to it.
type Path struct {
	Name     string
	From, To End
	Steps    []Step
	// Local says that the path exists only between ends on the same host: it
	// is certain for a host or what runs on every host as a kind, and not for
	// any one of them.
	Local bool
	// Uncertain says why the path may not exist; empty when it does.
	Uncertain string
}

// StepKind says what a step does.
type StepKind uint8

const (
	// Filter asks the tables of Layer in Direction.
	Filter StepKind = iota
	// Wrap puts the traffic into a tunnel: until Unwrap, filters see only
	// Outer.
	Wrap
	// Unwrap takes it out again.
	Unwrap
	// Replace makes later filters see Peer as the source.
	Replace
)

// Step is one thing on a path.
type Step struct {
	Kind      StepKind
	Layer     int // index into Network.Layers
	Direction Direction
	Outer     netset.Traffic
	Peer      netset.Addrs
	Name      string
}

// Reach says from where a front can be reached.
type Reach uint8

const (
	// ReachUnknown means that the input does not tell.
	ReachUnknown Reach = iota
	// ReachInside is only from within the estate.
	ReachInside
	// ReachPrivate is from the organisation's own networks.
	ReachPrivate
	// ReachPublic is from the internet.
	ReachPublic
)

func (r Reach) String() string {
	return [...]string{"unknown", "inside", "private", "public"}[r]
}

// Source says which address a workload sees behind a front.
type Source uint8

const (
	// SourceEither means that the platform decides.
	SourceEither Source = iota
	// SourceKept is the client's own.
	SourceKept
	// SourceReplaced is one of the hosts or of the front.
	SourceReplaced
)

// Front is an address and ports that are forwarded to endpoints: a service, a
// load balancer, a host port, an HTTP route.
type Front struct {
	// Name says what it is to a person: `service shop/web (load balancer)`.
	Name  string
	Reach Reach
	// Why says what Reach was concluded from.
	Why string
	// Clients are the addresses admitted by the front itself.
	Clients netset.Addrs
	Source  Source
	// Via selects the endpoints that open the connections to the backends in
	// the clients' place, when Proxied is set: a proxy inside the estate, or
	// the control plane. Layers then see them as the source.
	Via     PredicateID
	Proxied bool
	// Hosts and Addresses are the names and addresses it answers on, if known.
	Hosts     []string
	Addresses netset.Addrs
	Routes    []Route
	Pos       source.Pos
}

// Route maps a port of a front to a port of endpoints.
type Route struct {
	Protocol netset.Protocol
	// Port is the front's port; zero when it is not known.
	Port uint16
	// Backends selects the endpoints. Number is their port, or zero when Name
	// names it, or when neither is given and it is Port.
	Backends PredicateID
	Number   uint16
	Name     string
	// Requests are those that the front forwards; nil for all.
	Requests *netset.Requests
	// Address is a forwarded-to address outside the estate instead of Backends,
	// which then is a predicate that means no one.
	Address netset.Addrs
	Pos     source.Pos
}

// At returns the ports of e that r forwards to.
func (r *Route) At(e *Endpoint) netset.Traffic {
	var t netset.Traffic
	switch {
	case r.Name != "":
		t = e.Resolve([]NamedPort{{r.Protocol, r.Name}})
	case r.Number != 0:
		t = netset.Port(r.Protocol, r.Number)
	default:
		t = netset.Port(r.Protocol, r.Port)
	}
	if r.Requests != nil {
		t = t.Limit(*r.Requests)
	}
	return t
}

// Assumption is a fact that verdicts rest on. Traffic is what it decides:
// questions about it are answered with unknown where it matters.
type Assumption struct {
	ID      string
	Says    string
	Traffic netset.Traffic
}

// Coverage says how much of the input was understood.
type Coverage struct {
	Objects    int
	Understood int
	Ignored    []Ignored
}

// Ignored is an object that was not understood, or a part of one.
type Ignored struct {
	Pos  source.Pos
	Kind string
	Name string
	Why  string
	// Matters says that it could change a verdict.
	Matters bool
}
