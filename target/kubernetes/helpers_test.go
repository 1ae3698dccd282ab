package kubernetes

import (
	"net/netip"
	"strings"
	"testing"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
)

// world is an imported text with the questions that tests ask of it.
type world struct {
	t  testing.TB
	n  *network.Network
	ds source.Diagnostics
	a  *reach.Analysis
}

// load imports a text; profile may be empty.
func load(t testing.TB, profile, text string) *world {
	t.Helper()
	im, err := New().NewImporter(target.Options{Profile: profile})
	if err != nil {
		t.Fatal(err)
	}
	for v, d := range yamldoc.Documents("in.yaml", []byte(text), yamldoc.ManifestLimits) {
		if d != nil {
			t.Fatal(d)
		}
		im.Add(target.Document{Value: v})
	}
	w := &world{t: t, n: &network.Network{}}
	w.ds = im.Finish(w.n)
	return w
}

// clean fails the test when the input has errors.
func (w *world) clean() *world {
	w.t.Helper()
	if w.ds.HasErrors() {
		w.t.Fatal(w.ds)
	}
	return w
}

func (w *world) analysis() *reach.Analysis {
	if w.a == nil {
		w.a = reach.New(w.n)
	}
	return w.a
}

// endpoint returns the index of the endpoint that name ends.
func (w *world) endpoint(name string) int {
	w.t.Helper()
	got := w.analysis().Find(name)
	if len(got) != 1 {
		var all []string
		for i := range w.n.Endpoints {
			all = append(all, w.n.Endpoints[i].Name())
		}
		w.t.Fatalf("%d endpoints are named %q, in %s", len(got), name, strings.Join(all, " "))
	}
	return got[0]
}

// between returns allow, deny or unknown for TCP port from one workload to
// another, or an address or a name.
func (w *world) between(src, dst string, p netset.Protocol, port uint16) string {
	w.t.Helper()
	d := w.analysis().Between(w.class(src), w.class(dst))
	switch {
	case d.Allow.Has(p, port):
		return "allow"
	case d.Unknown.Has(p, port):
		return "unknown"
	}
	return "deny"
}

func (w *world) class(party string) reach.ClassID {
	w.t.Helper()
	if a, err := netip.ParseAddr(party); err == nil {
		return w.analysis().ClassOfAddr(a)
	}
	if name, ok := strings.CutPrefix(party, "name:"); ok {
		return w.analysis().ClassOfName(name)
	}
	return w.analysis().ClassOf(w.endpoint(party))
}

// front returns the front of the name.
func (w *world) front(name string) *network.Front {
	w.t.Helper()
	var all []string
	for i := range w.n.Fronts {
		if w.n.Fronts[i].Name == name {
			return &w.n.Fronts[i]
		}
		all = append(all, w.n.Fronts[i].Name)
	}
	w.t.Fatalf("no front %q, only %s", name, strings.Join(all, "; "))
	return nil
}

// deployment returns a Deployment whose pods have the label app: name and one
// named port.
func deployment(namespace, name, labels string) string {
	return `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ` + name + `, namespace: ` + namespace + `}
spec:
  template:
    metadata: {labels: {app: ` + name + labels + `}}
    spec:
      containers:
      - {name: main, image: example/` + name + `, ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 5353, protocol: UDP}]}
`
}

func namespaceYAML(name, labels string) string {
	return "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: " + name + ", labels: {" + labels + "}}}\n"
}

// policyYAML returns a NetworkPolicy in flow style.
func policyYAML(namespace, name, spec string) string {
	return "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n"
}
