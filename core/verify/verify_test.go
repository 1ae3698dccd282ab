package verify_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/core/verify"
	"bulkhead/internal/yamldoc"
	"bulkhead/policyfile"
	"bulkhead/target"
	"bulkhead/target/kubernetes"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func intent(t *testing.T, text string) *policy.Intent {
	t.Helper()
	p, ds := policyfile.Parse([]policyfile.File{{Name: "bulkhead.yaml", Text: []byte(text)}})
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(p, now)
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	return in
}

func estate(t *testing.T, texts ...string) *reach.Analysis {
	t.Helper()
	im, err := kubernetes.New().NewImporter(target.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		for v, d := range yamldoc.Documents("estate.yaml", []byte(text), yamldoc.ManifestLimits) {
			if d != nil {
				t.Fatal(d)
			}
			im.Add(target.Document{Value: v})
		}
	}
	n := &network.Network{}
	if ds := im.Finish(n); ds.HasErrors() {
		t.Fatal(ds)
	}
	return reach.New(n)
}

func bind(t *testing.T, in *policy.Intent, a *reach.Analysis) verify.Bindings {
	t.Helper()
	b := verify.Bindings{Workloads: map[string][]int{}, Resolvers: map[string][]int{}, Maybe: map[string][]int{}}
	for i := range in.Policy.Workloads {
		w := &in.Policy.Workloads[i]
		for _, bd := range w.Bindings {
			p, ds := kubernetes.New().Bind(bd)
			if ds.HasErrors() {
				t.Fatal(ds)
			}
			for e := range a.Net.Endpoints {
				end := &a.Net.Endpoints[e]
				var sc *network.Scope
				if end.Scope >= 0 {
					sc = &a.Net.Scopes[end.Scope]
				}
				if p.MatchEndpoint(end, sc) == network.Yes {
					b.Workloads[w.Name.Value] = append(b.Workloads[w.Name.Value], e)
				}
			}
		}
	}
	return b
}

