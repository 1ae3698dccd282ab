//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// multiplexing does mode connect over HTTP/2: each client has one connection, on
// which it proves who it is once, and a tunnel is a stream of it.
func multiplexing(w *way) operation {
	target := fmt.Sprintf("%s:%d", w.host, w.origin.echo)
	var l *line
	var over *http.ClientConn
	drop := func() {
		if l != nil {
			l.reset()
			l, over = nil, nil
		}
	}
	do := func() error {
		if l == nil {
			var protocols http.Protocols
			protocols.SetHTTP2(true)
			t := &http.Transport{Protocols: &protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
				var err error
				if l, err = w.dial(w.origin.echo); err != nil {
					l = nil
					return nil, err
				}
				return l.Conn, l.tcp.SetDeadline(time.Time{})
			}}
			var err error
			if over, err = t.NewClientConn(context.Background(), "https", w.proxy.String()); err != nil {
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
			return errors.New("another byte came back than was sent")
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
