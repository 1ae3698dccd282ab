package probe

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
)

// Evidence holds the flow records of cases until they are judged. Its methods may
// be called from any goroutine.
type Evidence struct {
	mu    sync.Mutex // guards the following
	cases map[string]*held
	// dialled finds the case of a record that has no probe id: the kernel's.
	dialled map[socket]string
}

type socket struct {
	workload string
	local    netip.AddrPort
}

// held are the records of one case.
type held struct {
	records []flow.Record
	news    chan struct{} // closed when there is another, and replaced
}

// maxRecords is how many records of one case are kept. None has as many.
const maxRecords = 32

// NewEvidence returns what waits for the records of cases.
func NewEvidence(cases []*Case) *Evidence {
	e := &Evidence{cases: make(map[string]*held, len(cases)), dialled: map[socket]string{}}
	for _, c := range cases {
		e.cases[c.ID] = &held{news: make(chan struct{})}
	}
	return e
}

// Dials says from where a case is about to dial.
func (e *Evidence) Dials(workload string, local netip.AddrPort, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dialled[socket{workload, local}] = id
}

// Record takes a record. One that is of no case is dropped.
func (e *Evidence) Record(r flow.Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := r.Probe
	if id == "" && r.Event == flow.Deny {
		id = e.dialled[socket{r.From.Workload, r.From.Addr}]
	}
	h := e.cases[id]
	if h == nil || len(h.records) >= maxRecords {
		return
	}
	h.records = append(h.records, r)
	close(h.news)
	h.news = make(chan struct{})
}

// settleWithin is how long records may come after what they are of.
const settleWithin = 2 * time.Second

// Settle judges a case as soon as its records allow it.
func (e *Evidence) Settle(ctx context.Context, c *Case, o *Observation) report.ProbeResult {
	late := time.NewTimer(settleWithin)
	defer late.Stop()
	for {
		e.mu.Lock()
		h := e.cases[c.ID]
		records, news := h.records[:len(h.records):len(h.records)], h.news
		e.mu.Unlock()
		r, final := Judge(c, o, records)
		if final {
			return r
		}
		select {
		case <-news:
		case <-late.C:
			return r
		case <-ctx.Done():
			return r
		}
	}
}
