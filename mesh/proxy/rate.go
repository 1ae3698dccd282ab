package proxy

import (
	"sync"

	"golang.org/x/time/rate"

	"bulkhead/core/policy"
)

// rates are the caps of permissions: one limiter for each source, destination
// and service, shared by all their connections. They are enforced where the
// connection is captured, so that bytes count once. Where several permissions
// name the three, the lowest rate counts, whichever of them allowed.
//
// A changed rate holds for what is open too. What was opened without a cap stays
// without one: it is moved by a path that counts nothing.
type rates struct {
	mu    sync.Mutex                            // guards the following
	rated map[policy.Party][]*policy.Permission // those with a rate, by To
	held  map[rateKey]*heldRate
}

type rateKey struct {
	from, to policy.Party
	service  string
}

type heldRate struct {
	limiter *rate.Limiter
	users   int
}

func newRates() *rates { return &rates{held: map[rateKey]*heldRate{}} }

// minBurst is what may pass at once under any cap: the largest datagram.
const minBurst = 64 << 10

// burstOf is what may pass at once: a twentieth of a second's worth.
func burstOf(r uint64) int { return int(min(max(r/20, minBurst), 1<<30)) }

// take returns the limiter of a connection, nil if it has no cap. The caller must
// give it back.
func (s *rates) take(q policy.Question, service string) *rate.Limiter {
	k := rateKey{q.From, q.To, service}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[k]
	if h == nil {
		r := s.lowest(k)
		if r == 0 {
			return nil
		}
		h = &heldRate{limiter: rate.NewLimiter(rate.Limit(r), burstOf(r))}
		s.held[k] = h
	}
	h.users++
	return h.limiter
}

// give takes back what take returned. A limiter with a rate is kept, since a
// workload could otherwise get a new burst with each connection.
func (s *rates) give(l *rate.Limiter, q policy.Question, service string) {
	if l == nil {
		return
	}
	k := rateKey{q.From, q.To, service}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[k]
	h.users--
	s.drop(k, h)
}

// follow brings every limiter to what a new generation says.
func (s *rates) follow(in *policy.Intent) {
	rated := map[policy.Party][]*policy.Permission{}
	for i := range in.Permissions {
		if p := &in.Permissions[i]; p.Rate > 0 {
			rated[p.To] = append(rated[p.To], p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rated = rated
	for k, h := range s.held {
		if r := s.lowest(k); r > 0 {
			h.limiter.SetBurst(burstOf(r))
			h.limiter.SetLimit(rate.Limit(r))
		} else {
			h.limiter.SetLimit(rate.Inf)
		}
		s.drop(k, h)
	}
}

// drop forgets a limiter without a rate that nobody uses. The caller holds mu.
func (s *rates) drop(k rateKey, h *heldRate) {
	if h.users == 0 && h.limiter.Limit() == rate.Inf {
		delete(s.held, k)
	}
}

// lowest returns the rate that is declared for k, 0 for none. The caller holds
// mu.
func (s *rates) lowest(k rateKey) uint64 {
	lowest := uint64(0)
	for _, p := range s.rated[k.to] {
		if p.From.Has(k.from) && p.Service != nil && p.Service.Name.Value == k.service && (lowest == 0 || p.Rate < lowest) {
			lowest = p.Rate
		}
	}
	return lowest
}
