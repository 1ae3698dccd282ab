// Package policy is what is declared: who may talk to whom, how, why and for
// how long, and the one decision that follows from it.
//
// A [Policy] is the declaration as written, every part with its position.
// [Resolve] checks it and turns it into an [Intent] at a point in time: the
// exact traffic that each party may send to each other. The verifier, the
// compilers, the policy tests, explain and the running proxies all ask the
// Intent, so that what is proven is what runs.
//
// What is not declared is denied. Nothing is implied: name resolution and
// telemetry are declared too, with short forms.
package policy

import (
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/source"
)

// Policy is a declaration as written. Slices keep the order of the text.
type Policy struct {
	Platform     Text
	TrustDomain  Text
	Zones        []Zone
	Workloads    []Workload
	Flows        []Flow
	Egress       []Egress
	Destinations []Destination
	Endpoints    []Endpoint
	Exposures    []Exposure
	DNS          *DNS
	Telemetry    *Telemetry
	Gateway      *Gateway
	Threats      []Threat
	Invariants   []Invariant
	Relaxations  []Relaxation
	Tests        []Test
}

// Text is a scalar with its place.
type Text struct {
	Value string
	Pos   source.Pos
}

// Date is a day with its place. The zero Time means none. A permission with a
// date holds through that day, UTC.
type Date struct {
	Time time.Time
	Pos  source.Pos
}

// End is the moment from which it holds no longer, zero if it always holds.
func (d Date) End() time.Time {
	if d.Time.IsZero() {
		return time.Time{}
	}
	return d.Time.AddDate(0, 0, 1)
}

// Expired reports whether the day is over at now.
func (d Date) Expired(now time.Time) bool { return !d.Time.IsZero() && !now.Before(d.End()) }

// Role is what a zone is for; built-in invariants speak of roles.
type Role string

// The roles.
const (
	Data      Role = "data"
	Training  Role = "training"
	Artefacts Role = "artefacts"
	Serving   Role = "serving"
	Logging   Role = "logging"
	Custom    Role = "custom"
)

// Roles lists all roles.
var Roles = []Role{Data, Training, Artefacts, Serving, Logging, Custom}

// Zone is a compartment. A zone In another belongs to it: what is said of the
// outer zone holds for its workloads too. Its role is its own.
type Zone struct {
	Name Text
	Role Text
	In   Text // outer zone, or empty
}

// Workload is something with one identity that runs in one zone.
type Workload struct {
	Name     Text
	Zone     Text
	Serves   []Service
	Bindings []Binding
}

// Service is a named port that a workload serves.
type Service struct {
	Name Text
	// Protocol is one of the names in [Protocols].
	Protocol Text
	// Lo and Hi are the ports; equal for one port.
	Lo, Hi uint16
	// Read and Write are the operations of each kind where the protocol does
	// not define them by itself (gRPC): request patterns.
	Read, Write []Text
}

// Binding says where a workload is found on one target. Its fields belong to
// the target, which checks them.
type Binding struct {
	Target Text
	Fields []Field
}

// Field is one key of a binding: a scalar, a list or a map of scalars.
type Field struct {
	Key  Text
	Text Text
	List []Text
	Map  []Field // scalars only
}

// Field returns the field named key.
func (b *Binding) Field(key string) (Field, bool) {
	for _, f := range b.Fields {
		if f.Key.Value == key {
			return f, true
		}
	}
	return Field{}, false
}

// Why is the justification that every permission carries.
type Why struct {
	Because Text
	Owner   Text
	Until   Date
}

// Flow permits From to use the services in To. A party is a workload, a zone
// as `zone/NAME`, or `all`. A service is `WORKLOAD/SERVICE`, or `WORKLOAD` for
// each of its services, or `zone/NAME` for each of each of its workloads.
type Flow struct {
	From []Text
	To   []Text
	May  []Text // access words and request patterns; empty means connect
	// EnforcedBy is `application` when no layer can tell the access apart.
	EnforcedBy Text
	// Plaintext exempts the flow from the mesh: only addresses and ports are
	// enforced, for collectives and rendezvous.
	Plaintext bool
	Rate      Text // as [ParseRate] reads it; empty means no limit
	// Evidence keeps the flow open in a quarantine that keeps evidence.
	Evidence bool
	Why
	Pos source.Pos
}

