package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

// webServer is an HTTP server of a workload.
func (pf *platform) webServer(workload string, port uint16, handle http.HandlerFunc) {
	pf.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		pf.t.Fatal(err)
	}
	s := pf.sockets[workload]
	s.mu.Lock()
	s.servers[port] = l.Addr().String()
	s.mu.Unlock()
	server := &http.Server{Handler: handle}
	go server.Serve(l)
	pf.t.Cleanup(func() { server.Close() })
}

// client is an HTTP client inside a workload: every connection goes to one place.
func (pf *platform) client(workload, to string) *http.Client {
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return pf.sockets[workload].dial(to) }}
	pf.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(c *http.Client, path string) (int, string, error) {
	res, err := c.Get("http://b" + path)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// TestRequestsAreDecided: on one connection, each request for itself.
func TestRequestsAreDecided(t *testing.T) {
	pf := newPlatform(t, basic)
	pf.webServer("b", 8080, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from %s", r.URL.Path, r.Header.Get("X-Bulkhead-Source"))
	})
	client := pf.client("a", pf.at("b", 8080))
	for range 2 {
		status, body, err := get(client, "/ok")
		if want := "/ok from spiffe://acme.test/zone/one/workload/a"; err != nil || status != 200 || body != want {
			t.Fatal(status, body, err)
		}
		if status, _, err := get(client, "/secret"); err != nil || status != 403 {
			t.Fatal(status, err)
		}
	}
	r := pf.sink.wait(t, "denied request", func(r flow.Record) bool { return r.Event == flow.Deny })
	if r.Method != "GET" || r.Status != 403 || r.From.Workload != "a" || r.To.Service != "api" || r.Generation != 1 || r.ID == "" || r.Wire != "mtls" || r.Node != "n1" {
		t.Errorf("record %+v", r)
	}
	pf.sink.wait(t, "request", func(r flow.Record) bool {
		return r.Event == flow.Request && r.Status == 200 && r.Side == flow.Destination
	})
	opens := 0
	for _, r := range pf.sink.list() {
		if strings.Contains(fmt.Sprintf("%+v", r), "secret") {
			t.Errorf("a path is recorded: %+v", r)
		}
		if r.Event == flow.Open && r.Side == flow.Source {
			opens++
		}
	}
	if opens != 1 {
		t.Errorf("%d connections were opened for four requests", opens)
	}
}

// TestRequestsUnderGenerations: a streaming answer ends when its request is no
// longer allowed, another on the same service goes on.
func TestRequestsUnderGenerations(t *testing.T) {
	both := strings.Replace(basic, "GET /ok", "GET /ok, GET /stream", 1)
	pf := newPlatform(t, both)
	pf.webServer("b", 8080, func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.Context().Err() == nil; i++ {
			fmt.Fprintf(w, "token %d\n", i)
			http.NewResponseController(w).Flush()
			time.Sleep(2 * time.Millisecond)
		}
	})
	open := func(path string) *bufio.Reader {
		res, err := pf.client("a", pf.at("b", 8080)).Get("http://b" + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return bufio.NewReader(res.Body)
	}
	stays, goes := open("/ok"), open("/stream")
	next := func(r *bufio.Reader) error {
		_, err := r.ReadString('\n')
		return err
	}
	for range 3 {
		if err := next(stays); err != nil {
			t.Fatal(err)
		}
		if err := next(goes); err != nil {
			t.Fatal(err)
		}
	}
	pf.enforce(basic)
	var err error
	for deadline := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(deadline); {
		err = next(goes)
	}
	if err == nil || err == io.EOF {
		t.Errorf("the forbidden stream: %v", err)
	}
	for range 20 {
		if err := next(stays); err != nil {
			t.Fatal("the allowed stream:", err)
		}
	}
	pf.sink.wait(t, "end of the revoked request", func(r flow.Record) bool { return r.Event == flow.Request && r.Verdict == "deny" && r.Generation == 2 })
}

// TestExposedRequests: a client that two exposures name may make the requests of
// both, and no other; what an exposure limits is never moved unread.
func TestExposedRequests(t *testing.T) {
	pf := newPlatform(t, basic+`
exposures:
  - {to: b/api, from: internet, may: [GET /public], because: x, owner: y, until: 2026-12-31}
  - {to: b/api, from: 10.0.0.0/8, may: [GET /internal], because: x, owner: y, until: 2026-12-31}
`)
	pf.webServer("b", 8080, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "source %q", r.Header.Get("X-Bulkhead-Source"))
	})
	addr := pf.publish("b", 8080)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: false}}
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{"/public": 200, "/internal": 200, "/ok": 403, "/": 403} {
		req, _ := http.NewRequest("GET", "http://"+addr+path, nil)
		req.Header.Set("X-Bulkhead-Source", "spiffe://acme.test/zone/one/workload/a")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || want == 200 && string(body) != `source ""` {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	c := dialPlain(t, addr)
	io.WriteString(c, "not http at all\r\n\r\n")
	c.CloseWrite()
	if got, _ := io.ReadAll(c); strings.Contains(string(got), "source") {
		t.Errorf("%q", got)
	}
}
