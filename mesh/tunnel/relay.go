package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Gate says whether the policy still allows a connection.
type Gate interface{ Revoked() bool }

// Meter counts the bytes that were handed on so far: Out from client to server,
// In from server to client.
type Meter struct{ Out, In atomic.Int64 }

// ErrRevoked is how a relay ends when its gate says so.
var ErrRevoked = errors.New("the policy no longer allows this connection")

// Relay moves bytes between a workload's connection and a stream, both ways,
// until both directions have ended, one has failed, or the gate says that it is
// revoked, which it asks before every write. Without data it waits forever.
//
// Both belong to Relay, and are over when it returns: closed in order if it
// returns nil, reset otherwise. An idle relay is ended by s.Reset, which resets
// app as well. limit is in bytes per second over both directions, nil for none.
func Relay(app net.Conn, s *Stream, gate Gate, m *Meter, limit *rate.Limiter, appIsClient bool) error {
	up, down := &m.Out, &m.In
	if !appIsClient {
		up, down = down, up
	}
	if tcp, ok := app.(*net.TCPConn); ok && limit == nil {
		if done, err := relayByLoop(tcp, s, gate, up, down); done {
			return err
		}
	}
	c := copier{gate: gate, limit: limit}
	err := c.both(
		half{s, app, up, s.CloseWrite},
		half{app, s, down, func() error { return closeWrite(app) }},
		func() { s.Reset(); resetConn(app) })
	if err == nil {
		app.Close()
		s.Close()
	}
	return err
}

// Pair is two connections that bytes are moved between without a tunnel. Client
// opened its one.
type Pair struct{ client, server socket }

// NewPair returns a pair of connections, which belong to it.
func NewPair(client, server net.Conn) *Pair {
	return &Pair{client: socket{conn: client}, server: socket{conn: server}}
}

// Reset resets both connections at once, and so ends Relay, which may have begun
// or not. It does not block, may come at any time, from anywhere, and more than
// once. After Relay it does nothing.
func (p *Pair) Reset() {
	p.client.abort()
	p.server.abort()
}

// Relay moves bytes as the function does, once. Both connections are over when it
// returns. An idle one is ended by Reset, and by nothing else. Between two TCP
// connections without a limit the kernel moves what is much.
func (p *Pair) Relay(gate Gate, m *Meter, limit *rate.Limiter) error {
	if limit == nil {
		if done, err := p.relayByLoop(gate, m); done {
			return err
		}
	}
	client, server := p.client.conn, p.server.conn
	c := copier{gate: gate, limit: limit}
	err := c.both(half{server, client, &m.Out, func() error { return closeWrite(server) }},
		half{client, server, &m.In, func() error { return closeWrite(client) }}, p.Reset)
	if err == nil {
		p.client.Close()
		p.server.Close()
	}
	return err
}

// closeWrite half-closes what can, and closes what cannot.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

// copier moves bytes with a goroutine for each direction.
type copier struct {
	gate  Gate
	limit *rate.Limiter
}

// half is one direction.
type half struct {
	to    io.Writer
	from  io.Reader
	count *atomic.Int64
	end   func() error // says to the writer's side that no more comes
}

// errTorn is a reset that reading saw as an end. The kernel reports a reset
// once: if a write got it, the next read finds a plain end, and what is less
// than was sent would look like all of it.
var errTorn = errors.New("connection was reset by its application")

// isTorn reports whether what reading saw as an end was a reset. Only while other,
// that the other direction has ended, is not set does the state of the connection
// tell: after both, it is that of an orderly end too. So other must be looked at
// after the state.
func isTorn(other *atomic.Bool, torn func() bool) bool {
	return !other.Load() && torn() && !other.Load()
}

// both runs two directions. When one fails, fail must free the other; its error
// is then a consequence, and the first one counts.
func (c *copier) both(a, b half, fail func()) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var g errgroup.Group
	var ended [2]atomic.Bool // before the writer's side is told
	for i, h := range []half{a, b} {
		end := h.end
		h.end = func() error {
			ended[i].Store(true)
			if isTorn(&ended[1-i], func() bool { return torn(h.from) }) {
				return errTorn
			}
			return end()
		}
		g.Go(func() error {
			err := c.one(ctx, h)
			if err != nil {
				cancel(err)
				fail()
			}
			return err
		})
	}
	if g.Wait() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (c *copier) one(ctx context.Context, h half) error {
	b := takeBuffer()
	defer giveBuffer(b)
	b = b[:relayBuffer-headerLen]
	for {
		n, err := h.from.Read(b)
		if n > 0 {
			if err := c.pass(ctx, h, b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return h.end()
		}
		if err != nil {
			return err
		}
	}
}

// pass writes b as fast as the limit allows.
func (c *copier) pass(ctx context.Context, h half, b []byte) error {
	for len(b) > 0 {
		n := len(b)
		if c.limit != nil {
			n = min(n, max(c.limit.Burst(), 1))
			if err := c.limit.WaitN(ctx, n); err != nil {
				return err
			}
		}
		if c.gate.Revoked() {
			return ErrRevoked
		}
		n, err := h.to.Write(b[:n])
		h.count.Add(int64(n))
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
