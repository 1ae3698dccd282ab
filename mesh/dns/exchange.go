package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// payload is the size of UDP messages that both halves announce and keep to: it
	// passes every network without fragments, which could be forged.
	payload = 1232
	// maxStray is how many messages that do not answer one socket takes. More look
	// like somebody who guesses, and TCP leaves nothing to guess.
	maxStray = 16
)

// ask asks the servers for one type, in order, until one answers: that
// there is nothing is an answer too.
func (c *Client) ask(ctx context.Context, host string, kind dnsmessage.Type) (reply, error) {
	servers, first := c.o.Servers, int(c.first.Load())
	said := make([]string, len(servers))
	for range rounds {
		for i := range servers {
			at := (first + i) % len(servers)
			r, err := c.askServer(ctx, servers[at], host, kind)
			if err == nil {
				c.first.Store(int32(at))
				return r, nil
			}
			if ctx.Err() != nil {
				return reply{}, ctx.Err()
			}
			said[at] = fmt.Sprintf("%s: %s", servers[at], saying(err))
		}
	}
	return reply{}, fmt.Errorf("no DNS server answered (%s): check that they can be reached and resolve the name", strings.Join(said, "; "))
}

func saying(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}

var errLame = errors.New("does not recurse")

// askServer asks one server, by TCP where UDP does not do, and without EDNS where
// the server does not know it. Codes that another server may not say are errors.
func (c *Client) askServer(ctx context.Context, to netip.AddrPort, host string, kind dnsmessage.Type) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	edns := true
	for {
		r, err := c.exchange(ctx, to, host, kind, edns)
		switch {
		case err != nil:
			return reply{}, err
		case edns && (r.code == dnsmessage.RCodeFormatError || r.code == dnsmessage.RCodeNotImplemented):
			edns = false
			continue
		case r.code != dnsmessage.RCodeSuccess && r.code != dnsmessage.RCodeNameError:
			return reply{}, errors.New(codeText(r.code))
		case r.lame:
			return reply{}, errLame
		}
		return r, nil
	}
}

func codeText(code dnsmessage.RCode) string {
	switch code {
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return fmt.Sprintf("response code %d", code)
}

// errGuessed is that so many messages came that somebody may be guessing.
var errGuessed = errors.New("too many messages that do not answer the question")

func (c *Client) exchange(ctx context.Context, to netip.AddrPort, host string, kind dnsmessage.Type, edns bool) (reply, error) {
	q, msg, err := c.question(host, kind, edns)
	if err != nil {
		return reply{}, err
	}
	r, err := c.overUDP(ctx, to, &q, msg)
	if err != nil && err != errGuessed || err == nil && !r.truncated && r.sameCase {
		return r, err
	}
	if err == nil && !r.truncated && r.code != dnsmessage.RCodeSuccess && r.code != dnsmessage.RCodeNameError {
		return r, nil // nothing that could be believed
	}
	q, msg, e := c.question(host, kind, edns)
	if e != nil {
		return reply{}, e
	}
	certain, e := c.overTCP(ctx, to, &q, msg)
	if e != nil && err == nil && !r.truncated {
		c.stats.uncased.Add(1)
		return r, nil
	}
	return certain, e
}

// question makes a query that cannot be foreseen.
func (c *Client) question(host string, kind dnsmessage.Type, edns bool) (question, []byte, error) {
	var noise [2 + (maxName+7)/8]byte
	c.random.Lock()
	_, err := io.ReadFull(c.o.Random, noise[:])
	c.random.Unlock()
	if err != nil {
		return question{}, nil, fmt.Errorf("no random numbers: %w", err)
	}
	name, err := dnsmessage.NewName(host + ".")
	if err != nil {
		return question{}, nil, err
	}
	for i, c := range name.Data[:name.Length] {
		if 'a' <= c && c <= 'z' && noise[2+i/8]>>(i%8)&1 == 1 {
			name.Data[i] = c - 'a' + 'A'
		}
	}
	q := question{id: binary.BigEndian.Uint16(noise[:]), name: name, kind: kind}
	// The first two bytes are for the length that TCP puts before.
	msg := make([]byte, 2+12, 2+12+256+4+11)
	binary.BigEndian.PutUint16(msg[2:], q.id)
	msg[4] = 1 // recursion desired
	msg[7] = 1 // one question
	msg = appendName(msg, &name)
	msg = append(msg, 0, byte(kind), 0, byte(dnsmessage.ClassINET))
	if edns {
		msg[13] = 1
		msg = appendOPT(msg, 0, nil)
	}
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	return q, msg, nil
}

// appendOPT appends an OPT record (RFC 6891) with the upper bits of a response
// code.
func appendOPT(msg []byte, code byte, options []byte) []byte {
	msg = append(msg, 0, 0, byte(dnsmessage.TypeOPT), payload>>8, payload&0xff, code, 0, 0, 0)
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(options)))
	return append(msg, options...)
}

// dial opens a connection that ends with ctx. The caller must call done.
func (c *Client) dial(ctx context.Context, network string, to netip.AddrPort) (conn net.Conn, done func(), err error) {
	conn, err = c.o.Dial(ctx, network, to)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	c.stats.queries.Add(1)
	return conn, func() { stop(); conn.Close() }, nil
}

func (c *Client) overUDP(ctx context.Context, to netip.AddrPort, q *question, msg []byte) (reply, error) {
	conn, done, err := c.dial(ctx, "udp", to)
	if err != nil {
		return reply{}, err
	}
	defer done()
	if _, err := conn.Write(msg[2:]); err != nil {
		return reply{}, err
	}
	var b [4096]byte
	for range maxStray {
		n, err := conn.Read(b[:])
		if err != nil {
			return reply{}, err
		}
		r, err := q.read(b[:n])
		if err != errStray {
			return r, err
		}
		c.stats.stray.Add(1)
	}
	return reply{}, errGuessed
}

func (c *Client) overTCP(ctx context.Context, to netip.AddrPort, q *question, msg []byte) (reply, error) {
	conn, done, err := c.dial(ctx, "tcp", to)
	if err != nil {
		return reply{}, err
	}
	defer done()
	if _, err := conn.Write(msg); err != nil {
		return reply{}, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return reply{}, err
	}
	// The server's word for the length does not cost memory before it is kept.
	b, err := io.ReadAll(io.LimitReader(conn, int64(binary.BigEndian.Uint16(size[:]))))
	if err != nil {
		return reply{}, err
	}
	if len(b) < int(binary.BigEndian.Uint16(size[:])) {
		return reply{}, io.ErrUnexpectedEOF
	}
	r, err := q.read(b)
	if err == nil && r.truncated {
		err = errors.New("truncated over TCP")
	}
	return r, err
}
