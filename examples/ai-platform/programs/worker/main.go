// Command worker takes part in a training job: it waits for the trainer and adds
// up the numbers that it sends, as collective operations do, over plain TCP.
package main

import (
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"

	"bulkhead/examples/ai-platform/programs/platform"
)

func main() {
	ctx := platform.Context()
	listener, err := net.Listen("tcp", platform.Env("LISTEN"))
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	platform.Log("waits for the trainer on %s", listener.Addr())
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
