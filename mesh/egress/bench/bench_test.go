//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/policyfile"
)

// rig is an origin, and a proxy between it and the client that a test may spoil.
type rig struct {
	way  *way
	keys *keys
	seen atomic.Int64 // requests that the proxy took
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func port(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// newRig serves each connection to the proxy with serve; nil is no proxy at all.
func newRig(t *testing.T, mtls bool, serve func(*rig, net.Conn)) *rig {
	t.Helper()
	k, err := newKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var lns [4]net.Listener
	for i := range lns {
		lns[i] = listen(t)
	}
	go serveOrigin(lns, k.server)
	r := &rig{keys: k, way: &way{host: "127.0.0.1", origin: origin{port(lns[0]), port(lns[1]), port(lns[2]), port(lns[3])}, inside: k.origin()}}
	if serve == nil {
		return r
	}
	ln := listen(t)
	r.way.proxy = ln.Addr().(*net.TCPAddr)
	if mtls {
		r.way.outside = k.proxy()
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{k.server}, ClientCAs: k.roots, ClientAuth: tls.RequireAndVerifyClientCert})
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(r, c)
			}()
		}
	}()
	return r
}

// honest is a proxy as simple as can be, for 127.0.0.1 alone.
func honest(r *rig, c net.Conn) {
	in := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		r.seen.Add(1)
		if host, _, _ := net.SplitHostPort(req.URL.Host); host != "127.0.0.1" {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			return
		}
		up, err := net.Dial("tcp", req.URL.Host)
		if err != nil {
			return
		}
		defer up.Close()
		if req.Method != http.MethodConnect {
			io.WriteString(up, "GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n")
			if _, err := io.Copy(c, up); err != nil {
				return
			}
			continue
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(up, in)
			up.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(c, up)
		return
	}
}

func (r *rig) load(t *testing.T, mode string) (figure, error) {
	t.Helper()
	b := &bench{options: options{window: 50 * time.Millisecond, bulk: 3 << 20, idle: 40}}
	return b.load(t.Context(), r.way, nil, mode)
}

// TestModes: each mode does what it says, with a proxy and without.
func TestModes(t *testing.T) {
	for name, r := range map[string]*rig{"direct": newRig(t, false, nil), "plain": newRig(t, false, honest), "mTLS": newRig(t, true, honest)} {
		t.Run(name, func(t *testing.T) {
			for _, mode := range []string{connectMode, tlsMode, httpMode, bulkMode} {
				before := r.seen.Load()
				f, err := r.load(t, mode)
				if err != nil || f.rate <= 0 || mode != bulkMode && (f.p50 <= 0 || f.p99 < f.p50) {
					t.Fatalf("%s: %+v, %v", mode, f, err)
				}
				switch asked := float64(r.seen.Load() - before); {
				case r.way.proxy == nil && asked != 0:
					t.Errorf("%s went through a proxy", mode)
				case r.way.proxy != nil && mode != bulkMode && asked < f.done:
					t.Errorf("%s: the proxy saw %.0f requests of %.0f", mode, asked, f.done)
				case mode == bulkMode && f.done != 4*3<<20*float64(int(f.done)/(4*3<<20)):
					t.Errorf("bulk did %.0f bytes, which are no whole downloads", f.done)
				}
			}
			if r.way.proxy != nil {
				if err := r.way.refused(); err != nil {
					t.Error(err)
				}
			}
			if _, err := r.load(t, idleMode); err == nil {
				t.Error("memory was measured of no process")
			}
		})
	}
}

