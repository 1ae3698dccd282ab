package proxy

import (
	"net/netip"
	"sync"
	"time"
)

// probes are the connections that the node said are probes and that have not
// come yet.
type probes struct {
	now func() time.Time

	mu       sync.Mutex // guards expected
	expected map[probeKey]expectedProbe
}

type probeKey struct {
	workload string
	local    netip.AddrPort
}

type expectedProbe struct {
	id    string
	until time.Time
}

const (
	probeTime = 30 * time.Second
	maxProbes = 1 << 14
)

func newProbes(now func() time.Time) *probes {
	return &probes{now: now, expected: map[probeKey]expectedProbe{}}
}

func (s *probes) expect(workload string, local netip.AddrPort, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if len(s.expected) >= maxProbes {
		for k, e := range s.expected {
			if now.After(e.until) {
				delete(s.expected, k)
			}
		}
	}
	if len(s.expected) < maxProbes {
		s.expected[probeKey{workload, netip.AddrPortFrom(local.Addr().Unmap(), local.Port())}] = expectedProbe{id, now.Add(probeTime)}
	}
}

// take returns the id of the probe that a connection is, empty if it is none.
func (s *probes) take(workload string, local netip.AddrPort) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.expected) == 0 {
		return ""
	}
	k := probeKey{workload, local}
	e, ok := s.expected[k]
	delete(s.expected, k)
	if !ok || s.now().After(e.until) {
		return ""
	}
	return e.id
}
