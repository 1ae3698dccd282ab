package control

import (
	"fmt"
	"slices"

	"bulkhead/core/policy"
)

// Scope is what a quarantine would take away.
type Scope struct {
	Target      string            `json:"target"`
	Workloads   []string          `json:"workloads"`
	Permissions []ScopePermission `json:"permissions"`
	// Already is the quarantine that is there, nil if none is.
	Already *policy.Quarantine `json:"already,omitempty"`
}

// ScopePermission is one permission that would go.
type ScopePermission struct {
	Name string `json:"name"`
	Rule string `json:"rule"` // its place in the policy
	// Evidence says that a quarantine which keeps evidence leaves it.
	Evidence bool `json:"evidence,omitempty"`
}

// Preview says what a quarantine of a target would take away now.
func (c *Control) Preview(target string) (Scope, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.force == nil {
		return Scope{}, fmt.Errorf("platform %q has no generation yet: its policy was not accepted so far", c.o.Platform)
	}
	if err := c.needIntent(); err != nil {
		return Scope{}, err
	}
	parties, err := c.intent.QuarantineTarget(target)
	if err != nil {
		return Scope{}, err
	}
	s := Scope{Target: target}
	for _, p := range parties {
		s.Workloads = append(s.Workloads, p.Name)
	}
	list := c.quarantines()
	if i := slices.IndexFunc(list, func(q policy.Quarantine) bool { return q.Target == target }); i >= 0 {
		s.Already = &list[i]
	}
	in := c.intent.Quarantined(list)
	for i := range in.Permissions {
		p := &in.Permissions[i]
		from := slices.ContainsFunc(parties, p.From.Has)
		to := slices.Contains(parties, p.To) || slices.Contains(s.Workloads, p.Via)
		if from || to {
			s.Permissions = append(s.Permissions, ScopePermission{p.Name, p.Pos.Short(), p.Evidence && !to})
		}
	}
	return s, nil
}
