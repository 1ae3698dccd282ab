package outside

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// wireConn is a connection of which the bytes are known, and to which writing
// has no effect.
type wireConn struct {
	net.Conn
	in io.Reader
}

func (c *wireConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *wireConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *wireConn) Close() error                { return nil }

// standard is how crypto/tls reads the bytes; ok is whether it takes the
// ClientHello.
func standard(b []byte) (seen tls.ClientHelloInfo, ok bool) {
	server := tls.Server(&wireConn{in: bytes.NewReader(b)}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		seen, ok = *i, true
		return nil, errors.New("seen")
	}})
	_ = server.Handshake()
	return seen, ok
}

// greeting is what the client of crypto/tls writes first.
func greeting(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	defer client.Close()
	c.InsecureSkipVerify = true
	go func() { _ = tls.Client(client, c).Handshake() }()
	_ = server.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, b); err != nil {
		t.Fatal(err)
	}
	b = append(b, make([]byte, binary.BigEndian.Uint16(b[3:]))...)
	if _, err := io.ReadFull(server, b[recordHeader:]); err != nil {
		t.Fatal(err)
	}
	return b
}

// echConfigs is an ECHConfigList with an X25519 key, for hidden names under
// public.allowed.test.
func echConfigs(t testing.TB) []byte {
	vector := func(bytes int, body ...byte) []byte {
		head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
		return append(head[4-bytes:], body...)
	}
	contents := append([]byte{1, 0, 0x20}, vector(2, append([]byte{9}, make([]byte, 31)...)...)...) // the base point
	contents = append(contents, vector(2, 0, 1, 0, 1)...)
	contents = append(contents, 64)
	contents = append(contents, vector(1, []byte("public.allowed.test")...)...)
	contents = append(contents, 0, 0)
	return vector(2, append([]byte{0xfe, 0x0d}, vector(2, contents...)...)...)
}

func greetings(t testing.TB) map[string][]byte {
	return map[string][]byte{
		"plain":   greeting(t, &tls.Config{ServerName: "api.allowed.test"}),
		"alpn":    greeting(t, &tls.Config{ServerName: "api.allowed.test", NextProtos: []string{"h2", "http/1.1"}}),
		"tls12":   greeting(t, &tls.Config{ServerName: "API.allowed.test", MaxVersion: tls.VersionTLS12}),
		"tls10":   greeting(t, &tls.Config{ServerName: "api.allowed.test", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}),
		"no name": greeting(t, &tls.Config{}),
		"address": greeting(t, &tls.Config{ServerName: "203.0.113.66"}), // crypto/tls sends none for it
		"ech":     greeting(t, &tls.Config{ServerName: "evil.test", EncryptedClientHelloConfigList: echConfigs(t), MinVersion: tls.VersionTLS13}),
	}
}

