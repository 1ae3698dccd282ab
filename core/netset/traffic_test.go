package netset

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The model of a Traffic is the plain set of (protocol, value, request) over a
// universe small enough to enumerate.
type trafficPoint struct {
	p    Protocol
	v    uint16
	path string
}

var (
	modelValues = map[Protocol][]uint16{
		TCP: {1, 2, 3, 80, 81, 65534, 65535}, UDP: {1, 53, 65535}, SCTP: {1, 65535},
		ICMP: {0, 1, 8 << 8, 8<<8 | 255, 65535}, ICMPv6: {0, 128 << 8}, Other: {0, 47, 255},
	}
	modelPaths = []string{"/", "/a", "/b", "/a/b"}
)

func trafficUniverse() []trafficPoint {
	var out []trafficPoint
	for p := range protocols {
		for _, v := range modelValues[p] {
			for _, path := range modelPaths {
				out = append(out, trafficPoint{p, v, path})
			}
		}
	}
	return out
}

func has(t Traffic, k trafficPoint) bool {
	return t.HasRequest(k.p, k.v, Request{Method: "GET", Host: "h", Path: k.path})
}

type modelled struct {
	t Traffic
	m map[trafficPoint]bool
}

func genTraffic(t *rapid.T) modelled {
	out := modelled{m: map[trafficPoint]bool{}}
	for range rapid.IntRange(0, 4).Draw(t, "parts") {
		p := Protocol(rapid.IntRange(0, int(protocols)-1).Draw(t, "protocol"))
		lo := rapid.SampledFrom(modelValues[p]).Draw(t, "lo")
		hi := rapid.SampledFrom(modelValues[p]).Draw(t, "hi")
		part := Ports(p, lo, hi)
		limit := func(string) bool { return true }
		switch rapid.IntRange(0, 3).Draw(t, "requests") {
		case 0:
			path := rapid.SampledFrom(modelPaths).Draw(t, "path")
			part = part.Limit(RequestsOf(Pattern{Hosts: AnyString(), Paths: Exact(path)}))
			limit = func(s string) bool { return s == path && (p == TCP || p == UDP) }
		case 1:
			part = part.Limit(RequestsOf(Pattern{Methods: []string{"GET"}, Hosts: AnyString(), Paths: Prefix("/a")}))
			limit = func(s string) bool { return s[:min(2, len(s))] == "/a" && (p == TCP || p == UDP) }
		}
		out.t = out.t.Union(part)
		for _, k := range trafficUniverse() {
			if k.p == p && lo <= k.v && k.v <= hi && limit(k.path) {
				out.m[k] = true
			}
		}
	}
	return out
}

func TestTrafficEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genTraffic(t), genTraffic(t)
		for _, k := range trafficUniverse() {
			for _, c := range []struct {
				name string
				got  Traffic
				want bool
			}{
				{"a", a.t, a.m[k]},
				{"union", a.t.Union(b.t), a.m[k] || b.m[k]},
				{"intersect", a.t.Intersect(b.t), a.m[k] && b.m[k]},
				{"subtract", a.t.Subtract(b.t), a.m[k] && !b.m[k]},
				{"complement", All().Subtract(a.t), !a.m[k]},
				{"without requests", a.t.AnyRequests(), anyPath(a.m, k)},
			} {
				if has(c.got, k) && !c.got.Opens(k.p, k.v) {
					t.Fatalf("%s of %v and %v has %v and does not open its port", c.name, a.t, b.t, k)
				}
				if has(c.got, k) != c.want {
					t.Fatalf("%s of %v and %v has %v: %v, want %v", c.name, a.t, b.t, k, !c.want, c.want)
				}
			}
		}
	})
}

func anyPath(m map[trafficPoint]bool, k trafficPoint) bool {
	for _, p := range modelPaths {
		if m[trafficPoint{k.p, k.v, p}] {
			return true
		}
	}
	return false
}

