package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"bulkhead/core/netset"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// upstreamConn is the connection to the server that belongs to a client's, and is
// used by one request after the other to the same place.
type upstreamConn struct {
	conn   net.Conn // nil if there is none
	in     reader
	target outside.Target
	at     netip.AddrPort // where conn leads
}

func (u *upstreamConn) close() {
	if u.conn == nil {
		return
	}
	u.in.r, u.in.w = 0, 0
	u.in.release()
	resetConn(u.conn)
	*u = upstreamConn{}
}

// exchange serves one request that the gateway reads. It reports whether the
// client's connection can take another.
func (p *proxied) exchange() bool {
	h := &p.h
	t, path, why := p.where()
	if why != "" {
		p.malformed(&badMessage{400, why})
		return false
	}
	host := t.Host
	switch {
	case p.endpoint != nil:
		said, _ := outside.ParseHost(h.host, t.Port) // it was read before
		host = said.Host
	case host == "":
		host = t.Addr.String()
	}
	plainPath, _, _ := strings.Cut(path, "?")
	a := p.s.newAsk(t)
	a.endpoint = p.endpoint
	a.request = &netset.Request{Method: h.method, Host: host, Path: plainPath}
	body := h.chunked || h.length > 0
	if r := a.decide(false); r != nil {
		return p.refuseRequest(a, r, body)
	}
	addrs, r := a.resolve(p.s.ctx)
	if r == nil && p.captured.IsValid() {
		addrs, r = a.asCaptured(addrs, p.captured)
	}
	if r == nil {
		r = p.reach(a, addrs)
	}
	if r != nil {
		return p.refuseRequest(a, r, body)
	}
	defer a.done()
	return p.forward(a, path)
}

// reach makes sure that there is a connection to one of the addresses, by
// preference the one that is there.
func (p *proxied) reach(a *ask, addrs []netip.AddrPort) *refusal {
	u := &p.up
	if u.conn != nil && u.target == a.target && slices.Contains(addrs, u.at) && len(u.in.buffered()) == 0 && !tunnel.Ended(u.conn) {
		return a.register(u.at)
	}
	u.close()
	conn, r := a.connect(p.s.ctx, addrs)
	if r != nil {
		return r
	}
	return p.adopt(a, conn)
}

// where says where a request leads, or why it has no one reading.
func (p *proxied) where() (t outside.Target, path, why string) {
	h := &p.h
	var err error
	switch origin := strings.HasPrefix(h.target, "/"); {
	case h.hosts > 1 || h.hosts == 0 && h.minor == 1:
		return t, "", "it has not exactly one Host"
	case p.fixed.Port != 0 || p.captured.IsValid():
		t, path = p.fixed, h.target
		if !origin || strings.Contains(h.target, "#") {
			return t, "", "its target is no path"
		}
		if p.endpoint != nil {
			if _, err = outside.ParseHost(h.host, p.fixed.Port); err != nil {
				return t, "", "its Host: " + err.Error()
			}
			if p.tls == nil || t.Host == "" {
				// The name is the client's own: the endpoint leads to one place.
				return t, path, ""
			}
		}
		if p.captured.IsValid() {
			if t, err = outside.ParseHost(h.host, p.captured.Port()); err != nil {
				return t, "", "its Host: " + err.Error()
			}
			if t.Port != p.captured.Port() {
				return t, "", "its Host has another port than its connection"
			}
			return t, path, ""
		}
	case origin:
		return t, "", "its target is a path, and this is a proxy: it takes http://HOST/PATH and CONNECT HOST:PORT"
	default:
		if _, t, path, err = outside.ParseURL(h.target); err != nil {
			return t, "", "its target: " + err.Error()
		}
	}
	if h.hosts == 1 && !sameAuthority(h.host, t) {
		return t, "", "its Host is another one than where it goes"
	}
	return t, path, ""
}

// refuseRequest answers a request that does not pass. The connection stays usable
// if no body follows.
func (p *proxied) refuseRequest(a *ask, r *refusal, body bool) bool {
	keep := !body && !p.h.closes && !p.s.g.Draining()
	p.refuse(a, r, !keep)
	if !keep {
		linger(p.in.conn)
	}
	return keep
}

