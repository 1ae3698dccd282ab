package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	errReset   = errors.New("stream was reset")
	errNetwork = errors.New("stream of another network: datagrams are udp, bytes are tcp")
)

// Stream is one connection of a workload inside a tunnel. It is a net.Conn with
// half-close; a tcp stream carries bytes, a udp stream datagrams.
type Stream struct {
	request Request

	reading sync.Mutex // guards the following
	left    int        // unread bytes of the frame at hand
	ended   bool       // fin was received
	failed  error      // by which reading ended

	writing sync.Mutex // guards the following
	sentFin bool

	mu      sync.Mutex // guards the following
	link    *link      // nil when the stream is over: the link may be another's
	closed  bool
	release func(l *link, orderly bool)
}

func newStream(l *link, r Request, release func(*link, bool)) *Stream {
	return &Stream{link: l, request: r, release: release}
}

// Request returns what the stream was opened for.
func (s *Stream) Request() Request { return s.request }

// Peer returns the identity of the other side, from its certificate.
func (s *Stream) Peer() spiffeid.ID {
	if l := s.get(); l != nil {
		return l.peer
	}
	return spiffeid.ID{}
}

func (s *Stream) get() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// Read reads bytes of a tcp stream, io.EOF after the other side's CloseWrite.
func (s *Stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	l, err := s.readable(frameData)
	if err != nil {
		return 0, err
	}
	n, err := l.tls.Read(p[:min(len(p), s.left)])
	s.left -= n
	if n > 0 {
		err = nil // it comes again
	}
	return n, s.broken(err)
}

// readable returns the link when there are unread bytes of a frame of the kind.
// The caller holds reading.
func (s *Stream) readable(kind frameKind) (*link, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	l := s.get()
	if l == nil {
		return nil, net.ErrClosed
	}
	if (s.request.Network == "udp") != (kind == framePacket) {
		return nil, errNetwork
	}
	if s.ended {
		return nil, io.EOF
	}
	if s.left > 0 {
		return l, nil
	}
	k, n, err := l.next()
	switch {
	case err != nil:
		return nil, s.broken(err)
	case k == frameFin:
		s.ended = true
		return nil, io.EOF
	case k != kind:
		return nil, s.broken(fmt.Errorf("frame of kind %d in a %s stream", k, s.request.Network))
	}
	s.left = n
	return l, nil
}

// gather reads what there is of a tcp stream into b, for the loop that owns it. It returns errAgain when that
// was all, and no error when b is full or the stream has ended.
func (s *Stream) gather(l *link, b []byte) (int, error) {
	n := 0
	for n < len(b) && !s.ended {
		if s.left == 0 {
			k, length, err := l.next()
			switch {
			case err != nil:
				return n, err
			case k == frameFin:
				s.ended = true
				continue
			case k != frameData:
				return n, fmt.Errorf("frame of kind %d in a tcp stream", k)
			}
			s.left = length
		}
		m, err := l.tls.Read(b[n:min(len(b), n+s.left)])
		n += m
		s.left -= m
		if err != nil {
			return n, ended(err)
		}
	}
	return n, nil
}

// broken remembers an error after which nothing that arrives has a meaning.
func (s *Stream) broken(err error) error {
	err = ended(err)
	var temporary net.Error
	if err != nil && !(errors.As(err, &temporary) && temporary.Timeout()) {
		s.failed = err
	}
	return err
}

