package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"bulkhead/mesh/identity"
)

// TestServeRefusesStrangers tries what somebody without an identity can.
func TestServeRefusesStrangers(t *testing.T) {
	p := newPlatform(t)
	to := serve(t, p, func(context.Context, *Incoming) { t.Error("a stranger was handled") })
	good := identity.ClientTLS(p, "a", id("b"))
	for name, change := range map[string]func(*tls.Config){
		"no certificate":    func(c *tls.Config) { c.GetClientCertificate = nil },
		"another name":      func(c *tls.Config) { c.ServerName = "c.z" },
		"no protocol":       func(c *tls.Config) { c.NextProtos = nil },
		"another protocol":  func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		"an older protocol": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"another's authority": func(c *tls.Config) {
			c.GetClientCertificate = identity.ClientTLS(newPlatform(t), "a", id("b")).GetClientCertificate
		},
	} {
		cfg := good.Clone()
		change(cfg)
		c := tls.Client(dial(t, to), cfg)
		open, err := request.encode()
		if err != nil {
			t.Fatal(err)
		}
		c.Write(open)
		if n, err := c.Read(make([]byte, 100)); n > 0 || err == nil {
			t.Errorf("%s: answered %d bytes", name, n)
		}
		c.Close()
	}
	c := dial(t, to)
	c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	c.CloseWrite()
	if b, _ := io.ReadAll(c); len(b) > 7 { // at most an alert
		t.Errorf("plaintext is answered %q", b)
	}
}

// TestServeNeedsVerification serves with a configuration that asks for no
// certificate: nobody is let in.
func TestServeNeedsVerification(t *testing.T) {
	p := newPlatform(t)
	svid, err := p.SVID("b")
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequestClientCert, tls.RequireAnyClientCert} {
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: auth, NextProtos: []string{ALPN}, MinVersion: tls.VersionTLS13}
		ln := listen(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			Serve(ctx, ln, cfg, func(context.Context, *Incoming) { t.Error("handled") }, nil)
		})
		if _, err := pool(t, p).Open(ctx, addrPort(ln), id("b"), request); err == nil {
			t.Errorf("let in with client authentication %d", auth)
		}
		cancel()
		wg.Wait()
	}
}

// TestServeBoundsStrangers holds connections without a handshake: further ones
// of the address are closed, and those that are there are let go.
func TestServeBoundsStrangers(t *testing.T) {
	p := newPlatform(t)
	to := serve(t, p, func(_ context.Context, in *Incoming) { in.Refuse(Refusal{}) })
	var held []*net.TCPConn
	for range maxStrangers {
		held = append(held, dial(t, to))
	}
	if over, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to)); err == nil {
		defer over.Close()
		over.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := over.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("one more connection is open:", err)
		}
	}
	for _, c := range held {
		c.Close()
	}
	pool := pool(t, p)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := pool.Open(t.Context(), to, id("b"), request)
		if _, ok := err.(*RefusedError); ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("those who left still count:", err)
		}
	}
}

func TestServeEndsWithItsStreams(t *testing.T) {
	p := newPlatform(t)
	ctx, cancel := context.WithCancel(t.Context())
	ln := listen(t)
	returned := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, identity.ServerTLS(p, "b"), func(_ context.Context, in *Incoming) {
			s, err := in.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, s)
			close(returned)
		}, nil)
	}()
	s, err := pool(t, p).Open(t.Context(), addrPort(ln), id("b"), request)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case <-returned:
	default:
		t.Error("Serve returned before its handler")
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Error("the stream goes on:", err)
	}
}

// TestHandlerMistakes: what a handler leaves undone is refused or reset, and
// what it does twice is an error.
func TestHandlerMistakes(t *testing.T) {
	p := newPlatform(t)
	handle := make(chan func(*Incoming), 1)
	to := serve(t, p, func(_ context.Context, in *Incoming) { (<-handle)(in) })
	pool := pool(t, p)
	handle <- func(*Incoming) {}
	if _, err := pool.Open(t.Context(), to, id("b"), request); err == nil || err.(*RefusedError).Code != "unanswered" {
		t.Error(err)
	}
	handle <- func(in *Incoming) {
		in.Refuse(Refusal{Code: "denied"})
		if s, err := in.Accept(); err == nil || s != nil {
			t.Error("accepted after refusing")
		}
	}
	if _, err := pool.Open(t.Context(), to, id("b"), request); err == nil || err.(*RefusedError).Code != "denied" {
		t.Error(err)
	}
	handle <- func(in *Incoming) {
		in.Accept()
		if in.Refuse(Refusal{}) == nil {
			t.Error("refused after accepting")
		}
	}
	s, err := pool.Open(t.Context(), to, id("b"), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Error("a stream that its handler left goes on:", err)
	}
}

// TestStrangersAreReported: who proves no identity is told of, with the reason.
func TestStrangersAreReported(t *testing.T) {
	p := newPlatform(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reported := make(chan error, 8)
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, identity.ServerTLS(p, "b"), func(context.Context, *Incoming) { t.Error("handled") },
			func(_ netip.AddrPort, err error) { reported <- err })
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-reported:
		if err == nil {
			t.Error("a stranger was reported without a reason")
		}
	case <-time.After(5 * time.Second):
		t.Error("plaintext on the tunnel port was not reported")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
