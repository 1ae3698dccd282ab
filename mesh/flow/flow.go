// Package flow is the record of what the data plane decided: one [Record] when
// a connection or request is refused, one when a connection opens and one when
// it ends, with identities, rule, generation, bytes and verdict.
//
// A record never holds a raw path, a query, a header or payload: prompts and
// secrets live there. Records that a reader was too slow for are counted in
// the next one, never dropped silently.
package flow

import (
	"net/netip"
	"time"
)

// Event says what a record is about.
type Event string

// The events.
const (
	// Open is a connection that was allowed and reached its server.
	Open Event = "open"
	// Close is the end of one that was open; it has the bytes.
	Close Event = "close"
	// Deny is a connection or request that the policy refused.
	Deny Event = "deny"
	// Fail is one that the policy allowed and that did not come about.
	Fail Event = "fail"
	// Request is one request of a connection whose requests are decided, when
	// it ended.
	Request Event = "request"
	// Lookup is a question to the resolver.
	Lookup Event = "lookup"
	// Count is what passed by an exemption in the time before: the kernel counts
	// it, and no proxy saw it.
	Count Event = "count"
)

// Side says who reports: one of the two proxies, or the kernel for what its
// filter refused before any proxy saw it.
type Side string

// The sides.
const (
	Source      Side = "source"
	Destination Side = "destination"
	Kernel      Side = "kernel"
	// Gateway is the egress gateway.
	Gateway Side = "gateway"
)

// Record is one line of the flow log. The field names are stable; fields may be
// added.
type Record struct {
	// ID is the connection's, the same on both sides.
	ID    string    `json:"id"`
	Seq   uint64    `json:"seq"` // of the reporter, without gaps
	Time  time.Time `json:"time"`
	Event Event     `json:"event"`
	Node  string    `json:"node"`
	Side  Side      `json:"side"`

	From Peer `json:"from"`
	To   Peer `json:"to"`
	// Transport is tcp, udp, or icmp and others where the kernel refused.
	Transport string `json:"transport"`
	// Wire says how it travelled: mtls, plaintext, or empty where it did not.
	Wire string `json:"wire,omitempty"`

	Verdict string `json:"verdict"` // allow or deny
	// Rule is the permission that decided, as file:line and name; for a denial
	// the nearest one that did not match.
	Rule       string `json:"rule,omitempty"`
	Generation uint64 `json:"generation"`
	// Why says why it was denied, failed or closed before its end.
	Why string `json:"why,omitempty"`

	BytesOut int64         `json:"bytes_out,omitempty"` // from the client to the server
	BytesIn  int64         `json:"bytes_in,omitempty"`
	Duration time.Duration `json:"duration_ns,omitempty"`

	// Method and Status are of a request; the path is never recorded.
	Method string `json:"method,omitempty"`
	Status int    `json:"status,omitempty"`

	// Mode is that of the gateway where it does not enforce, report or observe;
	// WouldDeny says that in report mode enforcing would have refused it.
	Mode      string `json:"mode,omitempty"`
	WouldDeny bool   `json:"would_deny,omitempty"`
	// Aliases are the names that lead from the name of To to its address, in
	// order, with spaces between.
	Aliases string `json:"aliases,omitempty"`

	// Count is how many refusals this record stands for, all alike; 0 means one.
	Count uint64 `json:"count,omitempty"`
	// Probe is the id of the probe that made it, so that it stays out of
	// baselines.
	Probe string `json:"probe,omitempty"`
	// Lost is how many records of this reporter were lost before this one.
	Lost uint64 `json:"lost_before,omitempty"`
}

// Peer is one end of a flow.
type Peer struct {
	// Workload is its name in the policy, empty for something outside; Zone its
	// zone; ID its SPIFFE ID where it was proven by certificate.
	Workload string `json:"workload,omitempty"`
	Zone     string `json:"zone,omitempty"`
	// Service is what is used of a workload; of something outside the destination
	// of the policy.
	Service string `json:"service,omitempty"`
	// Name is the host name of something outside, Port its port where no address
	// is known.
	Name string         `json:"name,omitempty"`
	Port uint16         `json:"port,omitempty"`
	ID   string         `json:"id,omitempty"`
	Addr netip.AddrPort `json:"addr,omitzero"`
}

// Sink takes records. It must not block: what it cannot take it counts as lost.
type Sink interface{ Record(Record) }
