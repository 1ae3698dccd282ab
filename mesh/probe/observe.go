package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long anything may take to come about or to be refused.
const patience = 5 * time.Second

// The symbols of errors that are not the kernel's.
const (
	timedOut  = "timeout"
	endOfFile = "eof"
	tlsAlert  = "alert"
	otherErr  = "other"
	// emptyFolder is a folder in which nothing is.
	emptyFolder = "empty"
)

// fail notes the error at which a task ended.
func (o *Observation) fail(err error) {
	o.Error, o.Says = symbol(err), err.Error()
	if len(o.Says) > maxText {
		o.Says = o.Says[:maxText]
	}
}

// symbol names an error for programs.
func symbol(err error) string {
	var errno syscall.Errno
	var network net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
		return otherErr
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return timedOut
	case strings.Contains(err.Error(), "remote error: tls:"): // crypto/tls exports no type for it
		return tlsAlert
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return endOfFile
	}
	return otherErr
}

// watch reads from an open connection until it ends or the time is over.
func (o *Observation) watch(conn net.Conn, hold time.Duration) {
	o.Stage = AtReceive
	if err := conn.SetReadDeadline(time.Now().Add(hold)); err != nil {
		o.fail(err)
		return
	}
	var b [512]byte
	n, err := conn.Read(b[:])
	o.Bytes += n
	switch {
	case err == nil:
		o.Held = true
	case errors.Is(err, os.ErrDeadlineExceeded):
		o.Held = true
	default:
		o.fail(err)
	}
}
