package app

import (
	"slices"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/verify"
	"bulkhead/target"
)

// bind finds the endpoints that the parties of an intent are.
func bind(in *policy.Intent, n *network.Network) verify.Bindings {
	b := verify.Bindings{Workloads: map[string][]int{}, Resolvers: map[string][]int{}, Maybe: map[string][]int{},
		ResolverAddrs: map[string]netset.Addrs{}}
	for i := range in.Policy.Workloads {
		w := &in.Policy.Workloads[i]
		for _, binding := range w.Bindings {
			t := targetOf(binding.Target.Value)
			if t == nil {
				continue
			}
			if p, ds := t.Bind(binding); !ds.HasErrors() {
				find(n, p, w.Name.Value, b.Workloads, b.Maybe)
			}
		}
	}
	for name := range policy.Resolvers {
		for _, t := range targets() {
			if p, ok := resolver(t, name); ok {
				find(n, p, name, b.Resolvers, b.Maybe)
				b.ResolverAddrs[name] = b.ResolverAddrs[name].Union(p.Addrs)
			}
		}
	}
	return b
}

func resolver(t target.Target, name string) (network.Predicate, bool) {
	if r, ok := t.(target.Describer); ok {
		return r.Resolver(name)
	}
	return network.Predicate{}, false
}

// find adds the endpoints that p means to sure, those it may mean to maybe.
func find(n *network.Network, p network.Predicate, name string, sure, maybe map[string][]int) {
	for i := range n.Endpoints {
		e := &n.Endpoints[i]
		var scope *network.Scope
		if e.Scope >= 0 && e.Scope < len(n.Scopes) {
			scope = &n.Scopes[e.Scope]
		}
		into := sure
		switch p.MatchEndpoint(e, scope) {
		case network.No:
			continue
		case network.Maybe:
			into = maybe
		}
		if !slices.Contains(into[name], i) {
			into[name] = append(into[name], i)
		}
	}
}
