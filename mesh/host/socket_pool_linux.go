package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pool keeps unconnected sockets of a namespace ready, since making one costs a
// hand-over to the namespace's thread. All carry the proxy's mark.
type pool struct {
	thread *thread

	mu     sync.Mutex // guards the following
	closed bool
	ready  map[kind][]int
}

// kind is a domain and a type of sockets.
type kind struct{ domain, typ int }

// batch is how many sockets a hand-over makes.
const batch = 16

func newPool(t *thread) *pool { return &pool{thread: t, ready: map[kind][]int{}} }

// take returns a socket that is the caller's to close.
func (p *pool) take(k kind) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return -1, errClosed
	}
	if len(p.ready[k]) == 0 {
		if err := p.refill(k); err != nil {
			return -1, err
		}
	}
	last := len(p.ready[k]) - 1
	fd := p.ready[k][last]
	p.ready[k] = p.ready[k][:last]
	return fd, nil
}

// refill makes as many sockets as it can; one is enough.
func (p *pool) refill(k kind) error {
	n := batch
	if k.typ == unix.SOCK_DGRAM {
		n = 1
	}
	err := p.thread.do(func() error {
		for range n {
			fd, err := markedSocket(k)
			if err != nil {
				return err
			}
			p.ready[k] = append(p.ready[k], fd)
		}
		return nil
	})
	if len(p.ready[k]) > 0 {
		return nil
	}
	return fmt.Errorf("a socket cannot be made: %w", err)
}

func markedSocket(k kind) (int, error) {
	fd, err := unix.Socket(k.domain, k.typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, proxyMark); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// control puts a socket of the pool in the place of the one that a dialer made
// in this process's own namespace.
func (p *pool) control(k kind) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		fd, err := p.take(k)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var duped error
		err = c.Control(func(to uintptr) { duped = unix.Dup3(fd, int(to), unix.O_CLOEXEC) })
		return errors.Join(err, duped)
	}
}

func (p *pool) dialTCP(ctx context.Context, d net.Dialer, to netip.AddrPort) (*net.TCPConn, error) {
	k := kind{domainOf(to.Addr()), unix.SOCK_STREAM}
	d.Control = p.control(k)
	return d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
}

func (p *pool) dialUDP(ctx context.Context, to netip.AddrPort) (*net.UDPConn, error) {
	d := net.Dialer{Control: p.control(kind{domainOf(to.Addr()), unix.SOCK_DGRAM})}
	return d.DialUDP(ctx, "udp", netip.AddrPort{}, to)
}

func domainOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for k, fds := range p.ready {
		for _, fd := range fds {
			unix.Close(fd)
		}
		delete(p.ready, k)
	}
}
