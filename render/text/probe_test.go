package text

import (
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/report"
)

func probed() *report.Probe {
	p := &report.Probe{ProbeHead: report.ProbeHead{Platform: "acme", Node: "n1", Mode: "root", Generation: 7, Cases: 6}, Took: 3 * time.Second}
	add := func(r report.ProbeResult) {
		r.Number = len(p.Results) + 1
		p.Add(r)
	}
	pair := report.ProbeResult{Kind: "prohibited-pair", Title: "prohibited pairs refused", From: "a", To: "b", Expected: "refused", Policy: "no permission names b", Observed: "connected, then ECONNRESET"}
	good := pair
	good.Name, good.Outcome = "a → b tcp/1 over IPv4", report.AsExpected
	add(good)
	for _, name := range []string{"a → b tcp/80 over IPv4", "a → b tcp/80 over IPv6", "a → b tcp/81 over IPv4"} {
		bad := pair
		bad.ID, bad.Name, bad.Outcome, bad.Observed, bad.Says = "p-2", name, report.Surprise, "open to the end", "it got through: a proxy opened it"
		bad.Evidence = []report.ProbeEvidence{{Event: "open", Side: "source", Verdict: "allow", Rule: "p.yaml:3:1 flow x", Generation: 7}}
		add(bad)
	}
	add(report.ProbeResult{Kind: "permitted-pair", Title: "permitted pairs open", Name: "a → c tcp/90 over IPv4", From: "a", To: "c", Expected: "allowed",
		Policy: "flow a → c/x", Outcome: report.Broken, Says: "its server does not listen"})
	add(report.ProbeResult{Kind: "metadata", Title: "metadata of the cloud", Attack: true, Name: "a → 169.254.169.254:80", From: "a", Expected: "refused",
		Outcome: report.Untried, Says: "the workload has \x1b[31mno such address"})
	return p
}

func TestProbe(t *testing.T) {
	var b strings.Builder
	if err := Probe(&b, probed(), Options{}); err != nil {
		t.Fatal(err)
	}
	want := `acme on n1: 6 cases in 3s, generation 7

3 SURPRISES
  ✗ a → b tcp/80 over IPv4: it got through: a proxy opened it
      expected  refused: no permission names b
      observed  open to the end
      evidence  opened by the proxy of the source · p.yaml:3:1 flow x · generation 7
      probe     p-2
  ✗ a → b tcp/80 over IPv6: it got through: a proxy opened it
      expected  refused: no permission names b
      observed  open to the end
      evidence  opened by the proxy of the source · p.yaml:3:1 flow x · generation 7
      probe     p-2
    … and 1 more like it from a; --format json has all

permitted, and not working
  ? its server does not listen
      a → c tcp/90 over IPv4

  ✗ prohibited pairs refused  1/4
  ✗ permitted pairs open      0/1

attacks that failed, as they must
  ? metadata of the cloud  0/1

not tried, and so not proven
  ? the workload has �[31mno such address
      a → 169.254.169.254:80

3 surprises, 1 permitted and not working, 1 not tried
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

// TestACleanProbeSaysSo, and nothing else does.
func TestACleanProbeSaysSo(t *testing.T) {
	says := func(p *report.Probe) string {
		p.Clean = p.IsClean()
		var b strings.Builder
		if err := Probe(&b, p, Options{}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	var clean report.Probe
	clean.Add(report.ProbeResult{Kind: "k", Title: "t", Outcome: report.AsExpected})
	if !strings.Contains(says(&clean), "no surprise") {
		t.Error("a clean probe does not say so")
	}
	var untried report.Probe
	untried.Add(report.ProbeResult{Kind: "k", Title: "t", Outcome: report.Untried})
	for _, p := range []*report.Probe{{}, &untried, probed()} {
		if strings.Contains(says(p), "no surprise") {
			t.Errorf("a probe with %d results that prove nothing says that there is no surprise", len(p.Results))
		}
	}
}
