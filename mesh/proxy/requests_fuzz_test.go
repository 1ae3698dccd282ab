package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// FuzzRequestsNeverLeak: whatever a client writes, every request that one of two
// independent servers sees is one that the policy allows.
func FuzzRequestsNeverLeak(f *testing.F) {
	for _, in := range []string{
		"GET /ok HTTP/1.1\r\nHost: b\r\n\r\nGET /secret HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST /ok/1 HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nGE\r\n0\r\nX: y\r\n\r\nGET /secret HTTP/1.1\r\n\r\n",
		"POST /ok/1 HTTP/1.1\nHost: b\nX-HTTP-Method-Override: PUT\nContent-Length: 3\n\nGETGET /ok HTTP/1.1\nHost: b\n\n",
		"GET /ok HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /secret HTTP/1.1\r\nHost: b\r\n\r\n",
		"PUT /ok HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\nGET /secret HTTP/1.1\r\n\r\n",
		"POST /ok/1 HTTP/1.1\r\nHost: b\r\nTrailer: X-Bulkhead-Source\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Bulkhead-Source: z\r\n\r\n",
		string(http2Request([]string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok"})),
		string(http2Request([]string{":method", "POST", ":scheme", "http", ":authority", "b", ":path", "/ok/..", "x_bulkhead_source", "z"})),
	} {
		f.Add([]byte(in))
	}
	lax, laxAddr := newLaxServer(f)
	strict := newWebServer(f, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	doors := []*inspection{
		newInspection(f, laxAddr, "GET /ok", "POST /ok/*"),
		newInspection(f, strict.addr(), "GET /ok", "POST /ok/*"),
	}
	in := requestIntent(f, "GET /ok", "POST /ok/*")
	allowed := func(method, target string) bool {
		path, _, _ := strings.Cut(target, "?")
		return in.Decide(policy.Question{From: policy.Party{Name: "a"}, To: policy.Party{Name: "b"}, Port: 8080,
			Request: &netset.Request{Method: method, Host: "b", Path: path}}).Allowed
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for n, door := range doors {
			if n > 0 || !bytes.HasPrefix(text, []byte(http2.ClientPreface)) { // of which the careless server knows nothing
				door.exchange(t, text)
			}
		}
		seen, wrong := lax.take()
		for _, line := range seen {
			method, rest, _ := strings.Cut(line, " ")
			target, proto, _ := strings.Cut(rest, " ")
			if proto != "HTTP/1.1" || !allowed(method, target) {
				t.Errorf("leaked %q of %q", line, text)
			}
		}
		for _, w := range wrong {
			if !strings.HasPrefix(w, "half a line") { // the client went away
				t.Errorf("%s of %q", w, text)
			}
		}
		strict.mu.Lock()
		defer strict.mu.Unlock()
		for _, r := range strict.seen {
			if !allowed(r.Method, r.RequestURI) {
				t.Errorf("leaked %s %s of %q", r.Method, r.RequestURI, text)
			}
			for name, values := range r.Header {
				if reservedHeader(name) && !slices.Equal(values, []string{proven}) {
					t.Errorf("%s: %q of %q", name, values, text)
				}
			}
		}
		strict.seen = nil
		clear(strict.conns)
	})
}

// exchange writes to a door until it has nothing more to say.
func (i *inspection) exchange(t *testing.T, text []byte) {
	c, err := net.Dial("tcp", i.addr)
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	go c.Write(text)
	buf := make([]byte, 4096)
	for {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}
