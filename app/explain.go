package app

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/core/verify"
	"bulkhead/render"
)

// Question asks about an estate, about a policy, or about both.
type Question struct {
	// From and To are names of workloads, addresses, networks, domain names or
	// `internet`.
	From, To string
	Ask      Ask
	// Input is what is deployed; without paths the policy alone is asked.
	Input Input
	// Policy is the path of the policy, empty for that of the directory.
	Policy string
}

// sources are what a question is put to; either may be nil.
type sources struct {
	estate *Estate
	intent *policy.Intent
	bound  *verify.Bindings
}

// sources reads what a question is put to: the policy, if there is one, and
// the estate, if paths are given.
func (e *Env) sources(in Input, policyPath string) (*sources, error) {
	s := &sources{}
	d, err := e.readPolicy(policyPath)
	if err != nil {
		return nil, err
	}
	if d != nil {
		s.intent = d.Intent
	}
	if len(in.Paths) == 0 {
		if d == nil {
			return nil, wrongInput("give a PATH with configuration, or write a policy (bulkhead init drafts one)",
				"there is nothing to ask: no PATH, no ./%s and no ./%s/", PolicyFile, PolicyFolder)
		}
		return s, nil
	}
	if s.estate, err = e.readEstate(in); err != nil {
		return nil, err
	}
	if s.intent != nil {
		b := bind(s.intent, s.estate.Net)
		s.bound = &b
	}
	return s, nil
}

// Explain answers whether one party can reach another, and why.
func (e *Env) Explain(q Question) (*Estate, *render.Answer, error) {
	s, err := e.sources(q.Input, q.Policy)
	if err != nil {
		return nil, nil, err
	}
	out := &render.Answer{From: q.From, To: q.To}
	var from, to *side
	if s.estate != nil {
		if from, err = estateSide(s.estate.Analysis, q.From, s.bound); err != nil {
			return nil, nil, err
		}
		if to, err = estateSide(s.estate.Analysis, q.To, s.bound); err != nil {
			return nil, nil, err
		}
		out.From, out.To = from.name, to.name
	} else {
		for _, name := range []string{q.From, q.To} {
			if err := intentName(s.intent, name); err != nil {
				return nil, nil, err
			}
		}
	}
	if q.Ask, err = q.Ask.settle(s.served(q.To, to)); err != nil {
		return nil, nil, err
	}
	out.Traffic = q.Ask.String()
	if from != nil {
		for _, n := range []string{from.note, to.note} {
			if n != "" {
				out.Notes = append(out.Notes, n)
			}
		}
		deployed(s.estate.Analysis, from, to, q.Ask, out)
	}
	if s.intent != nil {
		s.declared(q, from, to, out)
	}
	return s.estate, out, nil
}

// served returns the ports that a destination declares for requests.
func (s *sources) served(name string, to *side) []uint16 {
	var ports []uint16
	if s.intent != nil {
		if w := s.intent.Workload(name); w != nil {
			for _, svc := range w.Serves {
				if p, _ := policy.ProtocolByName(svc.Protocol.Value); p.Requests != policy.Opaque && svc.Lo == svc.Hi {
					ports = append(ports, svc.Lo)
				}
			}
			return ports
		}
	}
	if to == nil {
		return []uint16{443} // a destination outside
	}
	for _, e := range to.endpoints {
		for _, p := range s.estate.Net.Endpoints[e].Ports {
			if p.Protocol == netset.TCP {
				ports = append(ports, p.Number)
			}
		}
	}
	return ports
}

