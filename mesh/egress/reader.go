package egress

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// smallBuffer is what a connection reads into until a head is longer.
const smallBuffer = 8 << 10

var smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}

// reader reads heads and bodies from a connection. While it waits for a new head
// it holds no buffer. It belongs to one goroutine.
type reader struct {
	conn  net.Conn
	small *[smallBuffer]byte
	b     []byte // the buffer
	r, w  int    // b[r:w] is not used yet
}

// release gives the buffer back if nothing is in it.
func (r *reader) release() {
	if r.r < r.w {
		return
	}
	if r.small != nil {
		smallBuffers.Put(r.small)
	}
	r.small, r.b, r.r, r.w = nil, nil, 0, 0
}

// buffered is what was read and not used.
func (r *reader) buffered() []byte { return r.b[r.r:r.w] }

func (r *reader) skip(n int) { r.r += n }

// fill reads more, once. It makes room up to a limit.
func (r *reader) fill(limit int) error {
	if r.b == nil {
		r.small = smallBuffers.Get().(*[smallBuffer]byte)
		r.b, r.r, r.w = r.small[:], 0, 0
	}
	if r.r > 0 {
		r.w = copy(r.b, r.b[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.b) {
		if r.w >= limit {
			return errTooLong
		}
		grown := make([]byte, min(4*len(r.b), limit))
		copy(grown, r.b[:r.w])
		if r.small != nil {
			smallBuffers.Put(r.small)
			r.small = nil
		}
		r.b = grown
	}
	n, err := r.conn.Read(r.b[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

var (
	errTooLong = &badMessage{431, "its head is too long"}
	errIdle    = errors.New("nothing came for a while")
)

// head reads up to and including the empty line that ends a head. It waits idle
// for the first byte and then most for the rest. The text is a copy.
func (r *reader) head(idle, most time.Duration) (string, error) {
	seen := 0
	waiting := true
	if idle > 0 {
		_ = r.conn.SetReadDeadline(time.Now().Add(idle)) // once: empty lines do not prolong it
	}
	for {
		b := r.buffered()
		if waiting && len(b) > 0 {
			// An empty line before a request is skipped (RFC 9112 section 2.2).
			for len(b) >= 2 && b[0] == '\r' && b[1] == '\n' && seen == 0 {
				r.skip(2)
				b = r.buffered()
			}
		}
		if i := bytes.Index(b[max(seen-3, 0):], endOfHead); i >= 0 {
			n := max(seen-3, 0) + i + len(endOfHead)
			text := string(b[:n])
			r.skip(n)
			if !waiting || idle > 0 {
				_ = r.conn.SetReadDeadline(time.Time{})
			}
			return text, nil
		}
		if len(b) >= maxHead {
			return "", errTooLong
		}
		if i := bytes.IndexByte(b, '\n'); i >= 0 && (i == 0 || b[i-1] != '\r') {
			return "", &badMessage{400, "a line does not end with CRLF"} // the end might never come
		}
		seen = len(b)
		if waiting && len(b) > 0 {
			waiting = false
			_ = r.conn.SetReadDeadline(time.Now().Add(most))
		}
		if err := r.fill(maxHead); err != nil {
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded) && waiting && len(b) == 0:
				return "", errIdle
			case errors.Is(err, os.ErrDeadlineExceeded):
				return "", &badMessage{408, "its head did not come in time"}
			case err == io.EOF && len(r.buffered()) > 0:
				return "", io.ErrUnexpectedEOF
			}
			return "", err
		}
	}
}

var endOfHead = []byte("\r\n\r\n")

// Read reads what is buffered first.
func (r *reader) Read(p []byte) (int, error) {
	if r.r < r.w {
		n := copy(p, r.b[r.r:r.w])
		r.r += n
		return n, nil
	}
	return r.conn.Read(p)
}

// line reads a line of at most limit bytes that ends with CRLF, without it.
func (r *reader) line(limit int) (string, error) {
	for {
		b := r.buffered()
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			if i < 1 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
				return "", errFraming
			}
			line := string(b[:i-1])
			r.skip(i + 1)
			return line, nil
		}
		if len(b) >= limit {
			return "", errFraming
		}
		if err := r.fill(maxHead); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
	}
}
