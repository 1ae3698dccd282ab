package reach

import (
	"cmp"
	"encoding/binary"
	"slices"

	"bulkhead/core/network"
)

// row is what one layer lets pass between its subjects and every class, in one
// direction: def for all classes but those in entries.
type row struct {
	def     decisionID
	entries []entry // ascending by class, none equal to def
}

type entry struct {
	class ClassID
	id    decisionID
}

func (r *row) at(c ClassID) decisionID {
	i, found := slices.BinarySearchFunc(r.entries, c, func(e entry, c ClassID) int { return cmp.Compare(e.class, c) })
	if found {
		return r.entries[i].id
	}
	return r.def
}

// subject is what one layer and direction say of a class: the rules and
// isolations that select it.
type subject struct {
	tables []tableHits
	key    string // equal for classes with the same rules, so that they share a row
}

// side is a layer in one direction.
type side struct {
	layer *network.Layer
	dir   network.Direction
	rows  []*row // by class; nil for classes outside
	subs  []*subject
}

// rowBuilder makes the rows of a side.
type rowBuilder struct {
	a    *Analysis
	side *side
	// Per row: state[c] is one more than the index of what class c matched so
	// far, zero for classes that follow base; touched lists the others.
	state   []int32
	touched []ClassID
}

// matchState is a list of matched rules, as a chain.
type matchState struct {
	parent int32
	table  int32
	rule   *network.Rule
	match  network.Match
}

func (a *Analysis) buildSide(layer *network.Layer, dir network.Direction) *side {
	s := &side{layer: layer, dir: dir,
		rows: make([]*row, len(a.part.classes)),
		subs: make([]*subject, len(a.part.classes))}
	a.collectSubjects(s)
	b := &rowBuilder{a: a, side: s, state: make([]int32, len(a.part.classes))}
	byKey := map[string]*row{}
	for c, sub := range s.subs {
		if sub == nil {
			continue
		}
		key := sub.key
		if dir == network.Ingress && sub.named() {
			key += "|" + a.part.classes[c].ports
		}
		r := byKey[key]
		if r == nil {
			if r = a.cache.row(layer.Name, dir, key); r == nil {
				r = b.build(ClassID(c), sub)
			}
			a.cache.keep(layer.Name, dir, key, r)
			byKey[key] = r
		}
		s.rows[c] = r
	}
	return s
}

// collectSubjects finds for each endpoint class the rules that select it.
func (a *Analysis) collectSubjects(s *side) {
	tables := s.layer.Tables[s.dir]
	n := int(a.part.outside)
	hits := make([][]tableHits, n)
	at := func(c ClassID, t int) *tableHits {
		hs := hits[c]
		if len(hs) == 0 || hs[len(hs)-1].table != &tables[t] {
			hits[c] = append(hs, tableHits{table: &tables[t]})
		}
		return &hits[c][len(hits[c])-1]
	}
	for t := range tables {
		for _, iso := range tables[t].Isolates {
			for _, h := range a.part.hits[iso.Subject] {
				if int(h.class) < n {
					th := at(h.class, t)
					th.isolated = max(th.isolated, h.match)
				}
			}
		}
		order := ruleOrder(&tables[t])
		for _, ri := range order {
			r := &tables[t].Rules[ri]
			for _, h := range a.part.hits[r.Subject] {
				if int(h.class) < n {
					th := at(h.class, t)
					th.hits = append(th.hits, ruleHit{r, certainty(r, h.match)})
				}
			}
		}
	}
	var buf []byte
	for c := range n {
		buf = append(buf[:0], byte(s.layer.Default))
		for i := range hits[c] {
			th := &hits[c][i]
			ordered := byte(0)
			if th.table.Ordered {
				ordered = 0x80
			}
			buf = append(buf, byte(th.isolated)|ordered)
			buf = binary.AppendUvarint(buf, uint64(len(th.hits)))
			for _, h := range th.hits {
				buf = append(buf, byte(h.match))
				buf = binary.AppendUvarint(buf, uint64(a.ruleID(h.rule)))
			}
		}
		// Classes with equal rules share a row by the key, and never the rules
		// themselves: a witness cites the rule that selects its own subject.
		s.subs[c] = &subject{tables: hits[c], key: string(buf)}
	}
}

