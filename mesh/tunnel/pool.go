package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxIdle is how many connections without a stream a pool keeps.
	maxIdle = 256
	// idleTime is how long it keeps them. The server waits longer, so that the
	// end never meets a new request.
	idleTime = 60 * time.Second
	// maxDialing is how many connections a pool makes at the same time.
	maxDialing = 32
	// handshakeTime bounds a handshake, and the wait for the first request.
	handshakeTime = 10 * time.Second
)

// PoolOptions say whose tunnels a pool makes, and how.
type PoolOptions struct {
	// TLS returns the client configuration for a peer (identity.ClientTLS). It
	// must refuse every other peer.
	TLS  func(peer spiffeid.ID) *tls.Config
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Leaf returns the certificate that a new tunnel presents. When it fails,
	// nothing is opened; when it is another than a tunnel was made with, that
	// tunnel carries no new stream. Nil means that certificates only expire.
	Leaf func() (*x509.Certificate, error)
	// Now is the clock of certificates, time.Now by default.
	Now func() time.Time
}

// Pool holds the tunnels of one source workload.
type Pool struct {
	o       PoolOptions
	dialing chan struct{} // a place for each handshake

	mu     sync.Mutex // guards the following
	closed bool
	idle   map[destination][]idleLink // the last one is the warmest
	count  int
	sweep  *time.Timer // set while something is idle
	open   map[*link]struct{}
}

type destination struct {
	to   netip.AddrPort
	peer spiffeid.ID
}

type idleLink struct {
	*link
	since time.Time
}

// NewPool returns an empty pool.
func NewPool(o PoolOptions) *Pool {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Pool{o: o, dialing: make(chan struct{}, maxDialing), idle: map[destination][]idleLink{}, open: map[*link]struct{}{}}
}

var errPoolClosed = errors.New("tunnel pool is closed")

// Open opens a stream to peer, whose tunnel listens on to, and returns when the
// other side has accepted it. A refusal is a *RefusedError.
func (p *Pool) Open(ctx context.Context, to netip.AddrPort, peer spiffeid.ID, r Request) (*Stream, error) {
	open, err := r.encode()
	if err != nil {
		return nil, err
	}
	leaf, err := p.leaf()
	if err != nil {
		return nil, err
	}
	key := destination{to, peer}
	for {
		l := p.take(key, leaf)
		if l == nil {
			break
		}
		s, answered, err := p.ask(ctx, key, l, open, r)
		if answered || ctx.Err() != nil {
			return s, err
		}
		// The other side closed the idle connection. Without an answer nothing
		// was sent to anybody, so that asking again repeats nothing.
	}
	l, err := p.dial(ctx, key)
	if err != nil {
		return nil, err
	}
	s, _, err := p.ask(ctx, key, l, open, r)
	return s, err
}

func (p *Pool) leaf() (*x509.Certificate, error) {
	if p.o.Leaf == nil {
		return nil, nil
	}
	return p.o.Leaf()
}

// ask opens a stream on l. It reports whether the other side answered.
func (p *Pool) ask(ctx context.Context, key destination, l *link, open []byte, r Request) (*Stream, bool, error) {
	stop := context.AfterFunc(ctx, l.wire.abort)
	k, b, err := l.exchange(open)
	if !stop() {
		err = context.Cause(ctx) // the connection is gone, whatever was answered
	}
	if err != nil {
		p.drop(l)
		return nil, false, fmt.Errorf("opening a stream to %s at %s: %w", key.peer, key.to, err)
	}
	switch k {
	case frameAccept:
		return newStream(l, r, func(l *link, orderly bool) { p.back(key, l, orderly) }), true, nil
	case frameRefuse:
		refusal, err := decodeRefusal(b)
		if err != nil {
			p.drop(l)
			return nil, true, fmt.Errorf("%s: %w", key.peer, err)
		}
		p.back(key, l, true)
		return nil, true, &RefusedError{refusal}
	}
	p.drop(l)
	return nil, true, fmt.Errorf("%s answered a request with a frame of kind %d", key.peer, k)
}

