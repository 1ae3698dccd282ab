package reach

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// ClassID names a class of an [Analysis]. Classes of endpoints come first,
// then those of outside addresses, then those of outside names.
type ClassID int32

// Class is a set of parties that no rule tells apart. Exactly one of its
// parts is set.
type Class struct {
	// Endpoints are indexes into Network.Endpoints, ascending.
	Endpoints []int32
	// Addrs are addresses outside.
	Addrs netset.Addrs
	// Name is a domain name outside; `*.x` stands for every name below x.
	Name string

	end   network.End
	ports string // key of the port names that rules use
}

// Outside reports whether the class is of addresses or names.
func (c *Class) Outside() bool { return len(c.Endpoints) == 0 }

// hit is a class that a predicate means, and how surely.
type hit struct {
	class ClassID
	match network.Match
}

// partition is the result of splitting parties into classes.
type partition struct {
	classes []Class
	of      []ClassID // by endpoint
	outside ClassID   // first class of addresses
	names   ClassID   // first class of names
	hits    [][]hit   // by predicate that rules use, ascending by class
	ruled   []bool    // by predicate
}

// partitioner splits the parties of a network.
type partitioner struct {
	net     *network.Network
	preds   []network.Predicate
	ruled   []bool // by predicate: whether a rule uses it
	scopes  []scopeView
	atoms   []netset.Addrs
	atomIn  [][]int // predicates that contain the atom
	addrs   map[string]*addrMatch
	named   map[network.NamedPort]bool
	keys    map[string]bool
	profile []profile
	of      []int32 // endpoint → profile
}

// scopeView is a scope with the profiles of its endpoints.
type scopeView struct {
	scope    *network.Scope
	profiles []int32
}

// profile is a set of endpoints with equal values for everything that any
// predicate looks at.
type profile struct {
	endpoint int32 // a representative
	scope    int   // index into scopes; the last one is for those without
	addrs    *addrMatch
	ports    string
}

// addrMatch says which address predicates mean the holder of some addresses.
type addrMatch struct {
	key  string
	hits []predMatch
}

type predMatch struct {
	pred  int
	match network.Match
}

func newPartition(n *network.Network) *partition {
	p := &partitioner{
		net:   n,
		preds: n.Predicates(),
		ruled: ruledPredicates(n),
		addrs: map[string]*addrMatch{},
		named: map[network.NamedPort]bool{},
		keys:  map[string]bool{},
	}
	p.collect()
	p.makeAtoms()
	p.makeProfiles()
	hits := p.matchProfiles()
	return p.makeClasses(hits)
}

// ruledPredicates marks the predicates that rules use. Only these tell parties
// apart: what fronts forward to would make a class of every workload.
func ruledPredicates(n *network.Network) []bool {
	ruled := make([]bool, len(n.Predicates()))
	for li := range n.Layers {
		for _, tables := range n.Layers[li].Tables {
			for ti := range tables {
				for _, iso := range tables[ti].Isolates {
					ruled[iso.Subject] = true
				}
				for ri := range tables[ti].Rules {
					r := &tables[ti].Rules[ri]
					ruled[r.Subject] = true
					for _, p := range r.Peers {
						ruled[p] = true
					}
				}
			}
		}
	}
	return ruled
}

// collect finds the attributes and port names that rules look at.
func (p *partitioner) collect() {
	for i := range p.preds {
		if !p.ruled[i] {
			continue
		}
		for _, r := range p.preds[i].Attributes {
			p.keys[r.Key] = true
		}
	}
	for li := range p.net.Layers {
		for _, tables := range p.net.Layers[li].Tables {
			for ti := range tables {
				for ri := range tables[ti].Rules {
					for _, n := range tables[ti].Rules[ri].Named {
						p.named[n] = true
					}
				}
			}
		}
	}
}

