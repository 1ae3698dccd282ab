package app

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/render"
)

// randomNetwork makes workloads of one to three parts with ingress and egress
// rules between random sets of them and blocks outside.
func randomNetwork(r *rand.Rand) *network.Network {
	n := &network.Network{Scopes: []network.Scope{{Name: "n"}}}
	for w := range 2 + r.IntN(5) {
		for part := range 1 + r.IntN(3) {
			n.Endpoints = append(n.Endpoints, network.Endpoint{
				Workload: fmt.Sprintf("n/Pod/w%d", w), Part: fmt.Sprint(part),
				Attributes: map[string]string{"a": fmt.Sprint(r.IntN(3)), "b": fmt.Sprint(r.IntN(2))},
			})
		}
	}
	n.Endpoints = append(n.Endpoints, network.Endpoint{Kind: network.Host, Workload: "nodes", Scope: -1})
	pick := func() network.PredicateID {
		switch r.IntN(5) {
		case 0:
			return n.Predicate(network.Predicate{Everything: true})
		case 1:
			return n.Predicate(network.Predicate{AddrsOutsideOnly: true, Addrs: netset.MustAddrs([]string{"10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32"}[r.IntN(4)])})
		case 2:
			return n.Predicate(network.Predicate{Names: []string{"api.example.com"}})
		}
		key := []string{"a", "b"}[r.IntN(2)]
		return n.Predicate(network.Predicate{Endpoints: true, Attributes: network.Equals(map[string]string{key: fmt.Sprint(r.IntN(3))})})
	}
	subject := func() network.PredicateID {
		return n.Predicate(network.Predicate{Endpoints: true, Attributes: network.Equals(map[string]string{"a": fmt.Sprint(r.IntN(3))})})
	}
	l := network.Layer{Name: "layer", Default: network.Allow}
	line := 0
	for dir := range l.Tables {
		t := network.Table{Name: "table"}
		for range r.IntN(4) {
			s := subject()
			line++
			t.Isolates = append(t.Isolates, network.Isolation{Subject: s, Pos: source.Pos{File: "p", Line: line}})
			rule := network.Rule{Subject: s, Peers: []network.PredicateID{pick()}, Traffic: netset.Ports(netset.TCP, 80, uint16(80+r.IntN(3))), Pos: source.Pos{File: "p", Line: line}}
			if r.IntN(4) == 0 {
				rule.Uncertain = "it may not apply"
			}
			t.Rules = append(t.Rules, rule)
		}
		l.Tables[dir] = []network.Table{t}
	}
	n.Layers = []network.Layer{l}
	n.Paths = []network.Path{{Name: "path", From: network.EndOwn | network.EndHost | network.EndOutside, To: network.EndOwn | network.EndHost | network.EndOutside,
		Steps: []network.Step{{Layer: 0, Direction: network.Egress}, {Layer: 0, Direction: network.Ingress}}}}
	return n
}

// What is printed for workloads must be the union of what holds for the pairs
// of their parts, no more and no less.
func TestEdgesAreTheUnionOfTheParts(t *testing.T) {
	for seed := range uint64(400) {
		n := randomNetwork(rand.New(rand.NewPCG(seed, 7)))
		a := reach.New(n)
		want := map[string]reach.Decision{}
		rules := map[string][]string{}
		for i := range n.Endpoints {
			for j := range n.Endpoints {
				x, y := &n.Endpoints[i], &n.Endpoints[j]
				if x.Workload == y.Workload || x.Kind != network.Workload || y.Kind != network.Workload {
					continue
				}
				k := x.Workload + " " + y.Workload
				d := a.BetweenEndpoints(i, j)
				want[k] = want[k].Or(d)
				if !d.IsDenied() {
					for _, r := range a.Rules(a.ClassOf(i), a.ClassOf(j)) {
						rules[k] = append(rules[k], r.Pos.Short())
					}
				}
			}
		}
		var order []string
		for e := range newEdges(a).edges() {
			k := e.From + " " + e.To
			order = append(order, k)
			if d := want[k]; d.IsDenied() || e.Allow != d.Allow.String() || e.Unknown != d.Unknown.String() {
				t.Fatalf("seed %d: %s is allow %q unknown %q, wanted %q and %q", seed, k, e.Allow, e.Unknown, d.Allow, d.Unknown)
			}
			slices.Sort(rules[k])
			got := slices.Sorted(slices.Values(e.Rules))
			if !slices.Equal(got, slices.Compact(rules[k])) {
				t.Fatalf("seed %d: %s is by %v, wanted %v", seed, k, got, rules[k])
			}
			delete(want, k)
		}
		for k, d := range want {
			if !d.IsDenied() {
				t.Fatalf("seed %d: %s is missing", seed, k)
			}
		}
		if !slices.IsSorted(order) {
			t.Fatalf("seed %d: not in order: %v", seed, order)
		}
	}
}