func pod(namespace, name string, ports string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec:\n  selector: {matchLabels: {app: " + name +
		"}}\n  template:\n    metadata: {labels: {app: " + name + "}}\n    spec: {containers: [{name: c, image: x, ports: [" + ports + "]}]}\n---\n"
}

func netpol(namespace, name, spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n---\n"
}

const denyAll = "{podSelector: {}, policyTypes: [Ingress, Egress]}"

const twoWorkloads = `version: 1
platform: p
zones: {a: {role: custom}, b: {role: custom}}
workloads:
  web: {zone: a, at: {kubernetes: {namespace: a, labels: {app: web}}}}
  db: {zone: b, serves: {sql: postgres/5432}, at: {kubernetes: {namespace: b, labels: {app: db}}}}
flows:
  - {from: web, to: db/sql, because: orders, owner: shop}
`

func rules(fs []finding.Finding) []string {
	var out []string
	for _, f := range fs {
		out = append(out, f.Rule)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func one(t *testing.T, fs []finding.Finding, rule, subject string) finding.Finding {
	t.Helper()
	for _, f := range fs {
		if f.Rule == rule && f.Subject == subject {
			return f
		}
	}
	t.Fatalf("no finding %s about %s among %v", rule, subject, fs)
	return finding.Finding{}
}

// TestCompiledEstateIsProven: what is compiled from a policy allows exactly
// what it declares.
func TestCompiledEstateIsProven(t *testing.T) {
	in := intent(t, twoWorkloads)
	texts := []string{pod("a", "web", ""), pod("b", "db", "{containerPort: 5432}")}
	for _, f := range kubernetes.New().Compile(in).Files {
		texts = append(texts, "---\n"+string(f.Data))
	}
	a := estate(t, texts...)
	r := verify.Verify(in, a, bind(t, in, a))
	if len(r.Findings) > 0 || r.Pairs == 0 || r.Proven != r.Pairs {
		t.Errorf("%d of %d pairs proven, findings %v", r.Proven, r.Pairs, r.Findings)
	}
}

func TestFlatEstateLeaks(t *testing.T) {
	in := intent(t, twoWorkloads)
	a := estate(t, pod("a", "web", ""), pod("b", "db", "{containerPort: 5432}"), pod("c", "stranger", ""))
	r := verify.Verify(in, a, bind(t, in, a))
	f := one(t, r.Findings, "leak", "db")
	if f.Severity != finding.High || f.Witness == nil || f.Witness.Verdict != finding.Allowed || f.Remedy == "" {
		t.Errorf("%+v", f)
	}
	one(t, r.Findings, "unbound-workload", "c/Deployment/stranger")
	one(t, r.Findings, "egress-leak", "web")
	one(t, r.Findings, "latent-exposure", "db")
	var all []string
	for _, f := range r.Findings {
		if f.Rule == "leak" && f.Subject == "db" {
			all = append(all, f.Facts["from"]+" "+f.Facts["traffic"])
		}
	}
	slices.Sort(all)
	// web may use 5432, so from it all but that leaks; db's instances to each
	// other and the stranger leak everything.
	want := []string{"c/Deployment/stranger,control-plane,db all", "web TCP 1-5431,5433-65535; UDP 1-65535; SCTP 1-65535; ICMP; ICMPv6; IP"}
	if !slices.Equal(all, want) {
		t.Errorf("leaks to db:\n%s", strings.Join(all, "\n"))
	}
}

func TestBrokenFlowNamesTheLayer(t *testing.T) {
	in := intent(t, twoWorkloads)
	a := estate(t, pod("a", "web", ""), pod("b", "db", "{containerPort: 5432}"),
		netpol("a", "deny", denyAll), netpol("b", "deny", denyAll),
		netpol("b", "in", "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: a}}}], ports: [{port: 5433}]}]}"))
	r := verify.Verify(in, a, bind(t, in, a))
	f := one(t, r.Findings, "broken-flow", "flow web → db/sql")
	if f.Witness == nil || f.Witness.Verdict != finding.Denied {
		t.Fatalf("%+v", f)
	}
	last := f.Witness.Hops[len(f.Witness.Hops)-1]
	if !strings.Contains(last.Why, "NetworkPolicy a/deny") || len(last.Rules) == 0 || last.Rules[0].Pos.Line == 0 {
		t.Errorf("the witness ends with %+v", last)
	}
}

func TestBindings(t *testing.T) {
	in := intent(t, strings.ReplaceAll(twoWorkloads, "app: db", "app: dbx")+"")
	a := estate(t, pod("a", "web", ""), pod("b", "db", ""))
	one(t, verify.Verify(in, a, bind(t, in, a)).Findings, "unmatched-binding", "db")

	in = intent(t, strings.Replace(twoWorkloads, "  db:", "  other: {zone: a, at: {kubernetes: {namespace: a}}}\n  db:", 1))
	one(t, verify.Verify(in, a, bind(t, in, a)).Findings, "ambiguous-binding", "a/Deployment/web")
}

func TestRequestsAreWiderThanDeclared(t *testing.T) {
	in := intent(t, strings.NewReplacer("postgres/5432", "http/5432", "to: db/sql,", "to: db/sql, may: read,").Replace(twoWorkloads))
	texts := []string{pod("a", "web", ""), pod("b", "db", "")}
	for _, f := range kubernetes.New().Compile(in).Files {
		texts = append(texts, "---\n"+string(f.Data))
	}
	a := estate(t, texts...)
	r := verify.Verify(in, a, bind(t, in, a))
	if got := rules(r.Findings); !slices.Equal(got, []string{"wider-requests"}) {
		t.Errorf("%v", got)
	}
}

// TestUnknownIsNeverProven: an address block that may or may not hold the
// workload leaves the flow unproven and the leak possible.
func TestUnknownIsNeverProven(t *testing.T) {
	in := intent(t, twoWorkloads)
	block := "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}"
	a := estate(t, pod("a", "web", ""), pod("b", "db", ""), netpol("b", "block", block))
	r := verify.Verify(in, a, bind(t, in, a))
	one(t, r.Findings, "unproven-flow", "flow web → db/sql")
	one(t, r.Findings, "possible-leak", "db")
	if r.Proven == r.Pairs {
		t.Error("everything counts as proven")
	}
}

const exposed = `version: 1
platform: p
zones: {s: {role: serving}}
workloads:
  llm: {zone: s, serves: {api: http/8000}, at: {kubernetes: {namespace: s, labels: {app: llm}}}}
exposures:
  - {to: llm/api, from: internet, because: x, owner: y, until: 2027-01-01}
`

func service(policy, annotations string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: llm, namespace: s, annotations: {" + annotations + "}}\nspec: {type: LoadBalancer, " + policy +
		"selector: {app: llm}, ports: [{port: 443, targetPort: 8000}]}\n---\n"
}

// TestExposedRequestsAreWiderThanDeclared: a front that forwards every request
// publishes more than an exposure of some.
func TestExposedRequestsAreWiderThanDeclared(t *testing.T) {
	public := service("externalTrafficPolicy: Local, ", "service.beta.kubernetes.io/aws-load-balancer-scheme: internet-facing")
	for may, want := range map[string]bool{"may: read, ": true, "may: [GET /v1/**], ": true, "may: call, ": false, "": false} {
		in := intent(t, strings.Replace(exposed, "from: internet,", "from: internet, "+may, 1))
		a := estate(t, public, pod("s", "llm", "{containerPort: 8000}"))
		if got := slices.Contains(rules(verify.Verify(in, a, bind(t, in, a)).Findings), "wider-requests"); got != want {
			t.Errorf("%q: wider-requests %v, want %v", may, got, want)
		}
	}
}

// TestEgressRequestsAreWiderThanDeclared: an address with every request allowed
// is more than a destination for some.
func TestEgressRequestsAreWiderThanDeclared(t *testing.T) {
	for may, want := range map[string]bool{"may: read, ": true, "": false} {
		in := intent(t, twoWorkloads+"egress:\n  - {from: web, to: 198.18.0.0/16, "+may+"because: x, owner: y}\n")
		a := estate(t, pod("a", "web", "")+netpol("a", "x", "{podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 198.18.0.0/16}}], ports: [{port: 443}]}]}"))
		if got := slices.Contains(rules(verify.Verify(in, a, bind(t, in, a)).Findings), "wider-requests"); got != want {
			t.Errorf("%q: wider-requests %v, want %v", may, got, want)
		}
	}
}

// TestEveryEgressLeakIsShown: two leaks of one workload to the internet are two
// findings where they differ.
func TestEveryEgressLeakIsShown(t *testing.T) {
	in := intent(t, twoWorkloads)
	blocks := func(from int) string {
		var out []string
		for i := range 5 {
			out = append(out, fmt.Sprintf("{ipBlock: {cidr: 8.%d.0.0/16}}", from+2*i))
		}
		return strings.Join(out, ", ")
	}
	a := estate(t, pod("a", "web", "")+netpol("a", "x", "{podSelector: {}, policyTypes: [Egress], egress: [{to: ["+blocks(0)+"], ports: [{port: 443}]}, {to: ["+blocks(100)+"], ports: [{port: 22}]}]}"))
	var got []string
	for _, f := range verify.Verify(in, a, bind(t, in, a)).Findings {
		if f.Rule == "egress-leak" {
			got = append(got, f.Title)
		}
	}
	if len(got) != 2 {
		t.Errorf("%q", got)
	}
}

// TestReplicasOfALiveEstateLeak: pods that are one endpoint with several known
// addresses can reach each other as well as those of a template can.
func TestReplicasOfALiveEstateLeak(t *testing.T) {
	in := intent(t, twoWorkloads)
	replica := func(name, ips string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: a, labels: {app: web}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-1, controller: true}]}\n" +
			"spec: {containers: [{name: c, image: x}]}\nstatus: {phase: Running, podIPs: [" + ips + "]}\n---\n"
	}
	own := netpol("a", "x", "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}")
	for _, c := range []struct {
		name, pods string
		want       bool
	}{
		{"two pods", replica("web-1-a", "{ip: 10.244.0.5}") + replica("web-1-b", "{ip: 10.244.1.5}"), true},
		{"one pod of both families", replica("web-1-a", `{ip: 10.244.0.5}, {ip: "fd00::5"}`), false},
	} {
		a := estate(t, c.pods+own)
		r := verify.Verify(in, a, bind(t, in, a))
		if got := slices.Contains(rules(r.Findings), "leak"); got != c.want {
			t.Errorf("%s: leak %v, want %v: %v", c.name, got, c.want, r.Findings)
		}
	}
}

func TestExposures(t *testing.T) {
	local := "externalTrafficPolicy: Local, "
	public := "service.beta.kubernetes.io/aws-load-balancer-scheme: internet-facing"
	closed := strings.Replace(exposed, "exposures:\n  - {to: llm/api, from: internet, because: x, owner: y, until: 2027-01-01}\n", "", 1)
	cases := []struct {
		name, policy string
		texts        []string
		rule         string
		subject      string
	}{
		{"undeclared", closed, []string{service(local, public)}, "undeclared-exposure", "llm"},
		{"nothing publishes it", exposed, nil, "unpublished-exposure", "exposure internet → llm/api"},
		{"denied but for the local host", exposed, []string{service(local, public), netpol("s", "deny", denyAll)}, "unproven-flow", "exposure internet → llm/api"},
		{"internal only", exposed, []string{service(local, "service.beta.kubernetes.io/aws-load-balancer-scheme: internal")}, "unproven-flow", "exposure internet → llm/api"},
		{"private and undeclared", closed, []string{service(local, "networking.gke.io/load-balancer-type: Internal")}, "undeclared-exposure", "llm"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := intent(t, c.policy)
			a := estate(t, append(c.texts, pod("s", "llm", "{containerPort: 8000}"))...)
			f := one(t, verify.Verify(in, a, bind(t, in, a)).Findings, c.rule, c.subject)
			if c.name == "undeclared" && f.Severity != finding.Critical || c.name == "private and undeclared" && f.Severity == finding.Critical {
				t.Errorf("%+v", f)
			}
		})
	}
	in := intent(t, exposed)
	a := estate(t, service(local, public), pod("s", "llm", "{containerPort: 8000}"))
	for _, f := range verify.Verify(in, a, bind(t, in, a)).Findings {
		if strings.Contains(f.Rule, "exposure") && f.Rule != "latent-exposure" || f.Rule == "broken-flow" {
			t.Errorf("a declared exposure that works gives %v: %s", f.Rule, f.Title)
		}
	}
}

