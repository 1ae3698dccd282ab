package egress

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
)

// byAddress lets a client speak anything to one network.
const byAddress = `
egress:
  - {from: client, to: 93.184.216.0/24, ports: [443, 9000], because: x, owner: y}
`

// serve makes the servers at a port be served by f, which has no need to close.
func (r *rig) serve(port uint16, f func(conn net.Conn, in *bufio.Reader)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servers[port] = func(conn net.Conn) { f(conn, bufio.NewReader(conn)) }
}

// reply is an answer as it is written.
type reply struct{ head, body string }

// replies serves requests, each with the answer that its path stands for.
func replies(list map[string]reply) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			a := list[req.URL.Path]
			_, _ = io.WriteString(conn, a.head)
			if req.Method != http.MethodHead {
				_, _ = io.WriteString(conn, a.body)
			}
			if a.body != "" && !strings.Contains(a.head, "Content-Length") && !strings.Contains(a.head, "chunked") {
				return
			}
		}
	}
}

// proxy opens a connection to the gateway as the client of the policy.
func (r *rig) proxy() net.Conn { return dialProxy(r.t, r.listen(r.plain())) }

const api = "api.allowed.test"

// askFor sends a request to api.allowed.test.
func askFor(conn net.Conn, method, path, version, more string) error {
	_, err := fmt.Fprintf(conn, "%s http://%s%s %s\r\nHost: %s\r\n%s\r\n", method, api, path, version, api, more)
	return err
}

// TestAnswers: every framing of an answer, for every kind of client. The oracle is
// the parser of net/http.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 9000)
	texts := map[string]reply{
		"/length":  {"HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(long)) + "\r\n\r\n", long},
		"/short":   {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello"},
		"/zero":    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
		"/chunked": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(long, 5000) + "0\r\nX-Trailer: y\r\n\r\n"},
		"/close":   {"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", long},
		"/old":     {"HTTP/1.0 200 OK\r\n\r\n", long},
		"/204":     {"HTTP/1.1 204 No Content\r\n\r\n", ""},
		"/304":     {"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", ""},
		"/early":   {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "hi"},
		"/odd":     {"HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\n", "hi"},
	}
	for _, client := range []struct{ version, more string }{{"HTTP/1.1", ""}, {"HTTP/1.1", "Connection: close\r\n"}, {"HTTP/1.0", ""}, {"HTTP/1.0", "Connection: keep-alive\r\n"}} {
		for path := range texts {
			for _, method := range []string{"GET", "HEAD"} {
				name := method + path + " " + client.version + " " + strings.TrimSpace(client.more)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					r := newRig(t, allowed)
					r.serve(80, replies(texts))
					conn := r.proxy()
					in := bufio.NewReader(conn)
					if err := askFor(conn, method, path, client.version, client.more); err != nil {
						t.Fatal(err)
					}
					a, err := http.ReadResponse(in, &http.Request{Method: method})
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(a.Body)
					want := texts[path].body
					switch {
					case method == "HEAD":
						want = ""
					case path == "/chunked":
						want = long
					}
					if err != nil || string(body) != want {
						t.Fatalf("%d bytes of %d, %v", len(body), len(want), err)
					}
					if a.ProtoMinor != 1 && client.version == "HTTP/1.1" {
						t.Error("the answer is HTTP/1.0")
					}
					if client.version == "HTTP/1.0" && a.TransferEncoding != nil {
						t.Error("a client of HTTP/1.0 got chunks")
					}
					if client.more == "Connection: close\r\n" || client.version == "HTTP/1.0" && client.more == "" {
						if n, err := in.Read(make([]byte, 1)); err != io.EOF {
							t.Errorf("the connection stays open: %d, %v", n, err)
						}
					} else if !a.Close {
						// It says that it stays: it must.
						if err := askFor(conn, "GET", "/short", "HTTP/1.1", ""); err != nil {
							t.Fatal(err)
						}
						if status, body, err := answer(in, "GET"); status != 200 || body != "hello" {
							t.Fatal(status, body, err)
						}
					}
				})
			}
		}
	}
}

func chunked(text string, size int) string {
	var b strings.Builder
	for len(text) > 0 {
		n := min(size, len(text))
		fmt.Fprintf(&b, "%x;ext=\"a\"\r\n%s\r\n", n, text[:n])
		text = text[n:]
	}
	return b.String()
}