// ruleOrder returns the order in which the rules of a table are asked.
func ruleOrder(t *network.Table) []int {
	order := make([]int, len(t.Rules))
	for i := range order {
		order[i] = i
	}
	if t.Ordered {
		slices.SortStableFunc(order, func(i, j int) int {
			a, b := &t.Rules[i], &t.Rules[j]
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Group, b.Group))
		})
	}
	return order
}

// certainty lowers a match of a rule that may have no effect.
func certainty(r *network.Rule, m network.Match) network.Match {
	if r.Uncertain != "" {
		return min(m, network.Maybe)
	}
	return m
}

func (s *subject) named() bool {
	for i := range s.tables {
		for _, h := range s.tables[i].hits {
			if len(h.rule.Named) > 0 {
				return true
			}
		}
	}
	return false
}

// build evaluates the rules of sub against every class.
func (b *rowBuilder) build(c ClassID, sub *subject) *row {
	a := b.a
	states := []matchState{{parent: -1}} // the first is: nothing matched
	next := map[matchState]int32{}
	step := func(from int32, table int, r *network.Rule, m network.Match) int32 {
		st := matchState{from, int32(table), r, m}
		id, ok := next[st]
		if !ok {
			id = int32(len(states))
			states = append(states, st)
			next[st] = id
		}
		return id
	}
	// Rules that mean everything are applied to base and to the classes that
	// already left it, so that they cost nothing for the classes that follow it.
	base := int32(0)
	for ti := range sub.tables {
		for _, h := range sub.tables[ti].hits {
			peers, everyone := a.peers(h.rule)
			if everyone {
				for _, t := range b.touched {
					b.state[t] = step(b.state[t]-1, ti, h.rule, h.match) + 1
				}
				base = step(base, ti, h.rule, h.match)
				continue
			}
			for _, p := range peers {
				if b.state[p.class] == 0 {
					b.touched = append(b.touched, p.class)
					b.state[p.class] = base + 1
				}
			}
			for _, p := range peers {
				b.state[p.class] = step(b.state[p.class]-1, ti, h.rule, min(h.match, p.match)) + 1
			}
		}
	}
	return b.finish(c, sub, states, base)
}

// finish evaluates each distinct state once and makes the row of them.
func (b *rowBuilder) finish(c ClassID, sub *subject, states []matchState, base int32) *row {
	a := b.a
	named := sub.named()
	type evalKey struct {
		state int32
		ports string
	}
	done := map[evalKey]decisionID{}
	eval := func(state int32, peer ClassID) decisionID {
		var dst *network.Endpoint
		key := evalKey{state: state}
		if named {
			at := c
			if b.side.dir == network.Egress {
				at = peer
			}
			if at >= 0 && !a.part.classes[at].Outside() {
				key.ports = a.part.classes[at].ports
				dst = a.representative(at)
			}
		}
		id, ok := done[key]
		if !ok {
			id = a.cache.decisions.id(evaluate(unroll(sub, states, state), b.side.layer.Default, dst))
			done[key] = id
		}
		return id
	}
	r := &row{def: eval(base, -1)}
	slices.Sort(b.touched)
	for _, t := range b.touched {
		if id := eval(b.state[t]-1, t); id != r.def {
			r.entries = append(r.entries, entry{t, id})
		}
		b.state[t] = 0
	}
	if named && b.side.dir == network.Egress && a.baseNamed(states, base) {
		b.namedDefaults(r, base, eval)
	}
	b.touched = b.touched[:0]
	r.entries = slices.Clip(r.entries)
	return r
}

// baseNamed reports whether a rule that means everything uses port names: then
// the default differs by the port names of the peer.
func (a *Analysis) baseNamed(states []matchState, base int32) bool {
	for st := base; st > 0; st = states[st].parent {
		if len(states[st].rule.Named) > 0 {
			return true
		}
	}
	return false
}

