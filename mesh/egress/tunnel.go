package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// carry moves the bytes of a tunnel that was decided about, after it has seen that
// what is inside is what was asked for. It ends both connections.
func (s *session) carry(a *ask, in *reader, upstream net.Conn) {
	client := in.conn
	pair := tunnel.NewPair(client, upstream)
	a.entry.OnRevoke(func(registry.Reason) { pair.Reset() })
	s.life.Hold(pair.Reset)
	hello, why := a.look(in)
	switch {
	case why != nil && why.denied:
		a.recordRefusal(why)
		resetConn(client)
		resetConn(upstream)
		return
	case why != nil:
		a.recordEnd(flow.Fail, 0, 0, 0, why)
		resetConn(client)
		resetConn(upstream)
		return
	case a.inspects():
		s.inspect(a, in, upstream, hello)
		return
	}
	a.recordOpen()
	var m tunnel.Meter
	err := s.relay(a, in, upstream, pair, &m)
	a.recordEnd(flow.Close, 0, m.Out.Load(), m.In.Load(), err)
}

// relay moves bytes until both directions have ended, what was read already first.
func (s *session) relay(a *ask, in *reader, upstream net.Conn, pair *tunnel.Pair, m *tunnel.Meter) error {
	g := newGate(a, m)
	if first := in.buffered(); len(first) > 0 {
		if g.Revoked() {
			pair.Reset()
			return g.end(tunnel.ErrRevoked)
		}
		n, err := upstream.Write(first)
		m.Out.Add(int64(n))
		if err != nil {
			pair.Reset()
			return g.end(err)
		}
		in.skip(len(first))
	}
	in.release()
	return g.end(pair.Relay(g, m, nil))
}

// look reads the first bytes of a tunnel, and says why they are not what was asked
// for. What it reads stays buffered.
func (a *ask) look(in *reader) (outside.Hello, *refusal) {
	g, p := a.s.g, a.permission()
	if a.target.Host == "" && p != nil || a.endpoint != nil && !endpoint.SpeaksTLS(a.endpoint) || p != nil && p.AnyProtocol && !p.Inspect {
		// Permitted by address, or whatever it speaks: for anything that is said.
		return outside.Hello{}, nil
	}
	if a.target.Host == "" || a.verdict.Relaxed != "" && a.target.Port != 443 {
		return outside.Hello{}, nil // in a relaxed mode, where nobody says what must be spoken
	}
	_ = in.conn.SetReadDeadline(time.Now().Add(g.o.HelloTime))
	defer func() { _ = in.conn.SetReadDeadline(time.Time{}) }()
	for {
		h, _, err := outside.ParseHello(in.buffered())
		switch {
		case err == nil:
			return h, a.checkHello(h)
		case !errors.Is(err, outside.ErrMore):
			if a.mark("what it says to %s is no TLS", a.target.Host) {
				return outside.Hello{}, nil
			}
			return h, g.refuse(403, "what it says to %s is no TLS for that name: %v", a.target.Host, err)
		}
		if err := in.fill(maxHello); err != nil {
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				return h, g.refuse(408, "it did not say in time what it wants of %s", a.target.Host)
			case err == io.EOF && len(in.buffered()) == 0:
				return h, g.unavailable(400, errors.New("it ended before it said anything"))
			case err == error(errTooLong):
				return h, g.refuse(403, "its client hello is too long")
			}
			return h, g.unavailable(400, fmt.Errorf("it ended before it said what it wants: %w", plainError(err)))
		}
	}
}

// maxHello bounds a client hello with everything that comes before its end.
const maxHello = 128 << 10

// checkHello says why a client hello is not for the name that was asked for.
func (a *ask) checkHello(h outside.Hello) *refusal {
	g, p := a.s.g, a.permission()
	if !h.HasServerName {
		if p != nil && p.NoServerName || a.mark("it names no server") {
			return nil
		}
		return g.refuse(403, "it names no server in TLS, so that nobody sees whom it wants of %s", a.place())
	}
	name, err := outside.Canonical(h.ServerName)
	if err != nil || name != a.target.Host {
		if a.mark("its TLS is for another server") {
			return nil
		}
		if err != nil {
			return g.refuse(403, "the server name of its TLS is no host name: %v", err)
		}
		return g.refuse(403, "it asks for %s, and its TLS is for %s", a.place(), name)
	}
	if h.EncryptedHello && !(p != nil && p.EncryptedHello) && !a.mark("its client hello is encrypted") {
		return g.refuse(403, "its client hello is encrypted, so that nobody sees whom it wants behind %s", name)
	}
	return nil
}

// plain says what an error is without anything that came from a peer.
func plain(err error) string { return plainError(err).Error() }

func plainError(err error) error {
	var op *net.OpError
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return errors.New("the connection ended early")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("nothing came in time")
	case errors.As(err, &op):
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}
