package probe

import (
	"net/netip"

	"bulkhead/core/policy"
)

// Platform is what a probe is planned from.
type Platform struct {
	Intent      *policy.Intent
	TrustDomain string
	// Members are the workloads of this node, in the order of the policy.
	Members []Member
	// Addresses are where each workload of the platform is, and Zones in which
	// zone.
	Addresses map[string][]netip.Addr
	Zones     map[string]string
	// Doors are the zones between which the fabric lets tunnels pass.
	Doors map[[2]string]bool
	// Silent says why nothing may answer at a workload: it has no command, or runs
	// nowhere. That it does not is then nobody's fault.
	Silent map[string]string
	// Gateway is where the egress gateway takes requests, invalid if there is none;
	// Via is the workload that it is in the policy, empty for none.
	Gateway netip.AddrPort
	Via     string
	// Endpoints are the private endpoints that lead outside.
	Endpoints []Endpoint
	// Machine are addresses of the machine itself.
	Machine []netip.Addr
	// Private are folders of bulkhead, and Sockets unix sockets, of which a workload
	// must see nothing; APIs are the Workload API sockets as the machine sees them,
	// by workload; PID is the node's process.
	Private []string
	Sockets []string
	APIs    map[string]string
	PID     int
	// Run begins the ids of all cases. FirstPort is added to the local ports, so
	// that one run does not use those of the run before.
	Run       string
	FirstPort int
}

// Member is a workload of this node.
type Member struct {
	Name string
	// Untried says why nothing can be tried as this workload, empty if it can.
	Untried string
	// Anonymous says that it has no certificate, such as one in quarantine.
	Anonymous bool
	// Datagrams says that some datagrams of it are captured.
	Datagrams bool
}

// Endpoint is a private endpoint that leads outside.
type Endpoint struct {
	Name      string
	At        netip.AddrPort
	Hosts     []string // without patterns
	Consumers map[string]bool
	// TLS says that its clients begin with TLS.
	TLS bool
}

// Filter limits a plan; an empty name is no limit.
type Filter struct{ From, To string }

// want says what makes a case go as expected.
type want uint8

const (
	// wantProxyRefusal: the proxy refuses, and its record says so.
	wantProxyRefusal want = iota
	// wantKernelRefusal: the kernel refuses with one of the case's errors, or the
	// proxy does.
	wantKernelRefusal
	// wantStop: it comes to nothing, by one of the case's errors.
	wantStop
	// wantOpen: the proxy opens it, and its record says so.
	wantOpen
	// wantPlain: it is open, and no proxy took part.
	wantPlain
	// wantRequestRefusal and wantRequest: the request is refused or answered, by
	// the record of the other side.
	wantRequestRefusal
	wantRequest
	// wantHandshakeRefusal: TLS refuses. wantStreamRefusal: the proxy refuses the
	// stream that TLS let through. wantStream: it opens.
	wantHandshakeRefusal
	wantStreamRefusal
	wantStream
	// wantOwnIdentity: the Workload API gives the workload's own identity, or
	// none.
	wantOwnIdentity
	// wantWayOut: the gateway lets it out, and its record says so. wantNoWayOut: the
	// gateway refuses it, and its record says so.
	wantWayOut
	wantNoWayOut
)

func (w want) allowed() bool {
	return w == wantOpen || w == wantPlain || w == wantRequest || w == wantStream || w == wantWayOut
}

// Case is one thing to try, and what is expected of it.
type Case struct {
	Number   int
	ID       string
	Kind     Kind
	Name     string
	From, To string
	// Here says that the node tries it and not the workload.
	Here bool
	// Policy says why it is expected: the permission, or why there is none.
	Policy string
	// Untried says why it cannot be tried, empty if it can.
	Untried string
	Task    Task

	want   want
	accept []string // the errors of a refusal, where the kernel refuses
	own    string   // the identity that is expected
	silent string   // see Platform.Silent
	// remote says that the other side's records are on another node.
	remote bool
}

// Expected is allowed or refused.
func (c *Case) Expected() string {
	if c.want.allowed() {
		return "allowed"
	}
	return "refused"
}

// Kind groups cases.
type Kind struct {
	ID, Title string
	// Attack says that it must fail whatever the policy says.
	Attack bool
}

// The kinds that come from the policy.
var (
	prohibitedPair    = Kind{ID: "prohibited-pair", Title: "prohibited pairs refused"}
	permittedPair     = Kind{ID: "permitted-pair", Title: "permitted pairs open"}
	unservedPort      = Kind{ID: "unserved-port", Title: "ports that nobody serves refused"}
	datagramToTCP     = Kind{ID: "undeclared-datagram", Title: "undeclared datagrams refused"}
	prohibitedRequest = Kind{ID: "prohibited-request", Title: "prohibited requests refused"}
	permittedRequest  = Kind{ID: "permitted-request", Title: "permitted requests answered"}
	plaintextOpen     = Kind{ID: "plaintext", Title: "plaintext exemptions open"}
	plaintextClosed   = Kind{ID: "plaintext-neighbour", Title: "neighbours of plaintext exemptions refused"}
)

func attack(id, title string) Kind { return Kind{ID: id, Title: title, Attack: true} }

// The attacks.
var (
	ownIdentity    = attack("workload-api", "another identity from the Workload API")
	directTunnel   = attack("direct-tunnel", "the other proxy dialled directly")
	noCertificate  = attack("no-certificate", "no client certificate")
	wrongDomain    = attack("wrong-trust-domain", "a certificate of another trust domain")
	expiredSVID    = attack("expired-certificate", "an expired certificate")
	selfMade       = attack("self-made-certificate", "another's identity, self-made")
	forgedLeaf     = attack("forged-leaf", "another's identity, signed with the own certificate")
	otherSNI       = attack("other-server-name", "the server name of another")
	plainToTLS     = attack("plaintext-to-mtls", "plaintext to the mutual TLS port")
	oldTLS         = attack("old-tls", "TLS 1.2")
	control        = Kind{ID: "tunnel", Title: "tunnels with the right certificate open"}
	deniedStream   = attack("prohibited-stream", "a prohibited port through a valid tunnel")
	strayStream    = attack("stray-stream", "another workload through a valid tunnel")
	metadata       = attack("metadata", "metadata of the cloud")
	outsideDNS     = attack("dns-outside", "names of outside servers")
	outsideHost    = attack("outside", "addresses outside")
	machinePorts   = attack("machine", "the machine itself")
	loopback       = attack("loopback", "the proxy's own ports")
	spoofed        = attack("spoofed-source", "another's source address")
	rawSocket      = attack("raw-socket", "raw and packet sockets")
	otherTransport = attack("other-transport", "other transports: ICMP, SCTP, DCCP, MPTCP")
	broadcast      = attack("broadcast", "broadcast and multicast")
	setMark        = attack("mark", "the proxy's packet mark")
	kernelRules    = attack("kernel-rules", "changes of routes, filters and kernel settings")
	namespaces     = attack("namespaces", "other namespaces")
	processes      = attack("processes", "other processes")
	unixSockets    = attack("unix-sockets", "the sockets and files of bulkhead")
)

// AsProxy says that the task is a stream that is opened as a proxy does it, with
// the certificate that the workload really has.
func (c *Case) AsProxy() bool { return c.want == wantStream || c.want == wantStreamRefusal }
