package proxy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// upstreams are the HTTP/2 connections to the server. There is one, and another
// where the server ended it or takes no more streams.
type upstreams struct {
	mu        sync.Mutex // guards the following
	transport *http.Transport
	conns     map[net.Conn]struct{}
	closed    bool
}

// perStream bounds what waits in memory for a client that does not read.
const perStream = 128 << 10

func (u *upstreams) get(dial func(context.Context) (net.Conn, error)) *http.Transport {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.transport != nil {
		return u.transport
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	u.conns = map[net.Conn]struct{}{}
	u.transport = &http.Transport{
		Protocols:              &protocols,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: perStream},
		DisableCompression:     true,
		MaxResponseHeaderBytes: answerHeadBytes,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			return u.keep(conn)
		},
	}
	return u.transport
}

func (u *upstreams) keep(conn net.Conn) (net.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	u.conns[conn] = struct{}{}
	return &keptConn{conn, u}, nil
}

// close ends them all.
func (u *upstreams) close() {
	u.mu.Lock()
	u.closed = true
	transport, conns := u.transport, u.conns
	u.conns = nil // from which nothing is deleted any more
	u.mu.Unlock()
	for conn := range conns {
		_ = conn.Close()
	}
	if transport != nil {
		transport.CloseIdleConnections() // calls keptConn.Close with locks of its own
	}
}

// keptConn is forgotten when it is closed.
type keptConn struct {
	net.Conn
	u *upstreams
}

func (c *keptConn) Close() error {
	c.u.mu.Lock()
	delete(c.u.conns, c.Conn)
	c.u.mu.Unlock()
	return c.Conn.Close()
}

// forward2 forwards a request of HTTP/2, gRPC among them, as one.
func (x *exchange) forward2(ctx context.Context) error {
	res, err := x.s.two.get(x.s.dial).RoundTrip(x.request2(ctx))
	x.mu.Lock()
	x.answering = true
	x.mu.Unlock()
	if err != nil {
		return err
	}
	defer res.Body.Close()
	x.answerHead(res)
	if err := x.answerBody(res, func() bool { return false }); err != nil {
		return err
	}
	if x.grpc() {
		x.status = grpcStatus(res)
	}
	return nil
}

// request2 is the request to the server: the method, host and target that were
// decided, and what may pass of the rest.
func (x *exchange) request2(ctx context.Context) *http.Request {
	r := x.r
	cleanRequest(r.Header, x.s.source)
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = nil // none, instead of one of ours
	}
	for name := range r.Trailer {
		if reservedHeader(name) {
			delete(r.Trailer, name)
		}
	}
	out := http.Request{
		Method: r.Method, Host: r.Host, Header: r.Header, Trailer: r.Trailer,
		URL: &url.URL{
			Scheme: "http", Host: "server", Opaque: x.path, RawQuery: x.query,
			ForceQuery: x.query == "" && strings.HasSuffix(r.RequestURI, "?"),
		},
		ContentLength: r.ContentLength,
	}
	if r.ContentLength != 0 {
		out.Body = &decidedBody{x}
	}
	return out.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: x.inform}))
}

// inform sends an informational answer on. With HTTP/2 it runs while the handler
// waits for the answer, or after that, and then it is late.
func (x *exchange) inform(code int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answering || code == http.StatusContinue {
		return nil // the parser asks for the body itself
	}
	h := x.w.Header()
	removeHopByHop(http.Header(header))
	for name, values := range header {
		h[name] = values
	}
	x.w.WriteHeader(code)
	clear(h)
	return nil
}

// decidedBody is the body of a request for as long as the policy allows it.
type decidedBody struct{ x *exchange }

func (b *decidedBody) Read(p []byte) (int, error) {
	n, err := b.x.r.Body.Read(p)
	if n > 0 && b.x.entry.Revoked() {
		return 0, errTakenBack
	}
	b.x.out.Add(int64(n))
	return n, err
}

func (b *decidedBody) Close() error { return b.x.r.Body.Close() }

// grpcStatus returns the status of a gRPC answer, 2 (unknown) where it has none.
func grpcStatus(res *http.Response) int {
	text := res.Trailer.Get("Grpc-Status")
	if text == "" {
		text = res.Header.Get("Grpc-Status")
	}
	code, err := strconv.Atoi(text)
	if err != nil || code < 0 || code > 16 {
		return 2
	}
	return code
}
