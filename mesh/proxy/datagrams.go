package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/tunnel"
)

const (
	// idleAssociation ends an association that carried nothing for so long:
	// datagrams have no end of their own.
	idleAssociation = 60 * time.Second
	// maxQueued are the datagrams that wait for a tunnel that opens or is slow.
	// What is beyond is lost, as on any link.
	maxQueued   = 64
	maxDatagram = 65535
	// afterError keeps a socket that has nothing but errors from taking a core.
	afterError = time.Millisecond
)

// datagramCapture receives what a member sends to one destination, and has an
// association for each of its clients' addresses.
type datagramCapture struct {
	m    *member
	to   netip.AddrPort
	conn *net.UDPConn

	mu     sync.Mutex // guards the following
	closed bool
	open   map[netip.AddrPort]*association
}

// captureDatagrams makes the captures of a member exactly those that are wanted.
func (m *member) captureDatagrams(want []UDPCapture) {
	m.mu.Lock()
	have := maps.Clone(m.datagrams)
	closed := m.closed
	m.mu.Unlock()
	for c, d := range have {
		if closed || !slices.Contains(want, c) {
			m.mu.Lock()
			delete(m.datagrams, c)
			m.mu.Unlock()
			d.close() // frees the port, which another may get
		}
	}
	for _, c := range want {
		if closed || have[c] != nil {
			continue
		}
		conn, err := m.sockets.CaptureUDP(c.Local)
		if err != nil {
			m.p.o.Log.Error("datagrams are not carried", "workload", m.name, "to", c.To, "err", err)
			continue
		}
		d := &datagramCapture{m: m, to: c.To, conn: conn, open: map[netip.AddrPort]*association{}}
		m.mu.Lock()
		m.datagrams[c] = d
		m.mu.Unlock()
		if !m.run(d.receive) {
			d.close()
		}
	}
}

func (d *datagramCapture) close() {
	_ = d.conn.Close() // nothing is lost with it
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, a := range d.open {
		a.c.life.Sever("the policy no longer names datagrams to " + d.to.String())
	}
}

// receive takes the member's datagrams until the socket is closed.
func (d *datagramCapture) receive() {
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := d.conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed) || d.m.ctx.Err() != nil:
			return
		case err != nil: // of a datagram sent before: the client's port is closed
			time.Sleep(afterError)
			continue
		}
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
		if d.resolves() {
			d.answer(append([]byte(nil), buf[:n]...), client)
			continue
		}
		if a := d.associate(client); a != nil {
			a.enqueue(buf[:n])
		}
	}
}

// resolves reports whether the destination is the resolver.
func (d *datagramCapture) resolves() bool {
	w := d.m.p.world.Load()
	return d.m.p.o.Outside != nil && w != nil && w.Gateway[d.to.Addr()] && d.to.Port() == resolverPort
}

// answer has the resolver answer a question. What is beyond the limit is lost, as
// on any link.
func (d *datagramCapture) answer(query []byte, client netip.AddrPort) {
	m := d.m
	if !m.associations.take("") {
		return
	}
	from := flow.Peer{Workload: m.name, Zone: m.zone, Addr: client}
	if !m.run(func() {
		defer m.associations.give("")
		if b := m.p.o.Outside.Answer(m.ctx, query, from); b != nil {
			_, _ = d.conn.WriteToUDPAddrPort(b, client) // a client that went away needs no answer
		}
	}) {
		m.associations.give("")
	}
}

// associate returns the association of a client, nil if it may have none.
func (d *datagramCapture) associate(client netip.AddrPort) *association {
	d.mu.Lock()
	a := d.open[client]
	d.mu.Unlock()
	if a != nil {
		return a
	}
	m := d.m
	c := m.begin(flow.Source, "udp")
	c.from = flow.Peer{Workload: m.name, Zone: m.zone, Addr: client}
	c.probe = m.p.probes.take(m.name, client)
	var err error
	if c.id, err = m.p.newID(); err != nil {
		c.refuse("it has no id: " + err.Error())
		return nil
	}
	place, ok := c.place(d.to)
	if !ok {
		return nil
	}
	if c.decide([]policy.Party{c.self()}, policy.Party{Kind: policy.WorkloadParty, Name: place.Workload}, d.to.Port()) == denied {
		c.deny()
		return nil
	}
	if !m.associations.take("") {
		d.evict()
		c.end(false, m.associations.over(fmt.Sprintf("%s has %d associations of datagrams open", m.name, m.associations.limit)))
		return nil
	}
	a = newAssociation(c)
	a.limit = m.p.rates.take(c.question, c.to.Service)
	if !d.admit(a, client) || !m.run(func() { d.carry(a, client, place) }) {
		d.forget(a, client)
		c.end(false, errRemoved)
		return nil
	}
	return a
}

// admit adds an association, unless the capture is closed.
func (d *datagramCapture) admit(a *association, client netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.open[client] = a
	}
	return !d.closed
}

// evict ends the association that carried nothing for the longest time, so that
// a client that uses a port for each question does not shut itself out.
func (d *datagramCapture) evict() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var oldest *association
	for _, a := range d.open {
		if oldest == nil || a.quiet() > oldest.quiet() {
			oldest = a
		}
	}
	if oldest != nil {
		oldest.c.life.Sever("others needed its place")
	}
}

