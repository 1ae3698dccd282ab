// Package targettest is the conformance suite that every target must pass.
//
// It draws random policies and matching estates, compiles each policy, reads
// the estate together with the compiled configuration through the target's own
// importer, and compares what package reach says of the result with what the
// policy allows, packet by packet. The two may differ only where the residue
// that the target computed says so, and only in the direction that it says:
//
//   - what a narrower residue names is taken out of the policy first, so that
//     it must be denied, and nothing else may be;
//   - what is allowed beyond that must lie within a wider residue: in the ports
//     of the permission that it names, between the parties that it names.
//
// The side of the policy asks [policy.Intent.Decide] and the members of each
// permission for single packets; it shares no set arithmetic with the
// compilers, so that it is an oracle for them.
package targettest

import (
	"net/netip"
	"path"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
)

// Suite is a target with what the suite cannot know of it.
type Suite struct {
	Target target.Limited
	// Bind draws bindings for the workloads of a policy, valid and invalid.
	Bind func(*rapid.T, *policy.Policy)
	// Estate draws what is deployed: everything that is bound, and things that
	// the policy does not know.
	Estate func(*rapid.T, *policy.Intent) Estate
	// Resolvers are the resolvers of package policy that the target knows.
	Resolvers []string
	// Widens says, of the wider limits that open places beyond those that a
	// permission names, which. The other wider limits of a permission open more
	// of its ports to the same places.
	Widens map[string]func(p *policy.Permission, place Place) bool
	// Everywhere reports whether a wider residue that names nothing covers
	// traffic between two places.
	Everywhere func(limit string, from, to Place) bool
	// Examples are policies whose residue together has every limit.
	Examples []*policy.Policy
}

// Estate is what is deployed before anything was compiled.
type Estate struct {
	Files    []target.File
	Deployed []Deployed
	Options  target.Options
}

// Deployed says what an endpoint of the estate is.
type Deployed struct {
	// Name is the workload by its name in the network.
	Name string
	// Is the party that it is, without a name for what the policy does not know.
	Is policy.Party
	// Unselectable says that no rule of the target can mean it. A narrower
	// residue of its workload must then say so.
	Unselectable bool
	// Like lists workloads that the target may not be able to tell it from.
	Like []string
}

// Place is one side of a connection.
type Place struct {
	Deployed
	// Endpoint is set for endpoints; otherwise the place is outside, at Addr or
	// with a domain name.
	Endpoint *network.Endpoint
	Addr     netip.Addr
	Domain   string

	class reach.ClassID
}

// Outside reports whether p is no endpoint.
func (p *Place) Outside() bool { return p.Endpoint == nil }

func (p *Place) String() string {
	switch {
	case p.Domain != "":
		return p.Domain
	case p.Outside():
		return p.Addr.String()
	}
	return p.Endpoint.Name()
}

// now is the time for which policies are resolved.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("limits are documented", s.limitsAreDocumented)
	t.Run("every limit occurs", s.everyLimitOccurs)
	t.Run("what is read back is what is declared", func(t *testing.T) {
		rapid.Check(t, s.CheckRandom)
	})
}

// CheckRandom draws a policy and an estate and compares them.
func (s Suite) CheckRandom(t *rapid.T) {
	p := drawPolicy(t, s.Resolvers)
	s.Bind(t, p)
	in, _ := policy.Resolve(p, now)
	s.Check(t, in, s.Estate(t, in))
}

func (s Suite) limitsAreDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range s.Target.Limits() {
		if seen[l.ID] {
			t.Errorf("limit %s is listed twice", l.ID)
		}
		seen[l.ID] = true
		if l.ID == "" || l.What == "" || l.Source == "" || l.Since == "" || l.Fix == "" {
			t.Errorf("limit %+v leaves something out", l)
		}
		if _, err := time.Parse(time.DateOnly, l.Verified); err != nil {
			t.Errorf("limit %s: %v", l.ID, err)
		}
	}
	for id := range s.Widens {
		if !seen[id] {
			t.Errorf("Widens names the unknown limit %s", id)
		}
	}
}

