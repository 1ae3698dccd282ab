package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// streams returns both ends of a new stream.
func streams(t testing.TB, network string) (client, server *Stream) {
	t.Helper()
	p := newPlatform(t)
	accepted := make(chan *Stream, 1)
	to := serve(t, p, func(ctx context.Context, in *Incoming) {
		s, err := in.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- s
		<-ctx.Done()
	})
	r := request
	r.Network = network
	client, err := pool(t, p).Open(context.Background(), to, id("b"), r)
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

func TestStreamDeadlineIsNoEnd(t *testing.T) {
	client, server := streams(t, "tcp")
	server.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Time{})
	go client.Write([]byte("later"))
	b := make([]byte, 5)
	if _, err := io.ReadFull(server, b); err != nil || string(b) != "later" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestStreamHalfClose(t *testing.T) {
	client, server := streams(t, "tcp")
	client.Write([]byte("question"))
	client.CloseWrite()
	if _, err := client.Write([]byte("x")); err == nil {
		t.Error("wrote after CloseWrite")
	}
	if b, err := io.ReadAll(server); err != nil || string(b) != "question" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	server.CloseWrite()
	if b, err := io.ReadAll(client); err != nil || string(b) != "answer" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestStreamCutIsNoEnd(t *testing.T) {
	client, server := streams(t, "tcp")
	client.Write([]byte("half"))
	io.ReadFull(server, make([]byte, 4))
	client.get().close() // an end of TLS, in order, without fin
	if _, err := server.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Fatalf("a cut stream ended with %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Fatalf("and then with %v", err)
	}
}

func TestDatagrams(t *testing.T) {
	client, server := streams(t, "udp")
	sizes := []int{0, 1, 1200, 65535}
	for _, n := range sizes {
		if err := client.WriteDatagram(bytes.Repeat([]byte{byte(n)}, n)); err != nil {
			t.Fatal(err)
		}
	}
	client.CloseWrite()
	b := make([]byte, 65535)
	for _, want := range sizes {
		n, err := server.ReadDatagram(b)
		if err != nil || n != want || n > 0 && b[n-1] != byte(want) {
			t.Fatalf("%d bytes, %v, of %d", n, err, want)
		}
	}
	if _, err := server.ReadDatagram(b); err != io.EOF {
		t.Fatal(err)
	}
	server.WriteDatagram(make([]byte, 100))
	server.WriteDatagram([]byte("whole"))
	if n, err := client.ReadDatagram(b[:10]); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := client.ReadDatagram(b); string(b[:n]) != "whole" || err != nil {
		t.Fatalf("%q, %v: the rest of the datagram before", b[:n], err)
	}
	if client.WriteDatagram(make([]byte, 65536)) == nil {
		t.Error("wrote a datagram that is none")
	}
	if _, err := server.Write([]byte("x")); err != errNetwork {
		t.Error("wrote bytes to a udp stream:", err)
	}
}

// kinds are all ways in which a relay moves bytes.
func kinds(t *testing.T, test func(*testing.T, *pair)) {
	t.Run("loop", func(t *testing.T) { test(t, newPair(t, echo(t), nil)) })
	t.Run("goroutines", func(t *testing.T) {
		test(t, newPair(t, echo(t), rate.NewLimiter(rate.Inf, 1<<20)))
	})
}

func TestRelayTransfersExactly(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		const size = 6 << 20
		c := dial(t, x.entry)
		sent, got := sha256.New(), sha256.New()
		go func() {
			r := rand.New(rand.NewPCG(1, 2))
			b := make([]byte, 300<<10)
			for left := size; left > 0; {
				n := min(left, 1+r.IntN(len(b)))
				for i := range n {
					b[i] = byte(r.Uint32())
				}
				sent.Write(b[:n])
				if _, err := c.Write(b[:n]); err != nil {
					t.Error(err)
					return
				}
				left -= n
			}
			c.CloseWrite()
		}()
		n, err := io.Copy(got, c)
		if err != nil || n != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Fatalf("%d of %d bytes, %v", n, size, err)
		}
		for range 2 {
			if err := <-x.ended; err != nil {
				t.Error(err)
			}
		}
		if x.near.Out.Load() != size || x.near.In.Load() != size || x.far.Out.Load() != size {
			t.Error("metered", x.near.Out.Load(), x.near.In.Load(), x.far.Out.Load())
		}
	})
}

