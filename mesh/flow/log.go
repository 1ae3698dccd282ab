package flow

import (
	"context"
	"iter"
	"sync"
)

// Log keeps the last records of a node for whoever follows them. It is a Sink.
type Log struct {
	mu   sync.Mutex // guards the following
	ring []Record
	next uint64        // the number of the next record, from 1
	news chan struct{} // closed when a record arrives, and replaced
}

// NewLog returns a log of the last size records.
func NewLog(size int) *Log {
	return &Log{ring: make([]Record, size), next: 1, news: make(chan struct{})}
}

// Record numbers a record and keeps it. It does not block.
func (l *Log) Record(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Seq = l.next
	l.ring[l.next%uint64(len(l.ring))] = r
	l.next++
	close(l.news)
	l.news = make(chan struct{})
}

// Follow yields the records from number from on, 1 for everything that is still
// there, and then those that arrive until ctx ends. Where the reader was too slow,
// the next record says how many it lost.
func (l *Log) Follow(ctx context.Context, from uint64) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		lost := uint64(0)
		for {
			batch, missed, news := l.after(from)
			lost += missed
			for _, r := range batch {
				r.Lost += lost
				lost = 0
				if !yield(r) {
					return
				}
			}
			from += missed + uint64(len(batch))
			if len(batch) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-news:
			}
		}
	}
}

// Next returns the number that the next record will have.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// maxBatch bounds what is copied under the lock.
const maxBatch = 256

// after returns records from number from on, how many before them are gone, and
// a channel that is closed when there are more.
func (l *Log) after(from uint64) (batch []Record, missed uint64, news <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := uint64(len(l.ring))
	first := from
	if l.next > size && first < l.next-size {
		first = l.next - size
	}
	for i := first; i < l.next && len(batch) < maxBatch; i++ {
		batch = append(batch, l.ring[i%size])
	}
	return batch, first - from, l.news
}
