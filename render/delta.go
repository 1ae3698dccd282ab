package render

import (
	"bulkhead/core/network"
	"bulkhead/core/verify"
)

// Delta is the difference of two versions of a policy or of configuration.
type Delta struct {
	Tool Tool
	// What is compared: `policy` or `configuration`.
	What          string
	Before, After string
	verify.Delta
	// Coverage is that of the later side, nil for policies.
	Coverage *network.Coverage
}

// Wider returns how many changes let more through than before.
func (d *Delta) Wider() int {
	n := 0
	for _, cs := range [][]verify.Change{d.Edges, d.Exposures, d.Egress} {
		for i := range cs {
			if !cs[i].Added.IsEmpty() {
				n++
			}
		}
	}
	return n
}
