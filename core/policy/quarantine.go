package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"bulkhead/core/source"
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

// Quarantined returns the intent without the permissions from, to or through a
// quarantined workload. A group loses the member, and a permission that nobody
// has left is gone. Evidence that a workload sends to one that is not
// quarantined stays if every quarantine of that workload keeps evidence.
//
// A target that the policy does not know holds nothing, so there is nothing to
// take away; it counts again as soon as a policy names it. To quarantine twice
// is to quarantine by both lists.
func (in *Intent) Quarantined(list []Quarantine) *Intent {
	if len(list) == 0 {
		return in
	}
	base := in
	if in.before != nil {
		base = in.before
	}
	list = slices.Concat(in.quarantines, list)
	out := *base
	out.before, out.quarantines, out.held = base, list, base.hold(list)
	r := reducer{held: out.held, groups: map[reduction]*Group{}}
	out.Permissions = make([]Permission, 0, len(base.Permissions))
	for i := range base.Permissions {
		p := &base.Permissions[i]
		if left := r.left(p); left != nil {
			out.Permissions = append(out.Permissions, *p)
			out.Permissions[len(out.Permissions)-1].From = left
		}
	}
	out.force, out.outside = newIndex(out.Permissions), newOutside(out.Permissions)
	return &out
}

// QuarantineTarget returns the workloads that a target means.
func (in *Intent) QuarantineTarget(target string) ([]Party, error) {
	if zone, ok := strings.CutPrefix(target, ZonePrefix); ok && in.zones[zone] != nil || in.workloads[target] != nil {
		return in.targeted(target), nil
	}
	known := keys(in.workloads)
	for _, z := range keys(in.zones) {
		known = append(known, ZonePrefix+z)
	}
	if in.zones[target] != nil {
		return nil, fmt.Errorf("%q is a zone: write %s%s to quarantine each of its workloads", target, ZonePrefix, target)
	}
	if near := source.Nearest(target, known); near != "" {
		return nil, fmt.Errorf("%q is neither a workload nor a zone of the policy: did you mean %s?", target, near)
	}
	return nil, fmt.Errorf("%q is neither a workload nor a zone of the policy: write WORKLOAD or zone/NAME", target)
}

// targeted returns the workloads that a target means, none if it is not known.
func (in *Intent) targeted(target string) []Party {
	zone, ok := strings.CutPrefix(target, ZonePrefix)
	if !ok {
		if in.workloads[target] == nil {
			return nil
		}
		return []Party{{WorkloadParty, target}}
	}
	var out []Party
	for i := range in.Policy.Workloads {
		w := &in.Policy.Workloads[i]
		if in.InZone(w, zone) && in.workloads[w.Name.Value] == w {
			out = append(out, Party{WorkloadParty, w.Name.Value})
		}
	}
	return out
}

// held says who is quarantined.
type held map[Party]holding

type holding struct {
	by *Quarantine // the first
	// evidence says that all of them keep evidence.
	evidence bool
}

func (in *Intent) hold(list []Quarantine) held {
	out := held{}
	for i := range list {
		q := &list[i]
		for _, party := range in.targeted(q.Target) {
			x, again := out[party]
			if !again {
				x = holding{by: q, evidence: true}
			}
			x.evidence = x.evidence && q.KeepEvidence
			out[party] = x
		}
	}
	return out
}

// takes reports whether a permission of from is taken away because of from.
func (h held) takes(p *Permission, from Party) bool {
	x, ok := h[from]
	return ok && !(p.Evidence && x.evidence)
}

// closes returns the quarantine at the other end of a permission, or on its way,
// nil if there is none.
func (h held) closes(p *Permission) *Quarantine {
	if x, ok := h[p.To]; ok {
		return x.by
	}
	if p.Via == "" {
		return nil
	}
	return h[Party{WorkloadParty, p.Via}].by
}

// cause returns the quarantine that took a permission from a party.
func (h held) cause(p *Permission, from Party) *Quarantine {
	if h.takes(p, from) {
		return h[from].by
	}
	return h.closes(p)
}

// reducer takes quarantined members out of groups, each group once.
type reducer struct {
	held   held
	groups map[reduction]*Group
}

// reduction is a group, as the source of evidence or of anything else.
type reduction struct {
	group    *Group
	evidence bool
}

// left returns who has a permission still: its own group if nobody lost it, nil
// if nobody is left.
func (r *reducer) left(p *Permission) *Group {
	if r.held.closes(p) != nil {
		return nil
	}
	if len(p.From.Members) == 1 {
		if r.held.takes(p, p.From.Members[0]) {
			return nil
		}
		return p.From
	}
	key := reduction{p.From, p.Evidence}
	g, ok := r.groups[key]
	if !ok {
		g = r.reduce(p)
		r.groups[key] = g
	}
	return g
}

func (r *reducer) reduce(p *Permission) *Group {
	var kept []Party
	for _, m := range p.From.Members {
		if !r.held.takes(p, m) {
			kept = append(kept, m)
		}
	}
	switch len(kept) {
	case len(p.From.Members):
		return p.From
	case 0:
		return nil
	}
	return newGroup(p.From.Name, kept)
}
