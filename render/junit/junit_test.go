package junit

import (
	"bytes"
	"encoding/xml"
	"strings"
	"testing"

	"bulkhead/mesh/report"
)

func probed() *report.Probe {
	p := &report.Probe{ProbeHead: report.ProbeHead{Platform: "acme", Generation: 7}}
	for i, o := range []report.Outcome{report.AsExpected, report.Surprise, report.Broken, report.Untried} {
		p.Add(report.ProbeResult{Number: i + 1, ID: "p-1", Kind: "prohibited-pair", Title: "prohibited pairs refused", Name: `a → b "<&>" ` + string(o),
			Expected: "refused", Policy: "no permission", Outcome: o, Observed: "it was\x00done ]]>", Says: "it got\nthrough & more",
			Evidence: []report.ProbeEvidence{{Event: "open", Side: "source", Verdict: "allow", Generation: 7}}})
	}
	return p
}

// TestProbe reads the text as a stranger would: by element names and counts.
func TestProbe(t *testing.T) {
	var b bytes.Buffer
	if err := Probe(&b, probed()); err != nil {
		t.Fatal(err)
	}
	var got struct {
		XMLName  xml.Name `xml:"testsuites"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Errors   int      `xml:"errors,attr"`
		Suites   []struct {
			Name    string `xml:"name,attr"`
			Tests   int    `xml:"tests,attr"`
			Skipped int    `xml:"skipped,attr"`
			Cases   []struct {
				Name    string `xml:"name,attr"`
				Class   string `xml:"classname,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v:\n%s", err, &b)
	}
	if got.Tests != 4 || got.Failures != 1 || got.Errors != 1 || len(got.Suites) != 1 || got.Suites[0].Tests != 4 || got.Suites[0].Skipped != 1 || len(got.Suites[0].Cases) != 4 {
		t.Fatalf("the counts are wrong: %+v", got)
	}
	cases := got.Suites[0].Cases
	if cases[0].Failure != nil || cases[1].Failure == nil || cases[2].Error == nil || cases[3].Skipped == nil {
		t.Errorf("the outcomes are wrong:\n%s", &b)
	}
	if cases[0].Name != `a → b "<&>" expected` || cases[0].Class != "probe.prohibited-pair" {
		t.Errorf("a case is named %q of class %q", cases[0].Name, cases[0].Class)
	}
	if f := cases[1].Failure; f.Message != "it got\nthrough & more" || !strings.Contains(f.Text, "it was\ufffddone ]]>") || !strings.Contains(f.Text, "p-1") {
		t.Errorf("the failure is %+v", f)
	}
}

func TestEqualReportsGiveEqualText(t *testing.T) {
	var a, b bytes.Buffer
	if err := Probe(&a, probed()); err != nil {
		t.Fatal(err)
	}
	if err := Probe(&b, probed()); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() || strings.Contains(a.String(), "timestamp") {
		t.Errorf("two texts of one report:\n%s\n%s", &a, &b)
	}
}
