package host

import (
	"context"
	"net"
	"net/netip"
)

// Sockets makes the sockets of a workload where the workload is. What it dials
// passes the filter; what it returns is the caller's to close.
type Sockets interface {
	// Capture gets every TCP connection that the workload opens to elsewhere.
	Capture() ([]Capture, error)
	// Tunnel gets tunnels from other workloads.
	Tunnel() ([]net.Listener, error)
	// DialPeer connects to where a tunnel listens: on this machine over the
	// fabric, elsewhere over the machine's own network.
	DialPeer(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
	// DialOwn connects to a server of the workload itself: on its mesh address
	// or on loopback, whichever answers first in this order.
	DialOwn(ctx context.Context, port uint16) (*net.TCPConn, error)
	// CaptureUDP gets the datagrams that the plan in force captures at the port.
	CaptureUDP(local uint16) (*net.UDPConn, error)
	// DialOwnUDP sends to a server of the workload itself.
	DialOwnUDP(ctx context.Context, port uint16) (*net.UDPConn, error)
}

// Capture is a listener that gets what a workload dials. Original says where
// the workload wanted to go.
type Capture struct {
	net.Listener
	Original func(net.Conn) (netip.AddrPort, error)
}
