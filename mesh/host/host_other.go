//go:build !linux

package host

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"

	"bulkhead/mesh/socket"
)

// Host enforces a plan on this machine, on Linux only.
type Host struct{}

// Open returns an error: Linux only.
func Open(context.Context, Options) (*Host, error) {
	return nil, fmt.Errorf("the data plane needs Linux, and this is %s: run it in a Linux machine or virtual machine", runtime.GOOS)
}

// Apply returns an error: Linux only.
func (h *Host) Apply(Plan) error { return errLinux }

// Close does nothing: Linux only.
func (h *Host) Close() error { return nil }

// Sockets returns an error: Linux only.
func (h *Host) Sockets(string) (socket.Maker, error) { return nil, errLinux }

// Denials returns an error: Linux only.
func (h *Host) Denials(context.Context, func(Denial)) error { return errLinux }

// PlainCounters returns an error: Linux only.
func (h *Host) PlainCounters() ([]PlainCount, error) { return nil, errLinux }

// Address returns no address: Linux only.
func (h *Host) Address(_, _ string) netip.Addr { return netip.Addr{} }

// Own returns no address: Linux only.
func (h *Host) Own(string) netip.Addr { return netip.Addr{} }

// ListenCaptured returns an error: Linux only.
func ListenCaptured(string) (socket.Capture, error) { return socket.Capture{}, errLinux }
