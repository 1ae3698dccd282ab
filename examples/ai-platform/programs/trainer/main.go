// Command trainer fetches a package and a base model from outside, reads features,
// adds numbers up with the worker, and writes a checkpoint every few seconds.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"bulkhead/examples/ai-platform/programs/platform"
)

const checkpoint = 64 << 10

func main() {
	ctx := platform.Context()
	go fetch(ctx)
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

// fetch gets what training needs from outside, and tries again every half minute.
// The mirror is asked through the proxy, as pip and curl would with HTTP_PROXY; the
// hub as if there were none.
func fetch(ctx context.Context) {
	through := &http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(platform.Env("EGRESS")) }}}
	hub, err := hubClient(platform.Env("HUB_CA"))
	if err != nil {
		platform.Log("the model hub cannot be asked: %v", err)
		return
	}
	for {
		for _, from := range []struct {
			client *http.Client
			url    string
		}{
			{through, "http://packages.acme.internal:8071/packages/features-1.0.tar.gz"},
			{hub, "https://models.acme.internal:8472/acme/base/resolve/main/model.safetensors"},
			{hub, "https://exfiltration.example.com:8472/upload"},
		} {
			n, err := download(ctx, from.client, from.url)
			if err != nil {
				platform.Log("%s: %v", from.url, err)
				continue
			}
			platform.Log("%s: %d bytes", from.url, n)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(30 * time.Second):
		}
	}
}

// hubClient believes the hub's own certificate.
func hubClient(file string) (*http.Client, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 20 * time.Second}, nil
}

func download(ctx context.Context, client *http.Client, from string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return 0, fmt.Errorf("%s %s", resp.Status, bytes.TrimSpace(answer))
	}
	return io.Copy(io.Discard, resp.Body)
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
