package reach

import (
	"cmp"
	"fmt"
	"slices"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// Question asks whether Traffic passes from one party to another. Traffic
// should be a single connection or request: the answer is allow only if all
// of it passes.
type Question struct {
	From, To ClassID
	// FromName and ToName are what the answer calls the parties; empty for
	// the name of a member.
	FromName, ToName string
	Traffic          netset.Traffic
}

// Explain answers a question with the path that decided: the first path that
// lets the traffic through, otherwise the one that came furthest.
func (a *Analysis) Explain(q Question) finding.Witness {
	q.FromName, q.ToName = cmp.Or(q.FromName, a.ClassName(q.From)), cmp.Or(q.ToName, a.ClassName(q.To))
	w := finding.Witness{From: q.FromName, To: q.ToName, Traffic: q.Traffic.String()}
	paths := a.pathsBetween(a.part.classes[q.From].end, a.part.classes[q.To].end)
	for i, p := range paths {
		v, hops := a.walk(p, q)
		if i == 0 || v > w.Verdict {
			w.Verdict, w.Hops = v, hops
		}
	}
	if len(paths) == 0 {
		w.Hops = []finding.Hop{{At: "network", Verdict: finding.Denied, Why: "there is no path between these two"}}
	}
	if w.Verdict == finding.Denied {
		for _, as := range a.Net.Assumptions {
			if !as.Traffic.IsEmpty() && q.Traffic.SubsetOf(as.Traffic) {
				w.Verdict = finding.Unknown
				w.Hops = append(w.Hops, finding.Hop{At: "assumption " + as.ID, Verdict: finding.Unknown, Why: as.Says})
			}
		}
	}
	return w
}

// ClassName names a class by its first member.
func (a *Analysis) ClassName(c ClassID) string {
	cl := &a.part.classes[c]
	switch {
	case !cl.Outside():
		return a.representative(c).Name()
	case cl.Name != "":
		return cl.Name
	}
	ip, _ := cl.Addrs.Example()
	return ip.String()
}

// walk follows one path and collects a hop for each step that has a say.
func (a *Analysis) walk(p *network.Path, q Question) (finding.Verdict, []finding.Hop) {
	traffic := q.Traffic
	var inner []netset.Traffic
	var replaced []ClassID
	var hops []finding.Hop
	verdict := finding.Allowed
	if p.Uncertain != "" {
		verdict = finding.Unknown
		hops = append(hops, finding.Hop{At: p.Name, Verdict: verdict, Why: p.Uncertain})
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		switch s.Kind {
		case network.Wrap:
			inner = append(inner, traffic)
			traffic = s.Outer
			hops = append(hops, finding.Hop{At: s.Name, Verdict: finding.Allowed, Why: "from here on filters see " + traffic.String()})
		case network.Unwrap:
			if len(inner) > 0 {
				traffic, inner = inner[len(inner)-1], inner[:len(inner)-1]
			}
		case network.Replace:
			replaced = a.classesIn(s.Peer)
			hops = append(hops, finding.Hop{At: s.Name, Verdict: finding.Allowed, Why: "from here on filters see " + s.Peer.String() + " as the source"})
		case network.Filter:
			step, v := a.filterHops(s, q, traffic, replaced)
			hops = append(hops, step...)
			verdict = min(verdict, v)
			if verdict == finding.Denied {
				return verdict, hops
			}
		}
	}
	if len(hops) == 0 {
		hops = append(hops, finding.Hop{At: p.Name, Verdict: verdict, Why: "no layer filters this path"})
	}
	return verdict, hops
}

// filterHops asks one filter. Behind a replaced source that may be any of
// several it asks for each; where they differ the verdict is unknown.
func (a *Analysis) filterHops(s *network.Step, q Question, traffic netset.Traffic, replaced []ClassID) ([]finding.Hop, finding.Verdict) {
	if s.Direction != network.Ingress || replaced == nil {
		h := a.hop(s, q, traffic)
		return []finding.Hop{h}, h.Verdict
	}
	var hops []finding.Hop
	var verdict finding.Verdict
	for i, c := range replaced {
		one := q
		one.From = c
		h := a.hop(s, one, traffic)
		switch {
		case i == 0:
			verdict = h.Verdict
		case h.Verdict != verdict:
			verdict = finding.Unknown
		}
		hops = append(hops, h)
	}
	return hops, verdict
}

// hop says what one filter decides and by which rules.
func (a *Analysis) hop(s *network.Step, q Question, traffic netset.Traffic) finding.Hop {
	subject, peer, name := q.From, q.To, q.FromName
	if s.Direction == network.Ingress {
		subject, peer, name = q.To, q.From, q.ToName
	}
	side := a.sides[s.Layer][s.Direction]
	h := finding.Hop{At: fmt.Sprintf("%s of %s (%s)", s.Direction, name, side.layer.Name)}
	sub := side.subs[subject]
	if sub == nil {
		h.Verdict, h.Why = finding.Allowed, "it is outside the estate"
		return h
	}
	h.Verdict = verdictOn(a.cache.decisions.get(side.rows[subject].at(peer)), traffic)
	t := a.trace(sub, subject, peer, q.To, traffic)
	h.Rules = t.rules
	switch {
	case h.Verdict == finding.Allowed && len(t.rules) == 0:
		h.Why = "no rule selects it: everything passes"
		if t.selected {
			h.Why = "no rule decides: the default lets it pass"
		}
	case h.Verdict == finding.Allowed:
		h.Why = "allowed by " + names(t.rules)
	case h.Verdict == finding.Unknown:
		h.Why = t.doubt
		if h.Why == "" {
			h.Why = "the input does not decide it"
		}
	case t.denied:
		h.Why = "denied by " + names(t.rules)
	case len(t.rules) > 0:
		h.Why = "isolated by " + names(t.rules) + ", and no rule allows it"
		if t.nearest != "" {
			h.Why += "; the nearest is " + t.nearest
		}
	default:
		h.Why = "the default denies"
	}
	return h
}

func names(rules []finding.Rule) string {
	switch len(rules) {
	case 1:
		return rules[0].Name
	case 2:
		return rules[0].Name + " and " + rules[1].Name
	}
	return fmt.Sprintf("%s and %d more", rules[0].Name, len(rules)-1)
}

func verdictOn(d Decision, t netset.Traffic) finding.Verdict {
	switch {
	case t.SubsetOf(d.Allow):
		return finding.Allowed
	case t.Overlaps(d.May()):
		return finding.Unknown
	}
	return finding.Denied
}

// tracing is what decided one filter.
type tracing struct {
	rules    []finding.Rule
	denied   bool // by a rule, not by isolation
	selected bool // some rule or isolation selects the subject
	nearest  string
	doubt    string
}

// trace finds the rules that decide traffic between subject and peer.
func (a *Analysis) trace(sub *subject, subject, peer, dst ClassID, traffic netset.Traffic) tracing {
	var out tracing
	var endpoint *network.Endpoint
	if !a.part.classes[dst].Outside() {
		endpoint = a.representative(dst)
	}
	for ti := range sub.tables {
		th := &sub.tables[ti]
		out.selected = out.selected || len(th.hits) > 0 || th.isolated != network.No
		for _, h := range th.hits {
			m := min(h.match, a.peerMatch(h.rule, peer))
			overlaps := trafficOf(h.rule, endpoint).Overlaps(traffic)
			byUnseen := !overlaps && unseen(h.rule, endpoint).Overlaps(traffic)
			if byUnseen {
				m, overlaps = min(m, network.Maybe), true
			}
			if m == network.No || !overlaps {
				out.near(h.rule, m, overlaps)
				continue
			}
			cite := finding.Rule{Name: h.rule.Name, Pos: h.rule.Pos}
			if m == network.Maybe || m == network.Some && h.rule.Action != network.Allow {
				why := "whether it means this party is not in the input"
				if byUnseen {
					why = "the ports that the destination declares are not in the input"
				}
				out.doubt = cite.Name + " may apply: " + cmp.Or(h.rule.Uncertain, why)
			}
			if h.rule.Action == network.Pass {
				if m == network.Yes {
					break
				}
				continue
			}
			out.rules = append(out.rules, cite)
			out.denied = h.rule.Action == network.Deny
			if th.table.Ordered && m == network.Yes {
				return out
			}
		}
		if len(out.rules) > 0 && !th.table.Ordered {
			return out
		}
		if th.isolated != network.No {
			for _, iso := range th.table.Isolates {
				if a.Match(iso.Subject, subject) != network.No {
					out.rules = append(out.rules, finding.Rule{Name: iso.Name, Pos: iso.Pos})
				}
			}
			if th.isolated == network.Yes {
				return out
			}
			out.doubt = "whether it is isolated is not in the input"
		}
	}
	return out
}

// near remembers a rule that almost allowed: the same peer on other ports
// counts as nearer than the same ports for another peer.
func (t *tracing) near(r *network.Rule, m network.Match, overlaps bool) {
	if r.Action != network.Allow {
		return
	}
	switch {
	case m != network.No:
		t.nearest = fmt.Sprintf("%s (%s), which allows this peer only %s", r.Name, r.Pos.Short(), cmp.Or(r.Traffic.String(), "named ports"))
	case overlaps && t.nearest == "":
		t.nearest = fmt.Sprintf("%s (%s), which allows this port to other peers", r.Name, r.Pos.Short())
	}
}

func (a *Analysis) peerMatch(r *network.Rule, peer ClassID) network.Match {
	m := network.No
	for _, p := range r.Peers {
		m = max(m, a.Match(p, peer))
	}
	return m
}

// Match says whether a predicate means the parties of a class.
func (a *Analysis) Match(p network.PredicateID, c ClassID) network.Match {
	if a.Net.Predicates()[p].Everything {
		return network.Yes
	}
	hits := a.part.hits[p]
	i, found := slices.BinarySearchFunc(hits, c, func(h hit, c ClassID) int { return int(h.class) - int(c) })
	if !found {
		return network.No
	}
	return hits[i].match
}

// Rules returns the rules that allow part of what passes between two classes,
// in both directions, each once.
func (a *Analysis) Rules(src, dst ClassID) []finding.Rule {
	passes := a.Between(src, dst).May()
	var out []finding.Rule
	var endpoint *network.Endpoint
	if !a.part.classes[dst].Outside() {
		endpoint = a.representative(dst)
	}
	for _, p := range a.pathsBetween(a.part.classes[src].end, a.part.classes[dst].end) {
		for i := range p.Steps {
			s := &p.Steps[i]
			if s.Kind != network.Filter {
				continue
			}
			subject, peer := src, dst
			if s.Direction == network.Ingress {
				subject, peer = dst, src
			}
			sub := a.sides[s.Layer][s.Direction].subs[subject]
			if sub == nil {
				continue
			}
			for ti := range sub.tables {
				for _, h := range sub.tables[ti].hits {
					if h.rule.Action == network.Allow && a.peerMatch(h.rule, peer) != network.No &&
						trafficOf(h.rule, endpoint).Union(unseen(h.rule, endpoint)).Overlaps(passes) {
						out = append(out, finding.Rule{Name: h.rule.Name, Pos: h.rule.Pos})
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(x, y finding.Rule) int { return x.Pos.Compare(y.Pos) })
	return slices.CompactFunc(out, func(x, y finding.Rule) bool { return x.Pos == y.Pos })
}

// Means returns the classes that a predicate means, or may mean.
func (a *Analysis) Means(p network.PredicateID) []ClassID {
	if !a.part.ruled[p] {
		var out []ClassID
		for _, m := range a.members(p) {
			out = append(out, a.part.of[m.endpoint])
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	out := make([]ClassID, len(a.part.hits[p]))
	for i, h := range a.part.hits[p] {
		out[i] = h.class
	}
	return out
}

// Isolated says whether a table closes a class in a direction: whether what
// no rule allows is denied.
func (a *Analysis) Isolated(c ClassID, dir network.Direction) network.Match {
	m := network.No
	for _, sides := range a.sides {
		side := sides[dir]
		if side.layer.Default == network.Deny {
			m = network.Yes
		}
		if sub := side.subs[c]; sub != nil {
			for i := range sub.tables {
				m = max(m, sub.tables[i].isolated)
			}
		}
	}
	return m
}
