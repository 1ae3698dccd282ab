package app

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/render"
)

// ClosureQuestion asks what a party reaches or what reaches it.
type ClosureQuestion struct {
	Name string
	Ask  Ask
	// Hops is how far to go; 0 for all the way.
	Hops int
	// Unknown counts what the input does not decide as reached.
	Unknown bool
	Input   Input
	Policy  string
}

// Blast says what can be reached from a party when everything that is reached
// can be made to open further connections.
func (e *Env) Blast(q ClosureQuestion) (*Estate, *render.Closure, error) {
	return e.closure("blast", q)
}

// WhoCanReach says what can reach a party, directly or over others.
func (e *Env) WhoCanReach(q ClosureQuestion) (*Estate, *render.Closure, error) {
	return e.closure("who-can-reach", q)
}

func (e *Env) closure(verb string, q ClosureQuestion) (*Estate, *render.Closure, error) {
	s, err := e.sources(q.Input, q.Policy)
	if err != nil {
		return nil, nil, err
	}
	out := &render.Closure{Verb: verb}
	if s.estate == nil {
		return nil, out, s.declaredClosure(q, out)
	}
	subject, err := estateSide(s.estate.Analysis, q.Name, s.bound)
	if err != nil {
		return nil, nil, err
	}
	if q.Ask, err = q.Ask.settle(s.served(q.Name, subject)); err != nil {
		return nil, nil, err
	}
	out.Subject, out.Traffic = subject.name, q.Ask.String()
	if subject.note != "" {
		out.Notes = append(out.Notes, subject.note)
	}
	c := &closer{edges: newEdges(s.estate.Analysis), q: q, out: out, subject: subject, forward: verb == "blast"}
	c.run()
	return s.estate, out, nil
}

// closer names what a walk over an estate reaches.
type closer struct {
	*edges
	q       ClosureQuestion
	out     *render.Closure
	subject *side
	forward bool
	reached map[int32]*arrival // by workload
	unsure  map[int32]bool     // reached only by what is unknown
}

// arrival is how a workload is first reached.
type arrival struct {
	hops int
	over string
	d    reach.Decision
}

func (c *closer) run() {
	c.out.Of = len(c.names)
	c.reached, c.unsure = map[int32]*arrival{}, map[int32]bool{}
	own := map[int32]bool{}
	for _, e := range c.subject.endpoints {
		if i, ok := slices.BinarySearch(c.names, c.a.Net.Endpoints[e].Workload); ok {
			own[int32(i)] = true
		}
	}
	walk := reach.Spread{Forward: c.forward, First: c.q.Ask.traffic(), Unknown: c.q.Unknown}
	for h := range c.a.Spread(c.subject.classes, walk) {
		c.visit(h, own)
	}
	c.finish(own)
}

func (c *closer) visit(h reach.Hop, own map[int32]bool) {
	for _, w := range c.workloads(h.To) {
		if own[w] {
			continue
		}
		if h.Allow.IsEmpty() && !c.q.Unknown {
			c.unsure[w] = true
			continue
		}
		s := c.reached[w]
		switch {
		case s == nil:
			c.reached[w] = &arrival{h.Far, c.over(h.At, w, h.Far, own), h.Decision}
		case s.hops == h.Far && h.Far == 1:
			s.d = s.d.Or(h.Decision) // another part of the two
		}
	}
}

// over names a workload of the class that a step comes from.
func (c *closer) over(at reach.ClassID, w int32, hops int, own map[int32]bool) string {
	if hops > 1 {
		for _, m := range c.workloads(at) {
			if m != w && !own[m] {
				return c.names[m]
			}
		}
	}
	return c.subject.name
}

func (c *closer) finish(own map[int32]bool) {
	unsure := 0
	for w := range c.unsure {
		if c.reached[w] == nil {
			unsure++
		}
	}
	for w, s := range c.reached {
		if c.q.Hops > 0 && s.hops > c.q.Hops {
			c.out.Cut++
			continue
		}
		c.out.Steps = append(c.out.Steps, render.Step{Name: c.names[w], Hops: s.hops, Over: s.over,
			Allow: s.d.Allow.String(), Unknown: s.d.Unknown.String()})
	}
	sortSteps(c.out.Steps)
	if unsure > 0 {
		c.out.Notes = append(c.out.Notes, fmt.Sprintf("whether %d more can be is not in the input (--strict counts them)", unsure))
	}
	c.places(own)
}

