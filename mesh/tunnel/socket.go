package tunnel

import (
	"net"
	"sync"
	"time"
)

// raw is a socket that never blocks. A loop says when to try again.
type raw interface {
	read(p []byte) (int, error)  // errAgain when there is nothing yet; 0 and nil is the end
	write(p []byte) (int, error) // errAgain when nothing fits
	closeWrite() error
	awaitRoom() error // the loop will say when more fits
	hungUp() bool     // the peer has ended, or said something urgent: a short read is not all there is
	torn() bool       // what looks like an end is a reset; see errTorn
	close()
	reset() // close with a reset
	abort() // reset, and everything that was relayed with it
}

// errAgain is what a socket without data answers. It is temporary, and so
// leaves a TLS connection above it intact.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// socket is a connection that the runtime polls or, while a loop relays it, a
// raw socket. Only its owner changes that, reads and writes; abort and the
// deadlines may come from anywhere.
type socket struct {
	conn net.Conn // closed while raw is set
	raw  raw

	mu      sync.Mutex // guards the change of conn and raw, and aborted
	aborted bool
}

// abort resets the connection, now and whatever it becomes, and with it what it
// is relayed with.
func (s *socket) abort() {
	s.mu.Lock()
	s.aborted = true
	raw := s.raw
	s.mu.Unlock()
	if raw != nil {
		raw.abort()
		return
	}
	s.reset()
}

// reset resets this connection alone.
func (s *socket) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	if s.raw != nil {
		s.raw.reset()
		return
	}
	resetConn(s.conn)
}

// resetConn closes c with a reset where it is TCP, a stream, or lies over one of
// them. One that is closed already is no error.
func resetConn(c net.Conn) {
	for {
		switch over := c.(type) {
		case interface{ Reset() }:
			over.Reset()
		case interface{ NetConn() net.Conn }:
			c = over.NetConn()
			continue
		case *net.TCPConn:
			over.SetLinger(0)
		}
		c.Close()
		return
	}
}

// Close ends the connection in order.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raw != nil {
		s.raw.close()
		return nil
	}
	return s.conn.Close()
}

func (s *socket) LocalAddr() net.Addr  { return s.polled().LocalAddr() }
func (s *socket) RemoteAddr() net.Addr { return s.polled().RemoteAddr() }

func (s *socket) SetDeadline(t time.Time) error      { return s.polled().SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.polled().SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.polled().SetWriteDeadline(t) }

func (s *socket) polled() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}
