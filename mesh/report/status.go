// Package report is what a running node says of itself: how it is doing, what a
// quarantine would take away and what it did, and what a probe found. It is
// data alone; the field names are stable, and fields may be added.
package report

import (
	"net/netip"
	"time"

	"bulkhead/core/policy"
)

// Status is how a node is doing.
type Status struct {
	Platform string `json:"platform"`
	Node     string `json:"node"`
	// Mode is root, user or cooperative. Enforced is false in cooperative mode:
	// the kernel keeps nothing apart there.
	Mode     string    `json:"mode"`
	Enforced bool      `json:"enforced"`
	Started  time.Time `json:"started"`

	Generation uint64    `json:"generation"` // 0: none is in force, everything is denied
	Plan       string    `json:"plan,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	// Problems is what needs a person: a policy that was refused, a control
	// plane that is away, a disk that is full.
	Problems []string `json:"problems,omitempty"`
	// Limits is what this node does otherwise than the policy says, never more.
	Limits []string `json:"limits,omitempty"`

	Workloads   []WorkloadStatus    `json:"workloads"`
	Nodes       []PeerStatus        `json:"nodes,omitempty"`
	Doors       []DoorStatus        `json:"exposures,omitempty"`
	Quarantines []policy.Quarantine `json:"quarantines,omitempty"`
	// Open is how many connections, streams and requests are open.
	Open int `json:"open"`
	// Gateway is the way out, nil if this node has none.
	Gateway *Gateway `json:"gateway,omitempty"`
}

// Gateway is how the egress gateway of a node is doing; its numbers are totals
// since the start.
type Gateway struct {
	Address string `json:"address"` // for HTTPS_PROXY and the like
	Mode    string `json:"mode"`
	Allowed uint64 `json:"allowed"`
	Denied  uint64 `json:"denied"`
	Failed  uint64 `json:"failed"`
	Open    int    `json:"open"`
	// Log is the file of records, Lost how many could not be kept; Problem says why
	// nothing passes.
	Log     string `json:"log"`
	Lost    uint64 `json:"lost,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Inspected are the permissions whose TLS is ended at the gateway.
	Inspected []string    `json:"inspected,omitempty"`
	Budgets   []BudgetUse `json:"budgets,omitempty"`
}

// BudgetUse is what a source has used of what it may at a destination, within the
// times that the limits are for.
type BudgetUse struct {
	From         string        `json:"from"`
	To           string        `json:"to"`
	Bytes        uint64        `json:"bytes"`
	MostBytes    uint64        `json:"most_bytes,omitempty"`
	BytesPer     time.Duration `json:"bytes_per_ns,omitempty"`
	Requests     uint64        `json:"requests"`
	MostRequests uint64        `json:"most_requests,omitempty"`
	RequestsPer  time.Duration `json:"requests_per_ns,omitempty"`
	Concurrent   int           `json:"concurrent"`
}

// The states of a workload.
const (
	Running = "running"
	Waiting = "waiting" // it ended, and is started again soon
	Failed  = "failed"  // it could not be started; tried again
	Idle    = "idle"    // it has its place and no command
	Bound   = "bound"   // an existing process, found by unit or cgroup
	WayOut  = "the egress gateway"
)

// WorkloadStatus is one workload of this node.
type WorkloadStatus struct {
	Name      string       `json:"name"`
	Zone      string       `json:"zone"`
	State     string       `json:"state"`
	PID       int          `json:"pid,omitempty"`
	Restarts  int          `json:"restarts,omitempty"`
	Says      string       `json:"says,omitempty"` // how its last process ended
	Addresses []netip.Addr `json:"addresses"`
	// IdentityUntil is when its certificate expires; zero if it has none.
	IdentityUntil time.Time `json:"identity_until,omitzero"`
	Quarantined   bool      `json:"quarantined,omitempty"`
}

// Ready reports whether it is as it should be.
func (w *WorkloadStatus) Ready() bool {
	return (w.State == Running || w.State == Idle || w.State == Bound || w.State == WayOut) && (!w.IdentityUntil.IsZero() || w.Quarantined)
}

// PeerStatus is another node, as control last heard of it.
type PeerStatus struct {
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"`
	Heard      time.Time `json:"heard"`
}

// DoorStatus is a service that something outside may reach.
type DoorStatus struct {
	Workload string         `json:"workload"`
	Port     uint16         `json:"port"`
	Listens  netip.AddrPort `json:"listens,omitzero"`
	Problem  string         `json:"problem,omitempty"`
}

// Ready reports whether everything is as declared.
func (s *Status) Ready() bool {
	if s.Generation == 0 || len(s.Problems) > 0 {
		return false
	}
	for i := range s.Workloads {
		if !s.Workloads[i].Ready() {
			return false
		}
	}
	return true
}

// Scope is what a quarantine would take away.
type Scope struct {
	Target      string            `json:"target"`
	Workloads   []string          `json:"workloads"`
	Permissions []ScopePermission `json:"permissions"`
	// Already is the quarantine that is there, nil if none is.
	Already *policy.Quarantine `json:"already,omitempty"`
	// Open is how many connections of this node would be closed.
	Open int `json:"open"`
}

// ScopePermission is one permission that would go.
type ScopePermission struct {
	Name string `json:"name"`
	Rule string `json:"rule"` // its place in the policy
	// Evidence says that a quarantine which keeps evidence leaves it.
	Evidence bool `json:"evidence,omitempty"`
}

// Grant is a permission as people read it.
type Grant struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Allows  string `json:"allows"`
	Because string `json:"because,omitempty"`
	At      string `json:"at"`
	// Plaintext says that it is exempt from encryption.
	Plaintext bool `json:"plaintext,omitempty"`
}

// Effect is what a quarantine or a release did, as each node confirmed it.
type Effect struct {
	Generation uint64 `json:"generation"`
	// Unchanged says that it was so before.
	Unchanged bool         `json:"unchanged,omitempty"`
	Nodes     []NodeEffect `json:"nodes"`
	// Missing are the nodes that did not confirm: what they let pass is not known.
	Missing  []MissingNode `json:"missing,omitempty"`
	Problems []string      `json:"problems,omitempty"`
}

// NodeEffect is what one node did.
type NodeEffect struct {
	Node   string        `json:"node"`
	Closed int           `json:"closed"`   // connections, streams and requests
	Took   time.Duration `json:"took_ns"`  // on the node
	After  time.Duration `json:"after_ns"` // since the command
}

// MissingNode did not confirm.
type MissingNode struct {
	Node  string    `json:"node"`
	Heard time.Time `json:"heard,omitzero"`
	Why   string    `json:"why"`
}
