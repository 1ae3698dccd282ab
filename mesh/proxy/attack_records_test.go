package proxy

import (
	"net/netip"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

// A workload that tries every port of everybody must not push what others did
// out of the log: what is refused is counted, and not a record each.
func TestAScanDoesNotFillTheLog(t *testing.T) {
	sink := &records{}
	r := newRecorder(sink)
	const tries = 40000
	for i := range tries {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, byte(i >> 16), 1}), uint16(i))
		r.record(flow.Record{Event: flow.Deny, Side: flow.Source, Transport: "tcp", From: flow.Peer{Workload: "a"}, To: flow.Peer{Addr: to}, Why: "no"})
	}
	r.record(flow.Record{Event: flow.Deny, Side: flow.Source, Transport: "tcp", From: flow.Peer{Workload: "b"}, Why: "no"})
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
