package control

import (
	"sync"
	"time"

	"bulkhead/mesh/generation"
)

// report is what a node says every second, and whenever it put something in
// force.
type report struct {
	Number  uint64        `json:"number"` // in force
	Closed  int           `json:"closed"` // by putting it in force
	Kept    int           `json:"kept"`
	Took    time.Duration `json:"took"`
	Open    int           `json:"open"`
	Refused uint64        `json:"refused,omitempty"` // orders since the node started
	// Problem is what needs a person. Stuck is a generation that the node could
	// not put in force.
	Problem string `json:"problem,omitempty"`
	Stuck   uint64 `json:"stuck,omitempty"`
}

// NodeStatus is a node as control last heard of it.
type NodeStatus struct {
	Name       string    `json:"name"`
	Live       bool      `json:"live"`
	Heard      time.Time `json:"heard,omitzero"`
	Generation uint64    `json:"generation"`
	Open       int       `json:"open"`
	// Refused is how many orders it refused since it started: forged, older, or of
	// another platform.
	Refused uint64 `json:"refused,omitempty"`
	Problem string `json:"problem,omitempty"`
}

const (
	heartbeat = time.Second
	// A node that was not heard of for so long is not live.
	liveWithin = 3500 * time.Millisecond
)

// tracker knows what nodes said last.
type tracker struct {
	mu      sync.Mutex // guards the following
	heard   map[string]heardReport
	changed chan struct{} // closed at the next report, and replaced
}

type heardReport struct {
	report
	at time.Time
}

func (t *tracker) init() {
	t.heard, t.changed = map[string]heardReport{}, make(chan struct{})
}

// hear notes a report.
func (t *tracker) hear(node string, r report, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard[node] = heardReport{r, now}
	close(t.changed)
	t.changed = make(chan struct{})
}

// forget drops a node that is not one any more.
func (t *tracker) forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.heard, node)
}

// get returns the last reports, and a channel that is closed at the next.
func (t *tracker) get(nodes []generation.Node) (map[string]heardReport, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]heardReport, len(nodes))
	for _, n := range nodes {
		if h, ok := t.heard[n.Name]; ok {
			out[n.Name] = h
		}
	}
	return out, t.changed
}

func (t *tracker) status(nodes []generation.Node, now time.Time) []NodeStatus {
	heard, _ := t.get(nodes)
	out := make([]NodeStatus, len(nodes))
	for i, n := range nodes {
		h, ok := heard[n.Name]
		out[i] = NodeStatus{Name: n.Name, Live: ok && h.live(now), Heard: h.at, Generation: h.Number,
			Open: h.Open, Refused: h.Refused, Problem: h.Problem}
	}
	return out
}

func (h heardReport) live(now time.Time) bool { return now.Sub(h.at).Abs() < liveWithin }
