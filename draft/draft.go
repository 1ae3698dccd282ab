// Package draft guesses a policy from an estate: zones from what workloads
// were recognised as, workloads from what is deployed, flows from what the
// estate lets through today.
//
// A draft is permissive first: it declares what already works, so that
// nothing breaks on the day it is enforced, and marks every guess with a
// comment that says what it rests on. It promises that the draft is free of
// errors and invariant findings (what today's estate breaks is relaxed, with
// a date), and that no flow it declares is denied by the estate.
package draft

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/core/verify"
)

// Options are what a draft is made from.
type Options struct {
	Analysis *reach.Analysis
	// Recognise says what an endpoint is, best guess first.
	Recognise func(endpoint int) []verify.Recognised
	// Describe returns the binding of an endpoint, Bound the endpoints that a
	// binding means or may mean.
	Describe func(endpoint int) (policy.Binding, bool)
	Bound    func(policy.Binding) []int
	// Resolvers are the endpoints of the estate's resolvers by name. They are
	// declared by the short form and not as workloads.
	Resolvers map[string][]int
	// Catalogue are the destinations that the draft may name.
	Catalogue []policy.Destination
	// Now dates the draft.
	Now time.Time
}

// Draft is a policy together with what was guessed about its parts. Comments
// are keyed by section and by name or index, Header is about the whole.
type Draft struct {
	Policy   *policy.Policy
	Header   string
	Zones    map[string]string // comments by name
	Works    map[string]string
	Flows    []string // comments by index
	Egress   []string
	Exposed  []string
	Relaxed  []string
	Warnings []string // what was left open, for the header
}

// review is how long after its making a draft's dated parts hold.
const review = 90

// drafter makes one draft.
type drafter struct {
	Options
	out   Draft
	units []unit
	byEnd map[int]int // endpoint → unit
	// sources remembers who can use a service, by what its unit is alike.
	sources map[string]sourceSet
}

type sourceSet struct {
	key  string
	from []bool
}

// unit is what becomes one workload of the policy: the endpoints that one
// binding can tell from all others.
type unit struct {
	name      string
	titles    []string // deployed names
	endpoints []int
	bindings  []policy.Binding
	zone      string
	services  []service
	known     []verify.Recognised
	classes   string // what classesOf returns, once asked
}

type service struct {
	name, protocol string
	traffic        netset.Traffic
	lo             uint16
}

// New drafts a policy.
func New(o Options) Draft {
	d := &drafter{Options: o, byEnd: map[int]int{}, sources: map[string]sourceSet{}}
	d.out.Policy = &policy.Policy{Platform: text("my-ai-platform"), Destinations: o.Catalogue}
	d.out.Zones, d.out.Works = map[string]string{}, map[string]string{}
	d.findUnits()
	d.zones()
	d.services()
	d.workloads()
	d.flows()
	d.dns()
	d.exposures()
	d.egress()
	d.control()
	d.relax()
	d.header()
	return d.out
}

func text(s string) policy.Text { return policy.Text{Value: s} }

func (d *drafter) until() policy.Date {
	day := d.Now.UTC().Truncate(24*time.Hour).AddDate(0, 0, review)
	return policy.Date{Time: day}
}

// why is the justification of a guess.
func (d *drafter) why(because string, dated bool) policy.Why {
	w := policy.Why{Because: text(because), Owner: text("unassigned")}
	if dated {
		w.Until = d.until()
	}
	return w
}

// findUnits groups the endpoints, resolvers left out: those of one part of a
// deployed workload, and those that no binding tells apart.
func (d *drafter) findUnits() {
	skip := map[int]bool{}
	for _, es := range d.Resolvers {
		for _, e := range es {
			skip[e] = true
		}
	}
	net := d.Analysis.Net
	bindings := map[int]policy.Binding{}
	group := make([]int, len(net.Endpoints)) // a forest: the parent of each
	for i := range group {
		group[i] = i
	}
	root := func(i int) int {
		for group[i] != i {
			group[i] = group[group[i]]
			i = group[i]
		}
		return i
	}
	join := func(i, j int) {
		if a, b := root(i), root(j); a != b {
			group[max(a, b)] = min(a, b)
		}
	}
	byName := map[string]int{}
	for i := range net.Endpoints {
		e := &net.Endpoints[i]
		if e.Kind != network.Workload || skip[i] {
			continue
		}
		if first, ok := byName[e.Name()]; ok {
			join(first, i)
		} else {
			byName[e.Name()] = i
		}
		bindings[i], _ = d.Describe(i)
		for _, j := range d.Bound(bindings[i]) {
			if net.Endpoints[j].Kind == network.Workload && !skip[j] {
				join(i, j)
			}
		}
	}
	index := map[int]int{}
	for i := range net.Endpoints {
		b, ok := bindings[i]
		if !ok {
			continue
		}
		u, ok := index[root(i)]
		if !ok {
			u = len(d.units)
			index[root(i)] = u
			d.units = append(d.units, unit{known: d.Recognise(i)})
		}
		d.units[u].add(net.Endpoints[i].Name(), i, b)
	}
	slices.SortFunc(d.units, func(a, b unit) int { return strings.Compare(a.titles[0], b.titles[0]) })
	for u := range d.units {
		for _, e := range d.units[u].endpoints {
			d.byEnd[e] = u
		}
	}
	d.name()
}

