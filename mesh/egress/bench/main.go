//go:build linux

// Command bench measures the egress gateway beside Squid and tinyproxy from
// Debian, one after the other on the same machine, and prints a table for
// docs/performance.md and a line for each requirement.
//
//	apt-get install squid-openssl tinyproxy
//	systemctl disable --now squid tinyproxy
//	go run ./mesh/egress/bench
//
// A peer that is not installed is left out. Everything listens on loopback, runs
// in processes of its own, and ends with the program; files lie in a temporary
// folder. All write a line for each request to a file. The client, the proxy and
// the origin share the machine's cores.
//
//   - connect: a new connection, CONNECT, one byte there and back, closed with a
//     reset; 16 at a time.
//   - tls: the same with a full handshake with the origin inside, and one GET.
//   - http: GET http://… of 1 KiB; 16 connections that are kept alive, as far as
//     the proxy keeps them.
//   - bulk: 4 downloads of 256 MiB at a time, through CONNECT, again and again.
//   - idle: 5,000 tunnels that each carried a byte; memory is VmRSS.
//
// With +mTLS the client speaks TLS 1.3 to the proxy, with an ECDSA P-256
// certificate and a full handshake for each connection. CPU is user and system
// time of the proxy and of what it started. Each figure is of a process that was
// started for it; the proxies take turns within a mode, and the median of several
// rounds is shown. A proxy that lets through what it was not told to, or has fewer
// lines in its log than it did operations, is not measured.
//
// In favour of peers: tinyproxy is asked for an address, so that it resolves
// nothing; Squid resolves out of its hosts file, keeps no cache, and writes its
// log through its helper.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == originRole {
		if err := runOrigin(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench origin:", err)
			os.Exit(1)
		}
		return
	}
	o := options{bulk: 256 << 20, idle: 5000}
	only, what := "", ""
	flag.IntVar(&o.rounds, "rounds", 3, "how often each figure is measured")
	flag.DurationVar(&o.window, "for", 3*time.Second, "how long each figure is measured")
	flag.StringVar(&only, "only", "", "measure only these `NAMES`, separated by commas, and direct")
	flag.StringVar(&what, "what", strings.Join(modes, ","), "measure only these `MODES`")
	flag.StringVar(&o.program, "bulkhead", "", "measure this `FILE`; without it the program is built")
	flag.Parse()
	err := o.choose(only, what, flag.Args())
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds  int
	window  time.Duration
	only    []string // names of peers; empty for all
	modes   []string
	program string
	bulk    int64 // bytes of one download
	idle    int   // tunnels
}

func (o *options) choose(only, what string, rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("%q is no flag: see -help", rest[0])
	}
	if o.rounds < 1 || o.window <= 0 {
		return errors.New("-rounds and -for must be more than nothing")
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, n := range o.only {
		if !slices.Contains(names, n) {
			return fmt.Errorf("-only: nothing is called %q: choose of %s", n, strings.Join(names, ","))
		}
	}
	asked := strings.Split(what, ",")
	for _, m := range asked {
		if !slices.Contains(modes, m) {
			return fmt.Errorf("-what: there is no mode %q: choose of %s", m, strings.Join(modes, ","))
		}
	}
	for _, m := range modes {
		if slices.Contains(asked, m) {
			o.modes = append(o.modes, m)
		}
	}
	return nil
}

func (o *options) wants(name string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, name)
}

// The modes, in the order of the table.
const (
	connectMode = "connect"
	tlsMode     = "tls"
	httpMode    = "http"
	bulkMode    = "bulk"
	idleMode    = "idle"
)

var modes = []string{connectMode, tlsMode, httpMode, bulkMode, idleMode}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "bulkhead-egress-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Peers run as another user when this runs as root, and have folders below.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	limit, err := raiseDescriptors()
	if err != nil {
		return err
	}
	// A proxy has two descriptors for each tunnel.
	if most := int(limit-512) / 2; most < o.idle {
		say("only %d idle tunnels: a process may have %d descriptors; raise it with ulimit -n", most, limit)
		o.idle = most
	}
	b := &bench{options: o, dir: dir, limit: limit, all: map[string]map[string][]figure{}}
	if b.keys, err = newKeys(dir); err != nil {
		return err
	}
	end, err := b.startOrigin(ctx)
	if err != nil {
		return err
	}
	defer end()
	b.peers = b.installed(ctx)
	if err := b.measure(ctx); err != nil {
		return err
	}
	b.print(os.Stdout)
	return nil
}

