package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
	"bulkhead/policyfile"
)

const proven = "spiffe://acme.test/zone/one/workload/a"

// inspection is a door to a server behind which requests are decided.
type inspection struct {
	t       testing.TB
	reg     *registry.Registry
	addr    string
	records requestRecords
	serving sync.WaitGroup
}

type requestRecords struct {
	forget atomic.Bool
	mu     sync.Mutex
	list   []flow.Record
}

func (r *requestRecords) add(rec flow.Record) {
	if r.forget.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, rec)
}

func (r *requestRecords) all() []flow.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// until waits for a record.
func (r *requestRecords) until(t testing.TB, what string, match func(flow.Record) bool) flow.Record {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		list := r.all()
		if i := slices.IndexFunc(list, match); i >= 0 {
			return list[i]
		}
	}
	t.Fatalf("no record of %s: %+v", what, r.all())
	return flow.Record{}
}

// newInspection opens a door to server through which a may make some requests.
func newInspection(t testing.TB, server string, may ...string) *inspection {
	t.Helper()
	i := &inspection{t: t, reg: registry.New()}
	i.allow(may...)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	i.serving.Add(1)
	go func() {
		defer i.serving.Done()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			i.serving.Add(1)
			go func() {
				defer i.serving.Done()
				i.serve(ctx, conn, server)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		cancel()
		i.serving.Wait()
		if n := i.reg.Len(); n != 0 {
			t.Errorf("%d requests are still registered", n)
		}
	})
	return i
}

func (i *inspection) serve(ctx context.Context, conn net.Conn, server string) {
	s := &requestServer{
		source: proven,
		open: func(r netset.Request) (*registry.Entry, registry.Verdict) {
			e := i.reg.Open(policy.Question{From: policy.Party{Name: "a"}, To: policy.Party{Name: "b"}, Port: 8080, Request: &r})
			return e, e.Decide()
		},
		dial:   func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", server) },
		record: i.records.add,
		now:    time.Now,
	}
	_ = s.serve(ctx, conn)
}

// allow puts a generation in force in which a may make these requests.
func (i *inspection) allow(may ...string) registry.Enforced {
	i.t.Helper()
	n := uint64(1)
	if f := i.reg.Force(); f != nil {
		n = f.Number + 1
	}
	return i.reg.Enforce(&registry.Force{Number: n, Intent: requestIntent(i.t, may...)})
}

func requestIntent(t testing.TB, may ...string) *policy.Intent {
	t.Helper()
	text := "version: 1\nplatform: acme\nzones: {one: {role: custom}}\nworkloads:\n  a: {zone: one}\n" +
		"  b: {zone: one, serves: {api: http/8080}}\nflows:\n  - {from: b, to: b/api, because: x, owner: y}\n"
	if len(may) > 0 {
		text += fmt.Sprintf("  - {from: a, to: b/api, may: [%s], because: x, owner: y}\n", strings.Join(may, ", "))
	}
	p, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(text)}})
	if p == nil {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(p, time.Unix(0, 0))
	if len(ds) > 0 && len(in.Permissions) == 0 {
		t.Fatal(ds)
	}
	return in
}

// client returns a client of HTTP/1 or 2 through the door.
func (i *inspection) client(version int) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(version == 1)
	protocols.SetUnencryptedHTTP2(version == 2)
	tr := &http.Transport{Protocols: &protocols, DisableCompression: true}
	i.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (i *inspection) url(path string) string { return "http://" + i.addr + path }

// webServer is a server of HTTP/1 and 2 that keeps what it saw.
type webServer struct {
	*httptest.Server
	mu    sync.Mutex
	seen  []*http.Request
	conns map[string]bool
}

func newWebServer(t testing.TB, handle http.HandlerFunc) *webServer {
	s := &webServer{conns: map[string]bool{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.conns[r.RemoteAddr] = true
		s.mu.Unlock()
		handle(w, r)
	}))
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols = &protocols
	s.Config.DisableGeneralOptionsHandler = true
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *webServer) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func (s *webServer) addr() string { return s.Listener.Addr().String() }

func bothVersions(t *testing.T, test func(t *testing.T, version int)) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("http%d", version), func(t *testing.T) { test(t, version) })
	}
}

