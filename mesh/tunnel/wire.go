package tunnel

import (
	"errors"
	"sync"
)

// maxUnsent bounds what TLS may leave to be written on its own account (answers
// to key updates) to a peer that does not read.
const maxUnsent = 1 << 20

var errUnsent = errors.New("peer does not read: too much unsent")

// wire lies below a TLS connection. While a loop has it, reads answer errAgain,
// and writes always succeed and keep what did not fit.
type wire struct {
	socket
	// drained: the last read took all there was. Belongs to the reader.
	drained bool

	out  sync.Mutex // guards the following; TLS writes from the reading side too
	hold bool       // gather records, to be written with one call
	left []byte     // written by TLS, not yet by us
}

func (w *wire) Read(p []byte) (int, error) {
	if w.raw == nil {
		return w.conn.Read(p)
	}
	if w.drained {
		return 0, errAgain
	}
	n, err := w.raw.read(p)
	switch {
	case err != nil:
		w.drained = true
		return 0, err
	case n == 0:
		return 0, errEnd
	}
	w.drained = n < len(p) && !w.raw.hungUp()
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	if w.raw == nil {
		return w.conn.Write(p)
	}
	w.out.Lock()
	defer w.out.Unlock()
	n := 0
	if len(w.left) == 0 && !w.hold {
		var err error
		if n, err = w.raw.write(p); err != nil && err != errAgain {
			return n, err
		}
	}
	if n == len(p) {
		return n, nil
	}
	if len(w.left)+len(p)-n > maxUnsent {
		return n, errUnsent
	}
	if w.left == nil {
		w.left = takeBuffer()[:0]
	}
	w.left = append(w.left, p[n:]...)
	return len(p), nil
}

// flush writes what is left, and reports whether nothing is left any more.
func (w *wire) flush() (bool, error) {
	w.out.Lock()
	defer w.out.Unlock()
	w.hold = false
	if len(w.left) == 0 {
		return true, nil
	}
	n, err := w.raw.write(w.left)
	if err != nil && err != errAgain {
		return false, err
	}
	if n < len(w.left) {
		w.left = w.left[:copy(w.left, w.left[n:])]
		return false, nil
	}
	giveBuffer(w.left)
	w.left = nil
	return true, nil
}

// gather makes Write keep everything until flush.
func (w *wire) gather() {
	w.out.Lock()
	w.hold = true
	w.out.Unlock()
}

// relayBuffer is the size of the buffers that bytes pass through: big enough
// that the calls do not count, small enough for the cache.
const relayBuffer = 64 << 10

// buffers holds byte arrays of relayBuffer and some room for headers and for
// what TLS adds, so that what is idle holds none.
var buffers = sync.Pool{New: func() any { return new([relayBuffer + 4<<10]byte) }}

func takeBuffer() []byte { return buffers.Get().(*[relayBuffer + 4<<10]byte)[:] }

func giveBuffer(b []byte) {
	if cap(b) == relayBuffer+4<<10 {
		buffers.Put((*[relayBuffer + 4<<10]byte)(b[:cap(b)]))
	}
}
