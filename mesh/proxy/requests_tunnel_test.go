package proxy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

// through is a client in workload a.
func (pf *platform) through(t *testing.T, version int) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(version == 1)
	protocols.SetUnencryptedHTTP2(version == 2)
	tr := &http.Transport{Protocols: &protocols, DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return pf.sockets["a"].dial(pf.at("b", 8080))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestRequestsThroughTunnels: the same through both proxies and mutual TLS.
func TestRequestsThroughTunnels(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		text := strings.Replace(basic, "GET /ok", "GET /ok, GET /ticks, GET /more, PUT /weights", 1)
		pf := newPlatform(t, text)
		ended := make(chan string, 10)
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/weights":
				http.NewResponseController(w).EnableFullDuplex()
				h := sha256.New()
				io.Copy(io.MultiWriter(h, w), r.Body)
				w.Header().Set(http.TrailerPrefix+"Digest", fmt.Sprintf("%x", h.Sum(nil)))
			case "/ticks", "/more":
				ticks(ended)(w, r)
			default:
				io.WriteString(w, r.Header.Get(sourceHeader))
			}
		})
		s := pf.sockets["b"]
		s.mu.Lock()
		s.servers[8080] = server.addr()
		s.mu.Unlock()
		c := pf.through(t, version)

		for range 3 {
			if res, body := fetch(t, c, request(t, "GET", "http://b/ok", nil)); res.StatusCode != 200 || body != "spiffe://acme.test/zone/one/workload/a" {
				t.Errorf("%d %q", res.StatusCode, body)
			}
			if res, body := fetch(t, c, request(t, "PUT", "http://b/secret", strings.NewReader("x"))); res.StatusCode != 403 || !strings.Contains(body, `"generation":1`) {
				t.Errorf("%d %q", res.StatusCode, body)
			}
		}
		const size = 8 << 20
		res, err := c.Do(request(t, "PUT", "http://b/weights", io.LimitReader(&pattern{}, size)))
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if n, err := io.Copy(h, res.Body); err != nil || n != size || res.Trailer.Get("Digest") != fmt.Sprintf("%x", h.Sum(nil)) {
			t.Errorf("%d bytes, %v, %v", n, err, res.Trailer)
		}
		res.Body.Close()

		var read [2]atomic.Int64
		var results [2]chan error
		for n, path := range []string{"/ticks", "/more"} {
			res, err := c.Get("http://b" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			results[n] = make(chan error, 1)
			go func() { results[n] <- counting(res.Body, &read[n]) }()
		}
		for read[0].Load() < 5 || read[1].Load() < 5 {
			time.Sleep(time.Millisecond)
		}
		pf.enforce(strings.Replace(text, "GET /ticks, ", "", 1))
		if err := <-results[0]; err == nil || err == io.EOF {
			t.Errorf("the denied answer looks complete: %v", err)
		}
		if path := <-ended; path != "/ticks" {
			t.Errorf("%s ended", path)
		}
		for before := read[1].Load(); read[1].Load() < before+20; time.Sleep(time.Millisecond) {
			select {
			case err := <-results[1]:
				t.Fatal(err)
			default:
			}
		}
		pf.sink.wait(t, "revocation", func(r flow.Record) bool {
			return r.Event == flow.Request && r.Verdict == "deny" && r.Generation == 2 && r.From.Workload == "a" && r.To.Service == "api"
		})
	})
}
