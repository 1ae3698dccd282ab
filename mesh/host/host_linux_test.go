package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/mesh/socket"
)

// openHost returns a real host, which is closed with the test.
func openHost(t testing.TB) *Host {
	t.Helper()
	if !Privileged() {
		t.Skip("SKIPPED: making namespaces needs root; run: sudo go test ./mesh/host")
	}
	dir := t.TempDir()
	o := Options{Platform: filepath.Base(dir) + fmt.Sprint(os.Getpid()), StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Mode: Root, Log: slog.New(slog.DiscardHandler)}
	if InUserNamespace() {
		o.Mode = User
	}
	h, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// testPlan is three workloads in two zones: a and b in one, c in the other, and
// a door from the first to the second.
func testPlan(h *Host) Plan {
	zone := func(name string, i byte) Zone {
		return Zone{name, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, i * 64, 0}), 18),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 0, i}), 64)}
	}
	p := Plan{Platform: h.options.Platform, Zones: []Zone{zone("one", 0), zone("two", 1)}, Doors: []Door{{"one", "two"}}}
	for _, m := range []struct {
		name string
		zone int
		host byte
	}{{"a", 0, 1}, {"b", 0, 2}, {"c", 1, 1}} {
		z := p.Zones[m.zone]
		v4, v6 := z.V4.Addr().As4(), z.V6.Addr().As16()
		v4[3], v6[15] = m.host, m.host
		p.Members = append(p.Members, Member{Name: m.name, Zone: z.Name, V4: netip.AddrFrom4(v4), V6: netip.AddrFrom16(v6)})
	}
	return p
}

func apply(t testing.TB, h *Host, p Plan) {
	t.Helper()
	if err := h.Apply(p); err != nil {
		t.Fatal(err)
	}
}

// addr returns a member's address of a family.
func (p Plan) addr(name string, v6 bool) netip.Addr {
	for _, m := range p.Members {
		if m.Name == name && v6 {
			return m.V6
		} else if m.Name == name {
			return m.V4
		}
	}
	panic("no member " + name)
}

// runAs runs f on the thread of a workload, as a process of it would run,
// except for its capabilities.
func runAs(t testing.TB, h *Host, workload string, f func() error) error {
	t.Helper()
	th, err := h.thread(workload)
	if err != nil {
		t.Fatal(err)
	}
	return th.do(f)
}

// dialAs connects as a process of the workload would.
func dialAs(t testing.TB, h *Host, workload, network string, to netip.AddrPort) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	err := runAs(t, h, workload, func() (err error) {
		d := net.Dialer{Timeout: 700 * time.Millisecond}
		c, err = d.Dial(network, to.String())
		return err
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func listenAs(t testing.TB, h *Host, workload string, at netip.AddrPort) net.Listener {
	t.Helper()
	var l net.Listener
	err := runAs(t, h, workload, func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serveEcho answers each connection with what it got.
func serveEcho(l net.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

func echo(c net.Conn, text string) error {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != text {
		return fmt.Errorf("got %q", b)
	}
	return nil
}

func socketsOf(t testing.TB, h *Host, workload string) socket.Maker {
	t.Helper()
	s, err := h.Sockets(workload)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eachFamily(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("v4", func(t *testing.T) { f(t, false) })
	t.Run("v6", func(t *testing.T) {
		if !hasIPv6 {
			t.Skip("SKIPPED: the kernel has no IPv6; run: go test ./mesh/host on one that has")
		}
		f(t, true)
	})
}

// TestNetworkPath sends bytes the whole way: captured, over the fabric to a
// tunnel, and to the server.
func TestNetworkPath(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	eachFamily(t, func(t *testing.T, v6 bool) {
		source, destination := socketsOf(t, h, "a"), socketsOf(t, h, "c")
		serveEcho(listenAs(t, h, "c", netip.AddrPortFrom(p.addr("c", v6), 8080)))
		captures, err := source.Capture()
		if err != nil {
			t.Fatal(err)
		}
		tunnels, err := destination.Tunnel()
		if err != nil {
			t.Fatal(err)
		}
		want := netip.AddrPortFrom(p.addr("c", v6), 8080)
		for _, l := range captures {
			defer l.Close()
			go fakeProxy(t, l, want, func() (*net.TCPConn, error) {
				return source.DialPeer(context.Background(), netip.AddrPortFrom(want.Addr(), TunnelPort))
			})
		}
		for _, l := range tunnels {
			defer l.Close()
			go fakeProxy(t, socket.Capture{Listener: l}, netip.AddrPort{}, func() (*net.TCPConn, error) {
				return destination.DialOwn(context.Background(), 8080)
			})
		}
		c, err := dialAs(t, h, "a", "tcp", want)
		if err != nil {
			t.Fatal(err)
		}
		if err := echo(c, "over the mesh"); err != nil {
			t.Fatal(err)
		}
		// In the other direction there is no door.
		if _, err := socketsOf(t, h, "c").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("a", v6), TunnelPort)); err == nil {
			t.Error("a tunnel leads through a door that is not there")
		}
		if _, err := socketsOf(t, h, "a").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("b", v6), TunnelPort)); err == nil {
			t.Error("a tunnel leads to the own zone without a door")
		}
		if _, err := socketsOf(t, h, "a").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("c", v6), 8080)); err == nil {
			t.Error("a marked packet reaches another port than the tunnel's")
		}
	})
}

