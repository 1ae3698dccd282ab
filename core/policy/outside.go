package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"bulkhead/core/netset"
)

// outside finds permissions towards the outside by host name and by address. The
// time of a question grows with the labels of its name and the lengths of
// prefixes, not with the policy.
type outside struct {
	perms   []Permission
	single  map[namedFrom][]int32 // from exactly one party, by it and the name
	groups  map[string][]int32    // the others, by the name
	address map[netip.Prefix][]int32
	lengths [2][]int // of the prefixes, by family
}

// namedFrom is a source and a name. `*.x` stands as `.x`.
type namedFrom struct {
	from Party
	name string
}

func newOutside(perms []Permission) outside {
	x := outside{perms: perms, single: map[namedFrom][]int32{}, groups: map[string][]int32{}, address: map[netip.Prefix][]int32{}}
	for i := range perms {
		p := &perms[i]
		if p.To.Kind != OutsideParty || p.Kind == ExposureKind {
			continue
		}
		for _, name := range p.Names {
			if p.Kind == EndpointKind {
				break // its names lead to the endpoint, not outside
			}
			name = strings.TrimPrefix(strings.ToLower(name), "*")
			if len(p.From.Members) == 1 {
				k := namedFrom{p.From.Members[0], name}
				x.single[k] = append(x.single[k], int32(i))
			} else {
				x.groups[name] = append(x.groups[name], int32(i))
			}
		}
		for _, prefix := range p.Addrs.Prefixes() {
			x.address[prefix] = append(x.address[prefix], int32(i))
			n := &x.lengths[family(prefix.Addr())]
			if !slices.Contains(*n, prefix.Bits()) {
				*n = append(*n, prefix.Bits())
			}
		}
	}
	return x
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// first returns the first permission that holds the question, nil if none does.
func (x *outside) first(q *Question) *Permission {
	best := int32(-1)
	look := func(list []int32, all bool) {
		for _, i := range list {
			if best >= 0 && i >= best {
				return
			}
			if p := &x.perms[i]; (all || p.From.Has(q.From)) && p.holdsOutside(q) {
				best = i
				return
			}
		}
	}
	if q.Host == "" {
		for _, bits := range x.lengths[family(q.Addr)] {
			if prefix, err := q.Addr.Prefix(bits); err == nil {
				look(x.address[prefix], false)
			}
		}
	} else {
		for at := 0; at >= 0; at = nextLabel(q.Host, at) {
			look(x.single[namedFrom{q.From, q.Host[at:]}], true)
			look(x.groups[q.Host[at:]], false)
		}
	}
	if best < 0 {
		return nil
	}
	return &x.perms[best]
}

// nextLabel returns where the next suffix of a name begins, with its dot, -1
// after the last.
func nextLabel(host string, at int) int {
	i := strings.IndexByte(host[at+1:], '.')
	if i < 0 {
		return -1
	}
	return at + 1 + i
}

// near returns a permission that names the host or address, by preference one of
// the source, nil if none does.
func (x *outside) near(q *Question) (near *Permission) {
	look := func(list []int32) {
		for _, i := range list[:min(len(list), 64)] {
			if p := &x.perms[i]; near == nil || p.From.Has(q.From) && !near.From.Has(q.From) {
				near = p
			}
		}
	}
	if q.Host == "" {
		for _, bits := range x.lengths[family(q.Addr)] {
			if prefix, err := q.Addr.Prefix(bits); err == nil {
				look(x.address[prefix])
			}
		}
		return near
	}
	for at := 0; at >= 0; at = nextLabel(q.Host, at) {
		look(x.single[namedFrom{q.From, q.Host[at:]}])
		look(x.groups[q.Host[at:]])
	}
	return near
}

// holdsOutside reports whether a permission that names the host or the address
// holds the rest of the question.
func (p *Permission) holdsOutside(q *Question) bool {
	return (p.Via == "" || p.Via == q.Via) && p.believes(q.Addr) && p.holds(q)
}

// believes reports whether p may lead to an address; every permission may as
// long as none is known.
func (p *Permission) believes(a netip.Addr) bool {
	return !a.IsValid() || netset.Special(a) == "" || p.Special.Contains(a)
}

// decideOutside is the decision about a host or an address outside. Quarantine
// and what special-purpose addresses are do not depend on the mode.
func (in *Intent) decideOutside(q Question) Answer {
	if q.Host == "" && !q.Addr.IsValid() {
		return Answer{q: q}
	}
	if p := in.outside.first(&q); p != nil {
		return Answer{Allowed: true, Permission: p, q: q}
	}
	a := in.refuseOutside(q)
	if a.quarantine != nil || in.held[q.From].by != nil {
		return a
	}
	if m := in.modes[q.From]; m != "" && (!q.Addr.IsValid() || netset.Special(q.Addr) == "") {
		a.Allowed, a.Relaxed = true, m
	}
	return a
}

func (in *Intent) refuseOutside(q Question) Answer {
	if in.before != nil {
		if p := in.before.outside.first(&q); p != nil {
			return Answer{Nearest: p, q: q, quarantine: in.held.cause(p, q.From)}
		}
	}
	if len(in.Expired) > 0 {
		for i := range in.Expired {
			p := &in.Expired[i]
			if p.From.Has(q.From) && p.names(&q) && p.holdsOutside(&q) {
				return Answer{Nearest: p, q: q}
			}
		}
	}
	return Answer{Nearest: in.outside.near(&q), q: q}
}

// names reports whether an outside permission names the host or address of q.
func (p *Permission) names(q *Question) bool {
	if p.To.Kind != OutsideParty || p.Kind == ExposureKind {
		return false
	}
	if q.Host == "" {
		return p.Addrs.Contains(q.Addr)
	}
	return p.Kind != EndpointKind && slices.ContainsFunc(p.Names, func(n string) bool {
		n = strings.ToLower(n)
		return n == q.Host || below(q.Host, n)
	})
}

// modes are the modes of sources for which not everything is enforced.
type modes map[Party]string

// Mode returns the mode in which the gateway treats a source.
func (in *Intent) Mode(from Party) string {
	if m := in.modes[from]; m != "" {
		return m
	}
	return Enforce
}

// NamesPossible reports whether any permission of a source could lead to a name:
// whether it is worth resolving.
func (in *Intent) NamesPossible(from Party, host string) bool {
	if in.held[from].by != nil {
		return false
	}
	if in.modes[from] != "" {
		return true
	}
	x := &in.outside
	for at := 0; at >= 0; at = nextLabel(host, at) {
		if len(x.single[namedFrom{from, host[at:]}]) > 0 {
			return true
		}
		for _, i := range x.groups[host[at:]] {
			if x.perms[i].From.Has(from) {
				return true
			}
		}
	}
	return false
}

// mode reads the mode of the gateway.
func (r *resolver) mode() {
	g := r.in.Policy.Gateway
	if g == nil || g.Mode.Value == "" || g.Mode.Value == Enforce {
		return
	}
	switch {
	case !slices.Contains(GatewayModes, g.Mode.Value):
		r.ds.Errorf("gateway-mode", g.Mode.Pos, "gateway mode %q is not known", g.Mode.Value).WithFix("write %s", strings.Join(GatewayModes, ", "))
		return
	case g.Because.Value == "" || g.Owner.Value == "" || g.Until.Time.IsZero():
		r.ds.Errorf("gateway-mode", g.Mode.Pos, "the gateway enforces nothing in mode %s, without because, owner and until", g.Mode.Value).
			WithFix("add because: TEXT, owner: TEXT and until: DATE, or remove mode:")
		return
	case g.Until.Expired(r.in.At):
		r.ds.Warnf("expired", g.Until.Pos, "gateway mode %s expired on %s: everything is enforced", g.Mode.Value, g.Until.Time.Format(time.DateOnly)).
			WithFix("remove mode:, or renew until: after a review")
		return
	}
	r.in.modes = modes{}
	for _, group := range r.groupsOrAll(g.For) {
		for _, m := range group.Members {
			r.in.modes[m] = g.Mode.Value
		}
	}
}
