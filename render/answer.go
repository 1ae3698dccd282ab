package render

import "bulkhead/core/finding"

// Answer answers whether one party can reach another.
type Answer struct {
	From, To string
	// Traffic is what was asked for; empty for anything at all.
	Traffic string
	// Deployed is the answer of the configuration, Declared that of the
	// policy; nil where there is none.
	Deployed *Deployed
	Declared *Declared
	Notes    []string
}

// Differ reports whether the configuration and the policy disagree. What is
// declared through a gateway says nothing of the direct way.
func (a *Answer) Differ() bool {
	return a.Deployed != nil && a.Declared != nil && a.Declared.Via == "" && a.Deployed.Verdict != a.Declared.Verdict
}

// Deployed is what the configuration lets through, with the path.
type Deployed struct {
	Verdict finding.Verdict
	Witness finding.Witness
	// Allow and Unknown are everything that passes between the two.
	Allow, Unknown string
	// Others are the parts of the two parties for which the verdict differs.
	Others []finding.Witness
	// WaysIn are the fronts that publish the destination, for a question from
	// outside.
	WaysIn []Published
}

// Declared is what the policy says.
type Declared struct {
	Verdict finding.Verdict
	// Allow is everything that is declared between the two.
	Allow string
	// Permission names what decides, or what came closest; At is its place.
	Permission string
	At         string
	Why        string
	// Via is the gateway that a declared egress goes through.
	Via string
	// Terms are what the gateway holds it to besides: budgets, inspection, what it
	// accepts, one line each.
	Terms []string
	// Because, Owner and Until justify a permission that decides.
	Because, Owner, Until string
}

// Closure is what can be reached, directly or over others, from one party, or
// what can reach it.
type Closure struct {
	// Verb is blast or who-can-reach, Subject the party in question and
	// Traffic what was asked for, empty for anything.
	Verb, Subject, Traffic string
	// Steps are ordered by hops, then name.
	Steps []Step
	// Outside are the places outside at one end of a direct connection.
	Outside []Outside
	// WaysIn are the fronts that publish the subject.
	WaysIn []Published
	// Cut is the number of parties further away than was asked for.
	Cut int
	// Of is the number of workloads in the estate or policy.
	Of    int
	Notes []string
}

// Step is a party in a [Closure].
type Step struct {
	Name string
	// Hops is the length of the shortest chain of connections and Over the
	// neighbour that the last of them comes from, or the first goes to.
	Hops    int
	Over    string
	Allow   string
	Unknown string
}
