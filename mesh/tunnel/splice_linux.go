package tunnel

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// pipe carries what the kernel moves from one socket to another without copies.
type pipe struct{ in, out, held int }

const (
	// atOnce is how much goes through a pipe before the gate is asked again, and
	// the size that a pipe is asked to have.
	atOnce = 256 << 10
	// sparePipes is how many are kept when nobody needs them.
	sparePipes = 8
)

var pipes = make(chan *pipe, sparePipes)

// takePipe returns nil if there can be none: bytes are copied then.
func takePipe() *pipe {
	select {
	case p := <-pipes:
		return p
	default:
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, atOnce) // or it stays smaller
	return &pipe{in: ends[1], out: ends[0]}
}

// givePipe closes a pipe that holds something, which is nobody else's.
func givePipe(p *pipe) {
	if p.held == 0 {
		select {
		case pipes <- p:
			return
		default:
		}
	}
	unix.Close(p.in)
	unix.Close(p.out)
}

// fill takes what there is from a socket. It cannot tell the end from nothing.
func (p *pipe) fill(from *sock) error {
	n, err := from.splice(-1, p.in, atOnce)
	p.held += n
	if err == errAgain {
		return nil
	}
	return err
}

// drain writes as much as fits, and returns how much.
func (p *pipe) drain(to *sock) (int, error) {
	all := 0
	for p.held > 0 {
		n, err := to.splice(p.out, -1, p.held)
		p.held -= n
		all += n
		if err != nil {
			return all, err
		}
		if n == 0 {
			return all, io.ErrUnexpectedEOF // there is less in it than it took
		}
	}
	return all, nil
}

// splice moves bytes from or to a pipe; the socket is the other end.
func (s *sock) splice(from, to, most int) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return 0, net.ErrClosed
	}
	if from < 0 {
		from = s.fd
	} else {
		to = s.fd
	}
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			err = errAgain
		}
		return int(max(n, 0)), err
	}
}
