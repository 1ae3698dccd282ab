package verify_test

import (
	"slices"
	"strings"
	"testing"

	"bulkhead/core/finding"
	"bulkhead/core/policy"
	"bulkhead/core/verify"
)

const egressHead = `version: 1
platform: p
zones: {train: {role: training}, serve: {role: serving}}
workloads:
  job: {zone: train}
  llm: {zone: serve, serves: {api: http/80}}
  eval: {zone: serve}
`

// egressRules are the rules of findings about the way out.
var egressRules = []string{"gateway-mode", "endpoint-pending", "endpoint-public-way", "egress-unreadable", "egress-inspected", "multi-tenant-egress"}

func egressFindings(t *testing.T, text string) []finding.Finding {
	t.Helper()
	all := verify.Check(intent(t, egressHead+text))
	return slices.DeleteFunc(all, func(f finding.Finding) bool { return !slices.Contains(egressRules, f.Rule) })
}

func TestEgressFindings(t *testing.T) {
	const why = ", because: x, owner: y}\n"
	const bedrock = "endpoints:\n  e: {service: aws/bedrock-runtime, region: eu-west-1, address: 10.0.3.4, consumers: llm" + why
	egress := func(rules ...string) string {
		return "egress:\n  - " + strings.Join(rules, why+"  - ") + why
	}
	for _, c := range []struct {
		name, text string
		want       []string // severity, rule and a part of the title
	}{
		{"clean", egress("{from: job, to: api.ai21.com", "{from: job, to: pypi, may: connect, budget: {bytes: 1GiB/day}"), nil},

		{"a mode that reports", "gateway: {mode: report, for: job, because: x, owner: y, until: 2026-12-31}\n", []string{"medium gateway-mode until 2026-12-31 the gateway lets job reach anything outside, and only reports it"}},
		{"a mode that observes", "gateway: {mode: observe, because: x, owner: y, until: 2026-12-31}\n", []string{"medium gateway-mode lets job, llm and eval reach anything outside, and only observes it"}},
		{"a mode that has ended", "gateway: {mode: observe, because: x, owner: y, until: 2026-11-21}\n", nil},
		{"a mode that enforces", "gateway: {mode: enforce}\n", nil},
		{"no mode", "gateway: {aliases: refuse}\n", nil},

		{"pending", "endpoints:\n  e: {service: llm/api, consumers: job" + why, []string{"low endpoint-pending the owner of llm/api has not accepted it"}},
		{"accepted", "endpoints:\n  e: {service: llm/api, consumers: job, accepted: {by: z, on: 2026-11-01}" + why, nil},
		{"pending and over", "endpoints:\n  e: {service: llm/api, consumers: job, until: 2026-11-01" + why, nil},
		{"a provider need not accept", bedrock, nil},

		{"the same destination", bedrock + egress("{from: llm, to: bedrock, region: eu-west-1, budget: {bytes: 1GiB/day}"), []string{"medium endpoint-public-way egress llm → bedrock lets llm reach"}},
		{"another region of it", bedrock + egress("{from: llm, to: bedrock, region: us-east-1, budget: {bytes: 1GiB/day}"), nil},
		{"for somebody else", bedrock + egress("{from: eval, to: bedrock, region: eu-west-1, budget: {bytes: 1GiB/day}"), []string{"low endpoint-public-way egress eval → bedrock lets eval reach"}},
		{"for a zone with consumers", bedrock + egress("{from: zone/serve, to: bedrock, region: eu-west-1, budget: {bytes: 1GiB/day}"), []string{"medium endpoint-public-way lets llm reach"}},
		{"by its host", bedrock + egress("{from: llm, to: bedrock-runtime.eu-west-1.amazonaws.com"), []string{"medium endpoint-public-way reach bedrock-runtime.eu-west-1.amazonaws.com"}},
		{"by a pattern above it", bedrock + egress("{from: llm, to: \"*.eu-west-1.amazonaws.com\", budget: {bytes: 1GiB/day}"), []string{"medium endpoint-public-way reach *.eu-west-1.amazonaws.com"}},
		{"by another host of the destination", bedrock + egress("{from: llm, to: bedrock.eu-west-1.amazonaws.com"), []string{"medium endpoint-public-way reach bedrock.eu-west-1.amazonaws.com"}},
		{"by every address", bedrock + egress("{from: llm, to: 0.0.0.0/0"), []string{"medium endpoint-public-way reach every address of the internet"}},
		{"by some addresses", bedrock + egress("{from: llm, to: 203.0.114.0/24"), nil},
		{"below a pattern of the service", "endpoints:\n  e: {service: azure/blob, address: 10.0.3.4, consumers: llm" + why + egress("{from: llm, to: mine.blob.core.windows.net"),
			[]string{"medium endpoint-public-way reach mine.blob.core.windows.net"}},
		{"a service whose region nobody says", "endpoints:\n  e: {service: aws/bedrock-runtime, hosts: bedrock.test.example, address: 10.0.3.4, consumers: llm" + why +
			egress("{from: llm, to: bedrock, region: us-east-1, budget: {bytes: 1GiB/day}"), []string{"medium endpoint-public-way endpoint e"}},
		{"a data source of one's own", "endpoints:\n  e: {hosts: db.acme.internal, protocol: postgres, ports: 5432, address: 10.0.3.4, consumers: llm" + why +
			egress("{from: llm, to: \"*.acme.internal\"", "{from: llm, to: \"*.db.acme.internal\""), []string{"medium endpoint-public-way reach *.acme.internal"}},
		{"an endpoint that expired", "endpoints:\n  e: {service: aws/bedrock-runtime, region: eu-west-1, consumers: llm, until: 2026-11-01" + why +
			egress("{from: llm, to: bedrock, region: eu-west-1, budget: {bytes: 1GiB/day}"), nil},

		{"unreadable", egress("{from: job, to: api.ai21.com, may: read"), []string{"medium egress-unreadable allows only some requests on port 443"}},
		{"unreadable on another port", egress("{from: job, to: api.ai21.com, ports: [80, 8443], may: read"), []string{"medium egress-unreadable on port 8443"}},
		{"unreadable at an endpoint", "endpoints:\n  e: {hosts: api.ai21.com, consumers: llm, may: POST /v1/x" + why, []string{"medium egress-unreadable endpoint e for llm"}},
		{"in the clear", egress("{from: job, to: api.ai21.com, ports: 80, may: read"), nil},
		{"left to the application", egress("{from: job, to: api.ai21.com, may: read, enforcedBy: application"), nil},
		{"all requests", egress("{from: job, to: api.ai21.com, may: call"), nil},
		{"inspected", egress("{from: job, to: api.ai21.com, may: read, inspect: true"), []string{"info egress-inspected TLS is ended"}},

		{"to where anybody receives", egress("{from: job, to: github"), []string{"low multi-tenant-egress can send any amount to github"}},
		{"by its host name", egress("{from: job, to: github.com"), []string{"low multi-tenant-egress can send any amount to github.com"}},
		{"by a pattern over it", egress("{from: job, to: \"*.core.windows.net\""), []string{"low multi-tenant-egress"}},
		{"to one's own tenant", egress("{from: job, to: mine.blob.core.windows.net"), nil},
		{"with a budget", egress("{from: job, to: github, budget: {bytes: 1GiB/day}"), nil},
		{"only to read", egress("{from: job, to: github, may: read, inspect: true"), []string{"info egress-inspected"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := egressFindings(t, c.text)
			for i, f := range got {
				says := f.Severity.String() + " " + f.Rule + " " + f.Title
				if f.Remedy == "" || f.Detail == "" || !f.Pos.IsValid() {
					t.Errorf("%s lacks a remedy, a reason or a place", says)
				}
				if i >= len(c.want) {
					continue
				}
				parts := strings.SplitN(c.want[i], " ", 3)
				if f.Severity.String() != parts[0] || f.Rule != parts[1] || len(parts) > 2 && !strings.Contains(f.Title, parts[2]) {
					t.Errorf("got %q, want %q", says, c.want[i])
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("%d findings, want %d: %+v", len(got), len(c.want), got)
			}
		})
	}
}

// TestFindingsOfOddPolicies: what no text says, but a program may, does not stop
// the check.
func TestFindingsOfOddPolicies(t *testing.T) {
	text := func(s string) policy.Text { return policy.Text{Value: s} }
	p := &policy.Policy{Zones: []policy.Zone{{Name: text("z"), Role: text("custom")}}, Workloads: []policy.Workload{{Name: text("w"), Zone: text("z")}},
		Destinations: []policy.Destination{{Name: text("d"), MultiTenant: true, Private: []policy.Text{text("a/b"), text("")}, Risk: text("über")}},
		Egress:       []policy.Egress{{From: []policy.Text{text("w")}, To: []policy.Text{text("d")}}},
		Endpoints:    []policy.Endpoint{{Name: text("e"), Service: text("a/b"), Consumers: []policy.Text{text("w")}}, {}, {Service: text("/")}},
		Gateway:      &policy.Gateway{}}
	in, _ := policy.Resolve(p, now)
	verify.Check(in)
}

// TestEndpointsAreFoundByAddress: a layer that opens the public name of a service
// opens more than its private endpoint.
func TestEndpointsAreFoundByAddress(t *testing.T) {
	p := &policy.Permission{Kind: policy.EndpointKind, Names: []string{"a.test"}}
	if got := p.ByName(); len(got) != 1 {
		t.Errorf("without an address: %v", got)
	}
	in := intent(t, egressHead+"endpoints: {e: {hosts: a.test.example, address: 10.0.3.4, consumers: llm, because: x, owner: y}}\n")
	for i := range in.Permissions {
		if got := in.Permissions[i].ByName(); got != nil {
			t.Errorf("with an address: %v", got)
		}
	}
}
