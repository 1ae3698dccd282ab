package policy

import (
	"fmt"
	"net/netip"
	"time"

	"bulkhead/core/netset"
)

// Question asks for one connection or request.
type Question struct {
	From, To Party
	Protocol netset.Protocol
	Port     uint16
	// Request is set for a question about one request; otherwise the question
	// is about the connection.
	Request *netset.Request
	// Whole asks for a connection whose requests nobody will look at: it is
	// allowed only if all of them are.
	Whole bool

	// Host and Addr are where a question leads that is about the outside: to
	// [Outside], and to whatever permission names the host or the address. Host
	// is a canonical name: lower case, no final dot. With both, Addr is what the
	// name was resolved to. A question with an address alone is about the address,
	// not about any name of it.
	Host string
	Addr netip.Addr
	// Via is the workload that is the gateway which asks, empty for a gateway
	// that is none.
	Via string
}

// Outside is the party of questions about a host or an address outside. No
// permission names it.
var Outside = Party{Kind: OutsideParty}

// Answer is what [Intent.Decide] says, and why.
type Answer struct {
	Allowed bool
	// Permission is the one that allows, nil if none does.
	Permission *Permission
	// Nearest is the permission that came closest, when none allows; Why says
	// what it lacks.
	Nearest *Permission
	// Relaxed is the mode of the gateway in which it is allowed although no
	// permission holds it, empty otherwise.
	Relaxed string

	q Question
	// quarantine is what took the permission away, nil if nothing did.
	quarantine *Quarantine
}

// Decide is the decision: allowed exactly when a permission in force holds the
// question. Permissions only allow, so the first that does decides; for a
// connection, one that allows some of its requests allows it to open. It
// allocates nothing, and its time does not grow with the policy.
func (in *Intent) Decide(q Question) Answer {
	if q.To == Outside {
		return in.decideOutside(q)
	}
	if p := in.force.first(&q); p != nil {
		return Answer{Allowed: true, Permission: p, q: q}
	}
	if in.before != nil {
		a := in.before.Decide(q)
		if a.Allowed {
			return Answer{Nearest: a.Permission, q: q, quarantine: in.held.cause(a.Permission, q.From)}
		}
		return a
	}
	if p := in.expired.first(&q); p != nil {
		return Answer{Nearest: p, q: q}
	}
	return Answer{Nearest: in.force.nearest(&q), q: q}
}

// Why says why the answer is no, or in a relaxed mode would be, in one line;
// empty if a permission allows.
func (a Answer) Why() string {
	p := a.Nearest
	switch {
	case a.Permission != nil:
		return ""
	case a.quarantine != nil:
		return a.quarantine.String()
	case p == nil:
		return "no permission names " + a.q.place()
	case a.q.To == Outside && p.From.Has(a.q.From) && !p.believes(a.q.Addr):
		return fmt.Sprintf("%s is at %s (%s), which %s does not declare", a.q.place(), a.q.Addr, netset.Special(a.q.Addr), p.Name)
	case a.q.To == Outside && p.From.Has(a.q.From) && p.Via != "" && p.Via != a.q.Via:
		return fmt.Sprintf("%s goes through %s only", p.Name, p.Via)
	case p.From.Has(a.q.From) && p.holds(&a.q):
		return fmt.Sprintf("%s expired on %s", p.Name, p.Why.Until.Time.Format(time.DateOnly))
	case p.From.Has(a.q.From):
		return fmt.Sprintf("the nearest is %s, which allows only %s", p.Name, p.Traffic)
	}
	return fmt.Sprintf("the nearest is %s, which is for %s", p.Name, p.From.Name)
}

// place names where a question leads.
func (q *Question) place() string {
	switch {
	case q.To != Outside:
		return q.To.Name
	case q.Host != "":
		return q.Host
	}
	return q.Addr.String()
}

// holds reports whether the question is within p. Where p is limited to some
// requests, one whose path has a second spelling (an encoded or dotted segment)
// is not: the server behind may read it as another path than the pattern did.
func (p *Permission) holds(q *Question) bool {
	if q.Addr.IsValid() && q.To != Outside && !p.isAt(q.Addr) {
		return false
	}
	if q.Whole {
		return p.Traffic.Has(q.Protocol, q.Port)
	}
	if q.Request == nil {
		return p.Traffic.Opens(q.Protocol, q.Port)
	}
	return p.Traffic.Has(q.Protocol, q.Port) ||
		p.Traffic.HasRequest(q.Protocol, q.Port, *q.Request) && normalPaths.Contains(q.Request.Path)
}

var normalPaths = netset.NormalPaths()

// isAt reports whether a named place outside may have an address: one of those
// that are declared, if any are.
func (p *Permission) isAt(a netip.Addr) bool {
	return p.believes(a) && (p.Addrs.IsEmpty() || p.Addrs.Contains(a))
}

// Between returns everything that from may send to to: the symbolic form of
// [Intent.Decide].
func (in *Intent) Between(from, to Party) netset.Traffic {
	var t netset.Traffic
	w := in.force.between(from, to)
	for p := w.next(); p != nil; p = w.next() {
		t = t.Union(p.Traffic)
	}
	return t
}

// PermissionsTo returns the permissions in force towards a party.
func (in *Intent) PermissionsTo(to Party) []*Permission {
	list := in.force.to[to]
	out := make([]*Permission, len(list))
	for i, id := range list {
		out[i] = &in.Permissions[id]
	}
	return out
}

// Workload returns the workload of that name, or nil.
func (in *Intent) Workload(name string) *Workload { return in.workloads[name] }

// Destination returns the destination of that name, or nil.
func (in *Intent) Destination(name string) *Destination { return in.destinations[name] }

// InZone reports whether w is in a zone or in one inside it.
func (in *Intent) InZone(w *Workload, zone string) bool {
	at := in.zones[w.Zone.Value]
	for range len(in.zones) + 1 {
		if at == nil {
			return false
		}
		if at.Name.Value == zone {
			return true
		}
		at = in.zones[at.In.Value]
	}
	return false
}

// RoleOf returns the role of the zone that a workload is in. A zone without a
// role has that of the nearest outer zone with one, otherwise custom.
func (in *Intent) RoleOf(w *Workload) Role {
	at := in.zones[w.Zone.Value]
	for range len(in.zones) + 1 {
		if at == nil {
			break
		}
		if at.Role.Value != "" {
			return Role(at.Role.Value)
		}
		at = in.zones[at.In.Value]
	}
	return Custom
}

// Expiring returns the permissions in force that end within the time after At.
func (in *Intent) Expiring(within time.Duration) []*Permission {
	var out []*Permission
	for i := range in.Permissions {
		p := &in.Permissions[i]
		if u := p.Why.Until; !u.Time.IsZero() && u.Expired(in.At.Add(within)) {
			out = append(out, p)
		}
	}
	return out
}
