package dns

import (
	"hash/maphash"
	"sync"
	"time"
)

// watch remembers of each client what shows a tunnel: which names it asked for,
// how many new ones, how many in vain. It is bounded for each client and in
// clients; the names themselves are not kept.
type watch struct {
	limits Limits
	seed   maphash.Seed

	mu      sync.Mutex // guards clients, and all that they hold
	clients map[string]*watched
}

type watched struct {
	last time.Time
	// names are permitted ones by their hashes, and when they were last asked for.
	names   map[uint64]time.Time
	parents map[uint64]*parent
	fresh   bucket // of names that are not in names
	vain    bucket // of queries that were refused or led to no name
	open    int
}

// parent counts the names below one of two labels, for a minute.
type parent struct {
	since time.Time
	names map[uint64]struct{}
}

const (
	// maxParents is how many parents are counted for one client.
	maxParents = 64
	// few is how many of a map, picked at random, are looked at to find an old one.
	few = 8
)

func newWatch(l Limits) *watch {
	return &watch{limits: l, seed: maphash.MakeSeed(), clients: map[string]*watched{}}
}

// client returns what is known of a client. mu must be held.
func (w *watch) client(name string, now time.Time) *watched {
	c := w.clients[name]
	if c == nil {
		if len(w.clients) >= w.limits.Clients {
			w.forget()
		}
		c = &watched{names: map[uint64]time.Time{}, parents: map[uint64]*parent{}}
		c.fresh = bucket{rate: w.limits.NewNames, size: w.limits.NewNamesBurst}
		c.vain = bucket{rate: w.limits.Refused, size: w.limits.Refused}
		c.fresh.fill(now)
		c.vain.fill(now)
		w.clients[name] = c
	}
	if now.After(c.last) {
		c.last = now
	}
	return c
}

// forget drops a client that was silent for long, and has nothing open.
func (w *watch) forget() {
	name, found, n := "", false, 0
	var last time.Time
	for k, c := range w.clients {
		if c.open == 0 && (!found || c.last.Before(last)) {
			name, last, found = k, c.last, true
		}
		if n++; n >= few && found {
			break
		}
	}
	delete(w.clients, name)
}

// permitted notes a query for a permitted name, and says whether it may be
// answered.
func (w *watch) permitted(client, host string, now time.Time) (sign, bool) {
	look := shape(host)
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.client(client, now)
	id := maphash.String(w.seed, host)
	if _, known := c.names[id]; known {
		c.names[id] = now
		return look, true
	}
	crowded := c.below(w, host, id, now)
	switch {
	case !c.vain.has(now):
		return manyInVain, false
	case !c.fresh.take(now):
		return manyNames, false
	}
	if len(c.names) >= w.limits.Names {
		dropOldest(c.names)
	}
	c.names[id] = now
	if crowded {
		look = manyBelow
	}
	return look, true
}

// refused notes a query for a name that the client may not know.
func (w *watch) refused(client, host string, now time.Time) sign {
	look := shape(host)
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.client(client, now)
	crowded := c.below(w, host, maphash.String(w.seed, host), now)
	switch {
	case !c.vain.take(now):
		return manyInVain
	case crowded:
		return manyBelow
	}
	return look
}

// missing notes that a permitted name does not exist.
func (w *watch) missing(client string, now time.Time) sign {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.client(client, now).vain.take(now) {
		return manyInVain
	}
	return noSign
}

// open takes a place among the names that are resolved for a client.
func (w *watch) open(client string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.client(client, now)
	if c.open >= w.limits.Open {
		return false
	}
	c.open++
	return true
}

func (w *watch) close(client string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.clients[client]; c != nil && c.open > 0 {
		c.open--
	}
}

// below counts a name below its parent, and reports whether there are more in
// this minute than a client has reason to ask for.
func (c *watched) below(w *watch, host string, id uint64, now time.Time) bool {
	above, ok := parentOf(host)
	if !ok {
		return false
	}
	key := maphash.String(w.seed, above)
	p := c.parents[key]
	if p == nil {
		if len(c.parents) >= maxParents {
			c.forgetParent()
		}
		p = &parent{}
		c.parents[key] = p
	}
	if age := now.Sub(p.since); p.names == nil || age >= time.Minute || age < 0 {
		p.since, p.names = now, map[uint64]struct{}{}
	}
	if len(p.names) <= w.limits.Below {
		p.names[id] = struct{}{}
	}
	return len(p.names) > w.limits.Below
}

// forgetParent drops the one of a few with the fewest names: a client cannot
// wash away what it does below one parent with names below many.
func (c *watched) forgetParent() {
	var key uint64
	least, n := -1, 0
	for k, p := range c.parents {
		if least < 0 || len(p.names) < least {
			key, least = k, len(p.names)
		}
		if n++; n == few {
			break
		}
	}
	delete(c.parents, key)
}

func dropOldest(names map[uint64]time.Time) {
	var key uint64
	var last time.Time
	n := 0
	for k, t := range names {
		if n == 0 || t.Before(last) {
			key, last = k, t
		}
		if n++; n == few {
			break
		}
	}
	delete(names, key)
}

// bucket is a token bucket: rate in a minute, size at once.
type bucket struct {
	rate, size int
	left       float64
	at         time.Time
}

func (b *bucket) fill(now time.Time) {
	if b.at.IsZero() {
		b.left = float64(b.size)
	} else if d := now.Sub(b.at); d > 0 {
		b.left = min(b.left+d.Minutes()*float64(b.rate), float64(b.size))
	} else {
		return // a clock that goes back gives nothing
	}
	b.at = now
}

func (b *bucket) has(now time.Time) bool {
	b.fill(now)
	return b.left >= 1
}

func (b *bucket) take(now time.Time) bool {
	if !b.has(now) {
		return false
	}
	b.left--
	return true
}