// namedDefaults adds entries for the classes that follow base but number a
// named port differently than the default, which numbers none.
func (b *rowBuilder) namedDefaults(r *row, base int32, eval func(int32, ClassID) decisionID) {
	touched := make(map[ClassID]bool, len(b.touched))
	for _, t := range b.touched {
		touched[t] = true
	}
	for c := range b.a.part.outside {
		if touched[c] || b.a.part.classes[c].ports == "" {
			continue
		}
		if id := eval(base, c); id != r.def {
			r.entries = append(r.entries, entry{c, id})
		}
	}
	slices.SortFunc(r.entries, func(x, y entry) int { return cmp.Compare(x.class, y.class) })
}

// unroll turns a chain of matches into the hits of each table of a subject.
func unroll(sub *subject, states []matchState, state int32) []tableHits {
	out := make([]tableHits, len(sub.tables))
	for i := range sub.tables {
		out[i] = tableHits{table: sub.tables[i].table, isolated: sub.tables[i].isolated}
	}
	for ; state > 0; state = states[state].parent {
		st := &states[state]
		out[st.table].hits = append(out[st.table].hits, ruleHit{st.rule, st.match})
	}
	for i := range out {
		slices.Reverse(out[i].hits)
	}
	return out
}

// peers returns the classes that a rule's peers mean, each once, and whether
// they mean every party.
func (a *Analysis) peers(r *network.Rule) (hits []hit, everyone bool) {
	preds := a.Net.Predicates()
	for _, id := range r.Peers {
		if preds[id].Everything {
			return nil, true
		}
	}
	if len(r.Peers) == 1 {
		return a.part.hits[r.Peers[0]], false
	}
	for _, id := range r.Peers {
		hits = append(hits, a.part.hits[id]...)
	}
	slices.SortFunc(hits, func(x, y hit) int {
		return cmp.Or(cmp.Compare(x.class, y.class), cmp.Compare(y.match, x.match))
	})
	return slices.CompactFunc(hits, func(x, y hit) bool { return x.class == y.class }), false
}

// representative returns an endpoint of a class of endpoints.
func (a *Analysis) representative(c ClassID) *network.Endpoint {
	return &a.Net.Endpoints[a.part.classes[c].Endpoints[0]]
}

// hitsID returns a number that is equal for predicates that mean the same
// classes. What a predicate says is not enough: attributes may have changed.
func (a *Analysis) hitsID(p network.PredicateID) uint32 {
	if id := a.hitIDs[p]; id != 0 {
		return id - 1
	}
	var b []byte
	for _, h := range a.part.hits[p] {
		b = binary.AppendUvarint(b, uint64(h.class))
		b = append(b, byte(h.match))
	}
	id := intern(a.cache.hits, b)
	a.hitIDs[p] = id + 1
	return id
}

func intern(ids map[string]uint32, key []byte) uint32 {
	id, ok := ids[string(key)]
	if !ok {
		id = uint32(len(ids))
		ids[string(key)] = id
	}
	return id
}

// ruleID returns a number that is equal for rules of equal effect, also across
// the analyses that share a cache.
func (a *Analysis) ruleID(r *network.Rule) uint32 {
	if id, ok := a.ruleIDs[r]; ok {
		return id
	}
	preds := a.Net.Predicates()
	var b []byte
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = append(b, byte(r.Action))
	if r.Uncertain != "" {
		b[0] |= 0x80
	}
	b = binary.AppendVarint(b, int64(r.Priority))
	b = binary.AppendVarint(b, int64(r.Group))
	text(r.Traffic.Key())
	b = binary.AppendUvarint(b, uint64(len(r.Named)))
	for _, n := range r.Named {
		b = append(b, byte(n.Protocol))
		text(n.Name)
	}
	for _, p := range r.Peers {
		if preds[p].Everything {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, 1+uint64(a.hitsID(p)))
	}
	id := intern(a.cache.rules, b)
	a.ruleIDs[r] = id
	return id
}
