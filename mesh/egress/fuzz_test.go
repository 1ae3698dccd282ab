package egress

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
)

// FuzzRequestHead holds the parser against that of net/http: what is accepted here
// is accepted there too, and means the same.
func FuzzRequestHead(f *testing.F) {
	for _, a := range battery() {
		f.Add(a.headText())
	}
	f.Fuzz(func(t *testing.T, text string) {
		i := strings.Index(text, "\r\n\r\n")
		if i < 0 {
			return
		}
		text = text[:i+4] // as the reader cuts it
		p := &proxied{s: &session{}}
		if err := parseRequest(text, &p.h); err != nil {
			var m *badMessage
			if !errors.As(err, &m) || m.status < 400 {
				t.Fatalf("an error without a status: %v", err)
			}
			return
		}
		h := &p.h
		if h.method == http.MethodConnect {
			return // where it leads is read by outside.ParseAuthority
		}
		to, path, why := p.where()
		if why != "" {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", text, err)
		}
		if req.Method != h.method || req.ProtoMinor != h.minor {
			t.Errorf("%s %d, net/http %s %d", h.method, h.minor, req.Method, req.ProtoMinor)
		}
		if name := strings.TrimSuffix(strings.ToLower(req.URL.Hostname()), "."); to.Host != "" && name != to.Host || to.Host == "" && name != to.Addr.String() && netip.MustParseAddr(name) != to.Addr {
			t.Errorf("it leads to %v, net/http to %q", to, req.URL.Host)
		}
		if port := req.URL.Port(); port == "" && to.Port != 80 || port != "" && port != portText(to.Port) {
			t.Errorf("port %d, net/http %q", to.Port, port)
		}
		if req.RequestURI != h.target || !strings.HasPrefix(path, "/") || !strings.HasSuffix(h.target, strings.TrimPrefix(path, "/")) {
			t.Errorf("path %q of %q", path, h.target)
		}
		if got := len(req.TransferEncoding) > 0; got != h.chunked {
			t.Errorf("chunked is %v, net/http %v", h.chunked, got)
		}
		if length := max(h.length, 0); !h.chunked && req.ContentLength != length {
			t.Errorf("length %d, net/http %d", h.length, req.ContentLength)
		}
		written(t, p, to.Host, path)
	})
}

func portText(n uint16) string {
	return strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), n).String(), "0.0.0.0:")
}

// written holds the request that is written anew against net/http: it has one
// reading, to the same place, and nothing of it is a second request.
func written(t *testing.T, p *proxied, host, path string) {
	to, _, _ := p.where()
	x := exchange{p: p, a: &ask{target: to}}
	b := bufio.NewReader(bytes.NewReader(x.head(path)))
	req, err := http.ReadRequest(b)
	if err != nil {
		t.Fatalf("what is written is no request: %v", err)
	}
	if b.Buffered() > 0 && !p.h.chunked && p.h.length <= 0 {
		t.Errorf("something follows the request")
	}
	if req.Method != p.h.method || req.RequestURI != path || host != "" && strings.TrimSuffix(req.Host, ":"+portText(to.Port)) != host {
		t.Errorf("written as %s %s for %s", req.Method, req.RequestURI, req.Host)
	}
	for _, name := range []string{"Proxy-Authorization", "Te", "Keep-Alive"} {
		if req.Header.Get(name) != "" {
			t.Errorf("%s is passed on", name)
		}
	}
	if len(req.TransferEncoding) > 0 != p.h.chunked || !p.h.chunked && req.ContentLength != max(p.h.length, 0) {
		t.Errorf("the framing changes")
	}
}

// FuzzAnswerHead is the same for answers.
func FuzzAnswerHead(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.0 404 \r\n\r\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n",
		"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		i := strings.Index(text, "\r\n\r\n")
		if i < 0 {
			return
		}
		text = text[:i+4]
		var h head
		if parseAnswer(text, &h) != nil {
			return
		}
		a, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", text, err)
		}
		if a.StatusCode != h.status || a.ProtoMinor != h.minor {
			t.Errorf("%d %d, net/http %d %d", h.status, h.minor, a.StatusCode, a.ProtoMinor)
		}
		if h.status/100 == 1 || h.status == 204 || h.status == 304 {
			return // without a body, whatever is said
		}
		if chunked := len(a.TransferEncoding) > 0; chunked != h.chunked {
			t.Errorf("chunked is %v, net/http %v", h.chunked, chunked)
		}
		if !h.chunked && a.ContentLength != h.length {
			t.Errorf("length %d, net/http %d", h.length, a.ContentLength)
		}
		if a.Close && !h.closes && h.length >= 0 {
			t.Errorf("it stays open, and net/http closes it")
		}
	})
}