// deployed asks the estate. Of several classes on a side the one with the
// strongest verdict answers: a party reaches another if one of its parts does.
func deployed(a *reach.Analysis, from, to *side, ask Ask, out *render.Answer) {
	total := totalBetween(a, from, to)
	traffic := ask.traffic()
	if ask.Any {
		traffic = sample(a, total, to)
	}
	var ws []finding.Witness
	for _, f := range from.classes {
		for _, t := range to.classes {
			q := reach.Question{From: f, To: t, FromName: memberName(a, from, f), ToName: memberName(a, to, t), Traffic: traffic}
			ws = append(ws, a.Explain(q))
		}
	}
	d := &render.Deployed{Allow: total.Allow.String(), Unknown: total.Unknown.String()}
	slices.SortStableFunc(ws, func(x, y finding.Witness) int { return int(y.Verdict) - int(x.Verdict) })
	if len(ws) > 0 {
		d.Witness, d.Verdict = ws[0], ws[0].Verdict
	}
	last := d.Verdict
	for _, w := range ws {
		if w.Verdict != last {
			d.Others = append(d.Others, w)
			last = w.Verdict
		}
	}
	if (from.somewhere || to.somewhere) && len(d.Others) > 0 {
		d.Verdict = finding.Unknown
	}
	out.Deployed = d
	if from.outside() && !to.outside() {
		waysIn(a, from, to, ask, out)
	}
}

// totalBetween is everything that passes between any parts of the two; for a
// party that is somewhere, what passes wherever it is.
func totalBetween(a *reach.Analysis, from, to *side) reach.Decision {
	var total reach.Decision
	first := true
	for _, f := range from.classes {
		for _, t := range to.classes {
			d := a.Between(f, t)
			if !first && (from.somewhere || to.somewhere) {
				allow := total.Allow.Intersect(d.Allow)
				total = reach.Decision{Allow: allow, Unknown: total.May().Union(d.May()).Subtract(allow)}
			} else {
				total = total.Or(d)
			}
			first = false
		}
	}
	return total
}

// sample returns one connection that answers a question about anything: one
// that passes, else one that may, else one to a port that is declared.
func sample(a *reach.Analysis, total reach.Decision, to *side) netset.Traffic {
	for _, t := range []netset.Traffic{total.Allow, total.Unknown} {
		for _, e := range to.endpoints {
			for _, p := range a.Net.Endpoints[e].Ports {
				if port := netset.Port(p.Protocol, p.Number); port.Overlaps(t) {
					return port.Intersect(t)
				}
			}
		}
		if p, port, _, ok := t.Example(); ok {
			return t.Intersect(netset.Port(p, port))
		}
	}
	for _, e := range to.endpoints {
		for _, p := range a.Net.Endpoints[e].Ports {
			return netset.Port(p.Protocol, p.Number)
		}
	}
	return netset.Port(netset.TCP, 443)
}

// memberName names the part of a side that is in a class.
func memberName(a *reach.Analysis, s *side, c reach.ClassID) string {
	for _, e := range s.endpoints {
		if a.ClassOf(e) == c {
			return a.Net.Endpoints[e].Name()
		}
	}
	cl := &a.Classes()[c]
	if ip, ok := cl.Addrs.Intersect(s.addrs).Example(); ok && ip.String() != s.name {
		return fmt.Sprintf("%s (%s)", s.name, ip)
	}
	return s.name
}

// waysIn adds the fronts that publish a destination to a question from
// outside. A front that forwards what is asked decides, whatever the layers
// say of the direct way, which needs a route to the workload's own address.
func waysIn(a *reach.Analysis, from, to *side, ask Ask, out *render.Answer) {
	d := out.Deployed
	usable := false
	for _, p := range a.Published() {
		if !slices.Contains(to.endpoints, p.Endpoint) || !p.Clients.Overlaps(from.addrs) {
			continue
		}
		if p.Front.Reach == network.ReachPrivate && from.addrs.SubsetOf(netset.PublicAddrs()) {
			continue
		}
		way := publishedOf(a, p)
		if slices.ContainsFunc(d.WaysIn, func(w render.Published) bool {
			return w.By == way.By && w.At == way.At && w.Allow == way.Allow && w.Pos == way.Pos
		}) {
			continue
		}
		d.WaysIn = append(d.WaysIn, way)
		asked := ask.traffic()
		atFront := !ask.Any && ask.Protocol == p.Route.Protocol && ask.Port == p.Route.Port
		switch {
		case p.Front.Reach != network.ReachUnknown && (p.Allow.Overlaps(asked) || atFront && !p.Allow.IsEmpty()):
			d.Verdict, usable = finding.Allowed, true
		case p.May().Overlaps(asked) || atFront:
			d.Verdict, usable = max(d.Verdict, finding.Unknown), true
		}
	}
	if !usable && d.Verdict != finding.Denied {
		out.Notes = append(out.Notes, "nothing in the input publishes this: it holds for whoever can route to the workload's own address")
	}
}

