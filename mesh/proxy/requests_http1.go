package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"bulkhead/mesh/tunnel"
)

const (
	// answerHeadBytes bounds the head of an answer.
	answerHeadBytes = 1 << 20
	// shortBody is the longest body that is sent in one piece with its head.
	shortBody = 4 << 10
	// consentTime is how long a server may take to consent to a body. Many never
	// do, and read it all the same.
	consentTime = time.Second
	// maxInformational is how many informational answers a request may have.
	maxInformational = 16
)

// errAbandoned says that the server closed a kept connection just when a request
// was sent. Whether the request had an effect is unknown, and the client learns
// what it would without us: that the connection is gone.
var errAbandoned = errors.New("the server closed a kept connection")

// upstream is the HTTP/1 connection to the server that belongs to a client's.
// One goroutine at a time uses it.
type upstream struct {
	conn net.Conn // nil if there is none
	used bool     // an answer came on it
	left int64    // how much of a head may still be read, -1 outside of heads
	br   *bufio.Reader
	bw   *bufio.Writer
}

// connect makes sure that there is a connection which the server has not ended.
func (u *upstream) connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	if u.conn != nil && (u.br.Buffered() > 0 || tunnel.Ended(u.conn)) {
		u.close()
	}
	if u.conn != nil {
		return nil
	}
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	u.conn, u.used = conn, false
	if u.br == nil {
		u.br, u.bw = bufio.NewReader(u), bufio.NewWriter(conn)
	} else {
		u.br.Reset(u)
		u.bw.Reset(conn)
	}
	return nil
}

// close ends the connection; an unfinished request ends with it.
func (u *upstream) close() {
	if u.conn != nil {
		resetConn(u.conn)
		u.conn = nil
	}
}

// Read bounds heads.
func (u *upstream) Read(p []byte) (int, error) {
	if u.left == 0 {
		return 0, errNoAnswer
	}
	if u.left > 0 && int64(len(p)) > u.left {
		p = p[:u.left]
	}
	n, err := u.conn.Read(p)
	if u.left > 0 {
		u.left -= int64(n)
	}
	return n, err
}

// forward1 forwards a request of HTTP/1.
func (x *exchange) forward1(ctx context.Context) error {
	u := &x.s.one
	_ = http.NewResponseController(x.w).EnableFullDuplex() // an answer may come before the body ends
	upgrade := upgradeOf(x.r)
	listed := x.r.Header["Content-Length"] != nil
	cleanRequest(x.r.Header, x.s.source)
	for {
		if err := u.connect(ctx, x.s.dial); err != nil {
			return err
		}
		kept, conn := u.used, u.conn
		stop := context.AfterFunc(ctx, func() { resetConn(conn) })
		err := x.exchange1(u, upgrade, listed)
		if !stop() || err != nil || x.r.Close {
			u.close()
		}
		if errors.Is(err, errAbandoned) {
			if !kept {
				return io.ErrUnexpectedEOF
			}
			if x.repeatable() && ctx.Err() == nil {
				continue
			}
		}
		return err
	}
}

// repeatable reports whether sending the request twice does what once does.
func (x *exchange) repeatable() bool {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return x.r.ContentLength == 0
	}
	return false
}

// exchange1 sends the request and its answer. If it returns nil the connection can
// take another request.
func (x *exchange) exchange1(u *upstream, upgrade string, listed bool) error {
	x.writeHead(u.bw, upgrade, listed)
	var body *sending
	var err error
	if n := x.r.ContentLength; n >= 0 && n <= shortBody && x.r.Header["Expect"] == nil {
		err = x.sendShort(u.bw)
	} else {
		body, err = x.startSending(u)
	}
	if err != nil {
		return err
	}
	err = x.takeAnswer(u, upgrade, body)
	if body == nil {
		return err
	}
	if sent := x.stopSending(u, body); err != nil && sent != nil && sent != errAbandoned {
		return sent // the answer failed because of this
	}
	return err
}

// stopSending waits for the end of sending. What the server answered without
// waiting for it has no reader, and the connection ends with it.
func (x *exchange) stopSending(u *upstream, body *sending) error {
	if !body.complete.Load() {
		u.close()
		client := http.NewResponseController(x.w)
		_ = client.SetReadDeadline(longAgo)
		defer func() { _ = client.SetReadDeadline(time.Time{}) }() // the parser still reads some of the rest away
	}
	body.cancel()
	return <-body.end
}

// writeHead writes the head of the request. The parser saw to it that no value
// has a line break.
func (x *exchange) writeHead(w *bufio.Writer, upgrade string, listed bool) {
	r := x.r
	_, _ = w.WriteString(r.Method) // an error stays with the writer until it is flushed
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(r.RequestURI)
	_, _ = w.WriteString(" HTTP/1.1\r\nHost: ")
	_, _ = w.WriteString(r.Host)
	_, _ = w.WriteString("\r\n")
	for name, values := range r.Header {
		if name == "Content-Length" {
			continue
		}
		for _, value := range values {
			writeHeader(w, name, value)
		}
	}
	switch {
	case r.ContentLength > 0 || r.ContentLength == 0 && listed:
		writeHeader(w, "Content-Length", strconv.FormatInt(r.ContentLength, 10))
	case r.ContentLength < 0:
		writeHeader(w, "Transfer-Encoding", "chunked")
		for name := range r.Trailer {
			if passesAsTrailer(name) {
				writeHeader(w, "Trailer", name)
			}
		}
	}
	if upgrade != "" {
		writeHeader(w, "Connection", "Upgrade")
		writeHeader(w, "Upgrade", upgrade)
	}
	_, _ = w.WriteString("\r\n")
}

