package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

func TestLargeBodiesStream(t *testing.T) {
	const size = 16 << 20
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			h := sha256.New()
			io.Copy(io.MultiWriter(h, w), r.Body)
			w.Header().Set(http.TrailerPrefix+"Digest", fmt.Sprintf("%x", h.Sum(nil)))
		})
		i := newInspection(t, server.addr(), "PUT /weights")
		for _, chunked := range []bool{true, false} {
			r := request(t, "PUT", i.url("/weights"), io.LimitReader(&pattern{}, size))
			if !chunked {
				r.ContentLength = size
			}
			res, err := i.client(version).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			n, err := io.Copy(h, res.Body)
			if err != nil || n != size || res.Trailer.Get("Digest") != fmt.Sprintf("%x", h.Sum(nil)) {
				t.Errorf("%d bytes back, %v, trailer %v", n, err, res.Trailer)
			}
			res.Body.Close()
		}
		rec := i.records.until(t, "upload", func(r flow.Record) bool { return r.Event == flow.Request })
		if rec.BytesOut != size || rec.BytesIn != size {
			t.Errorf("%+v", rec)
		}
	})
}

// pattern is bytes without end.
type pattern struct{ n byte }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = p.n
		p.n += 7
	}
	return len(b), nil
}

// TestTokensArriveOneByOne: each event is there before the server makes the next.
func TestTokensArriveOneByOne(t *testing.T) {
	for _, form := range []string{"chunked", "length", "close"} {
		bothVersions(t, func(t *testing.T, version int) {
			next := make(chan bool)
			server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if form == "length" {
					w.Header().Set("Content-Length", "80")
				}
				if form == "close" && version == 1 {
					w.Header().Set("Transfer-Encoding", "identity")
				}
				w.(http.Flusher).Flush()
				for n := range 10 {
					<-next
					fmt.Fprintf(w, "data:%d\n\n", n)
					w.(http.Flusher).Flush()
				}
			})
			i := newInspection(t, server.addr(), "POST /v1/chat")
			res, err := i.client(version).Post(i.url("/v1/chat"), "", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			lines := bufio.NewReader(res.Body)
			for n := range 10 {
				next <- true
				line, err := lines.ReadString('\n')
				if err != nil || line != fmt.Sprintf("data:%d\n", n) {
					t.Fatal(line, err)
				}
				lines.ReadString('\n')
			}
			if rest, err := io.ReadAll(lines); form != "length" && err != nil || len(rest) != 0 {
				t.Errorf("%q %v", rest, err)
			}
		})
	}
}

func TestClientDisconnectReachesServer(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		gone := make(chan bool)
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-r.Context().Done()
				close(gone)
			}
		})
		i := newInspection(t, server.addr(), "GET")
		c := i.client(version)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := c.Do(request(t, "GET", i.url("/slow"), nil).WithContext(ctx)); err == nil {
			t.Error("no error")
		}
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Fatal("the server never learned of it")
		}
		if rec := i.records.until(t, "end", func(r flow.Record) bool { return r.Why == errGone.Error() }); rec.Verdict != "allow" {
			t.Errorf("%+v", rec)
		}
	})
}

func TestServerIsNotThere(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		ln, _ := net.Listen("tcp", "127.0.0.1:0")
		ln.Close()
		i := newInspection(t, ln.Addr().String(), "GET")
		res, body := fetch(t, i.client(version), request(t, "GET", i.url("/x"), nil))
		if res.StatusCode != 502 || !strings.Contains(body, "does not listen") {
			t.Error(res.StatusCode, body)
		}
		if rec := i.records.until(t, "failure", func(r flow.Record) bool { return r.Event == flow.Fail }); rec.Verdict != "allow" || rec.Rule == "" {
			t.Errorf("%+v", rec)
		}
	})
}

// TestServerBreaksOff: a part of an answer is never taken for the whole.
func TestServerBreaksOff(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		for _, flush := range []bool{true, false} {
			server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, strings.Repeat("x", 10))
				if flush {
					w.(http.Flusher).Flush()
				}
				panic(http.ErrAbortHandler)
			})
			i := newInspection(t, server.addr(), "GET")
			res, err := i.client(version).Get(i.url("/x"))
			if err == nil {
				_, err = io.ReadAll(res.Body)
				if err == nil && res.StatusCode == 200 {
					t.Error("the answer looks complete")
				}
			}
		}
	})
}

func TestExpectContinue(t *testing.T) {
	server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		io.Copy(w, r.Body)
	})
	i := newInspection(t, server.addr(), "PUT")
	c := i.client(1)
	c.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
	send := func(path string) (*http.Response, string, int) {
		body := &counted{Reader: strings.NewReader(strings.Repeat("x", 100))}
		r := request(t, "PUT", i.url(path), body)
		r.ContentLength = 100
		r.Header.Set("Expect", "100-continue")
		res, text := fetch(t, c, r)
		return res, text, body.n
	}
	if res, text, _ := send("/yes"); res.StatusCode != 200 || len(text) != 100 {
		t.Error(res.StatusCode, text)
	}
	if res, _, sent := send("/no"); res.StatusCode != 413 || sent != 0 {
		t.Errorf("%d, %d bytes sent", res.StatusCode, sent)
	}
	i.allow()
	if res, _, sent := send("/yes"); res.StatusCode != 403 || sent != 0 {
		t.Errorf("%d, %d bytes sent", res.StatusCode, sent)
	}
}