// TestTrafficIsCanonical: equal sets are equal values however they were made.
func TestTrafficIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genTraffic(t).t, genTraffic(t).t
		same := func(law string, x, y Traffic) {
			if !x.Equal(y) || x.Key() != y.Key() || x.String() != y.String() {
				t.Fatalf("%s: %q and %q differ", law, x, y)
			}
		}
		same("commutative union", a.Union(b), b.Union(a))
		same("commutative intersection", a.Intersect(b), b.Intersect(a))
		same("partition", a.Subtract(b).Union(a.Intersect(b)), a)
		same("De Morgan", All().Subtract(a.Union(b)), All().Subtract(a).Intersect(All().Subtract(b)))
		same("twice complemented", All().Subtract(All().Subtract(a)), a)
		if a.SubsetOf(b) != a.Union(b).Equal(b) {
			t.Fatal("SubsetOf and Union disagree")
		}
		if a.Overlaps(b) == a.Intersect(b).IsEmpty() {
			t.Fatal("Overlaps and Intersect disagree")
		}
		if (a.Key() == b.Key()) != a.Equal(b) {
			t.Fatal("Key and Equal disagree")
		}
		if p, v, r, ok := a.Example(); ok == a.IsEmpty() || ok && !a.HasRequest(p, v, r) {
			t.Fatalf("example %v/%d %v of %v", p, v, r, a)
		}
	})
}

func TestTrafficString(t *testing.T) {
	get := RequestsOf(Pattern{Methods: []string{"GET"}, Hosts: AnyString(), Paths: AnyString()})
	cases := []struct {
		t    Traffic
		want string
	}{
		{Traffic{}, ""},
		{All(), "all"},
		{Port(TCP, 5432).Union(Ports(TCP, 6000, 6010)).Union(Port(UDP, 53)), "TCP 5432,6000-6010; UDP 53"},
		{Whole(TCP), "TCP 1-65535"},
		{Whole(TCP).Union(Whole(UDP)).Union(Whole(SCTP)), "TCP 1-65535; UDP 1-65535; SCTP 1-65535"},
		{Ports(TCP, 0, 0), ""},
		{Whole(ICMP), "ICMP"},
		{ICMPTypes(ICMP, 8, 8), "ICMP 8"},
		{ICMPType(ICMPv6, 3, 4), "ICMPv6 3/4"},
		{Port(Other, 47), "IP 47"},
		{Port(TCP, 8080).Limit(get).Union(Port(TCP, 443)).Union(Port(TCP, 9090).Limit(get)), "TCP 443; TCP 8080,9090 [" + get.String() + "]"},
	}
	for _, c := range cases {
		if got := c.t.String(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if c.t.HasRequests() {
			continue
		}
		back, err := ParseTraffic(c.want)
		if err != nil || !back.Equal(c.t) {
			t.Errorf("%q parses as %q, %v", c.want, back, err)
		}
	}
	for _, bad := range []string{"tcp/0", "TCP 70000", "FOO 1", "TCP 9-1", "ICMP 300", "TCP 1,,2", "TCP -"} {
		if got, err := ParseTraffic(bad); err == nil {
			t.Errorf("%q was read as %q", bad, got)
		}
	}
}

func FuzzParseTraffic(f *testing.F) {
	for _, s := range []string{"all", "TCP 80", "tcp/443", "UDP 53-60; ICMP 8/0", "IP 47", ";", "TCP 1-65535,5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseTraffic(s)
		if err != nil {
			return
		}
		b, err := ParseTraffic(a.String())
		if err != nil || !a.Equal(b) {
			t.Fatalf("%q prints as %q, which reads as %v, %v", s, a, b, err)
		}
	})
}

func BenchmarkUnion(b *testing.B) {
	var x, y Traffic
	for i := range uint16(50) {
		x = x.Union(Port(TCP, 1000+i*20))
		y = y.Union(Ports(TCP, 1005+i*20, 1010+i*20))
	}
	for b.Loop() {
		_ = x.Union(y)
	}
}

func ExampleTraffic_Subtract() {
	open := Ports(TCP, 8000, 9000).Union(Port(UDP, 53))
	fmt.Println(open.Subtract(Port(TCP, 8265)))
	// Output: TCP 8000-8264,8266-9000; UDP 53
}
