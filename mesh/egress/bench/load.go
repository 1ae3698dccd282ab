//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"
)

// load is what clients did.
type load struct {
	done      int64 // operations or bytes
	failed    int64
	stuck     bool // a client gave up
	took      time.Duration
	latencies []time.Duration
}

// quantile is in milliseconds.
func (l load) quantile(q float64) float64 {
	if len(l.latencies) == 0 {
		return 0
	}
	return float64(l.latencies[int(q*float64(len(l.latencies)-1))].Nanoseconds()) / 1e6
}

func (l load) figure(cpu time.Duration) figure {
	slices.Sort(l.latencies)
	return figure{
		rate: float64(l.done) / max(l.took.Seconds(), 1e-9), p50: l.quantile(.5), p99: l.quantile(.99),
		cpu: float64(cpu.Nanoseconds()) / 1e3 / float64(max(l.done, 1)), done: float64(l.done),
	}
}

// operation is what a client does again and again. One that fails is done anew
// with all that belongs to it.
type operation struct {
	do  func() error
	end func() // gives back what it keeps; may be nil
}

// connecting does mode connect.
func connecting(w *way) operation {
	request := w.connectRequest(w.origin.echo)
	return operation{do: func() error {
		l, err := w.dial(w.origin.echo)
		if err != nil {
			return err
		}
		defer l.reset()
		if w.proxy != nil {
			if err := l.connect(request); err != nil {
				return err
			}
		}
		return l.ping()
	}}
}

// handshaking does mode tls.
func handshaking(w *way) operation {
	request := []byte("GET / HTTP/1.1\r\nHost: " + originName + "\r\n\r\n")
	buf := make([]byte, maxHead)
	return operation{do: func() error {
		l, err := w.tunnel(w.origin.tls)
		if err != nil {
			return err
		}
		defer l.reset()
		over := tls.Client(l.Conn, w.inside)
		if err := over.Handshake(); err != nil {
			return err
		}
		_, err = (&line{over, l.tcp}).get(request, buf)
		return err
	}}
}

// requesting does mode http. The connection is kept as long as the proxy keeps it.
func requesting(w *way) operation {
	form := "/"
	if w.proxy != nil {
		form = fmt.Sprintf("http://%s:%d/", w.host, w.origin.http)
	}
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s:%d\r\n\r\n", form, w.host, w.origin.http)
	buf := make([]byte, maxHead)
	var l *line
	keeps := true
	drop := func() {
		if l != nil {
			l.reset()
			l = nil
		}
	}
	do := func() error {
		if l == nil {
			var err error
			if l, err = w.dial(w.origin.http); err != nil {
				return err
			}
			_ = l.tcp.SetDeadline(time.Now().Add(10 * time.Minute))
		}
		again, err := l.get(request, buf)
		if err != nil || !again || !keeps {
			drop()
		}
		return err
	}
	return operation{end: drop, do: func() error {
		used := l != nil
		err := do()
		if used && (errors.Is(err, errClosed) || errors.Is(err, syscall.ECONNRESET)) {
			// tinyproxy ends a connection after a response and does not say so.
			keeps = false
			err = do()
		}
		return err
	}}
}

// Of a hundred operations one may fail, and no ten of a client in a row: then it
// is not the load that was meant.
const (
	failuresAllowed = 0.01
	failuresInARow  = 10
)

// loop runs n clients for d. A client starts its next operation when the last one
// has ended.
func loop(ctx context.Context, n int, d time.Duration, client func() operation) (load, error) {
	end := time.Now().Add(d)
	l, err := parallel(n, func() (load, error) {
		var l load
		op := client()
		if op.end != nil {
			defer op.end()
		}
		l.latencies = make([]time.Duration, 0, 1<<14)
		row := 0
		var last error
		for start := time.Now(); start.Before(end) && ctx.Err() == nil; {
			err := op.do()
			now := time.Now()
			if err == nil {
				l.done++
				l.latencies = append(l.latencies, now.Sub(start))
				row = 0
			} else {
				l.failed++
				last = err
				if row++; row == failuresInARow {
					l.stuck = true
					return l, err
				}
			}
			start = now
		}
		return l, last
	})
	switch {
	case ctx.Err() != nil:
		return l, ctx.Err()
	case err != nil && (l.stuck || l.done == 0 || float64(l.failed) > failuresAllowed*float64(l.done)):
		return l, fmt.Errorf("%d of %d operations do not work: %w", l.failed, l.failed+l.done, err)
	case l.failed > 0:
		say("%d of %d operations do not work: %v", l.failed, l.failed+l.done, err)
	}
	return l, nil
}

