package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"bulkhead/mesh/identity"
)

const (
	// maxLinks is how many tunnel connections a listener carries.
	maxLinks = 16384
	// maxStrangers is how many connections of one address may be without a
	// verified certificate at the same time; more are closed at once. It bounds
	// what somebody without an identity can hold, and keeps room for others.
	maxStrangers = 256
	// serverIdleTime is how long a connection may be without a stream.
	serverIdleTime = idleTime + 30*time.Second
)

// Incoming is a request that waits for an answer: Accept or Refuse, once.
type Incoming struct {
	// Peer is who asks, from the verified certificate.
	Peer spiffeid.ID
	// Request is what the peer says. It must not be believed about the peer.
	Request Request
	Remote  netip.AddrPort
	// ServerName is the name by which the peer asked for the certificate.
	ServerName string

	link     *link
	answered bool
	stream   *Stream
	over     chan bool // receives once, when the stream is over: whether in order
}

var errAnswered = errors.New("the request was answered before")

// Accept makes the stream.
func (in *Incoming) Accept() (*Stream, error) {
	if in.answered {
		return nil, errAnswered
	}
	in.answered = true
	var b [headerLen]byte
	putHeader(b[:], frameAccept, 0)
	if _, err := in.link.tls.Write(b[:]); err != nil {
		in.link.wire.abort()
		return nil, fmt.Errorf("accepting a stream of %s: %w", in.Peer, err)
	}
	in.over = make(chan bool, 1)
	in.stream = newStream(in.link, in.Request, func(_ *link, orderly bool) { in.over <- orderly })
	return in.stream, nil
}

// Refuse says why there will be no stream.
func (in *Incoming) Refuse(r Refusal) error {
	if in.answered {
		return errAnswered
	}
	in.answered = true
	if _, err := in.link.tls.Write(r.encode()); err != nil {
		in.link.wire.abort()
		return fmt.Errorf("refusing a stream of %s: %w", in.Peer, err)
	}
	return nil
}

// Serve accepts tunnels on ln until ctx ends, and calls handle for each request,
// on a goroutine that runs no other. What handle does not answer is refused, and
// a stream that it leaves open is reset. When Serve returns, ln is closed, every
// stream is over, and every handle has returned.
//
// cfg must ask for a client certificate and verify it; a connection without a
// verified chain is refused whatever cfg says. Failed is told of each that did not
// prove an identity, and why; it must not block, and may be nil.
func Serve(ctx context.Context, ln net.Listener, cfg *tls.Config, handle func(context.Context, *Incoming), failed func(remote netip.AddrPort, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{cfg: serverConfig(cfg), now: cfg.Time, handle: handle, failed: failed, links: map[*wire]struct{}{}, strangers: map[netip.Addr]int{}}
	if s.now == nil {
		s.now = time.Now
	}
	if s.failed == nil {
		s.failed = func(netip.AddrPort, error) {}
	}
	stop := context.AfterFunc(ctx, func() { ln.Close(); s.close() })
	defer func() {
		cancel()
		stop()
		ln.Close()
		s.close()
		s.running.Wait()
	}()
	for wait := time.Millisecond; ; {
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("tunnel listener %s was closed", ln.Addr())
		case err != nil: // of one connection, or too many open files
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = time.Millisecond
		s.add(ctx, c)
	}
}

// serverConfig makes records large from the start.
func serverConfig(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	if pick := cfg.GetConfigForClient; pick != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := pick(h)
			if err != nil || c == nil || c.DynamicRecordSizingDisabled {
				return c, err
			}
			c = c.Clone()
			c.DynamicRecordSizingDisabled = true
			return c, nil
		}
	}
	return cfg
}

type server struct {
	cfg     *tls.Config
	now     func() time.Time // of certificates
	handle  func(context.Context, *Incoming)
	failed  func(remote netip.AddrPort, err error)
	running sync.WaitGroup

	mu        sync.Mutex // guards the following
	closed    bool
	links     map[*wire]struct{}
	strangers map[netip.Addr]int // connections without a verified certificate
}

// add serves c, unless there are too many.
func (s *server) add(ctx context.Context, c net.Conn) {
	w := &wire{socket: socket{conn: c}}
	remote := addressOf(c)
	from := remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		resetConn(c)
		return
	case len(s.links) >= maxLinks || s.strangers[from] >= maxStrangers:
		resetConn(c)
		s.failed(remote, errTooMany)
		return
	}
	s.links[w] = struct{}{}
	s.strangers[from]++
	s.running.Go(func() {
		defer s.remove(w)
		l, name, err := s.handshake(ctx, w, from)
		if err != nil {
			if ctx.Err() == nil {
				s.failed(remote, err)
			}
			return
		}
		s.serve(ctx, l, name)
	})
}

func (s *server) remove(w *wire) {
	w.Close()
	s.mu.Lock()
	delete(s.links, w)
	s.mu.Unlock()
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for w := range s.links {
		w.abort()
	}
}

func addressOf(c net.Conn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

var errTooMany = errors.New("there are too many tunnel connections without a proven identity")

// handshake returns an error for whoever does not prove an identity in time.
func (s *server) handshake(ctx context.Context, w *wire, from netip.Addr) (*link, string, error) {
	defer func() {
		s.mu.Lock()
		if s.strangers[from]--; s.strangers[from] == 0 {
			delete(s.strangers, from)
		}
		s.mu.Unlock()
	}()
	keepAlive(w.conn)
	w.SetDeadline(time.Now().Add(handshakeTime))
	t := tls.Server(w, s.cfg)
	if err := apart(func() error { return t.HandshakeContext(ctx) }); err != nil {
		return nil, "", err
	}
	peer, err := identity.Peer(t.ConnectionState())
	if err != nil {
		return nil, "", err
	}
	l, err := newLink(w, t, peer, nil)
	if err != nil {
		return nil, "", err
	}
	return l, t.ConnectionState().ServerName, nil
}

// serve answers one request after the other, until one does not end in order.
func (s *server) serve(ctx context.Context, l *link, name string) {
	remote := addressOf(l.wire.conn)
	wait := handshakeTime
	for {
		l.wire.SetDeadline(time.Now().Add(wait))
		k, b, err := l.control()
		if err != nil || k != frameOpen || !l.usable(s.now()) {
			l.close()
			return
		}
		r, err := decodeRequest(b)
		if err != nil {
			l.close()
			return
		}
		l.wire.SetDeadline(time.Time{})
		in := &Incoming{Peer: l.peer, Request: r, Remote: remote, ServerName: name, link: l}
		s.handle(ctx, in)
		if !in.settle() {
			return
		}
		wait = serverIdleTime
	}
}

// settle ends what the handler left, and reports whether the connection can
// carry another stream.
func (in *Incoming) settle() bool {
	if in.stream == nil {
		if !in.answered {
			in.Refuse(Refusal{Code: "unanswered", Says: "the other side gave no answer"})
		}
		return in.link.reusable() == nil
	}
	in.stream.mu.Lock()
	closed := in.stream.closed || in.stream.link == nil
	in.stream.mu.Unlock()
	if !closed {
		in.stream.Reset()
	}
	return <-in.over && in.link.reusable() == nil
}