func (l *link) exchange(open []byte) (frameKind, []byte, error) {
	if _, err := l.tls.Write(open); err != nil {
		return 0, nil, err
	}
	return l.control()
}

// dial makes a new connection.
func (p *Pool) dial(ctx context.Context, key destination) (*link, error) {
	select {
	case p.dialing <- struct{}{}:
		defer func() { <-p.dialing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c, err := p.o.Dial(ctx, key.to)
	if err != nil {
		return nil, fmt.Errorf("tunnel to %s: %w", key.peer, err)
	}
	keepAlive(c)
	l, err := p.handshake(ctx, key, c)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("tunnel to %s at %s: %w", key.peer, key.to, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		l.wire.abort()
		return nil, errPoolClosed
	}
	p.open[l] = struct{}{}
	return l, nil
}

func (p *Pool) handshake(ctx context.Context, key destination, c net.Conn) (*link, error) {
	cfg := p.o.TLS(key.peer).Clone()
	if cfg.InsecureSkipVerify && cfg.VerifyConnection == nil {
		return nil, errUnverified
	}
	cfg.DynamicRecordSizingDisabled = true // small first records are for browsers
	var own *x509.Certificate
	if cert := cfg.GetClientCertificate; cert != nil {
		cfg.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := cert(i)
			if err == nil {
				own = leafOf(c)
			}
			return c, err
		}
	} else if len(cfg.Certificates) > 0 {
		own = leafOf(&cfg.Certificates[0])
	}
	w := &wire{socket: socket{conn: c}}
	t := tls.Client(w, cfg)
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTime, errSlow)
	defer cancel()
	if err := apart(func() error { return t.HandshakeContext(ctx) }); err != nil {
		return nil, err
	}
	return newLink(w, t, key.peer, own)
}

var errUnverified = errors.New("the TLS configuration verifies nobody")

var errSlow = fmt.Errorf("no handshake within %s", handshakeTime)

// take returns a usable idle connection, nil if there is none.
func (p *Pool) take(key destination, leaf *x509.Certificate) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		all := p.idle[key]
		if len(all) == 0 {
			delete(p.idle, key)
			return nil
		}
		l := all[len(all)-1].link
		all[len(all)-1] = idleLink{}
		p.idle[key] = all[:len(all)-1]
		p.count--
		if l.usable(p.o.Now()) && (leaf == nil || leaf.Equal(l.own)) {
			return l
		}
		delete(p.open, l)
		go l.close()
	}
}

// back takes a connection whose stream is over.
func (p *Pool) back(key destination, l *link, orderly bool) {
	if !orderly || l.reusable() != nil {
		p.drop(l)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.count >= maxIdle {
		delete(p.open, l)
		go l.close()
		return
	}
	p.idle[key] = append(p.idle[key], idleLink{l, time.Now()})
	p.count++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(idleTime/4, p.clean)
	}
}

func (p *Pool) drop(l *link) {
	l.wire.abort()
	p.mu.Lock()
	delete(p.open, l)
	p.mu.Unlock()
}

// clean closes what was idle for too long, and comes again while there is more.
func (p *Pool) clean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for key, all := range p.idle {
		n := 0
		for n < len(all) && (time.Since(all[n].since) > idleTime || !all[n].usable(p.o.Now())) {
			delete(p.open, all[n].link)
			go all[n].close()
			n++
		}
		p.count -= n
		if p.idle[key] = append([]idleLink(nil), all[n:]...); n == len(all) {
			delete(p.idle, key)
		}
	}
	p.sweep = nil
	if p.count > 0 {
		p.sweep = time.AfterFunc(idleTime/4, p.clean)
	}
}

// Close closes what is idle in order, resets every open stream, and makes every
// later Open fail.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.sweep != nil {
		p.sweep.Stop()
	}
	for _, all := range p.idle {
		for _, l := range all {
			delete(p.open, l.link)
			l.close()
		}
	}
	for l := range p.open {
		l.wire.abort()
	}
	p.idle, p.open = nil, nil
	return nil
}
