package outside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	// MaxHello is the most bytes that the records of a ClientHello may take. Who
	// has read so many gets another answer than [ErrMore].
	MaxHello = 64 << 10
	// maxFragments is how many records may carry it. Some clients break it into
	// pieces of one byte.
	maxFragments  = 4096
	maxExtensions = 128
	maxALPN       = 64

	recordHeader    = 5
	maxRecord       = 1 << 14
	handshakeRecord = 22
	handshakeHeader = 4
	clientHello     = 1

	extServerName = 0
	extALPN       = 16
)

var (
	// ErrMore says that more bytes are needed.
	ErrMore = errors.New("the ClientHello is not complete")
	// ErrNotTLS says that a connection does not begin with a handshake of TLS.
	ErrNotTLS = errors.New("the connection does not begin with a TLS handshake")
)

// Hello is what a ClientHello says of where it goes. ServerName is as the client
// wrote it: not canonical, perhaps not even a name. EncryptedHello is set for the
// decoys of clients that encrypt nothing too (GREASE), which nobody but the server
// tells apart.
type Hello struct {
	ServerName     string
	HasServerName  bool
	EncryptedHello bool
	ALPN           []string
}

// ParseHello reads the ClientHello with which a connection begins. The bytes are
// all that came so far; n is how many of them its records take. Errors are
// [ErrMore], [ErrNotTLS], or say how it is malformed.
func ParseHello(b []byte) (h Hello, n int, err error) {
	n, fragments, err := helloRecords(b)
	if err != nil {
		return Hello{}, 0, err
	}
	message := b[recordHeader:n]
	if fragments > 1 {
		message = make([]byte, 0, n)
		for at := 0; at < n; {
			end := at + recordHeader + int(binary.BigEndian.Uint16(b[at+3:]))
			message = append(message, b[at+recordHeader:end]...)
			at = end
		}
	}
	if h, err = parseClientHello(message[handshakeHeader:]); err != nil {
		return Hello{}, 0, fmt.Errorf("malformed ClientHello: %w", err)
	}
	return h, n, nil
}

// helloRecords finds the records of a ClientHello without reading it, so that
// asking again with every byte stays cheap.
func helloRecords(b []byte) (n, fragments int, err error) {
	var head [handshakeHeader]byte
	for got, want := 0, handshakeHeader; ; fragments++ {
		if fragments == maxFragments || n+recordHeader > MaxHello {
			return 0, 0, errLongHello
		}
		size, err := recordSize(b[n:], fragments == 0)
		if err != nil {
			return 0, 0, err
		}
		fragment := b[n+recordHeader:]
		fragment = fragment[:min(size, len(fragment))]
		if got < handshakeHeader {
			copy(head[got:], fragment)
			if got == 0 && len(fragment) > 0 && head[0] != clientHello {
				return 0, 0, fmt.Errorf("the TLS handshake begins with message %d and not with a ClientHello", head[0])
			}
			if got+len(fragment) >= handshakeHeader {
				want = handshakeHeader + int(binary.BigEndian.Uint32(head[:])&0xffffff)
			}
		}
		got += size
		n += recordHeader + size
		switch complete := n <= len(b); {
		case n > MaxHello || want > MaxHello:
			return 0, 0, errLongHello
		case want > handshakeHeader && got > want:
			return 0, 0, errors.New("something follows the ClientHello in its record")
		case !complete:
			return 0, 0, ErrMore
		case want > handshakeHeader && got == want:
			return n, fragments + 1, nil
		case got >= handshakeHeader && want == handshakeHeader:
			return 0, 0, errors.New("the ClientHello is empty")
		}
	}
}

var errLongHello = fmt.Errorf("the ClientHello has more than %d bytes or %d records", MaxHello, maxFragments)

// recordSize reads the header of a record, as far as it came.
func recordSize(b []byte, first bool) (int, error) {
	bad := func(i int, ok func(byte) bool) bool { return len(b) > i && !ok(b[i]) }
	switch {
	case bad(0, func(c byte) bool { return c == handshakeRecord }),
		bad(1, func(c byte) bool { return c == 3 }),
		bad(2, func(c byte) bool { return c <= 4 }):
		if first {
			return 0, ErrNotTLS
		}
		return 0, errors.New("another record stands between those of the ClientHello")
	case len(b) < recordHeader:
		return 0, ErrMore
	}
	size := int(binary.BigEndian.Uint16(b[3:]))
	if size == 0 || size > maxRecord {
		return 0, fmt.Errorf("a TLS record of the ClientHello has %d bytes, and may have 1 to %d", size, maxRecord)
	}
	return size, nil
}

