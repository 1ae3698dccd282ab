package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// laxServer is a server that reads requests as carelessly as some do: a line ends
// with a bare line feed, a header may have spaces before its colon, the first
// Content-Length counts. It keeps the request lines that it sees.
type laxServer struct {
	mu    sync.Mutex
	seen  []string
	wrong []string
}

func newLaxServer(t testing.TB) (*laxServer, string) {
	s := &laxServer{}
	return s, rawServer(t, s.handle)
}

func (s *laxServer) handle(c net.Conn, r *bufio.Reader) {
	for s.one(c, r) {
	}
}

func (s *laxServer) note(list *[]string, text string) {
	s.mu.Lock()
	*list = append(*list, text)
	s.mu.Unlock()
}

// take returns what was seen, and forgets it.
func (s *laxServer) take() (seen, wrong []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, wrong = s.seen, s.wrong
	s.seen, s.wrong = nil, nil
	return seen, wrong
}

func (s *laxServer) one(c net.Conn, r *bufio.Reader) bool {
	line, err := r.ReadString('\n')
	if err != nil {
		if line != "" {
			s.note(&s.wrong, "half a line: "+line)
		}
		return false
	}
	s.note(&s.seen, strings.TrimRight(line, "\r\n"))
	length, chunked := "", false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch {
		case name == "content-length" && length != "", name == "content-length" && chunked, name == "transfer-encoding" && (length != "" || chunked):
			s.note(&s.wrong, "two framings")
		case strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "x-bulkhead-") && value != proven:
			s.note(&s.wrong, "source "+line)
		case reservedHeader(name) && value != proven:
			s.note(&s.wrong, line)
		}
		switch name {
		case "content-length":
			length = value
		case "transfer-encoding":
			chunked = true
		}
	}
	switch {
	case chunked:
		for {
			size, err := r.ReadString('\n')
			n, bad := strconv.ParseUint(strings.TrimSpace(size), 16, 32)
			if err != nil || bad != nil {
				return false
			}
			if n == 0 {
				break
			}
			if _, err := io.CopyN(io.Discard, r, int64(n)+2); err != nil {
				return false
			}
		}
		for line := "x"; strings.TrimRight(line, "\r\n") != ""; {
			if line, err = r.ReadString('\n'); err != nil {
				return false
			}
		}
	case length != "":
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil {
			s.note(&s.wrong, "length "+length)
			return false
		}
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			return false
		}
	}
	_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	return err == nil
}

const end = "Connection: close\r\n\r\n"

