package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// everywhere is a resolver to which every name exists.
type everywhere struct{}

func (everywhere) Lookup(_ context.Context, host string) (Answer, error) {
	return Answer{Name: host, Addrs: addrs("151.101.0.1"), TTL: time.Minute}, nil
}

// hanging is a resolver that never knows.
type hanging struct{}

func (hanging) Lookup(ctx context.Context, host string) (Answer, error) {
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

// serve runs a server on loopback, for one client, until the test ends.
func serve(t *testing.T, s *Server, client string) (addr string) {
	udp, ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() {
		done <- s.ServeUDP(ctx, udp, func(a netip.AddrPort) string {
			if a.Addr() != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("a packet from %v", a)
			}
			return client
		})
	}()
	go func() { done <- s.ServeTCP(ctx, ln, func(net.Conn) string { return client }) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return ln.Addr().String()
}

// TestStandardResolver: the resolver of Go's standard library, by UDP and TCP.
func TestStandardResolver(t *testing.T) {
	s, _ := newServer()
	at := serve(t, s, "trainer")
	for _, network := range []string{"udp", "tcp", ""} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, asked, _ string) (net.Conn, error) {
			if network != "" {
				asked = network
			}
			var d net.Dialer
			return d.DialContext(ctx, asked, at)
		}}
		for _, c := range []struct {
			name, kind string
			want       []netip.Addr
			notFound   bool
		}{
			{"search.internal.", "ip", addrs("10.9.0.1", "fd00::1"), false},
			{"Search.Internal.", "ip4", addrs("10.9.0.1"), false},
			{"pypi.org.", "ip6", addrs("2a04:4e42::223"), false},
			{"none.example.com.", "ip", nil, true},
			{"v4only.example.com.", "ip6", nil, true},
			{"evil.test.", "ip", nil, false},
			{"db.internal.", "ip", nil, false},
			{"meta.example.com.", "ip", nil, false},
		} {
			got, err := r.LookupNetIP(t.Context(), c.kind, c.name)
			slices.SortFunc(got, netip.Addr.Compare)
			var e *net.DNSError
			if (err == nil) != (c.want != nil) || !reflect.DeepEqual(got, c.want) || err != nil && (!errors.As(err, &e) || e.IsNotFound != c.notFound) {
				t.Errorf("%q %s %s: %v, %#v", network, c.name, c.kind, got, err)
			}
		}
		if network == "udp" {
			continue // cannot go to TCP for more
		}
		got, err := r.LookupNetIP(t.Context(), "ip4", "many.example.com.")
		slices.SortFunc(got, netip.Addr.Compare)
		if err != nil || !reflect.DeepEqual(got, manyAddrs(200)) {
			t.Errorf("%q: %d addresses of 200, %v", network, len(got), err)
		}
		if txt, err := r.LookupTXT(t.Context(), "pypi.org."); err == nil {
			t.Errorf("%q: TXT %v", network, txt)
		}
	}
}

// TestBothHalves: our own client behind our own server, in front of another.
func TestBothHalves(t *testing.T) {
	outer, _ := newServer()
	at := netip.MustParseAddrPort(serve(t, outer, "trainer"))
	c := NewClient(ClientOptions{Servers: []netip.AddrPort{at}})
	inner, _ := newServer(func(o *ServerOptions) { o.Resolver = c })
	c = NewClient(ClientOptions{Servers: []netip.AddrPort{netip.MustParseAddrPort(serve(t, inner, "trainer"))}})
	for name, want := range map[string][]netip.Addr{"pypi.org": addrs("151.101.0.223", "2a04:4e42::223"), "many.example.com": manyAddrs(200), "search.internal": addrs("10.9.0.1", "fd00::1")} {
		if a, err := c.Lookup(t.Context(), name); err != nil || !reflect.DeepEqual(a.Addrs, want) {
			t.Errorf("%s: %v, %v", name, a.Addrs, err)
		}
	}
	if _, err := c.Lookup(t.Context(), "none.example.com"); !errors.Is(err, ErrNoSuchName) {
		t.Error(err)
	}
	if _, err := c.Lookup(t.Context(), "empty.example.com"); !errors.Is(err, ErrNoAddress) {
		t.Error(err)
	}
	if _, err := c.Lookup(t.Context(), "evil.test"); err == nil || errors.Is(err, ErrNoSuchName) || errors.Is(err, ErrNoAddress) {
		t.Error(err)
	}
}