func (u *unit) add(title string, endpoint int, b policy.Binding) {
	u.endpoints = append(u.endpoints, endpoint)
	if !slices.Contains(u.titles, title) {
		u.titles = append(u.titles, title)
	}
	if !slices.ContainsFunc(u.bindings, func(o policy.Binding) bool { return fmt.Sprint(o.Fields) == fmt.Sprint(b.Fields) }) {
		u.bindings = append(u.bindings, b)
	}
}

// name gives each unit the shortest name that is its own: the object's, with
// the part, with the scope, with the kind, and at last with a number.
func (d *drafter) name() {
	taken := map[string]int{policy.All: 1, "zone": 1}
	forms := func(u *unit) []string {
		e := &d.Analysis.Net.Endpoints[u.endpoints[0]]
		scope, kind, object := splitName(e.Workload)
		part := slug(e.Part)
		if len(u.titles) > 1 {
			part = "" // the unit is more than this part
		}
		join := func(parts ...string) string {
			return slug(strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "-"))
		}
		return []string{join(object, part), join(scope, object, part), join(scope, kind, object, part)}
	}
	for level := range 3 {
		count := map[string]int{}
		for u := range d.units {
			if d.units[u].name == "" {
				count[forms(&d.units[u])[level]]++
			}
		}
		for u := range d.units {
			if f := forms(&d.units[u])[level]; d.units[u].name == "" && count[f] == 1 && taken[f] == 0 && f != "" {
				d.units[u].name = f
				taken[f] = 1
			}
		}
	}
	for u := range d.units {
		for n := 2; d.units[u].name == ""; n++ {
			base := cmp.Or(forms(&d.units[u])[0], "workload")
			f := slug(fmt.Sprintf("%.55s-%d", base, n))
			if taken[f] == 0 {
				d.units[u].name, taken[f] = f, 1
			}
		}
	}
}

func splitName(workload string) (scope, kind, object string) {
	parts := strings.SplitN(workload, "/", 3)
	if len(parts) < 3 {
		return "", "", workload
	}
	return parts[0], strings.ToLower(parts[1]), parts[2]
}

// slug turns text into a name of the policy language: lower case letters,
// digits and dashes, at most 63, beginning and ending with a letter or digit.
func slug(s string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() == 63 {
			break
		}
	}
	return strings.Trim(b.String(), "-")
}

// zones puts what was recognised into a zone of its role, and the rest into a
// zone for its scope.
func (d *drafter) zones() {
	roles := map[string]int{}
	scopes := map[string]int{}
	for u := range d.units {
		un := &d.units[u]
		if len(un.known) > 0 && un.known[0].Role != "" && un.known[0].Role != string(policy.Custom) {
			un.zone = un.known[0].Role
			roles[un.zone]++
			continue
		}
		scope, _, _ := splitName(un.titles[0])
		un.zone = cmp.Or(slug(scope), "other")
		if slices.Contains(policy.Roles, policy.Role(un.zone)) {
			un.zone += "-other"
		}
		scopes[un.zone]++
	}
	for _, r := range policy.Roles {
		if n := roles[string(r)]; n > 0 {
			d.out.Policy.Zones = append(d.out.Policy.Zones, policy.Zone{Name: text(string(r)), Role: text(string(r))})
			d.out.Zones[string(r)] = fmt.Sprintf("guess: %s recognised as belonging to %s; see each below", count(n, "workload was", "workloads were"), r)
		}
	}
	names := make([]string, 0, len(scopes))
	for n := range scopes {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		d.out.Policy.Zones = append(d.out.Policy.Zones, policy.Zone{Name: text(n), Role: text(string(policy.Custom))})
		d.out.Zones[n] = fmt.Sprintf("guess: %s of %s not recognised; move those that have a role", count(scopes[n], "workload", "workloads"), strings.TrimSuffix(n, "-other"))
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (d *drafter) workloads() {
	for u := range d.units {
		un := &d.units[u]
		w := policy.Workload{Name: text(un.name), Zone: text(un.zone)}
		for _, s := range un.services {
			_, hi := span(s)
			w.Serves = append(w.Serves, policy.Service{Name: text(s.name), Protocol: text(s.protocol), Lo: s.lo, Hi: hi})
		}
		w.Bindings = un.bindings
		comment := strings.Join(un.titles, ", ")
		if len(un.known) > 0 {
			comment += fmt.Sprintf("; guess: %s, recognised by %s", un.known[0].Title, strings.Join(un.known[0].Evidence, ", "))
		}
		if len(un.titles) > 1 {
			comment += "\none workload, since no label tells these apart; give them labels of their own to separate them"
		}
		d.out.Policy.Workloads = append(d.out.Policy.Workloads, w)
		d.out.Works[un.name] = comment
	}
}

func span(s service) (lo, hi uint16) {
	runs := s.traffic.Runs()
	return runs[0].Lo, runs[0].Hi
}
