package dns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestCachedIsFree: the gateway asks for every request, so that what is in memory
// costs no memory.
func TestCachedIsFree(t *testing.T) {
	c := newClient(honest(300))
	c.Lookup(t.Context(), host)
	if n := testing.AllocsPerRun(100, func() {
		if a, err := c.Lookup(t.Context(), host); err != nil || len(a.Addrs) != 2 {
			t.Fatal(a, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookupCached(b *testing.B) {
	c := newClient(honest(300))
	for i := range 1000 {
		c.Lookup(b.Context(), fmt.Sprintf("n%d.example.com", i))
	}
	c.Lookup(b.Context(), host)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.Lookup(b.Context(), host); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	c := NewClient(ClientOptions{Servers: []netip.AddrPort{first}, Dial: world{first.String(): honest(300)}.dial, Now: func() time.Time { return time.Unix(1e9, 0) }})
	s, _ := newServer(func(o *ServerOptions) { o.Resolver, o.Record = c, func(Query) {} })
	for _, name := range []string{"search.internal", "pypi.org", "evil.test"} {
		q := packed(ask(name, dnsmessage.TypeA, 1232))[0]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s.Answer(b.Context(), "trainer", q, true) == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}
