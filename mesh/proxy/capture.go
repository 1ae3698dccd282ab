package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/socket"
	"bulkhead/mesh/tunnel"
)

// captured carries a connection that the member opened.
func (m *member) captured(l socket.Capture, conn net.Conn) {
	c := m.begin(flow.Source, "tcp")
	c.life.Hold(func() { resetConn(conn) })
	to, ok := c.whereTo(l, conn)
	if !ok {
		c.life.Sever("")
		return
	}
	if m.leaves(c, conn, to) {
		return
	}
	place, ok := c.place(to)
	if !ok {
		c.life.Sever("")
		return
	}
	if c.decide([]policy.Party{c.self()}, policy.Party{Kind: policy.WorkloadParty, Name: place.Workload}, c.to.Addr.Port()) == denied {
		c.deny()
		c.life.Sever("")
		return
	}
	limit := m.p.rates.take(c.question, c.to.Service)
	defer m.p.rates.give(limit, c.question, c.to.Service)
	stream, err := c.openTunnel(m.ctx, place)
	if err != nil {
		c.end(false, err)
		c.life.Sever("")
		return
	}
	c.wire = "mtls"
	c.open()
	c.end(true, tunnel.Relay(conn, stream, c.entry, &c.meter, limit, true))
}

// leaves hands a connection over that leads out of the mesh, or to the gateway
// itself, and reports whether it did. It returns when the connection has ended.
func (m *member) leaves(c *connection, conn net.Conn, to netip.AddrPort) bool {
	w, out := m.p.world.Load(), m.p.o.Outside
	if w == nil || out == nil || m.p.generation() == 0 {
		return false
	}
	e, private := w.Endpoints[to.Addr()]
	_, place := w.Places[to.Addr()]
	var serve func()
	switch {
	case w.Proxies[to]:
		m.proxied(c, conn, to)
		return true
	case w.Gateway[to.Addr()] && to.Port() == ProxyPort:
		serve = func() { out.Proxied(m.ctx, conn, c.from, c.probe) }
	case w.Gateway[to.Addr()] && to.Port() == resolverPort:
		serve = func() { out.Resolve(m.ctx, conn, c.from) }
	case private && (!e.Consumers[m.name] || e.Workload != ""):
		return false
	case private:
		serve = func() { out.Private(m.ctx, conn, c.from, c.probe, e.Name, to.Port()) }
	case !place:
		serve = func() { out.Captured(m.ctx, conn, c.from, c.probe, to) }
	default:
		return false
	}
	serve()
	m.untrack(c)
	return true
}

// proxied hands a connection to the workload that is the gateway over, if the
// policy lets the member use it. What it asks for is decided there.
func (m *member) proxied(c *connection, conn net.Conn, to netip.AddrPort) {
	place, ok := c.place(to)
	if !ok {
		c.life.Sever("")
		return
	}
	if c.decide([]policy.Party{c.self()}, policy.Party{Kind: policy.WorkloadParty, Name: place.Workload}, to.Port()) == denied {
		c.deny()
		c.life.Sever("")
		return
	}
	c.open()
	m.p.o.Outside.Proxied(m.ctx, conn, c.from, c.probe)
	c.end(true, nil)
}

// whereTo fills in who speaks, and returns where to. A connection of which that is
// not known is refused and recorded.
func (c *connection) whereTo(l socket.Capture, conn net.Conn) (netip.AddrPort, bool) {
	m := c.m
	c.from = flow.Peer{Workload: m.name, Zone: m.zone, Addr: addrPort(conn.RemoteAddr())}
	c.probe = m.p.probes.take(m.name, c.from.Addr)
	var err error
	if c.id, err = m.p.newID(); err != nil {
		c.refuse("it has no id: " + err.Error())
		return netip.AddrPort{}, false
	}
	to, err := l.Original(conn)
	if err != nil {
		c.refuse("its destination is unknown: " + err.Error())
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), true
}

// place looks up the workload at an address. What is none is refused.
func (c *connection) place(to netip.AddrPort) (Place, bool) {
	c.to = flow.Peer{Addr: to}
	w := c.m.p.world.Load()
	if w == nil || c.m.p.generation() == 0 {
		c.refuse(registry.Verdict{}.Why())
		return Place{}, false
	}
	place, ok := w.Places[to.Addr()]
	if e, private := w.Endpoints[to.Addr()]; private && e.Consumers[c.m.name] {
		if home := w.homes[e.Workload]; home != nil {
			place, ok = w.Places[*home]
		}
	}
	if !ok {
		c.outside(w)
		return Place{}, false
	}
	c.to.Workload, c.to.Zone = place.Workload, place.Zone
	switch {
	case place.Workload == c.m.name:
		c.refuse("it leads back to the workload itself, which the proxy does not carry")
		return Place{}, false
	case reserved(to.Port()):
		c.refuse(fmt.Sprintf("port %d is the mesh's own", to.Port()))
		return Place{}, false
	}
	return place, true
}

// outside is where a connection ends up whose destination is not in the mesh and
// which no gateway takes.
func (c *connection) outside(w *World) {
	switch to := c.to.Addr; {
	case w.Gateway[to.Addr()]:
		c.refuse(fmt.Sprintf("the egress gateway does not listen at port %d: its proxy is at port %d", to.Port(), ProxyPort))
	case w.Endpoints[to.Addr()].Name != "":
		c.refuse(fmt.Sprintf("%s is no workload's address, and no private endpoint of %s", to.Addr(), c.m.name))
	default:
		c.refuse(fmt.Sprintf("outside: %s is no workload's address, and this node has no egress gateway", to.Addr()))
	}
}

// self is the member as a party of the policy.
func (c *connection) self() policy.Party {
	return policy.Party{Kind: policy.WorkloadParty, Name: c.m.name}
}

// openTunnel opens a stream to the workload at place. It is cut when the
// connection is.
func (c *connection) openTunnel(ctx context.Context, place Place) (*tunnel.Stream, error) {
	if !place.Tunnel.IsValid() {
		return nil, fmt.Errorf("workload %s runs on no node", place.Workload)
	}
	peer, err := identity.ID(c.m.p.world.Load().TrustDomain, place.Zone, place.Workload)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	c.life.Hold(cancel)
	stream, err := c.m.pool.Open(ctx, place.Tunnel, peer, tunnel.Request{
		Workload: place.Workload, Network: c.transport, Port: c.to.Addr.Port(), ID: c.id, Probe: c.probe,
	})
	if err != nil {
		return nil, err
	}
	c.life.Hold(stream.Reset)
	c.to.ID = peer.String()
	if why := c.prove(c.to); why != "" {
		return nil, errors.New(why)
	}
	return stream, nil
}

// refuseCaptured refuses a connection of a member that has too many.
func (m *member) refuseCaptured(conn net.Conn) {
	c := &connection{m: m, side: flow.Source, transport: "tcp", from: flow.Peer{Workload: m.name, Zone: m.zone, Addr: addrPort(conn.RemoteAddr())}}
	c.record(flow.Fail, "allow", "", m.opened.over(fmt.Sprintf("%s has %d connections open", m.name, m.opened.limit)).Error(), m.p.generation())
	resetConn(conn)
}

// addrPort returns an address of the net package as one of netip.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
