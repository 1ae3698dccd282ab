// Package target says what a platform must offer to be read, compiled to and
// verified: every folder below it implements [Target] for one platform, in
// both directions.
//
// The law that every target is held to by package targettest: what is read
// back from compiled artefacts allows exactly what the policy allows, except
// where the target's limits name what it cannot express. It is never weaker
// silently.
package target

import (
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// Document is one object of the input, offered to every target.
type Document struct {
	Value yamldoc.Value
}

// Options say what the input cannot say itself. The zero value is the
// platform's specification with nothing else known.
type Options struct {
	// Profile names the implementation whose behaviour applies, e.g. the
	// network plugin; empty means the specification.
	Profile string
	// Workloads is the address space of workloads whose address is not in the
	// input; empty means the private address space.
	Workloads netset.Addrs
}

// Importer reads the configuration of one platform. It belongs to one
// goroutine.
type Importer interface {
	// Add takes an object and reports whether it is one of the platform's. It
	// keeps no reference to the document.
	Add(Document) bool
	// Finish appends what was added to n and returns what was wrong with it.
	Finish(n *network.Network) source.Diagnostics
}

// Target is one platform.
type Target interface {
	Name() string
	// NewImporter returns an importer; an unknown profile is an error that
	// lists the known ones.
	NewImporter(Options) (Importer, error)
	// Bind says which endpoints a binding of a policy means, with everything
	// that is wrong with its fields.
	Bind(policy.Binding) (network.Predicate, source.Diagnostics)
	// Compile turns an intent into the platform's configuration.
	Compile(*policy.Intent) Output
}

// Describer is implemented by targets whose endpoints a policy can be drafted
// from.
type Describer interface {
	// Describe returns a binding that means this endpoint and, where its
	// labels allow it, no other workload's. exact is false when it means more.
	Describe(n *network.Network, endpoint int) (b policy.Binding, exact bool)
	// Resolver says which endpoints a resolver of [policy.Resolvers] is.
	Resolver(name string) (network.Predicate, bool)
}

// Output is compiled configuration. The same intent gives the same bytes.
type Output struct {
	Files   []File
	Residue []Residue
}

// File is a generated file; Path is relative and uses slashes.
type File struct {
	Path string
	Data []byte
}

// Residue is a part of the intent that the target cannot express. What it
// allows is Wider or narrower than declared; Says names both sides.
type Residue struct {
	// Limit is the stable id from the target's limits.
	Limit string
	Says  string
	// Wider says that the compiled configuration allows more than declared.
	Wider bool
	// Permission is the name and Pos the place of what is affected.
	Permission string
	Pos        source.Pos
	Fix        string
}
