//go:build !linux

package host

import (
	"context"
	"errors"
	"net"
)

var errLinux = errors.New("processes are isolated on Linux only")

// Start returns an error: Linux only.
func (h *Host) Start(context.Context, string, Command) (*Process, error) { return nil, errLinux }

// WorkloadAPI returns an error: Linux only.
func (h *Host) WorkloadAPI(string) (net.Listener, string, error) { return nil, "", errLinux }

// Attest returns an error: Linux only.
func (h *Host) Attest(*net.UnixConn) (string, error) { return "", errLinux }

// EnterUserNamespace returns an error: Linux only.
func EnterUserNamespace() error { return errLinux }

// CanUserNamespace returns an error: Linux only.
func CanUserNamespace() error { return errLinux }

// Privileged reports false: Linux only.
func Privileged() bool { return false }

func takesTerm(int) bool { return true }

func runMarked(string) {}

func restoreName([]string) {}

// InUserNamespace reports false: Linux only.
func InUserNamespace() bool { return false }