// TestAttacksHTTP1: what does not parse in one way reaches no server, and what
// follows it is not read as a request.
func TestAttacksHTTP1(t *testing.T) {
	post := "POST /ok/1 HTTP/1.1\r\nHost: b\r\n"
	get := "GET /ok HTTP/1.1\r\nHost: b\r\n"
	secret := "GET /secret HTTP/1.1\r\nHost: b\r\n\r\n"
	tests := []struct {
		name, in string
		want     []int    // the statuses of the answers
		seen     []string // by the server; nil for nothing
	}{
		{"plain", get + end, []int{200}, []string{"GET /ok"}},
		{"pipelined", get + "\r\n" + secret + get + end, []int{200, 403, 200}, []string{"GET /ok", "GET /ok"}},
		{"length and chunked, chunked wins", post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG" + secret, []int{200, 403}, []string{"POST /ok/1"}},
		{"length covers a request", post + fmt.Sprintf("Content-Length: %d\r\n", len(secret)) + "\r\n" + secret + get + end, []int{200, 200}, []string{"POST /ok/1", "GET /ok"}},
		{"two lengths", post + "Content-Length: 0\r\nContent-Length: 50\r\n\r\n" + secret, []int{400}, nil},
		{"two lengths in one", post + "Content-Length: 0, 50\r\n\r\n" + secret, []int{400}, nil},
		{"signed length", post + "Content-Length: +5\r\n\r\n" + secret, []int{400}, nil},
		{"negative length", post + "Content-Length: -1\r\n\r\n" + secret, []int{400}, nil},
		{"unknown coding", post + "Transfer-Encoding: xchunked\r\n\r\n" + secret, []int{501}, nil},
		{"coding list", post + "Transfer-Encoding: gzip, chunked\r\n\r\n" + secret, []int{501}, nil},
		{"two codings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + secret, []int{501}, nil},
		{"space before colon", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + secret, []int{400}, nil},
		{"tab before colon", post + "Content-Length\t: 5\r\n\r\n" + secret, []int{400}, nil},
		{"folded coding", post + "X-A: b\r\n Transfer-Encoding: chunked\r\n" + end, []int{200}, []string{"POST /ok/1"}},
		{"carriage return in a value", get + "X-A: b\rX-Bulkhead-Source: z\r\n\r\n" + secret, []int{400}, nil},
		{"NUL in a value", get + "X-A: b\x00\r\n\r\n" + secret, []int{400}, nil},
		{"NUL in the path", "GET /ok\x00 HTTP/1.1\r\nHost: b\r\n\r\n", []int{400}, nil},
		{"bare line feeds", "GET /ok HTTP/1.1\nHost: b\nX-A: b\nConnection: close\n\n", []int{200}, []string{"GET /ok"}},
		{"chunk extension with a line feed", post + "Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n0\r\n\r\n" + secret, []int{400}, nil},
		{"chunk too large", post + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + secret, []int{400}, nil},
		{"absolute target", "GET http://b/ok HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"absolute target of another", "GET http://other/ok HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"no slash", "GET ok HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"CONNECT", "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n" + end, []int{400}, nil},
		{"CONNECT with a path", "CONNECT /ok HTTP/1.1\r\nHost: b:80\r\n" + end, []int{400}, nil},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"TRACE", "TRACE /ok HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"lower case", "get /ok HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"method with a suffix", "GET\t/secret /ok HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"two slashes", "GET //ok HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"three slashes within", "POST /ok///1 HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"dots", "POST /ok/.. HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"dots with parameters", "POST /ok/..;x HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"encoded dots", "POST /ok/%2e%2E HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"encoded slash", "POST /ok/a%2Fb HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"double encoding", "POST /ok/%252e%252e HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"backslash", "POST /ok/..\\..\\secret HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"encoded letter", "GET /%6fk HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"parameters", "GET /ok;x=1 HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"encoded NUL", "POST /ok/%00 HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"not UTF-8", "POST /ok/\xff HTTP/1.1\r\nHost: b\r\n" + end, []int{403}, nil},
		{"fragment", "GET /ok#/../secret HTTP/1.1\r\nHost: b\r\n" + end, []int{400}, nil},
		{"query stays", "GET /ok?a=/../secret;b HTTP/1.1\r\nHost: b\r\n" + end, []int{200}, []string{"GET /ok?a=/../secret;b"}},
		{"no host", "GET /ok HTTP/1.1\r\n" + end, []int{400}, nil},
		{"two hosts", get + "Host: c\r\n" + end, []int{400}, nil},
		{"host with a path", "GET /ok HTTP/1.1\r\nHost: b/x\r\n" + end, []int{400}, nil},
		{"host with user", "GET /ok HTTP/1.1\r\nHost: c@b\r\n" + end, []int{400}, nil},
		{"override", post + "X-HTTP-Method-Override: DELETE\r\nx_original_url: /secret\r\nX-Rewrite-Url: /secret\r\nX-HTTP-METHOD: PUT\r\n" + end, []int{200}, []string{"POST /ok/1"}},
		{"forged source", get + "X-Bulkhead-Source: spiffe://z\r\nx_bulkhead_source: z\r\nX-BULKHEAD_SOURCE: z\r\n" + end, []int{200}, []string{"GET /ok"}},
		{"stripped source", get + "Connection: close, X-Bulkhead-Source, Host, Content-Length\r\n\r\n", []int{200}, []string{"GET /ok"}},
		{"upgrade to HTTP/2", get + "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nConnection: close, Upgrade, HTTP2-Settings\r\n\r\n", []int{200}, []string{"GET /ok"}},
		{"late preface", get + "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + secret, []int{200, 400}, []string{"GET /ok"}},
		{"HTTP/0.9", "GET /ok\r\n\r\nGET /ok\r\n\r\n", []int{400}, nil},
		{"HTTP/3", "GET /ok HTTP/3.0\r\nHost: b\r\n\r\n", []int{505}, nil},
		{"HTTP/1.0", "GET /ok HTTP/1.0\r\n\r\n", []int{200}, []string{"GET /ok"}},
		{"denied body", "PUT /x HTTP/1.1\r\nHost: b\r\n" + fmt.Sprintf("Content-Length: %d\r\n", len(secret)) + "\r\n" + secret + get + end, []int{403, 200}, []string{"GET /ok"}},
		{"denied chunked body", "PUT /x HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(secret), secret) + get + end, []int{403, 200}, []string{"GET /ok"}},
		{"long path", "POST /ok/" + strings.Repeat("a", 100_000) + " HTTP/1.1\r\nHost: b\r\n\r\n", []int{431}, nil},
		{"header bomb", get + strings.Repeat("X-A: b\r\n", 20_000) + "\r\n", []int{431}, nil},
		{"other expectation", get + "Expect: tea\r\n\r\n" + secret, []int{417}, nil},
		{"not HTTP", "SSH-2.0-OpenSSH_9.2\r\nxxxxxxxx\r\n\r\n", []int{400}, nil},
	}
	server, addr := newLaxServer(t)
	i := newInspection(t, addr, "GET /ok", "POST /ok/*")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(i.records.all())
			c := i.dial()
			go io.WriteString(c, tt.in)
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			back, _ := io.ReadAll(c)
			if got := statuses(back); !slices.Equal(got, tt.want) {
				t.Errorf("answers %v, want %v: %q", got, tt.want, back)
			}
			if strings.HasPrefix(tt.name, "chunk ") {
				time.Sleep(50 * time.Millisecond) // nothing that came back tells where the server is
			}
			seen, wrong := server.take()
			for i := range seen {
				seen[i] = strings.TrimSuffix(seen[i], " HTTP/1.1")
			}
			if strings.HasPrefix(tt.name, "chunk ") { // the head may have gone ahead
				seen = slices.DeleteFunc(seen, func(s string) bool { return s == "POST /ok/1" })
			}
			if !slices.Equal(seen, tt.seen) {
				t.Errorf("the server saw %q, want %q", seen, tt.seen)
			}
			if len(wrong) > 0 && !strings.HasPrefix(tt.name, "chunk ") {
				t.Errorf("wrong at the server: %q", wrong)
			}
			if len(i.records.all()) == before && tt.name != "other expectation" {
				t.Error("no record")
			}
		})
	}
}

// statuses reads the statuses of answers one after the other.
func statuses(back []byte) []int {
	out := []int{}
	r := bufio.NewReader(bytes.NewReader(back))
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return out
		}
		out = append(out, res.StatusCode)
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return out
		}
	}
}

