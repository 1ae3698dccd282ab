//go:build linux

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// way is how the client reaches the origin.
type way struct {
	proxy   *net.TCPAddr // nil for directly
	outside *tls.Config  // towards the proxy, nil for plaintext
	inside  *tls.Config  // towards the origin, in mode tls
	http2   bool         // many tunnels on one connection
	host    string       // of the origin, as requests name it
	origin  origin
}

// patience bounds everything that is not a download.
const patience = 20 * time.Second

// line is a connection to the origin or to a proxy.
type line struct {
	net.Conn // what is spoken over
	tcp      *net.TCPConn
}

// reset closes it so that no port is left waiting.
func (l *line) reset() {
	_ = l.tcp.SetLinger(0)
	_ = l.tcp.Close()
}

// dial connects to the proxy, or to a port of the origin if there is none.
func (w *way) dial(port int) (*line, error) {
	to := w.proxy
	if to == nil {
		to = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	}
	c, err := net.DialTCP("tcp", nil, to)
	if err != nil {
		return nil, err
	}
	l := &line{c, c}
	_ = c.SetDeadline(time.Now().Add(patience))
	if w.proxy == nil || w.outside == nil {
		return l, nil
	}
	over := tls.Client(c, w.outside)
	if err := over.Handshake(); err != nil {
		l.reset()
		return nil, err
	}
	l.Conn = over
	return l, nil
}

// tunnel connects to a port of the origin.
func (w *way) tunnel(port int) (*line, error) {
	l, err := w.dial(port)
	if err != nil || w.proxy == nil {
		return l, err
	}
	if err := l.connect(w.connectRequest(port)); err != nil {
		l.reset()
		return nil, err
	}
	return l, nil
}

func (w *way) connectRequest(port int) []byte {
	return fmt.Appendf(nil, "CONNECT %[1]s:%[2]d HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", w.host, port)
}

func (l *line) connect(request []byte) error {
	if _, err := l.Write(request); err != nil {
		return err
	}
	var buf [1 << 10]byte
	for have := 0; ; {
		n, err := l.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		h, size, err := parseHead(buf[:have])
		switch {
		case errors.Is(err, errMore) && have < len(buf):
			continue
		case err != nil:
			return err
		case h.status != 200:
			return errStatus(h.status)
		case size < have:
			return errors.New("the proxy sent bytes that the origin had not")
		}
		return nil
	}
}

// ping sends a byte and waits for it.
func (l *line) ping() error {
	b := [1]byte{'!'}
	if _, err := l.Write(b[:]); err != nil {
		return err
	}
	b[0] = 0
	if _, err := io.ReadFull(l, b[:]); err != nil {
		return err
	}
	if b[0] != '!' {
		return errors.New("another byte came back than was sent")
	}
	return nil
}

// echo sends one byte through a new tunnel.
func (w *way) echo() error {
	l, err := w.tunnel(w.origin.echo)
	if err != nil {
		return err
	}
	defer l.reset()
	return l.ping()
}

// refused checks that the proxy lets nobody through to a host that nothing permits.
func (w *way) refused() error {
	other := *w
	other.host = "refused.bench.internal"
	err := other.echo()
	if s := errStatus(0); errors.As(err, &s) && s == 403 {
		return nil
	}
	return fmt.Errorf("it should refuse %s with 403, and says: %v", other.host, err)
}

// head is what matters of the head of a response.
type head struct {
	status int
	length int64 // of the body; -1 until the connection ends
	last   bool  // the connection ends after it
}

var errMore = errors.New("the head is not complete")

// parseHead reads the head of a response and says how long it is. It knows only
// what a response to this client may have.
func parseHead(b []byte) (h head, size int, err error) {
	text, _, whole := bytes.Cut(b, []byte("\r\n\r\n"))
	if !whole {
		return head{}, 0, errMore
	}
	first, fields, _ := bytes.Cut(text, []byte("\r\n"))
	version, rest, _ := bytes.Cut(first, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	if bytes.ContainsAny(first, "\r\n") || !bytes.Equal(version, []byte("HTTP/1.1")) && !bytes.Equal(version, []byte("HTTP/1.0")) || len(code) != 3 {
		return head{}, 0, fmt.Errorf("%.40q is no response", first)
	}
	status, err := strconv.ParseUint(string(code), 10, 16)
	if err != nil || status < 100 {
		return head{}, 0, fmt.Errorf("%.40q has no status", first)
	}
	h = head{status: int(status), length: -1, last: closes(text)}
	for field := range bytes.SplitSeq(fields, []byte("\r\n")) {
		name, value, _ := bytes.Cut(field, []byte(":"))
		switch {
		case bytes.ContainsAny(field, "\r\n"):
			return head{}, 0, errors.New("the response has a line that does not end with CR LF")
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return head{}, 0, errors.New("the response has a transfer encoding, which the origin did not use")
		case bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 62)
			if err != nil || h.length >= 0 {
				return head{}, 0, errors.New("the response has no single content length")
			}
			h.length = int64(n)
		}
	}
	return h, len(text) + 4, nil
}

// errStatus is a response that is not 200.
type errStatus int

func (e errStatus) Error() string { return fmt.Sprintf("the answer is %d", int(e)) }

// errClosed is that a connection ended instead of a response.
var errClosed = errors.New("the connection ended before a response")

// get sends a prepared request and reads the response, and says whether the
// connection may be used again.
func (l *line) get(request, buf []byte) (again bool, err error) {
	if _, err := l.Write(request); err != nil {
		return false, err
	}
	for have := 0; ; {
		n, err := l.Read(buf[have:])
		if err == io.EOF && have == 0 {
			err = errClosed
		}
		if err != nil {
			return false, err
		}
		have += n
		h, size, err := parseHead(buf[:have])
		switch {
		case errors.Is(err, errMore) && have < len(buf):
			continue
		case err != nil:
			return false, err
		case h.status != 200:
			return false, errStatus(h.status)
		}
		return !h.last && h.length >= 0, l.body(h.length, int64(have-size), buf)
	}
}

// body reads the rest of a body of which some came with the head.
func (l *line) body(length, have int64, buf []byte) error {
	if length >= 0 && length != bodySize {
		return fmt.Errorf("the body has %d bytes instead of %d", length, bodySize)
	}
	for have < bodySize || length < 0 && have == bodySize {
		n, err := l.Read(buf)
		have += int64(n)
		if err == io.EOF && length < 0 {
			break
		}
		if err != nil {
			return err
		}
	}
	if have != bodySize {
		return fmt.Errorf("the body has %d bytes instead of %d", have, bodySize)
	}
	return nil
}
