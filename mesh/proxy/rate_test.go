package proxy

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

func capped(rate string) string {
	return strings.Replace(basic, flowAB, "{from: a, to: b/plain, rate: "+rate+", because: x, owner: y}", 1)
}

// TestRate: all connections of a pair share the cap, in both directions.
func TestRate(t *testing.T) {
	pf := newPlatform(t, capped("8MiB/s"))
	pf.server("b", 9000, func(c *net.TCPConn) {
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	within(t, "8 MiB/s", 8<<20, func() float64 { return pf.measure(time.Second) })
	// What is open follows a changed generation.
	c := pf.dial("a", pf.at("b", 9000))
	io.ReadFull(c, make([]byte, 1<<20))
	pf.enforce(capped("2MiB/s"))
	io.ReadFull(c, make([]byte, 2<<20)) // what was on the way
	within(t, "2 MiB/s", 2<<20, func() float64 {
		start := time.Now()
		io.ReadFull(c, make([]byte, 2<<20))
		return 2 << 20 / time.Since(start).Seconds()
	})
}

// within reports a cap that is missed by more than 15 %. A machine that does
// something else for a while may miss it, but not each time.
func within(t *testing.T, what string, limit float64, measure func() float64) {
	t.Helper()
	var got float64
	for range 4 {
		if got = measure(); got > limit*0.85 && got < limit*1.15 {
			return
		}
	}
	t.Errorf("%.2f MiB/s under a cap of %s", got/(1<<20), what)
}

// measure reads with three connections and returns the bytes per second.
func (pf *platform) measure(d time.Duration) float64 {
	var mu sync.Mutex
	total := 0
	var readers sync.WaitGroup
	start := time.Now()
	for range 3 {
		c := pf.dial("a", pf.at("b", 9000))
		c.SetDeadline(start.Add(d))
		readers.Go(func() {
			n, _ := io.Copy(io.Discard, c)
			mu.Lock()
			total += int(n)
			mu.Unlock()
			c.SetLinger(0)
			c.Close()
		})
	}
	readers.Wait()
	return float64(total) / time.Since(start).Seconds()
}

func TestRateOfSeveralPermissions(t *testing.T) {
	a, b := policy.Party{Kind: policy.WorkloadParty, Name: "a"}, policy.Party{Kind: policy.WorkloadParty, Name: "b"}
	q := policy.Question{From: a, To: b, Protocol: netset.TCP, Port: 9000}
	two := capped("3MiB/s") + "  - {from: zone/one, to: b/plain, rate: 1MiB/s, because: x, owner: y}\n"
	r := newRates()
	if r.take(q, "plain") != nil {
		t.Error("there is a cap before any generation")
	}
	r.follow(resolve(t, two))
	l := r.take(q, "plain")
	if l == nil || l.Limit() != 1<<20 {
		t.Fatalf("%v", l)
	}
	if other := r.take(q, "plain"); other != l {
		t.Error("two connections have two caps")
	}
	if r.take(q, "wide") != nil || r.take(policy.Question{From: policy.Party{Name: "c"}, To: b}, "plain") != nil {
		t.Error("another pair has the cap")
	}
	r.give(l, q, "plain")
	r.give(l, q, "plain")
	if r.take(q, "plain") != l {
		t.Error("a new connection gets a new burst")
	}
	r.follow(resolve(t, basic))
	if l.Limit() != rate.Inf {
		t.Error("a cap outlives its generation")
	}
	r.follow(resolve(t, capped("5MiB/s")))
	if l.Limit() != 5<<20 {
		t.Errorf("%v", l.Limit())
	}
	r.follow(resolve(t, basic))
	r.give(l, q, "plain")
	if len(r.held) != 0 {
		t.Errorf("%d limiters are kept", len(r.held))
	}
}
