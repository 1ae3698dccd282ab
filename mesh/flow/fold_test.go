package flow

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// A workload that tries every port of everybody must not push what others did
// out of the log: what is refused is counted, and not a record each.
func TestAScanDoesNotFillTheLog(t *testing.T) {
	sink := &kept{}
	r := NewFolder(sink)
	const tries = 40000
	for i := range tries {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, byte(i >> 16), 1}), uint16(i))
		r.Record(Record{Event: Deny, Side: Source, Transport: "tcp", From: Peer{Workload: "a"}, To: Peer{Addr: to}, Why: "no"})
	}
	r.Record(Record{Event: Deny, Side: Source, Transport: "tcp", From: Peer{Workload: "b"}, Why: "no"})
	count := func() (lines, refusals int, of map[string]int) {
		of = map[string]int{}
		for _, rec := range sink.list() {
			lines++
			refusals += max(int(rec.Count), 1)
			of[rec.From.Workload]++
		}
		return
	}
	deadline := time.Now().Add(20 * time.Second)
	lines, refusals, of := count()
	for refusals < tries+1 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		lines, refusals, of = count()
	}
	if refusals != tries+1 || lines > 20*maxEach || of["b"] != 1 {
		t.Errorf("%d records of %d refusals, by workload %v", lines, refusals, of)
	}
}

// kept is a sink that keeps everything.
type kept struct {
	mu  sync.Mutex
	all []Record
}

func (k *kept) Record(r Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, r)
}

func (k *kept) list() []Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.all)
}
