package flow

import (
	"net/netip"
	"strconv"
	"strings"
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
		var text [64]byte
		b = append(b, `,"addr":`...)
		b = appendString(b, p.Addr.AppendTo(text[:0])) // a zone can have anything in it
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

// appendTime appends a time, and null for one that RFC 3339 cannot say, for which
// encoding/json would refuse the record.
func appendTime(b []byte, t time.Time) []byte {
	text, err := t.AppendText(append(b, '"'))
	if err != nil {
		return append(b, "null"...)
	}
	return append(text, '"')
}

// plain are the bytes that stand for themselves in a string.
var plain = func() (set [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		set[c] = !strings.ContainsRune(`"\\<>&`, c)
	}
	return set
}()

const hex = "0123456789abcdef"

func appendString[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if (r != utf8.RuneError || size > 1) && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
			b = append(b, s[start:i]...)
			switch r {
			case '\u2028':
				b = append(b, `\u2028`...) // which JavaScript takes for the end of a line
			case '\u2029':
				b = append(b, `\u2029`...)
			default:
				b = append(b, `\ufffd`...)
			}
		} else {
			b = appendEscape(append(b, s[start:i]...), c)
		}
		i += size
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}
