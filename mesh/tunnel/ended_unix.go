//go:build unix

package tunnel

import (
	"net"
	"syscall"
)

// Ended reports whether the other end of an idle connection closed it, or
// said something that nobody asked for. Servers end idle connections after a few
// seconds, and a request that is sent after that is lost.
func Ended(conn net.Conn) bool {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = over.NetConn() // a TLS alert is something that nobody asked for
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	ended := true
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		ended = err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
		return true
	})
	return err != nil || ended
}
