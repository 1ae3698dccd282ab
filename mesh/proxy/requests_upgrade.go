package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// longAgo is a deadline that frees whoever waits.
var longAgo = time.Unix(1, 0)

// switchProtocols moves bytes both ways after the server agreed to what the
// client asked for. It ends when both directions did.
func (x *exchange) switchProtocols(u *upstream, res *http.Response, upgrade string) error {
	if upgrade == "" || !strings.EqualFold(res.Header.Get("Upgrade"), upgrade) {
		return errNoAnswer // nobody asked for it
	}
	if x.entry.Revoked() {
		return errTakenBack
	}
	conn, client, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return errGone
	}
	x.started, x.status = true, res.StatusCode
	if err := writeSwitching(client.Writer, res.Header, upgrade); err != nil {
		return errGone
	}
	// The parser's reader would take the client's end for its disappearance.
	early, _ := client.Reader.Peek(client.Reader.Buffered())
	said := io.MultiReader(bytes.NewReader(early), conn)
	server := u.conn
	back := make(chan error, 1)
	carry := func(to net.Conn, from io.Reader, count *atomic.Int64) error {
		err := x.pump(to, from, count)
		if err != nil {
			x.s.in.reset()
			resetConn(server)
		}
		return err
	}
	go func() { back <- carry(conn, u.br, &x.in) }()
	err = carry(server, said, &x.out)
	if e := <-back; err == nil {
		err = e
	}
	u.close()
	if err != nil {
		return err
	}
	return conn.Close()
}

func writeSwitching(w *bufio.Writer, h http.Header, upgrade string) error {
	removeHopByHop(h)
	h["Connection"] = []string{"Upgrade"}
	h["Upgrade"] = []string{upgrade}
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // an error stays with the writer
	_ = h.Write(w)
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}

// pump moves bytes one way until their end, which it hands on.
func (x *exchange) pump(to net.Conn, from io.Reader, count *atomic.Int64) error {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if x.entry.Revoked() {
				return errTakenBack
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return errGone
			}
			count.Add(int64(n))
		}
		if err == io.EOF {
			if half, ok := to.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