// TestWhatDoesNotWorkIsNotMeasured: a proxy gets no figure for less work.
func TestWhatDoesNotWorkIsNotMeasured(t *testing.T) {
	says := func(text string) func(*rig, net.Conn) {
		return func(_ *rig, c net.Conn) {
			bufio.NewReader(c).ReadSlice('\n')
			io.WriteString(c, text)
			time.Sleep(time.Millisecond)
		}
	}
	page := strings.Repeat("x", bodySize)
	for name, c := range map[string]struct {
		serve func(*rig, net.Conn)
		modes []string
	}{
		"refuses":          {says("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), []string{connectMode, tlsMode, httpMode, bulkMode}},
		"closes":           {func(_ *rig, c net.Conn) { c.Close() }, []string{connectMode, tlsMode, httpMode, bulkMode}},
		"says more":        {says("HTTP/1.1 200 OK\r\n\r\n!"), []string{connectMode, tlsMode, bulkMode}},
		"echoes something": {func(r *rig, c net.Conn) { says("HTTP/1.1 200 OK\r\n\r\n")(r, c); io.WriteString(c, "?") }, []string{connectMode, tlsMode}},
		"half a page":      {says("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + page[:512]), []string{httpMode}},
		"a short page":     {says("HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n" + page[:512]), []string{httpMode}},
		"a long page":      {says("HTTP/1.1 200 OK\r\n\r\n" + page + "x"), []string{httpMode}},
		"chunks":           {says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + page + "\r\n0\r\n\r\n"), []string{httpMode}},
		"a head too long":  {says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxHead) + "\r\n\r\n"), []string{connectMode, httpMode}},
		"bulk cut off": {func(_ *rig, c net.Conn) {
			b := make([]byte, 1<<10)
			c.Read(b)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			c.Read(b)
			c.Write(b)
		}, []string{bulkMode}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, false, c.serve)
			for _, mode := range c.modes {
				if f, err := r.load(t, mode); err == nil {
					t.Errorf("%s: %s", mode, f.in(mode))
				}
			}
		})
	}
	t.Run("lets everything through", func(t *testing.T) {
		r := newRig(t, false, func(r *rig, c net.Conn) { says("HTTP/1.1 200 OK\r\n\r\n")(r, c); io.Copy(c, c) })
		if r.way.refused() == nil {
			t.Error("it counts as refused")
		}
	})
	t.Run("does not ask for a certificate", func(t *testing.T) {
		r := newRig(t, true, honest)
		r.way.outside.Certificates = nil
		if _, err := r.load(t, connectMode); err == nil {
			t.Error("a client without a certificate was served")
		}
	})
	t.Run("too few lines in its log", func(t *testing.T) {
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, bytes.Repeat([]byte("line\n"), 100), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &process{log: log}
		if p.logged(100+clients) != nil || p.logged(101+clients) == nil || (&process{log: log + "x"}).logged(0) == nil {
			t.Error("a log was taken for what it is not")
		}
	})
}