// say tells progress, apart from the table.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// bench is one run.
type bench struct {
	options
	dir    string
	limit  uint64 // descriptors of a process
	keys   *keys
	origin origin
	peers  []peer
	all    map[string]map[string][]figure // by mode and peer, one for each round
}

// errNotServing is that a proxy does not work at all.
var errNotServing = errors.New("it does not serve")

// measure fills b.all. A peer that does not work is told of, and the others go on.
func (b *bench) measure(ctx context.Context) error {
	broken := map[string]bool{}
	for round := range b.rounds {
		for _, mode := range b.modes {
			for _, p := range b.peers {
				if p.start == nil && mode == idleMode || p.http2 && mode != connectMode || broken[p.name] {
					continue // without a proxy there is no process to measure
				}
				f, err := b.measureOne(ctx, p, mode)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					say("round %d, %s, %s: not measured: %v", round+1, mode, p.name, err)
					broken[p.name] = errors.Is(err, errNotServing)
					continue
				}
				if b.all[mode] == nil {
					b.all[mode] = map[string][]figure{}
				}
				b.all[mode][p.name] = append(b.all[mode][p.name], f)
				say("round %d, %s, %s: %s", round+1, mode, p.name, f.in(mode))
			}
		}
	}
	return nil
}

// measureOne starts a peer, measures one figure and stops it.
func (b *bench) measureOne(ctx context.Context, p peer, mode string) (figure, error) {
	w := &way{host: "127.0.0.1", origin: b.origin, inside: b.keys.origin()}
	var proxy *process
	if p.start != nil {
		at, err := freeAddr()
		if err != nil {
			return figure{}, err
		}
		w.proxy = at
		if !p.literal {
			w.host = originName
		}
		if p.mtls {
			w.outside = b.keys.proxy()
		}
		if proxy, err = p.start(ctx, at.String()); err != nil {
			return figure{}, err
		}
		defer proxy.stop()
		if err := proxy.waitFor(w.echo); err != nil {
			return figure{}, fmt.Errorf("%w: %w", errNotServing, err)
		}
		if err := w.refused(); err != nil {
			return figure{}, fmt.Errorf("%w: %w", errNotServing, err)
		}
	}
	if p.http2 {
		w.http2, w.outside = true, w.outside.Clone()
		w.outside.NextProtos = []string{"h2"}
	}
	f, err := b.load(ctx, w, proxy, mode)
	if proxy == nil {
		return f, err
	}
	if err != nil {
		return f, proxy.explain(err)
	}
	proxy.stop()
	if mode == connectMode || mode == tlsMode || mode == httpMode {
		err = proxy.logged(int(f.done))
	}
	return f, err
}

const (
	clients   = 16
	downloads = 4
	warmUp    = 300 * time.Millisecond
)

func (b *bench) load(ctx context.Context, w *way, proxy *process, mode string) (figure, error) {
	switch mode {
	case idleMode:
		return measureIdle(ctx, w, proxy, b.idle)
	case bulkMode:
		if _, err := bulk(ctx, w, downloads, min(b.bulk, 1<<20), 0); err != nil {
			return figure{}, err
		}
		before := proxy.cpu()
		l, err := bulk(ctx, w, downloads, b.bulk, b.window)
		return l.figure(proxy.cpu() - before), err
	}
	do := map[string]func(*way) operation{connectMode: connecting, tlsMode: handshaking, httpMode: requesting}[mode]
	if w.http2 {
		do = multiplexing
	}
	if _, err := loop(ctx, clients, min(warmUp, b.window), func() operation { return do(w) }); err != nil {
		return figure{}, err
	}
	before := proxy.cpu()
	l, err := loop(ctx, clients, b.window, func() operation { return do(w) })
	return l.figure(proxy.cpu() - before), err
}
