package budget

import (
	"cmp"
	"math"
	"slices"
	"time"

	"bulkhead/core/policy"
)

// counter counts the same in windows of every length that a limit is or was for, so
// that other limits never make it forget. What is counted while there is no limit is
// not counted.
type counter []*window

// window counts what happened in the last time of some length. It has parts of a
// sixtieth of that; the part at hand and sixty before it count, so that a time of
// that length, wherever it ends in the part at hand, is within them.
type window struct {
	per   time.Duration
	step  int64             // the length of a part, in nanoseconds
	last  int64             // the number of the newest part, counted from 1970
	until int64             // when that one ends
	parts [slots + 1]uint64 // by number, in a ring
	sum   uint64
}

const (
	slots = 60
	// maxPer bounds the lengths, so that no time overflows.
	maxPer = 366 * 24 * time.Hour
)

func (c counter) find(per time.Duration) *window {
	for _, w := range c {
		if w.per == per {
			return w
		}
	}
	return nil
}

// cover sees to a window of a length, 0 for none. A new one counts what others
// remember.
func (c *counter) cover(per time.Duration, now int64) {
	if per <= 0 || per > maxPer || c.find(per) != nil {
		return
	}
	w := newWindow(per)
	w.advance(now)
	if from := c.nearest(per); from != nil {
		from.advance(now)
		for p := from.last - slots; p <= from.last; p++ {
			// As late in its part as it can have been.
			w.addAt(min(now, (p+1)*from.step-1), *from.at(p))
		}
	}
	*c = append(*c, w)
	slices.SortFunc(*c, func(a, b *window) int { return cmp.Compare(a.per, b.per) })
}

// nearest returns the shortest window that is long enough, or else the longest.
func (c counter) nearest(per time.Duration) *window {
	for _, w := range c {
		if w.per >= per {
			return w
		}
	}
	return c.longest()
}

func (c counter) longest() *window {
	if len(c) == 0 {
		return nil
	}
	return c[len(c)-1]
}

func (c counter) add(now int64, n uint64) {
	if n == 0 {
		return
	}
	for _, w := range c {
		w.advance(now)
		w.addAt(now, n)
	}
}

// room returns how much there may still be besides what is granted.
func (c counter) room(now int64, limit policy.Amount, granted uint64) uint64 {
	if limit.Most == 0 {
		return math.MaxUint64
	}
	w := c.find(limit.Per)
	if w == nil {
		return 0 // a limit for a time that no policy has
	}
	w.advance(now)
	if used := plus(w.sum, granted); used < limit.Most {
		return limit.Most - used
	}
	return 0
}

// again returns when there is room, zero if what is granted leaves none.
func (c counter) again(now int64, limit policy.Amount, granted uint64) time.Time {
	w := c.find(limit.Per)
	if w == nil || granted >= limit.Most {
		return time.Time{}
	}
	w.advance(now)
	left := w.sum
	p := w.last - slots
	for ; p < w.last; p++ {
		if left -= *w.at(p); left < limit.Most-granted {
			break
		}
	}
	return time.Unix(0, (p+slots+1)*w.step)
}

// used returns what was used in a time for which there is a window, or in the
// longest for which there is one.
func (c counter) used(now int64, per time.Duration) uint64 {
	w := c.find(per)
	if w == nil {
		w = c.longest()
	}
	if w == nil {
		return 0
	}
	w.advance(now)
	return w.sum
}

// forget drops the windows that are empty.
func (c *counter) forget(now int64) {
	*c = slices.DeleteFunc(*c, func(w *window) bool {
		w.advance(now)
		return w.sum == 0
	})
}

// newWindow returns an empty window. Parts are rounded up, so that slots of them are
// no shorter than it.
func newWindow(per time.Duration) *window {
	step := (int64(per)-1)/slots + 1
	return &window{per: per, step: step, until: step}
}

func (w *window) at(part int64) *uint64 {
	i := part % int64(len(w.parts))
	if i < 0 {
		i += int64(len(w.parts))
	}
	return &w.parts[i]
}

// advance forgets what is past.
func (w *window) advance(now int64) {
	if now < w.until {
		return
	}
	to := now / w.step
	if to-w.last > slots {
		w.parts, w.sum, w.last = [slots + 1]uint64{}, 0, to-1
	}
	for w.last < to {
		w.last++
		w.sum -= *w.at(w.last)
		*w.at(w.last) = 0
	}
	w.until = (to + 1) * w.step
}

// addAt counts what happened at a time that is not past the newest part; what is
// before the oldest no longer counts.
func (w *window) addAt(t int64, n uint64) {
	p := t / w.step
	if p < w.last-slots {
		return
	}
	n = min(n, math.MaxUint64-w.sum)
	*w.at(p) += n
	w.sum += n
}
