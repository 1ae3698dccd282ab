package dns

import (
	"hash/maphash"
	"sync"
	"time"
)

const shards = 16

// cache holds what lookups led to, for as long as that counts. It is bounded:
// what is soon to end makes room.
type cache struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu    sync.RWMutex
	limit int
	held  map[string]held
}

type held struct {
	answer Answer
	err    error
	until  time.Time
}

func newCache(limit int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i] = shard{limit: max(limit/shards, 1), held: map[string]held{}}
	}
	return c
}

func (c *cache) shard(host string) *shard {
	return &c.shards[maphash.String(c.seed, host)%shards]
}

func (c *cache) get(host string, now time.Time) (h held, ok bool) {
	s := c.shard(host)
	s.mu.RLock()
	h, ok = s.held[host]
	s.mu.RUnlock()
	left := h.until.Sub(now)
	if !ok || left <= 0 {
		return held{}, false
	}
	h.answer.TTL = left
	return h, true
}

func (c *cache) put(host string, h held) {
	s := c.shard(host)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[host]; !ok && len(s.held) >= s.limit {
		s.makeRoom()
	}
	s.held[host] = h
}

// makeRoom drops the one of a few, which a map picks at random, that ends
// first: looking at all would let each new name cost the whole cache.
func (s *shard) makeRoom() {
	var first string
	var until time.Time
	n := 0
	for host, h := range s.held {
		if n == 0 || h.until.Before(until) {
			first, until = host, h.until
		}
		if n++; n == few {
			break
		}
	}
	delete(s.held, first)
}
