package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"

	"bulkhead/mesh/identity"
)

// gate is a policy's verdict.
type gate struct{ revoked atomic.Bool }

func (g *gate) Revoked() bool { return g.revoked.Load() }

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func addrPort(ln net.Listener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

// serve runs a tunnel of workload b until the test ends.
func serve(t testing.TB, p *platform, handle func(context.Context, *Incoming)) netip.AddrPort {
	t.Helper()
	ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, identity.ServerTLS(p, "b"), handle, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
	})
	return addrPort(ln)
}

func pool(t testing.TB, p *platform) *Pool {
	t.Helper()
	o := poolOptions(p)
	pool := NewPool(o)
	t.Cleanup(func() { pool.Close() })
	return pool
}

func poolOptions(p *platform) PoolOptions {
	return PoolOptions{
		TLS:  func(peer spiffeid.ID) *tls.Config { return identity.ClientTLS(p, "a", peer) },
		Dial: dialTCP,
	}
}

func dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}

var request = Request{Workload: "b", Network: "tcp", Port: 80, ID: "1"}

// pair is what two proxies do: connections to its address go through a tunnel
// to backend.
type pair struct {
	pool  *Pool
	to    netip.AddrPort
	gate  *gate
	limit *rate.Limiter
	near  Meter // of the client's proxy
	far   Meter // of the server's proxy
	ended chan error
	entry netip.AddrPort
}

func newPair(t testing.TB, backend netip.AddrPort, limit *rate.Limiter) *pair {
	t.Helper()
	p := newPlatform(t)
	x := &pair{pool: pool(t, p), gate: &gate{}, limit: limit, ended: make(chan error, 100_000)}
	x.to = serve(t, p, func(ctx context.Context, in *Incoming) {
		app, err := dialTCP(ctx, backend)
		if err != nil {
			in.Refuse(Refusal{Code: "unreachable", Says: err.Error()})
			return
		}
		s, err := in.Accept()
		if err != nil {
			app.Close()
			return
		}
		x.ended <- Relay(app, s, x.gate, &x.far, nil, false)
	})
	ln := listen(t)
	x.entry = addrPort(ln)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go x.carry(c)
		}
	}()
	return x
}

func (x *pair) carry(c net.Conn) {
	s, err := x.pool.Open(context.Background(), x.to, id("b"), request)
	if err != nil {
		resetConn(c)
		x.ended <- err
		return
	}
	x.ended <- Relay(c, s, x.gate, &x.near, x.limit, true)
}

// echo answers each connection with what it says.
func echo(t testing.TB) netip.AddrPort {
	return each(t, func(c *net.TCPConn) { io.Copy(c, c) })
}

// quietEcho does so without a pipe for each connection, and with little memory.
func quietEcho(t testing.TB) netip.AddrPort {
	return each(t, func(c *net.TCPConn) {
		var b [100]byte
		for {
			n, err := c.Read(b[:])
			if err != nil {
				return
			}
			c.Write(b[:n])
		}
	})
}

func each(t testing.TB, do func(*net.TCPConn)) netip.AddrPort {
	ln := listen(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				do(c.(*net.TCPConn))
				c.Close()
			}()
		}
	}()
	return addrPort(ln)
}

func dial(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestRelayEcho(t *testing.T) {
	x := newPair(t, echo(t), nil)
	for range 20 { // the second uses the connection of the first
		c := dial(t, x.entry)
		for range 5 {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
				t.Fatalf("%q, %v", b, err)
			}
		}
		c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Fatalf("%q, %v", b, err)
		}
		for range 2 {
			if err := <-x.ended; err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(x.pool.open); n != 1 {
		t.Errorf("%d tunnels for connections one after the other", n)
	}
	if out, in := x.near.Out.Load(), x.far.In.Load(); out != 500 || in != 500 {
		t.Errorf("metered %d out and %d in, of 500", out, in)
	}
}

func TestRefused(t *testing.T) {
	p := newPlatform(t)
	want := Refusal{Code: "denied", Says: "no flow", Rule: "bulkhead.yaml:3 x", Generation: 7}
	to := serve(t, p, func(_ context.Context, in *Incoming) {
		if in.Peer != id("a") || in.Request != request {
			t.Errorf("%+v", in)
		}
		in.Refuse(want)
	})
	pool := pool(t, p)
	for range 3 {
		_, err := pool.Open(context.Background(), to, id("b"), request)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Refusal != want {
			t.Fatal(err)
		}
	}
	if n := len(pool.open); n != 1 {
		t.Errorf("%d tunnels", n)
	}
}

func TestWrongPeer(t *testing.T) {
	p := newPlatform(t)
	to := serve(t, p, func(_ context.Context, in *Incoming) { t.Error("handled"); in.Accept() })
	_, err := pool(t, p).Open(context.Background(), to, id("c"), request)
	if err == nil || !strings.Contains(err.Error(), "tunnel to") {
		t.Fatal(err)
	}
}