// fakeProxy joins what it accepts with what dial returns.
func fakeProxy(t testing.TB, l socket.Capture, want netip.AddrPort, dial func() (*net.TCPConn, error)) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		if l.Original != nil {
			if got, err := l.Original(in); err != nil || got != want {
				t.Errorf("the original destination is %v, %v; want %v", got, err, want)
			}
		}
		out, err := dial()
		if err != nil {
			t.Error(err)
			in.Close()
			continue
		}
		go func() { io.Copy(out, in); out.CloseWrite() }()
		go func() { io.Copy(in, out); in.(*net.TCPConn).CloseWrite() }()
	}
}

// TestNetworkNothingElse tries what a workload must not get anywhere with.
func TestNetworkNothingElse(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	denials := make(chan Denial, 100)
	go h.Denials(t.Context(), func(d Denial) { denials <- d })
	eachFamily(t, func(t *testing.T, v6 bool) {
		own, peer := p.addr("a", v6), p.addr("c", v6)
		listenAs(t, h, "c", netip.AddrPortFrom(peer, 8080))
		for name, try := range map[string]struct {
			network string
			to      netip.AddrPort
		}{
			"tcp without a proxy":    {"tcp", netip.AddrPortFrom(peer, 8080)},
			"tunnel by the workload": {"tcp", netip.AddrPortFrom(peer, TunnelPort)},
			"capture port":           {"tcp", netip.AddrPortFrom(loop(v6), CapturePort)},
			"capture port of own":    {"tcp", netip.AddrPortFrom(own, CapturePort)},
			"own tunnel":             {"tcp", netip.AddrPortFrom(own, TunnelPort)},
			"own tunnel on loopback": {"tcp", netip.AddrPortFrom(loop(v6), TunnelPort)},
		} {
			if c, err := dialAs(t, h, "a", try.network, try.to); err == nil {
				t.Errorf("%s: connected to %s", name, c.RemoteAddr())
			}
		}
		want := Denial{Workload: "a", Network: "tcp", To: netip.AddrPortFrom(loop(v6), CapturePort)}
		if !reported(denials, want) {
			t.Error("a connection to the capture port was not reported")
		}
		for _, to := range []netip.Addr{peer, own.Next().Next().Next(), link(v6), multi(v6), netip.MustParseAddr("255.255.255.255")} {
			if to.Is4() == v6 {
				continue
			}
			c, err := dialAs(t, h, "a", "udp", netip.AddrPortFrom(to, 53))
			if err != nil {
				continue // there is not even a route
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
				t.Errorf("a datagram to %s: %v", to, err)
			}
			want := Denial{Workload: "a", Network: "udp", From: c.LocalAddr().(*net.UDPAddr).AddrPort(), To: netip.AddrPortFrom(to, 53)}
			if !reported(denials, want) {
				t.Errorf("a datagram to %s was not reported", to)
			}
		}
	})
}

