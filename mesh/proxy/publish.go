package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/tunnel"
)

// Publish lets something outside reach a port of a workload of this node, as far
// as the exposures in force allow, until ctx ends, the listener is closed, or the
// workload is removed. What is open stays open after the first two.
func (p *Proxy) Publish(ctx context.Context, ln net.Listener, workload string, port uint16) error {
	m := p.member(workload)
	if m == nil {
		return errors.Join(fmt.Errorf("workload %s is not on this node: it cannot be exposed", workload), ln.Close())
	}
	if !m.enter() {
		return errors.Join(errRemoved, ln.Close())
	}
	defer m.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	refuse := func(conn net.Conn) {
		c := m.fromOutside(conn, port)
		c.end(false, m.exposed.over(fmt.Sprintf("%s has %d connections from outside open", m.name, m.exposed.limit)))
		resetConn(conn)
	}
	m.accept(ctx, ln, m.exposed, refuse, func(conn net.Conn) { m.published(conn, port) })
	return nil
}

// fromOutside begins a connection whose source is known by its address only.
func (m *member) fromOutside(conn net.Conn, port uint16) *connection {
	c := m.begin(flow.Destination, "tcp")
	c.wire = "plaintext"
	c.from = flow.Peer{Addr: addrPort(conn.RemoteAddr())}
	c.to = m.asServer(port)
	return c
}

// published carries a connection from outside.
func (m *member) published(conn net.Conn, port uint16) {
	c := m.fromOutside(conn, port)
	c.life.Hold(func() { resetConn(conn) })
	var err error
	if c.id, err = m.p.newID(); err != nil {
		c.refuse("it has no id: " + err.Error())
		c.life.Sever("")
		return
	}
	switch c.decide(m.partiesAt(c.from.Addr.Addr()), c.self(), port) {
	case denied:
		c.deny()
		c.life.Sever("")
	case inspected:
		c.open()
		err = c.inspect(m.ctx, conn, port)
		c.end(true, err)
		if err != nil {
			c.life.Sever("")
			return
		}
		_ = conn.Close()
	case whole:
		c.publishWhole(conn, port)
	}
}

// publishWhole moves bytes unread.
func (c *connection) publishWhole(conn net.Conn, port uint16) {
	own, err := c.dialOwn(c.m.ctx, port)
	if err != nil {
		c.end(false, err)
		c.life.Sever("")
		return
	}
	c.open()
	client, ok := conn.(*net.TCPConn)
	if !ok {
		c.end(true, fmt.Errorf("an exposure listens on TCP, not on %T", conn))
		c.life.Sever("")
		return
	}
	pair := tunnel.NewPair(client, own)
	c.life.Hold(pair.Reset)
	c.end(true, pair.Relay(c.entry, &c.meter, nil))
}

// partiesAt returns the parties of exposures that a client at addr is: those whose
// addresses hold its own. The machine itself may use every door that is open to
// something outside. If there is none it is a party of its own, which no
// permission names.
//
// A party stands for the same addresses in every generation, so that what is
// registered for it can be decided again without the address.
func (m *member) partiesAt(addr netip.Addr) []policy.Party {
	var out []policy.Party
	force := m.p.o.Registry.Force()
	if force == nil {
		return []policy.Party{{Kind: policy.OutsideParty, Name: addr.String()}}
	}
	for _, p := range force.Intent.PermissionsTo(policy.Party{Kind: policy.WorkloadParty, Name: m.name}) {
		if p.Kind != policy.ExposureKind {
			continue
		}
		for _, from := range p.From.Members {
			machine := addr.IsLoopback() && (from.Kind == policy.OutsideParty || from.Kind == policy.HostsParty)
			if (machine || from.Kind == policy.OutsideParty && p.Addrs.Contains(addr)) && !slices.Contains(out, from) {
				out = append(out, from)
			}
		}
	}
	if len(out) == 0 {
		out = append(out, policy.Party{Kind: policy.OutsideParty, Name: addr.String()})
	}
	return out
}
