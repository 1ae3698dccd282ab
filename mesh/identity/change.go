package identity

import (
	"math/rand/v2"
	"sync"
	"time"
)

// change tells any number of readers that something changed. A reader that is
// slow sees the last change, not each.
type change struct {
	mu sync.Mutex
	ch chan struct{} // nil while nobody waits
}

// next returns a channel that is closed at the next change.
func (c *change) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		c.ch = make(chan struct{})
	}
	return c.ch
}

func (c *change) happened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch != nil {
		close(c.ch)
		c.ch = nil
	}
}

// retry says when something that did not succeed is tried again.
type retry struct {
	failures int
	at       time.Time
}

const maxBackoff = 30 * time.Second

// due reports whether it is time. A time that lies further ahead than any pause
// was set before the clock was.
func (r retry) due(now time.Time) bool {
	return !now.Before(r.at) || r.at.Sub(now) > maxBackoff
}

// failed waits longer after each failure, and not the same time everywhere.
func (r *retry) failed(now time.Time) {
	pause := min(time.Second<<min(r.failures, 10), maxBackoff)
	r.failures++
	r.at = now.Add(pause/2 + rand.N(pause/2))
}
