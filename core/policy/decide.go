package policy

import (
	"fmt"
	"strings"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/source"
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
}

// Answer is what [Intent.Decide] says, and why.
type Answer struct {
	Allowed bool
	// Permission is the one that allows, nil if none does.
	Permission *Permission
	// Nearest is the permission that came closest, when none allows; Why says
	// what it lacks.
	Nearest *Permission

	q Question
	// quarantine is what took the permission away, nil if nothing did.
	quarantine *Quarantine
}

// Decide is the decision: allowed exactly when a permission in force holds the
// question. Permissions only allow, so the first that does decides; for a
// connection, one that allows some of its requests allows it to open.
func (in *Intent) Decide(q Question) Answer {
	var near *Permission
	for _, i := range in.byTo[q.To] {
		p := &in.Permissions[i]
		from := p.From.Has(q.From)
		if from && p.holds(q) {
			return Answer{Allowed: true, Permission: p, q: q}
		}
		if from || near == nil {
			near = p
		}
	}
	for i := range in.Expired {
		p := &in.Expired[i]
		if p.To == q.To && p.From.Has(q.From) && p.holds(q) {
			near = p
		}
	}
	return Answer{Nearest: near, q: q}
}

// Why says why the answer is no, in one line; empty if it is yes.
func (a Answer) Why() string {
	p := a.Nearest
	switch {
	case a.Allowed:
		return ""
	case a.quarantine != nil:
		return a.quarantine.String()
	case p == nil:
		return "no permission names " + a.q.To.Name
	case p.From.Has(a.q.From) && p.holds(a.q):
		return fmt.Sprintf("%s expired on %s", p.Name, p.Why.Until.Time.Format(time.DateOnly))
	case p.From.Has(a.q.From):
		return fmt.Sprintf("the nearest is %s, which allows only %s", p.Name, p.Traffic)
	}
	return fmt.Sprintf("the nearest is %s, which is for %s", p.Name, p.From.Name)
}

