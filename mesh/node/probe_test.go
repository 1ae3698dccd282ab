package node

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
	"bulkhead/policyfile"
)

const probePolicy = `
version: 1
platform: testing
trustDomain: testing.example
zones: {a: {role: custom}, b: {role: custom}}
workloads:
  client: {zone: a, at: {host: {run: [sleep, "1000"]}}}
  server: {zone: b, serves: {api: http/8080, ring: nccl/29600, names: dns/5300}, at: {host: {run: [sleep, "1000"]}}}
  other: {zone: b, serves: {db: tcp/5432}, at: {host: {run: [sleep, "1000"]}}}
flows:
  - {from: client, to: server/api, may: read, because: x, owner: o}
  - {from: client, to: server/names, because: x, owner: o}
  - {from: client, to: server/ring, plaintext: true, because: x, owner: o}
`

// probedPlatform runs a platform with servers for a probe to find.
func probedPlatform(t *testing.T) *platform {
	p := run(t, probePolicy)
	web := &http.Server{Handler: http.NotFoundHandler()}
	t.Cleanup(func() { web.Close() })
	go web.Serve(p.listen("server", 8080)) // ends with the listener
	for _, port := range []uint16{29600, 5300} {
		go echo(p.listen("server", port))
	}
	go echo(p.listen("other", 5432))
	return p
}

// probe attacks and returns what it finds.
func (p *platform) probe(q ProbeQuestion) *report.Probe {
	p.t.Helper()
	var out report.Probe
	ended := false
	for e, err := range p.admin.Probe(p.t.Context(), q) {
		must(p.t, err)
		switch {
		case e.Head != nil:
			out.ProbeHead = *e.Head
		case e.Result != nil:
			out.Add(*e.Result)
		case e.End != nil:
			if ended = true; e.End.Problem != "" {
				p.t.Fatalf("the probe is not complete: %s", e.End.Problem)
			}
		}
	}
	if !ended || len(out.Results) != out.Cases {
		p.t.Fatalf("%d of %d results, ended %t", len(out.Results), out.Cases, ended)
	}
	return &out
}

// surprises are the cases of a probe that are not as expected.
func surprises(r *report.Probe) []report.ProbeResult {
	var out []report.ProbeResult
	for _, c := range r.Results {
		if c.Outcome == report.Surprise || c.Outcome == report.Broken {
			out = append(out, c)
		}
	}
	return out
}

func TestAnIntactPlatformWithstands(t *testing.T) {
	p := probedPlatform(t)
	r := p.probe(ProbeQuestion{})
	for _, s := range surprises(r) {
		t.Errorf("%s: %s (%s)", s.Name, s.Says, s.Observed)
	}
	for _, c := range r.Counts {
		if c.AsExpected == 0 {
			t.Errorf("%s: nothing was proven of %d cases", c.Title, c.Cases)
		}
		if c.Untried > 0 {
			t.Logf("%s: %d of %d were not tried", c.Title, c.Untried, c.Cases)
		}
	}
	if !r.IsClean() {
		t.Error("it is not clean")
	}
	ids := map[string]bool{}
	for _, c := range r.Results {
		ids[c.ID] = true
	}
	marked := p.records(func(r *flow.Record) bool { return ids[r.Probe] })
	if len(marked) < len(r.Results)/2 {
		t.Errorf("%d records are marked with one of %d probes", len(marked), len(ids))
	}
}

// TestACarelessAdministrator empties the filter of one namespace.
func TestACarelessAdministrator(t *testing.T) {
	p := probedPlatform(t)
	must(t, inside(p.workload("other").PID, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	}))
	found := surprises(p.probe(ProbeQuestion{}))
	if len(found) == 0 {
		t.Fatal("nobody notices")
	}
	for _, s := range found {
		if s.From != "other" {
			t.Errorf("%s is not of the workload whose filter is gone: %s", s.Name, s.Says)
		}
	}
}

// TestOneRuleTooMany lets one workload past its proxy to one port.
func TestOneRuleTooMany(t *testing.T) {
	p := probedPlatform(t)
	must(t, inside(p.workload("client").PID, func() error { return allowPort(5432) }))
	found := surprises(p.probe(ProbeQuestion{}))
	if len(found) == 0 {
		t.Fatal("nobody notices")
	}
	for _, s := range found {
		if s.From != "client" || !strings.Contains(s.Name, "5432") {
			t.Errorf("%s is a surprise: %s", s.Name, s.Says)
		}
	}
}

// allowPort lets TCP to a port leave this namespace without the proxy.
func allowPort(port uint16) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookOutput {
			continue
		}
		c.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
	}
	return c.Flush()
}

// TestAProxyThatDecidesByAnotherPolicy: what is in force allows more than what the
// probe is told.
func TestAProxyThatDecidesByAnotherPolicy(t *testing.T) {
	p := probedPlatform(t)
	stricter := strings.Replace(probePolicy, "  - {from: client, to: server/api, may: read, because: x, owner: o}\n", "", 1)
	parsed, ds := policyfile.Parse([]policyfile.File{{Name: "policy.yaml", Text: []byte(stricter)}})
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(parsed, p.clock.now())
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	world := *p.node.layout.world
	world.Intent = in
	told := *p.node.layout
	told.world = &world
	r, err := newProbeRun(p.node, &told, ProbeQuestion{From: "client", To: "server"})
	must(t, err)
	var found []string
	must(t, r.do(t.Context(), func(c report.ProbeResult) {
		if c.Outcome == report.Surprise {
			found = append(found, c.Name+": "+c.Says)
		}
	}))
	if len(found) == 0 {
		t.Fatal("nobody notices")
	}
	for _, s := range found {
		if !strings.Contains(s, "8080") || !strings.Contains(s, "it got through: ") {
			t.Error(s)
		}
	}
}

// TestAServerThatIsDown is not taken for a refusal of the policy.
func TestAServerThatIsDown(t *testing.T) {
	p := run(t, probePolicy)
	r := p.probe(ProbeQuestion{From: "client", To: "server"})
	broken := 0
	for _, c := range surprises(r) {
		if c.Outcome != report.Broken {
			t.Errorf("%s: %s", c.Name, c.Says)
		}
		broken++
	}
	if broken == 0 || r.IsClean() {
		t.Errorf("%d permitted cases do not work, and it is clean: %t", broken, r.IsClean())
	}
}

func TestQuestionsThatNoProbeAnswers(t *testing.T) {
	p := run(t, probePolicy)
	for _, q := range []ProbeQuestion{{From: "nobody"}, {To: "nobody"}} {
		for _, err := range p.admin.Probe(t.Context(), q) {
			if err == nil || !strings.Contains(err.Error(), "nobody") {
				t.Errorf("%+v: %v", q, err)
			}
		}
	}
}
