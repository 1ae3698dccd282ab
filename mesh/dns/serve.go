package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxPipelined is how many queries of one connection are answered at the same
	// time; the next is read when one of them is done.
	maxPipelined = 16
	// writeTimeout is for a client that does not read.
	writeTimeout = 5 * time.Second
	// pause follows an error of a socket that may pass, so that it is not
	// met in a tight loop.
	pause = 10 * time.Millisecond
)

// ServeUDP answers the packets of a socket until ctx ends or the socket fails,
// and closes it. who names the client of an address; who is nobody gets no
// answer. Bind the socket to one address: with the unspecified one the kernel
// chooses from which address an answer comes.
func (s *Server) ServeUDP(ctx context.Context, conn net.PacketConn, who func(netip.AddrPort) string) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, s.o.Limits.Packets)
	b := make([]byte, maxQuery+1)
	for {
		n, from, err := conn.ReadFrom(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
				return fmt.Errorf("dns: reading from %s: %w", conn.LocalAddr(), err)
			}
			s.o.Log.Debug("dns: a packet could not be read", "err", err)
			time.Sleep(pause) // an ICMP error about an answer, or no memory
			continue
		}
		client := ""
		if addr, ok := addrPort(from); ok {
			client = who(addr)
		}
		if client == "" {
			s.stats.dropped.Add(1)
			continue
		}
		select {
		case places <- struct{}{}:
		default: // the client asks again
			s.stats.dropped.Add(1)
			continue
		}
		msg := append([]byte(nil), b[:n]...)
		running.Go(func() {
			defer func() { <-places }()
			if out := s.Answer(ctx, client, msg, true); out != nil && ctx.Err() == nil {
				conn.WriteTo(out, from)
			}
		})
	}
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	var out netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		out = a.AddrPort()
	default:
		out, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(out.Addr().Unmap(), out.Port()), out.IsValid()
}

// ServeTCP answers the connections of a listener until ctx ends or the listener
// fails, and closes it. who names the client of a connection; that of nobody is
// closed.
func (s *Server) ServeTCP(ctx context.Context, ln net.Listener, who func(net.Conn) string) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	var running sync.WaitGroup
	defer running.Wait()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("dns: listening on %s: %w", ln.Addr(), err)
			}
			s.o.Log.Warn("dns: a connection could not be accepted", "err", err)
			time.Sleep(pause) // too many files, mostly
			continue
		}
		client := who(conn)
		if client == "" || !s.conns.take(client) {
			s.stats.dropped.Add(1)
			conn.Close()
			continue
		}
		running.Go(func() {
			defer s.conns.give(client)
			if err := s.ServeConn(serving, conn, client); err != nil {
				s.o.Log.Debug("dns: a connection ended", "client", client, "err", err)
			}
		})
	}
}

// ServeConn answers the queries of one TCP connection (RFC 7766) and closes it:
// when the client does, when no query comes in the idle time, when a query does
// not come whole in that time, when it is no DNS, and when ctx ends.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, client string) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var writing sync.Mutex
	answer := func(msg []byte) error {
		out := s.Answer(ctx, client, msg, false)
		if out == nil {
			return errors.New("a message that gets no answer")
		}
		b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(out)), uint16(len(out)))
		writing.Lock()
		defer writing.Unlock()
		conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := conn.Write(append(b, out...))
		return err
	}
	places := make(chan struct{}, maxPipelined)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		msg, err := readMessage(conn, s.o.Limits.Idle)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			// What was asked before the client ended its side is still answered.
			stop()
			running.Wait()
			return nil
		}
		if err != nil {
			return err
		}
		running.Go(func() {
			defer func() { <-places }()
			if answer(msg) != nil {
				cancel()
			}
		})
	}
}

// readMessage reads one message with its length before it.
func readMessage(conn net.Conn, idle time.Duration) ([]byte, error) {
	conn.SetReadDeadline(time.Now().Add(idle))
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > maxQuery {
		return nil, fmt.Errorf("a message of %d bytes: a query may have %d", n, maxQuery)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	return msg, nil
}

// connections counts the open ones, by client and together.
type connections struct {
	mu          sync.Mutex
	limit, each int
	all         int
	held        map[string]int
}

func (c *connections) take(client string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.limit || c.held[client] >= c.each {
		return false
	}
	if c.held == nil {
		c.held = map[string]int{}
	}
	c.all++
	c.held[client]++
	return true
}

func (c *connections) give(client string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.held[client]--; c.held[client] <= 0 {
		delete(c.held, client)
	}
}
