package dns

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// server answers queries in memory, as a test wants: with any number of messages,
// none is silence.
type server func(network string, q dnsmessage.Message) [][]byte

// world is servers by address; what has none refuses connections.
type world map[string]server

var (
	first  = netip.MustParseAddrPort("192.0.2.1:53")
	second = netip.MustParseAddrPort("192.0.2.2:53")
)

func (w world) dial(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	s := w[to.String()]
	if s == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError("nobody listens")}
	}
	here, there := net.Pipe()
	go s.serve(network, there)
	return here, nil
}

func (s server) serve(network string, conn net.Conn) {
	defer conn.Close()
	for {
		b := make([]byte, 4096)
		n := 0
		var err error
		if network == "tcp" {
			if _, err = io.ReadFull(conn, b[:2]); err == nil {
				n, err = io.ReadFull(conn, b[:binary.BigEndian.Uint16(b)])
			}
		} else {
			n, err = conn.Read(b)
		}
		if err != nil {
			return
		}
		var q dnsmessage.Message
		if err := q.Unpack(b[:n]); err != nil {
			panic(err)
		}
		for _, out := range s(network, q) {
			if network == "tcp" {
				out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
			}
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	}
}

// newClient returns a client of one server.
func newClient(s server) *Client { return clientOf(world{first.String(): s}, first) }

func clientOf(w world, servers ...netip.AddrPort) *Client {
	return NewClient(ClientOptions{Servers: servers, Dial: w.dial})
}

// reply makes the honest answer to a query, with records.
func answerTo(q dnsmessage.Message, records ...dnsmessage.Resource) dnsmessage.Message {
	m := dnsmessage.Message{Header: q.Header, Questions: q.Questions, Answers: records}
	m.Response, m.RecursionAvailable = true, true
	return m
}

func packed(messages ...dnsmessage.Message) (out [][]byte) {
	for _, m := range messages {
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		out = append(out, b)
	}
	return out
}

func isA(q dnsmessage.Message) bool { return q.Questions[0].Type == dnsmessage.TypeA }

func address(owner, addr string, ttl uint32) dnsmessage.Resource {
	a := netip.MustParseAddr(addr)
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(owner + "."), Class: dnsmessage.ClassINET, TTL: ttl}
	if a.Is4() {
		h.Type = dnsmessage.TypeA
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}}
	}
	h.Type = dnsmessage.TypeAAAA
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}
}

func alias(owner, target string, ttl uint32) dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(owner + "."), Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET, TTL: ttl}
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(target + ".")}}
}

func soa(minimum uint32) dnsmessage.Resource {
	n := dnsmessage.MustNewName("example.com.")
	h := dnsmessage.ResourceHeader{Name: n, Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET, TTL: 3600}
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.SOAResource{NS: n, MBox: n, MinTTL: minimum}}
}

// honest answers with an address of each family.
func honest(ttl uint32) server {
	return func(_ string, q dnsmessage.Message) [][]byte {
		name := q.Questions[0].Name.String()
		name = name[:len(name)-1]
		if isA(q) {
			return packed(answerTo(q, address(name, "198.41.0.4", ttl)))
		}
		return packed(answerTo(q, address(name, "2a00:1450::1", ttl)))
	}
}

// loopback is an authority on real sockets, with UDP and TCP on one port.
type loopback struct {
	at  netip.AddrPort
	udp *net.UDPConn

	mu    sync.Mutex
	ports map[netip.AddrPort]int // from which queries came
	ids   map[uint16]int
	names map[string]int
}

func listen(t *testing.T) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	for range 20 {
		ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			t.Cleanup(func() { ln.Close(); conn.Close() })
			return conn, ln
		}
		ln.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// newLoopback answers packets with f, which may send more by itself.
func newLoopback(t *testing.T, f func(l *loopback, from netip.AddrPort, q dnsmessage.Message)) *loopback {
	udp, ln := listen(t)
	ln.Close()
	l := &loopback{at: udp.LocalAddr().(*net.UDPAddr).AddrPort(), udp: udp, ports: map[netip.AddrPort]int{}, ids: map[uint16]int{}, names: map[string]int{}}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(b[:n]) != nil {
				continue
			}
			l.mu.Lock()
			l.ports[from]++
			l.ids[q.ID]++
			l.names[q.Questions[0].Name.String()]++
			l.mu.Unlock()
			f(l, from, q)
		}
	}()
	return l
}

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}
