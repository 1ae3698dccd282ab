package tunnel

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// TestIdleMemory holds both halves of idle connections below their share.
func TestIdleMemory(t *testing.T) {
	const n = 400
	x := newPair(t, quietEcho(t), nil)
	x.idle(t, 20)
	before := inUse()
	x.idle(t, n)
	each := (inUse() - before) / n
	t.Logf("%d bytes a connection, both halves, and the test's own four sockets", each)
	if each > 64<<10 {
		t.Errorf("%d bytes for an idle connection, of 64 KiB", each)
	}
}

func inUse() int64 {
	time.Sleep(50 * time.Millisecond)
	for range 4 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// idle opens n connections that have carried something.
func (x *pair) idle(t testing.TB, n int) []*net.TCPConn {
	t.Helper()
	var all []*net.TCPConn
	for range n {
		c := dial(t, x.entry)
		c.SetDeadline(time.Time{})
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}