// TestNobody: packets and connections of nobody known get no answer.
func TestNobody(t *testing.T) {
	s, r := newServer()
	at := serve(t, s, "")
	for _, network := range []string{"udp", "tcp"} {
		c, err := net.Dial(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(append([]byte{0, 26}, packed(ask("pypi.org", dnsmessage.TypeA, 0))[0]...))
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := c.Read(make([]byte, 100)); err == nil {
			t.Errorf("%s: %d bytes", network, n)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) > 0 || s.Stats().Dropped != 2 {
		t.Errorf("%v, %+v", r.list, s.Stats())
	}
}

// stream serves one connection in memory and returns the client's end.
func stream(s *Server) (conn net.Conn, ended chan error) {
	here, there := net.Pipe()
	ended = make(chan error, 1)
	go func() { ended <- s.ServeConn(context.Background(), there, "trainer") }()
	return here, ended
}

func framed(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
}

func readFrame(t *testing.T, c net.Conn) (m dnsmessage.Message) {
	t.Helper()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestConn: how a TCP connection ends, and that slow names do not hold up others.
func TestConn(t *testing.T) {
	query := framed(packed(ask("pypi.org", dnsmessage.TypeA, 0))[0])
	slow := func(o *ServerOptions) { o.Resolver = hanging{} }
	for name, f := range map[string]func(t *testing.T){
		"idle": func(t *testing.T) {
			s, _ := newServer()
			c, ended := stream(s)
			start := time.Now()
			if err := <-ended; err == nil || time.Since(start) != 10*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			c.Close()
		},
		"byte by byte": func(t *testing.T) {
			s, _ := newServer()
			c, ended := stream(s)
			start := time.Now()
			for _, b := range query {
				if _, err := c.Write([]byte{b}); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			if err := <-ended; err == nil || time.Since(start) > 21*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			c.Close()
		},
		"does not read": func(t *testing.T) {
			s, _ := newServer()
			c, ended := stream(s)
			start := time.Now()
			c.Write(query)
			<-ended
			if d := time.Since(start); d != writeTimeout {
				t.Errorf("ended after %v", d)
			}
			c.Close()
		},
		"no DNS": func(t *testing.T) {
			s, _ := newServer()
			c, ended := stream(s)
			c.Write([]byte("GET / HTTP/1.1\r\n")[:2])
			if err := <-ended; err == nil {
				t.Error("no error for a message of 18245 bytes")
			}
			c, ended = stream(s)
			c.Write([]byte{0, 3, 1, 2, 3})
			<-ended
			c.Close()
		},
		"closed": func(t *testing.T) {
			s, _ := newServer()
			c, ended := stream(s)
			c.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		},
		"pipelined": func(t *testing.T) {
			s, _ := newServer(slow)
			c, ended := stream(s)
			private := ask("search.internal", dnsmessage.TypeA, 0)
			private.ID = 1
			c.Write(query)
			c.Write(query)
			c.Write(framed(packed(private)[0]))
			start := time.Now()
			if m := readFrame(t, c); m.ID != 1 || time.Since(start) != 0 {
				t.Errorf("the first answer is %v after %v", m.Header, time.Since(start))
			}
			for range 2 {
				if m := readFrame(t, c); m.RCode != dnsmessage.RCodeServerFailure || time.Since(start) != 5*time.Second {
					t.Errorf("then %v after %v", m.Header, time.Since(start))
				}
			}
			c.Close()
			<-ended
		},
		"many at once": func(t *testing.T) {
			s, _ := newServer(slow)
			c, ended := stream(s)
			written := 0
			go func() {
				for range 1000 {
					if _, err := c.Write(query); err != nil {
						return
					}
					written++
				}
			}()
			synctest.Wait()
			if written != maxPipelined {
				t.Errorf("%d queries were read, want %d", written, maxPipelined)
			}
			c.Close()
			<-ended
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
}

// TestHanging: names that hang take only so many places of their client, and the
// client gets an answer in time.
func TestHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newServer(func(o *ServerOptions) { o.Resolver = hanging{} })
		done := make(chan dnsmessage.RCode)
		for range 100 {
			go func() { done <- s.test(t, "trainer", ask("pypi.org", dnsmessage.TypeA, 0), true).RCode }()
		}
		start := time.Now()
		for i := range 100 {
			if code := <-done; code != dnsmessage.RCodeServerFailure {
				t.Errorf("%v", code)
			}
			if d := time.Since(start); (i < 36) != (d == 0) || d > 5*time.Second {
				t.Errorf("answer %d after %v", i, d)
			}
		}
		if m := s.test(t, "trainer", ask("search.internal", dnsmessage.TypeA, 0), true); len(m.Answers) != 1 {
			t.Error("a private name waits for names outside")
		}
		if r.last().Verdict != Private {
			t.Errorf("%+v", r.last())
		}
	})
}

// TestConnections: one client does not take the places of all.
func TestConnections(t *testing.T) {
	c := connections{limit: 5, each: 3}
	got := 0
	for range 10 {
		if c.take("a") {
			got++
		}
	}
	if got != 3 || !c.take("b") || !c.take("b") || c.take("b") || c.take("c") {
		t.Errorf("a took %d of 3; %+v", got, c.held)
	}
	for range 3 {
		c.give("a")
	}
	if c.all != 2 || len(c.held) != 1 || !c.take("c") {
		t.Errorf("%+v", c.held)
	}
}