// adopt makes conn the one upstream connection, with TLS where the client's was
// ended.
func (p *proxied) adopt(a *ask, conn net.Conn) *refusal {
	if p.tls != nil {
		over, err := p.tls.dial(p.s.ctx, conn)
		if err != nil {
			return p.s.g.unavailable(502, err)
		}
		conn = over
	}
	p.up = upstreamConn{conn: conn, in: reader{conn: conn}, target: a.target, at: a.addr}
	return nil
}

// forward sends a request and its answer.
func (p *proxied) forward(a *ask, path string) bool {
	h := &p.h
	client, server := p.in.conn, p.up.conn
	x := exchange{p: p, a: a}
	a.entry.OnRevoke(func(registry.Reason) { x.cut(client, server) })
	defer x.end()
	stop := context.AfterFunc(p.s.ctx, func() { resetConn(server) })
	defer stop()
	a.recordOpen()
	x.gate = newGate(a, &x.meter)
	err := x.run(path)
	err = x.gate.end(err)
	a.recordEnd(flow.Request, x.status, x.meter.Out.Load(), x.meter.In.Load(), err)
	if err != nil {
		p.up.close()
		if !x.started && !a.entry.Revoked() && x.meter.In.Load() == 0 && !errors.Is(err, errClient) {
			p.answer(&refusal{status: x.failure(err), code: "unavailable", says: plain(err), number: a.verdict.Generation}, true)
			linger(client)
			return false
		}
		resetConn(client) // what it got must not look like all there was
		return false
	}
	if x.over || !x.keepServer {
		p.up.close()
	}
	if x.unread {
		linger(client)
	}
	return !x.over && !x.closes && !h.closes
}

// exchange is a request on its way and its answer.
type exchange struct {
	p     *proxied
	a     *ask
	meter tunnel.Meter
	gate  *gate

	status     int
	started    bool // the client has got some of the answer
	closes     bool // the client's connection ends after the answer
	keepServer bool
	over       bool // both connections have ended with it
	unread     bool // some of the request's body was not wanted
	answer     head
	out        lookout

	mu    sync.Mutex // guards the following
	ended bool
	pair  *tunnel.Pair // of both connections, once they are of another protocol
}

// cut resets both connections, unless they are for the next request already.
func (x *exchange) cut(client, server net.Conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.ended:
	case x.pair != nil:
		x.pair.Reset()
	default:
		resetConn(client)
		resetConn(server)
	}
}

func (x *exchange) hold(pair *tunnel.Pair) {
	x.mu.Lock()
	x.pair = pair
	x.mu.Unlock()
}

func (x *exchange) end() {
	x.mu.Lock()
	x.ended = true
	x.mu.Unlock()
}

// errClient says that it was the client who broke it.
var errClient = errors.New("the client went away")

func (x *exchange) failure(err error) int {
	if errors.Is(err, errFraming) {
		return 400
	}
	return 502
}

// run sends the request while it takes the answer.
func (x *exchange) run(path string) error {
	p, h := x.p, &x.p.h
	b := x.head(path)
	if x.gate.Revoked() {
		return tunnel.ErrRevoked
	}
	x.meter.Out.Add(int64(len(b)))
	if _, err := p.up.conn.Write(b); err != nil {
		return err
	}
	if h.length <= 0 && !h.chunked {
		x.lookOut()
		return x.orGone(x.takeAnswer(nil))
	}
	s := &sending{done: make(chan error, 1), ended: make(chan struct{})}
	if h.expects && h.minor == 1 {
		// The server consents, or says nothing for a second.
		timer := time.AfterFunc(consentTime, func() { s.start(x) })
		defer timer.Stop()
	} else {
		s.start(x)
	}
	err := x.takeAnswer(s)
	if !s.complete.Load() {
		x.closes, x.keepServer, x.unread = true, false, true
		_ = p.in.conn.SetReadDeadline(time.Unix(1, 0))
		_ = p.up.conn.SetDeadline(time.Unix(1, 0)) // nothing more is wanted of it
		s.cancel()
		sent := <-s.done
		err = x.orGone(err)
		_ = p.in.conn.SetReadDeadline(time.Time{})
		if err != nil && sent != nil && !errors.Is(sent, errSendingEnded) {
			return sent // the answer failed because of this
		}
		return err
	}
	<-s.done
	return x.orGone(err)
}

