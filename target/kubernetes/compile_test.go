package kubernetes

import (
	"bytes"

	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/internal/yamldoc"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
)

var compileTime = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

// bound returns a workload bound in a namespace by labels, serving ports.
func bound(name, zone, namespace string, services ...policy.Service) policy.Workload {
	return policy.Workload{Name: text(name), Zone: text(zone), Serves: services,
		Bindings: []policy.Binding{binding(bindField("namespace", namespace), labelField("app", name))}}
}

func binding(fields ...policy.Field) policy.Binding {
	return policy.Binding{Target: text("kubernetes"), Fields: fields}
}

func serves(name, protocol string, lo, hi uint16) policy.Service {
	return policy.Service{Name: text(name), Protocol: text(protocol), Lo: lo, Hi: hi}
}

func list(names ...string) []policy.Text {
	var out []policy.Text
	for _, n := range names {
		out = append(out, text(n))
	}
	return out
}

func because(why string) policy.Why {
	return policy.Why{Because: text(why), Owner: text("ml-platform")}
}

func compiled(t *testing.T, tg target.Target, p *policy.Policy) target.Output {
	t.Helper()
	in, ds := policy.Resolve(p, compileTime)
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	return tg.Compile(in)
}

// examplePolicy is the small platform of the golden files.
func examplePolicy() *policy.Policy {
	until := policy.Why{Because: text("nightly training reads features (DATA-112)"), Owner: text("ml-platform"),
		Until: policy.Date{Time: time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC)}}
	return &policy.Policy{
		Platform: text("acme-ai"),
		Zones:    []policy.Zone{{Name: text("data")}, {Name: text("training")}, {Name: text("serving")}},
		Workloads: []policy.Workload{
			bound("feature-store", "data", "data", serves("api", "http", 8080, 8080)),
			bound("trainer", "training", "training", serves("nccl", "nccl", 29500, 29599)),
			bound("notebook", "training", "training"),
			bound("llm", "serving", "serving", serves("openai", "http", 8000, 8000)),
			bound("egress-gateway", "serving", "egress", serves("proxy", "http", 3128, 3128)),
		},
		Flows: []policy.Flow{
			{From: list("trainer"), To: list("feature-store/api"), May: list("read"), Why: until},
			{From: list("trainer"), To: list("trainer/nccl"), Why: because("gradients")},
			{From: list("zone/training"), To: list("llm/openai"), Why: because("evaluation")},
		},
		Egress: []policy.Egress{
			{From: list("zone/training"), To: list("pypi.org"), Why: because("dependencies")},
			{From: list("egress-gateway"), To: list("203.0.113.0/24"), Ports: list("443", "8443"), Why: because("partner")},
		},
		Endpoints: []policy.Endpoint{{Name: text("bedrock"), Service: text("aws/bedrock-runtime"), Address: text("10.0.3.4"),
			Consumers: list("llm"), Why: because("fallback model")}},
		Exposures: []policy.Exposure{{To: list("llm/openai"), From: list("internet"), Why: because("public API (PROD-7)")}},
		DNS:       &policy.DNS{To: text("kubernetes"), Why: because("names")},
		Gateway:   &policy.Gateway{Through: text("egress-gateway/proxy")},
	}
}

func TestGolden(t *testing.T) {
	for _, tg := range []target.Target{New(), NewAdmin()} {
		var b bytes.Buffer
		out := compiled(t, tg, examplePolicy())
		for _, f := range out.Files {
			fmt.Fprintf(&b, "-- %s --\n%s", f.Path, f.Data)
		}
		b.WriteString("-- residue --\n")
		for _, r := range out.Residue {
			side := "narrower"
			if r.Wider {
				side = "wider"
			}
			fmt.Fprintf(&b, "%s (%s): %s; %s\n", r.Limit, side, r.Says, r.Fix)
		}
		path := filepath.Join("testdata", "compile", tg.Name()+".txtar")
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got; run with -update if it is right):\n%s", path, diff)
		}
	}
}

// limitExamples have every limit of both targets between them.
var limitExamples = []*policy.Policy{examplePolicy(), limitsPolicy(true), limitsPolicy(false)}

