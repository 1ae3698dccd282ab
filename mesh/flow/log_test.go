package flow_test

import (
	"context"
	"sync"
	"testing"

	"bulkhead/mesh/flow"
)

func TestFollowCountsWhatItLost(t *testing.T) {
	l := flow.NewLog(4)
	for range 10 {
		l.Record(flow.Record{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var seqs []uint64
	for r := range l.Follow(ctx, 1) {
		if len(seqs) == 0 && r.Lost != 6 {
			t.Errorf("the first record says %d were lost, want 6", r.Lost)
		}
		seqs = append(seqs, r.Seq)
	}
	if len(seqs) != 4 || seqs[0] != 7 || seqs[3] != 10 {
		t.Errorf("got %v, want 7 to 10", seqs)
	}
}

// TestEveryRecordIsSeenOrCounted: whatever the timing, numbers and losses add up.
func TestEveryRecordIsSeenOrCounted(t *testing.T) {
	const n = 20000
	l := flow.NewLog(64)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			next := uint64(1)
			for r := range l.Follow(ctx, 1) {
				if r.Seq != next+r.Lost {
					t.Errorf("record %d says that %d were lost, expected %d next", r.Seq, r.Lost, next)
					return
				}
				if next = r.Seq + 1; r.Seq == n {
					return
				}
			}
		})
	}
	for range n {
		l.Record(flow.Record{})
	}
	readers.Wait()
}
