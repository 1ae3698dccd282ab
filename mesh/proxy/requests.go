package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/core/netset"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
)

// requestServer decides the requests of one connection, each for itself, and
// forwards those that are allowed to the workload's own server.
//
// A request is decided by method, host and path, and what was decided is what is
// forwarded, byte for byte. The parser that reads a request also ends it: the
// server gets a message that was written anew, with one framing, so that no two
// programs can disagree about where a request ends. Headers by which a client
// asks for another method or path than those decided do not reach the server.
// The source, and nothing that the client says of it, stands in x-bulkhead-source.
//
// An upgraded connection (WebSocket) is opaque. It is that one request for as
// long as it lives: whoever may make the request may say anything on it.
//
// Bodies and streams have no timeout and no buffer beyond one read.
type requestServer struct {
	// source is the identity that the certificate proved, empty for something
	// outside.
	source string
	// open registers a request and then decides it.
	open func(netset.Request) (*registry.Entry, registry.Verdict)
	// dial connects to the workload's own server.
	dial func(context.Context) (net.Conn, error)
	// record takes a request that ended or was refused. It has the fields that
	// are the request's own.
	record func(flow.Record)
	now    func() time.Time

	in *inspectedConn
	// one is the connection to the server for HTTP/1, used by one request after
	// the other; two are those for HTTP/2.
	one upstream
	two upstreams

	mu      sync.Mutex // guards ended, and that nothing is added to running after it
	ended   bool
	running sync.WaitGroup // the requests
}

const (
	// headTime bounds how long the head of a request may take to arrive once it
	// began, and headBytes how long it is.
	headTime  = time.Minute
	headBytes = 64 << 10
	// maxStreams is how many requests of one HTTP/2 connection may run at once.
	maxStreams = 250
)

var errNoHTTP = errors.New("its requests are decided, and it is TLS of its own: nobody can read them")

// serve decides and forwards until the connection ends, and closes it. When it
// returns no request runs any more. The error is of a connection that has no
// requests that could be read.
func (s *requestServer) serve(ctx context.Context, in net.Conn) error {
	s.in = &inspectedConn{Conn: in, s: s, over: make(chan struct{})}
	defer context.AfterFunc(ctx, s.in.reset)()
	first, err := s.in.peek()
	if err != nil {
		_ = in.Close()
		return nil // it ended before it said anything
	}
	if first == tlsHandshake {
		s.record(flow.Record{Event: flow.Deny, Verdict: "deny", Why: errNoHTTP.Error()})
		s.in.reset()
		return errNoHTTP
	}
	ctx = context.WithValue(ctx, requestServerKey{}, s)
	_ = front().Serve(&singleListener{ctx: ctx, conn: s.in}) // returns when conn was accepted
	<-s.in.over
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.running.Wait()
	s.one.close()
	s.two.close()
	return nil
}

// tlsHandshake is the first byte of a TLS connection; no request begins so.
const tlsHandshake = 0x16

type requestServerKey struct{}

// front parses the requests of all inspected connections. It holds nothing of
// any of them beyond their life.
var front = sync.OnceValue(func() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols:                    &protocols,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout:            headTime,
		MaxHeaderBytes:               headBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // a client could fill it
		BaseContext:                  func(l net.Listener) context.Context { return l.(*singleListener).ctx },
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				close(c.(*inspectedConn).over)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := r.Context().Value(requestServerKey{}).(*requestServer)
			if !s.begin() {
				panic(http.ErrAbortHandler)
			}
			defer s.running.Done()
			s.in.handling.Add(1)
			defer s.in.handling.Add(-1)
			s.handle(w, r)
		}),
	}
})

// begin counts a request. It is refused if the connection is over: one of HTTP/2
// may come that late.
func (s *requestServer) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.running.Add(1)
	return true
}

// singleListener has one connection.
type singleListener struct {
	ctx  context.Context
	conn net.Conn
}

func (l *singleListener) Accept() (net.Conn, error) {
	c := l.conn
	l.conn = nil
	if c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *singleListener) Close() error   { return nil }
func (l *singleListener) Addr() net.Addr { return &net.TCPAddr{} }

// inspectedConn is the client's connection.
type inspectedConn struct {
	net.Conn
	s    *requestServer
	over chan struct{} // closed when the parser is done with it

	first  [24]byte // as long as the preface of HTTP/2
	unread []byte   // of first

	handling atomic.Int32 // requests being served
}

// peek waits for the first byte and leaves it to be read.
func (c *inspectedConn) peek() (byte, error) {
	n, err := c.Conn.Read(c.first[:])
	for n == 0 && err == nil {
		n, err = c.Conn.Read(c.first[:])
	}
	if n == 0 {
		return 0, err
	}
	c.unread = c.first[:n]
	return c.first[0], nil
}

func (c *inspectedConn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Write records the answers that the parser gives to what is no valid request,
// since no handler sees these.
func (c *inspectedConn) Write(p []byte) (int, error) {
	if c.handling.Load() == 0 && bytes.HasPrefix(p, parserAnswer) && bytes.Contains(p, parserHeaders) {
		status, _ := strconv.Atoi(string(p[len("HTTP/1.1 "):][:3]))
		c.s.record(flow.Record{Event: flow.Deny, Verdict: "deny", Status: status, Why: "it is no valid HTTP request: nobody can decide it"})
	}
	return c.Conn.Write(p)
}

var (
	parserAnswer  = []byte("HTTP/1.1 ")
	parserHeaders = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")
)

// CloseWrite ends the answers and lets the client finish.
func (c *inspectedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// reset ends the connection so that the client does not take what it got for
// all there was.
func (c *inspectedConn) reset() { resetConn(c.Conn) }

func resetConn(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }:
		c.Reset()
	case *net.TCPConn:
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}
