package egress

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
)

// base is what every record of a request says.
func (a *ask) base(e flow.Event, verdict string) flow.Record {
	g := a.s.g
	r := flow.Record{
		ID: a.id, Time: g.o.Now(), Event: e, Node: g.o.Node, Side: flow.Gateway,
		From: a.s.c.Peer, To: flow.Peer{Name: a.target.Host, Addr: a.addr}, Transport: "tcp", Wire: a.s.c.Wire,
		Verdict: verdict, Rule: registry.RuleOf(a.permission()), Generation: a.verdict.Generation, Probe: a.s.c.Probe,
		Aliases: strings.Join(a.answer.Aliases, " "),
	}
	switch {
	case r.To.Addr.IsValid():
	case a.target.Addr.IsValid():
		r.To.Addr = netip.AddrPortFrom(a.target.Addr, a.target.Port)
	default:
		r.To.Port = a.target.Port
	}
	if p := a.permission(); p != nil {
		r.To.Service = p.To.Name
	}
	if a.request != nil {
		r.Method = a.request.Method[:min(len(a.request.Method), 20)]
	}
	if r.Generation == 0 {
		r.Generation = g.generation()
	}
	switch a.verdict.Relaxed {
	case policy.ReportOnly:
		r.Mode, r.WouldDeny = a.verdict.Relaxed, true
		r.Rule, r.Why = registry.RuleOf(a.verdict.Nearest), a.verdict.Why()
		for _, m := range a.marks {
			r.Why += "; " + m
		}
	case policy.Observe:
		r.Mode = a.verdict.Relaxed
	}
	return r
}

// recordOpen records that it was decided and reached its server.
func (a *ask) recordOpen() {
	a.s.g.counters.allowed.Add(1)
	a.s.g.o.Sink.Record(a.base(flow.Open, "allow"))
}

// recordRefusal records that it does not pass.
func (a *ask) recordRefusal(r *refusal) {
	g := a.s.g
	event, verdict := flow.Fail, "allow"
	if r.denied {
		event, verdict = flow.Deny, "deny"
		g.counters.denied.Add(1)
	} else {
		g.counters.failed.Add(1)
	}
	if r.unasked {
		g.counters.unrecorded.Add(1)
		return
	}
	rec := a.base(event, verdict)
	rec.Mode, rec.WouldDeny = "", false
	rec.Rule, rec.Why, rec.Generation, rec.Status = r.rule, r.says, r.number, r.status
	g.o.Sink.Record(rec)
}

// recordEnd records how it ended, with its bytes.
func (a *ask) recordEnd(e flow.Event, status int, out, in int64, err error) {
	g := a.s.g
	rec := a.base(e, "allow")
	rec.BytesOut, rec.BytesIn, rec.Status = out, in, status
	rec.Duration = rec.Time.Sub(a.began)
	g.counters.bytesOut.Add(uint64(max(out, 0)))
	g.counters.bytesIn.Add(uint64(max(in, 0)))
	why, severed := a.s.life.Severed()
	switch {
	case a.entry != nil && a.entry.Revoked():
		r := a.entry.Reason()
		rec.Verdict, rec.Rule, rec.Why, rec.Generation = "deny", r.Rule, r.Says, r.Generation
	case severed && why != "":
		rec.Why = why
	case err == errBudget:
		rec.Verdict, rec.Why = "deny", err.Error()
	case err != nil:
		rec.Why = plain(err)
	}
	g.o.Sink.Record(rec)
}

// counters are totals since the start.
type counters struct {
	allowed, denied, failed, unrecorded atomic.Uint64
	malformed                           atomic.Uint64
	bytesOut, bytesIn                   atomic.Uint64
}

// Stats are totals since the start, and what is open now.
type Stats struct {
	Allowed, Denied, Failed, Unrecorded uint64
	Malformed                           uint64
	BytesOut, BytesIn                   uint64
	Open                                int
}

// Stats returns what the gateway did so far.
func (g *Gateway) Stats() Stats {
	c := &g.counters
	g.mu.Lock()
	open := len(g.open)
	g.mu.Unlock()
	return Stats{c.allowed.Load(), c.denied.Load(), c.failed.Load(), c.unrecorded.Load(), c.malformed.Load(), c.bytesOut.Load(), c.bytesIn.Load(), open}
}
