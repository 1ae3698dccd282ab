package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestRevokedByGate takes a busy connection back: the relay itself notices, at
// its next write, and resets everything.
func TestRevokedByGate(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		c := dial(t, x.entry)
		writing := make(chan error, 1)
		go func() {
			for {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					writing <- err
					return
				}
			}
		}()
		if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		x.gate.revoked.Store(true)
		time.Sleep(20 * time.Millisecond) // a write that was under way has ended
		before := x.far.Out.Load() + x.far.In.Load() + x.near.Out.Load() + x.near.In.Load()
		io.Copy(io.Discard, c)
		if err := <-writing; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Error("a revoked connection was not reset:", err)
		}
		revoked := 0
		for range 2 {
			if err := <-x.ended; err == nil {
				t.Error("a revoked relay ended in order")
			} else if errors.Is(err, ErrRevoked) {
				revoked++
			}
		}
		if revoked == 0 {
			t.Error("no relay says that it was revoked")
		}
		if after := x.far.Out.Load() + x.far.In.Load() + x.near.Out.Load() + x.near.In.Load(); after != before {
			t.Errorf("%d bytes were written after the gate said no", after-before)
		}
	})
}

// TestRevokedBeforeRelay never lets a byte through.
func TestRevokedBeforeRelay(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		x.gate.revoked.Store(true)
		c := dial(t, x.entry)
		c.Write([]byte("forbidden"))
		if n, err := io.Copy(io.Discard, c); n > 0 || err == nil {
			t.Error(n, err)
		}
		if n := x.far.Out.Load() + x.near.Out.Load(); n > 0 {
			t.Errorf("%d bytes", n)
		}
	})
}

// TestResetIdle resets streams that nothing moves on, at every moment of their
// lives.
func TestResetIdle(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		for i := range 30 {
			c := dial(t, x.entry)
			s, err := x.pool.Open(t.Context(), x.to, id("b"), request)
			if err != nil {
				t.Fatal(err)
			}
			ln := listen(t)
			app := dial(t, addrPort(ln))
			done := make(chan error, 1)
			go func() { done <- Relay(app, s, x.gate, &Meter{}, x.limit, true) }()
			time.Sleep(time.Duration(i*20) * time.Microsecond)
			s.Reset()
			s.Reset()
			select {
			case err := <-done:
				if err == nil {
					t.Fatal("a reset relay ended in order")
				}
			case <-time.After(5 * time.Second):
				t.Fatal("a reset relay goes on")
			}
			if _, err := app.Write([]byte("x")); err == nil {
				t.Fatal("the application's connection is open")
			}
			c.Close()
		}
	})
}

// TestResetIsOfOneStream resets a stream that is over: the next stream on its
// connection must not notice.
func TestResetIsOfOneStream(t *testing.T) {
	x := newPair(t, echo(t), nil)
	first, err := x.pool.Open(t.Context(), x.to, id("b"), request)
	if err != nil {
		t.Fatal(err)
	}
	first.CloseWrite()
	io.Copy(io.Discard, first)
	first.Close()
	second, err := x.pool.Open(t.Context(), x.to, id("b"), request)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(x.pool.open); n != 1 {
		t.Fatalf("%d connections", n)
	}
	first.Reset()
	first.Close()
	first.SetDeadline(time.Now())
	if _, err := first.Write([]byte("x")); err == nil {
		t.Error("wrote to a stream that is over")
	}
	second.Write([]byte("x"))
	if _, err := io.ReadFull(second, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	second.Close()
}

// TestNothingLeaks counts goroutines and descriptors before and after.
func TestNothingLeaks(t *testing.T) {
	run := func(t *testing.T) {
		x := newPair(t, echo(t), nil)
		for i, c := range x.idle(t, 40) {
			if i%2 == 0 {
				c.CloseWrite()
				io.Copy(io.Discard, c)
			}
			c.Close()
		}
		x.idle(t, 10) // open until the pool is closed
	}
	t.Run("warm", run)
	before := runtime.NumGoroutine()
	t.Run("measured", run)
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		b := make([]byte, 1<<20)
		t.Errorf("%d goroutines more:\n%s", n-before, b[:runtime.Stack(b, true)])
	}
}

// BenchmarkRevoke takes 3,000 connections back, of which one in five is busy. It
// reports when the last byte was written after the mark, when all were told to
// close, and when all had ended. (Both halves, the clients and the server are in
// this process, which needs six descriptors for each.)
func BenchmarkRevoke(b *testing.B) {
	const n = 3000
	for range b.N {
		b.StopTimer()
		x := newPair(b, quietEcho(b), nil)
		conns := x.idle(b, n)
		var last atomic.Int64
		busy := make([]byte, 100)
		for i, c := range conns {
			if i%5 == 0 {
				go func() {
					for {
						if _, err := c.Write(busy); err != nil {
							return
						}
						if _, err := c.Read(busy); err != nil {
							return
						}
						last.Store(time.Now().UnixNano())
					}
				}()
			}
		}
		time.Sleep(100 * time.Millisecond)
		x.pool.mu.Lock()
		var wires []*wire
		for l := range x.pool.open {
			wires = append(wires, l.wire)
		}
		x.pool.mu.Unlock()
		b.StartTimer()
		start := time.Now()
		x.gate.revoked.Store(true)
		for _, w := range wires {
			w.abort()
		}
		closed := time.Since(start)
		var wg sync.WaitGroup
		for range 2 * n {
			wg.Go(func() { <-x.ended })
		}
		wg.Wait()
		b.ReportMetric(float64(closed.Microseconds())/1000, "ms-to-close")
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-to-end")
		b.ReportMetric(float64(last.Load()-start.UnixNano())/1e6, "ms-to-last-byte")
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(busy); err == nil || errors.Is(err, net.ErrClosed) {
				b.Fatal(err)
			}
			c.Close()
		}
	}
}

// TestResetNeverLooksLikeAnEnd resets an application that is being written to:
// the write gets the news, and the read after it finds a plain end.
func TestResetNeverLooksLikeAnEnd(t *testing.T) {
	kinds(t, func(t *testing.T, x *pair) {
		p := newPlatform(t)
		read := make(chan error)
		to := serve(t, p, func(_ context.Context, in *Incoming) {
			s, err := in.Accept()
			if err != nil {
				return
			}
			go io.Copy(s, zeros{})
			_, err = s.Read(make([]byte, 1))
			read <- err
		})
		pool, ln := pool(t, p), listen(t)
		for range 10 {
			s, err := pool.Open(t.Context(), to, id("b"), request)
			if err != nil {
				t.Fatal(err)
			}
			app := dial(t, addrPort(ln))
			other, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			go Relay(app, s, x.gate, &Meter{}, x.limit, true)
			io.ReadFull(other, make([]byte, 1<<20))
			resetConn(other)
			if err := <-read; err == nil || err == io.EOF {
				t.Fatalf("the other side read %v", err)
			}
		}
	})
}
