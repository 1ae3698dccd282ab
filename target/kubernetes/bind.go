package kubernetes

import (
	"slices"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/target/kube"
)

// bindFields are the fields of a binding. They must all hold.
//
//	namespace       the namespace; `default` if it is left out
//	labels          labels of the pods
//	serviceAccount  the name of the service account
//	workload        `Kind/name` of the topmost owner, such as Deployment/web
//	kind, name      the same in two fields, or one of them
var bindFields = []string{"namespace", "labels", "serviceAccount", "workload", "kind", "name"}

// Bind says which endpoints a binding means: pods with an address of their
// own and on the host's network alike.
func (Target) Bind(b policy.Binding) (network.Predicate, source.Diagnostics) {
	var ds source.Diagnostics
	p := network.Predicate{Endpoints: true, Kinds: podEnds, ScopeName: "default"}
	var kind, name policy.Text
	for _, f := range b.Fields {
		if !slices.Contains(bindFields, f.Key.Value) {
			d := ds.Errorf("unknown-field", f.Key.Pos, "a kubernetes binding has no field %q", f.Key.Value)
			if near := source.Nearest(f.Key.Value, bindFields); near != "" {
				d.WithFix("did you mean %q?", near)
			} else {
				d.WithFix("the fields are %s", strings.Join(bindFields, ", "))
			}
			continue
		}
		if f.Key.Value == "labels" {
			p.Attributes = append(p.Attributes, bindLabels(f, &ds)...)
			continue
		}
		if f.Text.Value == "" || len(f.Map) > 0 || len(f.List) > 0 {
			ds.Errorf("wrong-type", f.Key.Pos, "%s of a kubernetes binding must be a word", f.Key.Value)
			continue
		}
		switch f.Key.Value {
		case "namespace":
			p.ScopeName = f.Text.Value
		case "serviceAccount":
			p.Attributes = append(p.Attributes, equals(ServiceAccountAttribute, f.Text.Value))
		case "workload":
			if k, n, ok := strings.Cut(f.Text.Value, "/"); !ok || k == "" || n == "" {
				ds.Errorf("workload", f.Text.Pos, "workload %q is not of the form Kind/name", f.Text.Value).
					WithFix("write the topmost owner, such as Deployment/web")
				continue
			}
			p.Attributes = append(p.Attributes, equals(WorkloadAttribute, f.Text.Value))
		case "kind":
			kind = f.Text
		case "name":
			name = f.Text
		}
	}
	bindOwner(kind, name, &p, &ds)
	if len(p.Attributes) == 0 && !ds.HasErrors() {
		pos := b.Target.Pos
		ds.Warnf("whole-namespace", pos, "the binding means every pod of namespace %s", p.ScopeName).
			WithFix("add labels, serviceAccount or workload")
	}
	return p, ds
}

// bindOwner adds the topmost owner that kind and name say together.
func bindOwner(kind, name policy.Text, p *network.Predicate, ds *source.Diagnostics) {
	switch {
	case kind.Value == "" && name.Value == "":
	case kind.Value == "":
		ds.Errorf("missing-field", name.Pos, "a kubernetes binding with a name needs its kind").WithFix("add kind, such as Deployment")
	case name.Value == "":
		ds.Errorf("missing-field", kind.Pos, "a kubernetes binding with a kind needs its name").WithFix("add name")
	default:
		p.Attributes = append(p.Attributes, equals(WorkloadAttribute, kind.Value+"/"+name.Value))
	}
}

func bindLabels(f policy.Field, ds *source.Diagnostics) network.Selector {
	var s network.Selector
	if len(f.Map) == 0 {
		ds.Errorf("wrong-type", f.Key.Pos, "labels of a kubernetes binding must be a map with at least one label").
			WithFix("write labels: {app: web}")
	}
	for _, l := range f.Map {
		if !kube.ValidLabelValue(l.Text.Value) {
			ds.Errorf("label-value", l.Text.Pos, "%q cannot be the value of a label, so nothing matches", l.Text.Value)
			continue
		}
		s = append(s, equals(l.Key.Value, l.Text.Value))
	}
	return s
}

func equals(key, value string) network.Requirement {
	return network.Requirement{Key: key, Op: network.In, Values: []string{value}}
}