// reported waits for a denial, whose source may be left open.
func reported(c chan Denial, want Denial) bool {
	for timeout := time.After(time.Second); ; {
		select {
		case d := <-c:
			if !want.From.IsValid() {
				d.From = netip.AddrPort{}
			}
			if d == want {
				return true
			}
		case <-timeout:
			return false
		}
	}
}

func drain(c chan Denial) {
	for len(c) > 0 {
		<-c
	}
}

func loop(v6 bool) netip.Addr {
	if v6 {
		return loopback6
	}
	return loopback4
}

func link(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr("fd00:ec2::254")
	}
	return netip.MustParseAddr("169.254.169.254")
}

func multi(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr("ff0e::1")
	}
	return netip.MustParseAddr("224.0.0.251")
}

// TestNetworkAttackWithCapabilities does what no workload can, since none has a
// capability: packets made by hand in the namespace. The fabric must hold alone.
func TestNetworkAttackWithCapabilities(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	m := h.members["a"]
	if err := m.filter.remove(); err != nil { // a has no filter of its own now
		t.Fatal(err)
	}
	denials := make(chan Denial, 100)
	go h.Denials(t.Context(), func(d Denial) { denials <- d })
	expect := func(what string, spoofed bool, send func() error) {
		t.Helper()
		drain(denials)
		if err := runAs(t, h, "a", send); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case d := <-denials:
			if d.Workload != "a" || d.Spoofed != spoofed {
				t.Errorf("%s: denial %+v", what, d)
			}
		case <-time.After(time.Second):
			t.Errorf("%s: not reported", what)
		}
	}
	c := p.addr("c", false).As4()
	expect("udp", false, func() error { return sendRaw(p.addr("a", false), c, protoUDP, 53, 0) })
	expect("spoofed source", true, func() error { return sendRaw(p.addr("b", false), c, protoTCP, TunnelPort, 0) })
	expect("icmp", false, func() error { return sendRaw(p.addr("a", false), c, protoICMP, 0, 0) })
	// A tunnel to a zone without a door, from a's own address.
	expect("no door", false, func() error { return sendRaw(p.addr("a", false), p.addr("b", false).As4(), protoTCP, TunnelPort, 0) })
}

// TestNetworkAttack6 is the same for IPv6.
func TestNetworkAttack6(t *testing.T) {
	if !hasIPv6 {
		t.Skip("SKIPPED: the kernel has no IPv6; run: go test ./mesh/host on one that has")
	}
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	if err := h.members["a"].filter.remove(); err != nil {
		t.Fatal(err)
	}
	denials := make(chan Denial, 100)
	go h.Denials(t.Context(), func(d Denial) { denials <- d })
	to := p.addr("c", true)
	for _, from := range []string{"a", "b"} {
		if err := runAs(t, h, "a", func() error { return sendRaw6(p.addr(from, true), to) }); err != nil {
			t.Fatal(err)
		}
		want := Denial{Workload: "a", Network: "udp", From: netip.AddrPortFrom(p.addr(from, true), 12345), To: netip.AddrPortFrom(to, 53), Spoofed: from != "a"}
		if !reported(denials, want) {
			t.Errorf("a packet from %s was not reported", from)
		}
	}
}

func sendRaw6(from, to netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	src, dst := from.As16(), to.As16()
	b := append([]byte{0x60, 0, 0, 0, 0, 8, protoUDP, 64}, src[:]...)
	b = append(append(b, dst[:]...), 0x30, 0x39, 0, 53, 0, 8, 0, 0)
	return unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: dst})
}

