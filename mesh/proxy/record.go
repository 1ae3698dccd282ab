package proxy

import (
	"net/netip"
	"sync"
	"time"

	"bulkhead/mesh/flow"
)

// recorder hands records to the sink. What is refused again and again would
// drown everything else, so that refusals alike are folded: the first is recorded
// at once, those that follow within a second as one record that says how many
// they are. Nothing is left out of the count, and a probe is never folded.
type recorder struct {
	sink flow.Sink

	mu     sync.Mutex // guards the following
	folded map[foldKey]*fold
}

// foldKey is what refusals alike have in common.
type foldKey struct {
	event      flow.Event
	side       flow.Side
	transport  string
	from, to   string
	source     netip.Addr
	target     netip.AddrPort
	why        string
	generation uint64
	method     string
	status     int
}

type fold struct {
	last  flow.Record
	count uint64
}

const (
	foldTime = time.Second
	// maxFolds bounds the memory; beyond it every refusal is a record.
	maxFolds = 4096
)

func newRecorder(sink flow.Sink) *recorder {
	return &recorder{sink: sink, folded: map[foldKey]*fold{}}
}

func (r *recorder) record(rec flow.Record) {
	if (rec.Event == flow.Deny || rec.Event == flow.Fail) && rec.Probe == "" && r.fold(rec) {
		return
	}
	r.sink.Record(rec)
}

// fold reports whether a refusal is counted with those like it.
func (r *recorder) fold(rec flow.Record) bool {
	k := foldKey{rec.Event, rec.Side, rec.Transport, rec.From.Workload, rec.To.Workload, rec.From.Addr.Addr(), rec.To.Addr, rec.Why, rec.Generation, rec.Method, rec.Status}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.folded[k]; f != nil {
		f.last = rec
		f.count++
		return true
	}
	if len(r.folded) < maxFolds {
		r.folded[k] = &fold{}
		time.AfterFunc(foldTime, func() { r.unfold(k) })
	}
	return false
}

// unfold records those that followed the first.
func (r *recorder) unfold(k foldKey) {
	r.mu.Lock()
	f := r.folded[k]
	delete(r.folded, k)
	r.mu.Unlock()
	if f.count > 0 {
		f.last.Count = f.count
		r.sink.Record(f.last)
	}
}
