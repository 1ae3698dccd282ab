// Package junit prints the results of a probe as JUnit XML, for continuous
// integration: a suite for each kind, a test case for each case.
//
// It promises text that any reader of the common schemas takes: no attribute that
// only some know, every character escaped or replaced. Equal reports give equal
// text.
package junit

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"bulkhead/mesh/report"
)

type suites struct {
	XMLName  xml.Name `xml:"testsuites"`
	Name     string   `xml:"name,attr"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Errors   int      `xml:"errors,attr"`
	Suites   []suite  `xml:"testsuite"`
}

type suite struct {
	Name     string     `xml:"name,attr"`
	Tests    int        `xml:"tests,attr"`
	Failures int        `xml:"failures,attr"`
	Errors   int        `xml:"errors,attr"`
	Skipped  int        `xml:"skipped,attr"`
	Cases    []testCase `xml:"testcase"`
}

type testCase struct {
	ClassName string   `xml:"classname,attr"`
	Name      string   `xml:"name,attr"`
	Failure   *failure `xml:"failure"`
	Error     *failure `xml:"error"`
	Skipped   *skipped `xml:"skipped"`
}

type failure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

type skipped struct {
	Message string `xml:"message,attr"`
}

// Probe prints a probe. A surprise is a failure, something permitted that does not
// work an error, something that was not tried is skipped.
func Probe(w io.Writer, p *report.Probe) error {
	out := suites{Name: "bulkhead probe of " + p.Platform, Tests: len(p.Results)}
	at := map[string]int{}
	for _, c := range p.Counts {
		at[c.Kind] = len(out.Suites)
		out.Suites = append(out.Suites, suite{Name: c.Title, Tests: c.Cases, Failures: c.Surprises, Errors: c.Broken, Skipped: c.Untried})
		out.Failures, out.Errors = out.Failures+c.Surprises, out.Errors+c.Broken
	}
	for i := range p.Results {
		r := &p.Results[i]
		s := &out.Suites[at[r.Kind]]
		s.Cases = append(s.Cases, caseOf(p, r))
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func caseOf(p *report.Probe, r *report.ProbeResult) testCase {
	c := testCase{ClassName: "probe." + r.Kind, Name: r.Name}
	switch r.Outcome {
	case report.AsExpected:
	case report.Broken:
		c.Error = &failure{Message: r.Says, Type: string(r.Outcome), Text: story(p, r)}
	case report.Untried:
		c.Skipped = &skipped{Message: r.Says}
	default:
		c.Failure = &failure{Message: r.Says, Type: string(r.Outcome), Text: story(p, r)}
	}
	return c
}

// story is everything that is known of a case.
func story(p *report.Probe, r *report.ProbeResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "expected: %s: %s\nobserved: %s\n", r.Expected, r.Policy, r.Observed)
	for _, e := range r.Evidence {
		fmt.Fprintf(&b, "evidence: %s %s at the %s, generation %d %s %s\n", e.Verdict, e.Event, e.Side, e.Generation, e.Rule, e.Why)
	}
	fmt.Fprintf(&b, "generation: %d\nprobe: %s\n", p.Generation, r.ID)
	return b.String()
}
