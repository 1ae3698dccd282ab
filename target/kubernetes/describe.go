package kubernetes

import (
	"slices"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/policy"
)

// identifying are the labels that people choose to tell workloads apart, in
// the order in which a drafted binding tries them.
var identifying = []string{
	"app.kubernetes.io/name", "app", "k8s-app", "app.kubernetes.io/instance", "name",
	"app.kubernetes.io/component", "component", "ray.io/node-type", "ray.io/group", "role", "tier",
	"leaderworkerset.sigs.k8s.io/name", "training.kubeflow.org/job-name", "training.kubeflow.org/replica-type",
}

// volatile are labels that change with every rollout or instance.
var volatile = []string{
	"pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index",
	"controller-uid", "batch.kubernetes.io/controller-uid", "helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by",
}

// Describe returns a binding by namespace and the fewest labels that no other
// endpoint of the namespace has, or as few as possible have. A workload without
// labels is bound by its name, which no policy object can select by.
func (t Target) Describe(n *network.Network, endpoint int) (policy.Binding, bool) {
	e := &n.Endpoints[endpoint]
	namespace := "default"
	if e.Scope >= 0 {
		namespace = n.Scopes[e.Scope].Name
	}
	others := othersIn(n, endpoint)
	chosen, exact := fewestLabels(e, others)
	b := policy.Binding{Target: policy.Text{Value: t.Name()}}
	b.Fields = append(b.Fields, bindingField("namespace", namespace))
	if len(chosen) > 0 {
		labels := policy.Field{Key: policy.Text{Value: "labels"}}
		for _, k := range chosen {
			labels.Map = append(labels.Map, bindingField(k, e.Attributes[k]))
		}
		b.Fields = append(b.Fields, labels)
	}
	if len(chosen) == 0 && !exact {
		b.Fields = append(b.Fields, bindingField("workload", e.Attributes[WorkloadAttribute]))
	}
	return b, exact
}

func bindingField(key, value string) policy.Field {
	return policy.Field{Key: policy.Text{Value: key}, Text: policy.Text{Value: value}}
}

// othersIn returns the endpoints of other workloads, or of other parts of the
// same one, in the scope of an endpoint.
func othersIn(n *network.Network, endpoint int) []*network.Endpoint {
	e := &n.Endpoints[endpoint]
	var out []*network.Endpoint
	for i := range n.Endpoints {
		o := &n.Endpoints[i]
		if o.Kind == network.Workload && o.Scope == e.Scope && (o.Workload != e.Workload || o.Part != e.Part) {
			out = append(out, o)
		}
	}
	return out
}

// fewestLabels picks labels one by one, each time the first that excludes the
// most of the others that are left.
func fewestLabels(e *network.Endpoint, others []*network.Endpoint) (chosen []string, exact bool) {
	var keys []string
	for k, v := range e.Attributes {
		if !strings.HasPrefix(k, "\x00") && v != network.Unsettled && v != network.Unstated && !slices.Contains(volatile, k) {
			keys = append(keys, k)
		}
	}
	// A key that others have too, with other values, makes bindings that
	// exclude each other: no pod can be meant by two of them.
	shared := map[string]int{}
	for _, k := range keys {
		for _, o := range others {
			if v, ok := o.Attributes[k]; ok && v != e.Attributes[k] {
				shared[k]++
			}
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := shared[b] - shared[a]; d != 0 {
			return d
		}
		x, y := slices.Index(identifying, a), slices.Index(identifying, b)
		switch {
		case x >= 0 && y >= 0:
			return x - y
		case x >= 0:
			return -1
		case y >= 0:
			return 1
		}
		return strings.Compare(a, b)
	})
	if len(keys) == 0 {
		return nil, len(others) == 0
	}
	left := others
	for first := true; first || len(left) > 0; first = false {
		best, bestLeft := "", left
		for _, k := range keys {
			if rest := stillMeant(left, k, e.Attributes[k]); len(rest) < len(bestLeft) || best == "" && first {
				best, bestLeft = k, rest
			}
		}
		if best == "" {
			return chosen, false
		}
		chosen, left = append(chosen, best), bestLeft
	}
	return chosen, true
}

// stillMeant returns the endpoints that a label may mean.
func stillMeant(es []*network.Endpoint, key, value string) []*network.Endpoint {
	sel := network.Selector{{Key: key, Op: network.In, Values: []string{value}}}
	var out []*network.Endpoint
	for _, e := range es {
		if sel.Match(e.Attributes) != network.No {
			out = append(out, e)
		}
	}
	return out
}
