package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Recall is a Resolver that remembers which addresses names had, so that a
// connection to an address can be held against the name that it claims. Clients
// keep addresses for longer than their TTL.
type Recall struct {
	Resolver
	now func() time.Time

	mu    sync.RWMutex // guards the following
	pairs map[pair]time.Time
	addrs map[netip.Addr]int // how many names have it
}

type pair struct {
	host string
	addr netip.Addr
}

const (
	// recallTime is how long an address counts as one that a name had.
	recallTime = 12 * time.Hour
	// recallFresh is how old a memory may be before it is renewed.
	recallFresh = time.Minute
	// maxPairs bounds the memory; the oldest half goes when it is full.
	maxPairs = 1 << 16
)

// NewRecall returns a Recall that knows nothing yet.
func NewRecall(r Resolver, now func() time.Time) *Recall {
	return &Recall{Resolver: r, now: now, pairs: map[pair]time.Time{}, addrs: map[netip.Addr]int{}}
}

// Lookup asks the Resolver and remembers.
func (r *Recall) Lookup(ctx context.Context, host string) (Answer, error) {
	a, err := r.Resolver.Lookup(ctx, host)
	if err == nil {
		r.remember(host, a.Addrs)
	}
	return a, err
}

func (r *Recall) remember(host string, addrs []netip.Addr) {
	now := r.now()
	r.mu.RLock()
	fresh := true
	for _, a := range addrs {
		at, ok := r.pairs[pair{host, a.Unmap()}]
		fresh = fresh && ok && now.Sub(at) < recallFresh
	}
	r.mu.RUnlock()
	if fresh {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pairs)+len(addrs) > maxPairs {
		r.forget(now)
	}
	for _, a := range addrs {
		p := pair{host, a.Unmap()}
		if _, ok := r.pairs[p]; !ok {
			r.addrs[p.addr]++
		}
		r.pairs[p] = now
	}
}

// forget drops what is old, and more of it while that is not enough. The lock is
// held.
func (r *Recall) forget(now time.Time) {
	for limit := recallTime; len(r.pairs) > maxPairs/2; limit /= 2 {
		for p, at := range r.pairs {
			if now.Sub(at) >= limit {
				delete(r.pairs, p)
				if r.addrs[p.addr]--; r.addrs[p.addr] <= 0 {
					delete(r.addrs, p.addr)
				}
			}
		}
	}
}

// Had reports whether a name had an address lately.
func (r *Recall) Had(host string, addr netip.Addr) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	at, ok := r.pairs[pair{host, addr.Unmap()}]
	return ok && r.now().Sub(at) < recallTime
}

// Known reports whether any name had an address lately.
func (r *Recall) Known(addr netip.Addr) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.addrs[addr.Unmap()] > 0
}