// TestRelayStalledReader stalls one connection; others go on, what is buffered
// is bounded, and nothing is lost when it reads again.
func TestRelayStalledReader(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		stalled, other := dial(t, x.entry), dial(t, x.entry)
		stalled.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := io.Copy(stalled, io.LimitReader(zeros{}, 1<<30))
		if err == nil {
			t.Fatalf("wrote %d bytes that nobody reads", n)
		}
		other.Write([]byte("x"))
		if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		stalled.CloseWrite()
		m, err := io.Copy(io.Discard, stalled)
		if err != nil || m != n {
			t.Fatalf("read %d of %d, %v", m, n, err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestRelayServerClosesFirst(t *testing.T) {
	ln := listen(t)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			c.Write([]byte("bye"))
			c.Close()
		}
	}()
	x := newPair(t, addrPort(ln), nil)
	c := dial(t, x.entry)
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Fatalf("%q, %v", b, err)
	}
	c.Close()
	for range 2 {
		if err := <-x.ended; err != nil {
			t.Error(err)
		}
	}
}

func TestRelayResetIsPassedOn(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		c := dial(t, x.entry)
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		for range 2 {
			if err := <-x.ended; err == nil {
				t.Error("a reset connection ended in order")
			}
		}
	})
}

// TestRelayInterleavings writes, half-closes and resets at random over many
// connections, which use tunnels one after the other: what arrives is a prefix
// of what was sent, and all of it unless there was a reset.
func TestRelayInterleavings(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 7))
				for range 8 {
					if err := conversation(x, r); err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func conversation(x *pair, r *rand.Rand) error {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(x.entry))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	seed, reset := r.Uint64(), r.IntN(4) == 0
	total := 0
	written := make(chan error, 1)
	go func() {
		defer close(written)
		content := rand.NewChaCha8([32]byte{byte(seed)})
		for range r.IntN(20) {
			b := make([]byte, 1+r.IntN(1<<(1+r.IntN(17))))
			content.Read(b)
			if _, err := conn.Write(b); err != nil {
				written <- err
				return
			}
			total += len(b)
			if r.IntN(3) == 0 {
				time.Sleep(time.Duration(r.IntN(500)) * time.Microsecond)
			}
		}
		if reset {
			conn.SetLinger(0)
			conn.Close()
		} else {
			conn.CloseWrite()
		}
	}()
	got, err := io.ReadAll(conn)
	werr := <-written
	want := make([]byte, len(got))
	rand.NewChaCha8([32]byte{byte(seed)}).Read(want)
	switch {
	case len(got) > total || !bytes.Equal(got, want):
		return fmt.Errorf("%d bytes arrived that are not a prefix of the %d sent", len(got), total)
	case reset:
		return nil
	case err != nil || werr != nil || len(got) != total:
		return fmt.Errorf("%d of %d bytes, read: %v, written: %v", len(got), total, err, werr)
	}
	return nil
}

func TestRateCap(t *testing.T) {
	const perSecond = 4 << 20
	x := newPair(t, echo(t), rate.NewLimiter(perSecond, 64<<10))
	c := dial(t, x.entry)
	start := time.Now()
	go func() {
		io.CopyN(c, zeros{}, perSecond/2)
		c.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, c); err != nil || n != perSecond/2 {
		t.Fatal(n, err)
	}
	if took := time.Since(start); took < 900*time.Millisecond || took > 1400*time.Millisecond {
		t.Errorf("%d bytes, counted in both directions, took %s", perSecond, took)
	}
}

func TestRelayPlain(t *testing.T) {
	g := &gate{}
	var m Meter
	run := func(t *testing.T) (*net.TCPConn, chan error) {
		ended := make(chan error, 1)
		ln := listen(t)
		backend := echo(t)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			ended <- NewPair(c, dial(t, backend)).Relay(g, &m, nil)
		}()
		return dial(t, addrPort(ln)), ended
	}
	c, ended := run(t)
	const size = 32 << 20
	go func() {
		io.CopyN(c, zeros{}, size)
		c.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, c); err != nil || n != size {
		t.Fatal(n, err)
	}
	if err := <-ended; err != nil || m.Out.Load() != size || m.In.Load() != size {
		t.Fatal(err, m.Out.Load(), m.In.Load())
	}
	c, ended = run(t)
	c.Write([]byte("x"))
	io.ReadFull(c, make([]byte, 1))
	g.revoked.Store(true)
	c.Write([]byte("forbidden"))
	if err := <-ended; !errors.Is(err, ErrRevoked) {
		t.Fatal(err)
	}
	if m.Out.Load() != size+1 {
		t.Error("bytes passed after the gate said no")
	}
}
