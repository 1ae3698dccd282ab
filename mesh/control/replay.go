package control

import (
	"fmt"
	"sync"
	"time"
)

// replays refuses messages that were heard before, or that are too old to know.
type replays struct {
	mu    sync.Mutex // guards the following
	nodes map[string]*heard
}

// heard are the nonces of one node, in two halves: when the younger half is older
// than a message may be, the older half is forgotten.
type heard struct {
	young, old map[[nonceSize]byte]bool
	since      time.Time
}

const (
	// window is how far the clocks of a node and of control may be apart.
	window = 2 * time.Minute
	// maxHeard bounds what one node can make control remember: a node that
	// starts 10,000 workloads at once stays far below it.
	maxHeard = 1 << 17
)

// fresh returns an error if m was heard before.
func (r *replays) fresh(m *message, now time.Time) error {
	if d := m.At.Sub(now).Abs(); d > window {
		return fmt.Errorf("the clock of node %s differs by %s from control's, more than %s: set the clocks", m.Node, d.Round(time.Second), window)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes == nil {
		r.nodes = map[string]*heard{}
	}
	h := r.nodes[m.Node]
	if h == nil {
		h = &heard{young: map[[nonceSize]byte]bool{}, since: now}
		r.nodes[m.Node] = h
	}
	if now.Sub(h.since) > 2*window {
		h.old, h.young, h.since = h.young, map[[nonceSize]byte]bool{}, now
	}
	n := [nonceSize]byte(m.Nonce)
	if h.young[n] || h.old[n] {
		return fmt.Errorf("a message of node %s was heard before", m.Node)
	}
	if len(h.young) >= maxHeard {
		return fmt.Errorf("node %s asked more than %d times in %s", m.Node, maxHeard, 2*window)
	}
	h.young[n] = true
	return nil
}
