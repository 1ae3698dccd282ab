package app

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"bulkhead/mesh/host"
)

func init() {
	// The main thread must stay in the machine's network: other threads change
	// theirs and end.
	runtime.LockOSThread()
}

// TestMain makes the tests that need namespaces run for everybody whose kernel
// allows it: who is not root is root of a user namespace.
func TestMain(m *testing.M) {
	host.Child(os.Args)
	become(os.Args)
	if !host.Privileged() && host.CanUserNamespace() == nil {
		if err := host.EnterUserNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