// records breaks the message of a ClientHello into records of so many bytes.
func records(hello []byte, size int) (out []byte) {
	for part := range slices.Chunk(hello[recordHeader:], size) {
		out = append(out, handshakeRecord, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

func TestHelloIsReadAsByTheStandardLibrary(t *testing.T) {
	for what, b := range greetings(t) {
		h, n, err := ParseHello(b)
		seen, ok := standard(b)
		if err != nil || n != len(b) || !ok || h.ServerName != seen.ServerName || h.HasServerName != (seen.ServerName != "") ||
			!slices.Equal(h.ALPN, seen.SupportedProtos) || h.EncryptedHello != (what == "ech") {
			t.Errorf("%s: %+v, %d of %d, %v; crypto/tls saw %q, %q", what, h, n, len(b), err, seen.ServerName, seen.SupportedProtos)
		}
		if want := map[string]string{"ech": "public.allowed.test", "tls12": "API.allowed.test", "no name": "", "address": ""}; what == "ech" || want[what] != "" {
			if h.ServerName != want[what] {
				t.Errorf("%s: name %q", what, h.ServerName)
			}
		}
	}
}

// However a ClientHello arrives and is fragmented, it reads the same, every part
// of it needs more, and what follows is left alone.
func TestHelloInPieces(t *testing.T) {
	for what, whole := range greetings(t) {
		want, _, _ := ParseHello(whole)
		for _, size := range []int{1, 2, 3, 4, 5, 7, 100, 255, 1 << 14} {
			b := records(whole, size)
			for i := range b {
				if _, _, err := ParseHello(b[:i]); err != ErrMore {
					t.Fatalf("%s in pieces of %d, %d bytes: %v", what, size, i, err)
				}
			}
			h, n, err := ParseHello(append(b, 20, 3, 3, 0, 1, 1, 22))
			if err != nil || n != len(b) || h.ServerName != want.ServerName || h.EncryptedHello != want.EncryptedHello || !slices.Equal(h.ALPN, want.ALPN) {
				t.Errorf("%s in pieces of %d: %+v, %d of %d, %v", what, size, h, n, len(b), err)
			}
		}
	}
}

// hello writes a ClientHello with these extensions.
func hello(extensions ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	all := bytes.Join(extensions, nil)
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	return record(append(body, all...))
}

// record puts the body of a ClientHello into its message and one record.
func record(body []byte) []byte {
	b := []byte{handshakeRecord, 3, 1, byte((len(body) + 4) >> 8), byte(len(body) + 4), clientHello, 0, byte(len(body) >> 8), byte(len(body))}
	return append(b, body...)
}

func extension(kind int, body string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(kind))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

func sized(text string) string { return string([]byte{byte(len(text) >> 8), byte(len(text))}) + text }

// named is an extension server_name with entries of the type host_name.
func named(names ...string) []byte {
	var list string
	for _, n := range names {
		list += "\x00" + sized(n)
	}
	return extension(extServerName, sized(list))
}

func TestHelloNames(t *testing.T) {
	versions := extension(43, "\x02\x03\x04")
	for what, c := range map[string]struct {
		b    []byte
		name string
		ok   bool
	}{
		"one name":              {hello(named("api.allowed.test"), versions), "api.allowed.test", true},
		"behind others":         {hello(versions, extension(0x1a1a, ""), named("api.allowed.test")), "api.allowed.test", true},
		"no name":               {hello(versions), "", true},
		"as written":            {hello(named("API.allowed.test.")), "API.allowed.test.", true},
		"an address":            {hello(named("203.0.113.66")), "203.0.113.66", true},
		"NUL":                   {hello(named("evil.test\x00.allowed.test")), "evil.test\x00.allowed.test", true},
		"no extensions at all":  {record(append(append([]byte{3, 3}, make([]byte, 32)...), 0, 0, 2, 0, 1, 1, 0)), "", true},
		"two names":             {hello(named("api.allowed.test", "evil.test")), "", false},
		"the same twice":        {hello(named("api.allowed.test", "api.allowed.test")), "", false},
		"two extensions":        {hello(named("api.allowed.test"), versions, named("evil.test")), "", false},
		"another one twice":     {hello(named("api.allowed.test"), versions, versions), "", false},
		"empty name":            {hello(named("")), "", false},
		"empty list":            {hello(named()), "", false},
		"empty extension":       {hello(extension(extServerName, "")), "", false},
		"other type":            {hello(extension(extServerName, sized("\x01"+sized("evil.test")))), "", false},
		"other type before":     {hello(extension(extServerName, sized("\x01"+sized("evil.test")+"\x00"+sized("api.allowed.test")))), "", false},
		"other type behind":     {hello(extension(extServerName, sized("\x00"+sized("api.allowed.test")+"\x01"+sized("evil.test")))), "", false},
		"behind the list":       {hello(extension(extServerName, sized("\x00"+sized("api.allowed.test"))+"x")), "", false},
		"list too long":         {hello(extension(extServerName, "\x00\xff\x00"+sized("api.allowed.test"))), "", false},
		"name too long":         {hello(extension(extServerName, sized("\x00\x00\xffapi.allowed.test"))), "", false},
		"behind the extensions": {record(append(hello(named("api.allowed.test"))[9:], 0)), "", false},
		"extensions cut off":    {record(hello(named("api.allowed.test"))[9:60]), "", false},
		"many extensions":       {hello(many(maxExtensions)...), "", true},
		"too many extensions":   {hello(many(maxExtensions + 1)...), "", false},
		"ALPN empty":            {hello(extension(extALPN, "\x00\x00")), "", false},
		"ALPN empty name":       {hello(extension(extALPN, "\x00\x01\x00")), "", false},
		"ALPN too many":         {hello(extension(extALPN, sized(strings.Repeat("\x01a", maxALPN+1)))), "", false},
		"session too long":      {record(append(append([]byte{3, 3}, make([]byte, 32)...), append([]byte{33}, make([]byte, 40)...)...)), "", false},
		"nothing":               {record(nil), "", false},
		"one byte":              {record([]byte{3}), "", false},
		"message beyond record": {append(hello(named("api.allowed.test"))[:3], append([]byte{0, 4, 1, 0, 0, 0}, handshakeRecord, 3, 1, 0, 1, 0)...), "", false},
		"two in one record":     {twice(hello(named("api.allowed.test"))), "", false},
		"ServerHello":           {[]byte{handshakeRecord, 3, 3, 0, 4, 2, 0, 0, 0}, "", false},
	} {
		h, n, err := ParseHello(c.b)
		if (err == nil) != c.ok || h.ServerName != c.name || h.HasServerName != (c.name != "") || err == nil && n != len(c.b) || errors.Is(err, ErrMore) || errors.Is(err, ErrNotTLS) {
			t.Errorf("%s: %+v, %d of %d, %v", what, h, n, len(c.b), err)
		}
		checkMessage(t, err)
		agrees(t, c.b)
	}
}

func many(n int) (out [][]byte) {
	for i := range n {
		out = append(out, extension(0x5000+i, ""))
	}
	return out
}

func twice(b []byte) []byte {
	out := append(slices.Clone(b), b[recordHeader:]...)
	binary.BigEndian.PutUint16(out[3:], uint16(len(out)-recordHeader))
	return out
}

func TestEncryptedHellos(t *testing.T) {
	for kind, want := range map[int]bool{0xfe0d: true, 0xfe0a: true, 0xfe08: true, 0xffce: true, 0xfe07: false, 0xfe0e: false, 0xfd00: false, 13: false} {
		for _, body := range []string{"", "\x00\x00\x01\x00\x01\x05\x00\x01a\x00\x01b", "\x01"} {
			h, _, err := ParseHello(hello(named("api.allowed.test"), extension(kind, body)))
			if err != nil || h.EncryptedHello != want || h.ServerName != "api.allowed.test" {
				t.Errorf("extension %#x of %q: %+v, %v", kind, body, h, err)
			}
		}
	}
}

func TestHelloRecords(t *testing.T) {
	valid := hello(named("api.allowed.test"))
	with := func(i int, c byte) []byte {
		b := slices.Clone(valid)
		b[i] = c
		return b
	}
	for what, b := range map[string][]byte{
		"HTTP": []byte("GET / HTTP/1.1\r\n"), "one byte": []byte("G"), "SSH": []byte("SSH-2.0-x\r\n"), "SSLv2": {0x80, 46, 1, 3, 1}, "h2": []byte("PRI * HTTP/2.0\r\n"),
		"alert": with(0, 21), "data": with(0, 23), "change cipher spec": with(0, 20), "heartbeat": with(0, 24), "major 2": with(1, 2), "major 4": with(1, 4), "minor 5": with(2, 5),
		"DTLS": {22, 0xfe}, "NUL": {0}, "short with a bad version": {22, 2},
	} {
		if _, n, err := ParseHello(b); err != ErrNotTLS || n != 0 {
			t.Errorf("%s: %d, %v", what, n, err)
		}
		agrees(t, b)
	}
	for what, b := range map[string][]byte{"nothing": nil, "type": {22}, "version": {22, 3, 0}, "header": {22, 3, 4, 1}, "header and all": {22, 3, 1, 1, 0}} {
		if _, n, err := ParseHello(b); err != ErrMore || n != 0 {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	half := valid[recordHeader : recordHeader+20]
	start := append([]byte{handshakeRecord, 3, 1, 0, 20}, half...)
	for what, b := range map[string][]byte{
		"empty record":            {22, 3, 1, 0, 0},
		"empty record between":    append(slices.Clone(start), 22, 3, 1, 0, 0),
		"record too long":         {22, 3, 1, 0x40, 1},
		"alert between":           append(slices.Clone(start), 21, 3, 1, 0, 2, 1, 0),
		"version between":         append(slices.Clone(start), 22, 2),
		"another message":         {22, 3, 1, 0, 200, 11},
		"message too long":        {22, 3, 1, 0, 200, 1, 1, 0, 0},
		"message of 64 KiB":       {22, 3, 1, 0, 200, 1, 0, 0xff, 0xfd},
		"pieces without end":      bytes.Repeat([]byte{22, 3, 1, 0, 1, 1}, maxFragments+1),
		"more than it may follow": {22, 3, 1, 0, 200, 1, 0, 0, 100},
	} {
		if _, _, err := ParseHello(b); err == nil || errors.Is(err, ErrMore) || errors.Is(err, ErrNotTLS) {
			t.Errorf("%s: %v", what, err)
		}
		agrees(t, b)
	}
}

// Who has read MaxHello bytes has an answer, whatever they are.
func TestHelloHasAnEnd(t *testing.T) {
	long := func(size, fragment int) []byte { // a message of so many bytes
		b := make([]byte, recordHeader+size)
		b[recordHeader], b[recordHeader+1], b[recordHeader+2], b[recordHeader+3] = 1, 0, byte((size-4)>>8), byte(size-4)
		return records(b, fragment)
	}
	for size := MaxHello - 100; size <= MaxHello; size++ {
		for _, fragment := range []int{16, 17, 100, 1 << 14} {
			b := long(size, fragment)
			if _, _, err := ParseHello(b[:min(len(b), MaxHello)]); err == nil || err == ErrMore {
				t.Fatalf("%d bytes in pieces of %d: %v", size, fragment, err)
			}
		}
	}
}

// agrees: what crypto/tls takes as a ClientHello reads the same here or is
// refused, and what is read here crypto/tls reads the same or refuses.
func agrees(t *testing.T, b []byte) {
	t.Helper()
	h, n, err := ParseHello(b)
	if n > len(b) || n < 0 || (n == 0) != (err != nil) {
		t.Errorf("%d of %d, %v", n, len(b), err)
	}
	if err != nil {
		if h.ServerName != "" || h.HasServerName || h.EncryptedHello || h.ALPN != nil {
			t.Errorf("%+v with %v", h, err)
		}
		return
	}
	if h.HasServerName != (h.ServerName != "") {
		t.Errorf("%+v", h)
	}
	seen, ok := standard(b)
	if ok && (h.ServerName != seen.ServerName || !slices.Equal(h.ALPN, seen.SupportedProtos)) {
		t.Errorf("%+v here, and crypto/tls sees %q and %q in %x", h, seen.ServerName, seen.SupportedProtos, b)
	}
}

// Mutated greetings never have another name here than in crypto/tls.
func TestMutatedHellosHaveNoOtherName(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 7))
	evil := []byte("evil.test")
	read := 0
	for _, whole := range greetings(t) {
		for range 3000 {
			b := slices.Clone(whole)
			if r.IntN(3) == 0 {
				b = records(b, 1+r.IntN(200))
			}
			for range 1 + r.IntN(4) {
				i := r.IntN(len(b))
				switch r.IntN(5) {
				case 0:
					b[i] = byte(r.Uint32())
				case 1:
					b[i] ^= 1 << r.IntN(8)
				case 2:
					b[i] = []byte{0, 1, 0xff, 22, 3}[r.IntN(5)]
				case 3:
					b = slices.Insert(b, i, evil...)
				case 4:
					b = slices.Delete(b, i, min(len(b), i+1+r.IntN(4)))
				}
				if len(b) == 0 {
					break
				}
			}
			if _, _, err := ParseHello(b); err == nil {
				read++
			}
			agrees(t, b)
		}
	}
	if read < 1000 {
		t.Errorf("only %d of the mutations could be read", read)
	}
}

func FuzzHello(f *testing.F) {
	for _, b := range greetings(f) {
		f.Add(b)
		f.Add(records(b, 50))
	}
	f.Add(hello(named("api.allowed.test"), named("evil.test")))
	f.Add(hello(named("api.allowed.test", "evil.test")))
	f.Add(hello(extension(0xfe0d, "\x01"), named("evil.test"), extension(extALPN, "\x00\x03\x02h2")))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		agrees(t, b)
		_, n, err := ParseHello(b)
		checkMessage(t, err)
		if len(b) >= MaxHello && err == ErrMore {
			t.Errorf("more than %d bytes", len(b))
		}
		for i := range min(len(b), 300) {
			// What is final for the first bytes stays so.
			_, _, early := ParseHello(b[:i])
			if early != ErrMore && i < n || early != nil && early != ErrMore && err == nil {
				t.Errorf("%v after %d bytes, and then %d, %v", early, i, n, err)
			}
		}
	})
}

func BenchmarkParseHello(b *testing.B) {
	whole := greeting(b, &tls.Config{ServerName: "api.allowed.test", NextProtos: []string{"h2", "http/1.1"}})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseHello(whole); err != nil {
			b.Fatal(err)
		}
	}
}
