package tunnel

import (
	"sync"
	"sync/atomic"
)

// mover is what a loop moves bytes for: two directions that end together.
type mover struct {
	gate     Gate
	up, down direction // from the client, or the application, and back
	reset    func()    // at once, when it has failed; from anywhere

	unfinished atomic.Int32 // directions
	failed     atomic.Bool
	once       sync.Once // guards err
	err        error
	done       chan struct{} // closed when nothing runs any more
}

// direction moves bytes one way. Whoever raises pending from nothing runs it:
// the loop, or a goroutine when there is much. When it has finished, pending is
// never nothing again.
type direction struct {
	m       *mover
	step    func(buf []byte) (again bool, err error)
	give    func() // gives back what it holds, at its end; may be nil
	to      raw    // where it writes
	count   *atomic.Int64
	pending atomic.Int32
	blocked atomic.Bool // waits until more can be written
	busy    int         // of the runner: so many steps are still for a goroutine
	over    bool        // of the runner: its end was sent on

	rest, kept []byte // of hand: what was not taken yet, and the buffer that holds it
}

func (m *mover) init(gate Gate, up, down *atomic.Int64) {
	m.gate, m.done = gate, make(chan struct{})
	m.up.m, m.up.count = m, up
	m.down.m, m.down.count = m, down
	m.unfinished.Store(2)
	// Until both sockets are there, events only count.
	m.up.pending.Store(1)
	m.down.pending.Store(1)
}

// wait runs what begin begins, and returns how it ended.
func (m *mover) wait(begin func() error) error {
	if err := begin(); err != nil {
		m.fail(err)
		m.up.finish()
		m.down.finish()
	}
	<-m.done
	return m.err
}

// fail ends both directions. It may come from anywhere.
func (m *mover) fail(err error) {
	if !m.settle(err) {
		return
	}
	m.reset()
	for _, d := range []*direction{&m.up, &m.down} {
		if d.pending.Add(1) == 1 {
			d.finish() // nobody runs it, and nobody will
		}
	}
}

// settle says how it ended. The first to say counts.
func (m *mover) settle(err error) (first bool) {
	m.once.Do(func() {
		first = true
		m.err = err
		m.failed.Store(err != nil)
	})
	return first
}

// finish is called once, when nobody runs the direction any more.
func (d *direction) finish() {
	if d.kept != nil {
		giveBuffer(d.kept)
		d.rest, d.kept = nil, nil
	}
	if d.give != nil {
		d.give()
	}
	if d.m.unfinished.Add(-1) == 0 {
		d.m.settle(nil)
		close(d.m.done)
	}
}

// busySteps is how long a direction that moved a full buffer is left to
// goroutines, in steps that moved less.
const busySteps = 16

// fewSteps is how many steps the loop itself does at once.
const fewSteps = 3

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
	for steps := 1; ; steps++ {
		n := d.pending.Load()
		if d.m.failed.Load() {
			d.finish()
			return true
		}
		more, err := d.step(buf)
		switch {
		case err != nil:
			d.m.fail(err)
			d.finish()
			return true
		case d.over:
			d.finish()
			return true
		case more && !mayTakeLong && (d.busy > 0 || steps == fewSteps):
			go d.alone()
			return true
		case more:
		case d.pending.CompareAndSwap(n, 0):
			return false
		}
	}
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

// hand writes b; false means that it keeps the rest and must wait.
func (d *direction) hand(b []byte) (bool, error) {
	if len(b) == 0 {
		return true, nil
	}
	if d.m.gate.Revoked() {
		return false, ErrRevoked
	}
	d.blocked.Store(true) // before trying, or the news that more fits could come in between
	n, err := d.to.write(b)
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
	return false, d.to.awaitRoom()
}

// handRest writes what hand kept; false means that it must wait.
func (d *direction) handRest() (bool, error) {
	if ok, err := d.hand(d.rest); !ok || err != nil {
		return false, err
	}
	if d.kept != nil {
		giveBuffer(d.kept)
		d.rest, d.kept = nil, nil
	}
	return true, nil
}
