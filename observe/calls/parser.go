package calls

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parser recognises lines. It remembers the header of a table, and what a log says on
// an earlier line than it is needed.
type parser struct {
	format string // of the line
	why    string // it is not understood
	last   string // the format of the last line that was understood

	header     *table
	headerText string
	skip       bool // the rows of this Zeek log are no calls

	clients  map[string]string // tinyproxy: client by file descriptor
	requests map[string]Call   // tinyproxy: the last request for a host
}

// maxRemembered bounds what is remembered of a log.
const maxRemembered = 1 << 16

func (p *parser) line(text string) (Call, outcome) {
	c, what := p.recognise(text)
	if what != unknown {
		p.last = p.format
	}
	return c, what
}

func (p *parser) recognise(text string) (Call, outcome) {
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "":
		return Call{}, other
	case trimmed[0] == '{':
		return p.json(trimmed)
	case text[0] == '#':
		return Call{}, p.zeekHeader(text)
	case p.header != nil && text == p.headerText:
		p.format = p.header.format
		return Call{}, other // repeated where logs were joined
	case p.header != nil && p.skip:
		p.format = p.header.format
		return Call{}, other
	case p.header != nil:
		p.format = p.header.format
		return p.row(text)
	}
	if c, what := p.squid(trimmed); what != unknown {
		return c, what
	}
	if c, what := p.tinyproxy(trimmed); what != unknown {
		return c, what
	}
	if h := headerOf(text); h != nil {
		p.header, p.headerText, p.format = h, text, h.format
		return Call{}, other
	}
	if strings.HasPrefix(trimmed, "2 ") {
		if f := strings.Fields(trimmed); len(f) == len(vpcFields) {
			p.format = vpc
			return (&table{format: vpc, column: vpcDefault}).call(p, f)
		}
	}
	return Call{}, unknown
}

// place reads HOST:PORT, HOST, or an address with or without a port.
func place(text string, port uint16) (host string, addr netip.Addr, at uint16) {
	if a, ok := bareAddr(text); ok {
		return "", a, port
	}
	host, at = text, port
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, ']') {
		if n, err := strconv.ParseUint(text[i+1:], 10, 16); err == nil {
			host, at = text[:i], uint16(n)
		}
	}
	if a, ok := bareAddr(host); ok {
		return "", a, at
	}
	host, _ = hostName(host)
	return host, netip.Addr{}, at
}

// bareAddr reads an address, with or without brackets.
func bareAddr(text string) (netip.Addr, bool) {
	if n := len(text); n > 2 && text[0] == '[' && text[n-1] == ']' {
		text = text[1 : n-1]
	}
	if strings.ContainsAny(text, "[]") {
		return netip.Addr{}, false // a zone may hold anything
	}
	a, err := netip.ParseAddr(text)
	return a.WithZone("").Unmap(), err == nil
}

// hostName reads whatever was asked for as a host. It need not be a valid name: who
// asks for an odd one should be seen. But a text with a user or a path in it is not
// repeated anywhere.
func hostName(text string) (string, bool) {
	text = strings.ToLower(strings.TrimSuffix(text, "."))
	if text == "" || text == "-" || len(text) > maxHost {
		return "", false
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || strings.IndexByte(`/@?#\"`, c) >= 0 {
			return "", false
		}
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return "", false
	}
	return text, true
}

// fromURL reads where a URL, or the target of a CONNECT, leads.
func fromURL(method, target string) (host string, addr netip.Addr, port uint16) {
	if method == "CONNECT" || !strings.Contains(target, "://") {
		return place(target, 443)
	}
	u, err := url.Parse(target)
	if err != nil {
		return "", netip.Addr{}, 0
	}
	switch u.Scheme {
	case "http", "ws":
		port = 80
	case "ftp":
		port = 21
	default:
		port = 443
	}
	return place(u.Host, port)
}

// squid reads a line of Squid's native format: time, ms, client, result/status,
// bytes, method, URL, user, hierarchy/peer, type.
func (p *parser) squid(line string) (Call, outcome) {
	f := strings.Fields(line)
	if len(f) < 9 || !strings.Contains(f[3], "/") || !strings.Contains(f[8], "/") {
		return Call{}, unknown
	}
	at, err := strconv.ParseFloat(f[0], 64)
	n, err2 := strconv.ParseInt(f[4], 10, 64)
	if err != nil || err2 != nil {
		return Call{}, unknown
	}
	p.format = "Squid access.log"
	if strings.HasPrefix(f[6], "error:") {
		return Call{}, other // no request was read
	}
	c := Call{Source: sourceOf(f[2]), Asked: true, In: max(n, 0), Time: seconds(at), Method: f[5]}
	// Where a reply was refused the request had left.
	c.Denied = strings.Contains(f[3], "DENIED") && !strings.Contains(f[3], "DENIED_REPLY")
	if f[7] != "-" {
		c.Source = f[7]
	}
	c.Host, c.Addr, c.Port = fromURL(f[5], f[6])
	// Unless another proxy was asked, the peer is the server.
	if how, peer, _ := strings.Cut(f[8], "/"); !c.Addr.IsValid() && (strings.HasSuffix(how, "DIRECT") || strings.HasSuffix(how, "ORIGINAL_DST") || how == "PINNED") {
		_, c.Addr, _ = place(peer, 0)
	}
	return c, call
}

