package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"bulkhead/mesh/identity"
)

// dialled is a pool that counts its connections, to a server that echoes.
func dialled(t *testing.T, change func(*platform, *PoolOptions)) (*Pool, netip.AddrPort, *atomic.Int32) {
	t.Helper()
	p := newPlatform(t)
	to := serve(t, p, func(_ context.Context, in *Incoming) {
		if s, err := in.Accept(); err == nil {
			io.Copy(s, s)
			s.Close()
		}
	})
	var n atomic.Int32
	o := poolOptions(p)
	o.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		n.Add(1)
		return dialTCP(ctx, to)
	}
	if change != nil {
		change(p, &o)
	}
	pool := NewPool(o)
	t.Cleanup(func() { pool.Close() })
	return pool, to, &n
}

// once opens a stream, uses it and ends it in order.
func once(t *testing.T, p *Pool, to netip.AddrPort) {
	t.Helper()
	s, err := p.Open(t.Context(), to, id("b"), request)
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("x"))
	s.CloseWrite()
	if b, err := io.ReadAll(s); err != nil || string(b) != "x" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestExpiredTunnelsAreNotReused(t *testing.T) {
	var ahead atomic.Int64
	p, to, n := dialled(t, func(_ *platform, o *PoolOptions) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	once(t, p, to)
	once(t, p, to)
	if n.Load() != 1 {
		t.Fatalf("%d tunnels", n.Load())
	}
	ahead.Store(int64(2 * time.Hour))
	once(t, p, to)
	if n.Load() != 2 {
		t.Error("used a tunnel after its certificates had expired")
	}
}

func TestRenewedTunnelsAreNotReused(t *testing.T) {
	var pl *platform
	var denied atomic.Bool
	p, to, n := dialled(t, func(p *platform, o *PoolOptions) {
		pl = p
		o.Leaf = func() (*x509.Certificate, error) {
			if denied.Load() {
				return nil, identity.ErrNoIdentity
			}
			return p.leaf("a")
		}
	})
	once(t, p, to)
	once(t, p, to)
	pl.renew("a")
	once(t, p, to)
	once(t, p, to)
	if n.Load() != 2 {
		t.Errorf("%d tunnels for two certificates", n.Load())
	}
	denied.Store(true)
	if _, err := p.Open(t.Context(), to, id("b"), request); !errors.Is(err, identity.ErrNoIdentity) {
		t.Error("opened without an identity:", err)
	}
}

func TestStaleTunnelsAreReplaced(t *testing.T) {
	p, to, n := dialled(t, nil)
	once(t, p, to)
	for _, all := range p.idle {
		for _, l := range all {
			l.wire.conn.(*net.TCPConn).CloseWrite() // as if the other side had gone
		}
	}
	once(t, p, to)
	if n.Load() != 2 {
		t.Errorf("%d tunnels", n.Load())
	}
}

func TestPoolVerifies(t *testing.T) {
	for name, cfg := range map[string]*tls.Config{
		"verifies nobody": {InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}},
		"another peer than it says": {InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, ServerName: "b.z",
			VerifyConnection: func(tls.ConnectionState) error { return nil }},
	} {
		p, to, _ := dialled(t, func(p *platform, o *PoolOptions) {
			o.TLS = func(spiffeid.ID) *tls.Config {
				c := cfg.Clone()
				c.GetClientCertificate = identity.ClientTLS(p, "a", id("b")).GetClientCertificate
				return c
			}
		})
		if _, err := p.Open(t.Context(), to, id("c"), request); err == nil {
			t.Errorf("a configuration that %s is used", name)
		}
	}
}

func TestPoolGivesUp(t *testing.T) {
	p, to, _ := dialled(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Open(ctx, to, id("b"), request); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	silent := listen(t) // accepts, and never answers a handshake
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Open(ctx, addrPort(silent), id("b"), request); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	s, err := p.Open(t.Context(), to, id("b"), request)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Error("a stream outlived its pool:", err)
	}
	if _, err := p.Open(t.Context(), to, id("b"), request); !errors.Is(err, errPoolClosed) {
		t.Error(err)
	}
	if _, err := p.Open(t.Context(), to, id("b"), Request{Workload: "b", Network: "icmp", Port: 1}); err == nil {
		t.Error("opened icmp")
	}
}

// TestCancelWhileAsked ends the wait for an answer, and the connection with it:
// an answer that comes later belongs to nobody.
func TestCancelWhileAsked(t *testing.T) {
	p := newPlatform(t)
	asked := make(chan struct{}, 1)
	to := serve(t, p, func(ctx context.Context, in *Incoming) {
		asked <- struct{}{}
		time.Sleep(50 * time.Millisecond)
		in.Accept()
	})
	pool := pool(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := pool.Open(ctx, to, id("b"), request); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if pool.mu.Lock(); len(pool.open) != 0 {
		t.Error("kept the connection")
	}
	pool.mu.Unlock()
}
