package tunnel

import (
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// splicer moves one direction between two TCP connections. Small messages are
// copied, which is one buffer and no pipe; when a buffer comes full, the kernel
// moves what follows through a pipe, without copies, until there is no more.
// While it waits it holds no buffer.
type splicer struct {
	to, from syscall.RawConn
	gate     Gate
	half     half

	pipe [2]int // read end, write end; zero before the first use
}

// spliceHalf reports false, having done nothing, when h is not between two TCP
// connections.
func spliceHalf(h half, gate Gate) (bool, error) {
	to, ok1 := h.to.(*net.TCPConn)
	from, ok2 := h.from.(*net.TCPConn)
	if !ok1 || !ok2 {
		return false, nil
	}
	s := splicer{gate: gate, half: h}
	defer s.close()
	var err error
	if s.to, err = to.SyscallConn(); err != nil {
		return true, err
	}
	if s.from, err = from.SyscallConn(); err != nil {
		return true, err
	}
	for {
		n, err := s.copy()
		for err == nil && n == relayBuffer {
			n, err = s.move()
		}
		if err != nil {
			return true, err
		}
		if n == 0 {
			return true, h.end()
		}
	}
}

func (s *splicer) close() {
	if s.pipe != [2]int{} {
		unix.Close(s.pipe[0])
		unix.Close(s.pipe[1])
	}
}

// copy waits for data, and moves a buffer of it; 0 is the end.
func (s *splicer) copy() (int, error) {
	var b []byte
	n, err := s.reads(func(fd int) (int, error) {
		b = takeBuffer()[:relayBuffer]
		n, err := unix.Read(fd, b)
		if err == unix.EAGAIN {
			giveBuffer(b)
		}
		return n, err
	})
	if err != nil {
		return 0, err
	}
	defer giveBuffer(b)
	for left := b[:n]; len(left) > 0; {
		m, err := s.writes(func(fd int) (int, error) { return unix.Write(fd, left) })
		if err != nil {
			return 0, err
		}
		left = left[m:]
	}
	return n, nil
}

// atOnce is how much goes through the pipe before the gate is asked again, and
// the size that a pipe is asked to have.
const atOnce = 256 << 10

// move waits for data, and moves some through the pipe. It returns relayBuffer
// while there is much, less when copying is cheaper, 0 at the end.
func (s *splicer) move() (int, error) {
	if s.pipe == [2]int{} {
		if err := unix.Pipe2(s.pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return 0, fmt.Errorf("pipe: %w", err)
		}
		unix.FcntlInt(uintptr(s.pipe[0]), unix.F_SETPIPE_SZ, atOnce) // or it stays smaller
	}
	n, err := s.reads(func(fd int) (int, error) {
		n, err := unix.Splice(fd, nil, s.pipe[1], nil, atOnce, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if err != nil || n == 0 {
		return 0, err
	}
	for left := n; left > 0; {
		m, err := s.writes(func(fd int) (int, error) {
			m, err := unix.Splice(s.pipe[0], nil, fd, nil, left, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			return int(m), err
		})
		if err != nil {
			return 0, err
		}
		left -= m
	}
	return min(n, relayBuffer), nil
}

func (s *splicer) reads(do func(fd int) (int, error)) (int, error) { return wait(s.from.Read, do) }

// writes asks the gate before each try.
func (s *splicer) writes(do func(fd int) (int, error)) (int, error) {
	n, err := wait(s.to.Write, func(fd int) (int, error) {
		if s.gate.Revoked() {
			return 0, ErrRevoked
		}
		return do(fd)
	})
	s.half.count.Add(int64(n))
	return n, err
}

// wait tries until there is something else to say than "not now".
func wait(ready func(func(uintptr) bool) error, do func(fd int) (int, error)) (int, error) {
	var n int
	var err error
	if rerr := ready(func(fd uintptr) bool {
		for {
			if n, err = do(int(fd)); err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}); rerr != nil {
		return 0, rerr
	}
	return max(n, 0), err
}

// torn reports whether a connection that reading found at its end was reset. It
// only knows while the other direction has not ended: after both, an orderly end
// looks the same.
func torn(from io.Reader) bool {
	tcp, ok := from.(*net.TCPConn)
	if !ok {
		return false
	}
	rc, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	rc.Control(func(fd uintptr) { closed = stateClosed(int(fd)) })
	return closed
}

// stateClosed reports whether TCP has forgotten the connection.
func stateClosed(fd int) bool {
	const tcpClose = 7 // enum in the kernel's net/tcp_states.h
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}