// makeAtoms splits the address space by all address predicates and by what
// paths put in the place of a source.
func (p *partitioner) makeAtoms() {
	var sets []netset.Addrs
	var owner []int
	for i := range p.preds {
		if p.ruled[i] && !p.preds[i].Addrs.IsEmpty() {
			sets = append(sets, p.preds[i].Addrs)
			owner = append(owner, i)
		}
	}
	for _, path := range p.net.Paths {
		for _, s := range path.Steps {
			if s.Kind == network.Replace {
				sets = append(sets, s.Peer)
				owner = append(owner, -1)
			}
		}
	}
	atoms, in := netset.Atoms(sets)
	p.atoms = atoms
	p.atomIn = make([][]int, len(atoms))
	for i, ids := range in {
		for _, id := range ids {
			if owner[id] >= 0 {
				p.atomIn[i] = append(p.atomIn[i], owner[id])
			}
		}
	}
}

// matchAddrs returns which address predicates mean a party at addrs.
func (p *partitioner) matchAddrs(addrs netset.Addrs) *addrMatch {
	key := addrs.Key()
	if m, ok := p.addrs[key]; ok {
		return m
	}
	seen := map[int]bool{}
	var hits []predMatch
	for i, atom := range p.atoms {
		if !atom.Overlaps(addrs) {
			continue
		}
		whole := addrs.SubsetOf(atom)
		for _, pred := range p.atomIn[i] {
			if seen[pred] || p.preds[pred].AddrsOutsideOnly {
				continue
			}
			seen[pred] = true
			m := network.Yes
			if !whole {
				m = network.MatchAddrs(addrs, p.preds[pred].Addrs)
			}
			hits = append(hits, predMatch{pred, m})
		}
		if whole {
			break
		}
	}
	slices.SortFunc(hits, func(a, b predMatch) int { return a.pred - b.pred })
	m := &addrMatch{hits: hits}
	b := make([]byte, 0, 3*len(hits))
	for _, h := range hits {
		b = binary.AppendUvarint(b, uint64(h.pred))
		b = append(b, byte(h.match))
	}
	m.key = string(b)
	p.addrs[key] = m
	return m
}

func (p *partitioner) makeProfiles() {
	n := p.net
	p.scopes = make([]scopeView, len(n.Scopes)+1)
	for i := range n.Scopes {
		p.scopes[i].scope = &n.Scopes[i]
	}
	keys := make([]string, 0, len(p.keys))
	for k := range p.keys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	named := make([]network.NamedPort, 0, len(p.named))
	for k := range p.named {
		named = append(named, k)
	}
	slices.SortFunc(named, func(a, b network.NamedPort) int {
		if a.Name != b.Name {
			if a.Name < b.Name {
				return -1
			}
			return 1
		}
		return int(a.Protocol) - int(b.Protocol)
	})
	ids := map[string]int32{}
	p.of = make([]int32, len(n.Endpoints))
	var buf []byte
	for i := range n.Endpoints {
		e := &n.Endpoints[i]
		am := p.matchAddrs(e.Addrs)
		scope := e.Scope
		if scope < 0 || scope >= len(n.Scopes) {
			scope = len(n.Scopes)
		}
		buf = binary.AppendUvarint(buf[:0], uint64(scope))
		buf = append(buf, byte(e.EndOf()))
		for _, k := range keys {
			v, ok := e.Attributes[k]
			if !ok {
				buf = append(buf, 0)
				continue
			}
			buf = binary.AppendUvarint(buf, uint64(len(v)+1))
			buf = append(buf, v...)
		}
		buf = binary.AppendUvarint(buf, uint64(len(am.key)))
		buf = append(buf, am.key...)
		buf = binary.AppendUvarint(buf, uint64(len(e.Identity)))
		buf = append(buf, e.Identity...)
		at := len(buf)
		for ni, np := range named {
			if t := e.Resolve(named[ni : ni+1]); !t.IsEmpty() {
				buf = binary.AppendUvarint(buf, uint64(len(np.Name)))
				buf = append(buf, np.Name...)
				buf = append(buf, t.Key()...)
			}
		}
		if e.PortsUnseen && len(named) > 0 {
			buf = append(buf, 0) // no name is empty: unlike any entry above
		}
		id, ok := ids[string(buf)]
		if !ok {
			id = int32(len(p.profile))
			ids[string(buf)] = id
			p.profile = append(p.profile, profile{endpoint: int32(i), scope: scope, addrs: am, ports: string(buf[at:])})
			p.scopes[scope].profiles = append(p.scopes[scope].profiles, id)
		}
		p.of[i] = id
	}
}

