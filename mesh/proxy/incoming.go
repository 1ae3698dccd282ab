package proxy

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// The codes of a refusal.
const (
	codeDenied = "denied"
	codeFailed = "unreachable"
)

// arrived serves a stream from another node: the workload is the one whose
// certificate the tunnel was given.
func (p *Proxy) arrived(ctx context.Context, in *tunnel.Incoming) {
	m := p.named(in.ServerName)
	if m == nil {
		_ = in.Refuse(tunnel.Refusal{Code: codeFailed, Says: "the workload is not on this node"})
		return
	}
	m.incoming(ctx, in)
}

// incoming carries a stream that came to the member through a tunnel.
func (m *member) incoming(ctx context.Context, in *tunnel.Incoming) {
	if !m.enter() {
		_ = in.Refuse(tunnel.Refusal{Code: codeFailed, Says: errRemoved.Error()})
		return
	}
	defer m.running.Done()
	c := m.begin(flow.Destination, in.Request.Network)
	if !c.whoFrom(in) {
		return
	}
	slots := m.arrived
	if c.transport == "udp" {
		slots = m.associations
	}
	if !slots.take(c.from.Workload) {
		c.failIncoming(in, slots.over(fmt.Sprintf("%s has %d connections to %s open", c.from.Workload, slots.limit, m.name)))
		return
	}
	defer slots.give(c.from.Workload)
	access := c.decide([]policy.Party{{Kind: policy.WorkloadParty, Name: c.from.Workload}}, c.self(), in.Request.Port)
	switch {
	case access == denied:
		c.deny()
		_ = in.Refuse(tunnel.Refusal{Code: codeDenied, Says: c.verdict.Why(), Rule: registry.RuleOf(c.verdict.Nearest), Generation: c.verdict.Generation})
	case c.transport == "udp":
		c.serveDatagrams(ctx, in)
	case m.isGateway(in.Request.Port):
		c.serveGateway(ctx, in)
	case access == inspected:
		c.serveInspected(ctx, in)
	default:
		c.serveWhole(ctx, in)
	}
}

// whoFrom fills in who speaks to whom. The source is what the certificate says,
// if the policy in force has this workload in this zone. Anything else is
// refused and recorded.
func (c *connection) whoFrom(in *tunnel.Incoming) bool {
	m, p := c.m, c.m.p
	c.from = flow.Peer{ID: in.Peer.String(), Addr: in.Remote}
	c.to = m.asServer(in.Request.Port)
	c.wire, c.probe = "mtls", in.Request.Probe
	if raw, err := hex.DecodeString(in.Request.ID); err == nil && len(raw) == 16 {
		c.id = in.Request.ID
	} else if c.id, err = p.newID(); err != nil {
		return c.turnAway(in, "it has no id: "+err.Error())
	}
	w := p.world.Load()
	if w == nil {
		return c.turnAway(in, registry.Verdict{}.Why())
	}
	zone, name, err := identity.Workload(in.Peer, w.TrustDomain)
	if err != nil {
		return c.turnAway(in, err.Error())
	}
	c.from.Zone, c.from.Workload = zone, name
	if why := c.prove(c.from); why != "" {
		return c.turnAway(in, why)
	}
	switch {
	case in.Request.Workload != m.name:
		return c.turnAway(in, fmt.Sprintf("it asks for %s in the tunnel of %s", in.Request.Workload, m.name))
	case in.Request.Network != "tcp" && in.Request.Network != "udp":
		return c.turnAway(in, "the mesh carries tcp and udp only")
	case reserved(in.Request.Port):
		return c.turnAway(in, fmt.Sprintf("port %d is the mesh's own", in.Request.Port))
	}
	return true
}

// turnAway refuses a stream for a reason that is in no policy.
func (c *connection) turnAway(in *tunnel.Incoming, why string) bool {
	c.refuse(why)
	_ = in.Refuse(tunnel.Refusal{Code: codeDenied, Says: why, Generation: c.m.p.generation()})
	return false
}

// failIncoming ends a stream that is allowed and did not come about, unless the
// policy took it back meanwhile.
func (c *connection) failIncoming(in *tunnel.Incoming, err error) {
	c.end(false, err)
	r := tunnel.Refusal{Code: codeFailed, Says: err.Error(), Rule: c.rule(), Generation: c.verdict.Generation}
	if c.entry != nil && c.entry.Revoked() {
		reason := c.entry.Reason()
		r = tunnel.Refusal{Code: codeDenied, Says: reason.Says, Rule: reason.Rule, Generation: reason.Generation}
	}
	_ = in.Refuse(r)
}

// recordRefusal records what the other proxy said.
func (c *connection) recordRefusal(r tunnel.Refusal) {
	event, verdict := flow.Fail, "allow"
	if r.Code == codeDenied {
		event, verdict = flow.Deny, "deny"
	}
	c.record(event, verdict, r.Rule, r.Says, r.Generation)
}

// dialOwn dials the member's server. It is cut when the connection is.
func (c *connection) dialOwn(ctx context.Context, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	c.life.Hold(cancel)
	own, err := c.m.sockets.DialOwn(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer at port %d: %w", c.m.name, port, err)
	}
	c.life.Hold(func() { resetConn(own) })
	return own, nil
}

// isGateway reports whether a port of the member is that of the egress gateway.
func (m *member) isGateway(port uint16) bool {
	w, home := m.p.world.Load(), m.home.Load()
	return m.p.o.Outside != nil && w != nil && home != nil && w.Proxies[netip.AddrPortFrom(*home, port)]
}

// serveGateway hands a stream over to the gateway that the member is.
func (c *connection) serveGateway(ctx context.Context, in *tunnel.Incoming) {
	stream, err := in.Accept()
	if err != nil {
		c.end(false, err)
		c.life.Sever("")
		return
	}
	c.life.Hold(stream.Reset)
	c.open()
	c.m.p.o.Outside.Proxied(ctx, stream, c.from, c.probe)
	c.end(true, nil)
}

// serveWhole moves bytes unread.
func (c *connection) serveWhole(ctx context.Context, in *tunnel.Incoming) {
	own, err := c.dialOwn(ctx, in.Request.Port)
	if err != nil {
		c.failIncoming(in, err)
		return
	}
	stream, err := in.Accept()
	if err != nil {
		c.end(false, err)
		c.life.Sever("")
		return
	}
	c.life.Hold(stream.Reset)
	c.open()
	c.end(true, tunnel.Relay(own, stream, c.entry, &c.meter, nil, false))
}

// serveInspected has its requests decided, each for itself.
func (c *connection) serveInspected(ctx context.Context, in *tunnel.Incoming) {
	stream, err := in.Accept()
	if err != nil {
		c.end(false, err)
		c.life.Sever("")
		return
	}
	c.life.Hold(stream.Reset)
	c.open()
	err = c.inspect(ctx, stream, in.Request.Port)
	c.end(true, err)
	if err != nil {
		c.life.Sever("")
		return
	}
	_ = stream.Close()
}
