package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"bulkhead/core/network"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
)

func TestWhatIsClaimed(t *testing.T) {
	for _, c := range []struct {
		input   string
		claimed bool
	}{
		{"{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}", true},
		{"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x}}", true},
		{"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Secret, metadata: {name: x}}]}", true},
		{"{apiVersion: v1, kind: List, items: []}", true},
		{"{apiVersion: apps/v1, kind: DeploymentList, items: [{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {template: {spec: {containers: []}}}}]}", true},
		{"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: x}}", false},
		{"{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: x}}", false},
		{"{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: x}}", false},
		{"{apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy, metadata: {name: x}}", false},
		{"{apiVersion: acme.example/v1, kind: Widget, metadata: {name: x}, spec: {size: 1}}", false},
		{"{apiVersion: acme.example/v1, kind: Fleet, metadata: {name: x}, spec: {template: {spec: {containers: [{name: a}]}}}}", true},
		{"{kind: Pod}", false},
		{"just text", false},
		{"[1, 2]", false},
		{"{Resources: {}}", false},
	} {
		im, _ := New().NewImporter(target.Options{})
		for v := range yamldoc.Documents("x.yaml", []byte(c.input), yamldoc.ManifestLimits) {
			if got := im.Add(target.Document{Value: v}); got != c.claimed {
				t.Errorf("%s: claimed %v", c.input, got)
			}
		}
		var n network.Network
		im.Finish(&n)
		if want := map[bool]bool{true: true}[c.claimed] && !strings.Contains(c.input, "items: []"); (n.Coverage.Objects > 0) != want {
			t.Errorf("%s: coverage %+v", c.input, n.Coverage)
		}
	}
}

func TestListsAreExpandedAndWhatIsLeftIsListed(t *testing.T) {
	w := load(t, "", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}\n"+
		"- {apiVersion: acme.example/v1, kind: Widget, metadata: {name: w}}\n").clean()
	c := w.n.Coverage
	if c.Objects != 2 || c.Understood != 1 || len(c.Ignored) != 1 || c.Ignored[0].Kind != "Widget" || !c.Ignored[0].Matters {
		t.Errorf("%+v", c)
	}
}

func TestTheSameObjectTwice(t *testing.T) {
	pod := "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: %s}, spec: {containers: [{name: c, image: %s}]}}"
	for _, c := range []struct{ first, second, want string }{
		{fmt.Sprintf(pod, "n", "x"), fmt.Sprintf(pod, "n", "x"), "in.yaml:3:1: warning: Pod n/a is given twice with the same content"},
		{fmt.Sprintf(pod, "n", "x"), "{kind: Pod, spec: {containers: [{image: x, name: c}]}, metadata: {namespace: n, name: a, uid: q}, apiVersion: v1, status: {phase: Running}}", "warning: Pod n/a is given twice with the same content"},
		{fmt.Sprintf(pod, "n", "x"), fmt.Sprintf(pod, "n", "y"), "in.yaml:3:1: warning: Pod n/a is defined twice with different content: both are taken as deployed"},
		{fmt.Sprintf(pod, "default", "x"), "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {}}", "warning: Pod default/a is defined twice"},
		{fmt.Sprintf(pod, "n", "x"), fmt.Sprintf(pod, "m", "y"), ""},
		{strings.TrimSpace(policyYAML("n", "p", "{podSelector: {}}"))[4:] + "\n", strings.TrimSpace(policyYAML("n", "p", "{podSelector: {a: b}}"))[4:], "error: NetworkPolicy n/p is defined twice with different content"},
	} {
		w := load(t, "", c.first+"\n---\n"+c.second+"\n")
		if got := w.ds.Error(); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if c.want != "" && (len(w.ds) != 1 || len(w.ds[0].Notes) != 1 || w.ds[0].Notes[0].Pos.Line != 1) {
			t.Errorf("the other place is missing in %+v", w.ds)
		}
	}
}

