package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
)

// relay is a stream and a workload's connection that a loop moves bytes
// between.
type relay struct {
	s    *Stream
	link *link
	app  *socket
	gate Gate

	up, down direction // from the application into the tunnel, and back

	shut       atomic.Bool  // the application was, or is being told that no more comes
	unfinished atomic.Int32 // directions
	once       sync.Once    // guards err and done
	err        error
	done       chan struct{}
}

// direction moves bytes one way. Whoever raises pending from nothing runs it:
// the loop, or a goroutine when there is much. When it has finished, pending is
// never nothing again.
type direction struct {
	r       *relay
	step    func(buf []byte) (again bool, err error)
	count   *atomic.Int64
	pending atomic.Int32
	blocked atomic.Bool // waits until more can be written
	busy    int         // of the runner: so many steps are still for a goroutine
	over    bool        // of the runner: its end was sent on

	rest, kept []byte // of down: what the application did not take yet, and the buffer that holds it
	ended      bool   // of up: the application has ended, and its fin is on its way
}

// relayByLoop reports false, having done nothing, when the stream's sockets are
// no sockets.
func relayByLoop(app *net.TCPConn, s *Stream, gate Gate, up, down *atomic.Int64) (bool, error) {
	r := &relay{s: s, app: &socket{conn: app}, gate: gate, done: make(chan struct{})}
	r.up, r.down = direction{r: r, count: up}, direction{r: r, count: down}
	r.up.step, r.down.step = r.stepUp, r.stepDown
	r.unfinished.Store(2)
	started, err := r.take()
	if err != nil {
		resetConn(app)
		return true, err
	}
	if !started {
		return false, nil
	}
	if err := r.start(); err != nil {
		r.fail(err)
	}
	<-r.done
	return true, r.end()
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

// start takes over both sockets. Until both are there, events only count.
func (r *relay) start() error {
	l, err := pickLoop()
	if err != nil {
		return err
	}
	r.up.pending.Store(1)
	r.down.pending.Store(1)
	if err := r.app.detach(l, &r.up, &r.down); err != nil {
		return err
	}
	if err := r.link.wire.detach(l, &r.down, &r.up); err != nil {
		return err
	}
	buf := takeBuffer()
	defer giveBuffer(buf)
	r.up.run(buf, true)
	r.down.run(buf, true)
	return nil
}

// end gives everything back when nothing runs any more.
func (r *relay) end() error {
	if r.err == nil {
		r.err = r.link.wire.attach()
	}
	if r.err != nil {
		r.link.wire.reset() // whatever became of it
	}
	r.app.Close()
	if !r.s.finish(r.err == nil) && r.err == nil {
		r.err = errReset
	}
	return r.err
}

// fail resets the application at once, and leaves the tunnel to end: whoever
// revokes thousands waits for half as many sockets. It may come from anywhere.
func (r *relay) fail(err error) {
	r.once.Do(func() {
		r.err = err
		r.app.reset()
		close(r.done)
	})
}

// busySteps is how long a direction that moved a full buffer is left to
// goroutines, in steps that moved less.
const busySteps = 16

// wake runs the direction unless somebody does already, who then looks again.
// It reports whether it made goroutines ready.
func (d *direction) wake(buf []byte) bool {
	if d.pending.Add(1) > 1 {
		return false
	}
	if d.busy > 0 {
		go d.alone()
		return true
	}
	return d.run(buf, false)
}

// alone runs the direction on a goroutine of its own.
func (d *direction) alone() {
	buf := takeBuffer()
	defer giveBuffer(buf)
	d.run(buf, true)
}

// run does what there is to do. What is much is for a goroutine, unless this is
// one; it reports whether it made one ready.
func (d *direction) run(buf []byte, mayTakeLong bool) bool {
	for {
		n := d.pending.Load()
		more, err := d.step(buf)
		switch {
		case err != nil:
			d.r.fail(err)
			return true
		case d.over:
			if d.r.unfinished.Add(-1) == 0 {
				d.r.once.Do(func() { close(d.r.done) })
			}
			return true
		case more && !mayTakeLong:
			go d.alone()
			return true
		case more:
		case d.pending.CompareAndSwap(n, 0):
			return false
		}
	}
}

// stepUp moves one buffer of the application's bytes into the tunnel. It
// reports whether there may be more.
func (r *relay) stepUp(buf []byte) (bool, error) {
	d, w := &r.up, r.link.wire
	if ok, err := d.flush(w); !ok || err != nil {
		return false, err
	}
	if d.ended {
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
	case n == 0 && !r.shut.Load() && r.app.raw.torn():
		return false, errTorn
	case n == 0:
		d.ended = true
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

// more reports full, and remembers how busy the direction is.
func (d *direction) more(full bool) bool {
	if full {
		d.busy = busySteps
	} else if d.busy > 0 {
		d.busy--
	}
	return full
}

// flush writes what is left below TLS; false means that it must wait.
func (d *direction) flush(w *wire) (bool, error) {
	if d.r.gate.Revoked() {
		return false, ErrRevoked
	}
	d.blocked.Store(true) // before trying, or the news that more fits could come in between
	ok, err := w.flush()
	if ok {
		d.blocked.Store(false)
	}
	return ok, err
}

// stepDown moves one buffer out of the tunnel to the application. It reports
// whether there may be more.
func (r *relay) stepDown(buf []byte) (bool, error) {
	d, s := &r.down, r.s
	if ok, err := d.hand(d.rest); !ok || err != nil {
		return false, err
	}
	if d.kept != nil {
		giveBuffer(d.kept)
		d.rest, d.kept = nil, nil
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

// hand writes b to the application; false means that it keeps the rest and must
// wait.
func (d *direction) hand(b []byte) (bool, error) {
	if len(b) == 0 {
		return true, nil
	}
	if d.r.gate.Revoked() {
		return false, ErrRevoked
	}
	d.blocked.Store(true)
	n, err := d.r.app.raw.write(b)
	if err != nil && err != errAgain {
		return false, err
	}
	d.count.Add(int64(n))
	if n == len(b) {
		d.blocked.Store(false)
		return true, nil
	}
	if d.kept == nil {
		d.kept = takeBuffer()
		d.rest = d.kept[:copy(d.kept, b[n:])]
	} else {
		d.rest = d.rest[n:]
	}
	return false, nil
}