func sortSteps(steps []render.Step) {
	slices.SortFunc(steps, func(a, b render.Step) int {
		return cmp.Or(cmp.Compare(a.Hops, b.Hops), strings.Compare(a.Name, b.Name))
	})
}

// places adds what is outside at the other end of a direct connection.
func (c *closer) places(own map[int32]bool) {
	if c.subject.outside() {
		return
	}
	ask := c.a.OutsideTo
	if c.forward {
		ask = c.a.ToOutside
	}
	limit := c.q.Ask.traffic()
	for _, p := range c.outsideParts(c.subject.classes, func(id reach.ClassID) []reach.OutsideEdge {
		var out []reach.OutsideEdge
		for _, e := range ask(id) {
			e.Allow, e.Unknown = e.Allow.Intersect(limit), e.Unknown.Intersect(limit)
			if !e.IsDenied() {
				out = append(out, e)
			}
		}
		return out
	}) {
		place := p.name
		if place == "" {
			place = p.prefix.String()
		}
		c.out.Outside = append(c.out.Outside, render.Outside{Workload: c.subject.name, Place: place, Grant: p.grant})
	}
	if c.forward {
		c.exits()
		return
	}
	for w := range c.to {
		c.to[w] = own[int32(w)]
	}
	for _, p := range c.published() {
		if p.Reach != network.ReachInside.String() {
			c.out.WaysIn = append(c.out.WaysIn, p)
		}
	}
}

// exits counts the workloads that are reached and can leave anywhere: what
// cannot send data out itself can do so over them.
func (c *closer) exits() {
	open := map[reach.ClassID]bool{}
	n := 0
	for w := range c.reached {
		for _, class := range c.classes[w] {
			is, known := open[class]
			if !known {
				is = opensAnywhere(c.a, class)
				open[class] = is
			}
			if is {
				n++
				break
			}
		}
	}
	if n > 0 {
		c.out.Notes = append(c.out.Notes, fmt.Sprintf("%d of those that can be reached can open connections to all of the internet", n))
	}
}

// declaredClosure answers from the policy alone.
func (s *sources) declaredClosure(q ClosureQuestion, out *render.Closure) error {
	if err := intentName(s.intent, q.Name); err != nil {
		return err
	}
	ask, err := q.Ask.settle(s.served(q.Name, nil))
	if err != nil {
		return err
	}
	out.Subject, out.Traffic, out.Of = q.Name, ask.String(), len(s.intent.Policy.Workloads)
	out.Notes = append(out.Notes, "this is what the policy declares; give a PATH to ask about what is deployed")
	forward := out.Verb == "blast"
	start := declaredSide(s.intent, q.Name, nil, nil)
	names := workloadNames(s.intent)
	seen := map[string]bool{q.Name: true}
	for hops, front := 1, start; len(front) > 0; hops++ {
		var next []policy.Party
		for _, at := range front {
			for _, name := range names {
				other := policy.Party{Kind: policy.WorkloadParty, Name: name}
				pair := [2]policy.Party{other, at}
				if forward {
					pair = [2]policy.Party{at, other}
				}
				t := s.intent.Between(pair[0], pair[1])
				if hops == 1 {
					t = t.Intersect(ask.traffic())
				}
				if t.IsEmpty() || seen[name] {
					continue
				}
				seen[name] = true
				next = append(next, other)
				if q.Hops > 0 && hops > q.Hops {
					out.Cut++
					continue
				}
				out.Steps = append(out.Steps, render.Step{Name: name, Hops: hops, Over: at.Name, Allow: t.String()})
			}
		}
		front = next
	}
	sortSteps(out.Steps)
	s.declaredPlaces(start, ask, forward, out)
	return nil
}

func (s *sources) declaredPlaces(start []policy.Party, ask Ask, forward bool, out *render.Closure) {
	for i := range s.intent.Permissions {
		p := &s.intent.Permissions[i]
		t := p.Traffic.Intersect(ask.traffic())
		for _, at := range start {
			switch {
			case t.IsEmpty():
			case forward && p.From.Has(at) && p.To.Kind == policy.OutsideParty:
				out.Outside = append(out.Outside, render.Outside{Workload: at.Name, Place: p.To.Name, Grant: &render.Grant{Allow: t.String()}})
			case !forward && p.To == at && p.From.Members[0].Kind == policy.OutsideParty:
				out.Outside = append(out.Outside, render.Outside{Workload: at.Name, Place: p.From.Name, Grant: &render.Grant{Allow: t.String()}})
			}
		}
	}
}
