package flow

import (
	"net/netip"
	"sync"
	"time"
)

// Folder hands records to a sink. What is refused again and again would
// drown everything else, so that refusals alike are folded: the first is recorded
// at once, those that follow within a second as one record that says how many
// they are. Nothing is left out of the count, and a probe is never folded.
type Folder struct {
	sink Sink

	mu     sync.Mutex // guards the following
	folded map[foldKey]*fold
	each   map[string]int // how many folds there are of each source
}

// foldKey is what refusals alike have in common.
type foldKey struct {
	event      Event
	side       Side
	transport  string
	from, to   string
	name       string
	source     netip.Addr
	target     netip.AddrPort
	why        string
	generation uint64
	method     string
	status     int
}

// coarse is what remains of a key where one workload is refused in more ways than
// there is room for, as when it tries every port.
func (k foldKey) coarse() foldKey {
	return foldKey{event: k.event, side: k.side, transport: k.transport, from: k.from}
}

type fold struct {
	last  Record
	count uint64
}

const (
	foldTime = time.Second
	// maxEach is how many refusals of one workload are told apart within
	// foldTime, so that it does not push what others did out of the log.
	maxEach = 256
	// maxFolds bounds the memory; beyond it every refusal is a record.
	maxFolds = 1 << 14
)

// NewFolder returns a Folder in front of a sink.
func NewFolder(sink Sink) *Folder {
	return &Folder{sink: sink, folded: map[foldKey]*fold{}, each: map[string]int{}}
}

// Record hands a record on, or counts it with those like it.
func (r *Folder) Record(rec Record) {
	if (rec.Event == Deny || rec.Event == Fail) && rec.Probe == "" && r.fold(rec) {
		return
	}
	r.sink.Record(rec)
}

// fold reports whether a refusal is counted with those like it.
func (r *Folder) fold(rec Record) bool {
	k := foldKey{rec.Event, rec.Side, rec.Transport, rec.From.Workload, rec.To.Workload, rec.To.Name, rec.From.Addr.Addr(), rec.To.Addr, rec.Why, rec.Generation, rec.Method, rec.Status}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.folded[k] == nil && r.each[k.from] >= maxEach {
		k = k.coarse()
	}
	if f := r.folded[k]; f != nil {
		f.last = rec
		f.count++
		return true
	}
	if len(r.folded) < maxFolds {
		r.folded[k] = &fold{}
		r.each[k.from]++
		time.AfterFunc(foldTime, func() { r.unfold(k) })
	}
	return false
}

// unfold records those that followed the first.
func (r *Folder) unfold(k foldKey) {
	r.mu.Lock()
	f := r.folded[k]
	delete(r.folded, k)
	if r.each[k.from]--; r.each[k.from] <= 0 {
		delete(r.each, k.from)
	}
	r.mu.Unlock()
	if f.count > 0 {
		f.last.Count = f.count
		r.sink.Record(f.last)
	}
}
