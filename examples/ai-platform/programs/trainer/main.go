// Command trainer reads features, adds numbers up with the worker, and writes a
// checkpoint every few seconds.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"bulkhead/examples/ai-platform/programs/platform"
)

const checkpoint = 64 << 10

func main() {
	ctx := platform.Context()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for step := uint64(1); ; step++ {
		if err := train(ctx, step); err != nil {
			platform.Log("step %d: %v", step, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func train(ctx context.Context, step uint64) error {
	features, err := request(ctx, http.MethodGet, "http://"+platform.Env("FEATURES")+fmt.Sprintf("/features/%d", step), nil)
	if err != nil {
		return err
	}
	sum, err := reduce(ctx, step)
	if err != nil {
		return err
	}
	if step%5 != 1 {
		return nil
	}
	if _, err := request(ctx, http.MethodPut, "http://"+platform.Env("MODEL_STORE")+fmt.Sprintf("/models/checkpoint-%d", step), make([]byte, checkpoint)); err != nil {
		return err
	}
	platform.Log("step %d: %d bytes of features, sum %d, checkpoint written", step, len(features), sum)
	return nil
}

func request(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := platform.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s %s", method, url, resp.Status, answer)
	}
	return answer, err
}

// reduce sends one number to the worker and returns its answer.
func reduce(ctx context.Context, number uint64) (uint64, error) {
	var dialer net.Dialer
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", platform.Env("WORKER"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, number)); err != nil {
		return 0, err
	}
	var answer [8]byte
	_, err = io.ReadFull(conn, answer[:])
	return binary.BigEndian.Uint64(answer[:]), err
}
