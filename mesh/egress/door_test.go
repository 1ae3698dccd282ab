package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// refusedAt asks through a door and reports whether nothing came of it.
func (r *rig) refusedAt(door string, wrap func(net.Conn) net.Conn) bool {
	conn, err := net.Dial("tcp", door)
	if err != nil {
		return true
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if wrap != nil {
		conn = wrap(conn)
	}
	status, _, err := get(conn, bufio.NewReader(conn), "http://"+api+"/", api)
	return err != nil || status != 200
}

// TestDoor: who a client is, and that nobody is nobody.
func TestDoor(t *testing.T) {
	r := newRig(t, allowed)
	mutual := r.listen(r.mutual())
	as := func(name string) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn { return r.overTLS(c, name, "http/1.1") }
	}
	if r.refusedAt(mutual, as("client")) {
		t.Error("a known certificate is refused")
	}
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"certificate of nobody": as("other.test"),
		"no certificate": func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		},
		"another authority": func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger(t, "client")}})
		},
		"no TLS": nil,
	} {
		if !r.refusedAt(mutual, wrap) {
			t.Errorf("%s: let in", name)
		}
	}
	// By network: the longest prefix counts, and who is in none is nobody.
	other, err := Known(r.reg.Force().Intent, "other")
	if err != nil {
		t.Fatal(err)
	}
	d := Door{Networks: []Network{{netip.MustParsePrefix("127.0.0.0/8"), r.client()}, {netip.MustParsePrefix("127.0.0.0/16"), other}}}
	if !r.refusedAt(r.listen(d), nil) {
		t.Error("the shorter prefix counts")
	}
	if n := d.Name(netip.MustParseAddr("::ffff:127.1.0.1")); n != "client" {
		t.Error(n)
	}
	if n := d.Name(netip.MustParseAddr("10.0.0.1")); n != "" {
		t.Error(n)
	}
	if !r.refusedAt(r.listen(Door{Networks: []Network{{netip.MustParsePrefix("10.0.0.0/8"), r.client()}}}), nil) {
		t.Error("nobody is let in")
	}
	// A certificate counts alone: that its network is another's changes nothing.
	optional := r.mutual()
	optional.TLS.ClientAuth = tls.VerifyClientCertIfGiven
	optional.Networks = []Network{{netip.MustParsePrefix("127.0.0.0/8"), r.client()}}
	door := r.listen(optional)
	if !r.refusedAt(door, as("other.test")) {
		t.Error("a certificate of nobody falls back to its network")
	}
	if r.refusedAt(door, func(c net.Conn) net.Conn { return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) }) {
		t.Error("without a certificate the network counts")
	}
	// One that is asked for and not verified proves nothing.
	loose := r.mutual()
	loose.TLS.ClientAuth = tls.RequireAnyClientCert
	if !r.refusedAt(r.listen(loose), func(c net.Conn) net.Conn {
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger(t, "client")}})
	}) {
		t.Error("a certificate that nobody verified is believed")
	}
	for _, rec := range r.log() {
		if rec.Verdict == "deny" && rec.Why == "" {
			t.Errorf("%+v", rec)
		}
	}
	if _, err := Known(r.reg.Force().Intent, "nobody"); err == nil {
		t.Error("the policy knows nobody")
	}
}