// declared asks the policy.
func (s *sources) declared(q Question, from, to *side, out *render.Answer) {
	var fe, te []int
	if from != nil {
		fe, te = from.endpoints, to.endpoints
	}
	froms, tos := declaredSide(s.intent, q.From, fe, s.bound), declaredSide(s.intent, q.To, te, s.bound)
	if len(froms) == 0 || len(tos) == 0 {
		name := q.From
		if len(froms) > 0 {
			name = q.To
		}
		out.Declared = &render.Declared{Why: name + " is no workload of the policy, and what is not declared is denied"}
		return
	}
	d := &render.Declared{}
	var total netset.Traffic
	for _, f := range froms {
		for _, t := range tos {
			total = total.Union(s.intent.Between(f, t))
			if d.Verdict != finding.Allowed {
				s.decide(f, t, q.Ask, d)
			}
		}
	}
	d.Allow = total.String()
	out.Declared = d
}

// decide puts one pair of parties to the policy. A denial replaces an earlier
// one only if it has something to say.
func (s *sources) decide(from, to policy.Party, ask Ask, d *render.Declared) {
	if ask.Any {
		for _, p := range s.intent.PermissionsTo(to) {
			if p.From.Has(from) {
				justify(d, p)
				return
			}
		}
		ask = Ask{Protocol: netset.TCP, Port: 443} // denied: only the nearest permission matters
	}
	answer := s.intent.Decide(policy.Question{From: from, To: to, Protocol: ask.Protocol, Port: ask.Port, Request: ask.Request})
	if answer.Allowed {
		justify(d, answer.Permission)
		return
	}
	if d.Why == "" || answer.Nearest != nil {
		d.Why = answer.Why()
		if answer.Nearest != nil {
			d.At = answer.Nearest.Pos.Short()
		}
	}
}

// termsOf says what the egress gateway holds a permission to.
func termsOf(p *policy.Permission) []string {
	if p.To.Kind != policy.OutsideParty || p.Kind == policy.ExposureKind {
		return nil
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if b := p.Budget; b.Bytes.Most > 0 {
		add("each may exchange %s with it in any %s", policy.ByteCount(b.Bytes.Most), policy.Period(b.Bytes.Per))
	}
	if b := p.Budget; b.Requests.Most > 0 {
		add("each may make %d requests in any %s", b.Requests.Most, policy.Period(b.Requests.Per))
	}
	if n := p.Budget.Concurrent; n > 0 {
		add("each may have %d connections open", n)
	}
	switch {
	case p.Inspect:
		add("TLS is ended at the gateway, which reads every request")
	case p.AnyProtocol:
		add("any protocol may be spoken; only the name is checked")
	case len(p.Names) > 0 && p.Kind == policy.EgressKind:
		add("TLS must be for the name that was asked for")
	}
	if p.NoServerName {
		add("TLS may name no server")
	}
	if p.EncryptedHello {
		add("the client hello may be encrypted")
	}
	switch {
	case len(p.Fixed) > 0:
		add("its hosts are at %s", p.Special)
	case !p.Special.IsEmpty() && len(p.Names) > 0:
		add("its hosts may be at %s", p.Special)
	}
	return out
}

func justify(d *render.Declared, p *policy.Permission) {
	*d = render.Declared{
		Verdict: finding.Allowed, Permission: p.Name, At: p.Pos.Short(), Via: p.Via,
		Because: p.Why.Because.Value, Owner: p.Why.Owner.Value,
	}
	if t := p.Why.Until.Time; !t.IsZero() {
		d.Until = t.Format(time.DateOnly)
	}
	if p.ByApplication {
		d.Why = "the application itself limits the access"
	}
	d.Terms = termsOf(p)
	d.Because = strings.TrimSpace(d.Because)
}