// TestDeniedBodyDoesNotHang: the answer does not wait for a body that never
// comes, and a connection with a small one is kept.
func TestDeniedBodyDoesNotHang(t *testing.T) {
	server, addr := newLaxServer(t)
	i := newInspection(t, addr, "GET /ok")
	for _, framing := range []string{"Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 9000000000\r\n"} {
		c := i.dial()
		io.WriteString(c, "PUT /x HTTP/1.1\r\nHost: b\r\n"+framing+"\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != 403 {
			t.Fatal(framing, err)
		}
	}
	c := i.dial()
	r := bufio.NewReader(c)
	for _, size := range []int{1, maxUnread - 1, maxUnread, 10} {
		fmt.Fprintf(c, "PUT /x HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != 403 {
			t.Fatal(size, err)
		}
		io.Copy(io.Discard, res.Body)
	}
	io.WriteString(c, "GET /ok HTTP/1.1\r\nHost: b\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
		t.Fatal(err)
	}
	if seen, _ := server.take(); len(seen) != 1 {
		t.Error(seen)
	}
}

// TestTLSIsNotHTTP: what nobody can read is refused, with a reason.
func TestTLSIsNotHTTP(t *testing.T) {
	server, addr := newLaxServer(t)
	i := newInspection(t, addr, "GET /ok")
	if back := i.say("\x16\x03\x01\x02\x00\x01", time.Second); back != "" {
		t.Errorf("%q", back)
	}
	if rec := i.records.all(); len(rec) != 1 || rec[0].Verdict != "deny" || !strings.Contains(rec[0].Why, "TLS") {
		t.Errorf("%+v", rec)
	}
	if seen, wrong := server.take(); len(seen)+len(wrong) > 0 {
		t.Error(seen, wrong)
	}
}