// Egress permits From to reach destinations outside, through the gateway.
type Egress struct {
	From   []Text
	To     []Text // destination names, host names, or CIDRs
	Ports  []Text // numbers; empty means those of the destination, or 443
	Region Text   // fills {region} in destination hosts
	May    []Text
	// EnforcedBy is `application` when nobody on the way reads the access.
	EnforcedBy Text
	// Inspect lets the gateway end TLS, so that it reads the requests.
	Inspect bool
	// Accept is what may be said besides TLS with the destination's own name:
	// words of [Accepts].
	Accept []Text
	Budget Budget
	Why
	Pos source.Pos
}

// The words of [Egress.Accept]. Without them only TLS passes whose server name is
// that of the destination, and HTTP where requests are read.
const (
	// AcceptNoName: TLS without a server name.
	AcceptNoName = "no-server-name"
	// AcceptEncryptedHello: TLS with an encrypted client hello, whose real server
	// name nobody sees.
	AcceptEncryptedHello = "encrypted-hello"
	// AcceptAnyProtocol: what is neither TLS nor HTTP, such as SSH.
	AcceptAnyProtocol = "any-protocol"
)

// Accepts lists them.
var Accepts = []string{AcceptNoName, AcceptEncryptedHello, AcceptAnyProtocol}

// Budget is how much each workload may use of each destination. What is empty is
// unlimited.
type Budget struct {
	Bytes      Text // both directions, such as 50GiB/day
	Requests   Text // such as 1000/hour; a tunnel is one
	Concurrent Text // a number
}

// Destination is a named place outside.
type Destination struct {
	Name     Text
	Title    Text
	Category Text
	Owner    Text
	Hosts    []Text
	// Addresses are special-purpose addresses (private, loopback, …) that its
	// hosts may have: CIDRs. Without them only public ones are believed. Single
	// addresses alone are where its hosts are, and nobody is asked.
	Addresses   []Text
	Ports       []Text
	MultiTenant bool
	Private     []Text // private services that can replace it
	Risk        Text
	Source      Text
	Date        Date
	// Builtin says that it comes from the catalogue, not from the user.
	Builtin bool
}

// Endpoint is a private way to a provider service, an internal service or a
// data source. It exists only for its consumers.
type Endpoint struct {
	Name    Text
	Service Text // `aws/bedrock-runtime`, WORKLOAD/SERVICE, or empty for Hosts alone
	Region  Text
	// Hosts are the names under which its consumers know it; for a provider's
	// service the catalogue has them.
	Hosts     []Text
	Address   Text // address or CIDR of the private endpoint, if known
	Ports     []Text
	Protocol  Text // what it speaks, as of a service; https by default
	Consumers []Text
	May       []Text
	// EnforcedBy and Inspect are as those of an [Egress].
	EnforcedBy Text
	Inspect    bool
	Budget     Budget
	// Accepted is by whom and when the owner of what it leads to agreed. Without
	// it an endpoint to an internal service is pending, and permits nothing.
	Accepted Acceptance
	Why
	Pos source.Pos
}

// Acceptance is an owner's consent.
type Acceptance struct {
	By Text
	On Date
}

// Exposure permits something outside to reach a service. From is `internet`,
// `hosts`, `control-plane`, or CIDRs.
type Exposure struct {
	To   []Text
	From []Text
	May  []Text
	Why
	Pos source.Pos
}

// The names of outside parties in an [Exposure].
const (
	Internet     = "internet"
	Hosts        = "hosts"
	ControlPlane = "control-plane"
)

// DNS is the short form for name resolution: From (all by default) may ask To,
// a WORKLOAD/SERVICE, or a resolver that a target knows (`kubernetes`,
// `openshift`).
type DNS struct {
	To   Text
	From []Text
	Why
	Pos source.Pos
}

// Telemetry is the short form for sending metrics, traces and logs.
type Telemetry struct {
	To       Text
	From     []Text
	Evidence bool // as that of a [Flow]
	Why
	Pos source.Pos
}

// Gateway says how egress goes out. Where it names the service through which all
// of it goes, each permission of egress also permits its workload to use Through,
// and Through's workload to reach the destination.
type Gateway struct {
	Through Text // WORKLOAD/SERVICE, or empty for the gateway of each machine
	// Mode is one of [GatewayModes], enforce if it is empty, for the workloads in
	// For (all if there are none). Another mode than enforce is a relaxation: it
	// needs a reason, an owner and an end, and from then on everything is enforced.
	Mode Text
	For  []Text
	// Aliases says what becomes of a name that is an alias of one which no
	// permission names: follow (the default) or refuse.
	Aliases Text
	// WithoutLog says what becomes of requests that cannot be recorded: stop (the
	// default) refuses them, drop counts them as lost.
	WithoutLog Text
	// Upstream is a proxy through which the gateway itself goes out, as
	// http://HOST:PORT.
	Upstream Text
	Why
	Pos source.Pos
}

