package policy

import (
	"net/netip"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/source"
)

// Intent is what a policy allows at a point in time. It is read only.
type Intent struct {
	Policy *Policy
	At     time.Time
	// Permissions is everything in force, in the order of the policy.
	Permissions []Permission
	// Expired is what the policy states but no longer allows at At.
	Expired []Permission

	workloads    map[string]*Workload
	zones        map[string]*Zone
	destinations map[string]*Destination
	groups       map[string]*Group

	force   index   // of Permissions
	expired index   // of Expired
	outside outside // of Permissions
	past    outside // of Expired
	modes   modes

	// Of an intent in quarantine: what it was before, and by what it is held.
	before      *Intent
	quarantines []Quarantine
	held        held
}

// PartyKind says what a [Party] is.
type PartyKind uint8

const (
	// WorkloadParty is a workload of the policy.
	WorkloadParty PartyKind = iota
	// OutsideParty is a place outside: a destination, or a source of exposure.
	OutsideParty
	// ResolverParty is a resolver that a target knows by Name.
	ResolverParty
	// HostsParty is the machines under the workloads, ControlParty the
	// platform's control plane.
	HostsParty
	ControlParty
)

// Party is one side of a permission: a workload by name, or something else by
// a name that is unique among its kind.
type Party struct {
	Kind PartyKind
	Name string
}

// Group is a set of parties that a permission names together.
type Group struct {
	// Name is how the policy writes it: a workload, `zone/NAME`, `all`, or an
	// outside source.
	Name    string
	Members []Party
	set     map[Party]bool
}

// newGroup returns a group of members that differ from each other.
func newGroup(name string, members []Party) *Group {
	g := &Group{Name: name, Members: members, set: make(map[Party]bool, len(members))}
	for _, m := range members {
		g.set[m] = true
	}
	return g
}

// Has reports whether p is a member.
func (g *Group) Has(p Party) bool { return g.set[p] }

// Kind says which part of a policy a permission comes from.
type Kind string

// The kinds of permission.
const (
	FlowKind      Kind = "flow"
	EgressKind    Kind = "egress"
	EndpointKind  Kind = "endpoint"
	ExposureKind  Kind = "exposure"
	DNSKind       Kind = "dns"
	TelemetryKind Kind = "telemetry"
	// GatewayKind is what egress permissions imply: the way to the gateway,
	// and the gateway's way out.
	GatewayKind Kind = "gateway"
)

// Permission lets each member of From send Traffic to To.
type Permission struct {
	Kind Kind
	From *Group
	To   Party
	// Service is what is reached, nil for something outside.
	Service *Service
	Traffic netset.Traffic
	// Names and Addrs say where an outside party is. Names may begin with `*.`.
	Names []string
	Addrs netset.Addrs
	// ByApplication says that the access within Traffic is left to the
	// application.
	ByApplication bool
	// Plaintext says that it is enforced by address and port only: the mesh
	// proves no identity and reads nothing.
	Plaintext bool
	// Rate is the most bytes per second that each member of From may exchange
	// with To by it, 0 for no limit.
	Rate uint64
	// Special are the special-purpose addresses that an outside party may have;
	// all its other addresses are public ones.
	Special netset.Addrs
	// Fixed are where the hosts of an outside party are, if that is declared; nobody
	// is asked then.
	Fixed []netip.Addr
	// Inspect says that the gateway ends TLS and reads requests.
	Inspect bool
	// NoServerName, EncryptedHello and AnyProtocol are what a permission of egress
	// accepts besides TLS with the destination's own name.
	NoServerName, EncryptedHello, AnyProtocol bool
	// Budget is how much each source may use of the destination.
	Budget Limits
	// Evidence says that a quarantine which keeps evidence leaves it.
	Evidence bool
	// Via is the workload of the gateway through which an egress permission
	// goes. Where it is set the permission is no direct way: the permissions of
	// kind gateway that it implies are.
	Via string
	Why Why
	// Name says what it is to a person: `flow trainer → feature-store/api`.
	Name string
	Pos  source.Pos
}

// ByName returns the names under which a layer that knows names lets p out. Those of
// an endpoint whose address is declared are none of them: outside its consumers' own
// resolver they lead to the public way.
func (p *Permission) ByName() []string {
	if p.Kind == EndpointKind && !p.Addrs.IsEmpty() {
		return nil
	}
	return p.Names
}
