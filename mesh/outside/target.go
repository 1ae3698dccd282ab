package outside

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const (
	// maxAuthority is the longest name, its trailing dot, a colon and a port.
	maxAuthority = maxName + 1 + 1 + 5
	// MaxURL is the longest request target that [ParseURL] reads.
	MaxURL = 16 << 10
)

// ErrScheme says that a request target is a URL of another scheme than http.
var ErrScheme = errors.New("only http:// is forwarded so: ask for everything else with CONNECT")

// Target is where a connection should go: to a name in canonical form or to an
// address, exactly one of which is set. An address is as it was written: an
// IPv4-mapped one stays one.
type Target struct {
	Host string
	Addr netip.Addr
	Port uint16
}

// String returns the authority that [ParseAuthority] reads as t.
func (t Target) String() string {
	if t.Addr.IsValid() {
		return netip.AddrPortFrom(t.Addr, t.Port).String()
	}
	return t.Host + ":" + strconv.Itoa(int(t.Port))
}

// ParseAuthority reads the target of CONNECT, which is a host and a port (RFC
// 9112 section 3.2.3).
func ParseAuthority(text string) (Target, error) { return ParseHost(text, 0) }

// ParseHost reads a Host header or the authority of a URL: a host, and a port
// that may be missing if there is a default.
func ParseHost(text string, defaultPort uint16) (Target, error) {
	if text == "" {
		return Target{}, errors.New("no host: write a name and a port, such as api.example.com:443")
	}
	if len(text) > maxAuthority {
		return Target{}, refused(text, fmt.Errorf("a host and a port have at most %d bytes", maxAuthority))
	}
	if strings.Contains(text, "@") {
		return Target{}, refused(text, badByte('@'))
	}
	host, t := text, Target{Port: defaultPort}
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, ']') {
		port, ok := parsePort(text[i+1:])
		if !ok {
			return Target{}, refused(text, errors.New("a port is a plain decimal number from 1 to 65535"))
		}
		host, t.Port = text[:i], port
	}
	if t.Port == 0 {
		return Target{}, refused(text, errors.New("no port: write it behind a colon, such as :443"))
	}
	var err error
	switch {
	case strings.HasPrefix(host, "["):
		t.Addr, err = parseBracketed(host)
	case isDottedQuad(host):
		t.Addr, err = netip.ParseAddr(host)
	default:
		t.Host, err = Canonical(host)
	}
	if err != nil {
		return Target{}, err
	}
	return t, nil
}

func isDottedQuad(text string) bool {
	if text == "" || text[0] < '0' || text[0] > '9' { // names are worth no error of the parser
		return false
	}
	a, err := netip.ParseAddr(text)
	return err == nil && a.Is4()
}

// parsePort reads a port in the one way to write it.
func parsePort(text string) (uint16, bool) {
	if strings.HasPrefix(text, "0") {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil
}

func parseBracketed(text string) (netip.Addr, error) {
	inside, ok := strings.CutSuffix(text[1:], "]")
	a, err := netip.ParseAddr(inside)
	switch {
	case !ok || err != nil || !a.Is6():
		return netip.Addr{}, refused(text, badByte('['))
	case a.Zone() != "":
		return netip.Addr{}, refused(text, errors.New("an address with a zone is on this link, and not outside"))
	}
	return a, nil
}

// ParseURL reads a request target in absolute form (RFC 9112 section 3.2.2),
// which a client sends to a proxy for plain HTTP. The path is in origin form,
// with the query.
func ParseURL(target string) (scheme string, t Target, path string, err error) {
	if len(target) > MaxURL {
		return "", Target{}, "", fmt.Errorf("a request target has at most %d bytes", MaxURL)
	}
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= 0x20 || c >= 0x7f || c == '\\' || c == '#' {
			return "", Target{}, "", fmt.Errorf("%s cannot be in a request target: write it percent-encoded", strconv.QuoteRuneToASCII(rune(c)))
		}
	}
	scheme, rest, ok := strings.Cut(target, ":")
	if scheme = strings.ToLower(scheme); !ok || !isScheme(scheme) {
		return "", Target{}, "", errors.New("a request target is a whole URL, such as http://api.example.com/path")
	}
	if scheme != "http" {
		return "", Target{}, "", fmt.Errorf("scheme %s: %w", shown(scheme), ErrScheme)
	}
	if rest, ok = strings.CutPrefix(rest, "//"); !ok {
		return "", Target{}, "", errors.New("two slashes stand between http: and the host")
	}
	authority := rest
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	if t, err = ParseHost(authority, 80); err != nil {
		return "", Target{}, "", err
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if !isEncoded(path) {
		return "", Target{}, "", errors.New("a percent sign in a path is followed by two hexadecimal digits")
	}
	return scheme, t, path, nil
}

// isScheme reports whether a text in lower case is a scheme (RFC 3986 section 3.1).
func isScheme(text string) bool {
	for i := 0; i < len(text); i++ {
		c := text[i]
		letter, other := c >= 'a' && c <= 'z', c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return text != ""
}

// isEncoded reports whether the percent encoding of a path is complete. Queries
// are often written without any.
func isEncoded(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && (i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2])) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