// header2 is a header of version 2.
func header2(command, family byte, body []byte) string {
	b := append([]byte(nil), proxySignature...)
	b = append(b, command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return string(append(b, body...))
}

// TestBalancer: behind a balancer a client is known by the address that it says, and
// only there.
func TestBalancer(t *testing.T) {
	r := newRig(t, allowed)
	d := Door{Networks: []Network{{netip.MustParsePrefix("10.5.0.0/16"), r.client()}, {netip.MustParsePrefix("2001:db8:5::/48"), r.client()}},
		Balancers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	door := r.listen(d)
	v4 := []byte{10, 5, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80}
	v6 := append(append(netip.MustParseAddr("2001:db8:5::1").AsSlice(), netip.IPv6Loopback().AsSlice()...), 0x30, 0x39, 0, 80)
	for header, pass := range map[string]bool{
		"PROXY TCP4 10.5.0.1 10.0.0.2 12345 80\r\n":                true,
		"PROXY TCP6 2001:db8:5::1 ::1 12345 80\r\n":                true,
		"PROXY TCP6 ::ffff:10.5.0.1 ::1 12345 80\r\n":              true,
		header2(0x21, 0x11, v4):                                    true,
		header2(0x21, 0x11, append(bytes.Clone(v4), 4, 0, 1, 'x')): true,
		header2(0x21, 0x21, v6):                                    true,
		"PROXY TCP4 10.6.0.1 10.0.0.2 12345 80\r\n":                false,
		"PROXY UNKNOWN\r\n":                                        false, "PROXY UNKNOWN 10.5.0.1 10.0.0.2 1 2\r\n": false,
		header2(0x20, 0x11, v4): false, header2(0x20, 0, nil): false, header2(0x21, 0x12, v4): false, header2(0x21, 0x31, v4): false, header2(0x31, 0x11, v4): false,
		header2(0x22, 0x11, v4): false, header2(0x21, 0x11, v4[:11]): false, header2(0x21, 0x21, v4): false, header2(0x21, 0x11, nil): false,
		"": false, "PROXY TCP4 10.5.0.1 10.0.0.2 12345 80\n": false, "PROXY TCP4 10.5.0.1 10.0.0.2 12345\r\n": false, "PROXY TCP4 10.5.0.1  10.0.0.2 12345 80\r\n": false,
		"PROXY TCP4 010.5.0.1 10.0.0.2 12345 80\r\n": false, "PROXY TCP4 10.5.1 10.0.0.2 12345 80\r\n": false, "PROXY TCP4 10.5.0.1 10.0.0.2 99999 80\r\n": false,
		"PROXY TCP6 10.5.0.1 10.0.0.2 12345 80\r\n": false, "PROXY TCP6 2001:db8:5::1%1 ::1 1 1\r\n": false, "proxy tcp4 10.5.0.1 10.0.0.2 1 1\r\n": false,
		"PROXY TCP4 10.5.0.1 10.0.0.2 +1 1\r\n": false, "PROXY " + strings.Repeat("x", 200) + "\r\n": false,
	} {
		refused := r.refusedAt(door, func(c net.Conn) net.Conn {
			_, _ = io.WriteString(c, header)
			if !pass {
				_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // it may wait for more
			}
			return c
		})
		if refused == pass {
			t.Errorf("%q: refused is %v", header, refused)
		}
	}
	// Who is no balancer says nothing.
	d.Balancers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if !r.refusedAt(r.listen(d), func(c net.Conn) net.Conn { _, _ = io.WriteString(c, "PROXY TCP4 10.5.0.1 10.0.0.2 1 80\r\n"); return c }) {
		t.Error("a client says where it is, and is believed")
	}
	// The address that was said stands in the records.
	found := false
	for _, rec := range r.recorded() {
		found = found || rec.From.Addr == netip.MustParseAddrPort("10.5.0.1:12345") && rec.Verdict == "allow"
	}
	if !found {
		t.Error(r.explain())
	}
}

// said is a connection from which only these bytes come.
type said struct {
	broken
	io.Reader
}

func (s said) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// FuzzProxyHeader: nothing panics, nothing after the header is read, and of version
// 1 an independent reading has the same address.
func FuzzProxyHeader(f *testing.F) {
	for _, s := range []string{"PROXY TCP4 10.5.0.1 10.0.0.2 12345 80\r\nGET", "PROXY UNKNOWN\r\n", header2(0x21, 0x11, make([]byte, 12)) + "GET", header2(0x21, 0x21, make([]byte, 40)), header2(0x20, 0, nil)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		got, err := readProxyHeader(said{broken{io.EOF}, in})
		if err != nil {
			if got.IsValid() {
				t.Error("an error, and an address")
			}
			return
		}
		used := b[:len(b)-in.Len()]
		if bytes.HasPrefix(b, proxySignature) {
			if want := 16 + int(binary.BigEndian.Uint16(b[14:])); len(used) != want {
				t.Errorf("%d bytes are read of a header of %d", len(used), want)
			}
			return
		}
		if !bytes.HasSuffix(used, []byte("\r\n")) || bytes.Count(used, []byte("\n")) != 1 || len(used) > maxProxyLine {
			t.Errorf("%q is read", used)
		}
		words := strings.Fields(string(used))
		if words[1] == "UNKNOWN" {
			if got.IsValid() {
				t.Error("UNKNOWN has an address")
			}
			return
		}
		want, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(words[2], words[4]))
		if err != nil || want.AddrPort().Addr().Unmap() != got.Addr() || want.AddrPort().Port() != got.Port() || got.Addr().Is4In6() {
			t.Errorf("%q: %v, another reads %v %v", used, got, want, err)
		}
	})
}

// TestAcceptFails: a listener that fails for a moment is not given up.
func TestAcceptFails(t *testing.T) {
	r := newRig(t, allowed)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := r.plain()
	d.Listener = &failing{Listener: l, left: 3}
	over := make(chan error, 1)
	go func() { over <- r.g.Serve(t.Context(), d) }()
	if r.refusedAt(l.Addr().String(), nil) {
		t.Error("it is given up")
	}
	l.Close()
	if err := <-over; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

type failing struct {
	net.Listener
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left > 0 {
		f.left--
		return nil, errors.New("too many open files")
	}
	return f.Listener.Accept()
}
