package endpoint_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/registry"
	"bulkhead/policyfile"
)

const text = `version: 1
platform: p
zones: {serving: {role: serving}, data: {role: custom}}
workloads:
  llm: {zone: serving}
  other: {zone: serving}
  store: {zone: data, serves: {api: http/8080}}
endpoints:
  provider: {service: aws/bedrock-runtime, region: eu-west-1, consumers: llm, because: x, owner: y}
  dated: {hosts: [dated.example.com], consumers: llm, because: x, owner: y, until: 2026-12-31}
  inner: {service: store/api, consumers: llm, accepted: {by: data, "on": 2026-11-01}, because: x, owner: y}
  pending: {service: store/api, consumers: other, because: x, owner: y}
destinations:
  local: {hosts: [local.example.com], addresses: 127.0.0.1}
  near: {hosts: [near.example.com], addresses: 10.1.2.3}
  range: {hosts: ["*.corp.example.com"], addresses: 10.0.0.0/8}
egress:
  - {from: llm, to: [local, near, range], because: x, owner: y}
`

var now = time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)

func intent(t *testing.T, at time.Time) *policy.Intent {
	t.Helper()
	p, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(text)}})
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(p, at)
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	return in
}

func TestOf(t *testing.T) {
	got := map[string]endpoint.Endpoint{}
	for _, e := range endpoint.Of(intent(t, now)) {
		got[e.Name] = e
	}
	if _, ok := got["pending"]; ok || len(got) != 3 {
		t.Fatalf("%v", got)
	}
	if e := got["provider"]; !slices.Equal(e.Hosts, []string{"provider.endpoint.bulkhead.internal", "bedrock-runtime.eu-west-1.amazonaws.com"}) || !e.TLS || e.Port != 443 || e.Workload != "" {
		t.Errorf("%+v", e)
	}
	if e := got["inner"]; e.Workload != "store" || e.Port != 8080 || e.Consumers["other"] {
		t.Errorf("%+v", e)
	}
}

// TestNames: who is told what; every name and every change of the generation.
func TestNames(t *testing.T) {
	r := registry.New()
	n := endpoint.NewNames(r)
	at, gateway := netip.MustParseAddr("100.127.192.2"), netip.MustParseAddr("100.127.192.1")
	set := func(number uint64, in *policy.Intent) {
		r.Enforce(&registry.Force{Number: number, Digest: "d", Intent: in, Since: now})
	}
	known := endpoint.Of(intent(t, now))
	places := map[string][]netip.Addr{}
	for _, e := range known {
		places[e.Name] = []netip.Addr{at}
	}
	n.Set(known, places, map[string][]netip.Addr{"egress.bulkhead.internal": {gateway}}, []netip.Addr{gateway})
	const provider, dated = "bedrock-runtime.eu-west-1.amazonaws.com", "dated.example.com"
	private := func(client, name string) netip.Addr {
		addrs, ok := n.Private(client, name)
		if !ok || len(addrs) == 0 {
			return netip.Addr{}
		}
		return addrs[0]
	}
	if a := private("llm", provider); a.IsValid() || n.Permitted("llm", "near.example.com") {
		t.Errorf("without a generation there is %s", a)
	}
	set(1, intent(t, now))
	for _, c := range []struct {
		client, name string
		want         netip.Addr
	}{
		{"llm", provider, at}, {"llm", "provider.endpoint.bulkhead.internal", at}, {"llm", dated, at},
		{"llm", "egress.bulkhead.internal", gateway}, {"other", "egress.bulkhead.internal", gateway}, {"", "egress.bulkhead.internal", netip.Addr{}},
		{"other", provider, netip.Addr{}}, {"", provider, netip.Addr{}}, {"llm", "x." + provider, netip.Addr{}}, {"other", "pending.endpoint.bulkhead.internal", netip.Addr{}},
		// Declared addresses: on loopback they are the gateway's machine's, and not the client's.
		{"llm", "local.example.com", gateway}, {"llm", "near.example.com", netip.MustParseAddr("10.1.2.3")}, {"other", "local.example.com", netip.Addr{}},
		{"llm", "a.corp.example.com", netip.Addr{}},
	} {
		if got := private(c.client, c.name); got != c.want {
			t.Errorf("%s asks for %s and gets %s, want %s", c.client, c.name, got, c.want)
		}
	}
	if !n.Permitted("llm", "a.corp.example.com") || n.Permitted("llm", "corp.example.com") || n.Permitted("other", "a.corp.example.com") || n.Permitted("llm", provider) {
		t.Error("names outside are permitted to others than those whose egress names them")
	}
	ten, eleven, public := netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("93.184.216.34")
	if !n.Believes("llm", "a.corp.example.com", ten) || n.Believes("llm", "a.corp.example.com", eleven) || n.Believes("other", "a.corp.example.com", ten) || !n.Believes("llm", "a.corp.example.com", public) {
		t.Error("a special-purpose address is believed without a declaration, or not with one")
	}
	// What the generation in force no longer permits is gone, whatever was set.
	set(2, intent(t, time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)))
	if private("llm", dated).IsValid() || !private("llm", provider).IsValid() {
		t.Error("an expired endpoint is known, or another is not")
	}
	set(3, intent(t, now).Quarantined([]policy.Quarantine{{Target: "llm", Because: "x", Operator: "y", At: now}}))
	if private("llm", provider).IsValid() || private("llm", "near.example.com").IsValid() || n.Permitted("llm", "a.corp.example.com") {
		t.Error("a workload in quarantine is told names")
	}
}