// lookout notices that a client goes away while its answer takes long: nobody
// would read it, and the server would go on for nothing. A client that ends its
// side counts as gone.
type lookout struct {
	timer   *time.Timer // nil if there is none
	running sync.WaitGroup
	gone    atomic.Bool
}

// lookoutAfter is how long an answer takes before somebody looks.
const lookoutAfter = time.Second

// lookOut begins to look, when all of the request is read. What the client says
// meanwhile is kept for the next request.
func (x *exchange) lookOut() {
	in := &x.p.in
	if len(in.buffered()) > 0 || !interruptible(in.conn) {
		return
	}
	x.out.running.Add(1)
	x.out.timer = time.AfterFunc(lookoutAfter, func() {
		defer x.out.running.Done()
		if err := in.fill(maxHead); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			x.out.gone.Store(true)
			resetConn(x.p.up.conn)
		}
	})
}

// orGone ends the lookout, and returns why an exchange failed.
func (x *exchange) orGone(err error) error {
	if t := x.out.timer; t != nil && !t.Stop() {
		_ = x.p.in.conn.SetReadDeadline(time.Unix(1, 0))
		x.out.running.Wait()
		_ = x.p.in.conn.SetReadDeadline(time.Time{})
	}
	x.out.timer = nil
	if err != nil && x.out.gone.Load() {
		return errClient
	}
	return err
}

// interruptible reports whether a read that was interrupted by a deadline can go
// on later. That of a stream cannot; its context says when its client is gone.
func interruptible(c net.Conn) bool {
	for {
		switch over := c.(type) {
		case *streamConn:
			return false
		case interface{ NetConn() net.Conn }:
			c = over.NetConn()
		default:
			return true
		}
	}
}

// consentTime is how long a server may take to consent to a body.
const consentTime = time.Second

// head writes the head of the request anew.
func (x *exchange) head(path string) []byte {
	h, t := &x.p.h, x.a.target
	b := make([]byte, 0, 1024)
	b = append(b, h.method...)
	b = append(b, ' ')
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if x.p.endpoint != nil {
		b = append(b, h.host...)
	} else {
		b = appendAuthority(b, t, x.p.tls != nil)
	}
	b = append(b, "\r\n"...)
	for i := range h.fields {
		f := &h.fields[i]
		if h.passes(f) {
			b = appendField(b, f)
		}
	}
	switch {
	case h.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case h.length >= 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, h.length, 10)
		b = append(b, "\r\n"...)
	}
	if x.upgrades() {
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, h.upgrade...)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// upgrades reports whether the request may ask for another protocol: not one that
// would bring further requests, nor with a body.
func (x *exchange) upgrades() bool {
	h := &x.p.h
	if !h.upgrades() || h.minor == 0 || h.chunked || h.length > 0 {
		return false
	}
	for protocol := range strings.SplitSeq(h.upgrade, ",") {
		name, _, _ := strings.Cut(strings.ToLower(strings.Trim(protocol, " \t")), "/")
		if !httpguts.ValidHeaderFieldName(name) || name == "http" || name == "tls" || strings.HasPrefix(name, "h2") || strings.HasPrefix(name, "h3") {
			return false
		}
	}
	return true
}

func appendField(b []byte, f *field) []byte {
	b = append(b, f.name...)
	b = append(b, ": "...)
	b = append(b, f.value...)
	return append(b, "\r\n"...)
}

// appendAuthority writes where a request goes, without the port that its scheme
// has by itself.
func appendAuthority(b []byte, t outside.Target, secure bool) []byte {
	switch {
	case t.Host != "":
		b = append(b, t.Host...)
	case t.Addr.Is6():
		b = append(b, '[')
		b = t.Addr.AppendTo(b)
		b = append(b, ']')
	default:
		b = t.Addr.AppendTo(b)
	}
	if secure && t.Port == 443 || !secure && t.Port == 80 {
		return b
	}
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(t.Port), 10)
}

