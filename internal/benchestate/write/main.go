// Command write prints the manifests of a generated estate, for measuring the
// program from outside: `go run ./internal/benchestate/write 2000 > estate.yaml`.
package main

import (
	"bufio"
	"fmt"
	"os"

	"bulkhead/internal/benchestate"
)

func main() {
	sizes := map[string]benchestate.Size{
		"500": benchestate.Small, "2000": benchestate.Medium, "10000": benchestate.Large,
		"100000": benchestate.Huge, "1000cidrs": benchestate.CIDRs,
	}
	var size benchestate.Size
	known := len(os.Args) == 2
	if known {
		size, known = sizes[os.Args[1]]
	}
	if !known {
		fmt.Fprintln(os.Stderr, "usage: write 500|2000|10000|100000|1000cidrs")
		os.Exit(2)
	}
	w := bufio.NewWriter(os.Stdout)
	err := benchestate.Write(w, size)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}