// TestBodies sends bodies in every framing and many sizes, whole and in pieces, one
// request after the other over one connection, and holds the echo against them.
func TestBodies(t *testing.T) {
	r := newRig(t, allowed)
	conn := r.proxy()
	in := bufio.NewReader(conn)
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := []int{0, 1, 2, 8000, 8192, 8193, 65536, 300000}
	for i := range 60 {
		size := sizes[i%len(sizes)] + rnd.IntN(3)
		body := make([]byte, size)
		for j := range body {
			body[j] = byte(rnd.IntN(256))
		}
		framed := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, body)
		if i/8%2 == 1 {
			framed = "Transfer-Encoding: chunked\r\n\r\n" + chunked(string(body), 1+rnd.IntN(9000)) + "0\r\n\r\n"
		}
		text := []byte("POST http://" + api + "/p HTTP/1.1\r\nHost: " + api + "\r\n" + framed)
		go func() {
			for from := io.Reader(bytes.NewReader(text)); ; {
				if i%3 == 0 {
					from = iotest.HalfReader(from)
				}
				if _, err := io.Copy(conn, struct{ io.Reader }{from}); err == nil {
					return
				}
			}
		}()
		if status, got, err := answer(in, "POST"); status != 200 || got != "origin"+string(body) {
			t.Fatalf("request %d of %d bytes: %d, %d bytes back, %v", i, size, status, len(got), err)
		}
	}
	conn.Close()
	if n := len(r.dials()); n != 1 {
		t.Errorf("the server was dialled %d times for one connection", n)
	}
	for _, rec := range r.log() {
		if rec.Event == flow.Request && (rec.BytesOut == 0 || rec.BytesIn == 0 || rec.Duration <= 0 || rec.Status != 200 || rec.Method != "POST") {
			t.Errorf("the record is %+v", rec)
		}
	}
}

// TestPipelining: requests that come at once are answered in order.
func TestPipelining(t *testing.T) {
	r := newRig(t, allowed)
	conn := r.proxy()
	var all strings.Builder
	for i := range 20 {
		fmt.Fprintf(&all, "POST http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 2\r\n\r\n%02d", i)
	}
	if _, err := io.WriteString(conn, all.String()); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for i := range 20 {
		if status, body, err := answer(in, "POST"); status != 200 || body != fmt.Sprintf("origin%02d", i) {
			t.Fatal(i, status, body, err)
		}
	}
}

// TestContinue: a body that waits for consent.
func TestContinue(t *testing.T) {
	for name, server := range map[string]func(net.Conn, *bufio.Reader){
		"consent": func(conn net.Conn, in *bufio.Reader) {
			req, _ := http.ReadRequest(in)
			_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			_, _ = in.ReadByte()
		},
		"refusal": func(conn net.Conn, in *bufio.Reader) {
			_, _ = http.ReadRequest(in)
			_, _ = io.WriteString(conn, "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
			_, _ = in.ReadByte()
		},
		"silence": func(conn net.Conn, in *bufio.Reader) {
			req, _ := http.ReadRequest(in)
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			_, _ = in.ReadByte()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, allowed)
			r.serve(80, server)
			conn := r.proxy()
			in := bufio.NewReader(conn)
			if err := askFor(conn, "PUT", "/", "HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 5\r\n"); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "consent":
				line, _ := in.ReadString('\n')
				empty, _ := in.ReadString('\n')
				if line != "HTTP/1.1 100 Continue\r\n" || empty != "\r\n" {
					t.Fatalf("%q %q", line, empty)
				}
				fallthrough
			case "silence":
				_, _ = io.WriteString(conn, "hello")
				if status, body, err := answer(in, "PUT"); status != 200 || body != "hello" {
					t.Fatal(status, body, err)
				}
			case "refusal":
				if status, body, err := answer(in, "PUT"); status != 401 || body != "no" {
					t.Fatal(status, body, err)
				}
				if _, err := in.ReadByte(); err != io.EOF {
					t.Errorf("a connection with a body that nobody read stays open: %v", err)
				}
			}
		})
	}
}

