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
// prefixes, not with the policy: neither with the names in it, nor with the
// sources that are permitted the same one.
type outside struct {
	perms []Permission
	// names and prefixes are the numbers of places. `*.x` stands as `.x`.
	names    map[string]int32
	prefixes map[netip.Prefix]int32
	lengths  [2][]int // of the prefixes, by family
	leads    []int32  // the first permission to a place, by its number
	single   map[placeFrom][]int32
	groups   map[placeOf][]int32
	// of are the groups that permissions here are from, by member, without those of
	// one.
	of map[Party][]*Group
}

// placeFrom is a place and the only source of a permission to it, placeOf one and
// the group of its sources.
type placeFrom struct {
	from  Party
	place int32
}

type placeOf struct {
	group *Group
	place int32
}

func newOutside(perms []Permission) outside {
	x := outside{perms: perms, names: map[string]int32{}, prefixes: map[netip.Prefix]int32{}, single: map[placeFrom][]int32{},
		groups: map[placeOf][]int32{}, of: map[Party][]*Group{}}
	known := map[*Group]bool{}
	for i := range perms {
		p := &perms[i]
		if p.To.Kind != OutsideParty || p.Kind == ExposureKind {
			continue
		}
		if len(p.From.Members) != 1 && !known[p.From] {
			known[p.From] = true
			for _, m := range p.From.Members {
				x.of[m] = append(x.of[m], p.From)
			}
		}
		x.add(int32(i))
	}
	return x
}

func (x *outside) add(i int32) {
	p := &x.perms[i]
	if p.Kind != EndpointKind { // whose names lead to the endpoint, not outside
		for _, name := range p.Names {
			at(x, x.names, strings.TrimPrefix(strings.ToLower(name), "*"), i)
		}
	}
	for _, prefix := range p.Addrs.Prefixes() {
		at(x, x.prefixes, prefix, i)
		n := &x.lengths[family(prefix.Addr())]
		if !slices.Contains(*n, prefix.Bits()) {
			*n = append(*n, prefix.Bits())
		}
	}
}

// at adds permission i to a place.
func at[K comparable](x *outside, places map[K]int32, key K, i int32) {
	place, ok := places[key]
	if !ok {
		place = int32(len(x.leads))
		places[key] = place
		x.leads = append(x.leads, i)
	}
	if from := x.perms[i].From; len(from.Members) == 1 {
		k := placeFrom{from.Members[0], place}
		x.single[k] = append(x.single[k], i)
	} else {
		k := placeOf{from, place}
		x.groups[k] = append(x.groups[k], i)
	}
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
	x.places(q, func(place int32) bool {
		x.from(q.From, place, func(list []int32) bool {
			for _, i := range list {
				if best >= 0 && i >= best {
					break
				}
				if x.perms[i].holdsOutside(q) {
					best = i
					break
				}
			}
			return true
		})
		return true
	})
	if best < 0 {
		return nil
	}
	return &x.perms[best]
}

// places yields the places that a question is about: of a name, itself and what is
// above it; of an address, the prefixes that hold it. A name with an empty label
// is none.
func (x *outside) places(q *Question, yield func(int32) bool) {
	if q.Host == "" {
		for _, bits := range x.lengths[family(q.Addr)] {
			prefix, err := q.Addr.Prefix(bits)
			if err != nil {
				continue
			}
			if place, ok := x.prefixes[prefix]; ok && !yield(place) {
				return
			}
		}
		return
	}
	if q.Host[0] == '.' || strings.Contains(q.Host, "..") {
		return
	}
	for at := 0; at >= 0; at = nextLabel(q.Host, at) {
		if place, ok := x.names[q.Host[at:]]; ok && !yield(place) {
			return
		}
	}
}

// from yields the permissions of a source to a place, list by list.
func (x *outside) from(from Party, place int32, yield func([]int32) bool) {
	if list := x.single[placeFrom{from, place}]; len(list) > 0 && !yield(list) {
		return
	}
	for _, g := range x.of[from] {
		if list := x.groups[placeOf{g, place}]; len(list) > 0 && !yield(list) {
			return
		}
	}
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
	x.places(q, func(place int32) bool {
		if near == nil {
			near = &x.perms[x.leads[place]]
		}
		if near.From.Has(q.From) {
			return false
		}
		x.from(q.From, place, func(list []int32) bool {
			near = &x.perms[list[0]]
			return false
		})
		return true
	})
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
	by := in.heldBy(&q)
	if by == nil {
		if p := in.outside.first(&q); p != nil {
			return Answer{Allowed: true, Permission: p, q: q}
		}
	}
	a := in.refuseOutside(q)
	if a.quarantine == nil {
		a.quarantine = by
	}
	if m := in.modes[q.From]; m != "" && a.quarantine == nil && relaxable(&q) {
		a.Allowed, a.Relaxed = true, m
	}
	return a
}

// heldBy returns the quarantine of the source or of the gateway, nil if there is
// none.
func (in *Intent) heldBy(q *Question) *Quarantine {
	if x, ok := in.held[q.From]; ok || q.Via == "" {
		return x.by
	}
	return in.held[Party{WorkloadParty, q.Via}].by
}

// relaxable reports whether a question may be allowed in a mode that does not
// enforce: one about a special-purpose address never, nor one about a name that is
// an address in disguise.
func relaxable(q *Question) bool {
	if q.Addr.IsValid() {
		return netset.Special(q.Addr) == ""
	}
	return !endsInNumber(q.Host) && !strings.ContainsAny(q.Host, ":%[")
}

// endsInNumber reports whether the last label of a name is a number, so that every
// reader of URLs takes the whole for an IPv4 address.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if len(last) > 1 && last[0] == '0' && last[1]|0x20 == 'x' {
		return strings.Trim(last[2:], "0123456789abcdefABCDEF") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func (in *Intent) refuseOutside(q Question) Answer {
	if in.before != nil {
		if p := in.before.outside.first(&q); p != nil {
			return Answer{Nearest: p, q: q, quarantine: in.held.cause(p, q.From)}
		}
	}
	if p := in.past.first(&q); p != nil {
		return Answer{Nearest: p, q: q}
	}
	return Answer{Nearest: in.outside.near(&q), q: q}
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
	if host == "" || in.held[from].by != nil {
		return false
	}
	return in.modes[from] != "" || len(in.Naming(from, host)) > 0
}

// Naming returns the permissions in force of a source that name a host outside, in
// the order of the policy.
func (in *Intent) Naming(from Party, host string) []*Permission {
	var out []*Permission
	x := &in.outside
	if host == "" {
		return nil
	}
	var ids []int32
	x.places(&Question{Host: host}, func(place int32) bool {
		x.from(from, place, func(list []int32) bool {
			ids = append(ids, list...)
			return true
		})
		return true
	})
	slices.Sort(ids)
	for _, i := range slices.Compact(ids) {
		out = append(out, &x.perms[i])
	}
	return out
}

// mode reads the mode of the gateway.
func (r *resolver) mode() {
	g := r.in.Policy.Gateway
	if g == nil {
		return
	}
	groups := r.groupsOrAll(g.For) // whose names must be right in any mode
	if g.Mode.Value == "" || g.Mode.Value == Enforce {
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
	for _, group := range groups {
		for _, m := range group.Members {
			r.in.modes[m] = g.Mode.Value
		}
	}
}