// matchProfiles returns for each profile the predicates that mean it.
func (p *partitioner) matchProfiles() [][]predMatch {
	out := make([][]predMatch, len(p.profile))
	byScope := map[string][]int{}
	for i := range p.net.Scopes {
		name := p.net.Scopes[i].Name
		byScope[name] = append(byScope[name], i)
	}
	postings := p.postings()
	for i := range p.preds {
		pred := &p.preds[i]
		if !p.ruled[i] || !pred.Everything && !pred.Endpoints && pred.Identities.IsEmpty() {
			continue
		}
		p.eachCandidate(pred, byScope, postings, func(id int32) {
			pr := &p.profile[id]
			e := &p.net.Endpoints[pr.endpoint]
			if m := pred.MatchEndpoint(e, p.scopes[pr.scope].scope); m != network.No {
				out[id] = append(out[id], predMatch{i, m})
			}
		})
	}
	for id := range out {
		out[id] = mergeMatches(out[id], p.profile[id].addrs.hits)
	}
	return out
}

// posting is an attribute value; an unsettled value stands in all postings of
// its key under network.Unsettled.
type posting struct{ key, value string }

func (p *partitioner) postings() map[posting][]int32 {
	used := map[string]bool{}
	for i := range p.preds {
		if !p.ruled[i] {
			continue
		}
		for _, r := range p.preds[i].Attributes {
			if r.Op == network.In {
				used[r.Key] = true
			}
		}
	}
	out := map[posting][]int32{}
	for id := range p.profile {
		for k, v := range p.net.Endpoints[p.profile[id].endpoint].Attributes {
			if used[k] {
				out[posting{k, v}] = append(out[posting{k, v}], int32(id))
			}
		}
	}
	return out
}

// eachCandidate calls f for every profile that pred could mean by anything but
// its address, each once. It may call it for others.
func (p *partitioner) eachCandidate(pred *network.Predicate, byScope map[string][]int, postings map[posting][]int32, f func(int32)) {
	if pred.ScopeName != "" && !pred.Everything && pred.Identities.IsEmpty() {
		for _, s := range byScope[pred.ScopeName] {
			for _, id := range p.scopes[s].profiles {
				f(id)
			}
		}
		return
	}
	if !pred.Everything && pred.Identities.IsEmpty() {
		for i := range pred.Attributes {
			r := &pred.Attributes[i]
			if r.Op != network.In {
				continue
			}
			values := append(slices.Clone(r.Values), network.Unsettled, network.Unstated)
			slices.Sort(values)
			for _, v := range slices.Compact(values) {
				for _, id := range postings[posting{r.Key, v}] {
					f(id)
				}
			}
			return
		}
		if len(pred.Scope) > 0 {
			for s := range p.scopes {
				if sc := p.scopes[s].scope; sc != nil && pred.Scope.Match(sc.Attributes) != network.No {
					for _, id := range p.scopes[s].profiles {
						f(id)
					}
				}
			}
			return
		}
	}
	for id := range p.profile {
		f(int32(id))
	}
}

