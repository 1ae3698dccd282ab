//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http2"
)

// multiplexing does mode connect over HTTP/2: each client has one connection, on
// which it proves who it is once, and a tunnel is a stream of it.
func multiplexing(w *way) operation {
	target := fmt.Sprintf("%s:%d", w.host, w.origin.echo)
	var l *line
	var over *http2.ClientConn
	drop := func() {
		if l != nil {
			l.reset()
			l, over = nil, nil
		}
	}
	do := func() error {
		if l == nil {
			var err error
			if l, err = w.dial(w.origin.echo); err != nil {
				l = nil
				return err
			}
			_ = l.tcp.SetDeadline(time.Time{})
			if over, err = new(http2.Transport).NewClientConn(l.Conn); err != nil {
				return err
			}
		}
		sends, body := io.Pipe()
		defer body.Close()
		resp, err := over.RoundTrip(&http.Request{Method: http.MethodConnect, URL: &url.URL{Host: target}, Host: target, Header: http.Header{}, Body: sends})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errStatus(resp.StatusCode)
		}
		if _, err := body.Write([]byte{'!'}); err != nil {
			return err
		}
		var b [1]byte
		if _, err := io.ReadFull(resp.Body, b[:]); err != nil {
			return err
		}
		if !bytes.Equal(b[:], []byte{'!'}) {
			return fmt.Errorf("another byte came back than was sent")
		}
		return nil
	}
	return operation{end: drop, do: func() error {
		err := do()
		if err != nil {
			drop()
		}
		return err
	}}
}
