package outside

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

func TestFirstBytesOfHTTP(t *testing.T) {
	for text, want := range map[string][2]bool{
		"": {false, true}, "G": {false, true}, "GET": {false, true}, "GET ": {true, false}, "GET / HTTP/1.1\r\n": {true, false},
		"M-SEARCH * HTTP/1.1": {true, false}, "CONNECT a:1": {true, false}, "PRI": {false, true}, "PRI * HTTP/2.0": {false, false},
		" GET": {false, false}, "\r\nGET /": {false, false}, "GET\t/": {false, false}, "get /": {false, false}, "-GET /": {false, false},
		"GET\x00 /": {false, false}, "\x16\x03\x01": {false, false}, "\x80": {false, false}, "SSH-2.0-OpenSSH_9 x": {false, false},
		strings.Repeat("A", maxMethod) + " /": {true, false}, strings.Repeat("A", maxMethod+1): {false, false}, strings.Repeat("A", maxMethod): {false, true},
	} {
		if yes, more := LooksLikeHTTP([]byte(text)); [2]bool{yes, more} != want {
			t.Errorf("%q: %v, %v", text, yes, more)
		}
	}
}

func FuzzLooksLikeHTTP(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		yes, more := LooksLikeHTTP(b)
		if yes && more || more && len(b) > maxMethod {
			t.Errorf("%q: %v, %v", b, yes, more)
		}
		for i := range b {
			if y, m := LooksLikeHTTP(b[:i]); !m && (y != yes || more) {
				t.Errorf("%q: %v, %v after %d bytes, and then %v, %v", b, y, m, i, yes, more)
			}
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(b))))
		if err == nil && r.Method != "PRI" && strings.Trim(r.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == "" && r.Method[0] != '-' && len(r.Method) <= maxMethod &&
			b[0] != '\r' && b[0] != '\n' && !yes {
			t.Errorf("%q is a request", b)
		}
	})
}