// TestEarlyAnswer: a server that answers before it has read the body is heard.
func TestEarlyAnswer(t *testing.T) {
	for range 20 {
		r := newRig(t, allowed)
		r.serve(80, func(conn net.Conn, in *bufio.Reader) {
			_, _ = http.ReadRequest(in)
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			time.Sleep(20 * time.Millisecond)
		})
		conn := r.proxy()
		if err := askFor(conn, "PUT", "/", "HTTP/1.1", "Content-Length: 150000\r\n"); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		go func() {
			for range 150 {
				if _, err := conn.Write(make([]byte, 1000)); err != nil {
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		}()
		if status, body, err := answer(in, "PUT"); status != 413 || body != "big" {
			t.Fatal(status, body, err)
		}
	}
}

// TestUpgrade: another protocol, both ways, until it ends.
func TestUpgrade(t *testing.T) {
	r := newRig(t, allowed)
	r.serve(80, func(conn net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err != nil || req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Sec-WebSocket-Key") != "k" {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: a\r\n\r\nfirst")
		_, _ = io.Copy(conn, in)
	})
	conn := r.proxy()
	if err := askFor(conn, "GET", "/ws", "HTTP/1.1", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	a, err := http.ReadResponse(in, &http.Request{Method: "GET"})
	if err != nil || a.StatusCode != 101 || a.Header.Get("Sec-WebSocket-Accept") != "a" || a.Header.Get("Upgrade") == "" {
		t.Fatal(a, err)
	}
	message := strings.Repeat("frame", 20000)
	go func() { _, _ = io.WriteString(conn, message); _ = conn.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(in)
	if err != nil || string(got) != "first"+message {
		t.Fatal(len(got), err)
	}
	conn.Close()
	last := r.log()[1]
	if last.Event != flow.Request || last.Status != 101 || last.BytesOut < int64(len(message)) || last.BytesIn < int64(len(message)) {
		t.Errorf("%+v", last)
	}
}

// TestFalseUpgrade: a server that switches protocols unasked is not believed.
func TestFalseUpgrade(t *testing.T) {
	for name, more := range map[string]string{
		"unasked": "", "other": "Connection: Upgrade\r\nUpgrade: websocket\r\n", "h2c": "Connection: Upgrade\r\nUpgrade: h2c\r\n",
		"body": "Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 1\r\n", "TLS": "Connection: Upgrade\r\nUpgrade: TLS/1.0, websocket\r\n", "hop only": "Upgrade: foo\r\n",
	} {
		r := newRig(t, allowed)
		r.serve(80, replies(map[string]reply{"/": {"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n", "more"}}))
		conn := r.proxy()
		if name == "body" {
			more += "\r\nx"
		}
		if err := askFor(conn, "GET", "/", "HTTP/1.1", more); err != nil {
			t.Fatal(err)
		}
		if a, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || a.StatusCode != 502 {
			t.Errorf("%s: %v %v", name, a, err)
		}
	}
}

// TestHalfClose: a client that ends its side still gets the answer, and a server
// that ends its own still gets the rest.
func TestHalfClose(t *testing.T) {
	r := newRig(t, byAddress)
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) {
		all, _ := io.ReadAll(in)
		fmt.Fprintf(conn, "%d bytes", len(all))
	})
	conn := r.proxy()
	in, status, err := connect(conn, apiAddr+":9000")
	if status != 200 {
		t.Fatal(status, err)
	}
	_, _ = conn.Write(make([]byte, 1<<20))
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(in); err != nil || string(got) != "1048576 bytes" {
		t.Fatalf("%q %v", got, err)
	}

	r = newRig(t, byAddress)
	got := make(chan int, 1)
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) {
		_, _ = io.WriteString(conn, "hello")
		_ = conn.(*notingConn).CloseWrite()
		all, _ := io.ReadAll(in)
		got <- len(all)
	})
	conn = r.proxy()
	in, status, err = connect(conn, apiAddr+":9000")
	if status != 200 {
		t.Fatal(status, err)
	}
	if b, err := io.ReadAll(in); err != nil || string(b) != "hello" {
		t.Fatalf("%q %v", b, err)
	}
	_, _ = conn.Write(make([]byte, 1<<20))
	conn.Close()
	if n := <-got; n != 1<<20 {
		t.Errorf("the server got %d bytes", n)
	}
	for _, rec := range r.log() {
		if rec.Event == flow.Close && (rec.BytesIn != 5 || rec.BytesOut != 1<<20 || rec.Why != "") {
			t.Errorf("%+v", rec)
		}
	}
}

