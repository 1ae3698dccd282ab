package policy

import (
	"fmt"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/source"
)

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
	for _, i := range in.force.to[to] {
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