func limitsPolicy(gateway bool) *policy.Policy {
	account := bound("account", "z", "ns", serves("s", "tcp", 1, 1))
	account.Bindings[0].Fields = append(account.Bindings[0].Fields, bindField("serviceAccount", "robot"))
	object := bound("object", "z", "ns")
	object.Bindings[0].Fields = append(object.Bindings[0].Fields, bindField("workload", "Deployment/object"))
	bare := policy.Workload{Name: text("bare"), Zone: text("z"), Bindings: []policy.Binding{binding(bindField("namespace", "ns"), bindField("serviceAccount", "x"))}}
	part := policy.Workload{Name: text("part"), Zone: text("z"), Bindings: []policy.Binding{binding(bindField("namespace", "ns"), labelField("app", "account", "part", "p"))}}
	p := &policy.Policy{
		Zones:     []policy.Zone{{Name: text("z")}},
		Workloads: []policy.Workload{account, object, bare, part, {Name: text("nowhere"), Zone: text("z")}},
		Egress: []policy.Egress{
			{From: list("object"), To: list("pypi.org"), Why: because("x")},
			{From: list("object"), To: list("10.0.0.0/8"), Why: because("x")},
		},
		Endpoints: []policy.Endpoint{{Name: text("unknown"), Service: text("aws/s3"), Consumers: list("object"), Why: because("x")}},
		Exposures: []policy.Exposure{{To: list("account"), From: list("hosts", "control-plane"), Why: because("x")}},
	}
	p.Flows = []policy.Flow{{From: list("part"), To: list("account"), Rate: text("1MiB/s"), Why: because("x")}}
	if gateway {
		p.Gateway = &policy.Gateway{Through: text("account/s")}
	}
	return p
}

func TestEveryResolverIsKnown(t *testing.T) {
	for name, port := range policy.Resolvers {
		if len(resolverPeers(name).peers) == 0 {
			t.Errorf("resolver %s (port %d) has no place here", name, port)
		}
		if p, ok := New().Resolver(name); !ok || p.ScopeName == "" {
			t.Errorf("resolver %s is no endpoint here", name)
		}
	}
}

// metas returns namespace/name of every object of an output, in order, with
// the file that it is in.
func metas(t *testing.T, out target.Output) (names []string, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	for _, f := range out.Files {
		for v, d := range yamldoc.Documents(f.Path, f.Data, yamldoc.ManifestLimits) {
			if d != nil {
				t.Fatalf("%s\n%s", d, f.Data)
			}
			kind, _ := v.Get("kind").Text()
			if kind != "NetworkPolicy" && kind != "ClusterNetworkPolicy" {
				t.Errorf("%s: an object of kind %q got in", v.Pos(), kind)
			}
			ns, _ := v.At("metadata", "namespace").Text()
			name, _ := v.At("metadata", "name").Text()
			names = append(names, ns+"/"+name)
			files[ns+"/"+name] = f.Path
		}
	}
	return names, files
}

// TestNamesOfObjectsAreValidAndDiffer binds workloads whose names no object
// can have, or that would come to the same one.
func TestNamesOfObjectsAreValidAndDiffer(t *testing.T) {
	names := []string{"a.b", "a-b", "a_b", "A-B", "a-b-2", "a-b-pods", "default-deny", "default-deny-pods", "..", "日本", "a\n---\nb",
		strings.Repeat("x", 300), strings.Repeat("x", 301)}
	p := &policy.Policy{Zones: []policy.Zone{{Name: text("z")}}}
	for i, n := range names {
		w := bound(n, "z", "ns", serves("s", "tcp", 80, 80))
		w.Bindings = []policy.Binding{
			binding(bindField("namespace", "ns"), labelField("app", fmt.Sprint("w", i))),
			binding(bindField("namespace", "ns"), labelField("app", fmt.Sprint("v", i))),
		}
		p.Workloads = append(p.Workloads, w)
	}
	p.Flows = []policy.Flow{{From: list("all"), To: list("zone/z"), Why: because("all\nof\n---\nthem")}}
	in, _ := policy.Resolve(p, compileTime)
	for _, tg := range []target.Target{New(), NewAdmin()} {
		got, _ := metas(t, tg.Compile(in))
		seen := map[string]bool{}
		for _, n := range got {
			if seen[n] {
				t.Errorf("%s: two objects are named %s", tg.Name(), n)
			}
			seen[n] = true
			if _, name, _ := strings.Cut(n, "/"); len(name) > 253 || !subdomain.MatchString(name) {
				t.Errorf("%s: no object can be named %q", tg.Name(), name)
			}
		}
		if len(seen) < 2*len(names) {
			t.Errorf("%s: %d objects for %d subjects", tg.Name(), len(seen), 2*len(names))
		}
	}
}