// FuzzChunks holds the reader of chunks against that of net/http: the same bytes, or
// an error.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nrest", "0\r\n\r\n", "1\r\na\r\n1\r\nb\r\n0\r\n\r\n", "fffffffffffffffff\r\n", "5\nhello\n0\n\n", "05 \r\nhello\r\n000\r\n\r\n", "5 ;;;;\r\nhello\r\n000\r\n\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		r := &reader{conn: said{broken{io.EOF}, &pieces{b, max(piece%64, 1)}}}
		got, err := io.ReadAll(&chunkReader{r: r})
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		in := bufio.NewReader(bytes.NewReader(b))
		want, err := io.ReadAll(httputil.NewChunkedReader(in))
		if err != nil && !strings.Contains(err.Error(), "too much non-data") {
			t.Fatalf("net/http refuses %q: %v", b, err)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Errorf("%q, net/http %q", got, want)
		}
		// What follows the trailer stays.
		if !bytes.HasSuffix(b, rest) || !bytes.HasSuffix(b[:len(b)-len(rest)], []byte("\r\n")) {
			t.Errorf("%q: %q is left", b, rest)
		}
	})
}

// pieces reads a few bytes at a time.
type pieces struct {
	b    []byte
	size int
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(to[:min(len(to), p.size)], p.b)
	p.b = p.b[n:]
	return n, nil
}

// quiet is a sink that keeps nothing and counts what has no verdict.
type quiet struct{ odd atomic.Int32 }

func (q *quiet) Record(r flow.Record) {
	if r.Verdict == "deny" && r.Why == "" || r.Verdict == "" {
		q.odd.Add(1)
	}
}

// FuzzGateway gives arbitrary bytes to a gateway: nothing but what is permitted is
// dialled, whatever answers, and it ends.
func FuzzGateway(f *testing.F) {
	for _, a := range battery() {
		f.Add([]byte(a.headText()), []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), false)
	}
	f.Add([]byte("CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\n\r\n"+greeting(serverNames("api.allowed.test"))), []byte("hello"), false)
	f.Add([]byte(greeting(serverNames("api.allowed.test"))), []byte("hello"), true)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), true)
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), []byte(""), false)
	in := intent(f, allowed)
	reg := registry.New()
	reg.Enforce(&registry.Force{Number: 1, Digest: "1", Intent: in, Since: time.Now()})
	table := dns.Static{"api.allowed.test": at(apiAddr), "evil.test": at(evilAddr), "meta.allowed.test": at("169.254.169.254"), "mixed.allowed.test": at("10.0.0.1", apiAddr)}
	f.Fuzz(func(t *testing.T, says, replies []byte, captured bool) {
		if len(says) > 1<<16 || len(replies) > 1<<16 {
			return
		}
		var mu sync.Mutex
		var wrong []netip.AddrPort
		sink := &quiet{}
		recall := dns.NewRecall(table, time.Now)
		_, _ = recall.Lookup(t.Context(), "api.allowed.test")
		g := New(Options{Node: "n", Registry: reg, Resolver: recall, Sink: sink, HelloTime: time.Second, HeadTime: time.Second, IdleTime: time.Second,
			Dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				if to.Addr().String() != apiAddr || to.Port() != 80 && to.Port() != 443 {
					wrong = append(wrong, to)
				}
				ours, theirs := net.Pipe()
				go func() {
					go func() { _, _ = io.Copy(io.Discard, theirs) }()
					_, _ = theirs.Write(replies)
					time.Sleep(time.Millisecond)
					theirs.Close()
				}()
				return ours, nil
			}})
		ours, theirs := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, _ = theirs.Write(says)
			time.Sleep(time.Millisecond)
			theirs.Close()
		}()
		c := Client{Party: policy.Party{Kind: policy.WorkloadParty, Name: "client"}}
		over := make(chan struct{})
		go func() {
			defer close(over)
			if captured {
				g.ServeCaptured(context.Background(), ours, c, netip.MustParseAddrPort(apiAddr+":80"))
				return
			}
			g.ServeProxy(context.Background(), ours, c)
		}()
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			t.Errorf("dialled %v", wrong)
		}
		if sink.odd.Load() > 0 {
			t.Error("a record says not why")
		}
		if s := g.Stats(); s.Open != 0 {
			t.Errorf("%d stay open", s.Open)
		}
	})
}