// TestSlow: what comes too slowly is cut, however steadily it comes.
func TestSlow(t *testing.T) {
	for name, text := range map[string]string{
		"head": "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nX: " + strings.Repeat("y", 1000),
		"hello": "CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n" +
			greeting(serverNames(api), extension(21, make([]byte, 1000)...)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, allowed)
			conn := r.proxy()
			at := strings.Index(text, "\r\n\r\n") + 4
			if name == "head" {
				at = 30
			}
			_, _ = io.WriteString(conn, text[:at])
			cut := make(chan struct{})
			go func() {
				defer close(cut)
				_, _ = io.Copy(io.Discard, conn)
			}()
			for i := at; i < len(text); i++ {
				select {
				case <-cut:
					i = len(text)
				case <-time.After(30 * time.Millisecond):
					_, _ = io.WriteString(conn, text[i:i+1])
				}
			}
			<-cut
			conn.Close()
			log := r.log()
			if len(log) != 1 || log[0].Verdict != "deny" || log[0].Status != 408 || len(r.reached()) > 0 {
				t.Errorf("%s", r.explain())
			}
		})
	}
}

// TestIdleClients: a connection without a request ends after a while, and no record
// speaks of it.
func TestIdleClients(t *testing.T) {
	r := newRig(t, allowed, func(o *Options) { o.IdleTime = 50 * time.Millisecond })
	conn := r.proxy()
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Error(n, err)
	}
	conn = r.proxy()
	began := time.Now()
	for { // empty lines are no request
		if _, err := io.WriteString(conn, "\r\n"); err != nil {
			break
		}
		if time.Sleep(10 * time.Millisecond); time.Since(began) > 10*time.Second {
			t.Fatal("empty lines keep it open")
		}
	}
	if log := r.log(); len(log) != 0 {
		t.Error(log)
	}
}

// TestServers: whatever a server does, the client gets an answer that says so, or a
// reset where an answer had begun. Nothing looks whole that is not.
func TestServers(t *testing.T) {
	huge := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1<<20)
	for name, c := range map[string]struct {
		says   string
		status int // 0: the answer does not end in order
		resets bool
	}{
		"closes":         {"", 502, false},
		"resets":         {"", 502, true},
		"garbage":        {"\x00\x01\x02 not HTTP at all\r\n\r\n", 502, false},
		"half a head":    {"HTTP/1.1 200 OK\r\nContent-Le", 502, false},
		"ssh":            {"SSH-2.0-x\r\n\r\n", 502, false},
		"HTTP/2":         {"HTTP/2.0 200 OK\r\n\r\n", 502, false},
		"huge head":      {huge, 502, false},
		"many fields":    {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1000) + "\r\n", 502, false},
		"both framings":  {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502, false},
		"two lengths":    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 502, false},
		"bare LF":        {"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello\r\n\r\n", 502, false},
		"splitting":      {"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n", 502, false},
		"hints":          {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), 502, false},
		"status 999":     {"HTTP/1.1 999 x\r\n\r\n", 502, false},
		"short body":     {"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhello", 0, false},
		"torn body":      {"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhello", 0, true},
		"torn until end": {"HTTP/1.1 200 OK\r\n\r\nhello", 0, true},
		"torn chunks":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0, false},
		"bad chunks":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", 0, false},
		"no chunks":      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, allowed)
			r.serve(80, func(conn net.Conn, in *bufio.Reader) {
				_, _ = http.ReadRequest(in)
				_, _ = io.WriteString(conn, c.says)
				if c.resets {
					time.Sleep(20 * time.Millisecond)
					_ = conn.(*notingConn).Conn.(*net.TCPConn).SetLinger(0)
				}
			})
			conn := r.proxy()
			in := bufio.NewReader(conn)
			status, body, err := get(conn, in, "http://"+api+"/", api)
			switch {
			case c.status != 0 && (status != c.status || err != nil):
				t.Errorf("%d %q %v\n%s", status, body, err, r.explain())
			case c.status == 0 && err == nil:
				t.Errorf("a torn answer looks whole: %d %q", status, body)
			}
			conn.Close()
			log := r.log()
			if last := log[len(log)-1]; last.Event != flow.Request || last.Why == "" || last.Verdict != "allow" {
				t.Errorf("%s", r.explain())
			}
		})
	}
}

// TestSilentServer: when its client goes away a request ends, though its server says
// nothing.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"no body": "\r\n", "body": "Content-Length: 5\r\n\r\nhello", "pipelined": "\r\nGET http://"} {
		r := newRig(t, allowed)
		gone := make(chan struct{})
		r.serve(80, func(conn net.Conn, in *bufio.Reader) {
			defer close(gone)
			_, _ = io.Copy(io.Discard, in)
		})
		conn := r.proxy()
		fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nHost: %s\r\n%s", api, api, more)
		for len(r.reached()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if name == "pipelined" {
			continue // it is looked for no more: the next request stands in its way
		}
		conn.Close()
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the server is kept", name)
		}
		if log := r.log(); len(log) != 2 || !strings.Contains(log[1].Why, "client went away") {
			t.Errorf("%s: %s", name, r.explain())
		}
	}
}

