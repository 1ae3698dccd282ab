package app

import (
	"fmt"
	"strconv"

	"bulkhead/core/finding"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/core/verify"
	"bulkhead/render"
)

// Lines gives lines of an input to whoever shows a diagnostic.
type Lines func(file string, line int) (string, bool)

// Check reads a policy, holds it against the invariants and runs its tests.
// What is wrong with the text is part of the answer, and so no error.
func (e *Env) Check(path string) (*render.Report, Lines, error) {
	files, at, found, err := e.policyFiles(path)
	switch {
	case err != nil:
		return nil, nil, err
	case !found:
		return nil, nil, noPolicy()
	}
	in, ds := e.resolve(files)
	// A permission that expired is denied everywhere; in a policy that someone
	// is about to apply it is a mistake.
	for i := range ds {
		if ds[i].Rule == "expired" {
			ds[i].Severity = source.Error
		}
	}
	r := e.report("check", []string{at})
	r.Diagnostics = ds
	if ds.HasErrors() {
		return r, textLines(files), nil
	}
	r.Findings = append(verify.Check(in), failedTests(in)...)
	finding.Sort(r.Findings)
	r.Facts = intentFacts(in)
	return r, textLines(files), nil
}

// failedTests turns the tests of a policy that do not hold into findings.
func failedTests(in *policy.Intent) []finding.Finding {
	var out []finding.Finding
	for i, t := range in.RunTests() {
		f := finding.New("policy-test", finding.High, t.Test.From.Value+" → "+t.Test.To.Value, strconv.Itoa(i)+t.Says)
		f.Title = "a policy test does not hold: " + t.Says
		f.Pos = t.Pos
		if t.Test.Pos.IsValid() && t.Test.Pos.Line != t.Pos.Line {
			f.Notes = []source.Note{{Pos: t.Test.Pos, Text: "the test"}}
		}
		f.Remedy = "correct the permissions, or the test if it no longer says what is wanted"
		out = append(out, f)
	}
	return out
}

func intentFacts(in *policy.Intent) []render.Fact {
	count := func(name, one, many string, n int) render.Fact {
		says := fmt.Sprintf("%d %s", n, many)
		if n == 1 {
			says = "1 " + one
		}
		return render.Fact{Name: name, Value: strconv.Itoa(n), Says: says}
	}
	return []render.Fact{
		count("zones", "zone", "zones", len(in.Policy.Zones)),
		count("workloads", "workload", "workloads", len(in.Policy.Workloads)),
		count("permissions", "permission in force", "permissions in force", len(in.Permissions)),
		count("expired", "expired", "expired", len(in.Expired)),
		count("tests", "policy test", "policy tests", len(in.Policy.Tests)),
	}
}
