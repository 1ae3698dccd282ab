package calls

import (
	"encoding/binary"
	"encoding/csv"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parser recognises lines. It remembers the header of a table, and which client has
// which connection in a log that says so on another line.
type parser struct {
	header *table
	fds    map[string]string // tinyproxy: client by file descriptor
}

// table is a log with columns.
type table struct {
	format    string
	separator rune
	column    map[string]int
}

// maxFDs bounds what is remembered of a log.
const maxFDs = 1 << 16

func (p *parser) line(text string) (Call, outcome, string) {
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "":
		return Call{}, other, ""
	case strings.HasPrefix(trimmed, "{"):
		return parseJSON(trimmed)
	case strings.HasPrefix(text, "#"):
		return Call{}, p.zeekHeader(text), "Zeek"
	case p.header != nil:
		if c, what := p.row(text); what != unknown {
			return c, what, p.header.format
		}
	}
	if c, what := parseSquid(trimmed); what != unknown {
		return c, what, "Squid access.log"
	}
	if c, what := p.tinyproxy(trimmed); what != unknown {
		return c, what, "tinyproxy"
	}
	if h := vpcHeader(trimmed); h != nil {
		p.header = h
		return Call{}, other, h.format
	}
	if c, what := (&table{format: "VPC flow log", separator: ' ', column: vpcDefault}).read(trimmed); what != unknown && strings.HasPrefix(trimmed, "2 ") {
		return c, what, "VPC flow log"
	}
	if h := csvHeader(trimmed); h != nil {
		p.header = h
		return Call{}, other, h.format
	}
	return Call{}, unknown, ""
}

// place reads HOST:PORT, HOST, or an address with a port.
func place(text string, port uint16) (host string, addr netip.Addr, at uint16) {
	host, at = text, port
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, ']') && strings.Count(text, ":") == 1 || i > 0 && strings.HasPrefix(text, "[") && i > strings.LastIndexByte(text, ']') {
		if n, err := strconv.ParseUint(text[i+1:], 10, 16); err == nil {
			host, at = text[:i], uint16(n)
		}
	}
	host = strings.Trim(host, "[]")
	if a, err := netip.ParseAddr(host); err == nil {
		return "", a.Unmap(), at
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !isName(host) {
		return "", netip.Addr{}, at
	}
	return host, netip.Addr{}, at
}

// isName reports whether text can be a host name with a dot.
func isName(text string) bool {
	return len(text) <= 253 && strings.Contains(text, ".") && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
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
	port = 80
	if u.Scheme == "https" {
		port = 443
	}
	return place(u.Host, port)
}

// parseSquid reads a line of Squid's native format: time, ms, client, result/status,
// bytes, method, URL, user, hierarchy/peer, type.
func parseSquid(line string) (Call, outcome) {
	f := strings.Fields(line)
	if len(f) < 9 || !strings.Contains(f[3], "/") || !strings.Contains(f[8], "/") {
		return Call{}, unknown
	}
	at, err := strconv.ParseFloat(f[0], 64)
	n, err2 := strconv.ParseInt(f[4], 10, 64)
	if err != nil || err2 != nil {
		return Call{}, unknown
	}
	c := Call{Source: f[2], In: max(n, 0), Time: seconds(at), Denied: strings.Contains(f[3], "DENIED")}
	if f[7] != "-" {
		c.Source = f[7]
	}
	c.Host, c.Addr, c.Port = fromURL(f[5], f[6])
	return c, call
}

func seconds(at float64) time.Time {
	if at <= 0 || at > 1e11 {
		return time.Time{}
	}
	return time.UnixMilli(int64(at * 1000)).UTC()
}

var (
	tinyConnect = regexp.MustCompile(`^CONNECT\s+.*: Connect \(file descriptor (\d+)\): (\S+)(?: \[(\S+)\])?`)
	tinyRequest = regexp.MustCompile(`^CONNECT\s+.*: Request \(file descriptor (\d+)\): (\S+) (\S+) HTTP/`)
	tinyRefused = regexp.MustCompile(`^NOTICE\s+.*: Proxying refused on filtered (?:domain|url) "([^"]+)"`)
	tinyOther   = regexp.MustCompile(`^(CONNECT|INFO|NOTICE|WARNING|ERROR|CRITICAL)\s+\w{3} \d\d \d\d:\d\d:\d\d`)
)

// tinyproxy reads a line of its log. The client stands on an earlier line than the
// request.
func (p *parser) tinyproxy(line string) (Call, outcome) {
	if m := tinyConnect.FindStringSubmatch(line); m != nil {
		client := m[2]
		if m[3] != "" {
			client = m[3]
		}
		if len(p.fds) < maxFDs || p.fds[m[1]] != "" {
			p.fds[m[1]] = client
		}
		return Call{}, other
	}
	if m := tinyRequest.FindStringSubmatch(line); m != nil {
		c := Call{Source: p.fds[m[1]]}
		if c.Source == "" {
			c.Source = "unknown"
		}
		c.Host, c.Addr, c.Port = fromURL(m[2], m[3])
		return c, call
	}
	if tinyRefused.MatchString(line) || tinyOther.MatchString(line) {
		return Call{}, other
	}
	return Call{}, unknown
}

