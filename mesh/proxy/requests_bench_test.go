package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkRequests measures requests on kept connections without and with the
// decision between, with the processor time of everything: client, server, and
// us. The difference is ours.
func BenchmarkRequests(b *testing.B) {
	answer := bytes.Repeat([]byte("x"), 128)
	for _, version := range []int{1, 2} {
		for _, method := range []string{"GET", "POST"} {
			for _, way := range []string{"direct", "decided"} {
				b.Run(map[int]string{1: "http1", 2: "http2"}[version]+"/"+method+"/"+way, func(b *testing.B) {
					server := newWebServerForBench(b, answer)
					i := newInspection(b, server, "GET /v1/models/*", "POST /v1/chat/*")
					if way == "direct" {
						i.addr = server
					}
					benchmarkRequests(b, i, version, method)
				})
			}
		}
	}
}

func newWebServerForBench(b *testing.B, answer []byte) string {
	ln := newListener(b)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(answer)
	})}
	go s.Serve(ln)
	b.Cleanup(func() { s.Close() })
	return ln.Addr().String()
}

func benchmarkRequests(b *testing.B, i *inspection, version int, method string) {
	c := i.client(version)
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	path, body := "/v1/models/1", ""
	if method == "POST" {
		path, body = "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hello"}]}`
	}
	b.ReportAllocs()
	i.records.forget.Store(true)
	before := processorTime()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, _ := http.NewRequest(method, i.url(path), strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer 0123456789")
			r.Header.Set("Content-Type", "application/json")
			res, err := c.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			if n, _ := io.Copy(io.Discard, res.Body); n != 128 || res.StatusCode != 200 {
				b.Error(res.Status)
			}
			res.Body.Close()
		}
	})
	b.ReportMetric((processorTime()-before)*1e6/float64(b.N), "cpu-us/op")
}

// processorTime is how many seconds the process has used.
func processorTime() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}
