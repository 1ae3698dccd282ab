package reach

import (
	"slices"

	"bulkhead/core/network"
)

// member is an endpoint that a predicate means, and how surely.
type member struct {
	endpoint int32
	match    network.Match
}

// memberIndex finds endpoints by what most selectors ask for: a scope and one
// attribute. It is made when a front is first looked at.
type memberIndex struct {
	scopes map[string][]int // by name
	byAttr map[memberKey][]int32
	all    map[int][]int32 // by scope
	found  map[network.PredicateID][]member
}

type memberKey struct {
	scope int
	posting
}

func newMemberIndex(n *network.Network) *memberIndex {
	x := &memberIndex{scopes: map[string][]int{}, byAttr: map[memberKey][]int32{}, all: map[int][]int32{}, found: map[network.PredicateID][]member{}}
	for i := range n.Scopes {
		x.scopes[n.Scopes[i].Name] = append(x.scopes[n.Scopes[i].Name], i)
	}
	keys := map[string]bool{}
	for fi := range n.Fronts {
		for ri := range n.Fronts[fi].Routes {
			for _, r := range n.Predicates()[n.Fronts[fi].Routes[ri].Backends].Attributes {
				keys[r.Key] = true
			}
		}
	}
	for i := range n.Endpoints {
		e := &n.Endpoints[i]
		x.all[e.Scope] = append(x.all[e.Scope], int32(i))
		for k, v := range e.Attributes {
			if keys[k] {
				mk := memberKey{e.Scope, posting{k, v}}
				x.byAttr[mk] = append(x.byAttr[mk], int32(i))
			}
		}
	}
	return x
}

// members returns the endpoints that a predicate means, ascending. Unlike the
// hits of the partition it serves predicates that no rule uses.
func (a *Analysis) members(p network.PredicateID) []member {
	if a.index == nil {
		a.index = newMemberIndex(a.Net)
	}
	if ms, ok := a.index.found[p]; ok {
		return ms
	}
	pred := &a.Net.Predicates()[p]
	var out []member
	a.eachMember(pred, func(i int32) {
		e := &a.Net.Endpoints[i]
		var scope *network.Scope
		if e.Scope >= 0 && e.Scope < len(a.Net.Scopes) {
			scope = &a.Net.Scopes[e.Scope]
		}
		if m := pred.MatchEndpoint(e, scope); m != network.No {
			out = append(out, member{i, m})
		}
	})
	slices.SortFunc(out, func(x, y member) int { return int(x.endpoint) - int(y.endpoint) })
	a.index.found[p] = out
	return out
}

// eachMember calls f for every endpoint that pred could mean, each once.
func (a *Analysis) eachMember(pred *network.Predicate, f func(int32)) {
	byName := pred.ScopeName != "" && !pred.Everything && pred.Identities.IsEmpty() && pred.Addrs.IsEmpty()
	if !byName {
		for i := range a.Net.Endpoints {
			f(int32(i))
		}
		return
	}
	for _, s := range a.index.scopes[pred.ScopeName] {
		i := slices.IndexFunc(pred.Attributes, func(r network.Requirement) bool { return r.Op == network.In })
		if i < 0 {
			for _, e := range a.index.all[s] {
				f(e)
			}
			continue
		}
		r := &pred.Attributes[i]
		values := append(slices.Clone(r.Values), network.Unsettled, network.Unstated)
		slices.Sort(values)
		for _, v := range slices.Compact(values) {
			for _, e := range a.index.byAttr[memberKey{s, posting{r.Key, v}}] {
				f(e)
			}
		}
	}
}
