package policy

import (
	"fmt"
	"time"
)

// Quarantine takes every permission of a workload, or of each workload of a
// zone, away. It is an overlay on a policy and not a part of its text.
type Quarantine struct {
	// Target is a workload, or zone/NAME.
	Target   string    `json:"target"`
	Because  string    `json:"because"`
	Operator string    `json:"operator"`
	At       time.Time `json:"at"`
	// KeepEvidence leaves the permissions that are marked as evidence, so that
	// what a workload sends to its log collector still arrives.
	KeepEvidence bool `json:"keepEvidence,omitempty"`
}

func (q *Quarantine) String() string {
	return fmt.Sprintf("%s is quarantined since %s by %s: %s", q.Target, q.At.UTC().Format(time.RFC3339), q.Operator, q.Because)
}

// Quarantined returns the intent without what quarantines take away.
func (in *Intent) Quarantined(list []Quarantine) *Intent {
	if len(list) == 0 {
		return in
	}
	panic("not written yet")
}
