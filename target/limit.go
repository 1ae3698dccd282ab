package target

import (
	"fmt"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// Limit is something that a target cannot express, with the day on which that
// was last found to be so. Each [Residue] is an instance of one.
type Limit struct {
	ID string
	// What is the limit in one sentence.
	What string
	// Wider says on which side of the declaration the configuration falls:
	// it allows more, or it allows less.
	Wider bool
	// Since is the version of the platform's interface that has the limit,
	// Verified the day on which Source was read.
	Since, Verified, Source string
	Fix                     string
}

// Limited is a target that documents its limits.
type Limited interface {
	Target
	Limits() []Limit
}

// Of returns the residue of l for one permission.
func (l Limit) Of(p *policy.Permission, format string, args ...any) Residue {
	return l.At(p.Name, p.Pos, format, args...)
}

// At returns the residue of l for something else that has a name.
func (l Limit) At(name string, pos source.Pos, format string, args ...any) Residue {
	return Residue{Limit: l.ID, Says: fmt.Sprintf(format, args...), Wider: l.Wider, Permission: name, Pos: pos, Fix: l.Fix}
}
