package render

import (
	"net/netip"
	"time"
)

// EgressAudit is what was called outside, and whether any rule needs it.
type EgressAudit struct {
	// Policy is where the policy is, empty if there is none.
	Policy string       `json:"policy,omitempty"`
	Files  []EgressFile `json:"files"`
	Calls  []EgressCall `json:"calls"`
	// Unused are the rules in force that no call needed.
	Unused []EgressRule `json:"unused"`
	// Unmapped are sources of which nobody knows what workload they are.
	Unmapped []string `json:"unmapped"`
	// Inner is how many calls lead to private addresses without a name: they are
	// not outside.
	Inner int `json:"inner"`
	// Cut is how many different calls there was no room for.
	Cut int `json:"cut,omitempty"`
}

// EgressFile is a log that was read.
type EgressFile struct {
	Name    string `json:"name"`
	Format  string `json:"format"`
	Lines   int    `json:"lines"`
	Calls   int    `json:"calls"`
	Other   int    `json:"other"` // understood, and no call outside
	Unknown int    `json:"unknown"`
	// Examples are NAME:LINE: TEXT of what was not understood.
	Examples []string `json:"examples,omitempty"`
}

// EgressState says what the policy makes of a call.
type EgressState string

// The states.
const (
	EgressNeeded   EgressState = "needed"   // a rule in force permits it
	EgressUnneeded EgressState = "unneeded" // it was called, and no rule needs it
	EgressDenied   EgressState = "denied"   // it was refused, and no rule permits it
	EgressUnmapped EgressState = "unmapped" // the source is no known workload
	EgressCalled   EgressState = "called"   // there is no policy to ask
)

// EgressCall is what one source called at one place.
type EgressCall struct {
	Source   string `json:"source"`
	Workload string `json:"workload,omitempty"`
	// Destination is its name in the policy or the catalogue, empty for none.
	Destination string     `json:"destination,omitempty"`
	Host        string     `json:"host,omitempty"`
	Addr        netip.Addr `json:"addr,omitzero"`
	// Protocol is tcp, udp, icmp or another; Port is 0 where it is not known.
	Protocol string      `json:"protocol"`
	Port     uint16      `json:"port"`
	Count    int         `json:"count"`
	Refused  int         `json:"refused,omitempty"` // of them
	Out      int64       `json:"bytes_out"`
	In       int64       `json:"bytes_in"`
	First    time.Time   `json:"first,omitzero"`
	Last     time.Time   `json:"last,omitzero"`
	State    EgressState `json:"state"`
	Rule     string      `json:"rule,omitempty"` // that permits it
	Why      string      `json:"why,omitempty"`  // why none does
	Risks    []string    `json:"risks,omitempty"`
	At       string      `json:"at"` // the first line
	// Covers is the destination by whose name a rule can permit it, empty if only
	// the host itself can.
	Covers string `json:"-"`
}

// EgressRule is a permission in force.
type EgressRule struct {
	Name string `json:"name"`
	At   string `json:"at"`
}

// Found reports whether a person has to look: something was called that no rule
// needs, or that should never be called.
func (a *EgressAudit) Found() bool {
	for i := range a.Calls {
		if c := &a.Calls[i]; c.State == EgressUnneeded || c.Dangerous() && c.Count > c.Refused {
			return true
		}
	}
	return false
}

// Dangerous reports whether a call is one that nothing should make.
func (c *EgressCall) Dangerous() bool {
	for _, r := range c.Risks {
		if r == RiskMetadata || r == RiskFileDrop || r == RiskResolver {
			return true
		}
	}
	return false
}

// The risks of a call.
const (
	RiskMetadata    = "cloud metadata"
	RiskFileDrop    = "a place to drop files"
	RiskResolver    = "a resolver: names can be tunnelled through it"
	RiskMultiTenant = "anybody can receive data there"
	RiskCleartext   = "in the clear"
	RiskAddress     = "an address without a name"
	RiskPrivate     = "the name leads to a special-purpose address"
)
