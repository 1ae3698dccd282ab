//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// originRole is the first argument with which this program is the origin.
const originRole = "origin"

// origin is where the origin's services listen, all at 127.0.0.1.
type origin struct{ echo, http, bulk, tls int }

func (o origin) ports() []int { return []int{o.echo, o.http, o.bulk, o.tls} }

// startOrigin starts the origin in a process of its own.
func (b *bench) startOrigin(ctx context.Context) (func(), error) {
	var ports [4]int
	for i := range ports {
		at, err := freeAddr()
		if err != nil {
			return nil, err
		}
		ports[i] = at.Port
	}
	b.origin = origin{ports[0], ports[1], ports[2], ports[3]}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{exe, originRole, b.keys.cert, b.keys.key}
	for _, p := range b.origin.ports() {
		args = append(args, strconv.Itoa(p))
	}
	p, err := startProcess(ctx, "origin", b.dir, nil, args...)
	if err != nil {
		return nil, err
	}
	w := &way{host: "127.0.0.1", origin: b.origin, inside: b.keys.origin()}
	if err := p.waitFor(func() error { return errors.Join(w.echo(), handshaking(w).do()) }); err != nil {
		p.stop()
		return nil, err
	}
	return p.stop, nil
}

// runOrigin serves until the process is ended. Its arguments are the files of a
// certificate and its key, and the ports.
func runOrigin(args []string) error {
	if len(args) != 6 {
		return errors.New("this is for the program itself; see -help")
	}
	pair, err := tls.LoadX509KeyPair(args[0], args[1])
	if err != nil {
		return err
	}
	var lns [4]net.Listener
	for i := range lns {
		if lns[i], err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", args[2+i])); err != nil {
			return err
		}
	}
	return serveOrigin(lns, pair)
}

// serveOrigin serves echo, HTTP, bulk and HTTPS until a listener is closed.
func serveOrigin(lns [4]net.Listener, pair tls.Certificate) error {
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
	handlers := [4]func(net.Conn){echo, answer, source, func(c net.Conn) { answer(tls.Server(c, cfg)) }}
	ended := make(chan error, len(lns))
	for i, ln := range lns {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					ended <- err
					return
				}
				go func() {
					defer c.Close()
					handlers[i](c)
				}()
			}
		}()
	}
	return <-ended
}

func echo(c net.Conn) {
	var b [16]byte
	for {
		n, err := c.Read(b[:])
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// bodySize is what a GET is answered with.
const bodySize = 1 << 10

// maxHead bounds the head of a request or a response.
const maxHead = 8 << 10

var page = append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", bodySize),
	bytes.Repeat([]byte{'x'}, bodySize)...)

// answer answers requests without a body, one after the other.
func answer(c net.Conn) {
	b := make([]byte, maxHead)
	have := 0
	for {
		n, err := c.Read(b[have:])
		if err != nil {
			return
		}
		have += n
		head, rest, whole := bytes.Cut(b[:have], []byte("\r\n\r\n"))
		if !whole {
			if have == len(b) {
				return
			}
			continue
		}
		last := closes(head)
		have = copy(b, rest)
		if _, err := c.Write(page); err != nil || last {
			return
		}
	}
}

// closes reports whether a head says that its connection ends after the message.
func closes(head []byte) bool {
	first, fields, _ := bytes.Cut(head, []byte("\r\n"))
	last := bytes.Contains(first, []byte("HTTP/1.0"))
	for line := range bytes.SplitSeq(fields, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(name, []byte("Connection")) {
			continue
		}
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(value, []byte("close")):
			return true
		case bytes.EqualFold(value, []byte("keep-alive")):
			last = false
		}
	}
	return last
}

// countSize is how many digits ask the source for bytes.
const countSize = 16

// source sends as many bytes as it is asked for, and ends.
func source(c net.Conn) {
	var ask [countSize]byte
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c, ask[:]); err != nil {
		return
	}
	n, err := strconv.ParseInt(string(ask[:]), 10, 64)
	if err != nil {
		return
	}
	zeros := make([]byte, 256<<10)
	for n > 0 {
		m, err := c.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return
		}
		n -= int64(m)
	}
}