// mergeMatches joins two lists sorted by predicate, keeping the surer match.
func mergeMatches(a, b []predMatch) []predMatch {
	if len(b) == 0 {
		return a
	}
	out := make([]predMatch, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].pred < b[0].pred:
			out, a = append(out, a[0]), a[1:]
		case len(a) == 0 || b[0].pred < a[0].pred:
			out, b = append(out, b[0]), b[1:]
		default:
			out = append(out, predMatch{a[0].pred, max(a[0].match, b[0].match)})
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// makeClasses joins profiles that the same predicates mean, and adds the
// outside.
func (p *partitioner) makeClasses(matches [][]predMatch) *partition {
	out := &partition{hits: make([][]hit, len(p.preds)), ruled: p.ruled}
	ids := map[string]ClassID{}
	classOf := make([]ClassID, len(p.profile))
	var buf []byte
	for id := range p.profile {
		pr := &p.profile[id]
		end := p.net.Endpoints[pr.endpoint].EndOf()
		buf = append(buf[:0], byte(end))
		for _, m := range matches[id] {
			buf = binary.AppendUvarint(buf, uint64(m.pred))
			buf = append(buf, byte(m.match))
		}
		buf = append(buf, 0xff)
		buf = append(buf, pr.ports...)
		c, ok := ids[string(buf)]
		if !ok {
			c = ClassID(len(out.classes))
			ids[string(buf)] = c
			out.classes = append(out.classes, Class{end: end, ports: pr.ports})
			for _, m := range matches[id] {
				out.hits[m.pred] = append(out.hits[m.pred], hit{c, m.match})
			}
		}
		classOf[id] = c
	}
	out.of = make([]ClassID, len(p.of))
	for i, id := range p.of {
		c := classOf[id]
		out.of[i] = c
		out.classes[c].Endpoints = append(out.classes[c].Endpoints, int32(i))
	}
	p.addOutside(out)
	return out
}

func (p *partitioner) addOutside(out *partition) {
	out.outside = ClassID(len(out.classes))
	for i, atom := range p.atoms {
		c := ClassID(len(out.classes))
		out.classes = append(out.classes, Class{Addrs: atom, end: network.EndOutside})
		for _, pred := range p.atomIn[i] {
			out.hits[pred] = append(out.hits[pred], hit{c, network.Yes})
		}
	}
	out.names = ClassID(len(out.classes))
	seen := map[string]bool{}
	for i := range p.preds {
		for _, name := range p.preds[i].Names {
			if p.ruled[i] && !seen[name] {
				seen[name] = true
				out.classes = append(out.classes, Class{Name: name, end: network.EndOutside})
			}
		}
	}
	for i := range p.preds {
		pred := &p.preds[i]
		if !p.ruled[i] {
			continue
		}
		for c := out.outside; c < ClassID(len(out.classes)); c++ {
			switch {
			case pred.Everything:
				out.hits[i] = append(out.hits[i], hit{c, network.Yes})
			case c >= out.names:
				if m := matchName(out.classes[c].Name, pred); m != network.No {
					out.hits[i] = append(out.hits[i], hit{c, m})
				}
			}
		}
	}
}

// matchName says whether pred means the outside party with that name. Where
// the name resolves to is not known: it may be any public address.
func matchName(name string, pred *network.Predicate) network.Match {
	m := network.No
	for _, pattern := range pred.Names {
		switch {
		case pattern == name, covers(pattern, name):
			return network.Yes
		case covers(name, pattern):
			m = network.Maybe
		}
	}
	if !pred.Addrs.IsEmpty() {
		m = max(m, network.MatchAddrs(netset.PublicAddrs(), pred.Addrs))
	}
	return m
}

// covers reports whether pattern, a `*.x`, covers every name that name stands
// for.
func covers(pattern, name string) bool {
	if len(pattern) < 3 || pattern[:2] != "*." {
		return false
	}
	suffix := pattern[1:]
	if name[0] == '*' {
		name = name[1:]
		return len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix
	}
	return len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix
}

// digest is equal for partitions whose class numbers mean the same parties, as
// far as rows are concerned.
func (p *partition) digest() [sha256.Size]byte {
	h := sha256.New()
	var b []byte
	for _, c := range p.of {
		b = binary.AppendUvarint(b, uint64(c))
	}
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for i := range p.classes {
		c := &p.classes[i]
		b = append(b, byte(c.end))
		text(c.ports)
		text(c.Addrs.Key())
		text(c.Name)
	}
	h.Write(b)
	return [sha256.Size]byte(h.Sum(nil))
}

// ClassOfAddr returns the class of an address outside.
func (a *Analysis) ClassOfAddr(ip netip.Addr) ClassID {
	for c := a.part.outside; c < a.part.names; c++ {
		if a.part.classes[c].Addrs.Contains(ip) {
			return c
		}
	}
	return -1
}

// ClassOfName returns the class of a domain name outside, or -1 for a name
// that no rule mentions.
func (a *Analysis) ClassOfName(name string) ClassID {
	best := ClassID(-1)
	for c := a.part.names; int(c) < len(a.part.classes); c++ {
		switch n := a.part.classes[c].Name; {
		case n == name:
			return c
		case covers(n, name):
			best = c
		}
	}
	return best
}
