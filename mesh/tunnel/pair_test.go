package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// couple is a proxy without a tunnel: what connects to its address is paired with
// a connection to backend.
type couple struct {
	entry netip.AddrPort
	gate  Gate
	meter Meter
	limit *rate.Limiter
	pairs chan *Pair // each, before it is relayed
	ended chan error
}

func newCouple(t testing.TB, backend netip.AddrPort, gate Gate, limit *rate.Limiter) *couple {
	t.Helper()
	ln := listen(t)
	x := &couple{entry: addrPort(ln), gate: gate, limit: limit, pairs: make(chan *Pair, 1<<14), ended: make(chan error, 1<<14)}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				up, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(backend))
				if err != nil {
					resetConn(c)
					x.ended <- err
					return
				}
				p := NewPair(c, up)
				x.pairs <- p
				x.ended <- p.Relay(x.gate, &x.meter, x.limit)
			}()
		}
	}()
	return x
}

// coupled are all ways in which a pair is relayed.
func coupled(t *testing.T, test func(t *testing.T, limit *rate.Limiter)) {
	t.Run("loop", func(t *testing.T) { test(t, nil) })
	t.Run("goroutines", func(t *testing.T) { test(t, rate.NewLimiter(rate.Inf, 1<<20)) })
}

// ends returns both ends of a new pair, which is not relayed yet.
func ends(t testing.TB) (client, server *net.TCPConn, p *Pair) {
	t.Helper()
	near, far := listen(t), listen(t)
	client = dial(t, addrPort(near))
	inner, err := near.Accept()
	if err != nil {
		t.Fatal(err)
	}
	outer := dial(t, addrPort(far))
	c, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server = c.(*net.TCPConn)
	t.Cleanup(func() { server.Close() })
	server.SetDeadline(time.Now().Add(20 * time.Second))
	return client, server, NewPair(inner, outer)
}

// isEnd reports whether a read found an end. Somebody who writes may have taken the
// news of a reset; while neither direction has ended, the state tells.
func isEnd(c *net.TCPConn, err error) bool { return (err == nil || err == io.EOF) && !torn(c) }

func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func within(t testing.TB, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the relay goes on")
		return nil
	}
}

func TestPairTransfersExactly(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		x := newCouple(t, echo(t), &gate{}, limit)
		for seed := range uint64(4) {
			const size = 12 << 20
			c := dial(t, x.entry)
			sent, got := sha256.New(), sha256.New()
			go func() {
				r := rand.New(rand.NewPCG(seed, 2))
				content := rand.NewChaCha8([32]byte{byte(seed)})
				b := make([]byte, 900<<10)
				for left := size; left > 0; {
					n := min(left, 1+r.IntN(1<<(1+r.IntN(19))))
					content.Read(b[:n])
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
			if err := within(t, x.ended); err != nil {
				t.Error(err)
			}
			all := int64(seed+1) * size
			if x.meter.Out.Load() != all || x.meter.In.Load() != all {
				t.Error("metered", x.meter.Out.Load(), x.meter.In.Load(), "of", all)
			}
		}
	})
}

func TestPairHalfClose(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		for _, serverFirst := range []bool{false, true} {
			first, second, p := ends(t)
			ended := make(chan error, 1)
			go func() { ended <- p.Relay(&gate{}, &Meter{}, limit) }()
			if serverFirst {
				first, second = second, first
			}
			first.Write([]byte("question"))
			first.CloseWrite()
			if b, err := io.ReadAll(second); err != nil || string(b) != "question" {
				t.Fatalf("%q, %v", b, err)
			}
			second.Write([]byte("answer"))
			second.CloseWrite()
			if b, err := io.ReadAll(first); err != nil || string(b) != "answer" {
				t.Fatalf("%q, %v", b, err)
			}
			if err := within(t, ended); err != nil {
				t.Fatal(err)
			}
			p.Reset() // too late to do anything
		}
	})
}

// TestPairStalledReader stalls one connection; others go on, what is buffered is
// bounded, and nothing is lost when it reads again.
func TestPairStalledReader(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		x := newCouple(t, echo(t), &gate{}, limit)
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

// TestPairReset resets pairs at every moment of their lives, from many sides at
// once: both ends get a reset, and never an end.
func TestPairReset(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		for i := range 120 {
			client, server, p := ends(t)
			busy := i%3 == 0
			if i < 4 {
				p.Reset()
			}
			ended := make(chan error, 1)
			go func() { ended <- p.Relay(&gate{}, &Meter{}, limit) }()
			if busy {
				go io.Copy(client, zeros{})
				go io.Copy(io.Discard, server)
			}
			time.Sleep(time.Duration(i*5) * time.Microsecond)
			var wg sync.WaitGroup
			for range 1 + i%3 {
				wg.Go(p.Reset)
			}
			wg.Wait()
			if err := within(t, ended); err == nil {
				t.Fatal("a reset pair ended in order")
			}
			p.Reset()
			for _, c := range []*net.TCPConn{client, server} {
				if busy {
					if c == server {
						continue // which somebody else reads
					}
					for err := error(nil); err == nil; {
						if _, err = c.Write([]byte("x")); err != nil && !wasReset(err) {
							t.Fatal(err)
						}
					}
					continue
				}
				if n, err := c.Read(make([]byte, 1)); n > 0 || !wasReset(err) {
					t.Fatalf("round %d: %d bytes, %v", i, n, err)
				}
			}
		}
	})
}

