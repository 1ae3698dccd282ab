package reach

import (
	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// ruleHit is a rule of a subject together with how surely it means a peer.
type ruleHit struct {
	rule  *network.Rule
	match network.Match // of the peer, lowered to Maybe where the subject is
}

// flowing is the traffic on its way through the tables of a layer: must is what
// certainly is still undecided or was allowed before, may what possibly is
// undecided; the allow sets bound what was allowed.
type flowing struct {
	must, may           netset.Traffic
	allowMust, allowMay netset.Traffic
}

// outcome is what some rules do to all traffic, by action: what they must and
// may do it to. decided is what certainly meets one of them. What is allowed
// for one address family only is in must without being decided.
type outcome struct {
	must, may [3]netset.Traffic
	decided   netset.Traffic
}

// tableHits is the part of a subject's rules that one table contributes.
type tableHits struct {
	table    *network.Table
	hits     []ruleHit
	isolated network.Match
}

// evaluate runs all traffic through the tables of a layer. dst resolves named
// ports; it is nil when the destination is no endpoint.
func evaluate(tables []tableHits, def network.Action, dst *network.Endpoint) Decision {
	f := flowing{must: netset.All(), may: netset.All()}
	for i := range tables {
		t := &tables[i]
		if t.table.Ordered {
			f.ordered(t.hits, dst)
		} else {
			f.apply(merge(t.hits, dst))
		}
		switch t.isolated {
		case network.Yes:
			f.must, f.may = netset.Traffic{}, netset.Traffic{}
		case network.Maybe, network.Some:
			f.must = netset.Traffic{}
		}
	}
	if def == network.Allow {
		f.allowMust = f.allowMust.Union(f.must)
		f.allowMay = f.allowMay.Union(f.may)
	}
	return bounds(f.allowMust, f.allowMay.Union(f.allowMust))
}

// ordered runs the rules of an ordered table, hits sorted by priority, then
// group, then their order inside the group. Passed traffic rejoins what no
// rule decided: both go on to the next table.
func (f *flowing) ordered(hits []ruleHit, dst *network.Endpoint) {
	var passMust, passMay netset.Traffic
	for len(hits) > 0 {
		n := 1
		for n < len(hits) && hits[n].rule.Priority == hits[0].rule.Priority {
			n++
		}
		pm, py := f.apply(tie(hits[:n], dst))
		passMust, passMay = passMust.Union(pm), passMay.Union(py)
		hits = hits[n:]
	}
	f.must, f.may = f.must.Union(passMust), f.may.Union(passMay)
}

// tie is the outcome of the groups of one priority, which have no order: where
// they disagree, neither action is certain.
func tie(hits []ruleHit, dst *network.Endpoint) outcome {
	var all outcome
	groups := 0
	for len(hits) > 0 {
		n := 1
		for n < len(hits) && hits[n].rule.Group == hits[0].rule.Group {
			n++
		}
		g := sequence(hits[:n], dst)
		hits = hits[n:]
		if groups++; groups == 1 {
			all = g
			continue
		}
		for a := range all.must {
			all.must[a] = all.must[a].Union(g.must[a])
			all.may[a] = all.may[a].Union(g.may[a])
		}
		all.decided = all.decided.Union(g.decided)
	}
	if groups > 1 {
		allow, deny, pass := all.may[network.Allow], all.may[network.Deny], all.may[network.Pass]
		all.must[network.Allow] = all.must[network.Allow].Subtract(deny).Subtract(pass)
		all.must[network.Deny] = all.must[network.Deny].Subtract(allow).Subtract(pass)
		// What is either allowed here or passed on is sure to pass if the next
		// table allows it: it goes on as passed.
		all.must[network.Pass] = all.must[network.Pass].Subtract(deny)
	}
	return all
}

// sequence is the outcome of rules asked one after the other.
func sequence(hits []ruleHit, dst *network.Endpoint) outcome {
	var out outcome
	may := netset.All()
	// must[a] is what reaches the rule without having met an uncertain rule
	// of another action than a: had it met one of a, the result is the same.
	must := [3]netset.Traffic{netset.All(), netset.All(), netset.All()}
	for _, h := range resolved(hits, dst) {
		t := h.traffic
		a := h.rule.Action
		out.may[a] = out.may[a].Union(may.Intersect(t))
		certain := h.match == network.Yes
		if certain || h.match == network.Some && a == network.Allow {
			out.must[a] = out.must[a].Union(must[a].Intersect(t))
		}
		for b := range must {
			if certain || b != int(a) {
				must[b] = must[b].Subtract(t)
			}
		}
		if certain {
			out.decided = out.decided.Union(t)
			may = may.Subtract(t)
		}
		if may.IsEmpty() {
			break
		}
	}
	return out
}

// merge is the outcome of the rules of an unordered table, all of which allow.
func merge(hits []ruleHit, dst *network.Endpoint) outcome {
	var out outcome
	for _, h := range resolved(hits, dst) {
		t := h.traffic
		if h.match == network.Yes {
			out.decided = out.decided.Union(t)
		}
		if h.match >= network.Some {
			out.must[network.Allow] = out.must[network.Allow].Union(t)
		}
		out.may[network.Allow] = out.may[network.Allow].Union(t)
	}
	return out
}

// apply lets what is undecided meet an outcome and returns what passes to the
// next table.
func (f *flowing) apply(o outcome) (passMust, passMay netset.Traffic) {
	f.allowMust = f.allowMust.Union(f.must.Intersect(o.must[network.Allow]))
	f.allowMay = f.allowMay.Union(f.may.Intersect(o.may[network.Allow]))
	passMust = f.must.Intersect(o.must[network.Pass])
	passMay = f.may.Intersect(o.may[network.Pass])
	// What an uncertain rule may allow stays: if the rest allows it too, it is
	// sure to pass. What one may deny or pass on is sure of nothing.
	f.must = f.must.Subtract(o.decided).Subtract(o.may[network.Deny]).Subtract(o.may[network.Pass])
	f.may = f.may.Subtract(o.decided)
	return passMust, passMay
}

// resolvedHit is a hit with the traffic that it stands for at a destination.
type resolvedHit struct {
	ruleHit
	traffic netset.Traffic
}

// resolved gives the named ports of hits the numbers of dst. A name at a
// destination whose ports are not all seen may be any number: the rule is
// followed by an uncertain one for these.
func resolved(hits []ruleHit, dst *network.Endpoint) []resolvedHit {
	out := make([]resolvedHit, 0, len(hits))
	for _, h := range hits {
		out = append(out, resolvedHit{h, trafficOf(h.rule, dst)})
		if t := unseen(h.rule, dst); !t.IsEmpty() {
			h.match = min(h.match, network.Maybe)
			out = append(out, resolvedHit{h, t})
		}
	}
	return out
}

// unseen is what a rule may match towards dst by ports that are not seen.
func unseen(r *network.Rule, dst *network.Endpoint) netset.Traffic {
	var t netset.Traffic
	if dst == nil || !dst.PortsUnseen {
		return t
	}
	for _, n := range r.Named {
		t = t.Union(netset.Whole(n.Protocol))
	}
	return t
}

// trafficOf is what a rule matches towards dst.
func trafficOf(r *network.Rule, dst *network.Endpoint) netset.Traffic {
	if len(r.Named) == 0 || dst == nil {
		return r.Traffic
	}
	return r.Traffic.Union(dst.Resolve(r.Named))
}
