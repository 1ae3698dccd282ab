package egress

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
)

// ServeProxy serves a connection of a client that speaks to a proxy, and closes
// it.
func (g *Gateway) ServeProxy(ctx context.Context, conn net.Conn, c Client) {
	s := g.begin(ctx, c, func() { resetConn(conn) })
	if s == nil {
		g.tooMany(conn, c)
		return
	}
	defer s.end()
	p := &proxied{s: s, in: reader{conn: conn}}
	p.serve()
	p.close()
}

// tooMany refuses a connection of a client that has too many.
func (g *Gateway) tooMany(conn net.Conn, c Client) {
	says := "it has too many connections open: more are refused"
	if g.Draining() {
		says = errDraining.Error()
	}
	g.counters.failed.Add(1)
	g.o.Sink.Record(flow.Record{Time: g.o.Now(), Event: flow.Fail, Node: g.o.Node, Side: flow.Gateway, From: c.Peer, Transport: "tcp",
		Wire: c.Wire, Verdict: "allow", Generation: g.generation(), Why: says, Probe: c.Probe})
	resetConn(conn)
}

// proxied is a connection on which requests come, one after the other.
type proxied struct {
	s  *session
	in reader
	up upstreamConn
	h  head
	// fixed is where every request goes, on a connection whose TLS was ended here;
	// its port is 0 otherwise.
	fixed outside.Target
	// tls says how to reach fixed.
	tls *inspected
	// endpoint is set where fixed is a private endpoint.
	endpoint *policy.Endpoint
	// captured is where the workload's own connection went, on one that was
	// captured; its requests name their host only.
	captured netip.AddrPort
}

func (p *proxied) close() {
	p.up.close()
	p.in.r, p.in.w = 0, 0
	p.in.release()
	_ = p.in.conn.Close()
}

// prefaceHTTP2 is what a client of HTTP/2 with prior knowledge says first. It has
// the form of a request.
const prefaceHTTP2 = "PRI * HTTP/2.0\r\n\r\n"

// serve reads and serves requests until the connection ends.
func (p *proxied) serve() {
	g := p.s.g
	for first := true; ; first = false {
		p.in.release()
		p.s.busy.Store(0)
		if g.Draining() {
			return
		}
		text, err := p.in.head(g.o.IdleTime, g.o.HeadTime)
		p.s.busy.Store(1)
		if err != nil {
			if m, ok := errors.AsType[*badMessage](err); ok {
				p.malformed(m)
			}
			return
		}
		if text == prefaceHTTP2 && first && p.fixed.Port == 0 && !p.captured.IsValid() {
			p.serveHTTP2(text)
			return
		}
		if err := parseRequest(text, &p.h); err != nil {
			m, _ := errors.AsType[*badMessage](err)
			p.malformed(m)
			return
		}
		if p.h.method == http.MethodConnect {
			p.tunnel()
			return
		}
		if !p.exchange() {
			return
		}
	}
}

// malformed answers what has no one reading, and records it.
func (p *proxied) malformed(m *badMessage) {
	p.s.malformed(m.says, m.status)
	p.answer(&refusal{status: m.status, code: "malformed", says: m.says}, true)
	linger(p.in.conn)
}

// malformed records a request about which nobody can decide.
func (s *session) malformed(says string, status int) {
	g := s.g
	g.counters.malformed.Add(1)
	g.o.Sink.Record(flow.Record{Time: g.o.Now(), Event: flow.Deny, Node: g.o.Node, Side: flow.Gateway, From: s.c.Peer, Transport: "tcp",
		Wire: s.c.Wire, Verdict: "deny", Generation: g.generation(), Why: says, Status: status, Probe: s.c.Probe})
}

// linger lets the client read an answer before the connection is closed: what it
// sent and nobody read would reset it.
func linger(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, conn, lingerBytes)
	}
}

const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// answerBody is the body of an answer that is ours.
type answerBody struct {
	Error      string `json:"error"` // denied, malformed or unavailable
	Why        string `json:"why"`
	Rule       string `json:"rule,omitempty"`
	Generation uint64 `json:"generation,omitempty"`
}

// proxyStatus is the error of RFC 9209 section 2.3 that says best what a refusal
// is.
func (r *refusal) proxyStatus() string {
	switch {
	case r.code == "malformed":
		return "http_request_error"
	case r.denied:
		return "http_request_denied"
	case r.status == 504:
		return "dns_timeout"
	case r.status == 502:
		return "destination_unavailable"
	}
	return "proxy_internal_error"
}

