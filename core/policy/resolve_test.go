package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/policyfile"
)

var update = flag.Bool("update", false, "rewrite the expected output")

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func resolve(t *testing.T, name string, text []byte) (*policy.Intent, source.Diagnostics) {
	t.Helper()
	p, ds := policyfile.Parse([]policyfile.File{{Name: name, Text: text}})
	if p == nil {
		t.Fatal(ds)
	}
	in, more := policy.Resolve(p, now)
	ds = append(ds, more...)
	ds.Sort()
	return in, ds
}

func print(ds source.Diagnostics) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintln(&b, d)
		for _, n := range d.Notes {
			fmt.Fprintf(&b, "    note: %s: %s\n", n.Pos, n.Text)
		}
		if d.Fix != "" {
			fmt.Fprintf(&b, "    fix: %s\n", d.Fix)
		}
	}
	return b.String()
}

// TestErrors holds every broken policy against what is said of it.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/err/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			_, ds := resolve(t, filepath.Base(f), text)
			got := print(ds)
			for _, d := range ds {
				if !d.Pos.IsValid() || d.Fix == "" {
					t.Errorf("%v: without a place or a fix", d)
				}
			}
			out := strings.TrimSuffix(f, ".yaml") + ".out"
			if *update {
				if err := os.WriteFile(out, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func party(name string) policy.Party {
	return policy.Party{Kind: policy.WorkloadParty, Name: name}
}

const platform = `version: 1
platform: p
zones: {data: {role: data}, inner: {role: data, in: data}, train: {role: training}, out: {role: custom}}
workloads:
  store: {zone: data, serves: {api: http/8080, db: postgres/5432}}
  cache: {zone: inner, serves: {kv: redis/6379}}
  job: {zone: train}
  eval: {zone: train, serves: {ui: http/80}}
  gw: {zone: out, serves: {proxy: http/3128}}
gateway: gw/proxy
flows:
  - {from: zone/train, to: store/api, may: read, because: x, owner: y}
  - {from: job, to: zone/data, may: connect, because: x, owner: y, until: 2026-11-22}
  - {from: eval, to: store/db, may: read, enforcedBy: application, because: x, owner: y}
  - {from: store, to: cache/kv, because: x, owner: y, until: 2026-11-21}
egress:
  - {from: zone/train, to: [pypi, 203.0.113.0/24], may: read, because: x, owner: y}
exposures:
  - {to: eval/ui, from: internet, may: [GET /public/**], because: x, owner: y}
`

func TestDecide(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(platform))
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	get := &netset.Request{Method: "GET", Host: "h", Path: "/x"}
	put := &netset.Request{Method: "PUT", Host: "h", Path: "/x"}
	inet := policy.Party{Kind: policy.OutsideParty, Name: policy.Internet}
	pypi := policy.Party{Kind: policy.OutsideParty, Name: "pypi"}
	path := func(p string) *netset.Request { return &netset.Request{Method: "GET", Host: "h", Path: p} }
	cases := []struct {
		name     string
		from, to policy.Party
		port     uint16
		r        *netset.Request
		want     bool
	}{
		{"read through the zone", party("eval"), party("store"), 8080, get, true},
		{"no write through the zone", party("eval"), party("store"), 8080, put, false},
		{"the connection for some requests opens", party("eval"), party("store"), 8080, nil, true},
		{"the last day still counts", party("job"), party("store"), 8080, put, true},
		{"an outer zone holds what is in inner ones", party("job"), party("cache"), 6379, nil, true},
		{"left to the application", party("eval"), party("store"), 5432, nil, true},
		{"expired", party("store"), party("cache"), 6379, nil, false},
		{"another port", party("job"), party("store"), 22, nil, false},
		{"not the way back", party("store"), party("job"), 8080, nil, false},
		{"to the gateway for egress", party("job"), party("gw"), 3128, nil, true},
		{"to the gateway without egress", party("store"), party("gw"), 3128, nil, false},
		{"the gateway itself goes out", party("gw"), pypi, 443, put, true},
		{"egress", party("job"), pypi, 443, get, true},
		{"egress reads only", party("job"), pypi, 443, put, false},
		{"exposed path", inet, party("eval"), 80, path("/public/a/b"), true},
		{"another path", inet, party("eval"), 80, path("/admin"), false},
		{"a path with two spellings", inet, party("eval"), 80, path("/public/%2e%2e/admin"), false},
		{"a dotted path", inet, party("eval"), 80, path("/public/../admin"), false},
		{"an unknown party", party("nobody"), party("store"), 8080, get, false},
	}
	for _, c := range cases {
		a := in.Decide(policy.Question{From: c.from, To: c.to, Protocol: netset.TCP, Port: c.port, Request: c.r})
		if a.Allowed != c.want {
			t.Errorf("%s: allowed=%v, want %v (%s)", c.name, a.Allowed, c.want, a.Why())
		}
		if !a.Allowed && a.Why() == "" {
			t.Errorf("%s: denied without a reason", c.name)
		}
	}
	for _, p := range in.Permissions {
		if p.Kind == policy.EgressKind && p.Via != "gw" {
			t.Errorf("%s does not go through the gateway", p.Name)
		}
	}
}

func TestPolicyTests(t *testing.T) {
	text := platform + `tests:
  - {from: zone/train, to: store/api, allow: [GET /x], deny: [PUT /x]}
  - {from: job, to: store/db, deny: any}
  - {from: eval, to: job, deny: any}
  - {from: zone/train, to: internet, deny: any}
  - {from: zone/train, to: pypi, allow: [GET /simple/x], deny: [POST /upload]}
  - {from: internet, to: eval, allow: [GET /public/a], deny: [GET /admin, GET /public]}
  - {from: internet, to: store, deny: any}
  - {from: store, to: pypi, allow: any}
`
	in, ds := resolve(t, "p.yaml", []byte(text))
	if ds.HasErrors() {
		t.Fatal(print(ds))
	}
	var failed []string
	for _, f := range in.RunTests() {
		failed = append(failed, fmt.Sprintf("%d %s", f.Pos.Line, f.Says))
	}
	want := []string{
		"21 job → store/api: PUT /x must be denied", // allowed by the zone flow until today
		"22 job → store/db: any must be denied",
		"24 job → internet: any must be denied",
		"28 store → pypi: any must be allowed",
	}
	if len(failed) != len(want) {
		t.Fatalf("failures:\n%s", strings.Join(failed, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(failed[i], want[i]) {
			t.Errorf("failure %q, want %q…", failed[i], want[i])
		}
	}
}

// TestDenyTestsSeeOtherNames: what a test denies must be denied by whatever name
// it is permitted.
func TestDenyTestsSeeOtherNames(t *testing.T) {
	for name, c := range map[string]struct{ permits, test string }{
		"same hosts":       {"egress: [{from: web, to: a, because: x, owner: y}]", "{from: web, to: b, deny: any}"},
		"host of it":       {"egress: [{from: web, to: a, because: x, owner: y}]", "{from: web, to: api.example.com, deny: any}"},
		"inline host":      {"egress: [{from: web, to: api.example.com, because: x, owner: y}]", "{from: web, to: b, deny: any}"},
		"pattern":          {`egress: [{from: web, to: "*.example.com", because: x, owner: y}]`, "{from: web, to: b, deny: any}"},
		"every address":    {"egress: [{from: web, to: 0.0.0.0/0, because: x, owner: y}]", "{from: web, to: b, deny: any}"},
		"network":          {"egress: [{from: web, to: 10.0.0.0/8, because: x, owner: y}]", "{from: web, to: 10.1.2.3, deny: any}"},
		"public network":   {"exposures: [{to: web/http, from: 0.0.0.0/0, because: x, owner: y}]", "{from: internet, to: web, deny: any}"},
		"part of internet": {"exposures: [{to: web/http, from: 203.0.114.0/24, because: x, owner: y}]", "{from: internet, to: web/http, deny: any}"},
		"only itself":      {"", "{from: web, to: web/http, allow: any}"},
		"empty zone":       {"", "{from: zone/empty, to: web/http, allow: any}"},
		"part for whole":   {"exposures: [{to: web/http, from: 203.0.114.0/24, because: x, owner: y}]", "{from: internet, to: web/http, allow: any}"},
	} {
		t.Run(name, func(t *testing.T) {
			in, ds := resolve(t, "p.yaml", []byte(`version: 1
platform: p
zones: {z: {role: custom}, empty: {role: custom}}
workloads: {web: {zone: z, serves: {http: http/80}}}
destinations: {a: {hosts: [api.example.com]}, b: {hosts: [api.example.com]}}
`+c.permits+"\ntests: ["+c.test+"]\n"))
			if ds.HasErrors() {
				t.Fatal(ds)
			}
			if got := in.RunTests(); len(got) != 1 {
				t.Errorf("%d failures, want 1: %v", len(got), got)
			}
		})
	}
}

// TestDenyTestsOfOthersHold: a permission for other names fails no test.
func TestDenyTestsOfOthersHold(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(`version: 1
platform: p
zones: {z: {role: custom}}
workloads: {web: {zone: z, serves: {http: http/80}}}
destinations: {a: {hosts: [api.example.com]}, b: {hosts: [api.example.org]}, c: {hosts: [api.example.com], ports: [8443]}}
egress:
  - {from: web, to: [a, "*.example.net", 10.0.0.0/8], because: x, owner: y}
  - {from: web, to: c, because: x, owner: y}
exposures: [{to: web/http, from: 10.0.0.0/8, because: x, owner: y}]
tests:
  - {from: web, to: b, deny: any}
  - {from: web, to: example.net, deny: any}
  - {from: web, to: x.example.net, allow: any}
  - {from: web, to: 192.168.0.1, deny: any}
  - {from: web, to: 10.0.0.1, allow: any}
  - {from: web, to: c, allow: any}
  - {from: internet, to: web, deny: any}
`))
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	if got := in.RunTests(); len(got) != 0 {
		t.Errorf("failures: %v", got)
	}
}

func TestExpiring(t *testing.T) {
	in, ds := resolve(t, "p.yaml", []byte(platform))
	if n := len(in.Expiring(24 * time.Hour)); n != 3 { // one for each service in zone/data
		t.Errorf("%d permissions end within a day, want 3", n)
	}
	found := false
	for _, d := range ds {
		found = found || d.Rule == "expired" && d.Severity == source.Warning
	}
	if !found || len(in.Expired) != 1 {
		t.Errorf("expired permissions: %d, announced %v", len(in.Expired), found)
	}
}
