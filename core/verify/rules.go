package verify

import (
	"fmt"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/core/source"
)

// DeadRules finds rules of an estate that do nothing: those that select no
// endpoint, those whose peers are nobody, and those that earlier rules shadow.
// A misspelt selector looks just like that.
func DeadRules(a *reach.Analysis) []finding.Finding {
	var out []finding.Finding
	seen := map[source.Pos]bool{}
	for li := range a.Net.Layers {
		for _, tables := range a.Net.Layers[li].Tables {
			for ti := range tables {
				t := &tables[ti]
				// An isolation and the rules beside it are one object: it is
				// reported once.
				dead := map[network.PredicateID]bool{}
				for _, iso := range t.Isolates {
					if len(a.Means(iso.Subject)) > 0 {
						continue
					}
					dead[iso.Subject] = true
					if !seen[iso.Pos] {
						seen[iso.Pos] = true
						out = append(out, selectsNothing(iso.Name, iso.Pos))
					}
				}
				for ri := range t.Rules {
					r := &t.Rules[ri]
					if seen[r.Pos] || dead[r.Subject] {
						continue
					}
					if f, dead := deadRule(a, r); dead {
						seen[r.Pos] = true
						out = append(out, f)
					}
				}
				if t.Ordered {
					out = append(out, shadowed(a, t)...)
				}
			}
		}
	}
	return out
}

func selectsNothing(name string, pos source.Pos) finding.Finding {
	f := finding.New("selects-nothing", finding.Low, name, "")
	f.Title = name + " selects nothing in the input"
	f.Detail = "A misspelt label looks the same as a policy whose workload is deployed elsewhere."
	f.Pos, f.Remedy = pos, "correct its selector, remove it, or add the workload to the input"
	return f
}

func deadRule(a *reach.Analysis, r *network.Rule) (finding.Finding, bool) {
	if len(a.Means(r.Subject)) == 0 {
		return selectsNothing(r.Name, r.Pos), true
	}
	for _, p := range r.Peers {
		if len(a.Means(p)) > 0 {
			return finding.Finding{}, false
		}
	}
	if len(r.Peers) == 0 {
		return finding.Finding{}, false
	}
	f := finding.New("peer-is-nobody", finding.Low, r.Name, "")
	f.Title = r.Name + " names peers that nothing in the input is"
	f.Pos, f.Remedy = r.Pos, "correct the peer's selector, or add the workload to the input"
	return f, true
}

// shadowed finds rules of an ordered table that never decide: everything they
// match, for every subject and peer, is decided by surer rules before them.
func shadowed(a *reach.Analysis, t *network.Table) []finding.Finding {
	var out []finding.Finding
	for i := range t.Rules {
		r := &t.Rules[i]
		if by := shadower(a, t, i); by != nil {
			f := finding.New("shadowed-rule", finding.Low, r.Name, "")
			f.Title = fmt.Sprintf("%s never decides: %s comes first and matches all of it", r.Name, by.Name)
			f.Pos = r.Pos
			f.Notes = []source.Note{{Pos: by.Pos, Text: "the rule that decides instead"}}
			f.Remedy = "remove it, or move it before the other"
			out = append(out, f)
		}
	}
	return out
}

// shadower returns a single earlier rule that matches all that rule i does.
func shadower(a *reach.Analysis, t *network.Table, i int) *network.Rule {
	r := &t.Rules[i]
	if len(r.Named) > 0 || len(a.Means(r.Subject)) == 0 {
		return nil
	}
	for j := range t.Rules {
		s := &t.Rules[j]
		before := s.Priority < r.Priority || s.Priority == r.Priority && s.Group == r.Group && j < i
		if before && s.Uncertain == "" && r.Traffic.SubsetOf(s.Traffic) && !r.Traffic.Equal(netset.Traffic{}) &&
			subset(a, []network.PredicateID{r.Subject}, []network.PredicateID{s.Subject}) && subset(a, r.Peers, s.Peers) {
			return s
		}
	}
	return nil
}

// subset reports whether every class that one of ps may mean is one that one
// of qs certainly means.
func subset(a *reach.Analysis, ps, qs []network.PredicateID) bool {
	sure := map[reach.ClassID]bool{}
	for _, q := range qs {
		if a.Net.Predicates()[q].Everything {
			return true
		}
		for _, c := range a.Means(q) {
			if a.Match(q, c) == network.Yes {
				sure[c] = true
			}
		}
	}
	for _, p := range ps {
		if a.Net.Predicates()[p].Everything {
			return false
		}
		for _, c := range a.Means(p) {
			if !sure[c] {
				return false
			}
		}
	}
	return true
}
