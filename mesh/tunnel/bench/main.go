//go:build linux

// Command bench measures a pair of proxies that carry connections through
// mutual TLS: bulkhead's tunnel beside nginx (stream) and haproxy, one after the
// other on the same machine, and prints one table.
//
//	apt-get install nginx-full libnginx-mod-stream haproxy
//	service nginx stop; service haproxy stop
//	go run ./mesh/tunnel/bench
//
// A peer that is not installed is left out. Everything listens on loopback, runs
// in processes of its own, and ends with the program; files lie in a temporary
// folder. All use the same certificates: ECDSA P-256, TLS 1.3, client certificate
// required, tickets off, one worker process for each half. (nginx as a client
// does not verify the server, whose certificate has no host name: in its favour.)
//
// CPU is what the kernel accounted to the processes of the pair, both halves,
// in nanoseconds; clients and servers are not part of it. Of several rounds the
// best of each figure is shown: what else the machine does only makes it worse.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := role(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench", os.Args[1]+":", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "how often each pair is measured")
	flag.DurationVar(&o.window, "window", 3*time.Second, "how long each figure is measured")
	flag.StringVar(&o.only, "only", "", "measure only the pairs whose names hold this `text`")
	flag.Int64Var(&o.bulk, "bulk", 2<<30, "`bytes` of the bulk transfer")
	flag.IntVar(&o.idle, "idle", 1000, "how many idle `connections` memory is measured with")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds int
	window time.Duration
	only   string
	bulk   int64
	idle   int
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "bulkhead-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := writeCertificates(ctx, dir); err != nil {
		return err
	}
	backend, err := startBackend(ctx, dir)
	if err != nil {
		return err
	}
	defer backend.stop()
	var names []string
	best := map[string]figures{}
	for round := range o.rounds {
		for _, p := range pairs(dir, backend.addr) {
			if !strings.Contains(p.name, o.only) && p.name != "direct" {
				continue
			}
			if round == 0 {
				names = append(names, p.name)
			}
			f, err := measurePair(ctx, p, o)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			best[p.name] = best[p.name].better(f)
			fmt.Fprintf(os.Stderr, "round %d, %s: %s\n", round+1, p.name, f)
		}
	}
	printTable(names, best)
	return nil
}

func printTable(names []string, best map[string]figures) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "pair\tCPU us/req 16 conns\treq/s\tCPU us/req 1000/s\tp50 us 1000/s\tp50 us 1 conn\tp99 us 1 conn\tconn/s\tCPU us/conn\tMiB/s\tCPU-s/GiB\tKiB/idle conn\t")
	for _, n := range names {
		f := best[n]
		fmt.Fprintf(w, "%s\t%.1f\t%.0f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.1f\t\n", n,
			f.busyCPU, f.busyRate, f.openCPU, f.openP50, f.oneP50, f.oneP99, f.connRate, f.connCPU, f.bulkRate, f.bulkCPU, f.idle)
	}
	w.Flush()
}