// sending is a body on its way to the server, in a goroutine of its own.
type sending struct {
	once     sync.Once
	complete atomic.Bool
	done     chan error
	ended    chan struct{} // closed when one that began has ended
}

// settleTime is how long an answer waits for its request's body to end: servers
// answer while we still take note that they have all of it.
const settleTime = 10 * time.Millisecond

// settled reports whether all of the body was sent.
func (s *sending) settled() bool {
	if s.complete.Load() {
		return true
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
	}
	return s.complete.Load()
}

var errSendingEnded = errors.New("nobody waits for the rest of the body")

func (s *sending) start(x *exchange) {
	s.once.Do(func() {
		go func() {
			err := x.sendBody()
			if err == nil {
				x.lookOut()
				s.complete.Store(true)
			} else if !errors.Is(err, errSendingEnded) {
				resetConn(x.p.up.conn) // the server must not take a part for the whole
			}
			close(s.ended)
			s.done <- err
		}()
	})
}

// cancel prevents it from beginning.
func (s *sending) cancel() { s.once.Do(func() { s.done <- errSendingEnded }) }

// sendBody copies the body, as the gate lets it.
func (x *exchange) sendBody() error {
	h := &x.p.h
	out := x.p.up.conn
	if h.chunked {
		return x.copyChunks(out, &chunkReader{r: &x.p.in}, true)
	}
	return x.copyN(out, &x.p.in, h.length, true)
}

