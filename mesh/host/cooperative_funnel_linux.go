package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// funnel is one listener made of many, which come and go with the plan. It owns
// a goroutine for each.
type funnel struct {
	addr net.Addr
	in   chan net.Conn
	done chan struct{}

	mu   sync.Mutex // guards the following
	over bool
	at   map[netip.AddrPort]net.Listener
	to   map[netip.AddrPort]netip.AddrPort
	wait sync.WaitGroup
}

func newFunnel(own netip.Addr) *funnel {
	return &funnel{
		addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 0)),
		in:   make(chan net.Conn), done: make(chan struct{}),
		at: map[netip.AddrPort]net.Listener{}, to: map[netip.AddrPort]netip.AddrPort{},
	}
}

// set closes the listeners that are not in want and opens the others.
func (f *funnel) set(want map[netip.AddrPort]netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return nil
	}
	for at, l := range f.at {
		if _, ok := want[at]; !ok {
			l.Close()
			delete(f.at, at)
			delete(f.to, at)
		}
	}
	var errs []error
	for at, to := range want {
		f.to[at] = to
		if f.at[at] != nil {
			continue
		}
		l, err := listenConfig(false).Listen(context.Background(), "tcp", at.String())
		if err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be reached at %s: %w", to, at, err))
			continue
		}
		f.at[at] = l
		f.wait.Go(func() { f.accept(l) })
	}
	return errors.Join(errs...)
}

func (f *funnel) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // a shortage of descriptors passes
			continue
		}
		select {
		case f.in <- c:
		case <-f.done:
			c.Close()
			return
		}
	}
}

// original says what the listener of a connection stands for.
func (f *funnel) original(c net.Conn) (netip.AddrPort, error) {
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%T is no captured connection", c)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := local.AddrPort()
	to, ok := f.to[netip.AddrPortFrom(at.Addr().Unmap(), at.Port())]
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("no destination is reached at %s any more", at)
	}
	return to, nil
}

func (f *funnel) Accept() (net.Conn, error) {
	select {
	case c := <-f.in:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

func (f *funnel) Addr() net.Addr { return f.addr }

func (f *funnel) Close() error {
	f.mu.Lock()
	if f.over {
		f.mu.Unlock()
		return nil
	}
	f.over = true
	close(f.done)
	for _, l := range f.at {
		l.Close()
	}
	f.mu.Unlock()
	f.wait.Wait()
	return nil
}
