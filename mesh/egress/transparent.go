package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"bulkhead/mesh/outside"
)

// ServeCaptured serves a connection that a client opened to an address outside,
// knowing of no proxy, and closes it. Where the policy names the address, bytes are
// moved; otherwise what the client says first says where it goes, and the name
// must have that address.
func (g *Gateway) ServeCaptured(ctx context.Context, conn net.Conn, c Client, to netip.AddrPort) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	s := g.begin(ctx, c, func() { resetConn(conn) })
	if s == nil {
		g.tooMany(conn, c)
		return
	}
	defer s.end()
	in := reader{conn: conn}
	byAddr := s.newAsk(outside.Target{Addr: to.Addr(), Port: to.Port()})
	r := byAddr.decide(false)
	here := g.o.Here(to.Addr())
	if here && r == nil {
		r = g.refuse(403, "it says no name, and %s stands for none", to.Addr())
	}
	if r == nil && byAddr.permission() != nil {
		s.captured(byAddr, &in, nil)
		return
	}
	if r != nil && !here && !g.o.Resolver.Known(to.Addr()) {
		// No name led there: nothing that it could say would change that.
		byAddr.addr = to
		byAddr.recordRefusal(r)
		resetConn(conn)
		return
	}
	name, http, why := s.sniff(&in)
	switch {
	case http:
		p := &proxied{s: s, in: in, captured: to}
		p.serve()
		p.close()
	case name != "":
		host, err := outside.Canonical(name)
		if err != nil {
			s.malformed("the server name of its TLS is no host name: "+err.Error(), 400)
			resetConn(conn)
			return
		}
		a := s.newAsk(outside.Target{Host: host, Port: to.Port()})
		a.addr = to
		if r := a.decide(true); r != nil {
			a.recordRefusal(r)
			resetConn(conn)
			return
		}
		s.captured(a, &in, &to)
	case r == nil:
		// In a relaxed mode, to an address without a name.
		s.captured(byAddr, &in, nil)
	default:
		byAddr.addr = to
		if why != "" {
			r.says += "; " + why
		}
		byAddr.recordRefusal(r)
		resetConn(conn)
	}
}

// captured carries a captured connection that was decided about.
func (s *session) captured(a *ask, in *reader, to *netip.AddrPort) {
	defer a.done()
	addrs, r := a.resolve(s.ctx)
	if r == nil && to != nil {
		addrs, r = a.asCaptured(addrs, *to)
	}
	var upstream net.Conn
	if r == nil {
		upstream, r = a.connect(s.ctx, addrs)
	}
	if r != nil {
		a.recordRefusal(r)
		resetConn(in.conn)
		return
	}
	s.carry(a, in, upstream)
}

// asCaptured refuses a name that does not have the address to which the client's
// own connection went: it may be anybody's.
func (a *ask) asCaptured(addrs []netip.AddrPort, to netip.AddrPort) ([]netip.AddrPort, *refusal) {
	g := a.s.g
	if g.o.Here(to.Addr()) {
		return addrs, nil
	}
	for _, addr := range addrs {
		if addr == to {
			return []netip.AddrPort{to}, nil
		}
	}
	if g.o.Resolver.Had(a.target.Host, to.Addr()) {
		return []netip.AddrPort{to}, nil
	}
	a.addr = to
	return nil, g.refuse(403, "it went to %s, which is not an address of %s", to, a.target.Host)
}

// sniff reads what a client says first: the server name of its TLS, or that it is
// HTTP. Why says why neither is known. What it reads stays buffered.
func (s *session) sniff(in *reader) (name string, http bool, why string) {
	_ = in.conn.SetReadDeadline(time.Now().Add(s.g.o.HelloTime))
	defer func() { _ = in.conn.SetReadDeadline(time.Time{}) }()
	for {
		b := in.buffered()
		h, _, err := outside.ParseHello(b)
		yes, more := outside.LooksLikeHTTP(b)
		switch {
		case len(b) == 0:
		case err == nil && h.HasServerName:
			return h.ServerName, false, ""
		case err == nil:
			return "", false, "its TLS names no server"
		case yes:
			return "", true, ""
		case !errors.Is(err, outside.ErrMore) && !more:
			return "", false, "it says no name that could be decided"
		}
		if err := in.fill(maxHello); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return "", false, "it said no name in time"
			}
			if err == io.EOF && len(b) == 0 {
				return "", false, "it ended before it said anything"
			}
			return "", false, "it ended before it said a name"
		}
	}
}
