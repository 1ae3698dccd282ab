package identity

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// maxCallers bounds the connections to one socket: beyond it a workload keeps
// itself waiting, and nobody else.
const maxCallers = 64

// attestation is what the kernel said of the caller of a connection. It lies in
// the gRPC peer, where no request reaches.
type attestation struct {
	credentials.CommonAuthInfo
	workloads []string
	err       error
}

// AuthType implements credentials.AuthInfo.
func (attestation) AuthType() string { return "kernel" }

// attesting is the transport of the Workload API: plain, as the standard
// demands, and attested once per connection.
type attesting struct {
	attest func(*net.UnixConn) ([]string, error)
}

// ServerHandshake implements credentials.TransportCredentials. A caller that is
// unknown gets its connection, so that its requests are answered with a reason.
func (a attesting) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := attestation{}
	c, ok := conn.(*countedConn)
	if !ok {
		return nil, nil, errors.New("the Workload API is served over unix sockets only")
	}
	info.workloads, info.err = a.attest(c.UnixConn)
	return conn, info, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (attesting) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are of a server")
}

// Info implements credentials.TransportCredentials.
func (attesting) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone implements credentials.TransportCredentials.
func (a attesting) Clone() credentials.TransportCredentials { return a }

// OverrideServerName implements credentials.TransportCredentials.
func (attesting) OverrideServerName(string) error { return nil }

// counted is a listener that has at most some connections open at a time.
type counted struct {
	net.Listener
	slots chan struct{}
	done  chan struct{} // closed by Close
	close sync.Once
}

func count(ln net.Listener) *counted {
	return &counted{Listener: ln, slots: make(chan struct{}, maxCallers), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *counted) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		<-l.slots
		conn.Close()
		return nil, errors.New("the Workload API is served over unix sockets only")
	}
	return &countedConn{UnixConn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *counted) Close() error {
	l.close.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type countedConn struct {
	*net.UnixConn
	release func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.release()
	return c.UnixConn.Close()
}

// strangers says when to tell of callers that are no workload. They may call as
// often as they like, and would fill a log.
type strangers struct {
	mu   sync.Mutex // guards the following
	told time.Time
	more int // since then
}

// tellEvery is how often strangers are told of.
const tellEvery = 10 * time.Second

// refused reports whether to tell of one more, and how many were not told of
// before it.
func (s *strangers) refused(now time.Time) (before int, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told.IsZero() && now.Sub(s.told).Abs() < tellEvery {
		s.more++
		return 0, false
	}
	before, s.told, s.more = s.more, now, 0
	return before, true
}