// The modes of a gateway.
const (
	// Enforce refuses what no permission holds.
	Enforce = "enforce"
	// ReportOnly lets it pass and marks what would have been refused.
	ReportOnly = "report"
	// Observe lets it pass and says nothing of it.
	Observe = "observe"
)

// GatewayModes lists them.
var GatewayModes = []string{Enforce, ReportOnly, Observe}

// The other words of a [Gateway].
const (
	AliasesFollow = "follow"
	AliasesRefuse = "refuse"
	LogStop       = "stop"
	LogDrop       = "drop"
)

// Threat says which controls answer a threat.
type Threat struct {
	ID        Text
	Technique Text
	Says      Text
	Controls  []Text
	Owner     Text
	Status    Text // mitigated, accepted or open
}

// Invariant is a declared rule that no permission may break: From never
// reaches To, directly or, when Transitive is set, over a chain.
type Invariant struct {
	ID         Text
	Says       Text
	From, To   []Text
	Transitive bool
	Owner      Text
	Pos        source.Pos
}

// Relaxation accepts that an invariant does not hold for some permissions.
type Relaxation struct {
	Invariant Text
	For       []Text // workloads or zones; empty means all
	Why
	Pos source.Pos
}

// Test states what must be allowed and denied. Operations are request
// patterns, `any`, or `connect` for a service as a whole.
type Test struct {
	From, To    Text
	Allow, Deny []Text
	Pos         source.Pos
}

// Protocol is what a service speaks: which transports carry it and how its
// requests look to a filter.
type Protocol struct {
	Name       string
	Transports []netset.Protocol
	// Requests is the form of its requests, or empty when no filter on the
	// way can tell them apart.
	Requests RequestForm
}

// RequestForm is a form of requests that filters know.
type RequestForm string

// The request forms.
const (
	Opaque RequestForm = ""
	HTTP   RequestForm = "http"
	S3     RequestForm = "s3"
	GRPC   RequestForm = "grpc"
)

// Protocols lists the protocols that a service can name.
var Protocols = []Protocol{
	{Name: "tcp", Transports: []netset.Protocol{netset.TCP}},
	{Name: "udp", Transports: []netset.Protocol{netset.UDP}},
	{Name: "sctp", Transports: []netset.Protocol{netset.SCTP}},
	{Name: "dns", Transports: []netset.Protocol{netset.TCP, netset.UDP}},
	{Name: "tls", Transports: []netset.Protocol{netset.TCP}},
	{Name: "http", Transports: []netset.Protocol{netset.TCP}, Requests: HTTP},
	{Name: "https", Transports: []netset.Protocol{netset.TCP}, Requests: HTTP},
	{Name: "grpc", Transports: []netset.Protocol{netset.TCP}, Requests: GRPC},
	{Name: "otlp", Transports: []netset.Protocol{netset.TCP}, Requests: GRPC},
	{Name: "s3", Transports: []netset.Protocol{netset.TCP}, Requests: S3},
	{Name: "postgres", Transports: []netset.Protocol{netset.TCP}},
	{Name: "mysql", Transports: []netset.Protocol{netset.TCP}},
	{Name: "redis", Transports: []netset.Protocol{netset.TCP}},
	{Name: "mongodb", Transports: []netset.Protocol{netset.TCP}},
	{Name: "kafka", Transports: []netset.Protocol{netset.TCP}},
	{Name: "nats", Transports: []netset.Protocol{netset.TCP}},
	{Name: "amqp", Transports: []netset.Protocol{netset.TCP}},
	{Name: "nfs", Transports: []netset.Protocol{netset.TCP}},
	{Name: "syslog", Transports: []netset.Protocol{netset.TCP, netset.UDP}},
	{Name: "nccl", Transports: []netset.Protocol{netset.TCP}},
	{Name: "quic", Transports: []netset.Protocol{netset.UDP}},
}

// ProtocolByName returns the protocol of that name.
func ProtocolByName(name string) (Protocol, bool) {
	for _, p := range Protocols {
		if p.Name == name {
			return p, true
		}
	}
	return Protocol{}, false
}

// The access words of a flow.
const (
	Connect = "connect"
	Read    = "read"
	Write   = "write"
	Call    = "call"
)

// EnforcedByApplication is the value of [Flow.EnforcedBy] that accepts that no
// layer tells the access apart.
const EnforcedByApplication = "application"
