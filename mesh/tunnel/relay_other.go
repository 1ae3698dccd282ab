//go:build !linux

package tunnel

import (
	"io"
	"net"
	"sync/atomic"
)

// relayByLoop exists on Linux only; elsewhere goroutines move the bytes.
func relayByLoop(*net.TCPConn, *Stream, Gate, *atomic.Int64, *atomic.Int64) (bool, error) {
	return false, nil
}

// relayByLoop exists on Linux only.
func (p *Pair) relayByLoop(Gate, *Meter) (bool, error) { return false, nil }

// torn can be known on Linux only.
func torn(io.Reader) bool { return false }