func writeHeader(w *bufio.Writer, name, value string) {
	_, _ = w.WriteString(name)
	_, _ = w.WriteString(": ")
	_, _ = w.WriteString(value)
	_, _ = w.WriteString("\r\n")
}

// flush sends what is written, as long as the policy allows it.
func (x *exchange) flush(w *bufio.Writer) error {
	if x.entry.Revoked() {
		return errTakenBack
	}
	if w.Flush() != nil {
		return errAbandoned
	}
	return nil
}

// sendShort sends a body of known, small size, together with the head.
func (x *exchange) sendShort(w *bufio.Writer) error {
	if x.r.ContentLength > 0 {
		buf := copyBuffers.Get().(*[32 << 10]byte)
		n, err := io.ReadFull(x.r.Body, buf[:x.r.ContentLength])
		_, _ = w.Write(buf[:n])
		copyBuffers.Put(buf)
		x.out.Add(int64(n))
		if err != nil {
			return errBody
		}
	}
	return x.flush(w)
}

// sending is a body on its way to the server, in a goroutine of its own.
type sending struct {
	once     sync.Once
	run      func()
	complete atomic.Bool // all of it was written
	end      chan error  // has one value when it is over
}

// start begins, unless it was canceled.
func (s *sending) start() { s.once.Do(func() { go s.run() }) }

// cancel prevents it from beginning.
func (s *sending) cancel() { s.once.Do(func() { s.end <- errAbandoned }) }

// startSending sends the head and lets the body follow. A client that waits for
// the server's consent is asked for the body when the server consents, or
// says nothing.
func (x *exchange) startSending(u *upstream) (*sending, error) {
	if err := x.flush(u.bw); err != nil {
		return nil, err
	}
	s := &sending{end: make(chan error, 1)}
	conn, bw := u.conn, u.bw
	s.run = func() {
		err := x.sendBody(bw, s)
		if err != nil && err != errAbandoned {
			resetConn(conn) // the server must not take a part for the whole
		}
		s.end <- err
	}
	if x.r.Header["Expect"] == nil {
		s.start()
	} else {
		time.AfterFunc(consentTime, s.start)
	}
	return s, nil
}

// sendBody copies the body as it comes. A failure to write is not the end: the
// server may have answered already.
func (x *exchange) sendBody(bw *bufio.Writer, s *sending) error {
	w := io.Writer(bw)
	chunked := x.r.ContentLength < 0
	if chunked {
		w = httputil.NewChunkedWriter(bw)
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := x.r.Body.Read(buf[:])
		if err == io.EOF {
			s.complete.Store(true) // before the server can answer to it
		}
		if n > 0 {
			if x.entry.Revoked() {
				return errTakenBack
			}
			x.out.Add(int64(n))
			if _, err := w.Write(buf[:n]); err != nil {
				return errAbandoned
			}
		}
		if err == io.EOF && chunked {
			x.endChunks(bw)
		}
		if err == nil || err == io.EOF {
			if err := x.flush(bw); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return errBody
		}
	}
}

// endChunks writes the end of a chunked body with its trailers.
func (x *exchange) endChunks(w *bufio.Writer) {
	_, _ = w.WriteString("0\r\n")
	for name, values := range x.r.Trailer {
		for _, value := range values {
			if passesAsTrailer(name) && httpguts.ValidHeaderFieldValue(value) {
				writeHeader(w, name, value)
			}
		}
	}
	_, _ = w.WriteString("\r\n")
}

// passesAsTrailer reports whether a trailer of a client reaches the server.
func passesAsTrailer(name string) bool {
	return httpguts.ValidTrailerHeader(textproto.CanonicalMIMEHeaderKey(name)) && httpguts.ValidHeaderFieldName(name) && !reservedHeader(name)
}

// takeAnswer sends the server's answer on.
func (x *exchange) takeAnswer(u *upstream, upgrade string, body *sending) error {
	res, err := x.readHead(u, body)
	if err != nil {
		return err
	}
	u.used = true
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.switchProtocols(u, res, upgrade)
	}
	defer res.Body.Close()
	keep := !res.Close
	early := body != nil && !body.complete.Load()
	if early {
		x.w.Header()["Connection"] = []string{"close"}
	}
	x.answerHead(res)
	if err := x.answerBody(res, x.ready1(u, res)); err != nil {
		return err
	}
	if !keep {
		u.close()
	}
	return nil
}

// readHead reads the head of the final answer and sends those before it on.
func (x *exchange) readHead(u *upstream, body *sending) (*http.Response, error) {
	for range maxInformational {
		u.left = answerHeadBytes
		_, err := u.br.Peek(1)
		if err != nil {
			return nil, errAbandoned
		}
		res, err := http.ReadResponse(u.br, x.r)
		u.left = -1
		if err != nil {
			return nil, errNoAnswer
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
		switch {
		case x.entry.Revoked():
			return nil, errTakenBack
		case res.StatusCode == http.StatusContinue && body != nil:
			body.start() // the first read of the body tells the client
		case res.StatusCode != http.StatusContinue && x.r.ProtoAtLeast(1, 1):
			_ = x.inform(res.StatusCode, textproto.MIMEHeader(res.Header))
		}
	}
	return nil, errNoAnswer
}

// ready1 reports whether a read of the body returns at once.
func (x *exchange) ready1(u *upstream, res *http.Response) func() bool {
	if res.ContentLength >= 0 {
		return func() bool { return u.br.Buffered() > 0 }
	}
	return func() bool {
		// A chunk is ready when its size and a byte of it are there.
		b, _ := u.br.Peek(u.br.Buffered())
		i := bytes.IndexByte(b, '\n')
		return i > 0 && i < len(b)-1
	}
}