// vpcDefault is the default format of AWS VPC flow logs, version 2.
var vpcDefault = columns([]string{"version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end", "action", "log-status"})

func columns(names []string) map[string]int {
	out := make(map[string]int, len(names))
	for i, n := range names {
		if _, ok := out[n]; !ok {
			out[n] = i
		}
	}
	return out
}

// vpcHeader reads the header of a custom format.
func vpcHeader(line string) *table {
	f := strings.Fields(line)
	c := columns(f)
	if _, ok := c["dstaddr"]; !ok || len(f) < 3 {
		return nil
	}
	return &table{format: "VPC flow log", separator: ' ', column: c}
}

// zeekHeader reads the lines of a Zeek log that begin with #.
func (p *parser) zeekHeader(line string) outcome {
	if fields, ok := strings.CutPrefix(line, "#fields\t"); ok {
		p.header = &table{format: "Zeek", separator: '\t', column: columns(strings.Split(fields, "\t"))}
	}
	return other
}

// csvHeader recognises the header of a table that has somewhere to go to.
func csvHeader(line string) *table {
	for _, separator := range []rune{',', ';', '\t'} {
		r := csv.NewReader(strings.NewReader(line))
		r.Comma = separator
		f, err := r.Read()
		if err != nil || len(f) < 2 {
			continue
		}
		for i := range f {
			f[i] = strings.ToLower(strings.TrimSpace(f[i]))
		}
		t := &table{format: "CSV", separator: separator, column: columns(f)}
		if t.has(destinationColumns) && t.has(sourceColumns) {
			return t
		}
	}
	return nil
}

// The names that columns have, the better ones first.
var (
	sourceColumns      = []string{"source_workload", "workload", "id.orig_h", "srcaddr", "src_ip", "source_ip", "source_source_ip", "src", "source", "client", "client_ip", "saddr"}
	hostColumns        = []string{"server_name", "sni", "host", "hostname", "domain", "dst_host", "destination_name", "fqdn"}
	addrColumns        = []string{"id.resp_h", "dstaddr", "dst_ip", "destination_ip", "source_destination_ip", "dst", "destination", "daddr", "dest_ip"}
	destinationColumns = append(append([]string(nil), hostColumns...), addrColumns...)
	portColumns        = []string{"id.resp_p", "dstport", "dst_port", "destination_port", "source_destination_port", "dport", "port", "dest_port"}
	outColumns         = []string{"orig_bytes", "bytes_out", "bytes_sent", "source_network_bytes", "bytes", "request_body_len"}
	inColumns          = []string{"resp_bytes", "bytes_in", "bytes_received", "response_body_len"}
	timeColumns        = []string{"ts", "start", "timestamp", "source_timestamp", "time"}
	actionColumns      = []string{"action", "verdict", "decision"}
)

func (t *table) has(names []string) bool {
	for _, n := range names {
		if _, ok := t.column[n]; ok {
			return true
		}
	}
	return false
}

// row reads a line of the table whose header was read.
func (p *parser) row(line string) (Call, outcome) { return p.header.read(line) }

func (t *table) read(line string) (Call, outcome) {
	var f []string
	switch t.separator {
	case ' ':
		f = strings.Fields(line)
	case '\t':
		f = strings.Split(line, "\t")
	default:
		r := csv.NewReader(strings.NewReader(line))
		r.Comma, r.LazyQuotes = t.separator, true
		var err error
		if f, err = r.Read(); err != nil {
			return Call{}, unknown
		}
	}
	if len(f) < 2 || len(f) < len(t.column)/2 {
		return Call{}, unknown
	}
	get := func(names []string) string {
		for _, n := range names {
			if i, ok := t.column[n]; ok && i < len(f) && f[i] != "" && f[i] != "-" && f[i] != "(empty)" {
				return f[i]
			}
		}
		return ""
	}
	c := Call{Source: address(get(sourceColumns)), Out: number(get(outColumns)), In: number(get(inColumns)), Time: moment(get(timeColumns))}
	c.Port = uint16(min(number(get(portColumns)), 65535))
	c.Host, c.Addr, _ = place(get(hostColumns), c.Port)
	if host, addr, port := place(address(get(addrColumns)), c.Port); addr.IsValid() {
		c.Addr = addr
	} else if c.Host == "" {
		c.Host, c.Port = host, port
	}
	switch strings.ToLower(get(actionColumns)) {
	case "reject", "deny", "denied", "blocked", "drop", "dropped":
		c.Denied = true
	}
	return c, call
}

// address reads an address that a log keeps as a number.
func address(text string) string {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || len(text) < 8 {
		return text
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b).String()
}

func number(text string) int64 {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f > 1<<53 {
		return 0
	}
	return int64(f)
}

// moment reads a time: RFC 3339, or a number of seconds or milliseconds.
func moment(text string) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at.UTC()
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f <= 0 {
		return time.Time{}
	}
	if f > 1e11 {
		f /= 1000
	}
	return seconds(f)
}
