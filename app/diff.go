package app

import (
	"os"

	"bulkhead/core/verify"
	"bulkhead/internal/yamldoc"
	"bulkhead/recognise"
	"bulkhead/render"
)

// Diff compares two versions of a policy, or of configuration: which flows
// appear and vanish, and which findings they bring and take away.
func (e *Env) Diff(before, after string, in Input) (*Estate, *render.Delta, error) {
	x, err := e.isPolicy(before)
	if err != nil {
		return nil, nil, err
	}
	y, err := e.isPolicy(after)
	if err != nil {
		return nil, nil, err
	}
	out := &render.Delta{Tool: e.tool(), Before: before, After: after}
	switch {
	case x && y:
		out.What = "policy"
		return nil, out, e.diffPolicies(out)
	case x || y:
		return nil, nil, wrongInput("compare two policies, or two sets of configuration; bulkhead verify compares one with the other",
			"of %s and %s one is a policy and the other is not", before, after)
	}
	out.What = "configuration"
	est, err := e.diffEstates(out, in)
	return est, out, err
}

func (e *Env) diffPolicies(out *render.Delta) error {
	x, err := e.readPolicy(out.Before)
	if err != nil {
		return err
	}
	y, err := e.readPolicy(out.After)
	if err != nil {
		return err
	}
	out.Delta = verify.DiffIntents(x.Intent, y.Intent)
	return nil
}

func (e *Env) diffEstates(out *render.Delta, in Input) (*Estate, error) {
	read := func(path string) (*Estate, error) {
		in.Paths = []string{path}
		return e.readEstate(in)
	}
	x, err := read(out.Before)
	if err != nil {
		return nil, err
	}
	y, err := read(out.After)
	if err != nil {
		return nil, err
	}
	out.Delta = verify.Diff(x.Analysis, y.Analysis)
	out.Delta.WithFindings(
		verify.Audit(x.Analysis, recogniser(x.Net, recognise.Builtin())).Findings,
		verify.Audit(y.Analysis, recogniser(y.Net, recognise.Builtin())).Findings)
	out.Coverage = &y.Net.Coverage
	return y, nil
}

// isPolicy reports whether a path is a policy of ours: whether its first
// document has the keys of one and is no object. Standard input is taken for
// configuration, since it can be read only once.
func (e *Env) isPolicy(path string) (bool, error) {
	if path == Stdin {
		return false, nil
	}
	if info, err := os.Stat(e.abs(path)); err == nil && info.IsDir() {
		if names, err := policyNames(e.abs(path)); err != nil || len(names) == 0 {
			return false, err // manifests may be further down
		}
	}
	files, err := e.policyTexts(path)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		for v, d := range yamldoc.Documents(f.Name, f.Text, yamldoc.ManifestLimits) {
			if d == nil && v.Get("apiVersion").Kind() == yamldoc.Missing && v.Get("version").Kind() == yamldoc.Scalar {
				return true, nil
			}
			break
		}
	}
	return false, nil
}