// Write writes bytes to a tcp stream.
func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	l, err := s.writable("tcp")
	if err != nil {
		return 0, err
	}
	b := takeBuffer()
	defer giveBuffer(b)
	done := 0
	for done < len(p) {
		n := copy(b[headerLen:relayBuffer], p[done:])
		putHeader(b, frameData, n)
		if _, err := l.tls.Write(b[:headerLen+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// writable returns the link while the stream may be written to. The caller
// holds writing.
func (s *Stream) writable(network string) (*link, error) {
	l := s.get()
	switch {
	case l == nil || s.sentFin:
		return nil, net.ErrClosed
	case s.request.Network != network:
		return nil, errNetwork
	}
	return l, nil
}

// WriteDatagram writes one datagram to a udp stream.
func (s *Stream) WriteDatagram(p []byte) error {
	if len(p) > maxDatagram {
		return fmt.Errorf("datagram of %d bytes: the limit is %d", len(p), maxDatagram)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	l, err := s.writable("udp")
	if err != nil {
		return err
	}
	b := takeBuffer()
	defer giveBuffer(b)
	putHeader(b, framePacket, len(p))
	_, err = l.tls.Write(b[:headerLen+copy(b[headerLen:], p)])
	return err
}

// ReadDatagram reads the next datagram of a udp stream into p, io.EOF after the
// other side's CloseWrite. What does not fit is lost, as with a socket.
func (s *Stream) ReadDatagram(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.left = 0
	l, err := s.readable(framePacket)
	if err != nil {
		return 0, err
	}
	n := min(len(p), s.left)
	if _, err := io.ReadFull(l.tls, p[:n]); err != nil {
		return 0, s.lost(err)
	}
	if _, err := io.CopyN(io.Discard, l.tls, int64(s.left-n)); err != nil {
		return 0, s.lost(err)
	}
	s.left = 0
	return n, nil
}

// lost ends reading, even after a deadline: the place in the frame is lost.
func (s *Stream) lost(err error) error {
	s.failed = ended(err)
	return s.failed
}

// CloseWrite says that no more comes; the other side reads io.EOF.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.sentFin {
		return nil
	}
	l := s.get()
	if l == nil {
		return net.ErrClosed
	}
	s.sentFin = true
	var fin [headerLen]byte
	putHeader(fin[:], frameFin, 0)
	_, err := l.tls.Write(fin[:])
	return err
}

// lingering bounds how long a closed stream waits for the other side's end.
const lingering = 10 * time.Second

// Close ends the stream in order: what was written arrives, what still arrives
// is dropped. It does not wait.
func (s *Stream) Close() error {
	s.mu.Lock()
	l := s.link
	if l == nil || s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	l.wire.SetDeadline(time.Now().Add(lingering)) // frees a reader and a writer that hang
	if err := s.CloseWrite(); err != nil {
		s.finish(false)
		return err
	}
	if s.over() {
		s.finish(true)
		return nil
	}
	go s.linger()
	return nil
}

// over reports whether both sides have sent their end.
func (s *Stream) over() bool {
	if !s.reading.TryLock() {
		return false // somebody still reads
	}
	defer s.reading.Unlock()
	return s.ended && s.failed == nil
}

// linger drops what still arrives until the other side ends as well.
func (s *Stream) linger() {
	b := takeBuffer()
	var err error
	for err == nil {
		if s.request.Network == "udp" {
			_, err = s.ReadDatagram(b)
		} else {
			_, err = s.Read(b)
		}
	}
	giveBuffer(b)
	s.finish(err == io.EOF)
}

// finish gives the link back, once, and reports whether it was this call.
func (s *Stream) finish(orderly bool) bool {
	s.mu.Lock()
	l := s.link
	s.link = nil
	s.mu.Unlock()
	if l == nil {
		return false
	}
	if !orderly {
		l.wire.abort()
	}
	s.release(l, orderly)
	return true
}

// Reset ends the stream at once: both sides get an error, and so does the
// application whose connection is relayed. It does not block, may come at any
// time and more than once, and never touches a later stream.
func (s *Stream) Reset() { s.finish(false) }

// LocalAddr returns the tunnel's own address.
func (s *Stream) LocalAddr() net.Addr { return s.address((*wire).LocalAddr) }

// RemoteAddr returns the tunnel's address on the other side.
func (s *Stream) RemoteAddr() net.Addr { return s.address((*wire).RemoteAddr) }

func (s *Stream) address(of func(*wire) net.Addr) net.Addr {
	if l := s.get(); l != nil {
		return of(l.wire)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPort{})
}

// SetDeadline bounds reading and writing, as with any net.Conn.
func (s *Stream) SetDeadline(t time.Time) error { return s.deadline(t, (*wire).SetDeadline) }

// SetReadDeadline bounds reading.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.deadline(t, (*wire).SetReadDeadline) }

// SetWriteDeadline bounds writing. A write that met it leaves the stream
// unusable.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.deadline(t, (*wire).SetWriteDeadline) }

func (s *Stream) deadline(t time.Time, set func(*wire, time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil || s.closed {
		return net.ErrClosed
	}
	return set(s.link.wire, t)
}