func TestEgress(t *testing.T) {
	text := `version: 1
platform: p
zones: {t: {role: training}}
workloads:
  job: {zone: t, at: {kubernetes: {namespace: t, labels: {app: job}}}}
egress:
  - {from: job, to: [pypi, 203.0.113.0/24], because: x, owner: y}
`
	allow := func(peer, port string) string {
		return netpol("t", "out", "{podSelector: {}, policyTypes: [Egress], egress: [{to: ["+peer+"], ports: [{port: "+port+"}]}]}")
	}
	cases := []struct {
		name, pol string
		want      []string
	}{
		{"any address on the port is wider than the names", allow("{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}", "443"), []string{"egress-leak", "egress-wider"}},
		{"another port leaks", allow("{ipBlock: {cidr: 198.18.0.0/15}}, {ipBlock: {cidr: 8.8.8.8/32}}", "22"), []string{"broken-flow", "egress-leak"}},
		{"some public addresses prove nothing about names", allow("{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: 151.101.0.0/16}}", "443"), []string{"egress-wider", "unproven-flow"}},
		{"denied", netpol("t", "deny", denyAll), []string{"broken-flow"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := intent(t, text)
			a := estate(t, pod("t", "job", ""), c.pol)
			var got []string
			for _, f := range verify.Verify(in, a, bind(t, in, a)).Findings {
				if strings.HasPrefix(f.Rule, "egress") || strings.HasSuffix(f.Rule, "-flow") {
					got = append(got, f.Rule)
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestInvariants(t *testing.T) {
	head := `version: 1
platform: p
zones: {data: {role: data}, train: {role: training}, art: {role: artefacts}, serve: {role: serving}, logs: {role: logging}, apps: {role: custom}}
workloads:
  store: {zone: data, serves: {api: http/80, sql: postgres/5432}}
  job: {zone: train, serves: {x: tcp/1}}
  job2: {zone: train}
  models: {zone: art, serves: {s3: s3/9000}}
  llm: {zone: serve, serves: {api: http/80}}
  llm2: {zone: serve}
  log: {zone: logs, serves: {es: http/9200, otlp: otlp/4317}}
  app: {zone: apps, serves: {web: http/80}}
`
	why := ", because: x, owner: y}\n"
	dated := ", because: x, owner: y, until: 2027-06-01}\n"
	cases := []struct {
		name, text string
		want       []string
	}{
		{"clean", "flows:\n  - {from: job, to: store/api, may: read" + why + "  - {from: job, to: models/s3, may: write" + why + "  - {from: llm, to: models/s3, may: read" + why, nil},
		{"data calls out", "egress:\n  - {from: store, to: pypi" + why, []string{"data-internet"}},
		{"data is exposed", "exposures:\n  - {to: store/api, from: internet, may: read" + dated, []string{"data-internet"}},
		{"data is exposed to a private network", "exposures:\n  - {to: store/api, from: 10.0.0.0/8, may: read" + dated, []string{"data-internet"}},
		{"training writes data", "flows:\n  - {from: job, to: store/api" + why, []string{"training-reads-data"}},
		{"training opens an opaque port of data", "flows:\n  - {from: job, to: store/sql" + why, []string{"training-reads-data"}},
		{"the application tells reads apart", "flows:\n  - {from: job, to: store/sql, may: read, enforcedBy: application" + why, nil},
		{"training to addresses", "egress:\n  - {from: job, to: 203.0.113.0/24" + why, []string{"training-egress"}},
		{"training writes to apps", "flows:\n  - {from: job, to: app" + why, []string{"training-writes-artefacts"}},
		{"serving writes models", "flows:\n  - {from: llm, to: models, may: [read, write]" + why, []string{"serving-reads-artefacts"}},
		{"serving reaches training", "flows:\n  - {from: llm, to: job" + why, []string{"serving-isolated"}},
		{"one server reads data", "flows:\n  - {from: llm, to: store/api, may: read" + why, nil},
		{"the whole zone reads data", "flows:\n  - {from: zone/serve, to: store/api, may: read" + why, []string{"serving-isolated"}},
		{"logs are read", "flows:\n  - {from: app, to: log/es" + why, []string{"logging-write-only"}},
		{"logs are written", "flows:\n  - {from: app, to: log/es, may: write" + why + "  - {from: app, to: log/otlp" + why, nil},
		{"undated exposure", "exposures:\n  - {to: llm/api, from: internet" + why, []string{"exposure-dated"}},
		{"no reason", "flows:\n  - {from: app, to: llm}\n", []string{"reasoned"}},
		{"a chain to writing", "exposures:\n  - {to: app, from: internet" + dated + "flows:\n  - {from: app, to: llm" + why + "  - {from: llm, to: store/api, may: write" + why, []string{"internet-chain"}},
		{"the same without the exposure", "flows:\n  - {from: app, to: llm" + why + "  - {from: llm, to: store/api, may: write" + why, nil},
		{"the same relaxed", "exposures:\n  - {to: app, from: internet" + dated + "flows:\n  - {from: app, to: llm" + why + "  - {from: llm, to: store/api, may: write" + why + "relaxations:\n  - {invariant: internet-chain, for: llm" + dated, nil},
		{"an expired relaxation", "egress:\n  - {from: store, to: pypi" + why + "relaxations:\n  - {invariant: data-internet, because: x, owner: y, until: 2026-01-01}\n", []string{"data-internet"}},
		{"a relaxation for someone else", "egress:\n  - {from: store, to: pypi" + why + "relaxations:\n  - {invariant: data-internet, for: zone/train" + dated, []string{"data-internet"}},
		{"a relaxation of the zone", "egress:\n  - {from: store, to: pypi" + why + "relaxations:\n  - {invariant: data-internet, for: zone/data" + dated, nil},
		{"declared", "flows:\n  - {from: app, to: llm" + why + "invariants:\n  - {id: no-app, says: never, from: app, to: zone/serve, owner: y}\n", []string{"no-app"}},
		{"declared over a chain", "flows:\n  - {from: app, to: llm" + why + "  - {from: llm, to: models, may: read" + why + "invariants:\n  - {id: far, says: never, from: app, to: zone/art, transitive: true, owner: y}\n", []string{"far"}},
		{"a public network is the internet", "exposures:\n  - {to: llm/api, from: 0.0.0.0/0" + why, []string{"exposure-dated"}},
		{"a private network needs no date", "exposures:\n  - {to: llm/api, from: 10.0.0.0/8" + why, nil},
		{"a chain from a public network", "exposures:\n  - {to: app, from: 0.0.0.0/0" + dated + "flows:\n  - {from: app, to: llm" + why + "  - {from: llm, to: store/api, may: write" + why, []string{"internet-chain"}},
		{"data calls out through an endpoint", "endpoints:\n  e: {hosts: bar.test.example, address: 0.0.0.0/0, consumers: [store]" + why, []string{"data-internet"}},
		{"training calls out through an endpoint", "endpoints:\n  e: {hosts: bar.test.example, address: 203.0.114.1, consumers: [job]" + why, []string{"training-egress"}},
		{"data calls out through an endpoint without an address", "endpoints:\n  e: {hosts: bar.test.example, consumers: [store]" + why, []string{"data-internet"}},
		{"training uses an endpoint by name", "endpoints:\n  e: {hosts: bar.test.example, consumers: [job]" + why, nil},
		{"data uses an accepted service", "endpoints:\n  e: {service: app/web, consumers: [store], accepted: {by: z, on: 2026-11-01}" + why, nil},
		{"data uses a private endpoint", "endpoints:\n  e: {hosts: bar.test.example, address: 10.0.3.4, consumers: [store]" + why, nil},
		{"declared, out over a chain", "flows:\n  - {from: store, to: app" + why + "egress:\n  - {from: app, to: pypi" + why + "invariants:\n  - {id: far, says: never, from: zone/data, to: internet, transitive: true, owner: y}\n", []string{"far"}},
		{"declared, no way out", "flows:\n  - {from: store, to: app" + why + "egress:\n  - {from: llm, to: pypi" + why + "invariants:\n  - {id: far, says: never, from: zone/data, to: internet, transitive: true, owner: y}\n", nil},
		{"declared, directly only", "flows:\n  - {from: app, to: llm" + why + "  - {from: llm, to: models, may: read" + why + "invariants:\n  - {id: far, says: never, from: app, to: zone/art, owner: y}\n", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range verify.Check(intent(t, head+c.text)) {
				if id, ok := strings.CutPrefix(f.Rule, "invariant/"); ok {
					got = append(got, id)
					if f.Remedy == "" || f.Detail == "" || !f.Pos.IsValid() {
						t.Errorf("%s lacks a remedy, a reason or a place", f.Rule)
					}
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	before := estate(t, pod("a", "web", ""), pod("b", "db", ""), netpol("b", "deny", "{podSelector: {}, policyTypes: [Ingress]}"))
	allow := netpol("b", "in", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 5432}]}]}")
	after := estate(t, pod("a", "web", ""), pod("b", "db", ""), pod("c", "new", ""), netpol("b", "deny", "{podSelector: {}, policyTypes: [Ingress]}"), allow)
	d := verify.Diff(before, after)
	if !slices.Equal(d.AddedWorkloads, []string{"c/Deployment/new"}) || d.RemovedWorkloads != nil {
		t.Errorf("workloads %v %v", d.AddedWorkloads, d.RemovedWorkloads)
	}
	got := map[string]string{}
	for _, c := range d.Edges {
		got[c.From+">"+c.To] = "+" + c.Added.String() + " -" + c.Removed.String()
	}
	if got["a/Deployment/web>b/Deployment/db"] != "+TCP 5432 -" || got["c/Deployment/new>a/Deployment/web"] != "+all -" {
		t.Errorf("edges %v", got)
	}
	back := verify.Diff(after, before)
	if len(back.Edges) != len(d.Edges) || !slices.Equal(back.RemovedWorkloads, d.AddedWorkloads) {
		t.Errorf("the reverse has %d edges, forwards %d", len(back.Edges), len(d.Edges))
	}
	same := verify.Diff(before, before)
	if !same.IsEmpty() {
		t.Errorf("a network differs from itself: %+v", same)
	}
}

// TestDiffShowsWiderNetworks: the same front and the same policy for more
// addresses is a change.
func TestDiffShowsWiderNetworks(t *testing.T) {
	balancer := func(ranges string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: llm, namespace: s}\nspec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, externalTrafficPolicy: Local, selector: {app: llm}, ports: [{port: 8000}]" + ranges + "}\n---\n"
	}
	block := func(cidr string) string {
		return netpol("s", "in", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: "+cidr+"}}]}]}")
	}
	for name, c := range map[string]struct{ before, after string }{
		"source ranges":                {balancer(", loadBalancerSourceRanges: [203.0.114.0/24]"), balancer("")},
		"policy behind a front":        {balancer("") + block("203.0.114.0/24"), balancer("") + block("0.0.0.0/0")},
		"policy of what has no front":  {block("203.0.114.0/24"), block("203.0.112.0/20")},
		"no policy in the later state": {block("203.0.114.0/24"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			llm := pod("s", "llm", "{containerPort: 8000}")
			d := verify.Diff(estate(t, llm+c.before), estate(t, llm+c.after))
			if len(d.Exposures) == 0 {
				t.Error("no change of exposures")
			}
			for _, e := range d.Exposures {
				if e.Added.IsEmpty() || !e.Removed.IsEmpty() || e.To != "s/Deployment/llm" {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

// TestDiffShowsWhatANameStandsFor: a destination that keeps its name and gets
// more hosts is a change.
func TestDiffShowsWhatANameStandsFor(t *testing.T) {
	head := "version: 1\nplatform: p\nzones: {z: {role: custom}}\nworkloads: {web: {zone: z}}\n"
	for name, c := range map[string]struct{ before, after, added string }{
		"hosts": {"destinations: {a: {hosts: [api.example.com]}}\negress: [{from: web, to: a, because: x, owner: y}]",
			"destinations: {a: {hosts: [api.example.com, \"*.example.org\"]}}\negress: [{from: web, to: a, because: x, owner: y}]", "a (*.example.org)"},
		"address": {"endpoints: {e: {hosts: g.test.example, address: 10.0.0.1, consumers: [web], because: x, owner: y}}",
			"endpoints: {e: {hosts: g.test.example, address: 10.0.0.2, consumers: [web], because: x, owner: y}}", "endpoint/e (10.0.0.2/32)"},
	} {
		t.Run(name, func(t *testing.T) {
			d := verify.DiffIntents(intent(t, head+c.before), intent(t, head+c.after))
			if !slices.ContainsFunc(d.Egress, func(e verify.Change) bool { return e.To == c.added && !e.Added.IsEmpty() }) {
				t.Errorf("%+v", d.Egress)
			}
		})
	}
}

func TestAuditOfTheExample(t *testing.T) {
	text, err := os.ReadFile("../../examples/ai-platform/kubernetes/platform.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a := estate(t, string(text))
	r := verify.Audit(a, func(e int) []verify.Recognised {
		if a.Net.Endpoints[e].Facts.Name == "llm" {
			return []verify.Recognised{{ID: "vllm", Title: "vLLM", Class: "inference-server", Sensitive: []verify.SensitivePort{{Port: 8000, Name: "API", Why: "it has no authentication"}}}}
		}
		return nil
	})
	f := one(t, r.Findings, "public-exposure", "serving/Deployment/llm")
	if f.Severity != finding.Critical || f.Witness == nil || len(f.Witness.Hops) < 2 {
		t.Errorf("%+v", f)
	}
	for rule, subject := range map[string]string{
		"flat-network": "the whole estate", "metadata-access": "169.254.169.254", "unrestricted-egress": "training",
		"no-isolation": "data", "console-reachable": "serving/Deployment/llm",
	} {
		if f := one(t, r.Findings, rule, subject); f.Remedy == "" {
			t.Errorf("%s has no remedy", rule)
		}
	}
	for _, f := range r.Findings {
		if f.Severity >= finding.Medium && (f.Witness == nil || len(f.Witness.Hops) == 0 || f.Remedy == "" || !f.Pos.IsValid() && f.Rule != "flat-network") {
			t.Errorf("%s has no witness, remedy or place", f.ID)
		}
	}
	if r.Flatness.Share() != 1 {
		t.Errorf("share %v of a flat network", r.Flatness.Share())
	}
}

// TestWitnessCitesTheSubjectsOwnRule: two namespaces with policies of the same
// content share the answer, but each witness cites its own policy.
func TestWitnessCitesTheSubjectsOwnRule(t *testing.T) {
	var texts []string
	for _, ns := range []string{"a", "b", "c"} {
		texts = append(texts, pod(ns, "web", ""), netpol(ns, "own", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: 80}]}]}"))
	}
	a := estate(t, texts...)
	for e := range a.Net.Endpoints {
		end := &a.Net.Endpoints[e]
		if end.Kind != network.Workload {
			continue
		}
		namespace := strings.SplitN(end.Workload, "/", 2)[0]
		for to := range a.Net.Endpoints {
			if to == e || a.Net.Endpoints[to].Kind != network.Workload {
				continue
			}
			w := a.Explain(reach.Question{From: a.ClassOf(e), To: a.ClassOf(to), Traffic: netset.Port(netset.TCP, 80)})
			if got := w.Hops[0].Rules[0].Name; !strings.HasPrefix(got, "NetworkPolicy "+namespace+"/") {
				t.Errorf("the egress of %s is explained by %s", end.Workload, got)
			}
			for _, r := range a.Rules(a.ClassOf(e), a.ClassOf(to)) {
				if !strings.HasPrefix(r.Name, "NetworkPolicy "+namespace+"/") {
					t.Errorf("the edge from %s cites %s", end.Workload, r.Name)
				}
			}
		}
	}
}
