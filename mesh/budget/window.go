package budget

import (
	"errors"
	"math"
	"time"
)

// window counts what happened in the last time of some length. It has parts of a
// sixtieth of that; the oldest is forgotten when it is wholly past.
type window struct {
	per   time.Duration
	last  int64             // the number of the newest part, counted from 1970
	parts [slots + 1]uint64 // by number, in a ring
	sum   uint64
}

func (w *window) part(now time.Time) int64 { return now.UnixNano() / int64(w.step()) }

func (w *window) step() time.Duration { return max(w.per/slots, 1) }

func (w *window) at(part int64) *uint64 {
	i := part % int64(len(w.parts))
	if i < 0 {
		i += int64(len(w.parts))
	}
	return &w.parts[i]
}

// advance forgets what is past. A clock that was set back stays where it was.
func (w *window) advance(now time.Time) {
	to := w.part(now)
	if w.per == 0 || to <= w.last {
		return
	}
	if to-w.last > slots {
		w.parts, w.sum = [slots + 1]uint64{}, 0
	} else {
		for p := w.last + 1; p <= to; p++ {
			w.sum -= *w.at(p)
			*w.at(p) = 0
		}
	}
	w.last = to
}

func (w *window) used(now time.Time) uint64 {
	w.advance(now)
	return w.sum
}

// room returns how much there may still be.
func (w *window) room(now time.Time, most uint64) uint64 {
	if used := w.used(now); used < most {
		return most - used
	}
	return 0
}

func (w *window) add(now time.Time, n uint64) {
	if w.per == 0 {
		return
	}
	w.advance(now)
	n = min(n, math.MaxUint64-w.sum)
	*w.at(w.last) += n
	w.sum += n
}

// remove takes back what was counted, the newest first.
func (w *window) remove(n uint64) {
	for p := w.last; p > w.last-int64(len(w.parts)) && n > 0; p-- {
		take := min(n, *w.at(p))
		*w.at(p) -= take
		w.sum -= take
		n -= take
	}
}

// again returns when the oldest part that counts is past.
func (w *window) again(now time.Time) time.Time {
	w.advance(now)
	for p := w.last - slots; p <= w.last; p++ {
		if *w.at(p) > 0 {
			return time.Unix(0, (p+slots+1)*int64(w.step()))
		}
	}
	return now
}

// reshape makes it one of another length. What it counted counts as of now: the
// limit never grows by that.
func (w *window) reshape(per time.Duration, now time.Time) {
	if per == w.per {
		return
	}
	sum := w.used(now)
	*w = window{per: per}
	if per > 0 {
		w.last = w.part(now)
		w.add(now, sum)
	}
}

func (w *window) state() windowState {
	s := windowState{Per: w.per, Last: w.last}
	if w.sum == 0 {
		return s
	}
	for p := w.last - slots; p <= w.last; p++ {
		s.Parts = append(s.Parts, *w.at(p))
	}
	return s
}

func (w *window) restore(s windowState) error {
	if s.Per < 0 || len(s.Parts) > slots+1 || len(s.Parts) > 0 && (s.Per == 0 || s.Last < int64(len(s.Parts))) {
		return errors.New("a budget has parts that it cannot have")
	}
	*w = window{per: s.Per, last: s.Last}
	for i, n := range s.Parts {
		if n > math.MaxUint64-w.sum {
			return errors.New("a budget has more than can be counted")
		}
		*w.at(s.Last - int64(len(s.Parts)-1-i)) = n
		w.sum += n
	}
	return nil
}