// TestAttacksHTTP2: pseudo headers that a library would not send.
func TestAttacksHTTP2(t *testing.T) {
	server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {})
	i := newInspection(t, server.addr(), "GET /ok", "POST /ok/*")
	tests := []struct {
		name   string
		fields []string // name, value, …
		want   string   // status, or the error of the stream
		seen   string
	}{
		{"plain", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok"}, "200", "GET /ok b"},
		{"https", []string{":method", "GET", ":scheme", "https", ":authority", "b", ":path", "/ok"}, "200", "GET /ok b"},
		{"denied", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/secret"}, "403", ""},
		{"no slash", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "ok"}, "PROTOCOL_ERROR", ""},
		{"absolute", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "http://b/ok"}, "400", ""},
		{"star", []string{":method", "OPTIONS", ":scheme", "http", ":authority", "b", ":path", "*"}, "400", ""},
		{"two slashes", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "//ok"}, "400", ""},
		{"space in path", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok HTTP/1.1"}, "400", ""},
		{"line in path", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok\r\nX: y"}, "PROTOCOL_ERROR", ""},
		{"space in method", []string{":method", "GET /ok", ":scheme", "http", ":authority", "b", ":path", "/secret"}, "400", ""},
		{"two paths", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok", ":path", "/secret"}, "PROTOCOL_ERROR", ""},
		{"path after headers", []string{":method", "GET", ":scheme", "http", ":authority", "b", "x-a", "b", ":path", "/ok"}, "PROTOCOL_ERROR", ""},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "b"}, "PROTOCOL_ERROR", ""},
		{"other scheme", []string{":method", "GET", ":scheme", "file", ":authority", "b", ":path", "/ok"}, "PROTOCOL_ERROR", ""},
		{"authority and host", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok", "host", "c"}, "200", "GET /ok b"},
		{"host alone", []string{":method", "GET", ":scheme", "http", ":path", "/ok", "host", "b"}, "200", "GET /ok b"},
		{"no host", []string{":method", "GET", ":scheme", "http", ":path", "/ok"}, "400", ""},
		{"userinfo", []string{":method", "GET", ":scheme", "http", ":authority", "c@b", ":path", "/ok"}, "PROTOCOL_ERROR", ""},
		{"authority with a path", []string{":method", "GET", ":scheme", "http", ":authority", "b/x", ":path", "/ok"}, "400", ""},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "b:80"}, "400", ""},
		{"extended CONNECT", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "b", ":path", "/ok"}, "PROTOCOL_ERROR", ""},
		{"connection header", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok", "connection", "x-bulkhead-source"}, "400", ""},
		{"coding", []string{":method", "POST", ":scheme", "http", ":authority", "b", ":path", "/ok/1", "transfer-encoding", "chunked"}, "400", ""},
		{"upper case", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok", "X-A", "b"}, "PROTOCOL_ERROR", ""},
		{"line in value", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok", "x-a", "b\r\nx: y"}, "PROTOCOL_ERROR", ""},
		{"forged source", []string{":method", "GET", ":scheme", "http", ":authority", "b", ":path", "/ok", "x-bulkhead-source", "z", "x_bulkhead_source", "z", "x-http-method-override", "PUT"}, "200", "GET /ok b"},
		{"wrong length", []string{":method", "POST", ":scheme", "http", ":authority", "b", ":path", "/ok/1", "content-length", "10"}, "200", "POST /ok/1 b"},
		{"gRPC denied", []string{":method", "POST", ":scheme", "http", ":authority", "b", ":path", "/p.S/M", "content-type", "application/grpc"}, "200 grpc 7", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(server.requests())
			if got := i.frames(t, tt.fields); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			seen := ""
			for _, r := range server.requests()[before:] {
				seen += r.Method + " " + r.RequestURI + " " + r.Host
				for name, values := range r.Header {
					if reservedHeader(name) && !slices.Equal(values, []string{proven}) {
						t.Errorf("%s: %q", name, values)
					}
				}
			}
			if seen != tt.seen {
				t.Errorf("the server saw %q, want %q", seen, tt.seen)
			}
		})
	}
}

