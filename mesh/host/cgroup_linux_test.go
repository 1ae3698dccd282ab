package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"bulkhead/mesh/socket"
)

func init() {
	RegisterChild("test/obey", obey)
	RegisterChild("test/host", runHost)
}

// obey does what standard input says and answers each line.
func obey() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		what, where, _ := strings.Cut(in.Text(), " ")
		switch what {
		case "listen":
			l, err := net.Listen("tcp", where)
			if err == nil {
				serveEcho(l)
			}
			fmt.Println(short(err))
		case "udp":
			c, err := net.Dial("udp", where)
			if err == nil {
				_, err = c.Write([]byte("ask"))
			}
			fmt.Println(short(err))
		case "tcp":
			c, err := net.DialTimeout("tcp", where, time.Second)
			if err == nil {
				err = echo(c, "hello")
			}
			fmt.Println(short(err))
		}
	}
}

// inCgroup starts a process in a new control group and returns how to tell it.
func inCgroup(t *testing.T) (group string, tell func(string) string) {
	t.Helper()
	mount, err := cgroupMount()
	if err != nil || os.Geteuid() != 0 || InUserNamespace() {
		t.Skip("SKIPPED: binding by control group needs root and cgroup v2; run: sudo go test ./mesh/host")
	}
	name := fmt.Sprintf("/bulkhead-test-%d", os.Getpid())
	dir := filepath.Join(mount, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("SKIPPED: " + err.Error() + "; run: sudo go test ./mesh/host")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"bulkhead:child/test/obey"}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(out)
	return name, func(what string) string {
		if _, err := io.WriteString(in, what+"\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(answer)
	}
}

func boundPlan(t *testing.T, h *Host, group string) Plan {
	p := testPlan(h)
	p.Members[0].CgroupPath = group
	p.Members[0].UDP = []UDPCapture{{netip.AddrPortFrom(p.addr("c", false), 53), 15020}}
	c, err := net.Dial("udp", p.addr("c", false).String()+":9")
	if err != nil {
		t.Skip("SKIPPED: the machine has no default route; run: go test ./mesh/host on one that has")
	}
	c.Close()
	return p
}

func TestBound(t *testing.T) {
	h := openHost(t)
	group, tell := inCgroup(t)
	p := boundPlan(t, h, group)
	other, err := net.Listen("tcp", "127.0.0.1:0") // of somebody else on the machine
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	serveEcho(other)
	apply(t, h, p)
	denials := make(chan Denial, 10)
	go h.Denials(t.Context(), func(d Denial) { denials <- d })
	s := socketsOf(t, h, "a")
	captures, err := s.Capture()
	if err != nil {
		t.Fatal(err)
	}
	want := netip.AddrPortFrom(p.addr("c", false), 8080)
	for _, c := range captures {
		defer c.Close()
		go func() {
			for {
				in, err := c.Accept()
				if err != nil {
					return
				}
				if got, err := c.Original(in); err != nil || got != want {
					t.Errorf("the original destination is %v, %v", got, err)
				}
				go io.Copy(in, in)
			}
		}()
	}
	if got := tell("tcp " + want.String()); got != "" {
		t.Errorf("a captured connection: %s", got)
	}
	own := freePort(t)
	if got := tell("listen " + own); got != "" {
		t.Fatal(got)
	}
	if got := tell("tcp " + own); got != "" {
		t.Errorf("the workload does not reach itself: %s", got)
	}
	if got := tell("tcp " + freePort(t)); got != unix.ECONNREFUSED.Error() {
		t.Errorf("a closed port of its own: %s", got)
	}
	if got := tell("tcp " + other.Addr().String()); got == "" {
		t.Error("the workload reaches somebody else's server on loopback")
	}
	if got := tell("tcp " + captures[0].Addr().String()); got == "" {
		t.Error("the workload reaches the capture port itself")
	}
	if got := tell("udp 192.0.2.1:53"); got != unix.EPERM.Error() {
		t.Errorf("undeclared datagrams: %q", got)
	}
	if !reported(denials, Denial{Workload: "a", Network: "udp", To: netip.MustParseAddrPort("192.0.2.1:53")}) {
		t.Error("the denial was not reported")
	}
	testBoundUDP(t, s, tell)
	testBoundServer(t, s, own)
	testBoundTunnel(t, h, p)
	if _, err := net.Dial("tcp", other.Addr().String()); err != nil {
		t.Errorf("the rest of the machine is disturbed: %v", err)
	}
	p.Members = p.Members[1:]
	apply(t, h, p)
	if got := tell("tcp " + other.Addr().String()); got != "" {
		t.Errorf("the workload is not bound any more: %s", got)
	}
	if tables := hostTables(t, h); tables != 0 {
		t.Error("a table is left without a bound workload")
	}
}

func testBoundUDP(t *testing.T, s socket.Maker, tell func(string) string) {
	l, err := s.CaptureUDP(15020)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := l.LocalAddr()
	if got := tell("udp 100.64.64.1:53"); got != "" {
		t.Error(got)
	}
	l.SetDeadline(time.Now().Add(time.Second))
	if n, _, err := l.ReadFrom(make([]byte, 10)); err != nil || n != 3 {
		t.Errorf("declared datagrams do not arrive at %s: %v", c, err)
	}
}

// testBoundServer: the proxy reaches the server, and nobody else does.
func testBoundServer(t *testing.T, s socket.Maker, at string) {
	ap := netip.MustParseAddrPort(at)
	c, err := s.DialOwn(context.Background(), ap.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := echo(c, "proxy"); err != nil {
		t.Error(err)
	}
	if direct, err := net.DialTimeout("tcp", at, 300*time.Millisecond); err == nil {
		t.Error("everybody reaches the server of a bound workload")
		direct.Close()
	}
}

func testBoundTunnel(t *testing.T, h *Host, p Plan) {
	serveEcho(mustTunnel(t, h, "c"))
	c, err := socketsOf(t, h, "a").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("c", false), TunnelPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := echo(c, "tunnel"); err != nil {
		t.Error(err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func hostTables(t *testing.T, h *Host) int {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, table := range tables {
		if strings.HasSuffix(table.Name, h.options.Platform) {
			n++
		}
	}
	return n
}

// TestBoundCgroupAgain: a control group that is made again is filtered again.
func TestBoundCgroupAgain(t *testing.T) {
	h := openHost(t)
	group, _ := inCgroup(t)
	mount, _ := cgroupMount()
	dir := filepath.Join(mount, group, "unit")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	p := boundPlan(t, h, group+"/unit")
	apply(t, h, p)
	before := h.bound.all[0].cgroup
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		h.bound.mu.Lock()
		now := h.bound.all[0].cgroup
		h.bound.mu.Unlock()
		if now != before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new control group is not filtered")
		}
	}
	// A group that comes only after the plan.
	late := filepath.Join(mount, group, "late")
	p.Members[0].CgroupPath = group + "/late"
	if err := h.Apply(p); err == nil {
		t.Error("a control group that does not exist is bound")
	}
	if err := os.Mkdir(late, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(late)
	for deadline := time.Now().Add(2 * time.Second); hostTables(t, h) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the control group that came late is not filtered")
		}
	}
}

// runHost runs a host with a bound workload until it is killed.
func runHost() {
	h, err := Open(context.Background(), Options{Platform: os.Getenv("PLATFORM"), StateDir: os.Getenv("DIR"), RunDir: os.Getenv("DIR"), Mode: Root})
	if err != nil {
		fmt.Println(err)
		return
	}
	p := testPlan(h)
	p.Members[0].CgroupPath = os.Getenv("GROUP")
	if err := h.Apply(p); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.fabric.thread.inode(), h.members["b"].thread.inode())
	select {}
}

// TestBoundKill kills a host with SIGKILL: no namespace is left, the bound
// workload stays closed, and the next host takes over.
func TestBoundKill(t *testing.T) {
	group, tell := inCgroup(t)
	dir := t.TempDir()
	platform := "killed" + strconv.Itoa(os.Getpid())
	boundPlan(t, &Host{}, group)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"bulkhead:child/test/host"}
	cmd.Env = append(os.Environ(), "PLATFORM="+platform, "DIR="+dir, "GROUP="+group)
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var spaces [2]uint64
	if n, err := fmt.Fscan(out, &spaces[0], &spaces[1]); err != nil {
		t.Fatal(n, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, ino := range spaces {
		if used := namespaceUsers(ino); len(used) != 0 {
			t.Errorf("namespace %d is used by %v", ino, used)
		}
	}
	if got := tell("tcp 192.0.2.1:80"); got != unix.ECONNREFUSED.Error() {
		t.Errorf("after the node was killed, a bound workload connects: %q", got)
	}
	if got := tell("udp 192.0.2.1:53"); got != unix.EPERM.Error() {
		t.Errorf("after the node was killed, a bound workload sends: %q", got)
	}
	h, err := Open(t.Context(), Options{Platform: platform, StateDir: dir, RunDir: dir, Mode: Root})
	if err != nil {
		t.Fatal(err)
	}
	if got := tell("udp 192.0.2.1:53"); got != unix.EPERM.Error() {
		t.Errorf("before the first plan a bound workload sends: %q", got)
	}
	p := testPlan(h)
	p.Members[0].CgroupPath = group
	apply(t, h, p)
	if got := tell("udp 192.0.2.1:53"); got != unix.EPERM.Error() {
		t.Errorf("a bound workload sends: %q", got)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if hostTables(t, h) != 0 {
		t.Error("a table is left")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("files are left: %v", entries)
	}
}

// namespaceUsers returns the tasks in a network namespace.
func namespaceUsers(ino uint64) []string {
	var out []string
	links, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	for _, l := range links {
		if to, _ := os.Readlink(l); to == fmt.Sprintf("net:[%d]", ino) {
			out = append(out, l)
		}
	}
	return out
}