// holds reports whether the question is within p. Where p is limited to some
// requests, one whose path has a second spelling (an encoded or dotted segment)
// is not: the server behind may read it as another path than the pattern did.
func (p *Permission) holds(q Question) bool {
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

// Between returns everything that from may send to to: the symbolic form of
// [Intent.Decide].
func (in *Intent) Between(from, to Party) netset.Traffic {
	var t netset.Traffic
	for _, i := range in.byTo[to] {
		if p := &in.Permissions[i]; p.From.Has(from) {
			t = t.Union(p.Traffic)
		}
	}
	return t
}

// PermissionsTo returns the permissions in force towards a party.
func (in *Intent) PermissionsTo(to Party) []*Permission {
	out := make([]*Permission, len(in.byTo[to]))
	for i, id := range in.byTo[to] {
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

// TestFailure is a policy test that does not hold.
type TestFailure struct {
	Test *Test
	Pos  source.Pos
	Says string
}

// checkTest reports wrong references of a test.
func (r *resolver) checkTest(t *Test) {
	if t.From.Value != Internet {
		r.group(t.From)
	}
	if r.in.destinations[t.To.Value] == nil && t.To.Value != Internet && !validHost(t.To.Value) {
		r.testTargets(t)
	}
	for _, op := range append(append([]Text(nil), t.Allow...), t.Deny...) {
		if op.Value == "any" || op.Value == Connect {
			continue
		}
		if _, err := netset.ParseRequests(op.Value); err != nil {
			r.ds.Errorf("test-operation", op.Pos, "%q is not an operation: %v", op.Value, err).
				WithFix("write any, connect, or a request such as GET /features/1")
		}
	}
	if len(t.Allow) == 0 && len(t.Deny) == 0 {
		r.ds.Errorf("empty-test", t.Pos, "the test states nothing").WithFix("add allow: or deny:")
	}
}

// testTargets resolves the To of a test: unlike in a flow, a workload that
// serves nothing is a fine thing to deny.
func (r *resolver) testTargets(t *Test) []targetService {
	if w := r.in.workloads[t.To.Value]; w != nil && len(w.Serves) == 0 {
		return nil
	}
	return r.targets(t.To)
}

// RunTests checks every policy test against the intent. A test of groups holds
// only if it holds for each pair of their members, and not where it has none.
func (in *Intent) RunTests() []TestFailure {
	var out []TestFailure
	for i := range in.Policy.Tests {
		t := &in.Policy.Tests[i]
		pairs := in.testPairs(t)
		if len(pairs) == 0 {
			out = append(out, TestFailure{Test: t, Pos: t.Pos,
				Says: fmt.Sprintf("%s → %s: it tests nothing, since these are not two parties", t.From.Value, t.To.Value)})
		}
		for _, op := range t.Allow {
			if says := firstFailure(pairs, op, mustAllow); says != "" {
				out = append(out, TestFailure{Test: t, Pos: op.Pos, Says: says})
			}
		}
		for _, op := range t.Deny {
			if says := firstFailure(pairs, op, mustDeny); says != "" {
				out = append(out, TestFailure{Test: t, Pos: op.Pos, Says: says})
			}
		}
	}
	return out
}

// testPair is one pair that a test speaks of: what is allowed for all of it, for
// any part of it (of the internet, or of the hosts of a destination), and the
// traffic of the service in question, empty when nothing is served.
type testPair struct {
	from, to      string
	allowed, some netset.Traffic
	service       netset.Traffic
}

func firstFailure(pairs []testPair, op Text, check func(testPair, Text) string) string {
	for _, p := range pairs {
		if says := check(p, op); says != "" {
			return fmt.Sprintf("%s → %s: %s", p.from, p.to, says)
		}
	}
	return ""
}

func mustAllow(p testPair, op Text) string {
	want := p.service.Limit(requestsOf(op))
	if want.IsEmpty() {
		return fmt.Sprintf("%s must be allowed, but nothing is served there", op.Value)
	}
	if missing := want.Subtract(p.allowed); !missing.IsEmpty() {
		return fmt.Sprintf("%s must be allowed, but the policy denies %s", op.Value, missing)
	}
	return ""
}

func mustDeny(p testPair, op Text) string {
	got := p.some
	if op.Value != "any" && op.Value != Connect {
		got = got.Limit(requestsOf(op))
	}
	if !got.IsEmpty() {
		return fmt.Sprintf("%s must be denied, but the policy allows %s", op.Value, got)
	}
	return ""
}

// requestsOf returns the requests of an operation; its text was checked.
func requestsOf(op Text) netset.Requests {
	if op.Value == "any" || op.Value == Connect {
		return netset.AnyRequest()
	}
	r, err := netset.ParseRequests(op.Value)
	if err != nil {
		return netset.Requests{}
	}
	return r
}

func (in *Intent) testPairs(t *Test) []testPair {
	r := &resolver{in: in}
	from := []Party{{OutsideParty, Internet}}
	if t.From.Value != Internet {
		from = nil
		if g := r.group(t.From); g != nil {
			from = g.Members
		}
	}
	var out []testPair
	for _, f := range from {
		switch w := in.workloads[t.To.Value]; {
		case in.destinations[t.To.Value] != nil || validHost(t.To.Value):
			out = append(out, in.testOutside(r, f, t.To.Value))
		case t.To.Value == Internet:
			all := in.outward(f)
			out = append(out, testPair{f.Name, Internet, all, all, netset.Port(netset.TCP, 443)})
		case w != nil && len(w.Serves) == 0:
			all, some := in.inward(f, Party{WorkloadParty, t.To.Value})
			out = append(out, testPair{f.Name, t.To.Value, all, some, netset.Traffic{}})
		default:
			for _, s := range r.testTargets(t) {
				to := Party{WorkloadParty, s.workload.Name.Value}
				if f == to {
					continue
				}
				service := s.service.Traffic()
				all, some := in.inward(f, to)
				out = append(out, testPair{f.Name, to.Name + "/" + s.service.Name.Value, all.Intersect(service), some.Intersect(service), service})
			}
		}
	}
	return out
}

// inward returns what from may send to a workload. Of the internet, all is what
// every public address may send and some what any of them may.
func (in *Intent) inward(from, to Party) (all, some netset.Traffic) {
	all = in.Between(from, to)
	some = all
	if from != (Party{OutsideParty, Internet}) {
		return all, some
	}
	for _, i := range in.byTo[to] {
		if p := &in.Permissions[i]; p.FromInternet() {
			some = some.Union(p.Traffic)
			if netset.PublicAddrs().SubsetOf(p.Addrs) {
				all = all.Union(p.Traffic)
			}
		}
	}
	return all, some
}

// FromInternet reports whether p lets in some public address.
func (p *Permission) FromInternet() bool {
	return len(p.From.Members) > 0 && p.From.Members[0].Kind == OutsideParty && p.Addrs.Overlaps(netset.PublicAddrs())
}

// testOutside is the pair of a test of a destination, a host or an address. What
// is permitted under another name counts: the same hosts, a pattern that covers
// them, or addresses that hold them.
func (in *Intent) testOutside(r *resolver, from Party, to string) testPair {
	out := testPair{from: from.Name, to: to, service: netset.Port(netset.TCP, 443)}
	var names []string
	var addrs netset.Addrs
	if d := in.destinations[to]; d != nil {
		for _, h := range d.Hosts {
			names = append(names, h.Value)
		}
		out.service = r.ports(d.Ports)
	} else if looksLikeAddr(to) {
		addrs, _ = netset.ParseCIDR(to)
	} else {
		names = []string{to}
	}
	public := netset.PublicAddrs().Intersect(netset.AnyV4())
	for i := range in.Permissions {
		p := &in.Permissions[i]
		if p.To.Kind != OutsideParty || !p.From.Has(from) {
			continue
		}
		covered, touched := len(names) > 0, !addrs.IsEmpty() && p.Addrs.Overlaps(addrs) || len(names) > 0 && public.SubsetOf(p.Addrs)
		for _, n := range names {
			covers, meets := anyHost(p.Names, n)
			covered, touched = covered && covers, touched || meets
		}
		if !addrs.IsEmpty() && addrs.SubsetOf(p.Addrs) || p.To.Name == to {
			covered = true
		}
		if covered {
			out.allowed = out.allowed.Union(p.Traffic)
		}
		if covered || touched {
			out.some = out.some.Union(p.Traffic)
		}
	}
	return out
}

// anyHost says whether one of some host patterns covers all that a pattern means,
// and whether one meets any of it.
func anyHost(patterns []string, host string) (covers, meets bool) {
	host = strings.ToLower(host)
	for _, p := range patterns {
		p = strings.ToLower(p)
		covers = covers || p == host || below(host, p)
		meets = meets || p == host || below(host, p) || below(p, host) || regional(host, p)
	}
	return covers, meets
}

// below reports whether pattern is `*.x` and every name of host is below x.
func below(host, pattern string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	host = strings.TrimPrefix(host, "*")
	return wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix)
}

// regional reports whether name is host in one of the regions it differs by.
func regional(host, name string) bool {
	before, after, ok := strings.Cut(host, "{region}")
	return ok && len(name) > len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after)
}

// outward returns everything that from may send to any outside party.
func (in *Intent) outward(from Party) netset.Traffic {
	var t netset.Traffic
	for i := range in.Permissions {
		if p := &in.Permissions[i]; p.To.Kind == OutsideParty && p.From.Has(from) {
			t = t.Union(p.Traffic)
		}
	}
	return t
}
