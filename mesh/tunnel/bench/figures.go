//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// figures are what is measured of one pair. Zero is not measured.
type figures struct {
	busyCPU, busyRate float64 // 16 connections, closed loop
	openCPU, openP50  float64 // 1,000 requests a second, open loop
	oneP50, oneP99    float64 // one connection, closed loop
	connRate, connCPU float64 // a new connection for each request, 8 at a time
	bulkRate, bulkCPU float64 // one stream
	idle              float64 // KiB
}

func (f figures) String() string {
	return fmt.Sprintf("%.1f us/req at %.0f/s, %.1f us/req at 1000/s (p50 %.0f us), 1 conn p50 %.0f p99 %.0f us, %.0f conn/s of %.0f us, %.0f MiB/s of %.2f CPU-s/GiB, %.1f KiB",
		f.busyCPU, f.busyRate, f.openCPU, f.openP50, f.oneP50, f.oneP99, f.connRate, f.connCPU, f.bulkRate, f.bulkCPU, f.idle)
}

// better takes the better of each figure: rates are better high, all else low.
func (f figures) better(g figures) figures {
	low := func(a, b float64) float64 {
		if a == 0 {
			return b
		}
		return min(a, b)
	}
	return figures{
		low(f.busyCPU, g.busyCPU), max(f.busyRate, g.busyRate),
		low(f.openCPU, g.openCPU), low(f.openP50, g.openP50),
		low(f.oneP50, g.oneP50), low(f.oneP99, g.oneP99),
		max(f.connRate, g.connRate), low(f.connCPU, g.connCPU),
		max(f.bulkRate, g.bulkRate), low(f.bulkCPU, g.bulkCPU),
		low(f.idle, g.idle),
	}
}

// measurePair starts a pair, measures it and stops it.
func measurePair(ctx context.Context, p pair, o options) (figures, error) {
	var f figures
	stop, pids, err := p.start(ctx)
	if err != nil {
		return f, err
	}
	defer stop()
	if err := waitFor(p.addr); err != nil {
		return f, err
	}
	if f.idle, err = idle(p.addr, pids, o.idle); err != nil {
		return f, err
	}
	// each runs a load and divides what the pair's processes used by what was done
	each := func(l func() (load, error)) (load, float64, error) {
		before := cpu(pids)
		r, err := l()
		used := cpu(pids) - before
		return r, float64(used.Microseconds()) / float64(max(r.done, 1)), err
	}
	warm := func() { closedLoop(p.addr, 16, 300*time.Millisecond) }
	warm()
	r, c, err := each(func() (load, error) { return closedLoop(p.addr, 16, o.window) })
	if err != nil {
		return f, err
	}
	f.busyCPU, f.busyRate = c, r.rate()
	if r, c, err = each(func() (load, error) { return openLoop(p.addr, 16, 1000, o.window) }); err != nil {
		return f, err
	}
	f.openCPU, f.openP50 = c, r.quantile(.5)
	if r, _, err = each(func() (load, error) { return closedLoop(p.addr, 1, o.window) }); err != nil {
		return f, err
	}
	f.oneP50, f.oneP99 = r.quantile(.5), r.quantile(.99)
	if r, c, err = each(func() (load, error) { return connections(p.addr, 8, o.window) }); err != nil {
		return f, err
	}
	f.connRate, f.connCPU = r.rate(), c
	if r, c, err = each(func() (load, error) { return bulk(p.addr, o.bulk) }); err != nil {
		return f, err
	}
	f.bulkRate, f.bulkCPU = r.rate()/(1<<20), c*(1<<30)/1e6
	return f, nil
}