// TestPairResetIsPassedOn resets one end while the other is written to, and while
// nothing happens: the other gets no end.
func TestPairResetIsPassedOn(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		for i := range 40 {
			one, other, p := ends(t)
			ended := make(chan error, 1)
			go func() { ended <- p.Relay(&gate{}, &Meter{}, limit) }()
			if i%2 == 0 {
				one, other = other, one
			}
			if i%4 < 2 {
				go io.Copy(other, zeros{})
				io.ReadFull(one, make([]byte, 1<<20))
			} else {
				one.Write([]byte("x"))
				io.ReadFull(other, make([]byte, 1))
			}
			resetConn(one)
			if _, err := other.Read(make([]byte, 1)); isEnd(other, err) {
				t.Fatalf("the other side read %v", err)
			}
			if err := within(t, ended); err == nil {
				t.Fatal("a reset connection ended in order")
			}
		}
	})
}

// allowance is a gate that closes when so much has passed.
type allowance struct {
	m    *Meter
	most int64
	said atomic.Bool
}

func (a *allowance) Revoked() bool {
	if a.m.Out.Load()+a.m.In.Load() >= a.most {
		a.said.Store(true)
	}
	return a.said.Load()
}

// TestPairRevoked takes pairs back in the middle of much and of little: nothing is
// written after the gate said no, and what passed is bounded.
func TestPairRevoked(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		for i := range 24 {
			var m Meter
			a := &allowance{m: &m, most: []int64{0, 1, 100_000, 5 << 20}[i%4]}
			client, server, p := ends(t)
			ended := make(chan error, 1)
			go func() { ended <- p.Relay(a, &m, limit) }()
			chunk := make([]byte, []int{1000, 1 << 20}[i%2])
			for _, c := range []*net.TCPConn{client, server} {
				go func() {
					for {
						if _, err := c.Write(chunk); err != nil {
							return
						}
					}
				}()
			}
			var got atomic.Int64
			var wg sync.WaitGroup
			for _, c := range []*net.TCPConn{client, server} {
				wg.Go(func() {
					n, err := io.Copy(io.Discard, c)
					got.Add(n)
					if isEnd(c, err) {
						t.Error("a revoked connection ended in order")
					}
				})
			}
			wg.Wait()
			if err := within(t, ended); !errors.Is(err, ErrRevoked) {
				t.Error(err)
			}
			passed := m.Out.Load() + m.In.Load()
			if passed < got.Load() || passed > a.most+2*(256<<10) || a.most == 0 && passed > 0 {
				t.Errorf("%d bytes counted, %d arrived, of %d", passed, got.Load(), a.most)
			}
		}
	})
}

// TestPairInterleavings has both ends write, half-close, reset and stall at
// random, and the pair be reset and revoked: what arrives is a prefix of what was
// sent, and an end is one only if it was meant, with all that came before it.
func TestPairInterleavings(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		for i := range 12 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(uint64(i), 11))
				for range 5 {
					interleave(t, r, limit)
				}
			})
		}
	})
}

// party is one end at random.
type party struct {
	conn   *net.TCPConn
	seed   byte
	sizes  []int
	reset  bool // instead of an end
	pause  time.Duration
	chunks int // that are read at once

	total int64 // sent
	meant bool  // it ended in order, after all that
	cut   bool  // it could not send everything
}

func newParty(r *rand.Rand, c *net.TCPConn) *party {
	p := &party{conn: c, seed: byte(r.Uint32()), reset: r.IntN(4) == 0, pause: time.Duration(r.IntN(300)) * time.Microsecond, chunks: 1 << (8 + r.IntN(12))}
	for range r.IntN(10) {
		p.sizes = append(p.sizes, 1+r.IntN(1<<(1+r.IntN(18))))
	}
	if r.IntN(2) == 0 {
		c.SetReadBuffer(16 << 10)
		c.SetWriteBuffer(16 << 10)
	}
	return p
}

