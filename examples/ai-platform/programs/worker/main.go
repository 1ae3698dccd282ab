// Command worker takes part in a training job: it waits for the trainer and adds
// up the numbers that it sends, as collective operations do, over plain TCP.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"sync"

	"bulkhead/examples/ai-platform/programs/platform"
)

func main() {
	ctx := platform.Context()
	host, port, err := net.SplitHostPort(platform.Env("LISTEN"))
	if err != nil {
		log.Fatal(err)
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host) // IPv4 and IPv6
	if err != nil {
		log.Fatal(err)
	}
	var serving sync.WaitGroup
	for _, addr := range addrs {
		listener, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			log.Fatal(err)
		}
		platform.Log("waits for the trainer on %s", listener.Addr())
		context.AfterFunc(ctx, func() { listener.Close() })
		serving.Go(func() { serve(listener) })
	}
	serving.Wait()
}

func serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		go reduce(conn)
	}
}

// reduce answers each number with the sum so far.
func reduce(conn net.Conn) {
	defer conn.Close()
	var sum uint64
	var number [8]byte
	for {
		if _, err := io.ReadFull(conn, number[:]); err != nil {
			return
		}
		sum += binary.BigEndian.Uint64(number[:])
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, sum)); err != nil {
			return
		}
	}
}
