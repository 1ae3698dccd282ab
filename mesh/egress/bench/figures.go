//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// figure is what was measured of a peer in a mode. Zero is not measured.
type figure struct {
	rate          float64 // operations or bytes a second
	p50, p99      float64 // ms
	cpu           float64 // µs for an operation or a byte
	before, after float64 // KiB
	tunnels       float64
	done          float64 // operations or bytes
}

const (
	mib = 1 << 20
	gib = 1 << 30
)

// perGiB is CPU in ms for a GiB.
func (f figure) perGiB() float64 { return f.cpu / 1e3 * gib }

// each is KiB for a tunnel.
func (f figure) each() float64 { return (f.after - f.before) / max(f.tunnels, 1) }

func (f figure) in(mode string) string {
	switch mode {
	case bulkMode:
		return fmt.Sprintf("%.0f MiB/s, %.0f ms CPU/GiB", f.rate/mib, f.perGiB())
	case idleMode:
		return fmt.Sprintf("%.1f MiB, %.1f MiB with %.0f tunnels, %.1f KiB each", f.before/1024, f.after/1024, f.tunnels, f.each())
	}
	return fmt.Sprintf("%.0f/s, p50 %.2f ms, p99 %.2f ms, %.0f us CPU", f.rate, f.p50, f.p99, f.cpu)
}

// median takes the median of each part.
func median(fs []figure) figure {
	of := func(part func(figure) float64) float64 {
		all := make([]float64, len(fs))
		for i, f := range fs {
			all[i] = part(f)
		}
		slices.Sort(all)
		if n := len(all); n%2 == 0 {
			return (all[n/2-1] + all[n/2]) / 2
		}
		return all[len(all)/2]
	}
	return figure{
		rate: of(func(f figure) float64 { return f.rate }),
		p50:  of(func(f figure) float64 { return f.p50 }), p99: of(func(f figure) float64 { return f.p99 }),
		cpu:    of(func(f figure) float64 { return f.cpu }),
		before: of(func(f figure) float64 { return f.before }), after: of(func(f figure) float64 { return f.after }),
		tunnels: of(func(f figure) float64 { return f.tunnels }),
	}
}

// get returns the median of a peer in a mode.
func (b *bench) get(name, mode string) (figure, bool) {
	fs := b.all[mode][name]
	if len(fs) == 0 {
		return figure{}, false
	}
	return median(fs), true
}

// column is one of the table.
type column struct {
	mode, title string
	text        func(f, direct figure) string
	// ofDirect says that it means something without a proxy.
	ofDirect bool
}

var columns = []column{
	{connectMode, "CONNECT/s", share, true},
	{connectMode, "p50 / p99 ms", func(f, _ figure) string { return fmt.Sprintf("%.1f / %.1f", f.p50, f.p99) }, true},
	{connectMode, "CPU µs", perOperation, false},
	{tlsMode, "CONNECT+TLS/s", share, true},
	{tlsMode, "CPU µs", perOperation, false},
	{httpMode, "HTTP req/s", share, true},
	{httpMode, "p99 ms", func(f, _ figure) string { return fmt.Sprintf("%.1f", f.p99) }, true},
	{httpMode, "CPU µs", perOperation, false},
	{bulkMode, "bulk MiB/s", func(f, d figure) string {
		f.rate, d.rate = f.rate/mib, d.rate/mib
		return share(f, d)
	}, true},
	{bulkMode, "CPU ms/GiB", func(f, _ figure) string { return thousands(f.perGiB()) }, false},
	{idleMode, "RSS MiB", func(f, _ figure) string {
		return fmt.Sprintf("%.0f → %.0f", f.before/1024, f.after/1024)
	}, false},
	{idleMode, "KiB/tunnel", func(f, _ figure) string { return fmt.Sprintf("%.1f", f.each()) }, false},
}

// share is the rate, and how much of the rate without a proxy that is.
func share(f, direct figure) string {
	if direct.rate == 0 || f == direct {
		return thousands(f.rate)
	}
	part, digits := f.rate/direct.rate, 2
	if part < 0.1 {
		digits = 3
	}
	return fmt.Sprintf("%s (%.*f)", thousands(f.rate), digits, part)
}

func perOperation(f, _ figure) string { return thousands(f.cpu) }