func (p *party) send() {
	content := rand.NewChaCha8([32]byte{p.seed})
	for i, n := range p.sizes {
		b := make([]byte, n)
		content.Read(b)
		m, err := p.conn.Write(b)
		p.total += int64(m)
		if err != nil {
			p.cut = true
			return
		}
		if i%3 == 0 {
			time.Sleep(p.pause)
		}
	}
	if p.reset {
		resetConn(p.conn)
		return
	}
	p.meant = p.conn.CloseWrite() == nil
	p.cut = !p.meant
}

// receive returns how much arrived of what the other sent, and whether it ended.
func (p *party) receive(other *party) (int64, bool, error) {
	content := rand.NewChaCha8([32]byte{other.seed})
	b, want := make([]byte, p.chunks), make([]byte, p.chunks)
	var all int64
	for reads := 0; ; reads++ {
		n, err := p.conn.Read(b)
		content.Read(want[:n])
		if !bytes.Equal(b[:n], want[:n]) {
			return all, false, fmt.Errorf("other bytes than were sent, between %d and %d", all, all+int64(n))
		}
		all += int64(n)
		if err != nil {
			return all, err == io.EOF, nil
		}
		if reads < 50 && reads%5 == 0 {
			time.Sleep(p.pause)
		}
	}
}

func interleave(t *testing.T, r *rand.Rand, limit *rate.Limiter) {
	client, server, p := ends(t)
	g := &gate{}
	var m Meter
	a, b := newParty(r, client), newParty(r, server)
	ended := make(chan error, 1)
	after, how := time.Duration(r.IntN(4000))*time.Microsecond, r.IntN(6)
	go func() { ended <- p.Relay(g, &m, limit) }()
	var sending, all sync.WaitGroup
	for _, x := range []*party{a, b} {
		sending.Go(x.send)
	}
	type result struct {
		n     int64
		ended bool
	}
	var got [2]result
	for i, x := range [][2]*party{{b, a}, {a, b}} {
		all.Go(func() {
			n, end, err := x[0].receive(x[1])
			if err != nil {
				t.Error(err)
			}
			got[i] = result{n, end}
		})
	}
	all.Go(func() {
		time.Sleep(after)
		switch how {
		case 0:
			p.Reset()
		case 1:
			g.revoked.Store(true)
			time.Sleep(time.Millisecond)
			p.Reset() // as who revokes does, for what is idle
		}
	})
	all.Wait()
	sending.Wait()
	err := within(t, ended)
	for i, x := range []*party{a, b} {
		if to := []*party{b, a}[i]; to.cut {
			got[i].ended = false // sending took the news of a reset: what was read as an end may be none
		}
		switch {
		case got[i].n > x.total:
			t.Errorf("%d bytes arrived of %d", got[i].n, x.total)
		case got[i].ended && (!x.meant || got[i].n != x.total):
			t.Errorf("an end after %d of %d bytes, meant: %v", got[i].n, x.total, x.meant)
		case err == nil && !got[i].ended && !a.reset && !b.reset:
			t.Errorf("it ended in order, and %d of %d bytes arrived", got[i].n, x.total)
		}
	}
	quiet := how > 1 && !a.reset && !b.reset
	if quiet && (err != nil || !got[0].ended || !got[1].ended || m.Out.Load() != a.total || m.In.Load() != b.total) {
		t.Errorf("nobody broke it: %v, %+v, metered %d and %d of %d and %d", err, got, m.Out.Load(), m.In.Load(), a.total, b.total)
	}
}

// TestPairOfOthers relays what is no TCP: TLS, and the streams of a tunnel. An end
// that fails resets the other.
func TestPairOfOthers(t *testing.T) {
	client, server := streams(t, "tcp")
	one, other := net.Pipe()
	p := NewPair(server, other)
	ended := make(chan error, 1)
	go func() { ended <- p.Relay(&gate{}, &Meter{}, nil) }()
	client.Write([]byte("x"))
	if _, err := io.ReadFull(one, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Reset()
	if err := within(t, ended); err == nil {
		t.Error("a reset pair ended in order")
	}
	if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the stream's other side read %v", err)
	}
}

// TestPairBothEndAtOnce ends both directions at the same moment: what is then the
// state of an orderly end is not taken for a reset.
func TestPairBothEndAtOnce(t *testing.T) {
	coupled(t, func(t *testing.T, limit *rate.Limiter) {
		for i := range 300 {
			client, server, p := ends(t)
			ended := make(chan error, 1)
			go func() { ended <- p.Relay(&gate{}, &Meter{}, limit) }()
			client.Write([]byte("x"))
			io.ReadFull(server, make([]byte, 1))
			go client.CloseWrite()
			server.CloseWrite()
			for _, c := range []*net.TCPConn{client, server} {
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Fatalf("round %d: %v", i, err)
				}
			}
			if err := within(t, ended); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			client.Close()
			server.Close()
		}
	})
}
