package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"bulkhead/mesh/socket"
)

// Sockets returns the sockets of a workload of this machine. They fail once the
// workload is removed.
func (h *Host) Sockets(workload string) (socket.Maker, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	m := h.members[workload]
	switch {
	case m == nil:
		return nil, fmt.Errorf("workload %q is not of this machine", workload)
	case h.options.Mode == Cooperative:
		return cooperativeSockets{h.cooperative, workload}, nil
	case m.CgroupPath != "":
		return boundSockets{inside{h, m}}, nil
	}
	return inside{h, m}, nil
}

// inside is the sockets of a workload that has a namespace.
type inside struct {
	host *Host
	m    *member
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

func (s inside) Capture() ([]socket.Capture, error) {
	ls, err := s.m.listen(false, netip.AddrPortFrom(loopback4, CapturePort), netip.AddrPortFrom(loopback6, CapturePort))
	return captures(ls), err
}

func captures(ls []net.Listener) []socket.Capture {
	var out []socket.Capture
	for _, l := range ls {
		out = append(out, socket.Capture{Listener: l, Original: originalDestination})
	}
	return out
}

func (s inside) Tunnel() ([]net.Listener, error) {
	var at []netip.AddrPort
	for _, a := range s.m.addresses() {
		at = append(at, netip.AddrPortFrom(a, TunnelPort))
	}
	return s.m.listen(true, at...)
}

// listen opens all listeners or none. IPv6 is left out where the kernel has
// none.
func (m *member) listen(marked bool, at ...netip.AddrPort) ([]net.Listener, error) {
	var out []net.Listener
	for _, a := range at {
		if a.Addr().Is6() && !hasIPv6 {
			continue
		}
		var l net.Listener
		err := m.thread.do(func() (err error) {
			l, err = listenConfig(marked).Listen(context.Background(), "tcp", a.String())
			return err
		})
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("workload %q: %w", m.Name, err)
		}
		out = append(out, l)
	}
	return out, nil
}

// listenConfig listens without Multipath TCP, which has no original
// destination.
func listenConfig(marked bool) *net.ListenConfig {
	lc := &net.ListenConfig{}
	if marked {
		lc.Control = mark
	}
	lc.SetMultipathTCP(false)
	return lc
}

// mark is the control function of sockets that pass the filter.
func mark(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, proxyMark)
	}); e != nil {
		return e
	}
	return err
}

// DialPeer leaves by the fabric only for addresses of the mesh: no other is
// reachable there.
func (s inside) DialPeer(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	if !s.host.inMesh(to.Addr()) {
		d := net.Dialer{}
		return d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	}
	return s.m.pool.dialTCP(ctx, net.Dialer{}, to)
}

func (s inside) DialOwn(ctx context.Context, port uint16) (*net.TCPConn, error) {
	return dialOwn(port, append(s.m.addresses(), loopback4, loopback6), func(to netip.AddrPort) (*net.TCPConn, error) {
		// Nothing gets lost on loopback: keep-alive would only cost.
		return s.m.pool.dialTCP(ctx, net.Dialer{KeepAlive: -1}, to)
	})
}

// dialOwn tries the addresses in order until one does not refuse.
func dialOwn(port uint16, at []netip.Addr, dial func(netip.AddrPort) (*net.TCPConn, error)) (*net.TCPConn, error) {
	if port == CapturePort || port == TunnelPort {
		return nil, fmt.Errorf("port %d belongs to the mesh and not to the workload", port)
	}
	var first error
	for _, a := range at {
		if a.Is6() && !hasIPv6 {
			continue
		}
		c, err := dial(netip.AddrPortFrom(a, port))
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			break
		}
	}
	return nil, first
}

func (s inside) CaptureUDP(local uint16) (*net.UDPConn, error) {
	at, err := s.host.captureAddress(s.m.Name, local)
	if err != nil {
		return nil, err
	}
	var c net.PacketConn
	err = s.m.thread.do(func() (err error) {
		c, err = listenConfig(false).ListenPacket(context.Background(), "udp", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("workload %q: %w", s.m.Name, err)
	}
	return c.(*net.UDPConn), nil
}

func (s inside) DialOwnUDP(ctx context.Context, port uint16) (*net.UDPConn, error) {
	return s.m.pool.dialUDP(ctx, netip.AddrPortFrom(s.m.addresses()[0], port))
}

// captureAddress returns where the filter redirects datagrams of a capture: the
// loopback address of the destination's family.
func (h *Host) captureAddress(workload string, local uint16) (netip.AddrPort, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if m := h.members[workload]; m != nil {
		for _, c := range m.UDP {
			if c.Local == local && c.To.Addr().Is4() {
				return netip.AddrPortFrom(loopback4, local), nil
			}
			if c.Local == local {
				return netip.AddrPortFrom(loopback6, local), nil
			}
		}
	}
	return netip.AddrPort{}, fmt.Errorf("the plan in force captures no datagrams of workload %q at port %d", workload, local)
}

// inMesh reports whether an address belongs to a zone.
func (h *Host) inMesh(a netip.Addr) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, z := range h.plan.Zones {
		if z.V4.IsValid() && z.V4.Contains(a) || z.V6.IsValid() && z.V6.Contains(a) {
			return true
		}
	}
	return false
}

// originalDestination asks conntrack where a redirected connection was to go.
func originalDestination(c net.Conn) (netip.AddrPort, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%T is no captured connection", c)
	}
	local, ok := tcp.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, errors.New("a captured connection has no address")
	}
	here := local.AddrPort()
	here = netip.AddrPortFrom(here.Addr().Unmap(), here.Port())
	raw, err := tcp.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to netip.AddrPort
	var asked error
	err = raw.Control(func(fd uintptr) { to, asked = socketDestination(int(fd), here.Addr().Is4()) })
	if err = errors.Join(err, asked); err != nil {
		return netip.AddrPort{}, fmt.Errorf("the destination of a captured connection is unknown: %w", err)
	}
	return to, checkDestination(to, here)
}

// checkDestination refuses what was not redirected: a connection that was
// opened to the capture port itself.
func checkDestination(to, here netip.AddrPort) error {
	a := to.Addr()
	if to == here || to.Port() == 0 || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return errors.New("a connection was opened to the capture port " + strconv.Itoa(int(here.Port())) + " itself, not to " + to.String())
	}
	return nil
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// socketDestination reads a sockaddr through the types of the same size that
// the unix package can read.
func socketDestination(fd int, v4 bool) (netip.AddrPort, error) {
	if v4 {
		sa, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}, err
		}
		b := sa.Multiaddr // family, port, address
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
	}
	sa, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, sa.Addr.Port))
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr.Addr), port), nil
}

// ListenCaptured listens where a firewall redirects connections to.
func ListenCaptured(at string) (socket.Capture, error) {
	l, err := listenConfig(false).Listen(context.Background(), "tcp", at)
	return socket.Capture{Listener: l, Original: originalDestination}, err
}
