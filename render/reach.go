package render

import (
	"iter"

	"bulkhead/core/network"
	"bulkhead/core/source"
)

// Reach is who can reach what in an estate. The sequences are made while they
// are read, so that an answer of any size can be written as it comes; they are
// ordered by their first field, then the second.
type Reach struct {
	Edges     iter.Seq[Edge]
	Exposures iter.Seq[Outside]
	Egress    iter.Seq[Outside]
	Published []Published
	// Platform are edges from the platform's own parts that something in the
	// input relies on, such as a control plane that calls a webhook.
	Platform    []Edge
	Coverage    network.Coverage
	Assumptions []network.Assumption
	Facts       []Fact
}

// Grant is what passes. Equal grants of one answer are the same pointer.
type Grant struct {
	Allow, Unknown string
	// Rules cite what allows it, as file:line.
	Rules []string
}

// Edge is what one workload may send another.
type Edge struct {
	From, To string
	*Grant
}

// Outside is what passes between a workload and a place outside: a CIDR, or a
// domain name.
type Outside struct {
	Workload, Place string
	*Grant
}

// Published is a way in: a front that forwards clients to a workload.
type Published struct {
	By, To string
	// Reach says from where the front can be reached, and Why how that is
	// known.
	Reach, Why string
	Clients    []string
	// At is the front's own port; Allow and Unknown are ports of the workload.
	At, Allow, Unknown string
	Pos                source.Pos
}