// everyLimitOccurs checks that no limit is documented that nothing has.
func (s Suite) everyLimitOccurs(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range s.Examples {
		in, ds := policy.Resolve(p, now)
		if ds.HasErrors() {
			t.Errorf("an example is not a valid policy: %v", ds)
		}
		for _, r := range s.compile(t, in).Residue {
			seen[r.Limit] = true
		}
	}
	for _, l := range s.Target.Limits() {
		if !seen[l.ID] {
			t.Errorf("no example has limit %s", l.ID)
		}
	}
}

// compile compiles twice and checks what holds for every output.
func (s Suite) compile(t rapid.TB, in *policy.Intent) target.Output {
	t.Helper()
	out := s.Target.Compile(in)
	again, _ := policy.Resolve(in.Policy, in.At)
	if second := s.Target.Compile(again); !reflect.DeepEqual(out, second) {
		t.Fatalf("compiling the same policy twice gives different output")
	}
	seen := map[string]bool{}
	for _, f := range out.Files {
		if seen[f.Path] || f.Path != path.Clean(f.Path) || path.IsAbs(f.Path) || f.Path[0] == '.' {
			t.Fatalf("bad or repeated path %q", f.Path)
		}
		seen[f.Path] = true
	}
	limits := s.Target.Limits()
	for _, r := range out.Residue {
		i := slices.IndexFunc(limits, func(l target.Limit) bool { return l.ID == r.Limit })
		switch {
		case i < 0:
			t.Fatalf("residue of the undocumented limit %q: %s", r.Limit, r.Says)
		case limits[i].Wider != r.Wider:
			t.Fatalf("residue of %s: wider is %v, and %v in the limit", r.Limit, r.Wider, limits[i].Wider)
		case r.Says == "" || r.Fix == "":
			t.Fatalf("residue %+v leaves something out", r)
		}
	}
	return out
}

// Check compiles an intent and compares it with what is read back.
func (s Suite) Check(t rapid.TB, in *policy.Intent, e Estate) {
	t.Helper()
	out := s.compile(t, in)
	a := s.read(t, e, out.Files)
	o := &oracle{suite: &s, in: in, residue: out.Residue}
	o.prepare()
	places := o.places(t, e, a)
	packets := o.packets()
	for i := range places {
		for j := range places {
			from, to := &places[i], &places[j]
			// A connection comes from an address, not from a name.
			if from.Domain != "" || from.Outside() && to.Outside() || !o.known(from) && !o.known(to) {
				continue
			}
			o.compare(t, from, to, decide(a, from, to), packets)
			if t.Failed() {
				dump(t, e.Files, out)
				return
			}
		}
	}
}

// read imports an estate together with compiled files. Nothing in them may be
// wrong or left unread.
func (s Suite) read(t rapid.TB, e Estate, compiled []target.File) *reach.Analysis {
	t.Helper()
	im, err := s.Target.NewImporter(e.Options)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var ds source.Diagnostics
	files := append(slices.Clone(e.Files), compiled...)
	for _, f := range files {
		for v, d := range yamldoc.Documents(f.Path, f.Data, yamldoc.ManifestLimits) {
			if d != nil {
				ds = append(ds, *d)
			} else if !im.Add(target.Document{Value: v}) {
				t.Errorf("%s: the importer does not know this object", v.Pos())
			}
		}
	}
	n := &network.Network{}
	for _, d := range append(ds, im.Finish(n)...) {
		t.Errorf("%s", d)
	}
	for _, ig := range n.Coverage.Ignored {
		if ig.Matters {
			t.Errorf("%s: %s %s is not understood: %s", ig.Pos, ig.Kind, ig.Name, ig.Why)
		}
	}
	if t.Failed() {
		dump(t, files, target.Output{})
		t.FailNow()
	}
	return reach.New(n)
}

func dump(t rapid.TB, files []target.File, out target.Output) {
	for _, f := range append(slices.Clone(files), out.Files...) {
		t.Logf("--- %s\n%s", f.Path, f.Data)
	}
	for _, r := range out.Residue {
		t.Logf("residue %s (wider: %v) of %q: %s", r.Limit, r.Wider, r.Permission, r.Says)
	}
}
