package tunnel

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// descriptors counts what is open, and how many of it are ends of pipes.
func descriptors(t testing.TB) (all, ofPipes int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			ofPipes++
		}
	}
	return len(list), ofPipes
}

// closeSpares closes the pipes that nobody uses.
func closeSpares() {
	for {
		select {
		case p := <-pipes:
			unix.Close(p.in)
			unix.Close(p.out)
		default:
			return
		}
	}
}

func settled(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestPairsLeaveNothing counts descriptors and goroutines around 1,000 relays that
// end in every way: in order, idle, in the middle of much, stalled with a full pipe.
func TestPairsLeaveNothing(t *testing.T) {
	x := newCouple(t, each(t, func(c *net.TCPConn) { plainEcho(c) }), &gate{}, nil)
	round := func(n int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(x.entry))
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				b := make([]byte, 300<<10)
				c.Write(b[:1])
				io.ReadFull(c, b[:1])
				switch i % 5 {
				case 0:
					c.CloseWrite()
					io.Copy(io.Discard, c)
				case 1:
					resetConn(c)
				case 2:
					go c.Write(make([]byte, len(b)))
					io.ReadFull(c, b[:100<<10])
					resetConn(c)
				case 3: // nobody reads
					c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
					io.Copy(c, io.LimitReader(zeros{}, 64<<20))
					(<-x.pairs).Reset() // somebody's
				}
			})
		}
		wg.Wait()
		for { // what was left alone
			select {
			case p := <-x.pairs:
				p.Reset()
				continue
			default:
			}
			break
		}
		for range n {
			within(t, x.ended)
		}
	}
	round(50)
	closeSpares()
	before, _ := descriptors(t)
	goroutines := runtime.NumGoroutine()
	for range 10 {
		round(100)
	}
	if _, n := descriptors(t); n > 2*sparePipes+4 {
		t.Errorf("%d ends of pipes are open", n)
	}
	closeSpares()
	settled(t, "descriptors are left", func() bool { n, _ := descriptors(t); return n <= before })
	settled(t, "goroutines are left", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// plainEcho answers without a pipe.
func plainEcho(c *net.TCPConn) {
	b := make([]byte, 32<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// TestPairIdleHoldsNothing leaves pairs alone that have moved much: they have no
// pipe and no buffer, no goroutine but the one that waits, and little memory.
func TestPairIdleHoldsNothing(t *testing.T) {
	const n = 200
	x := newCouple(t, quietEcho(t), &gate{}, nil)
	open := func(n int) {
		b := make([]byte, 128<<10)
		much := make([]byte, len(b))
		for range n {
			c := dial(t, x.entry)
			go c.Write(much)
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	open(10)
	closeSpares()
	_, before := descriptors(t)
	goroutines, memory := runtime.NumGoroutine(), inUse()
	open(n)
	settled(t, "pipes are held by what is idle", func() bool { _, now := descriptors(t); return now <= before+2*sparePipes })
	settled(t, "goroutines are held by what is idle", func() bool { return runtime.NumGoroutine() <= goroutines+2*n })
	each := (inUse() - memory) / n
	t.Logf("%d bytes a pair, with the test's own three sockets and server", each)
	if each > 16<<10 {
		t.Errorf("%d bytes for an idle pair, of 16 KiB", each)
	}
	for range 10 + n {
		p := <-x.pairs
		p.client.mu.Lock()
		s := p.client.raw.(*sock)
		p.client.mu.Unlock()
		for _, d := range []*direction{s.in, s.out} {
			settled(t, "a direction runs", func() bool { return d.pending.Load() == 0 })
			if d.kept != nil || d.blocked.Load() {
				t.Error("an idle direction holds a buffer")
			}
		}
	}
}

// TestPairWithoutPipes moves much where no pipe can be had.
func TestPairWithoutPipes(t *testing.T) {
	x := newCouple(t, each(t, plainEcho), &gate{}, nil)
	c := dial(t, x.entry)
	c.Write([]byte("x"))
	io.ReadFull(c, make([]byte, 1)) // it is relayed
	closeSpares()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20
	go func() {
		io.CopyN(c, zeros{}, size)
		c.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, c)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil || n != size {
		t.Fatal(n, err)
	}
}

// TestPairUrgent sends urgent bytes, before which a read comes short and a splice
// says nothing: what follows arrives, and the end is behind it.
func TestPairUrgent(t *testing.T) {
	for _, much := range []int{10, 100 << 10, 1 << 20} {
		client, server, p := ends(t)
		ended := make(chan error, 1)
		all := bytes.Repeat([]byte("a"), much)
		urgent := func() {
			rc, _ := client.SyscallConn()
			rc.Write(func(fd uintptr) bool {
				return unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) != unix.EAGAIN
			})
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			client.Write(all)
			urgent()
			client.Write(all)
			urgent()
			client.Write(all)
			client.CloseWrite()
		}()
		if much < 1<<16 {
			<-sent // all of it is there when the relay begins
		}
		go func() { ended <- p.Relay(&gate{}, &Meter{}, nil) }()
		b, err := io.ReadAll(server)
		if err != nil || strings.Count(string(b), "a") != 3*much {
			t.Errorf("%d of %d bytes, %v", len(b), 3*much, err)
		}
		server.CloseWrite()
		if err := within(t, ended); err != nil {
			t.Error(err)
		}
	}
}
