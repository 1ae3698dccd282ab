package proxy

import (
	"errors"
	"fmt"
	"sync"
)

// slots counts what is open, by whom, up to a limit for each, and together up to
// that of the whole node.
type slots struct {
	limit int
	node  *slots // nil for the node's own

	mu   sync.Mutex // guards held
	held map[string]int
}

const (
	// endFiles is how many descriptors one end of a connection takes: the
	// application's and the tunnel's.
	endFiles = 2
	// sparedFiles, or one of sparedPart if that is more, are left to the rest of this
	// process. An operator must be able to quarantine a workload that opens all that
	// it can.
	sparedFiles = 1024
	sparedPart  = 8
	// fairPart is how much of the node one workload gets at most.
	fairPart = 4
)

// newEnds returns the slots of all ends of connections of a node that may have so
// many files open.
func newEnds(files uint64) *slots {
	files = max(files, 2*sparedFiles)
	return &slots{limit: int(min(files-max(sparedFiles, files/sparedPart), 1<<30) / endFiles)}
}

// part returns slots of which each takes one of these too.
func (s *slots) part(limit int) *slots {
	return &slots{limit: min(limit, max(s.limit/fairPart, 1)), node: s}
}

func (s *slots) take(whose string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[whose] >= s.limit || s.node != nil && !s.node.take("") {
		return false
	}
	if s.held == nil {
		s.held = map[string]int{}
	}
	s.held[whose]++
	return true
}

func (s *slots) give(whose string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[whose]--; s.held[whose] <= 0 {
		delete(s.held, whose)
	}
	if s.node != nil {
		s.node.give("")
	}
}

// over says that there are too many: on the whole node, or as own says.
func (s *slots) over(own string) error {
	if s.node != nil && s.node.full() {
		own = fmt.Sprintf("this node has %d connections open", s.node.limit)
	}
	return errors.New(own + ": more are refused")
}

func (s *slots) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[""] >= s.limit
}