// parallel runs n clients and merges what they did. The error is of any of them.
func parallel(n int, client func() (load, error)) (load, error) {
	var (
		mu   sync.Mutex
		all  load
		some error
		wg   sync.WaitGroup
	)
	start := time.Now()
	for range n {
		wg.Go(func() {
			l, err := client()
			mu.Lock()
			defer mu.Unlock()
			all.done += l.done
			all.failed += l.failed
			all.stuck = all.stuck || l.stuck
			all.latencies = append(all.latencies, l.latencies...)
			if some == nil {
				some = err
			}
		})
	}
	wg.Wait()
	all.took = time.Since(start)
	return all, some
}

// bulk downloads size bytes n times at once, and does so again until d has passed.
func bulk(ctx context.Context, w *way, n int, size int64, d time.Duration) (load, error) {
	var all load
	for all.took < d || all.done == 0 {
		l, err := download(ctx, w, n, size)
		if err != nil {
			return load{}, err
		}
		all.done += l.done
		all.took += l.took
	}
	return all, nil
}

func download(ctx context.Context, w *way, n int, size int64) (load, error) {
	return parallel(n, func() (load, error) {
		l, err := w.tunnel(w.origin.bulk)
		if err != nil {
			return load{}, err
		}
		defer l.reset()
		_ = l.tcp.SetDeadline(time.Now().Add(5 * time.Minute))
		defer context.AfterFunc(ctx, func() { _ = l.tcp.SetDeadline(time.Now()) })()
		if _, err := fmt.Fprintf(l, "%0*d", countSize, size); err != nil {
			return load{}, err
		}
		b := make([]byte, 256<<10)
		var got int64
		for {
			m, err := l.Read(b)
			got += int64(m)
			switch {
			case got > size || err != nil && err != io.EOF:
				return load{}, errors.Join(fmt.Errorf("after %d of %d bytes", got, size), err)
			case got == size:
				return load{done: got}, nil
			case err != nil:
				return load{}, fmt.Errorf("the download ended after %d of %d bytes", got, size)
			}
		}
	})
}

// settle is how long a proxy is left alone before its memory is read.
const settle = 2 * time.Second

// measureIdle opens n tunnels, sends a byte through each, and leaves them.
func measureIdle(ctx context.Context, w *way, proxy *process, n int) (figure, error) {
	if proxy == nil {
		return figure{}, errors.New("there is no proxy")
	}
	for range clients {
		if err := w.echo(); err != nil {
			return figure{}, err
		}
	}
	time.Sleep(settle / 2)
	f := figure{before: proxy.memory(), tunnels: float64(n)}
	tickets := make(chan struct{}, n)
	for range n {
		tickets <- struct{}{}
	}
	close(tickets)
	open := make(chan *line, n)
	defer func() {
		close(open)
		for l := range open {
			l.reset()
		}
	}()
	_, err := parallel(clients, func() (load, error) {
		for range tickets {
			if ctx.Err() != nil {
				return load{}, ctx.Err()
			}
			l, err := w.tunnel(w.origin.echo)
			if err != nil {
				return load{}, fmt.Errorf("with %d tunnels open: %w", len(open), err)
			}
			open <- l
			if err := l.ping(); err != nil {
				return load{}, fmt.Errorf("with %d tunnels open: %w", len(open), err)
			}
		}
		return load{}, nil
	})
	if err != nil {
		return figure{}, err
	}
	select {
	case <-ctx.Done():
		return figure{}, ctx.Err()
	case <-time.After(settle):
	}
	f.after = proxy.memory()
	return f, nil
}