func fetch(t testing.TB, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRequestsAreDecidedEach(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Kept", "yes")
			fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
		})
		i := newInspection(t, server.addr(), "GET /models/*", "POST /v1/chat")
		c := i.client(version)
		for _, tt := range []struct {
			method, target, body string
			want                 int
		}{
			{"GET", "/models/1?q=%2e%2e/&a=b", "", 200},
			{"GET", "/models/a%20b", "", 200},
			{"POST", "/models/1", "x", 403},
			{"GET", "/models/", "", 403},
			{"POST", "/v1/chat", `{"prompt":"x"}`, 200},
			{"PUT", "/v1/chat", strings.Repeat("x", 100_000), 403},
			{"get", "/models/1", "", 403},
			{"HEAD", "/models/1", "", 403},
			{"GET", "/models/1?", "", 200},
		} {
			r := request(t, "GET", i.url("/"), strings.NewReader(tt.body))
			r.Method = tt.method
			path, query, has := strings.Cut(tt.target, "?")
			r.URL = &url.URL{Scheme: "http", Host: i.addr, Opaque: path, RawQuery: query, ForceQuery: has}
			r.Host = "b"
			res, body := fetch(t, c, r)
			if res.StatusCode != tt.want {
				t.Fatalf("%s %s: %d %s", tt.method, tt.target, res.StatusCode, body)
			}
			if want := tt.method + " " + tt.target + " " + tt.body; res.StatusCode == 200 && (body != want || res.Header.Get("X-Kept") != "yes") {
				t.Errorf("got %q, want %q", body, want)
			}
			var said refusal
			if res.StatusCode == 403 && tt.method != "HEAD" {
				if err := json.Unmarshal([]byte(body), &said); err != nil || said.Error != "denied" || said.Generation != 1 || !strings.Contains(said.Why, "allows only") || !strings.Contains(said.Rule, "p.yaml:9") {
					t.Errorf("refusal %s: %v", body, err)
				}
			}
		}
		for _, r := range server.requests() {
			if r.Header.Get(sourceHeader) != proven {
				t.Errorf("source %q", r.Header.Get(sourceHeader))
			}
			if r.Header.Get("User-Agent") == "" || r.Host != "b" || r.ProtoMajor != version {
				t.Errorf("%v %v %v", r.Header, r.Host, r.Proto)
			}
		}
		if n := len(server.conns); version == 2 && n != 1 {
			t.Errorf("%d connections to the server", n)
		}
		allowed := i.records.until(t, "chat", func(r flow.Record) bool { return r.Method == "POST" && r.Event == flow.Request })
		if allowed.Verdict != "allow" || allowed.BytesOut != 14 || allowed.BytesIn != 28 || allowed.Status != 200 || allowed.Generation != 1 || !strings.HasPrefix(allowed.Rule, "p.yaml:9") {
			t.Errorf("%+v", allowed)
		}
		denied := i.records.until(t, "denial", func(r flow.Record) bool { return r.Method == "PUT" })
		if denied.Event != flow.Deny || denied.Verdict != "deny" || denied.Why == "" || denied.Rule == "" || denied.Status != 403 {
			t.Errorf("%+v", denied)
		}
		for _, r := range i.records.all() {
			if text := fmt.Sprintf("%+v", r); strings.Contains(text, "a%20b") || strings.Contains(text, "/models/1") {
				t.Errorf("a path in a record: %s", text)
			}
		}
	})
}

func TestHTTP1KeepsOneServerConnection(t *testing.T) {
	server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	i := newInspection(t, server.addr(), "GET /ok")
	c := i.client(1)
	for range 20 {
		if res, body := fetch(t, c, request(t, "GET", i.url("/ok"), nil)); res.StatusCode != 200 || body != "ok" {
			t.Fatal(res.StatusCode, body)
		}
		if res, _ := fetch(t, c, request(t, "GET", i.url("/no"), nil)); res.StatusCode != 403 {
			t.Fatal(res.StatusCode)
		}
	}
	if len(server.conns) != 1 {
		t.Errorf("%d connections", len(server.conns))
	}
}

// TestServerEndsIdleConnections: servers do so after seconds; a request after
// that must not be lost, one that has an effect least of all.
func TestServerEndsIdleConnections(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		i := newInspection(t, server.addr(), "POST /ok")
		c := i.client(version)
		for range 3 {
			if res, body := fetch(t, c, request(t, "POST", i.url("/ok"), strings.NewReader("body"))); res.StatusCode != 200 || body != "body" {
				t.Fatal(res.StatusCode, body)
			}
			server.CloseClientConnections()
			time.Sleep(20 * time.Millisecond)
		}
	})
}