// Each address outside must be in exactly the entry that says what its parts
// may do together, and in none if they may do nothing.
func TestOutsideEntriesAreDisjointAndExact(t *testing.T) {
	probes := []string{"10.0.0.1", "10.1.2.3", "8.8.8.8", "2001:db8::1", "2600::1"}
	for seed := range uint64(400) {
		n := randomNetwork(rand.New(rand.NewPCG(seed, 9)))
		a := reach.New(n)
		x := newEdges(a)
		for _, dir := range []struct {
			seq func(func(render.Outside) bool)
			ask func(endpoint int, at reach.ClassID) reach.Decision
		}{
			{x.outside(x.from, a.ToOutside), func(e int, at reach.ClassID) reach.Decision { return a.Between(a.ClassOf(e), at) }},
			{x.outside(x.to, a.OutsideTo), func(e int, at reach.ClassID) reach.Decision { return a.Between(at, a.ClassOf(e)) }},
		} {
			got := map[string][]render.Outside{}
			for o := range dir.seq {
				got[o.Workload] = append(got[o.Workload], o)
			}
			for _, w := range x.names {
				for _, text := range probes {
					checkProbe(t, n, a, w, netip.MustParseAddr(text), got[w], dir.ask)
				}
			}
		}
	}
}

func checkProbe(t *testing.T, n *network.Network, a *reach.Analysis, w string, ip netip.Addr, got []render.Outside, ask func(int, reach.ClassID) reach.Decision) {
	t.Helper()
	var want reach.Decision
	for i := range n.Endpoints {
		if n.Endpoints[i].Workload == w {
			want = want.Or(ask(i, a.ClassOfAddr(ip)))
		}
	}
	hits := 0
	for _, o := range got {
		p, err := netip.ParsePrefix(o.Place)
		if err != nil {
			if o.Place != "api.example.com" {
				t.Fatalf("%s: place %q", w, o.Place)
			}
			continue
		}
		if !p.Contains(ip) {
			continue
		}
		if hits++; o.Allow != want.Allow.String() || o.Unknown != want.Unknown.String() {
			t.Fatalf("%s and %s: allow %q unknown %q, wanted %q and %q", w, ip, o.Allow, o.Unknown, want.Allow, want.Unknown)
		}
	}
	if hits > 1 || hits == 1 && want.IsDenied() || hits == 0 && !want.IsDenied() {
		t.Fatalf("%s and %s: %d entries for %q", w, ip, hits, want.May())
	}
}

func TestReachFilter(t *testing.T) {
	n := randomNetwork(rand.New(rand.NewPCG(1, 1)))
	x := newEdges(reach.New(n))
	if err := x.limit(ReachFilter{From: "w0", To: "n/"}); err != nil {
		t.Fatal(err)
	}
	for e := range x.edges() {
		if e.From != "n/Pod/w0" {
			t.Errorf("edge from %s", e.From)
		}
	}
	err := x.limit(ReachFilter{To: "w00"})
	if in, ok := err.(*InputError); !ok || !strings.Contains(in.Hint, "w0") {
		t.Errorf("%v", err)
	}
}