func TestTwoVersionsOfAServiceBothPublish(t *testing.T) {
	service := "\n---\n{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {type: %s, selector: {app: web}, ports: [{port: 80}]}}\n"
	w := load(t, "", pods+fmt.Sprintf(service, "ClusterIP")+fmt.Sprintf(service, "LoadBalancer")).clean()
	if f := w.front("Service shop/s (LoadBalancer)"); f.Reach != network.ReachPublic {
		t.Errorf("the second version is %s", f.Reach)
	}
}

func TestNamespaces(t *testing.T) {
	w := load(t, "", namespaceYAML("a", "team: x")+deployment("b", "web", "")+
		"\n---\n{apiVersion: kubeflow.org/v1, kind: Profile, metadata: {name: alice}}\n").clean()
	got := map[string]string{}
	for _, s := range w.n.Scopes {
		got[s.Name] = s.Attributes["kubernetes.io/metadata.name"] + " " + s.Attributes["team"] + s.Attributes["app.kubernetes.io/part-of"]
	}
	want := map[string]string{"a": "a x", "b": "b ", "alice": "alice kubeflow-profile"}
	for name, labels := range want {
		if got[name] != labels {
			t.Errorf("namespace %s: %q, want %q", name, got[name], labels)
		}
	}
}

// The same input gives the same network, whatever the order of maps.
func TestImportIsDeterministic(t *testing.T) {
	input := pods + lb("", "", "") + policyYAML("shop", "p", `{podSelector: {matchLabels: {a: b, c: d}}, ingress: [{from: [{namespaceSelector: {matchLabels: {x: y, z: w}}}]}]}`)
	dump := func() string {
		w := load(t, "", strings.Replace(input, "name: web, namespace: shop}\nspec:\n  template", "name: web2, namespace: shop}\nspec:\n  template", 1))
		return fmt.Sprintf("%v %v %v %v", w.n.Scopes, w.n.Endpoints, w.n.Layers, w.ds)
	}
	first := dump()
	for range 5 {
		if dump() != first {
			t.Fatal("two imports differ")
		}
	}
}

// FuzzImport: no text makes the importer panic, what is claimed is counted,
// and everything that is wrong has a place.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{pods, lb("a: b", "", ""), ingressYAML("", ""), cnp("a", "Admin", 1, "{action: Pass, from: [{pods: {}}]}", "{action: Deny, to: [{nodes: {}}]}"),
		policyYAML("shop", "p", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8, except: [11.0.0.0/8]}}], ports: [{port: http, endPort: 3}]}]}`),
		"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Node, status: {addresses: [{type: InternalIP, address: x}]}}]}",
		"{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: x}, spec: {headGroupSpec: {template: {spec: {containers: [1]}}}}}",
		"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: x}, spec: {parentRefs: [{name: g}], rules: [{matches: [{}], backendRefs: [{name: s, port: 1}]}]}}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		im, err := New().NewImporter(target.Options{})
		if err != nil {
			t.Fatal(err)
		}
		claimed := 0
		limits := yamldoc.ManifestLimits
		limits.Bytes, limits.Nodes = 1<<16, 1<<12
		for v, d := range yamldoc.Documents("x.yaml", []byte(text), limits) {
			if d == nil && im.Add(target.Document{Value: v}) {
				claimed++
			}
		}
		var n network.Network
		for _, d := range im.Finish(&n) {
			if !d.Pos.IsValid() || d.Message == "" {
				t.Errorf("diagnostic without a place: %+v", d)
			}
		}
		if c := n.Coverage; c.Understood > c.Objects || c.Objects-c.Understood > len(c.Ignored) {
			t.Errorf("coverage %+v for %d claimed", c, claimed)
		}
		for _, fr := range n.Fronts {
			for _, r := range fr.Routes {
				if int(r.Backends) >= len(n.Predicates()) {
					t.Errorf("front %s: no predicate %d", fr.Name, r.Backends)
				}
			}
		}
	})
}
