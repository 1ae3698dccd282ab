package budget

import (
	"sync"
	"time"
)

// clock is the time of a ledger, in nanoseconds since 1970 as far as it knows. It
// begins where the system's or the saved one is, whichever is later, and goes on by
// what passes, never back. Where readings are monotonic, as those of [time.Now] are,
// setting the system's clock has no effect.
type clock struct {
	read   func() time.Time
	first  time.Time // the first reading
	origin int64     // the ledger's time then

	mu   sync.Mutex // guards the following
	last time.Time  // the latest reading
	at   int64
}

// endOfTime is far in the future, and far from overflowing.
const endOfTime = 1 << 62

func (c *clock) start(read func() time.Time, saved int64) {
	c.read, c.first = read, read()
	c.origin = saved
	if s := c.first.Unix(); s > saved/int64(time.Second) && s < endOfTime/int64(time.Second) {
		c.origin = c.first.UnixNano()
	}
	c.last, c.at = c.first, c.origin
}

func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = c.read()
	c.at = max(c.at, c.of(c.last))
	return c.at
}

// of returns the ledger's time of a reading, were it not for what came before.
func (c *clock) of(t time.Time) int64 {
	return c.origin + min(int64(t.Sub(c.first)), endOfTime-c.origin)
}

// shown turns a time of this clock into one of the system's.
func (c *clock) shown(t time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Add(time.Duration(t.UnixNano() - c.of(c.last))).Round(0)
}
