package app

import (
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/source"
	"bulkhead/target"
	"bulkhead/target/kubernetes"
)

// targets is every platform there is, in the order in which documents are
// offered to them.
func targets() []target.Target {
	return []target.Target{kubernetes.New()}
}

// compilers is everything that a policy can be compiled to.
func compilers() []target.Target {
	return append(targets(), kubernetes.NewAdmin())
}

// Profiles lists the network plugins whose behaviour is known, the default
// first.
func Profiles() []string { return kubernetes.Profiles() }

// TargetNames lists what a policy can be compiled to.
func TargetNames() []string {
	var names []string
	for _, t := range compilers() {
		names = append(names, t.Name())
	}
	return names
}

func compilerNamed(name string) (target.Target, error) {
	for _, t := range compilers() {
		if t.Name() == name {
			return t, nil
		}
	}
	hint := "the targets are " + strings.Join(TargetNames(), ", ")
	if near := source.Nearest(name, TargetNames()); near != "" {
		hint = "did you mean " + near + "?"
	}
	return nil, wrongInput(hint, "there is no target %q", name)
}

// Input says what configuration to read and what it cannot say itself.
type Input struct {
	Paths []string
	// Profile names the network plugin, PodCIDRs the address space of pods.
	Profile  string
	PodCIDRs []string
	// Signatures is a file with more components to recognise.
	Signatures string
}

func (in Input) options() (target.Options, error) {
	o := target.Options{Profile: in.Profile}
	for _, text := range in.PodCIDRs {
		a, err := netset.ParseCIDR(text)
		if err != nil {
			return o, wrongInput("write a network such as 10.244.0.0/16", "--pod-cidr: %v", err)
		}
		o.Workloads = o.Workloads.Union(a)
	}
	return o, nil
}

// importers returns one importer for each target.
func (in Input) importers() ([]target.Importer, error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	ts := targets()
	out := make([]target.Importer, len(ts))
	for i, t := range ts {
		if out[i], err = t.NewImporter(o); err != nil {
			return nil, wrongInput("", "--cni: %v", err)
		}
	}
	return out, nil
}

// targetOf returns the target that a binding is for, nil if there is none.
func targetOf(name string) target.Target {
	for _, t := range targets() {
		if t.Name() == name {
			return t
		}
	}
	return nil
}