// thousands writes a whole number with commas.
func thousands(x float64) string {
	s := strconv.FormatInt(int64(math.Round(math.Abs(x))), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if math.Round(x) < 0 {
		return "-" + s
	}
	return s
}

// print writes the table and the requirements.
func (b *bench) print(w io.Writer) {
	rounds := fmt.Sprintf("the medians of %d rounds", b.rounds)
	if b.rounds == 1 {
		rounds = "one round"
	}
	fmt.Fprintf(w, "%s of %v, %d cores, %d idle tunnels.\n\n", rounds, b.window, runtime.NumCPU(), b.idle)
	titles := []string{"proxy"}
	var shown []column
	for _, c := range columns {
		if slices.Contains(b.modes, c.mode) {
			shown, titles = append(shown, c), append(titles, c.title)
		}
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(titles, " | "), strings.Repeat("---|", len(titles)))
	for _, p := range b.peers {
		cells := []string{p.name}
		for _, c := range shown {
			f, ok := b.get(p.name, c.mode)
			cell := "–"
			if d, _ := b.get(direct, c.mode); ok && (c.ofDirect || p.start != nil) {
				cell = c.text(f, d)
			}
			cells = append(cells, cell)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintln(w)
	for _, r := range requirements {
		for _, line := range b.verdicts(r) {
			fmt.Fprintln(w, "-", line)
		}
	}
	for _, us := range []string{ours, oursMTLS} {
		var missing []string
		for _, mode := range b.modes {
			if _, ok := b.get(us, mode); !ok {
				missing = append(missing, mode)
			}
		}
		if b.wants(us) && len(missing) > 0 {
			fmt.Fprintf(w, "- open, because it was not measured: %s: %s\n", us, strings.Join(missing, ", "))
		}
	}
}

// requirement is a figure in which the gateway is to be ahead of Squid and tinyproxy.
type requirement struct {
	mode, what string
	value      func(figure) float64
	high       bool // more is better
	digits     int
}

var requirements = []requirement{
	{connectMode, "tunnels/s", rateOf, true, 0},
	{connectMode, "CPU µs for a tunnel", cpuOf, false, 0},
	{tlsMode, "tunnels/s with TLS inside", rateOf, true, 0},
	{tlsMode, "CPU µs for a tunnel with TLS inside", cpuOf, false, 0},
	{httpMode, "requests/s", rateOf, true, 0},
	{httpMode, "CPU µs for a request", cpuOf, false, 0},
	{bulkMode, "bulk MiB/s", func(f figure) float64 { return f.rate / mib }, true, 0},
	{bulkMode, "bulk CPU ms/GiB", figure.perGiB, false, 0},
	{idleMode, "memory of an idle tunnel, KiB", figure.each, false, 1},
	{idleMode, "memory with all idle tunnels, MiB", func(f figure) float64 { return f.after / 1024 }, false, 0},
}

func rateOf(f figure) float64 { return f.rate }
func cpuOf(f figure) float64  { return f.cpu }

// bulkShare is how much of a direct connection's bulk the gateway is to reach.
const bulkShare = 0.5

// verdicts are the lines for a requirement, one for each of our ways of knowing
// the client. A peer that was not measured leaves it open; it is not won.
func (b *bench) verdicts(r requirement) []string {
	var out []string
	for _, us := range []string{ours, oursMTLS} {
		f, ok := b.get(us, r.mode)
		if !ok {
			continue
		}
		line := fmt.Sprintf("%s, %s %s:", r.what, us, r.text(f))
		against := []string{squid, tinyproxy}
		if us == oursMTLS {
			against = append(against, squidMTLS)
		}
		for _, peer := range against {
			g, ok := b.get(peer, r.mode)
			word := "not measured"
			if ok {
				word = fmt.Sprintf("%s (%s)", yes(r.ahead(f, g)), r.text(g))
			}
			line += fmt.Sprintf(" ahead of %s %s;", peer, word)
		}
		if d, ok := b.get(direct, r.mode); ok && r.mode == bulkMode && r.high {
			part := f.rate / max(d.rate, 1e-9)
			line += fmt.Sprintf(" at least %.0f %% of direct %s (%.0f %%);", 100*bulkShare, yes(part >= bulkShare), math.Floor(100*part))
		}
		out = append(out, strings.TrimSuffix(line, ";"))
	}
	return out
}

func (r requirement) text(f figure) string {
	if r.digits > 0 {
		return strconv.FormatFloat(r.value(f), 'f', r.digits, 64)
	}
	return thousands(r.value(f))
}

func (r requirement) ahead(f, g figure) bool {
	if r.high {
		return r.value(f) > r.value(g)
	}
	return r.value(f) < r.value(g)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
