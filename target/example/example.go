// Package example is a complete target for a firewall that does not exist: the
// tutorial of docs/adding-a-target.md, compiled and held to the law of every
// target.
//
// The firewall is called a fence. It stands around every machine and lets
// through, in both directions, only what one of its lines allows:
//
//	fence: v1
//	machines: [{name: web, address: 10.0.0.1}, {name: db, address: 10.0.0.2}]
//	---
//	fence: v1
//	allow:
//	  - {from: web, to: db, traffic: TCP 5432}
//	  - {from: 198.51.100.0/24, to: web, traffic: TCP 443}
//
// A party of a line is the name of a machine, or a CIDR, which means addresses
// that no machine has.
package example

import (
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/target"
)

// Target is the fence.
type Target struct{}

// New returns the target.
func New() Target { return Target{} }

// Name returns "fence": what a policy writes under `at:`.
func (Target) Name() string { return "fence" }

// NewImporter returns an importer. There is one implementation only, so that
// any profile is a mistake.
func (Target) NewImporter(o target.Options) (target.Importer, error) {
	if o.Profile != "" {
		return nil, errProfile
	}
	return &importer{machines: map[string]source.Pos{}}, nil
}

// Bind reads `fence: {machine: NAME}`.
func (Target) Bind(b policy.Binding) (network.Predicate, source.Diagnostics) {
	var ds source.Diagnostics
	name, ok := b.Field("machine")
	if !ok || name.Text.Value == "" {
		ds.Errorf("missing-field", b.Target.Pos, "a fence binding has no machine").WithFix("write machine: NAME")
		return network.Predicate{}, ds
	}
	for _, f := range b.Fields {
		if f.Key.Value != "machine" {
			ds.Errorf("unknown-field", f.Key.Pos, "a fence binding has no field %q", f.Key.Value).WithFix("the only field is machine")
		}
	}
	return machine(name.Text.Value), ds
}

// machine means the machine of that name.
func machine(name string) network.Predicate {
	return network.Predicate{Endpoints: true, Attributes: network.Equals(map[string]string{"machine": name})}
}
