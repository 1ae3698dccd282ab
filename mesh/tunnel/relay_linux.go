package tunnel

import (
	"net"
	"sync/atomic"
)

// relay is a stream and a workload's connection that a loop moves bytes
// between: up from the application into the tunnel.
type relay struct {
	mover
	s    *Stream
	link *link
	app  *socket

	shut  atomic.Bool // the application was, or is being told that no more comes
	ended bool        // of up: the application has ended, and its fin is on its way
}

// relayByLoop reports false, having done nothing, when the stream's sockets are
// no sockets.
func relayByLoop(app *net.TCPConn, s *Stream, gate Gate, up, down *atomic.Int64) (bool, error) {
	r := &relay{s: s, app: &socket{conn: app}}
	// The tunnel is left to end: whoever revokes thousands waits for half as many
	// sockets.
	r.reset = r.app.reset
	r.init(gate, up, down)
	r.up.step, r.down.step = r.stepUp, r.stepDown
	started, err := r.take()
	if err != nil {
		resetConn(app)
		return true, err
	}
	if !started {
		return false, nil
	}
	return true, r.end(r.wait(r.start))
}

// take finds the stream's link, if a loop can relay it.
func (r *relay) take() (bool, error) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil || s.closed {
		return false, net.ErrClosed
	}
	if _, ok := s.link.wire.polled().(*net.TCPConn); !ok || s.request.Network == "udp" {
		return false, nil
	}
	r.link = s.link
	return true, nil
}

// start takes over both sockets.
func (r *relay) start() error {
	l, err := pickLoop()
	if err != nil {
		return err
	}
	app, err := r.app.detach(l, &r.up, &r.down)
	if err != nil {
		return err
	}
	r.down.to = app
	if _, err := r.link.wire.detach(l, &r.down, &r.up); err != nil {
		return err
	}
	buf := takeBuffer()
	defer giveBuffer(buf)
	r.up.run(buf, true)
	r.down.run(buf, true) // TLS may have read ahead
	return nil
}

// end gives everything back when nothing runs any more.
func (r *relay) end(err error) error {
	if err == nil {
		err = r.link.wire.attach()
	}
	if err != nil {
		r.link.wire.reset() // whatever became of it
	}
	r.app.Close()
	if !r.s.finish(err == nil) && err == nil {
		err = errReset
	}
	return err
}

// stepUp moves one buffer of the application's bytes into the tunnel. It
// reports whether there may be more.
func (r *relay) stepUp(buf []byte) (bool, error) {
	d, w := &r.up, r.link.wire
	if ok, err := d.flush(w); !ok || err != nil {
		return false, err
	}
	if r.ended {
		d.over = true
		return false, nil
	}
	n, err := r.app.raw.read(buf[headerLen:relayBuffer])
	switch {
	case err == errAgain:
		d.busy--
		return false, nil
	case err != nil:
		return false, err
	case n == 0 && isTorn(&r.shut, r.app.raw.torn):
		return false, errTorn
	case n == 0:
		r.ended = true
		return true, r.s.CloseWrite()
	}
	if r.gate.Revoked() {
		return false, ErrRevoked
	}
	much := headerLen+n > 16<<10 // more than one record
	if much {
		w.gather()
	}
	putHeader(buf, frameData, n)
	if _, err := r.link.tls.Write(buf[:headerLen+n]); err != nil {
		return false, err
	}
	d.count.Add(int64(n))
	if ok, err := d.flush(w); !ok || err != nil {
		return false, err
	}
	return d.more(n == relayBuffer-headerLen) || r.app.raw.hungUp(), nil
}

// flush writes what is left below TLS; false means that it must wait.
func (d *direction) flush(w *wire) (bool, error) {
	if d.m.gate.Revoked() {
		return false, ErrRevoked
	}
	d.blocked.Store(true) // as hand does
	ok, err := w.flush()
	switch {
	case ok:
		d.blocked.Store(false)
	case err == nil:
		err = w.raw.awaitRoom()
	}
	return ok, err
}

// stepDown moves one buffer out of the tunnel to the application. It reports
// whether there may be more.
func (r *relay) stepDown(buf []byte) (bool, error) {
	d, s := &r.down, r.s
	if ok, err := d.handRest(); !ok || err != nil {
		return false, err
	}
	r.link.wire.drained = false
	n, err := s.gather(r.link, buf[:relayBuffer])
	if err != nil && err != errAgain {
		return false, err
	}
	ok, werr := d.hand(buf[:n])
	switch {
	case werr != nil:
		return false, werr
	case !ok:
		return false, nil
	case s.ended:
		d.over = true
		r.shut.Store(true)
		return false, r.app.raw.closeWrite()
	}
	return d.more(err == nil), nil
}
