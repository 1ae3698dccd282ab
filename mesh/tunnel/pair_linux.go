package tunnel

import (
	"net"
	"sync/atomic"
)

// plain is a pair of TCP connections that a loop moves bytes between: up from
// client to server. Small messages are copied, which is one buffer and no pipe;
// when a buffer comes full, the kernel moves what follows through a pipe, until
// there is no more.
type plain struct {
	mover
	client, server *socket
	ways           [2]way // up, down
}

// way is what a direction of a plain pair has for itself.
type way struct {
	d     *direction
	from  *sock
	other *way
	told  atomic.Bool // its end was, or is being sent on

	full bool  // the last read was: there is much
	pipe *pipe // while there is much
}

// relayByLoop reports false, having done nothing, when the connections are not
// both TCP.
func (p *Pair) relayByLoop(gate Gate, m *Meter) (bool, error) {
	if !isTCP(p.client.conn) || !isTCP(p.server.conn) {
		return false, nil
	}
	x := &plain{client: &p.client, server: &p.server}
	x.reset = x.resetBoth
	x.init(gate, &m.Out, &m.In)
	for i, d := range []*direction{&x.up, &x.down} {
		w := &x.ways[i]
		w.d, w.other = d, &x.ways[1-i]
		d.step, d.give = w.step, w.give
	}
	err := x.wait(x.start)
	if err != nil {
		x.resetBoth() // whatever became of them
	}
	p.client.Close()
	p.server.Close()
	return true, err
}

func isTCP(c net.Conn) bool {
	_, ok := c.(*net.TCPConn)
	return ok
}

func (x *plain) resetBoth() {
	x.client.reset()
	x.server.reset()
}

// start takes over both sockets.
func (x *plain) start() error {
	l, err := pickLoop()
	if err != nil {
		return err
	}
	client, err := x.client.detach(l, &x.up, &x.down)
	if err != nil {
		return err
	}
	server, err := x.server.detach(l, &x.down, &x.up)
	if err != nil {
		return err
	}
	x.ways[0].from, x.up.to = client, server
	x.ways[1].from, x.down.to = server, client
	x.up.begin()
	x.down.begin()
	return nil
}

// begin runs the direction if something has happened already.
func (d *direction) begin() {
	if !d.pending.CompareAndSwap(1, 0) {
		d.alone()
	}
}

// step moves what was left, and then a buffer or a pipe of what there is.
func (w *way) step(buf []byte) (bool, error) {
	d := w.d
	if ok, err := d.handRest(); !ok || err != nil {
		return false, err
	}
	if ok, err := w.drain(); !ok || err != nil {
		return false, err
	}
	if w.full && w.takePipe() {
		return w.fill()
	}
	n, err := w.from.read(buf[:relayBuffer])
	switch {
	case err == errAgain:
		w.full = false
		return d.more(false), nil
	case err != nil:
		return false, err
	case n == 0:
		return false, w.end()
	}
	w.full = n == relayBuffer
	if ok, err := d.hand(buf[:n]); !ok || err != nil {
		return false, err
	}
	return d.more(w.full) || w.from.hungUp(), nil
}

func (w *way) takePipe() bool {
	if w.pipe == nil {
		w.pipe = takePipe()
	}
	return w.pipe != nil
}

// fill moves what there is through the pipe. Reading always has the last word:
// whether there is nothing left, or whether that was the end.
func (w *way) fill() (bool, error) {
	if err := w.pipe.fill(w.from); err != nil {
		return false, err
	}
	w.full = w.pipe.held >= relayBuffer
	if ok, err := w.drain(); !ok || err != nil {
		return false, err
	}
	w.d.more(w.full)
	return true, nil
}

// drain writes what is in the pipe; false means that it must wait. When there is
// no longer much it gives the pipe back.
func (w *way) drain() (bool, error) {
	p, d := w.pipe, w.d
	if p == nil {
		return true, nil
	}
	if p.held > 0 {
		if d.m.gate.Revoked() {
			return false, ErrRevoked
		}
		d.blocked.Store(true) // as hand does
		n, err := p.drain(d.to.(*sock))
		d.count.Add(int64(n))
		if err == errAgain {
			return false, d.to.awaitRoom()
		}
		if err != nil {
			return false, err
		}
		d.blocked.Store(false)
	}
	if !w.full {
		w.give()
	}
	return true, nil
}

func (w *way) give() {
	if w.pipe != nil {
		givePipe(w.pipe)
		w.pipe = nil
	}
}

// end sends the end on.
func (w *way) end() error {
	w.told.Store(true)
	if isTorn(&w.other.told, w.from.torn) {
		return errTorn
	}
	w.d.over = true
	return w.d.to.closeWrite()
}
