package tunnel

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

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