func (d *datagramCapture) forget(a *association, client netip.AddrPort) {
	d.mu.Lock()
	if d.open[client] == a {
		delete(d.open, client)
	}
	d.mu.Unlock()
	d.m.associations.give("")
	d.m.p.rates.give(a.limit, a.c.question, a.c.to.Service)
}

// carry moves the datagrams of a client until it is idle or severed.
func (d *datagramCapture) carry(a *association, client netip.AddrPort, place Place) {
	stream, err := a.c.openTunnel(d.m.ctx, place)
	if err != nil {
		d.forget(a, client)
		a.c.end(false, err)
		a.c.life.Sever("")
		return
	}
	a.c.wire = "mtls"
	a.c.open()
	back := func(b []byte) error {
		_, err := d.conn.WriteToUDPAddrPort(b, client)
		return unlessGone(err)
	}
	err = a.relay(d.m.ctx, stream, &a.c.meter.Out, &a.c.meter.In, back)
	d.forget(a, client)
	a.c.end(true, err)
	a.c.life.Sever("")
}

// association carries the datagrams between one client and one server.
type association struct {
	c     *connection
	idle  time.Duration
	queue chan []byte // towards the tunnel
	limit *rate.Limiter
	began time.Time
	last  atomic.Int64 // when something was carried, since began
}

func newAssociation(c *connection) *association {
	return &association{c: c, idle: c.m.p.idle, queue: make(chan []byte, maxQueued), began: time.Now()}
}

func (a *association) touch() { a.last.Store(int64(time.Since(a.began))) }

// quiet is for how long nothing was carried.
func (a *association) quiet() time.Duration {
	return time.Since(a.began) - time.Duration(a.last.Load())
}

// enqueue gives a datagram to the tunnel, or drops it if too many wait or the
// rate is used up. It does not block.
func (a *association) enqueue(b []byte) {
	if a.limit != nil && !a.limit.AllowN(time.Now(), len(b)) {
		return
	}
	select {
	case a.queue <- append(make([]byte, 0, len(b)), b...):
	default:
	}
}

// relay moves what is queued into the stream, and what comes out of it to back,
// until the association is idle or either fails.
func (a *association) relay(ctx context.Context, stream *tunnel.Stream, sent, received *atomic.Int64, back func([]byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.c.life.Hold(func() { cancel(nil) })
	a.touch()
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(a.receive(stream, received, back))
	}()
	err := a.send(ctx, stream, sent)
	if err == nil && stream.CloseWrite() == nil && stream.SetReadDeadline(time.Now().Add(lastWords)) == nil {
		<-done
		return stream.Close()
	}
	stream.Reset()
	<-done
	return err
}

// lastWords is how long the other side may take to end an association in order.
const lastWords = 5 * time.Second

// send moves what is queued into the stream. It returns nil at an orderly end.
func (a *association) send(ctx context.Context, stream *tunnel.Stream, sent *atomic.Int64) error {
	timer := time.NewTimer(a.idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != io.EOF && !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		case <-timer.C:
			left := a.idle - a.quiet()
			if left <= 0 {
				return nil
			}
			timer.Reset(left)
		case b := <-a.queue:
			if a.c.entry.Revoked() {
				return nil
			}
			if err := stream.WriteDatagram(b); err != nil {
				return err
			}
			sent.Add(int64(len(b)))
			a.touch()
		}
	}
}

// receive moves what comes out of the stream to back. It returns nil at the end
// that the other side made.
func (a *association) receive(stream *tunnel.Stream, received *atomic.Int64, back func([]byte) error) error {
	buf := make([]byte, maxDatagram)
	for {
		n, err := stream.ReadDatagram(buf)
		if err != nil {
			return err
		}
		if a.c.entry.Revoked() {
			return nil
		}
		if a.limit != nil && !a.limit.AllowN(time.Now(), n) {
			continue
		}
		if err := back(buf[:n]); err != nil {
			return err
		}
		received.Add(int64(n))
		a.touch()
	}
}

// serveDatagrams carries an association to the member's own server.
func (c *connection) serveDatagrams(ctx context.Context, in *tunnel.Incoming) {
	own, err := c.m.sockets.DialOwnUDP(ctx, in.Request.Port)
	if err != nil {
		c.failIncoming(in, fmt.Errorf("%s takes no datagrams at port %d: %w", c.m.name, in.Request.Port, err))
		return
	}
	c.life.Hold(func() { _ = own.Close() })
	stream, err := in.Accept()
	if err != nil {
		c.end(false, err)
		c.life.Sever("")
		return
	}
	c.life.Hold(stream.Reset)
	c.open()
	a := newAssociation(c)
	var answers sync.WaitGroup
	answers.Go(func() { a.collect(own) })
	err = a.relay(ctx, stream, &c.meter.In, &c.meter.Out, func(b []byte) error {
		_, err := own.Write(b)
		return unlessGone(err)
	})
	c.end(true, err)
	c.life.Sever("") // closes own, and so ends collect
	answers.Wait()
}

// collect takes the server's datagrams until the socket is closed.
func (a *association) collect(own *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := own.Read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // of a datagram sent before: the server's port is closed
			time.Sleep(afterError)
			continue
		}
		a.enqueue(buf[:n])
	}
}

// unlessGone drops the error that an earlier datagram found nobody: its receiver
// may come back.
func unlessGone(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}
