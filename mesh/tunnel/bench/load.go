//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// A request is the number of bytes that it wants, in text, and a line end. It is
// padded to the size of a small request of HTTP.
const (
	requestSize = 100
	answerSize  = 128
)

func request(n int64) []byte {
	return fmt.Appendf(nil, "%-*d\n", requestSize-1, n)
}

// backend answers requests.
func backend(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go answer(c)
	}
}

func answer(c net.Conn) {
	defer c.Close()
	zeros := make([]byte, 256<<10)
	in := bufio.NewReaderSize(c, requestSize)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		var n int64
		fmt.Sscan(string(line), &n)
		for n > 0 {
			m, err := c.Write(zeros[:min(n, int64(len(zeros)))])
			if err != nil {
				return
			}
			n -= int64(m)
		}
	}
}

// load is what a client did.
type load struct {
	done      int64 // requests, connections or bytes
	took      time.Duration
	latencies []time.Duration
}

func (l load) rate() float64 { return float64(l.done) / l.took.Seconds() }

// quantile is in microseconds.
func (l load) quantile(q float64) float64 {
	if len(l.latencies) == 0 {
		return 0
	}
	slices.Sort(l.latencies)
	return float64(l.latencies[int(q*float64(len(l.latencies)-1))].Nanoseconds()) / 1000
}

// client does requests on one connection.
type client struct {
	net.Conn
	request, answer []byte
}

func dial(addr string) (*client, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &client{c, request(answerSize), make([]byte, answerSize)}, nil
}

func (c *client) do() (time.Duration, error) {
	start := time.Now()
	if _, err := c.Write(c.request); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, c.answer)
	return time.Since(start), err
}

// parallel runs n workers and merges what they did.
func parallel(n int, work func(i int) (load, error)) (load, error) {
	var (
		mu    sync.Mutex
		all   load
		first error
		wg    sync.WaitGroup
	)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			l, err := work(i)
			mu.Lock()
			defer mu.Unlock()
			all.done += l.done
			all.latencies = append(all.latencies, l.latencies...)
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	all.took = time.Since(start)
	return all, first
}

// closedLoop sends the next request of a connection when its last was answered.
func closedLoop(addr string, n int, d time.Duration) (load, error) {
	return parallel(n, func(int) (load, error) {
		var l load
		c, err := dial(addr)
		if err != nil {
			return l, err
		}
		defer c.Close()
		for end := time.Now().Add(d); time.Now().Before(end); l.done++ {
			took, err := c.do()
			if err != nil {
				return l, err
			}
			l.latencies = append(l.latencies, took)
		}
		return l, nil
	})
}

// openLoop sends rate requests a second over n connections, in turn.
func openLoop(addr string, n, rate int, d time.Duration) (load, error) {
	return parallel(n, func(i int) (load, error) {
		var l load
		c, err := dial(addr)
		if err != nil {
			return l, err
		}
		defer c.Close()
		step := time.Second / time.Duration(rate)
		start := time.Now()
		for next := time.Duration(i) * step; next < d; next += time.Duration(n) * step {
			time.Sleep(next - time.Since(start))
			took, err := c.do()
			if err != nil {
				return l, err
			}
			l.done++
			l.latencies = append(l.latencies, took)
		}
		return l, nil
	})
}

// connections makes a connection for each request.
func connections(addr string, n int, d time.Duration) (load, error) {
	return parallel(n, func(int) (load, error) {
		var l load
		for end := time.Now().Add(d); time.Now().Before(end); l.done++ {
			c, err := dial(addr)
			if err != nil {
				return l, err
			}
			_, err = c.do()
			c.Close()
			if err != nil {
				return l, err
			}
		}
		return l, nil
	})
}

// bulk reads n bytes.
func bulk(addr string, n int64) (load, error) {
	return parallel(1, func(int) (load, error) {
		c, err := dial(addr)
		if err != nil {
			return load{}, err
		}
		defer c.Close()
		if _, err := c.Write(request(n)); err != nil {
			return load{}, err
		}
		b := make([]byte, 256<<10)
		var done int64
		for done < n {
			m, err := c.Read(b)
			if err != nil {
				return load{}, err
			}
			done += int64(m)
		}
		return load{done: done}, nil
	})
}

// idle opens n connections, does one request on each, and returns by how many
// KiB a connection the pair grew.
func idle(addr string, pids []int, n int) (float64, error) {
	if _, err := closedLoop(addr, 4, 200*time.Millisecond); err != nil {
		return 0, err
	}
	before := memory(pids)
	for range n {
		c, err := dial(addr)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		if _, err := c.do(); err != nil {
			return 0, err
		}
	}
	time.Sleep(time.Second)
	return float64(memory(pids)-before) / 1024 / float64(n), nil
}