// TestAFewFailures: one in a hundred is told of and passes, more do not.
func TestAFewFailures(t *testing.T) {
	every := func(n int64) error {
		var i atomic.Int64
		_, err := loop(t.Context(), 1, 200*time.Millisecond, func() operation {
			return operation{do: func() error {
				if i.Add(1)%n == 0 {
					return io.ErrUnexpectedEOF
				}
				return nil
			}}
		})
		return err
	}
	if err := every(1000); err != nil {
		t.Error(err)
	}
	if err := every(20); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// TestALoadEndsWithItsContext: an interrupt leaves nothing running.
func TestALoadEndsWithItsContext(t *testing.T) {
	r := newRig(t, false, honest)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, mode := range []string{connectMode, tlsMode, httpMode} {
		b := &bench{options: options{window: time.Hour}}
		if _, err := b.load(ctx, r.way, nil, mode); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	b := &bench{options: options{window: time.Hour, bulk: 1 << 40}}
	if _, err := b.load(ctx, r.way, nil, bulkMode); err == nil {
		t.Error("a bulk load ended well")
	}
}

// TestProcess: what is started is accounted for, explained and ended.
func TestProcess(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh")
	}
	dir := t.TempDir()
	p, err := startProcess(t.Context(), "busy", dir, nil, "sh", "-c", "echo reason >&2; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000 & wait")
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	var pids []int
	if err := p.waitFor(func() error {
		if pids = family(p.cmd.Process.Pid); len(pids) != 2 {
			return errors.New("no child yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if p.cpu() <= 0 || p.memory() <= 0 {
		t.Errorf("it used %v and %f KiB", p.cpu(), p.memory())
	}
	if err := p.explain(io.EOF); !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "reason") {
		t.Error(err)
	}
	p.stop()
	p.stop()
	if err := syscall.Kill(pids[0], 0); err != syscall.ESRCH {
		t.Errorf("it is still there: %v", err)
	}
	_ = syscall.Kill(pids[1], syscall.SIGTERM) // sh does not end what it started
	if _, err := startProcess(t.Context(), "none", dir, nil, filepath.Join(dir, "none")); err == nil {
		t.Error("what is not there was started")
	}
	if p, err = startProcess(t.Context(), "brief", dir, nil, "sh", "-c", "echo why; exit 1"); err != nil {
		t.Fatal(err)
	}
	if err := p.waitFor(func() error { return io.EOF }); err == nil || !strings.Contains(err.Error(), "why") {
		t.Error(err)
	}
}

// TestStatCPU holds what is read to what the kernel says of this process otherwise.
func TestStatCPU(t *testing.T) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	got, after := statCPU(string(stat)), used()
	if got < before-2*tick || got > after+2*tick {
		t.Errorf("%v, and not between %v and %v", got, before, after)
	}
	if got := statCPU("1 (a) b) (c) R 2 3 4 5 6 7 8 9 10 11 120 3 0 0"); got != 123*tick {
		t.Error(got)
	}
}

func FuzzStatCPU(f *testing.F) {
	f.Add("1 (a) b) R 2 3 4 5 6 7 8 9 10 11 120 3 0 0")
	f.Add("")
	f.Add(") R 0 0 0 0 0 0 0 0 0 0 281474976710655 281474976710655")
	f.Add(") R 0 0 0 0 0 0 0 0 0 0 1000000000000 0")
	f.Fuzz(func(t *testing.T, s string) {
		if d := statCPU(s); d < 0 {
			t.Errorf("%q: %v", s, d)
		}
	})
}

// FuzzParseHead holds what is read of a response to net/http.
func FuzzParseHead(f *testing.F) {
	for _, s := range []string{
		string(page), "HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.0 403 Forbidden\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nabcdef", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: y\n Content-Length: 5\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.1 +20 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n",
		"HTTP/1.0 200 \nContent-Length:0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, size, err := parseHead(b)
		if err != nil {
			if h != (head{}) || size != 0 {
				t.Fatalf("%q: %+v and %v", b, h, err)
			}
			return
		}
		if size < 4 || size > len(b) || h.status < 100 || h.status > 999 || h.length < -1 {
			t.Fatalf("%q: %+v, %d", b, h, size)
		}
		if again, n, err := parseHead(b[:size]); again != h || n != size || err != nil {
			t.Fatalf("%q: %+v alone, %+v with what follows", b, again, h)
		}
		if _, _, err := parseHead(b[:size-1]); !errors.Is(err, errMore) {
			t.Fatalf("%q: without its end: %v", b, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil || resp.StatusCode < 200 || resp.StatusCode == 204 || resp.StatusCode == 304 {
			return // stricter than this, or without a body whatever is said
		}
		if resp.StatusCode != h.status || resp.ContentLength != h.length {
			t.Fatalf("%q: %+v, and net/http says %d, %d", b, h, resp.StatusCode, resp.ContentLength)
		}
	})
}

// TestPolicy: the policy of the benchmark permits what is measured, and nothing else.
func TestPolicy(t *testing.T) {
	o := origin{echo: 1001, http: 1002, bulk: 1003, tls: 1004}
	p, ds := policyfile.Parse([]policyfile.File{{Name: "policy.yaml", Text: []byte(policyOf(o))}})
	if p == nil {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(p, time.Now())
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	for _, c := range []struct {
		who, host, addr string
		port            int
		allowed, any    bool
	}{
		{workload, originName, "127.0.0.1", o.echo, true, true},
		{workload, originName, "127.0.0.1", o.http, true, true},
		{workload, originName, "127.0.0.1", o.bulk, true, true},
		{workload, originName, "127.0.0.1", o.tls, true, false},
		{workload, originName, "127.0.0.1", 1005, false, false},
		{workload, originName, "10.0.0.1", o.echo, false, false},
		{workload, "refused.bench.internal", "127.0.0.1", o.echo, false, false},
		{"stranger", originName, "127.0.0.1", o.echo, false, false},
	} {
		a := in.Decide(policy.Question{From: policy.Party{Kind: policy.WorkloadParty, Name: c.who}, To: policy.Outside,
			Protocol: netset.TCP, Port: uint16(c.port), Host: c.host, Addr: netip.MustParseAddr(c.addr)})
		if a.Allowed != c.allowed || a.Permission != nil && a.Permission.AnyProtocol != c.any {
			t.Errorf("%+v: allowed %v, %s", c, a.Allowed, a.Why())
		}
	}
}

func TestMedian(t *testing.T) {
	of := func(xs ...float64) float64 {
		var fs []figure
		for _, x := range xs {
			fs = append(fs, figure{rate: x, cpu: -x})
		}
		m := median(fs)
		if m.cpu != -m.rate {
			t.Errorf("%v: the parts differ: %+v", xs, m)
		}
		return m.rate
	}
	for want, xs := range map[float64][]float64{7: {7}, 2: {9, 1, 2}, 1.5: {1, 2}, 3.5: {9, 3, 4, 1}} {
		if got := of(xs...); got != want {
			t.Errorf("%v: %v, not %v", xs, got, want)
		}
	}
	l := load{took: time.Second, done: 3, latencies: []time.Duration{3e6, 1e6, 2e6}}
	if f := l.figure(time.Millisecond); f.p50 != 2 || f.p99 != 2 || f.rate != 3 || f.cpu != 1000.0/3 {
		t.Errorf("%+v", f)
	}
}

func TestThousands(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 999.4: "999", 999.5: "1,000", 1234567: "1,234,567", -0.4: "0", -1234: "-1,234"} {
		if got := thousands(x); got != want {
			t.Errorf("%v: %s, not %s", x, got, want)
		}
		if n, err := strconv.Atoi(strings.ReplaceAll(thousands(x), ",", "")); err != nil || float64(n) < x-1 || float64(n) > x+1 {
			t.Errorf("%v: %d, %v", x, n, err)
		}
	}
}

// TestVerdicts: ahead is more, or less, and not the same; what was not measured
// is not won.
func TestVerdicts(t *testing.T) {
	b := &bench{options: options{rounds: 1, window: time.Second, modes: []string{connectMode, bulkMode}}}
	b.peers = []peer{{name: direct}}
	for _, n := range names[1:] {
		b.peers = append(b.peers, peer{name: n, start: func(context.Context, string) (*process, error) { return nil, nil }})
	}
	b.all = map[string]map[string][]figure{
		connectMode: {
			direct: {{rate: 9000}}, ours: {{rate: 3000, cpu: 200}}, squid: {{rate: 3000, cpu: 300}}, tinyproxy: {{rate: 2000, cpu: 100}},
		},
		bulkMode: {direct: {{rate: 4000 * mib}}, ours: {{rate: 1999 * mib}}, oursMTLS: {{rate: 2000 * mib}}, squidMTLS: {{rate: 700 * mib}}},
	}
	var out strings.Builder
	b.print(&out)
	for _, want := range []string{
		"| direct | 9,000 | 0.0 / 0.0 | – | 4,000 | – |\n",
		"| bulkhead | 3,000 (0.33) | 0.0 / 0.0 | 200 | 1,999 (0.50) | 0 |\n",
		"| bulkhead+mTLS | – | – | – | 2,000 (0.50) | 0 |\n",
		"- tunnels/s, bulkhead 3,000: ahead of squid no (3,000); ahead of tinyproxy yes (2,000)\n",
		"- CPU µs for a tunnel, bulkhead 200: ahead of squid yes (300); ahead of tinyproxy no (100)\n",
		"- bulk MiB/s, bulkhead 1,999: ahead of squid not measured; ahead of tinyproxy not measured; at least 50 % of direct no (49 %)\n",
		"- bulk MiB/s, bulkhead+mTLS 2,000: ahead of squid not measured; ahead of tinyproxy not measured; ahead of squid+mTLS yes (700); at least 50 % of direct yes (50 %)\n",
		"- open, because it was not measured: bulkhead+mTLS: connect\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
	width := -1
	for line := range strings.Lines(out.String()) {
		if n := strings.Count(line, "|"); n > 0 {
			if width >= 0 && n != width {
				t.Errorf("a row has %d bars and not %d: %s", n, width, line)
			}
			width = n
		}
	}
}

func TestChoose(t *testing.T) {
	o := options{rounds: 1, window: 1}
	if err := o.choose("squid,bulkhead+mTLS", "idle,connect", nil); err != nil || !slices.Equal(o.modes, []string{connectMode, idleMode}) ||
		!o.wants(squid) || !o.wants(oursMTLS) || o.wants(ours) || o.wants(tinyproxy) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, c := range []struct {
		o          options
		only, what string
		rest       []string
	}{
		{options{rounds: 0, window: 1}, "", "idle", nil}, {options{rounds: 1}, "", "idle", nil},
		{options{rounds: 1, window: 1}, "nginx", "idle", nil}, {options{rounds: 1, window: 1}, "", "speed", nil},
		{options{rounds: 1, window: 1}, "", "", nil}, {options{rounds: 1, window: 1}, "", "idle", []string{"x"}},
	} {
		if err := c.o.choose(c.only, c.what, c.rest); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if !(&options{}).wants(names[2]) {
		t.Error("without a choice not everything is measured")
	}
}
