package calls

import (
	"encoding/binary"
	"encoding/csv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// table is a log with columns.
type table struct {
	format    string
	separator rune // 0 for white space
	column    map[string]int
}

const vpc = "VPC flow log"

// vpcFields is the default format of AWS VPC flow logs, version 2.
var vpcFields = []string{"version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end", "action", "log-status"}

var vpcDefault = columns(vpcFields)

// columns numbers the names of a header. The first of the same name counts.
func columns(names []string) map[string]int {
	out := make(map[string]int, len(names))
	for i, n := range names {
		n = strings.ToLower(strings.TrimSpace(n))
		if _, ok := out[n]; !ok {
			out[n] = i
		}
	}
	return out
}

// The names that columns have, the better ones first.
var (
	sourceColumns   = []string{"source_workload", "workload", "id.orig_h", "pkt-srcaddr", "srcaddr", "src_ip", "source_ip", "source_source_ip", "src", "source", "client", "client_ip", "saddr"}
	hostColumns     = []string{"server_name", "sni", "host", "hostname", "domain", "dst_host", "destination_name", "fqdn"}
	addrColumns     = []string{"id.resp_h", "pkt-dstaddr", "dstaddr", "dst_ip", "destination_ip", "source_destination_ip", "dst", "destination", "daddr", "dest_ip"}
	portColumns     = []string{"id.resp_p", "dstport", "dst_port", "destination_port", "source_destination_port", "dport", "port", "dest_port"}
	fromColumns     = []string{"id.orig_p", "srcport", "src_port", "source_port", "source_source_port", "sport"}
	protocolColumns = []string{"proto", "protocol", "ip_protocol", "transport", "network_transport"}
	outColumns      = []string{"orig_bytes", "bytes_out", "bytes_sent", "source_network_bytes", "bytes", "request_body_len"}
	inColumns       = []string{"resp_bytes", "bytes_in", "bytes_received", "response_body_len"}
	timeColumns     = []string{"ts", "start", "timestamp", "source_timestamp", "time"}
	actionColumns   = []string{"action", "verdict", "decision"}
)

// headerOf recognises the header of a table that has whence and whereto, nil if a
// line is none.
func headerOf(line string) *table {
	if f := strings.Fields(line); len(f) > 2 && slices.Contains(f, "dstaddr") && slices.Contains(f, "srcaddr") {
		return &table{format: vpc, column: columns(f)}
	}
	for _, separator := range []rune{',', ';', '\t'} {
		t := &table{format: "CSV", separator: separator}
		f := t.split(strings.TrimPrefix(line, "\ufeff"))
		if len(f) < 2 {
			continue
		}
		t.column = columns(f)
		if t.has(sourceColumns) && (t.has(hostColumns) || t.has(addrColumns)) {
			return t
		}
	}
	return nil
}

func (t *table) has(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { _, ok := t.column[n]; return ok })
}

// split returns the cells of a row, nil if it is none.
func (t *table) split(line string) []string {
	switch t.separator {
	case 0:
		return strings.Fields(line)
	case '\t':
		return strings.Split(line, "\t")
	}
	r := csv.NewReader(strings.NewReader(line))
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = t.separator, true, -1
	f, err := r.Read()
	if err != nil {
		return nil
	}
	return f
}

// row reads a line of the table whose header was read.
func (p *parser) row(line string) (Call, outcome) {
	f := p.header.split(line)
	if len(f) < len(p.header.column) {
		p.why = "it has fewer columns than the header"
		return Call{}, unknown
	}
	return p.header.call(p, f)
}

func (t *table) call(p *parser, f []string) (Call, outcome) {
	get := func(names []string) string {
		for _, n := range names {
			if i, ok := t.column[n]; ok && i < len(f) && f[i] != "" && f[i] != "-" && f[i] != "(empty)" {
				return f[i]
			}
		}
		return ""
	}
	switch get([]string{"log-status"}) {
	case "NODATA":
		return Call{}, other
	case "SKIPDATA":
		p.why = "the network skipped records here"
		return Call{}, unknown
	}
	c := Call{
		Source: sourceOf(address(get(sourceColumns))), Protocol: protocol(get(protocolColumns)), Port: port(get(portColumns)), From: port(get(fromColumns)),
		Out: number(get(outColumns)), In: number(get(inColumns)), Time: moment(get(timeColumns)), Method: strings.ToUpper(get([]string{"method"})),
	}
	to := address(get(addrColumns))
	_, c.Addr, _ = place(to, 0)
	if isNumber(to) || isNumber(c.Source) {
		p.why = "an address is a number, and not one of IPv4"
		return Call{}, unknown
	}
	for _, name := range []string{get(hostColumns), to} {
		host, addr, at := place(name, c.Port)
		switch {
		case c.Host != "" || c.Addr.IsValid() && !strings.Contains(host, "."):
		case addr.IsValid():
			c.Addr, c.Port = addr, at
		default:
			c.Host, c.Port = host, at
		}
	}
	switch strings.ToLower(get(actionColumns)) {
	case "reject", "deny", "denied", "blocked", "block", "drop", "dropped":
		c.Denied = true
	}
	return c, call
}

// address reads an IPv4 address that a table keeps as a number.
func address(text string) string {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || len(text) < minNumber {
		return text
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b).String()
}

// minNumber is how long a number is that stands for an address: shorter ones are
// names.
const minNumber = 8

func isNumber(text string) bool {
	return len(text) >= minNumber && strings.Trim(text, "0123456789") == ""
}
