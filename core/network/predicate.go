package network

import (
	"encoding/binary"
	"slices"
	"strings"

	"bulkhead/core/netset"
)

// PredicateID names a predicate of one Network.
type PredicateID int32

// Match is what a predicate says of a party.
type Match uint8

const (
	// No means that the party is not meant.
	No Match = iota
	// Maybe means that the input does not tell.
	Maybe
	// Some means that it is meant by one of its address families and not by
	// the other.
	Some
	// Yes means that it is meant.
	Yes
)

// Predicate says which parties a rule means. The zero value means none. Its
// parts are alternatives except Scope and Attributes, which both must hold.
type Predicate struct {
	// Everything means every party, inside and outside.
	Everything bool

	// Endpoints means endpoints by their scope and attributes.
	Endpoints bool
	// ScopeName is the exact scope, empty for any that Scope matches.
	ScopeName  string
	Scope      Selector
	Attributes Selector
	// Kinds limits Endpoints to ends of these kinds; zero means EndOwn.
	Kinds End

	// Addrs means outside parties by address and, unless AddrsOutsideOnly is
	// set, endpoints whose address is known or possible to be inside.
	Addrs            netset.Addrs
	AddrsOutsideOnly bool

	// Names means outside parties by domain name; `*.x` is any name below x.
	Names []string

	// Identities means parties by what they prove.
	Identities netset.Identities
}

// Predicate returns the id of p, the same for equal predicates.
func (n *Network) Predicate(p Predicate) PredicateID {
	p.Scope, p.Attributes = p.Scope.sorted(), p.Attributes.sorted()
	if p.Endpoints && p.Kinds == 0 {
		p.Kinds = EndOwn
	}
	k := p.Key()
	if id, ok := n.byKey[k]; ok {
		return id
	}
	if n.byKey == nil {
		n.byKey = map[string]PredicateID{}
	}
	id := PredicateID(len(n.predicates))
	n.predicates = append(n.predicates, p)
	n.byKey[k] = id
	return id
}

// Predicates returns all predicates, indexed by their id.
func (n *Network) Predicates() []Predicate { return n.predicates }

// Key returns a string that is equal for equal predicates and for no others.
// Selectors count as equal only when [Network.Predicate] has sorted them.
func (p *Predicate) Key() string {
	// Every part is written with its length or count, so that no value can
	// imitate the boundary between two parts.
	var b []byte
	num := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	text := func(s string) {
		num(len(s))
		b = append(b, s...)
	}
	flag := func(f bool) {
		if f {
			num(1)
		} else {
			num(0)
		}
	}
	selector := func(s Selector) {
		num(len(s))
		for _, r := range s {
			text(r.Key)
			num(int(r.Op))
			num(len(r.Values))
			for _, v := range r.Values {
				text(v)
			}
		}
	}
	flag(p.Everything)
	flag(p.Endpoints)
	flag(p.AddrsOutsideOnly)
	num(int(p.Kinds))
	text(p.ScopeName)
	selector(p.Scope)
	selector(p.Attributes)
	text(p.Addrs.Key())
	num(len(p.Names))
	for _, n := range p.Names {
		text(n)
	}
	flag(p.Identities.IsEmpty())
	if !p.Identities.IsEmpty() {
		text(p.Identities.Key())
	}
	return string(b)
}

// Operator is the comparison of a [Requirement].
type Operator uint8

const (
	// In means that the attribute has one of Values.
	In Operator = iota
	// NotIn means that it has none of them, or is absent.
	NotIn
	// Exists means that it is present.
	Exists
	// DoesNotExist means that it is absent.
	DoesNotExist
)

// Requirement is a condition on one attribute.
type Requirement struct {
	Key    string
	Op     Operator
	Values []string
}

// Selector is a conjunction of requirements. The empty selector matches all.
type Selector []Requirement

// Equals returns the selector that wants each attribute to have its value.
func Equals(attributes map[string]string) Selector {
	var s Selector
	for k, v := range attributes {
		s = append(s, Requirement{Key: k, Op: In, Values: []string{v}})
	}
	return s.sorted()
}

// Unsettled is the value of an attribute that is present but whose value the
// input does not tell, such as one that a controller fills in later.
const Unsettled = "\x00unsettled"

// Unstated is the value of an attribute of which the input does not even tell
// whether it is present, such as one of a scope that the input only names.
const Unstated = "\x00unstated"

// Match says whether attributes satisfy every requirement: Maybe when that
// depends on an [Unsettled] or [Unstated] value.
func (s Selector) Match(attributes map[string]string) Match {
	m := Yes
	for i := range s {
		m = min(m, s[i].match(attributes))
	}
	return m
}

func (r *Requirement) match(attributes map[string]string) Match {
	v, ok := attributes[r.Key]
	if v == Unstated || v == Unsettled && (r.Op == In || r.Op == NotIn) {
		return Maybe
	}
	var holds bool
	switch r.Op {
	case In:
		holds = ok && slices.Contains(r.Values, v)
	case NotIn:
		holds = !ok || !slices.Contains(r.Values, v)
	case Exists:
		holds = ok
	default:
		holds = !ok
	}
	if holds {
		return Yes
	}
	return No
}

func (s Selector) sorted() Selector {
	if len(s) == 0 {
		return nil
	}
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b Requirement) int {
		if c := strings.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		if a.Op != b.Op {
			return int(a.Op) - int(b.Op)
		}
		return slices.Compare(a.Values, b.Values)
	})
	return s
}

// String returns the selector as people write it: `app=web,tier in (a,b)`.
func (s Selector) String() string {
	if len(s) == 0 {
		return "everything"
	}
	parts := make([]string, len(s))
	for i, r := range s {
		switch {
		case r.Op == In && len(r.Values) == 1:
			parts[i] = r.Key + "=" + r.Values[0]
		case r.Op == In:
			parts[i] = r.Key + " in (" + strings.Join(r.Values, ",") + ")"
		case r.Op == NotIn:
			parts[i] = r.Key + " not in (" + strings.Join(r.Values, ",") + ")"
		case r.Op == Exists:
			parts[i] = r.Key
		default:
			parts[i] = "!" + r.Key
		}
	}
	return strings.Join(parts, ",")
}

// MatchEndpoint says whether p means e of scope sc, which may be nil.
func (p *Predicate) MatchEndpoint(e *Endpoint, sc *Scope) Match {
	if p.Everything {
		return Yes
	}
	m := No
	if p.Endpoints && p.Kinds&e.EndOf() != 0 {
		m = min(p.matchScope(sc), p.Attributes.Match(e.Attributes))
	}
	if e.Identity != "" && p.Identities.Contains(e.Identity) {
		m = Yes
	}
	if !p.AddrsOutsideOnly {
		m = max(m, MatchAddrs(e.Addrs, p.Addrs))
	}
	return m
}

func (p *Predicate) matchScope(sc *Scope) Match {
	switch {
	case sc == nil && (p.ScopeName != "" || len(p.Scope) > 0):
		return No
	case sc == nil:
		return Yes
	case p.ScopeName != "" && p.ScopeName != sc.Name:
		return No
	}
	return p.Scope.Match(sc.Attributes)
}

// MatchAddrs says whether a party that is in at, at all of it or at some place
// of it, is in set: Maybe when only part of a family of at is inside.
func MatchAddrs(at, set netset.Addrs) Match {
	if at.IsEmpty() || !at.Overlaps(set) {
		return No
	}
	if at.SubsetOf(set) {
		return Yes
	}
	v4, v6 := at.SubsetByFamily(set)
	if v4 || v6 {
		return Some
	}
	return Maybe
}
