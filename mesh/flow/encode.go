package flow

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends a record as encoding/json writes it, without its cost: the
// gateway writes two for each request.
func AppendJSON(b []byte, r *Record) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, r.ID)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, r.Seq, 10)
	b = append(b, `,"time":`...)
	b = appendTime(b, r.Time)
	b = append(b, `,"event":`...)
	b = appendString(b, string(r.Event))
	b = append(b, `,"node":`...)
	b = appendString(b, r.Node)
	b = append(b, `,"side":`...)
	b = appendString(b, string(r.Side))
	b = append(b, `,"from":`...)
	b = appendPeer(b, &r.From)
	b = append(b, `,"to":`...)
	b = appendPeer(b, &r.To)
	b = append(b, `,"transport":`...)
	b = appendString(b, r.Transport)
	b = appendText(b, "wire", r.Wire)
	b = append(b, `,"verdict":`...)
	b = appendString(b, r.Verdict)
	b = appendText(b, "rule", r.Rule)
	b = append(b, `,"generation":`...)
	b = strconv.AppendUint(b, r.Generation, 10)
	b = appendText(b, "why", r.Why)
	b = appendNumber(b, "bytes_out", r.BytesOut)
	b = appendNumber(b, "bytes_in", r.BytesIn)
	b = appendNumber(b, "duration_ns", int64(r.Duration))
	b = appendText(b, "method", r.Method)
	b = appendNumber(b, "status", int64(r.Status))
	b = appendText(b, "mode", r.Mode)
	if r.WouldDeny {
		b = append(b, `,"would_deny":true`...)
	}
	b = appendText(b, "aliases", r.Aliases)
	b = appendCount(b, "count", r.Count)
	b = appendText(b, "probe", r.Probe)
	b = appendCount(b, "lost_before", r.Lost)
	return append(b, '}')
}

func appendPeer(b []byte, p *Peer) []byte {
	start := len(b)
	b = appendText(b, "workload", p.Workload)
	b = appendText(b, "zone", p.Zone)
	b = appendText(b, "service", p.Service)
	b = appendText(b, "name", p.Name)
	b = appendNumber(b, "port", int64(p.Port))
	b = appendText(b, "id", p.ID)
	if p.Addr != (netip.AddrPort{}) {
		b = append(b, `,"addr":"`...)
		if p.Addr.IsValid() && p.Addr.Addr().Zone() == "" {
			b = p.Addr.AppendTo(b)
		} else if text, err := p.Addr.MarshalText(); err == nil {
			quoted := appendString(nil, string(text))
			b = append(b, quoted[1:len(quoted)-1]...)
		}
		b = append(b, '"')
	}
	if len(b) == start {
		return append(b, "{}"...)
	}
	b[start] = '{'
	return append(b, '}')
}

func appendText(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return appendString(b, value)
}

func appendNumber(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return strconv.AppendInt(b, n, 10)
}

func appendCount(b []byte, name string, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return strconv.AppendUint(b, n, 10)
}

func appendTime(b []byte, t time.Time) []byte {
	if y := t.Year(); y < 0 || y > 9999 {
		return append(b, "null"...) // encoding/json refuses the record
	}
	b = append(b, '"')
	b = t.AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// appendString appends a string; one that has anything to escape is given to
// encoding/json.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' || c >= utf8.RuneSelf && !continues(s, i) {
			quoted, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// continues reports whether the byte at i is within an arrow, which the names of
// permissions have.
func continues(s string, i int) bool {
	const arrow = "→"
	for back := range len(arrow) {
		if at := i - back; at >= 0 && at+len(arrow) <= len(s) && s[at:at+len(arrow)] == arrow {
			return true
		}
	}
	return false
}
