package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"bulkhead/mesh/identity"
)

// ALPN is the version of the wire format.
const ALPN = identity.Protocol

type frameKind byte

const (
	frameOpen   frameKind = 1
	frameAccept frameKind = 2
	frameRefuse frameKind = 3
	frameData   frameKind = 4
	frameFin    frameKind = 5
	framePacket frameKind = 6
)

const (
	headerLen   = 4
	maxControl  = 4096
	maxData     = 256 << 10
	maxDatagram = 65535
)

// Request says what the client of a stream wants. Who it is, is not part of it.
type Request struct {
	// Workload is the name of the workload whose server is meant.
	Workload string
	Network  string // "tcp" or "udp"
	Port     uint16
	// ID names the connection in the records of both sides.
	ID string
	// Probe names the probe that this connection belongs to, empty for none.
	Probe string
}

// Refusal says why a request was refused.
type Refusal struct {
	Code       string // a word for programs: "denied", "unreachable"
	Says       string // for a record: lower case, one line
	Rule       string // the nearest permission, as file:line and name
	Generation uint64
}

// RefusedError is what the opener gets when the other side refused.
type RefusedError struct{ Refusal }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused by the other side (%s): %s", e.Code, e.Says)
}

// putHeader writes a header to the first bytes of b.
func putHeader(b []byte, k frameKind, n int) {
	b[0], b[1], b[2], b[3] = byte(k), byte(n>>16), byte(n>>8), byte(n)
}

// parseHeader reads a header and refuses lengths that its kind cannot have.
func parseHeader(h [headerLen]byte) (frameKind, int, error) {
	k, n := frameKind(h[0]), int(h[1])<<16|int(h[2])<<8|int(h[3])
	ok := false
	switch k {
	case frameOpen, frameRefuse:
		ok = n > 0 && n <= maxControl
	case frameAccept, frameFin:
		ok = n == 0
	case frameData:
		ok = n > 0 && n <= maxData
	case framePacket:
		ok = n <= maxDatagram
	}
	if !ok {
		return 0, 0, fmt.Errorf("frame of kind %d and %d bytes: not part of %s", k, n, ALPN)
	}
	return k, n, nil
}

var errFrame = errors.New("malformed frame: its fields do not fill it exactly")

func (r Request) encode() ([]byte, error) {
	var network byte
	switch r.Network {
	case "tcp":
		network = 1
	case "udp":
		network = 2
	default:
		return nil, fmt.Errorf("network %q: a tunnel carries tcp and udp", r.Network)
	}
	if err := r.valid(); err != nil {
		return nil, err
	}
	b := append(make([]byte, headerLen, 64), network)
	b = binary.BigEndian.AppendUint16(b, r.Port)
	for _, s := range []string{r.Workload, r.ID, r.Probe} {
		b = append(append(b, byte(len(s))), s...)
	}
	putHeader(b, frameOpen, len(b)-headerLen)
	return b, nil
}

// valid holds for what is sent and for what is received, so that nothing which
// a peer says can break a log line.
func (r Request) valid() error {
	if r.Port == 0 {
		return errors.New("port 0: a request names a port")
	}
	if r.Workload == "" {
		return errors.New("empty workload: a request names a workload")
	}
	for _, s := range []string{r.Workload, r.ID, r.Probe} {
		if len(s) > 255 {
			return fmt.Errorf("%.20s…: longer than 255 bytes", s)
		}
		if strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return fmt.Errorf("%q: a request holds printable ASCII without spaces", s)
		}
	}
	return nil
}

func decodeRequest(b []byte) (Request, error) {
	if len(b) < 3 {
		return Request{}, errFrame
	}
	r := Request{Port: binary.BigEndian.Uint16(b[1:])}
	switch b[0] {
	case 1:
		r.Network = "tcp"
	case 2:
		r.Network = "udp"
	default:
		return Request{}, fmt.Errorf("network %d: a tunnel carries tcp (1) and udp (2)", b[0])
	}
	b = b[3:]
	for _, s := range []*string{&r.Workload, &r.ID, &r.Probe} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return Request{}, errFrame
		}
		*s, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	if len(b) > 0 {
		return Request{}, errFrame
	}
	return r, r.valid()
}

// maxReason bounds each text of a refusal, three of which fit a control frame.
const maxReason = 1024

func (r Refusal) encode() []byte {
	b := make([]byte, headerLen, 128)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	for _, s := range []string{r.Code, r.Says, r.Rule} {
		s = printable(s)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	putHeader(b, frameRefuse, len(b)-headerLen)
	return b
}

func decodeRefusal(b []byte) (Refusal, error) {
	if len(b) < 8 {
		return Refusal{}, errFrame
	}
	r := Refusal{Generation: binary.BigEndian.Uint64(b)}
	b = b[8:]
	for _, s := range []*string{&r.Code, &r.Says, &r.Rule} {
		if len(b) < 2 {
			return Refusal{}, errFrame
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > maxReason || len(b) < 2+n {
			return Refusal{}, errFrame
		}
		*s, b = printable(string(b[2:2+n])), b[2+n:]
	}
	if len(b) > 0 {
		return Refusal{}, errFrame
	}
	return r, nil
}

// printable makes one line of text that is safe in a record, cut to maxReason.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
	if len(s) <= maxReason {
		return s
	}
	s = s[:maxReason]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