// TestNetworkDenialsLost: what is over the limit is counted, not forgotten.
func TestNetworkDenialsLost(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	c, err := dialAs(t, h, "a", "udp", netip.AddrPortFrom(p.addr("c", false), 53))
	if err != nil {
		t.Fatal(err)
	}
	sent := uint64(0)
	send := func() {
		// Any other error is what the kernel told of the one before.
		if _, err := c.Write([]byte("x")); errors.Is(err, unix.EPERM) {
			sent++
		}
	}
	for range 1000 {
		send()
	}
	time.Sleep(100 * time.Millisecond)
	for last := sent; sent == last; {
		send()
	}
	told := uint64(0)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	h.Denials(ctx, func(d Denial) {
		if told += 1 + d.Lost; told == sent {
			cancel()
		}
	})
	if told != sent {
		t.Errorf("%d denials were reported or counted of %d", told, sent)
	}
}

// TestNetworkLeak: Close leaves no goroutine, descriptor or thread behind.
func TestNetworkLeak(t *testing.T) {
	once := func() {
		dir := t.TempDir()
		h, err := Open(t.Context(), Options{Platform: "leak" + fmt.Sprint(os.Getpid()), StateDir: dir, RunDir: dir, Mode: User, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		p := testPlan(h)
		apply(t, h, p)
		socketsOf(t, h, "a").DialOwn(t.Context(), 1)
		apply(t, h, Plan{Platform: p.Platform})
		apply(t, h, p)
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	openHost(t) // or skip
	once()
	settle := func() (goroutines, files, threads int) {
		count := func(dir string) int {
			entries, _ := os.ReadDir(dir)
			return len(entries)
		}
		time.Sleep(50 * time.Millisecond)
		return runtime.NumGoroutine(), count("/proc/self/fd"), count("/proc/self/task")
	}
	g, f, th := settle()
	for range 5 {
		once()
	}
	g2, f2, th2 := settle()
	if g2 > g || f2 > f || th2 > th+3 {
		t.Errorf("goroutines %d to %d, descriptors %d to %d, threads %d to %d", g, g2, f, f2, th, th2)
	}
}

// sendRaw sends an IP packet with a made-up source.
func sendRaw(from netip.Addr, to [4]byte, proto byte, port uint16, fragment uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	src := from.As4()
	b := []byte{0x45, 0, 0, 40, 0, 1, byte(fragment >> 8), byte(fragment), 64, proto, 0, 0, src[0], src[1], src[2], src[3], to[0], to[1], to[2], to[3]}
	b = append(b, 0x30, 0x39, byte(port>>8), byte(port), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	if proto == protoICMP {
		b[20], b[21] = 8, 0
	}
	sum := uint32(0)
	for i := 20; i < 40; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if proto == protoUDP {
		b[24], b[25], b[26], b[27] = 0, 20, 0, 0 // length, no checksum
	} else {
		if proto == protoTCP {
			for i := 12; i < 20; i += 2 {
				sum += uint32(b[i])<<8 | uint32(b[i+1])
			}
			sum += protoTCP + 20
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		at := 36
		if proto == protoICMP {
			at = 22
		}
		b[at], b[at+1] = byte(^sum>>8), byte(^sum)
	}
	return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: to})
}

// TestNetworkPlain permits a plaintext flow and takes it away again.
func TestNetworkPlain(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	eachFamily(t, func(t *testing.T, v6 bool) {
		to := netip.AddrPortFrom(p.addr("c", v6), 9001)
		serveEcho(listenAs(t, h, "c", to))
		open := p
		open.Plain = []Plain{{"a", "c", "tcp", 9000, 9010, "policy.yaml:7"}}
		apply(t, h, open)
		c, err := dialAs(t, h, "a", "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		if err := echo(c, "plain"); err != nil {
			t.Fatal(err)
		}
		for _, other := range []struct {
			from string
			to   netip.AddrPort
		}{{"b", to}, {"c", netip.AddrPortFrom(p.addr("a", v6), 9001)}, {"a", netip.AddrPortFrom(to.Addr(), 9011)}} {
			if _, err := dialAs(t, h, other.from, "tcp", other.to); err == nil {
				t.Errorf("%s reaches %s", other.from, other.to)
			}
		}
		counts, err := h.PlainCounters()
		if err != nil || len(counts) != 1 || counts[0].Out.Bytes == 0 || counts[0].In.Packets == 0 || counts[0].Rule != "policy.yaml:7" {
			t.Errorf("counters %+v, %v", counts, err)
		}
		apply(t, h, open) // changes nothing
		if err := echo(c, "still"); err != nil {
			t.Error(err)
		}
		start := time.Now()
		apply(t, h, p)
		if err := echo(c, "over"); !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			t.Errorf("the connection was not ended: %v", err)
		}
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

// TestNetworkPlainServer: who is reached may not reach back.
func TestNetworkPlainUDP(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	p.Plain = []Plain{{"a", "c", "udp", 5000, 5000, "r"}}
	apply(t, h, p)
	eachFamily(t, func(t *testing.T, v6 bool) {
		at := netip.AddrPortFrom(p.addr("c", v6), 5000)
		var server net.PacketConn
		if err := runAs(t, h, "c", func() (err error) {
			server, err = net.ListenPacket("udp", at.String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		big := make([]byte, 40000)
		client, err := dialAs(t, h, "a", "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(big); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 65000)
		server.SetDeadline(time.Now().Add(time.Second))
		n, from, err := server.ReadFrom(b)
		if err != nil || n != len(big) {
			t.Fatal(n, err)
		}
		if _, err := server.WriteTo([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		client.SetDeadline(time.Now().Add(time.Second))
		if n, err := client.Read(b); err != nil || n != 6 {
			t.Fatal(n, err)
		}
		other := netip.AddrPortFrom(p.addr("a", v6), 5000)
		if _, err := server.WriteTo([]byte("unasked"), net.UDPAddrFromAddrPort(other)); !errors.Is(err, unix.EPERM) {
			t.Errorf("the server reaches the client unasked: %v", err)
		}
	})
}

// TestNetworkUDP captures declared datagrams.
func TestNetworkUDP(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	p.Members[0].UDP = []UDPCapture{{netip.AddrPortFrom(p.addr("c", false), 53), 15020}, {netip.AddrPortFrom(p.addr("c", true), 53), 15021}}
	apply(t, h, p)
	s := socketsOf(t, h, "a")
	eachFamily(t, func(t *testing.T, v6 bool) {
		local := uint16(15020)
		if v6 {
			local++
		}
		l, err := s.CaptureUDP(local)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		to := netip.AddrPortFrom(p.addr("c", v6), 53)
		c, err := dialAs(t, h, "a", "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("ask")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		l.SetDeadline(time.Now().Add(time.Second))
		n, from, err := l.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "ask" || from.Addr().Unmap() != p.addr("a", v6) {
			t.Fatal(string(b[:n]), from, err)
		}
		if _, err := l.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Second))
		if n, err = c.Read(b); err != nil || string(b[:n]) != "answer" {
			t.Fatal(string(b[:n]), err)
		}
		if other, err := dialAs(t, h, "a", "udp", netip.AddrPortFrom(to.Addr(), 54)); err == nil {
			if _, err := other.Write(b); !errors.Is(err, unix.EPERM) {
				t.Error("another port is not refused", err)
			}
		}
		// Taken away, the same socket is refused although conntrack knew it.
		without := p
		without.Members = append([]Member{}, p.Members...)
		without.Members[0].UDP = nil
		apply(t, h, without)
		if _, err := c.Write([]byte("ask")); !errors.Is(err, unix.EPERM) {
			t.Errorf("the capture is gone, and the datagram is not refused: %v", err)
		}
		apply(t, h, p)
	})
	if _, err := s.CaptureUDP(15099); err == nil {
		t.Error("a port without a capture is opened")
	}
}

func TestNetworkApply(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	apply(t, h, p)
	before := h.members["a"]
	apply(t, h, p)
	if h.members["a"] != before {
		t.Error("the same plan makes a workload anew")
	}
	less := p
	less.Members = p.Members[1:]
	apply(t, h, less)
	if _, err := h.Sockets("a"); err == nil {
		t.Error("a removed workload has sockets")
	}
	if err := before.thread.do(func() error { return nil }); !errors.Is(err, errClosed) {
		t.Error("the thread of a removed workload lives", err)
	}
	apply(t, h, p)
	serveEcho(mustTunnel(t, h, "c"))
	c, err := socketsOf(t, h, "a").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("c", false), TunnelPort))
	if err != nil {
		t.Fatal("a workload that came back has no link: ", err)
	}
	defer c.Close()
	if err := echo(c, "again"); err != nil {
		t.Fatal(err)
	}
	closed := p
	closed.Doors = nil
	apply(t, h, closed)
	if err := echo(c, "closed"); err == nil {
		t.Error("an open tunnel survives the end of its door")
	}
	for name, wrong := range map[string]func(*Plan){
		"platform":     func(p *Plan) { p.Platform = "other" },
		"address":      func(p *Plan) { p.Members[0].V4 = p.Members[2].V4 },
		"zone":         func(p *Plan) { p.Members[0].Zone = "none" },
		"door":         func(p *Plan) { p.Doors = []Door{{"one", "none"}} },
		"tunnel port":  func(p *Plan) { p.Plain = []Plain{{"a", "c", "tcp", 1, 65535, ""}} },
		"capture port": func(p *Plan) { p.Members[0].UDP = []UDPCapture{{netip.MustParseAddrPort("100.64.64.1:53"), 15008}} },
	} {
		bad := p
		bad.Members = append([]Member{}, p.Members...)
		wrong(&bad)
		if err := h.Apply(bad); err == nil {
			t.Errorf("%s: a wrong plan is applied", name)
		}
	}
}

func mustTunnel(t testing.TB, h *Host, workload string) net.Listener {
	t.Helper()
	ls, err := socketsOf(t, h, workload).Tunnel()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range ls {
			l.Close()
		}
	})
	return ls[0]
}

// TestNetworkLock: one run at a time, and a dead one leaves nothing.
func TestNetworkLock(t *testing.T) {
	h := openHost(t)
	if _, err := Open(t.Context(), h.options); err == nil {
		t.Fatal("two hosts run one platform")
	} else {
		t.Log(err)
	}
	stale := filepath.Join(h.liveDir(), "stale")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(h.options.RunDir)
	if len(entries) != 0 {
		t.Errorf("Close leaves %v", entries)
	}
}

// TestNetworkUserNamespace runs the tests of the network as an ordinary user.
func TestNetworkUserNamespace(t *testing.T) {
	if InUserNamespace() {
		t.Skip("SKIPPED: this is the inner run; run: go test ./mesh/host")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNetwork", "-test.v="+fmt.Sprint(testing.Verbose()))
	cmd.Env = append(os.Environ(), asUser+"=1", "TMPDIR=/tmp")
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	} else if err := CanUserNamespace(); err != nil {
		t.Skip("SKIPPED: " + err.Error() + "; run: sudo go test ./mesh/host")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// FuzzDenial: no message of NFLOG breaks its reader.
func FuzzDenial(f *testing.F) {
	f.Add([]byte{2, 0, 0x3a, 0xa0, 8, 0, 4, 0, 0, 0, 0, 1, 28, 0, 9, 0, 0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 53, 0, 80})
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, _, _, ok := parseDenial(b); ok && (d.Network == "" || !d.From.IsValid() || !d.To.IsValid()) {
			t.Errorf("%+v", d)
		}
	})
}