// wire reads what TLS writes. Once something was missing, it stays so.
type wire struct {
	rest []byte
	bad  bool
}

func (w *wire) take(n int) []byte {
	if w.bad || len(w.rest) < n {
		w.rest, w.bad = nil, true
		return nil
	}
	out := w.rest[:n]
	w.rest = w.rest[n:]
	return out
}

func (w *wire) number(bytes int) (n int) {
	for _, c := range w.take(bytes) {
		n = n<<8 | int(c)
	}
	return n
}

// vector reads a vector whose length stands before it in so many bytes.
func (w *wire) vector(bytes int) []byte { return w.take(w.number(bytes)) }

// list is a vector that is read further.
func (w *wire) list(bytes int) wire {
	v := w.vector(bytes)
	return wire{rest: v, bad: w.bad}
}

var errCut = errors.New("a length goes beyond its end")

// parseClientHello reads the message (RFC 8446 section 4.1.2).
func parseClientHello(b []byte) (h Hello, err error) {
	w := wire{rest: b}
	w.take(2 + 32) // version and random
	session, suites, compression := w.vector(1), w.vector(2), w.vector(1)
	switch {
	case w.bad:
		return h, errCut
	case len(session) > 32:
		return h, errors.New("the session identifier has more than 32 bytes")
	case len(suites) == 0 || len(suites)%2 != 0 || len(compression) == 0:
		return h, errors.New("no cipher suites or compression methods")
	case len(w.rest) == 0:
		return h, nil // extensions are not older than TLS 1.2
	}
	extensions := w.list(2)
	if extensions.bad || len(w.rest) > 0 {
		return h, errCut
	}
	var seen []int
	for len(extensions.rest) > 0 {
		kind := extensions.number(2)
		body := extensions.list(2)
		switch {
		case body.bad:
			return h, errCut
		case slices.Contains(seen, kind):
			return h, fmt.Errorf("extension %d stands there twice", kind)
		case len(seen) == maxExtensions:
			return h, fmt.Errorf("more than %d extensions", maxExtensions)
		}
		seen = append(seen, kind)
		if err := h.extension(kind, body); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h *Hello) extension(kind int, body wire) (err error) {
	switch {
	case kind == extServerName:
		h.ServerName, err = parseServerName(body)
		h.HasServerName = err == nil
	case kind == extALPN:
		h.ALPN, err = parseALPN(body)
	case isEncryptedHello(kind):
		h.EncryptedHello = true
	}
	return err
}

// isEncryptedHello reports whether an extension is encrypted_client_hello, of the
// outer or the inner ClientHello, or one of its drafts.
func isEncryptedHello(kind int) bool { return kind >= 0xfe08 && kind <= 0xfe0d || kind == 0xffce }

// parseServerName reads the extension server_name (RFC 6066 section 3). It can
// hold several names, of which servers take the first or the last.
func parseServerName(body wire) (string, error) {
	names := body.list(2)
	kind, name := names.number(1), names.vector(2)
	switch {
	case names.bad || len(body.rest) > 0:
		return "", fmt.Errorf("server_name: %w", errCut)
	case kind != 0:
		return "", errors.New("server_name: it holds something else than a host name")
	case len(names.rest) > 0:
		return "", errors.New("server_name: it holds more than one name")
	case len(name) == 0:
		return "", errors.New("server_name: the name is empty")
	}
	return string(name), nil
}

// parseALPN reads the protocols that the client offers (RFC 7301 section 3.1).
func parseALPN(body wire) (out []string, err error) {
	names := body.list(2)
	for len(names.rest) > 0 {
		name := names.vector(1)
		if len(name) == 0 || len(out) == maxALPN {
			return nil, fmt.Errorf("application_layer_protocol_negotiation: a name is empty or cut off, or there are more than %d", maxALPN)
		}
		out = append(out, string(name))
	}
	if len(out) == 0 || len(body.rest) > 0 {
		return nil, fmt.Errorf("application_layer_protocol_negotiation: %w", errCut)
	}
	return out, nil
}
