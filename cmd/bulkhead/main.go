// Command bulkhead proves and enforces the network isolation of AI platforms.
package main

import (
	"os"
	"runtime/debug"
	"time"

	"bulkhead/cli"
	"bulkhead/mesh/host"
)

func main() {
	host.Child(os.Args) // before anything else: this process may be about to become a workload
	c := &cli.Command{
		Args:    os.Args[1:],
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Now:     time.Now(),
		Getenv:  os.Getenv,
		Version: version(),
	}
	os.Exit(c.Run())
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