// copyN moves exactly n bytes. What is not buffered the kernel moves, where both
// are TCP.
func (x *exchange) copyN(to net.Conn, from *reader, n int64, up bool) error {
	if first := min(int64(len(from.buffered())), n); first > 0 {
		if err := x.write(to, from.buffered()[:first], up); err != nil {
			return err
		}
		from.skip(int(first))
		n -= first
	}
	for n > 0 {
		if x.gate.Revoked() {
			return tunnel.ErrRevoked
		}
		// A piece at a time, so that the gate is asked and bytes are counted.
		m, err := io.CopyN(to, from.conn, min(n, grantSize))
		x.count(up, m)
		n -= m
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (x *exchange) count(up bool, n int64) {
	if up {
		x.meter.Out.Add(n)
	} else {
		x.meter.In.Add(n)
	}
}

func (x *exchange) write(to net.Conn, b []byte, up bool) error {
	if x.gate.Revoked() {
		return tunnel.ErrRevoked
	}
	n, err := to.Write(b)
	x.count(up, int64(n))
	return err
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copyChunks writes what it reads as chunks.
func (x *exchange) copyChunks(to net.Conn, from io.Reader, up bool) error {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	const room = 18 // for the size of a chunk
	for {
		n, err := from.Read(buf[room : len(buf)-2])
		if n > 0 {
			size := strconv.AppendInt(make([]byte, 0, room), int64(n), 16)
			size = append(size, "\r\n"...)
			begin := room - len(size)
			copy(buf[begin:], size)
			copy(buf[room+n:], "\r\n")
			if err := x.write(to, buf[begin:room+n+2], up); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return x.write(to, []byte("0\r\n\r\n"), up)
		}
		if err != nil {
			return err
		}
	}
}

// maxInformational is how many informational answers a request may have.
const maxInformational = 16

// takeAnswer sends the server's answer on.
func (x *exchange) takeAnswer(body *sending) error {
	p, in := x.p, &x.p.up.in
	in.conn = p.up.conn
	for range maxInformational {
		text, err := in.head(answerTime, answerTime)
		if err != nil {
			if body != nil && errors.Is(err, io.EOF) {
				return fmt.Errorf("its server closed the connection: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
		if err := parseAnswer(text, &x.answer); err != nil {
			return errNoAnswer
		}
		switch status := x.answer.status; {
		case status == 101:
			return x.switchProtocols()
		case status == 100 && body != nil:
			body.start(x)
			if p.h.expects && p.h.minor == 1 {
				p.h.expects = false
				if _, err := io.WriteString(p.in.conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
					return errClient
				}
			}
		case status >= 200:
			return x.takeFinal(body)
		}
	}
	return errNoAnswer
}

// takeFinal sends the final answer on.
func (x *exchange) takeFinal(body *sending) error {
	p, in, h := x.p, &x.p.up.in, &x.answer
	x.status = h.status
	empty := p.h.method == http.MethodHead || h.status == 204 || h.status == 304
	untilEnd := !empty && !h.chunked && h.length < 0
	x.keepServer = !h.closes && !untilEnd
	asChunks := untilEnd && p.h.minor == 1 || h.chunked && p.h.minor == 1
	if (untilEnd || h.chunked) && !asChunks || body != nil && !body.settled() || p.s.g.Draining() {
		x.closes = true
	}
	b := make([]byte, 0, 1024)
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(h.status), 10)
	b = append(b, ' ')
	b = append(b, h.reason...)
	b = append(b, "\r\n"...)
	for i := range h.fields {
		if f := &h.fields[i]; h.passes(f) {
			b = appendField(b, f)
		}
	}
	switch {
	case asChunks && !empty:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case h.length >= 0 && h.status != 204:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, h.length, 10)
		b = append(b, "\r\n"...)
	}
	if x.closes || p.h.closes {
		b = append(b, "Connection: close\r\n"...)
	} else if p.h.minor == 0 {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	if !empty && h.length > 0 {
		// A short body goes with its head.
		if first := min(int64(len(in.buffered())), h.length); first > 0 && first == h.length {
			b = append(b, in.buffered()[:first]...)
			in.skip(int(first))
			empty = true
		}
	}
	x.started = true
	if err := x.write(p.in.conn, b, false); err != nil {
		return orClient(err)
	}
	switch {
	case empty || h.length == 0 && !h.chunked:
		return nil
	case h.chunked && asChunks:
		return x.copyChunks(p.in.conn, &chunkReader{r: in}, false)
	case h.chunked:
		return x.copyAll(&chunkReader{r: in})
	case h.length > 0:
		return x.copyN(p.in.conn, in, h.length, false)
	case asChunks:
		return x.copyChunks(p.in.conn, in, false)
	}
	return x.copyAll(in)
}

func orClient(err error) error {
	if errors.Is(err, tunnel.ErrRevoked) {
		return err
	}
	return errClient
}

// copyAll copies until the end of the connection, which ends the client's.
func (x *exchange) copyAll(from io.Reader) error {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if err := x.write(x.p.in.conn, buf[:n], false); err != nil {
				return orClient(err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// switchProtocols makes both connections one of another protocol, for as long as
// the request is allowed.
func (x *exchange) switchProtocols() error {
	p, h := x.p, &x.answer
	x.status, x.over = 101, true
	_ = x.orGone(nil) // from here on the relay looks
	if !x.upgrades() || !strings.EqualFold(firstProtocol(h.upgrade), firstProtocol(p.h.upgrade)) && !slices.ContainsFunc(strings.Split(p.h.upgrade, ","), func(s string) bool {
		return strings.EqualFold(strings.TrimSpace(s), strings.TrimSpace(h.upgrade))
	}) {
		return errNoAnswer
	}
	b := append(make([]byte, 0, 512), "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "...)
	b = append(b, h.upgrade...)
	b = append(b, "\r\n"...)
	for i := range h.fields {
		if f := &h.fields[i]; h.passes(f) {
			b = appendField(b, f)
		}
	}
	b = append(b, "\r\n"...)
	b = append(b, p.up.in.buffered()...)
	p.up.in.skip(len(p.up.in.buffered()))
	x.started = true
	if err := x.write(p.in.conn, b, false); err != nil {
		return orClient(err)
	}
	if first := p.in.buffered(); len(first) > 0 {
		if err := x.write(p.up.conn, first, true); err != nil {
			return err
		}
		p.in.skip(len(first))
	}
	pair := tunnel.NewPair(p.in.conn, p.up.conn)
	x.hold(pair)
	p.s.life.Hold(pair.Reset)
	return pair.Relay(x.gate, &x.meter, nil)
}

func firstProtocol(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}

// inspected is how to reach the server of a connection whose TLS was ended.
type inspected struct{ config *tls.Config }

func (i *inspected) dial(ctx context.Context, conn net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	over := tls.Client(conn, i.config)
	if err := over.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS to its server: %w", err)
	}
	return over, nil
}
