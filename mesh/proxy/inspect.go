package proxy

import (
	"context"
	"net"

	"bulkhead/core/netset"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// inspect has the requests of a connection decided, each for itself, and forwards
// those that are allowed. It closes in.
func (c *connection) inspect(ctx context.Context, in net.Conn, port uint16) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.life.Hold(cancel)
	s := &requestServer{
		source: c.from.ID,
		open:   c.askRequest,
		dial: func(ctx context.Context) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, openTimeout)
			defer cancel()
			return c.m.sockets.DialOwn(ctx, port)
		},
		record: c.recordRequest,
		now:    c.m.p.o.Now,
	}
	return s.serve(ctx, &inspectedSocket{in, c})
}

// askRequest registers a request and decides it, for the first of the parties
// that the client is which may make it.
func (c *connection) askRequest(r netset.Request) (e *registry.Entry, v registry.Verdict) {
	for _, from := range c.parties {
		if e != nil {
			e.Done()
		}
		q := c.question
		q.From, q.Whole, q.Request = from, false, &r
		e = c.m.p.o.Registry.Open(q)
		if v = e.Decide(); v.Allowed {
			break
		}
	}
	return e, v
}

// recordRequest completes a record of one request.
func (c *connection) recordRequest(r flow.Record) {
	r.ID, r.Time, r.Node, r.Side, r.Probe = c.id, c.m.p.o.Now(), c.m.p.o.Node, c.side, c.probe
	r.From, r.To, r.Transport, r.Wire = c.from, c.to, c.transport, c.wire
	if r.Generation == 0 {
		r.Generation = c.m.p.generation()
	}
	c.m.p.records.Record(r)
}

// inspectedSocket is the client's end of an inspected connection. It counts bytes,
// and sends none after the policy took the connection back.
type inspectedSocket struct {
	net.Conn
	c *connection
}

func (s *inspectedSocket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.c.meter.Out.Add(int64(n))
	return n, err
}

func (s *inspectedSocket) Write(p []byte) (int, error) {
	if s.c.entry.Revoked() {
		return 0, tunnel.ErrRevoked
	}
	n, err := s.Conn.Write(p)
	s.c.meter.In.Add(int64(n))
	return n, err
}

func (s *inspectedSocket) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return s.Conn.Close()
}

// Reset ends the connection so that the client sees an error.
func (s *inspectedSocket) Reset() { resetConn(s.Conn) }
