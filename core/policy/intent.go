package policy

import (
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
	byTo         map[Party][]int // indexes into Permissions
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
	// Via is the workload of the gateway through which an egress permission
	// goes. Where it is set the permission is no direct way: the permissions of
	// kind gateway that it implies are.
	Via string
	Why Why
	// Name says what it is to a person: `flow trainer → feature-store/api`.
	Name string
	Pos  source.Pos
}