func seconds(at float64) time.Time {
	if !(at > 0 && at < 1e11) {
		return time.Time{}
	}
	return time.UnixMilli(int64(at * 1000)).UTC()
}

var (
	tinyConnect = regexp.MustCompile(`^CONNECT\s+[^:]*:\d\d:\d\d(?:\.\d+)? \[\d+\]: Connect \(file descriptor (\d+)\): (\S+)(?: \[(\S+)\])?`)
	tinyRequest = regexp.MustCompile(`^CONNECT\s+[^:]*:\d\d:\d\d(?:\.\d+)? \[\d+\]: Request \(file descriptor (\d+)\): (\S+) (\S+) HTTP/`)
	tinyRefused = regexp.MustCompile(`^NOTICE\s+[^:]*:\d\d:\d\d(?:\.\d+)? \[\d+\]: Proxying refused on filtered (?:domain|url) "([^"]+)"`)
	tinyOther   = regexp.MustCompile(`^(CONNECT|INFO|NOTICE|WARNING|ERROR|CRITICAL)\s+\w{3} \d\d \d\d:\d\d:\d\d`)
)

// tinyproxy reads a line of its log. The client stands on an earlier line than the
// request, and a refusal on a later one.
func (p *parser) tinyproxy(line string) (Call, outcome) {
	if !tinyOther.MatchString(line) {
		return Call{}, unknown
	}
	p.format = "tinyproxy"
	if m := tinyConnect.FindStringSubmatch(line); m != nil {
		client := m[2]
		if m[3] != "" {
			client = m[3]
		}
		if _, known := p.clients[m[1]]; known || len(p.clients) < maxRemembered {
			p.clients[m[1]] = client
		}
		return Call{}, other
	}
	if m := tinyRequest.FindStringSubmatch(line); m != nil {
		c := Call{Source: sourceOf(p.clients[m[1]]), Asked: true, Method: m[2]}
		if c.Source == "" {
			c.Source = "unknown"
		}
		c.Host, c.Addr, c.Port = fromURL(m[2], m[3])
		if _, known := p.requests[c.Host]; known || len(p.requests) < maxRemembered {
			p.requests[c.Host] = c
		}
		return c, call
	}
	if m := tinyRefused.FindStringSubmatch(line); m != nil {
		host, _, _ := fromURL("", m[1])
		if c, ok := p.requests[host]; ok {
			c.Denied, c.More = true, true
			return c, call
		}
	}
	return Call{}, other
}

// zeekPaths are the logs of Zeek whose rows are connections or requests. One that
// does not say which it is may be.
var zeekPaths = map[string]bool{"": true, "conn": true, "ssl": true, "http": true, "dns": true, "quic": true}

// zeekHeader reads the lines of a Zeek log that begin with #.
func (p *parser) zeekHeader(line string) outcome {
	if path, ok := strings.CutPrefix(line, "#path\t"); ok {
		p.skip = !zeekPaths[strings.TrimSpace(path)]
	}
	if fields, ok := strings.CutPrefix(line, "#fields\t"); ok {
		p.format = "Zeek"
		p.header, p.headerText = &table{format: "Zeek", separator: '\t', column: columns(strings.Split(fields, "\t"))}, line
	}
	return other
}

func number(text string) int64 {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0 && f < 1<<53) {
		return 0
	}
	return int64(f)
}

// port reads a port, 0 if it is none.
func port(text string) uint16 {
	if n := number(text); n <= 65535 {
		return uint16(n)
	}
	return 0
}

var protocols = map[string]string{"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "132": "sctp", "icmp6": "icmpv6", "ipv6-icmp": "icmpv6"}

// protocol reads the name or the IANA number of one, empty for none.
func protocol(text string) string {
	text = strings.ToLower(text)
	if name, ok := protocols[text]; ok {
		return name
	}
	if len(text) > 20 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return "unknown"
	}
	return text
}

// moment reads a time: RFC 3339, or a number of seconds or of what is shorter.
func moment(text string) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at.UTC()
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f < 1e20) {
		return time.Time{}
	}
	for f > 1e11 {
		f /= 1000
	}
	return seconds(f)
}