// answer answers with a refusal. With closes the connection ends.
func (p *proxied) answer(r *refusal, closes bool) {
	text, _ := json.Marshal(answerBody{r.code, r.says, r.rule, r.number}) // of strings and a number: it cannot fail
	b := make([]byte, 0, 512+2*len(text))
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(r.status)...)
	b = append(b, "\r\nProxy-Status: bulkhead; error="...)
	b = append(b, r.proxyStatus()...)
	b = append(b, "; details="...)
	b = appendQuoted(b, r.says)
	b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(text)+1), 10)
	if closes {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	if p.h.method != http.MethodHead {
		b = append(append(b, text...), '\n')
	}
	_ = p.in.conn.SetWriteDeadline(time.Now().Add(p.s.g.o.HeadTime))
	_, _ = p.in.conn.Write(b) // a client that went away needs no answer
	_ = p.in.conn.SetWriteDeadline(time.Time{})
}

// appendQuoted writes a string of structured fields (RFC 8941 section 3.3.3).
func appendQuoted(b []byte, text string) []byte {
	b = append(b, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c >= ' ' && c < 0x7f:
			b = append(b, byte(c))
		case c == '→':
			b = append(b, "->"...)
		default:
			b = append(b, '?')
		}
	}
	return append(b, '"')
}

// sameAuthority reports whether a Host field names the target. It may leave out
// the port.
func sameAuthority(host string, t outside.Target) bool {
	h, err := outside.ParseHost(host, t.Port)
	return err == nil && h == t
}

// refuse answers and records a refusal.
func (p *proxied) refuse(a *ask, r *refusal, closes bool) {
	a.recordRefusal(r)
	a.done()
	p.answer(r, closes)
}

// tunnel serves a CONNECT.
func (p *proxied) tunnel() {
	h, s := &p.h, p.s
	t, err := outside.ParseAuthority(h.target)
	switch {
	case p.fixed.Port != 0 || p.captured.IsValid():
		p.malformed(&badMessage{400, "CONNECT is asked of no proxy"})
		return
	case err != nil:
		p.malformed(&badMessage{400, "its target: " + err.Error()})
		return
	case h.hosts > 1 || h.hosts == 0 && h.minor == 1:
		p.malformed(&badMessage{400, "it has not exactly one Host"})
		return
	case h.length > 0 || h.chunked:
		p.malformed(&badMessage{400, "a CONNECT has a body"})
		return
	}
	a := s.newAsk(t)
	if h.hosts == 1 && !sameAuthority(h.host, t) {
		if r := a.decide(true); r != nil {
			p.refuse(a, r, true)
		} else {
			p.refuse(a, s.g.refuse(400, "its Host is another one than its target"), true)
		}
		linger(p.in.conn)
		return
	}
	upstream, r := a.tunnelTo(s.ctx)
	if r != nil {
		p.refuse(a, r, true)
		linger(p.in.conn)
		return
	}
	defer a.done()
	if _, err := io.WriteString(p.in.conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		resetConn(upstream)
		a.recordEnd(flow.Fail, 0, 0, 0, err)
		return
	}
	s.carry(a, &p.in, upstream)
}

// tunnelTo decides, resolves and connects. With inspection the connection is made
// when the client has said whom it wants.
func (a *ask) tunnelTo(ctx context.Context) (net.Conn, *refusal) {
	if r := a.decide(true); r != nil {
		return nil, r
	}
	addrs, r := a.resolve(ctx)
	if r != nil {
		return nil, r
	}
	return a.connect(ctx, addrs)
}

// serveHTTP2 serves a client of HTTP/2 that spoke first.
func (p *proxied) serveHTTP2(said string) {
	rest := string(p.in.buffered())
	p.in.skip(len(rest))
	p.in.release()
	p.s.serveHTTP2(&replayed{p.in.conn, bufio.NewReader(io.MultiReader(strings.NewReader(said+rest), p.in.conn))})
}

// replayed is a connection of which something was read before.
type replayed struct {
	net.Conn
	r io.Reader
}

func (c *replayed) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *replayed) NetConn() net.Conn { return c.Conn }

// resetConn closes a connection with a reset where it is TCP, or lies over it.
func resetConn(c net.Conn) {
	for {
		switch over := c.(type) {
		case interface{ Reset() }:
			over.Reset()
			_ = c.Close()
			return
		case interface{ NetConn() net.Conn }:
			c = over.NetConn()
			continue
		case *net.TCPConn:
			_ = over.SetLinger(0)
		}
		_ = c.Close()
		return
	}
}
