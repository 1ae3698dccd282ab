package app

import (
	"fmt"
	"strconv"

	"bulkhead/core/verify"
	"bulkhead/render"
)

// Verify compares an estate with a policy: the one of the path, or of the
// directory.
func (e *Env) Verify(in Input, policyPath string) (*Estate, *render.Report, error) {
	d, err := e.readPolicy(policyPath)
	switch {
	case err != nil:
		return nil, nil, err
	case d == nil:
		return nil, nil, noPolicy()
	}
	est, err := e.readEstate(in)
	if err != nil {
		return nil, nil, err
	}
	est.Warnings = append(d.Warnings, est.Warnings...)
	est.Lines = eitherLines(d.Lines, est.Lines)
	found := verify.Verify(d.Intent, est.Analysis, bind(d.Intent, est.Net))
	r := e.estateReport("verify", est)
	r.Findings = found.Findings
	r.Facts = []render.Fact{
		{Name: "policy", Value: d.Path, Says: "compared with " + d.Path},
		{Name: "pairs", Value: strconv.FormatInt(found.Pairs, 10)},
		{Name: "proven", Value: strconv.FormatInt(found.Proven, 10),
			Says: fmt.Sprintf("%d of %d pairs allow exactly what is declared", found.Proven, found.Pairs)},
		{Name: "bound", Value: strconv.Itoa(found.Bound)},
		{Name: "unbound", Value: strconv.Itoa(found.Unbound),
			Says: fmt.Sprintf("%d endpoints are in the policy, %d are not", found.Bound, found.Unbound)},
	}
	return est, r, nil
}

// eitherLines gives the lines of what either knows.
func eitherLines(a, b Lines) Lines {
	return func(file string, n int) (string, bool) {
		if text, ok := a(file, n); ok || b == nil {
			return text, ok
		}
		return b(file, n)
	}
}
