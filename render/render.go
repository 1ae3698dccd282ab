// Package render holds what is printed: the values that use-cases return. The
// formats are in the folders below, one each; they know these values and
// nothing of each other or of how the values came about.
//
// A value holds everything that its use-case found. What a format leaves out
// for brevity it says, with the way to see it.
package render

import (
	"slices"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
)

// Tool is the program that found something.
type Tool struct {
	Name, Version, URI string
}

// Report is what a use-case has found.
type Report struct {
	Tool Tool
	// Verb is the use-case and At the time that expiry was judged by.
	Verb string
	At   time.Time
	// Inputs are the paths as the user gave them.
	Inputs   []string
	Findings []finding.Finding
	// Diagnostics are what is wrong with the input itself.
	Diagnostics source.Diagnostics
	// Coverage is nil where no configuration was read.
	Coverage    *network.Coverage
	Assumptions []network.Assumption
	// Facts summarise, in the order in which they are worth reading.
	Facts []Fact
}

// Fact is one number or word of a summary. Name is for machines, Says for
// people: `share` and `8.2% of pairs can talk`.
type Fact struct {
	Name, Value, Says string
}

// Unknown reports whether f says that something could not be decided, and not
// that it is wrong.
func Unknown(f *finding.Finding) bool { return f.Facts["verdict"] == "unknown" }

// Counts returns how many findings there are of each severity.
func (r *Report) Counts() map[finding.Severity]int {
	counts := map[finding.Severity]int{}
	for i := range r.Findings {
		counts[r.Findings[i].Severity]++
	}
	return counts
}

// Gap is a set of ignored objects that were ignored for one reason.
type Gap struct {
	Why     string
	Matters bool
	Members []network.Ignored
}

// Gaps groups what was not understood by the reason, what matters first and
// then by number.
func Gaps(c *network.Coverage) []Gap {
	if c == nil {
		return nil
	}
	type key struct {
		why     string
		matters bool
	}
	index := map[key]int{}
	var out []Gap
	for _, ig := range c.Ignored {
		k := key{ig.Why, ig.Matters}
		i, ok := index[k]
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, Gap{Why: ig.Why, Matters: ig.Matters})
		}
		out[i].Members = append(out[i].Members, ig)
	}
	slices.SortStableFunc(out, func(a, b Gap) int {
		if a.Matters != b.Matters {
			if a.Matters {
				return -1
			}
			return 1
		}
		return len(b.Members) - len(a.Members)
	})
	return out
}

// Lowered reports whether something was ignored that could change a verdict.
func Lowered(c *network.Coverage) bool {
	return c != nil && slices.ContainsFunc(c.Ignored, func(i network.Ignored) bool { return i.Matters })
}
