// Package socket says what a workload's sockets are: package host makes them where
// the workload is, package proxy uses them.
package socket

import (
	"context"
	"net"
	"net/netip"
)

// Maker makes the sockets of a workload where the workload is. What it dials
// passes the filter; what it returns is the caller's to close.
type Maker interface {
	// Capture gets every TCP connection that the workload opens to elsewhere.
	Capture() ([]Capture, error)
	// Tunnel gets tunnels from other workloads, at port 15008.
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