type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestExpectIsIgnored: a server that never consents gets the body all the same.
func TestExpectIsIgnored(t *testing.T) {
	server := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		for line := ""; line != "\r\n"; line, _ = r.ReadString('\n') {
		}
		io.ReadFull(r, make([]byte, 5))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	i := newInspection(t, server, "PUT")
	conn := i.dial()
	io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	r := bufio.NewReader(conn)
	if line, _ := r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatal(line)
	}
	r.ReadString('\n')
	io.WriteString(conn, "12345")
	if line, _ := r.ReadString('\n'); line != "HTTP/1.1 200 OK\r\n" {
		t.Fatal(line)
	}
}

// TestEarlyAnswer: a server may answer before it has the whole body.
func TestEarlyAnswer(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			io.ReadFull(r.Body, make([]byte, 10))
			if version == 1 {
				w.Header().Set("Connection", "close")
			}
			http.Error(w, "no room", http.StatusInsufficientStorage)
		})
		i := newInspection(t, server.addr(), "PUT", "GET")
		c := i.client(version)
		body, w := io.Pipe()
		defer w.Close()
		go w.Write(make([]byte, 100)) // and never ends
		res, text := fetch(t, c, request(t, "PUT", i.url("/x"), body))
		if res.StatusCode != 507 || text != "no room\n" {
			t.Error(res.StatusCode, text)
		}
		if res, _ := fetch(t, c, request(t, "GET", i.url("/x"), nil)); res.StatusCode != 507 {
			t.Error(res.StatusCode)
		}
	})
}

// TestBothWaysAtOnce: the answer streams while the request still does.
func TestBothWaysAtOnce(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			rc.Flush()
			b := make([]byte, 1)
			for {
				if _, err := r.Body.Read(b); err != nil {
					return
				}
				w.Write(bytes.ToUpper(b))
				rc.Flush()
			}
		})
		i := newInspection(t, server.addr(), "POST")
		body, w := io.Pipe()
		res, err := i.client(version).Post(i.url("/x"), "", body)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range "interleaved" {
			w.Write([]byte{byte(b)})
			got := make([]byte, 1)
			if _, err := io.ReadFull(res.Body, got); err != nil || got[0] != byte(b)-32 {
				t.Fatal(got, err)
			}
		}
		w.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
			t.Error(rest, err)
		}
	})
}

func TestInformationalAnswers(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			io.WriteString(w, "ok")
		})
		i := newInspection(t, server.addr(), "GET")
		hints := make(chan string, 1)
		r := request(t, "GET", i.url("/x"), nil)
		res, body := fetch(t, i.client(version), r.WithContext(withHints(r.Context(), hints)))
		if hint := <-hints; hint != "</a.css>" || body != "ok" || res.Header.Get("Link") != "" {
			t.Error(hint, body, res.Header)
		}
	})
}

func TestHeadAndEmptyAnswers(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(204)
			case "/304":
				w.Header().Set("Etag", "x")
				w.WriteHeader(304)
			default:
				w.Header().Set("Content-Length", "5")
				if r.Method != "HEAD" {
					io.WriteString(w, "hello")
				}
			}
		})
		i := newInspection(t, server.addr(), "GET", "HEAD")
		c := i.client(version)
		for range 2 {
			for _, tt := range []struct {
				method, path string
				status       int
				length       int64
			}{{"HEAD", "/", 200, 5}, {"GET", "/", 200, 5}, {"GET", "/204", 204, 0}, {"GET", "/304", 304, 0}} {
				res, _ := fetch(t, c, request(t, tt.method, i.url(tt.path), nil))
				if res.StatusCode != tt.status || res.ContentLength != tt.length && tt.status == 200 {
					t.Errorf("%s %s: %d, length %d", tt.method, tt.path, res.StatusCode, res.ContentLength)
				}
			}
		}
	})
}

// TestNothingIsLeftBehind: however a connection ends, its goroutines do too.
func TestNothingIsLeftBehind(t *testing.T) {
	server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	i := newInspection(t, server.addr(), "GET")
	before := runtime.NumGoroutine()
	for range 20 {
		for version := 1; version <= 2; version++ {
			c := i.client(version)
			fetch(t, c, request(t, "GET", i.url("/"), nil))
			res, err := c.Get(i.url("/hang"))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			c.CloseIdleConnections()
		}
		i.dial().Close()
		i.say("GET / HT", time.Millisecond)
	}
	server.CloseClientConnections()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			text := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d\n%s", runtime.NumGoroutine(), before, text[:runtime.Stack(text, true)])
		}
	}
}