// TestUnusableBindings checks that what cannot be selected is left out, its
// namespace closed, and never widened to the whole namespace.
func TestUnusableBindings(t *testing.T) {
	for name, fields := range map[string][]policy.Field{
		"by account only":   {bindField("namespace", "ns"), bindField("serviceAccount", "robot")},
		"by object only":    {bindField("namespace", "ns"), bindField("workload", "Deployment/web")},
		"label value":       {bindField("namespace", "ns"), labelField("app", "a\n---\nkind: Secret")},
		"label key":         {bindField("namespace", "ns"), labelField("app: x, evil", "a")},
		"key of a selector": {bindField("namespace", "ns"), labelField("\x00serviceAccount", "a")},
		"namespace":         {bindField("namespace", "../../etc/cron.d/x"), labelField("app", "a")},
		"unknown field":     {bindField("namespace", "ns"), bindField("label", "a")},
	} {
		p := &policy.Policy{Zones: []policy.Zone{{Name: text("z")}},
			Workloads: []policy.Workload{
				{Name: text("w"), Zone: text("z"), Serves: []policy.Service{serves("s", "tcp", 80, 80)}, Bindings: []policy.Binding{binding(fields...)}},
				bound("peer", "z", "other", serves("s", "tcp", 80, 80)),
			},
			Flows: []policy.Flow{{From: list("w"), To: list("peer"), Why: because("x")}, {From: list("peer"), To: list("w"), Why: because("x")}},
		}
		for _, tg := range []target.Target{New(), NewAdmin()} {
			out := compiled(t, tg, p)
			got, _ := metas(t, out)
			for _, n := range got {
				if !strings.Contains(n, defaultDeny) {
					t.Errorf("%s, %s: %s was emitted", tg.Name(), name, n)
				}
			}
			if !slices.ContainsFunc(out.Residue, func(r target.Residue) bool { return r.Permission == "w" && !r.Wider }) {
				t.Errorf("%s, %s: no residue says that w is left out", tg.Name(), name)
			}
		}
	}
}

// TestLargeZoneIsOnePeer checks that the peers of a rule do not grow with a
// zone whose members one label tells apart, and what becomes of others.
func TestLargeZoneIsOnePeer(t *testing.T) {
	p := &policy.Policy{Zones: []policy.Zone{{Name: text("z")}, {Name: text("y")}}}
	hub := bound("hub", "y", "hub", serves("s", "tcp", 80, 80))
	p.Workloads = append(p.Workloads, hub)
	for i := range 500 {
		w := bound(fmt.Sprintf("w%03d", i), "z", "many")
		if i%2 == 1 {
			w.Bindings[0].Fields[1] = labelField("app", w.Name.Value, "odd", "yes")
		}
		p.Workloads = append(p.Workloads, w)
	}
	p.Flows = []policy.Flow{{From: list("zone/z"), To: list("hub"), Why: because("x")}}
	out := compiled(t, NewAdmin(), p)
	ingress := 0
	for _, f := range out.Files {
		for v := range yamldoc.Documents(f.Path, f.Data, yamldoc.ManifestLimits) {
			rules := v.At("spec", "ingress")
			if rules.Len() > maxItems || v.At("spec", "egress").Len() > maxItems {
				t.Errorf("%s: too many rules", v.Pos())
			}
			for _, r := range rules.Items() {
				if f.Path == "clusternetworkpolicy/hub.yaml" {
					ingress += r.Get("from").Len()
				}
				if r.Get("from").Len() > maxItems {
					t.Errorf("%s: too many peers", r.Pos())
				}
			}
		}
	}
	if ingress != 251 {
		t.Errorf("the hub has %d peers; 250 members with one label are one, the others each one", ingress)
	}
}

func TestPortsAndBlocks(t *testing.T) {
	for want, traffic := range map[string]netset.Traffic{
		"[{protocol: TCP, port: 80}]":                                          netset.Port(netset.TCP, 80),
		"[{protocol: UDP, port: 10, endPort: 20}]":                             netset.Ports(netset.UDP, 10, 20),
		"[{protocol: SCTP}]":                                                   netset.Whole(netset.SCTP),
		"[{protocol: TCP, port: 1}, {protocol: TCP, port: 3, endPort: 65535}]": netset.Whole(netset.TCP).Subtract(netset.Port(netset.TCP, 2)),
	} {
		if got := flow(policyPorts(traffic)); got != want {
			t.Errorf("%s: got %s, want %s", traffic, got, want)
		}
	}
	if portsOf(netset.Whole(netset.ICMP)) != nil {
		t.Error("a protocol without ports has ports: an empty list of ports means all of them")
	}
	public := ipBlocks(netset.PublicAddrs().Intersect(netset.AnyV4()), netset.AnyV4())
	if len(public) != 1 || !strings.Contains(flow(public), "cidr: 0.0.0.0/0, except: [0.0.0.0/8, 10.0.0.0/8") {
		t.Errorf("the internet is %s", flow(public))
	}
}

// flow shows nodes on one line.
func flow(nodes []yamltext.Node) string {
	var show func(v yamldoc.Value) string
	show = func(v yamldoc.Value) string {
		var parts []string
		switch v.Kind() {
		case yamldoc.Map:
			for k, e := range v.Entries() {
				key, _ := k.Text()
				parts = append(parts, key+": "+show(e))
			}
			return "{" + strings.Join(parts, ", ") + "}"
		case yamldoc.List:
			for _, e := range v.Items() {
				parts = append(parts, show(e))
			}
			return "[" + strings.Join(parts, ", ") + "]"
		}
		s, _ := v.Text()
		return s
	}
	for v := range yamldoc.Documents("flow", yamltext.Plain(yamltext.List(nodes...)), yamldoc.ManifestLimits) {
		return show(v)
	}
	return ""
}
