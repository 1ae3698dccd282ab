package egress

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
)

// maxStreams is how many tunnels one connection of HTTP/2 may carry.
const maxStreams = 1000

// serveHTTP2 serves a client that speaks HTTP/2 until its connection ends. Each
// CONNECT is a tunnel of its own (RFC 9113 section 8.5). Extended CONNECT (RFC
// 8441) is not offered; any other request is forwarded as HTTP/1.1 would be.
func (s *session) serveHTTP2(conn net.Conn) {
	over := make(chan struct{})
	var once sync.Once
	l := &oneConn{Conn: conn, closed: func() { once.Do(func() { close(over) }) }}
	ctx := context.WithValue(s.ctx, sessionKey{}, s)
	stop := context.AfterFunc(ctx, func() { resetConn(conn) })
	defer stop()
	if s.busy.Store(0); s.g.Draining() {
		return
	}
	_ = s.g.http2.Serve(&oneListener{ctx: ctx, conn: l})
	<-over
}

type sessionKey struct{}

// http2Server returns what parses HTTP/2 for all clients.
func (g *Gateway) http2Server() *http.Server {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 1 << 20},
		ReadHeaderTimeout: time.Minute,
		MaxHeaderBytes:    maxHead,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // a client could fill it
		BaseContext:       func(l net.Listener) context.Context { return l.(*oneListener).ctx },
		ConnState: func(c net.Conn, state http.ConnState) {
			if one, ok := c.(*oneConn); ok && (state == http.StateClosed || state == http.StateHijacked) {
				one.closed()
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			over := r.Context().Value(sessionKey{}).(*session)
			over.busy.Add(1)
			defer over.streamEnded()
			g.serveStream(w, r, over.c)
		}),
	}
}

// oneConn tells when it is closed.
type oneConn struct {
	net.Conn
	closed func()
}

func (c *oneConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

type oneListener struct {
	ctx  context.Context
	conn net.Conn
}

func (l *oneListener) Accept() (net.Conn, error) {
	c := l.conn
	l.conn = nil
	if c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }

// streamEnded ends the connection after its last stream if no more are taken, once
// the client had time to see how that ended.
func (s *session) streamEnded() {
	if s.busy.Add(-1) > 0 || !s.g.Draining() {
		return
	}
	time.AfterFunc(lingerTime, func() {
		if s.busy.Load() == 0 {
			s.life.Sever(errDraining.Error())
		}
	})
}

// serveStream serves one request of HTTP/2.
func (g *Gateway) serveStream(w http.ResponseWriter, r *http.Request, c Client) {
	if r.Method != http.MethodConnect {
		s := &session{g: g, c: c}
		s.malformed(errOnlyConnect.Error(), 405)
		refuseStream(w, &refusal{status: 405, code: "malformed", says: errOnlyConnect.Error()})
		return
	}
	g.serveTunnel(w, r, c)
}

var errOnlyConnect = errors.New("over HTTP/2 this proxy takes CONNECT only: ask for http:// over HTTP/1.1")

func refuseStream(w http.ResponseWriter, r *refusal) {
	text, _ := json.Marshal(answerBody{r.code, r.says, r.rule, r.number}) // of strings and a number: it cannot fail
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Proxy-Status"] = []string{"bulkhead; error=" + r.proxyStatus() + "; details=" + string(appendQuoted(nil, r.says))}
	h["Content-Length"] = []string{strconv.Itoa(len(text) + 1)}
	w.WriteHeader(r.status)
	_, _ = w.Write(append(text, '\n'))
}

func (g *Gateway) serveTunnel(w http.ResponseWriter, r *http.Request, c Client) {
	conn := newStreamConn(w, r)
	s := g.begin(r.Context(), c, conn.Reset)
	if s == nil {
		refuseStream(w, g.unavailable(503, errors.New("it has too many connections open")))
		return
	}
	defer s.end()
	t, err := outside.ParseAuthority(r.Host)
	if err != nil {
		s.malformed("its target: "+err.Error(), 400)
		refuseStream(w, &refusal{status: 400, code: "malformed", says: "its target: " + err.Error()})
		return
	}
	a := s.newAsk(t)
	var upstream net.Conn
	refused := a.otherHost(r.Header["Host"])
	if refused == nil {
		upstream, refused = a.tunnelTo(s.ctx)
	}
	if refused != nil {
		a.recordRefusal(refused)
		a.done()
		refuseStream(w, refused)
		return
	}
	defer a.done()
	w.WriteHeader(http.StatusOK)
	if err := conn.control.Flush(); err != nil {
		resetConn(upstream)
		a.recordEnd(flow.Fail, 0, 0, 0, err)
		return
	}
	s.carry(a, &reader{conn: conn}, upstream)
	conn.finish()
}

// otherHost refuses a request whose Host field, which it need not have, is another
// than its authority (RFC 9113 section 8.3.1).
func (a *ask) otherHost(hosts []string) *refusal {
	if len(hosts) == 0 || len(hosts) == 1 && sameAuthority(hosts[0], a.target) {
		return nil
	}
	if r := a.decide(true); r != nil {
		return r
	}
	return a.s.g.refuse(400, "its Host is another one than its target")
}

// streamConn is a stream of HTTP/2 as a connection.
type streamConn struct {
	w       http.ResponseWriter
	body    io.ReadCloser
	control *http.ResponseController

	ended atomic.Bool // no more comes from the server

	mu    sync.Mutex // guards the following, and that nothing is written after them
	reset bool
	done  bool
}

func newStreamConn(w http.ResponseWriter, r *http.Request) *streamConn {
	return &streamConn{w: w, body: r.Body, control: http.NewResponseController(w)}
}

func (c *streamConn) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if err != nil && n == 0 && c.ended.Load() {
		err = io.EOF
	}
	return n, err
}

func (c *streamConn) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err == nil {
		err = c.control.Flush()
	}
	return n, err
}

// Reset makes every read and write fail, and the stream end with an error.
func (c *streamConn) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset = true
	if !c.done {
		_ = c.control.SetReadDeadline(time.Unix(1, 0))
		_ = c.control.SetWriteDeadline(time.Unix(1, 0))
	}
}

// finish says that the handler returns. If the stream was reset it does not return
// in order.
func (c *streamConn) finish() {
	c.mu.Lock()
	c.done = true
	reset := c.reset
	c.mu.Unlock()
	if reset {
		panic(http.ErrAbortHandler)
	}
}

func (c *streamConn) Close() error { return nil }

// CloseWrite ends both directions: a handler cannot end one.
func (c *streamConn) CloseWrite() error {
	c.ended.Store(true)
	return c.SetReadDeadline(time.Unix(1, 0))
}

func (c *streamConn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (c *streamConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func (c *streamConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *streamConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reset || c.done {
		return os.ErrDeadlineExceeded
	}
	return c.control.SetReadDeadline(t)
}

func (c *streamConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reset || c.done {
		return os.ErrDeadlineExceeded
	}
	return c.control.SetWriteDeadline(t)
}
