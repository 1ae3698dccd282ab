package kubernetes

import (
	"strings"
	"testing"

	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/source"
)

func field(key, value string) policy.Field {
	return policy.Field{Key: policy.Text{Value: key, Pos: source.Pos{File: "p.yaml", Line: 1, Col: 1}}, Text: policy.Text{Value: value}}
}

func TestBindFindsEndpoints(t *testing.T) {
	w := load(t, "", pods+strings.Replace(deployment("shop", "agent", ""), "containers:", "hostNetwork: true\n      serviceAccountName: root\n      containers:", 1)).clean()
	labels := policy.Field{Key: policy.Text{Value: "labels"}, Map: []policy.Field{field("app", "web")}}
	for _, c := range []struct {
		name   string
		fields []policy.Field
		want   string
	}{
		{"labels", []policy.Field{field("namespace", "shop"), labels}, "shop/Deployment/web"},
		{"workload", []policy.Field{field("namespace", "shop"), field("workload", "Deployment/db")}, "shop/Deployment/db"},
		{"kind and name", []policy.Field{field("namespace", "other"), field("kind", "Deployment"), field("name", "guest")}, "other/Deployment/guest"},
		{"service account, on the host's network", []policy.Field{field("namespace", "shop"), field("serviceAccount", "root")}, "shop/Deployment/agent"},
		{"all must hold", []policy.Field{field("namespace", "shop"), labels, field("serviceAccount", "root")}, ""},
		{"no namespace is default", []policy.Field{labels}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ds := Target{}.Bind(policy.Binding{Fields: c.fields})
			if ds.HasErrors() {
				t.Fatal(ds)
			}
			var got []string
			for i := range w.n.Endpoints {
				e := &w.n.Endpoints[i]
				var sc *network.Scope
				if e.Scope >= 0 {
					sc = &w.n.Scopes[e.Scope]
				}
				if p.MatchEndpoint(e, sc) == network.Yes {
					got = append(got, e.Workload)
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %q", got, c.want)
			}
		})
	}
}

func TestBindRefuses(t *testing.T) {
	for _, c := range []struct {
		f    policy.Field
		want string
	}{
		{field("lables", "x"), `a kubernetes binding has no field "lables"`},
		{field("workload", "web"), `workload "web" is not of the form Kind/name`},
		{field("name", "web"), "a kubernetes binding with a name needs its kind"},
		{field("kind", "Deployment"), "a kubernetes binding with a kind needs its name"},
		{field("labels", "x"), "labels of a kubernetes binding must be a map"},
		{policy.Field{Key: policy.Text{Value: "labels"}, Map: []policy.Field{field("a", "not valid!")}}, "cannot be the value of a label"},
		{policy.Field{Key: policy.Text{Value: "namespace"}, List: []policy.Text{{Value: "a"}}}, "namespace of a kubernetes binding must be a word"},
	} {
		_, ds := Target{}.Bind(policy.Binding{Fields: []policy.Field{c.f}})
		if !ds.HasErrors() || !strings.Contains(ds.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.f.Key.Value, ds, c.want)
		}
	}
}
