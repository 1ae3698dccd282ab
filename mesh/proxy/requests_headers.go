package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// sourceHeader names the source of a request, as its certificate proved it.
const sourceHeader = "X-Bulkhead-Source"

// hopByHop are the headers that are between a client and us, or between us and
// the server, and no part of the request.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}

// removeHopByHop removes what is not for the other side. A header that Connection
// lists is one of those; what we set ourselves is set after that.
func removeHopByHop(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// cleanRequest leaves in h what the server may see of a client's headers.
func cleanRequest(h http.Header, source string) {
	trailers := httpguts.HeaderValuesContainsToken(h["Te"], "trailers")
	removeHopByHop(h)
	if trailers {
		h["Te"] = []string{"trailers"}
	}
	for name := range h {
		if reservedHeader(name) {
			delete(h, name)
		}
	}
	if source != "" {
		h[sourceHeader] = []string{source}
	}
}

// reservedHeaders are ours, or ask a server to read a request as another one
// than the line that was decided. Servers that hand headers on as variables read
// '_' as '-'.
var reservedHeaders = []string{
	"x-http-method", "x-http-method-override", "x-method-override",
	"x-original-url", "x-rewrite-url",
}

const reservedPrefix = "x-bulkhead-"

func reservedHeader(name string) bool {
	if len(name) < len("x-?") || name[0] != 'X' && name[0] != 'x' || name[1] != '-' && name[1] != '_' {
		return false
	}
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	return strings.HasPrefix(name, reservedPrefix) || slices.Contains(reservedHeaders, name)
}

// upgradeOf returns what a request of HTTP/1.1 wants its connection to become,
// empty for nothing. What would bring further requests with it is not offered to
// the server, nor is anything together with a body: the request is served as if
// it had not asked, which every client must expect.
func upgradeOf(r *http.Request) string {
	asked := r.Header["Upgrade"]
	if r.ProtoMajor != 1 || !r.ProtoAtLeast(1, 1) || r.ContentLength != 0 || len(asked) != 1 ||
		!httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	for protocol := range strings.SplitSeq(asked[0], ",") {
		name, _, _ := strings.Cut(strings.ToLower(textproto.TrimString(protocol)), "/")
		if !httpguts.ValidHeaderFieldName(name) || name == "http" || name == "tls" || strings.HasPrefix(name, "h2") || strings.HasPrefix(name, "h3") {
			return ""
		}
	}
	return asked[0]
}

// hostName returns the name in a Host header as the decision sees it, and false
// if it could mean something else to somebody else.
func hostName(host string) (string, bool) {
	for i := range len(host) {
		switch b := host[i]; {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		case strings.IndexByte("-._:[]", b) >= 0:
		default:
			return "", false
		}
	}
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.TrimSuffix(strings.ToLower(host), "."), true
}
