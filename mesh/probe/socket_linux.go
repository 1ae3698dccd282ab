package probe

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openSocket makes a socket of a kind that the net package does not make, and
// sends through it. A raw socket is dangerous as soon as it is there.
func (a *agent) openSocket(ctx context.Context, t *Task) Observation {
	o := Observation{Stage: AtSocket}
	fd, err := unix.Socket(t.Domain, t.Type|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, t.Protocol)
	if err != nil {
		o.fail(os.NewSyscallError("socket", err))
		return o
	}
	defer unix.Close(fd)
	if t.Type == unix.SOCK_RAW || !t.To.IsValid() {
		o.Done = true
		return o
	}
	local, err := bind(fd, t)
	if err == nil {
		err = a.announce(ctx, t.ID, local)
	}
	if err != nil {
		o.fail(err)
		return o
	}
	o.Stage = AtConnect
	if err := connect(fd, t); err != nil {
		o.fail(err)
		return o
	}
	o.Connected = true
	if _, err := unix.Write(fd, payload(t)); err != nil {
		o.fail(os.NewSyscallError("write", err))
		return o
	}
	o.receive(fd, t.Hold)
	return o
}

func connect(fd int, t *Task) error {
	err := unix.Connect(fd, sockaddr(t.To))
	if err != unix.EINPROGRESS {
		return os.NewSyscallError("connect", err)
	}
	if ready, err := wait(fd, unix.POLLOUT, patience); err != nil || !ready {
		return orTimeout(err)
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return os.NewSyscallError("connect", err)
}

// payload is an echo request for sockets that take one, else some text.
func payload(t *Task) []byte {
	switch t.Protocol {
	case unix.IPPROTO_ICMP:
		return []byte{8, 0, 0, 0, 0, 0, 0, 1} // the kernel adds id and checksum
	case unix.IPPROTO_ICMPV6:
		return []byte{128, 0, 0, 0, 0, 0, 0, 1}
	}
	return []byte("bulkhead probe\n")
}

func (o *Observation) receive(fd int, hold time.Duration) {
	o.Stage = AtReceive
	ready, err := wait(fd, unix.POLLIN, hold)
	if err != nil {
		o.fail(err)
		return
	}
	if !ready {
		o.Held = true
		return
	}
	var b [512]byte
	n, err := unix.Read(fd, b[:])
	switch {
	case err != nil:
		o.fail(os.NewSyscallError("read", err))
	case n == 0:
		o.Error, o.Says = endOfFile, "the other side ended it"
	default:
		o.Bytes, o.Held = n, true
	}
}

// wait waits for an event of a socket and reports whether it came.
func wait(fd int, event int16, limit time.Duration) (bool, error) {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, max(int(left.Milliseconds()), 0))
		if err == unix.EINTR {
			continue
		}
		return n > 0, os.NewSyscallError("poll", err)
	}
}

func orTimeout(err error) error {
	if err == nil {
		return os.ErrDeadlineExceeded
	}
	return err
}