// TestSlowServer: what a client says while it waits long is its next request.
func TestSlowServer(t *testing.T) {
	for name, secure := range map[string]bool{"tcp": false, "mtls": true} {
		t.Run(name, func(t *testing.T) { t.Parallel(); slowServer(t, secure) })
	}
}

func slowServer(t *testing.T, secure bool) {
	r := newRig(t, allowed)
	r.serve(80, func(conn net.Conn, in *bufio.Reader) {
		for i := 0; ; i++ {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			if i == 0 {
				time.Sleep(lookoutAfter + 300*time.Millisecond)
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	conn := r.proxy()
	if secure {
		conn = r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "http/1.1")
	}
	in := bufio.NewReader(conn)
	const request = "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"
	_, _ = io.WriteString(conn, request)
	time.Sleep(lookoutAfter + 100*time.Millisecond)
	_, _ = io.WriteString(conn, request[:20])
	time.Sleep(50 * time.Millisecond)
	_, _ = io.WriteString(conn, request[20:])
	for range 2 {
		if status, body, err := answer(in, "GET"); status != 200 || body != "ok" {
			t.Fatal(status, body, err)
		}
	}
}

// TestNames: what a resolver cannot say.
func TestNames(t *testing.T) {
	r := newRig(t, allowed)
	r.names.answers["empty.allowed.test"] = nil
	conn := r.proxy()
	in := bufio.NewReader(conn)
	if status, body, _ := get(conn, in, "http://nowhere.allowed.test/", "nowhere.allowed.test"); status != 502 || !strings.Contains(body, "no such server") {
		t.Error(status, body)
	}
	r.names.mu.Lock()
	r.names.err = errors.New("dns: nobody answers")
	r.names.mu.Unlock()
	if status, body, _ := get(conn, in, "http://api.allowed.test/", api); status != 504 || !strings.Contains(body, "cannot be resolved") {
		t.Error(status, body)
	}
	// What is refused is not even resolved.
	asked := len(r.names.asked)
	if status, _, _ := get(conn, in, "http://secret-data.evil.test/", "secret-data.evil.test"); status != 403 || len(r.names.asked) != asked {
		t.Error("a denied name was resolved: DNS is a way out")
	}
	conn.Close()
	if count := verdicts(r.log()); count["fail allow"] != 2 || count["deny deny"] != 1 || len(r.dials()) > 0 {
		t.Error(r.explain())
	}
}

// TestUnreachable: an address that does not answer, and the next that does.
func TestUnreachable(t *testing.T) {
	r := newRig(t, allowed)
	r.names.answers["api.allowed.test"] = []dns.Answer{at(apiAddr, "93.184.216.35")}
	r.dialing = func(_ context.Context, to netip.AddrPort) error {
		if to.Addr().String() == apiAddr {
			return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}
		return nil
	}
	conn := r.proxy()
	in := bufio.NewReader(conn)
	if status, body, err := get(conn, in, "http://api.allowed.test/", api); status != 200 || body != "origin" {
		t.Fatal(status, body, err)
	}
	r.dialing = func(context.Context, netip.AddrPort) error {
		return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	if status, body, _ := get(conn, in, "http://api.allowed.test:443/", api); status != 502 || !strings.Contains(body, "refused") {
		t.Fatal(status, body)
	}
	conn.Close()
	if n := r.reg.Len(); n != 0 && len(r.log()) > 0 {
		t.Errorf("%d entries stay", n)
	}
}

// TestSelf: the gateway is no destination.
func TestSelf(t *testing.T) {
	r := newRig(t, allowed, func(o *Options) {
		o.Self = func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort(apiAddr+":443") }
	})
	conn := r.proxy()
	if _, status, _ := connect(conn, api+":443"); status != 403 || len(r.dials()) > 0 {
		t.Error(status, r.explain())
	}
}

// TestWithoutLog: what cannot be recorded does not pass.
func TestWithoutLog(t *testing.T) {
	var full error = errors.New("the disk is full")
	r := newRig(t, allowed, func(o *Options) { o.Ready = func() error { return full } })
	conn := r.proxy()
	in := bufio.NewReader(conn)
	if status, body, _ := get(conn, in, "http://api.allowed.test/", api); status != 503 || !strings.Contains(body, "recorded") {
		t.Error(status, body)
	}
	if _, status, _ := connect(conn, api+":443"); status != 503 {
		t.Error(status)
	}
	conn.Close()
	if log := r.log(); len(log) != 0 || r.g.Stats().Unrecorded != 2 || len(r.dials()) > 0 {
		t.Error(r.explain(), r.g.Stats())
	}
	full = nil
	conn = r.proxy()
	if status, body, err := get(conn, bufio.NewReader(conn), "http://api.allowed.test/", api); status != 200 {
		t.Error(status, body, err)
	}
}

// TestNobodyDecides: before the first generation everything is denied.
func TestNobodyDecides(t *testing.T) {
	r := newRig(t, "")
	known := Client{}
	conn := dialProxy(t, r.listen(Door{Networks: []Network{{netip.MustParsePrefix("127.0.0.0/8"), known}}}))
	if status, body, _ := get(conn, bufio.NewReader(conn), "http://api.allowed.test/", api); status != 403 || !strings.Contains(body, "no valid generation") {
		t.Error(status, body)
	}
}

// TestSecrets: nothing that could be one is in any record, log line or answer.
func TestSecrets(t *testing.T) {
	r := newRig(t, allowed+"  - {from: client, to: limited.test, ports: [80], may: GET /ok, because: x, owner: y}\n")
	r.names.set("limited.test", apiAddr)
	door := r.listen(r.plain())
	const s = "S3CRET"
	for _, text := range []string{
		"GET http://api.allowed.test/" + s + "?k=" + s + " HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: " + s + "\r\nCookie: " + s + "\r\n\r\n",
		"POST http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 6\r\n\r\n" + s,
		"GET http://limited.test/" + s + "?" + s + " HTTP/1.1\r\nHost: limited.test\r\n\r\n",
		"GET http://evil.test/" + s + "?" + s + " HTTP/1.1\r\nHost: evil.test\r\nX: " + s + "\r\n\r\n",
		"GET http://user:" + s + "@api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
		"GET http://api.allowed.test/ HTTP/1.1\r\nHost: user:" + s + "@api.allowed.test\r\n\r\n",
		"GET /" + s + " HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
		"GET ftp://x/" + s + " HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
		"GET http://api.allowed.test/%zz" + s + " HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n",
		"GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n" + s + ": x y\r\nX\x00: " + s + "\r\n\r\n",
		"GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nExpect: " + s + "\r\n\r\n",
		"GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: " + s + "\r\n\r\n",
		"GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: " + s + "\r\n\r\n",
		"CONNECT user:" + s + "@api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test\r\nProxy-Authorization: Basic " + s + "\r\n\r\n",
		"GET http://api.allowed.test/ HTTP/1.1 " + s + "\r\nHost: api.allowed.test\r\n\r\n",
		"PUT http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n6;" + s + "\r\n" + s + "\r\n0\r\nX: " + s + "\r\n\r\n",
		"PUT http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n" + s + "\r\n\r\n",
	} {
		conn := dialProxy(t, door)
		_, _ = io.WriteString(conn, text)
		if a, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			body, _ := io.ReadAll(a.Body)
			if a.StatusCode != 200 && strings.Contains(fmt.Sprint(a.Header)+string(body), s) {
				t.Errorf("the answer to %q holds the secret: %v %s", text, a.Header, body)
			}
		}
		conn.Close()
	}
	for _, rec := range r.log() {
		if strings.Contains(fmt.Sprintf("%+v", rec), s) {
			t.Errorf("a record holds the secret: %+v", rec)
		}
	}
}

// TestAnswersSayWhy: a refusal names the rule, for people and for programs.
func TestAnswersSayWhy(t *testing.T) {
	r := newRig(t, readOnly)
	conn := r.proxy()
	_, _ = io.WriteString(conn, "DELETE http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n")
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(a.Body)
	for _, want := range []string{`"error":"denied"`, `"why":"the nearest is egress client`, `"rule":"p.yaml:`, `"generation":1`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the answer lacks %s: %s", want, body)
		}
	}
	if s := a.Header.Get("Proxy-Status"); !strings.HasPrefix(s, "bulkhead; error=http_request_denied; details=\"") {
		t.Errorf("Proxy-Status: %s", s)
	}
	for _, text := range []string{"", "a→b", "\"\\", "é\r\nX: y", "\x00\x7f"} {
		q := appendQuoted(nil, text)
		if bytes.ContainsAny(q[1:len(q)-1], "\r\n\x00\x7f") || len(q) < 2 {
			t.Errorf("%q becomes %q", text, q)
		}
	}
}

// TestHeadersBetweenNeighbours: what is for the gateway stays here.
func TestHeadersBetweenNeighbours(t *testing.T) {
	r := newRig(t, allowed)
	conn := r.proxy()
	fmt.Fprint(conn, "GET http://API.allowed.test.:80/p?q HTTP/1.1\r\nHost: API.allowed.test\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nConnection: X-Mine, keep-alive\r\n"+
		"X-Mine: x\r\nTE: trailers\r\nKeep-Alive: x\r\nTrailer: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Other: stays\r\nAuthorization: stays\r\n\r\n")
	if status, _, err := answer(bufio.NewReader(conn), "GET"); status != 200 {
		t.Fatal(status, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.arrivals[0]
	if got.reqs[0] != "GET api.allowed.test /p?q" {
		t.Errorf("the request is %s", got.reqs[0])
	}
	for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "X-Mine", "Te", "Keep-Alive", "Trailer", "Upgrade", "Http2-Settings", "Connection"} {
		if got.head[0].Get(name) != "" {
			t.Errorf("%s was passed on", name)
		}
	}
	if got.head[0].Get("X-Other") != "stays" || got.head[0].Get("Authorization") != "stays" {
		t.Errorf("fields are lost: %v", got.head[0])
	}
}

// TestAnotherPlace: requests of one connection to several places keep apart.
func TestAnotherPlace(t *testing.T) {
	r := newRig(t, allowed)
	r.names.set("two.allowed.test", "93.184.216.35")
	conn := r.proxy()
	in := bufio.NewReader(conn)
	for i := range 6 {
		host := []string{api, "two.allowed.test"}[i%2]
		if status, body, err := get(conn, in, "http://"+host+"/", host); status != 200 || body != "origin" {
			t.Fatal(status, body, err)
		}
		if status, _, err := get(conn, in, "http://evil.test/", "evil.test"); status != 403 {
			t.Fatal(status, err)
		}
	}
	conn.Close()
	r.log()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.arrivals {
		for _, req := range a.reqs {
			if want := map[string]string{apiAddr: api, "93.184.216.35": "two.allowed.test"}[a.at.Addr().String()]; !strings.Contains(req, want) {
				t.Errorf("%s arrived at %s", req, a.at)
			}
		}
	}
}

// TestStreams: over HTTP/2 there is CONNECT and nothing else.
func TestStreams(t *testing.T) {
	r := newRig(t, allowed)
	conn := r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "h2")
	if err := conn.Handshake(); err != nil || conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatal(err)
	}
	s, err := openStream(conn, [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", api}, {":path", "/"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.answer(); err != nil || s.status != 405 {
		t.Error("a plain request over HTTP/2:", s.status, err)
	}
	conn.Close()

	conn = r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "h2")
	s, err = openStream(conn, [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", api + ":443"}, {":path", "/"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.answer(); err == nil && s.status == 200 {
		t.Error("an extended CONNECT passed")
	}
	conn.Close()
	r.log()
	if len(r.dials()) > 0 {
		t.Error(r.explain())
	}
}

// TestStreamCarries moves much through a tunnel over HTTP/2, byte by byte the same.
func TestStreamCarries(t *testing.T) {
	r := newRig(t, byAddress)
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
	conn := r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "h2")
	s, err := openStream(conn, [][2]string{{":method", "CONNECT"}, {":authority", apiAddr + ":9000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.answer(); err != nil || s.status != 200 {
		t.Fatal(s.status, err)
	}
	piece := make([]byte, 8000)
	got := make([]byte, len(piece))
	for i := range 100 {
		for j := range piece {
			piece[j] = byte(i + j)
		}
		if _, err := s.Write(piece); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, piece) {
			t.Fatal(i, err)
		}
	}
	_ = s.CloseWrite()
	if n, err := s.Read(got); err != io.EOF {
		t.Error(n, err)
	}
	conn.Close()
	for _, rec := range r.log() {
		if rec.Event == flow.Close && (rec.BytesOut != 800000 || rec.BytesIn != 800000 || rec.Wire != "mtls") {
			t.Errorf("%+v", rec)
		}
	}
}

// TestUpstream goes out through another proxy, which gets the address that was
// decided about and never a name.
func TestUpstream(t *testing.T) {
	for _, says := range []string{"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\nX: y\r\n\r\n", "HTTP/1.1 407 No\r\n\r\n", "garbage\r\n\r\n", "", "HTTP/1.1 200 OK\r\n\r\nearly"} {
		r := newRig(t, "gateway: {upstream: \"http://proxy.corp.test:3128\"}\n"+allowed)
		r.names.set("proxy.corp.test", "10.1.1.1")
		asked := make(chan string, 9)
		r.serve(3128, func(conn net.Conn, in *bufio.Reader) {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			asked <- req.Method + " " + req.RequestURI
			_, _ = io.WriteString(conn, says)
			if strings.HasSuffix(says, "\r\n\r\n") {
				(&arrival{rig: r}).serveHTTP(conn, in)
			}
		})
		conn := r.proxy()
		status, body, err := get(conn, bufio.NewReader(conn), "http://api.allowed.test/", api)
		if good := strings.Contains(says, "200") && !strings.Contains(says, "early"); good != (status == 200 && body == "origin") || !good && status != 502 {
			t.Errorf("%q: %d %s %v", says, status, body, err)
		}
		if got := <-asked; got != "CONNECT "+apiAddr+":80" {
			t.Errorf("the proxy was asked: %s", got)
		}
		conn.Close()
		for _, d := range r.dials() {
			if d.String() != "10.1.1.1:3128" {
				t.Errorf("dialled %s", d)
			}
		}
	}
	for text, want := range map[string]outside.Target{
		"": {}, "http://p.test:3128": {Host: "p.test", Port: 3128}, "http://10.0.0.1:3128/": {Addr: netip.MustParseAddr("10.0.0.1"), Port: 3128},
		"https://p.test:1": {Addr: netip.IPv4Unspecified(), Port: 1}, "p.test:3128": {Addr: netip.IPv4Unspecified(), Port: 1}, "http://": {Addr: netip.IPv4Unspecified(), Port: 1},
	} {
		if got := UpstreamOf(text); got != want {
			t.Errorf("UpstreamOf(%q) = %v", text, got)
		}
	}
}

// TestAddresses: an address is reached by a rule that names it, as it is, and its
// Host is written as it must be.
func TestAddresses(t *testing.T) {
	r := newRig(t, `
egress:
  - {from: client, to: ["93.184.216.0/24", "2606:2800:220::/48"], ports: [80, 443, 9000], because: x, owner: y}
`)
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) { (&arrival{rig: r}).serveHTTP(conn, in) })
	conn := r.proxy()
	in := bufio.NewReader(conn)
	for to, reached := range map[string]string{
		apiAddr: apiAddr + ":80", apiAddr + ":9000": apiAddr + ":9000", "[" + api6Addr + "]": "[" + api6Addr + "]:80",
		"[2606:2800:220:0:0:0:0:1]:443": "[2606:2800:220::1]:443", "[::ffff:" + apiAddr + "]": "", "93.184.217.1": "", apiAddr + ":22": "", "[2606:2800:221::1]": "",
		"[2606:2800:220:1:0:5efe:a9fe:a9fe]": "",
	} {
		before := len(r.dials())
		status, body, err := get(conn, in, "http://"+to+"/", to)
		d := r.dials()[before:]
		switch {
		case reached == "" && (status != 403 || len(d) > 0):
			t.Errorf("%s: %d %s %v, dialled %v", to, status, body, err, d)
		case reached != "" && (status != 200 || len(d) != 1 || d[0].String() != reached):
			t.Errorf("%s: %d %s %v, dialled %v", to, status, body, err, d)
		}
	}
	conn.Close()
	r.log()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.arrivals {
		for _, req := range a.reqs {
			if host := strings.Fields(req)[1]; host != strings.TrimSuffix(strings.Replace(a.at.String(), "2606:2800:220:0:0:0:0:1", "2606:2800:220::1", 1), ":80") {
				t.Errorf("%s arrived at %s", req, a.at)
			}
		}
	}
}

// TestTunnelIsExact moves a lot both ways over a tunnel of TCP, which the kernel
// splices.
func TestTunnelIsExact(t *testing.T) {
	r := newRig(t, byAddress)
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in); _ = conn.(*notingConn).CloseWrite() })
	conn := r.proxy()
	in, status, err := connect(conn, apiAddr+":9000")
	if status != 200 {
		t.Fatal(status, err)
	}
	sent := make([]byte, 8<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(sent)
	go func() { _, _ = conn.Write(sent); _ = conn.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatal(len(got), err)
	}
}
