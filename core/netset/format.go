package netset

import (
	"fmt"
	"strconv"
	"strings"
)

// String returns the form used in every answer: `TCP 5432,6000-6010; UDP 53`,
// `all` for everything and the empty string for nothing. Ports limited to some
// requests are followed by them in brackets: `TCP 8080 [GET /features/*]`.
func (t Traffic) String() string {
	if t.IsAll() {
		return "all"
	}
	var b strings.Builder
	for i := 0; i < len(t.segs); {
		s := t.segs[i]
		// Ports with the same requests share one clause; clauses follow the
		// order of their lowest port.
		if i > 0 && t.sharesClause(i) {
			i++
			continue
		}
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		b.WriteString(s.proto.String())
		t.writeValues(&b, i)
		if s.requests != nil {
			fmt.Fprintf(&b, " [%s]", s.requests)
		}
		i++
	}
	return b.String()
}

// sharesClause reports whether an earlier segment opens the clause of segment i.
func (t Traffic) sharesClause(i int) bool {
	for j := i - 1; j >= 0 && t.segs[j].proto == t.segs[i].proto; j-- {
		if sameRequests(t.segs[j].requests, t.segs[i].requests) {
			return true
		}
	}
	return false
}

func (t Traffic) writeValues(b *strings.Builder, i int) {
	first := t.segs[i]
	lo, hi := first.proto.bounds()
	if !first.proto.HasPorts() && first.lo == lo && first.hi == hi {
		return
	}
	sep := " "
	for ; i < len(t.segs) && t.segs[i].proto == first.proto; i++ {
		s := t.segs[i]
		if !sameRequests(s.requests, first.requests) {
			continue
		}
		b.WriteString(sep)
		sep = ","
		b.WriteString(formatRun(s))
	}
}

func formatRun(s segment) string {
	if s.proto != ICMP && s.proto != ICMPv6 {
		if s.lo == s.hi {
			return strconv.Itoa(int(s.lo))
		}
		return fmt.Sprintf("%d-%d", s.lo, s.hi)
	}
	wholeTypes := s.lo&0xff == 0 && s.hi&0xff == 0xff
	switch {
	case wholeTypes && s.lo>>8 == s.hi>>8:
		return strconv.Itoa(int(s.lo >> 8))
	case wholeTypes:
		return fmt.Sprintf("%d-%d", s.lo>>8, s.hi>>8)
	case s.lo == s.hi:
		return fmt.Sprintf("%d/%d", s.lo>>8, s.lo&0xff)
	}
	return fmt.Sprintf("%d/%d-%d/%d", s.lo>>8, s.lo&0xff, s.hi>>8, s.hi&0xff)
}

// ParseTraffic reads what [Traffic.String] prints for sets without requests,
// and the shorter `tcp/443`. It is meant for questions and tests.
func ParseTraffic(text string) (Traffic, error) {
	text = strings.TrimSpace(text)
	switch text {
	case "":
		return Traffic{}, nil
	case "all", "any":
		return All(), nil
	}
	var t Traffic
	for clause := range strings.SplitSeq(text, ";") {
		u, err := parseClause(strings.TrimSpace(clause))
		if err != nil {
			return Traffic{}, err
		}
		t = t.Union(u)
	}
	return t, nil
}

// ParseProtocol reads the name of a protocol in any letter case.
func ParseProtocol(name string) (Protocol, bool) {
	for p := range protocols {
		if strings.EqualFold(protocolNames[p], name) {
			return p, true
		}
	}
	return 0, false
}

func parseClause(clause string) (Traffic, error) {
	name, values, found := strings.Cut(clause, " ")
	if !found {
		name, values, found = strings.Cut(clause, "/")
	}
	p, ok := ParseProtocol(name)
	if !ok {
		return Traffic{}, fmt.Errorf("protocol %q is not one of TCP, UDP, SCTP, ICMP, ICMPv6, IP", name)
	}
	if !found || values == "" {
		return Whole(p), nil
	}
	var t Traffic
	for value := range strings.SplitSeq(values, ",") {
		from, to, ranged := strings.Cut(strings.TrimSpace(value), "-")
		if !ranged {
			to = from
		}
		lo, _, err := parseValue(p, from)
		if err != nil {
			return Traffic{}, err
		}
		_, hi, err := parseValue(p, to)
		if err != nil {
			return Traffic{}, err
		}
		if lo > hi {
			return Traffic{}, fmt.Errorf("range %q of %s ends before it starts", value, p)
		}
		t = t.Union(Ports(p, lo, hi))
	}
	return t, nil
}

// parseValue returns the least and greatest value that text stands for: an
// ICMP type without a code stands for all its codes.
func parseValue(p Protocol, text string) (lo, hi uint16, err error) {
	if p == ICMP || p == ICMPv6 {
		typ, code, hasCode := strings.Cut(text, "/")
		t, err := strconv.ParseUint(typ, 10, 8)
		if err != nil {
			return 0, 0, fmt.Errorf("%s type %q is not a number from 0 to 255", p, typ)
		}
		if !hasCode {
			return uint16(t) << 8, uint16(t)<<8 | 0xff, nil
		}
		c, err := strconv.ParseUint(code, 10, 8)
		if err != nil {
			return 0, 0, fmt.Errorf("%s code %q is not a number from 0 to 255", p, code)
		}
		v := uint16(t)<<8 | uint16(c)
		return v, v, nil
	}
	first, last := p.bounds()
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || uint16(n) < first || uint16(n) > last {
		return 0, 0, fmt.Errorf("%s value %q is not a number from %d to %d", p, text, first, last)
	}
	return uint16(n), uint16(n), nil
}
