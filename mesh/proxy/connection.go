package proxy

import (
	"encoding/hex"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// access is what a connection may do.
type access uint8

const (
	denied access = iota
	// inspected: somebody must read its requests and decide each.
	inspected
	// whole: bytes are moved unread.
	whole
)

// connection is one end of a connection, or of an association of datagrams,
// from the moment it is known until its last record. Its goroutine owns it;
// life and entry may be used by others.
type connection struct {
	m         *member
	id, probe string
	side      flow.Side
	transport string // tcp or udp
	wire      string // empty until it travelled
	from, to  flow.Peer
	began     time.Time
	meter     tunnel.Meter
	life      registry.Lifeline
	// proven is the other end once its certificate was verified.
	proven atomic.Pointer[flow.Peer]

	// entry is what is registered while it is allowed, and verdict the decision
	// for it; question is what was asked.
	entry    *registry.Entry
	parties  []policy.Party // that its source is
	question policy.Question
	verdict  registry.Verdict
}

// begin makes a connection one of the member's. If the member is being removed
// the connection is severed already.
func (m *member) begin(side flow.Side, transport string) *connection {
	c := &connection{m: m, side: side, transport: transport, began: m.p.o.Now()}
	if !m.track(c) {
		c.life.Sever(errRemoved.Error())
	}
	return c
}

// newID returns the id of a new connection.
func (p *Proxy) newID() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(p.o.Random, b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// decide registers the connection and decides about it: for the first of the
// parties that may open it as a whole, otherwise for the first that may open it
// for some of its requests. Datagrams are never read, so that they are either
// allowed as a whole or not at all.
func (c *connection) decide(parties []policy.Party, to policy.Party, port uint16) access {
	protocol := netset.TCP
	if c.transport == "udp" {
		protocol = netset.UDP
	}
	c.parties = parties
	for _, from := range parties {
		if c.ask(policy.Question{From: from, To: to, Protocol: protocol, Port: port, Whole: true}) {
			return whole
		}
	}
	if protocol == netset.UDP {
		return denied
	}
	for _, from := range parties {
		if c.ask(policy.Question{From: from, To: to, Protocol: protocol, Port: port}) {
			return inspected
		}
	}
	return denied
}

// ask registers the question and decides it. What is allowed stays registered
// and is severed when a generation denies the same question.
func (c *connection) ask(q policy.Question) bool {
	e := c.m.p.o.Registry.Open(q)
	c.question, c.verdict = q, e.Decide()
	if !c.verdict.Allowed {
		e.Done()
		return false
	}
	c.entry = e
	if s := c.verdict.Permission.Service; s != nil {
		c.to.Service = s.Name.Value
	}
	e.OnRevoke(func(registry.Reason) { c.life.Sever("") })
	return true
}

// end records how it ended and forgets it. opened says whether it ever reached
// its server.
func (c *connection) end(opened bool, err error) {
	c.m.untrack(c)
	if c.entry != nil {
		c.entry.Done()
	}
	why, severed := c.life.Severed()
	var refused *tunnel.RefusedError
	switch {
	case c.entry != nil && c.entry.Revoked():
		r := c.entry.Reason()
		c.record(ended(opened, flow.Deny), "deny", r.Rule, r.Says, r.Generation)
	case severed && why != "":
		c.record(ended(opened, flow.Fail), "allow", c.rule(), why, c.verdict.Generation)
	case errors.As(err, &refused):
		c.recordRefusal(refused.Refusal)
	case err != nil:
		c.record(ended(opened, flow.Fail), "allow", c.rule(), err.Error(), c.verdict.Generation)
	default:
		c.record(flow.Close, "allow", c.rule(), "", c.verdict.Generation)
	}
}

// ended is the event of an end: close for what was open.
func ended(opened bool, otherwise flow.Event) flow.Event {
	if opened {
		return flow.Close
	}
	return otherwise
}

// deny records that the policy refused it, and forgets it.
func (c *connection) deny() {
	c.m.untrack(c)
	c.nameService()
	c.record(flow.Deny, "deny", registry.RuleOf(c.verdict.Nearest), c.verdict.Why(), c.verdict.Generation)
}

// nameService fills in the service that a refused connection was for, if there is
// one at its port.
func (c *connection) nameService() {
	force := c.m.p.o.Registry.Force()
	if force == nil {
		return
	}
	if w := force.Intent.Workload(c.question.To.Name); w != nil {
		for i := range w.Serves {
			if s := &w.Serves[i]; s.Traffic().Has(c.question.Protocol, c.question.Port) {
				c.to.Service = s.Name.Value
			}
		}
	}
}

// refuse records that it is refused for a reason that is in no policy, and
// forgets it.
func (c *connection) refuse(why string) {
	c.m.untrack(c)
	c.record(flow.Deny, "deny", "", why, c.m.p.generation())
}

// rule names the permission that allows it.
func (c *connection) rule() string { return registry.RuleOf(c.verdict.Permission) }

// open records that it reached its server.
func (c *connection) open() {
	c.record(flow.Open, "allow", c.rule(), "", c.verdict.Generation)
}

func (c *connection) record(e flow.Event, verdict, rule, why string, generation uint64) {
	now := c.m.p.o.Now()
	r := flow.Record{
		ID: c.id, Time: now, Event: e, Node: c.m.p.o.Node, Side: c.side,
		From: c.from, To: c.to, Transport: c.transport, Wire: c.wire,
		Verdict: verdict, Rule: rule, Generation: generation, Why: why, Probe: c.probe,
	}
	if e == flow.Close {
		r.BytesOut, r.BytesIn, r.Duration = c.meter.Out.Load(), c.meter.In.Load(), now.Sub(c.began)
	}
	c.m.p.records.Record(r)
}

// generation is the number of the one in force, 0 before the first.
func (p *Proxy) generation() uint64 {
	if f := p.o.Registry.Force(); f != nil {
		return f.Number
	}
	return 0
}