// http2Request is the bytes of a connection with one request of these fields.
func http2Request(fields []string) []byte {
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&out, nil)
	fr.AllowIllegalWrites = true
	_ = fr.WriteSettings()
	enc := hpack.NewEncoder(&block)
	for ; len(fields) > 0; fields = fields[2:] {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[0], Value: fields[1]})
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	return out.Bytes()
}

// frames makes a request of HTTP/2 by hand and returns what comes of it.
func (i *inspection) frames(t *testing.T, fields []string) string {
	t.Helper()
	c := i.dial()
	if _, err := c.Write(http2Request(fields)); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			out := f.PseudoValue("status")
			for _, field := range f.RegularFields() {
				if field.Name == "grpc-status" {
					out += " grpc " + field.Value
				}
			}
			return out
		case *http2.RSTStreamFrame:
			return f.ErrCode.String()
		case *http2.GoAwayFrame:
			return f.ErrCode.String()
		}
	}
}

// TestUnsolicitedAnswers: bytes that a server sends without being asked are never
// taken for the answer to a later request.
func TestUnsolicitedAnswers(t *testing.T) {
	var n atomic.Int64
	server := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		n := n.Add(1)
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n)
		for line := ""; line != "\r\n"; line, _ = r.ReadString('\n') {
		}
		io.WriteString(c, answer+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
		_, _ = r.ReadByte()
	})
	i := newInspection(t, server, "GET")
	c := i.client(1)
	for want := 1; want <= 3; want++ {
		if _, body := fetch(t, c, request(t, "GET", i.url("/x"), nil)); body != fmt.Sprint(want) {
			t.Errorf("request %d got %q", want, body)
		}
	}
}

func TestServerAnswersNonsense(t *testing.T) {
	for _, answer := range []string{
		"", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", answerHeadBytes+1) + "\r\n\r\n",
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInformational+1),
	} {
		server := rawServer(t, func(c net.Conn, r *bufio.Reader) {
			for line := ""; line != "\r\n"; line, _ = r.ReadString('\n') {
			}
			io.WriteString(c, answer)
		})
		i := newInspection(t, server, "GET")
		res, body := fetch(t, i.client(1), request(t, "GET", i.url("/x"), nil))
		if res.StatusCode != 502 {
			t.Errorf("%.60q: %d %s", answer, res.StatusCode, body)
		}
	}
}

func TestHostName(t *testing.T) {
	for in, want := range map[string]string{
		"b": "b", "B.Example.": "b.example", "b:8080": "b", "127.0.0.1:80": "127.0.0.1", "[::1]:80": "[::1]", "[::1]": "[::1]", "": "",
	} {
		if got, ok := hostName(in); got != want || !ok {
			t.Errorf("%q: %q %v", in, got, ok)
		}
	}
	for _, in := range []string{"a b", "a/b", "a@b", "a%62", "a,b", "ä", "a\x00", "a?b", "a#b", `a\b`} {
		if _, ok := hostName(in); ok {
			t.Errorf("%q is a host", in)
		}
	}
}
