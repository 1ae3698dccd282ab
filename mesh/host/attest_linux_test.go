package host

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answer serves a Workload API that only says what it believes of its callers.
func answer(t *testing.T, h *Host, workload string) {
	t.Helper()
	l, _, err := h.WorkloadAPI(workload)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			name, err := h.Attest(conn.(*net.UnixConn))
			fmt.Fprintf(conn, "you are %q: %v", name, err)
			conn.Close()
		}
	}()
}

func (h *Host) hostSocket(workload string) string {
	return filepath.Join(h.options.RunDir, "live", "api", workload, socketName)
}

func TestAttestWorkload(t *testing.T) {
	h := isolatedHost(t, "a", "b")
	answer(t, h, "a")
	answer(t, h, "b")
	for _, w := range []string{"a", "b"} {
		out, _ := run(t, h, w, Command{Child: "test/call", Env: []string{"SOCKET=" + apiSocket}})
		if out != fmt.Sprintf("you are %q: <nil>", w) {
			t.Errorf("%s: %s", w, out)
		}
	}
	refused := func(who, said, why string) {
		if !strings.HasPrefix(said, `you are "": `) || !strings.Contains(said, why) {
			t.Errorf("%s: %s", who, said)
		}
	}
	refused("the node itself", callAPI(h.hostSocket("a")), "network namespace")

	outside := exec.Command("/proc/self/exe")
	outside.Args = []string{markPrefix + "test/call"}
	outside.Env = []string{"SOCKET=" + h.hostSocket("a")}
	said, err := outside.Output()
	if err != nil {
		t.Fatal(err)
	}
	refused("a process of the same user outside", string(said), "network namespace")

	// From b's namespace, past b's view of the files.
	var fromB string
	err = h.members["b"].thread.do(func() error {
		fromB = callFromHere(t, h.hostSocket("a"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	refused("b at the socket of a", fromB, "network namespace")

	if ownProc(t, h, "a") {
		out, _ := run(t, h, "a", Command{Child: "test/call", Env: []string{"SOCKET=" + apiSocket, "NAMESPACE=new"}})
		refused("a process that left for a namespace of its own", out, "network namespace")
	}
}

// callFromHere starts a caller on this thread, which gives it its network.
func callFromHere(t *testing.T, path string) string {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{markPrefix + "test/call"}
	cmd.Env = []string{"SOCKET=" + path}
	said, err := cmd.Output()
	if err != nil {
		t.Error(err)
	}
	return string(said)
}

// TestAttestTheDead: a process that connected and ended is nobody, even if
// another one could have its number by now.
func TestAttestTheDead(t *testing.T) {
	h := isolatedHost(t, "a")
	l, _, err := h.WorkloadAPI("a")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := h.Start(t.Context(), "a", Command{Child: "test/call", Env: []string{"SOCKET=" + apiSocket}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if name, err := h.Attest(conn.(*net.UnixConn)); err != nil || name != "a" {
		t.Fatal(name, err)
	}
	p.Stop(0)
	name, err := h.Attest(conn.(*net.UnixConn))
	if err == nil || name != "" {
		t.Fatalf("a dead process is %q", name)
	}
	t.Log(err)
}

// TestAttestWithoutPidfd takes the way of kernels before 6.5.
func TestAttestWithoutPidfd(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := startOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{pid: cmd.Process.Pid, pidfd: -1, start: start}
	if err := p.alive(); err != nil {
		t.Error(err)
	}
	if err := (&peer{pid: cmd.Process.Pid, pidfd: -1, start: "1"}).alive(); err == nil {
		t.Error("another process with the same number is believed")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := p.alive(); err == nil {
		t.Error("a process that has ended is believed")
	}
}

func TestAttestUnknownSockets(t *testing.T) {
	h := isolatedHost(t, "a")
	l, _, err := h.WorkloadAPI("a")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = callAPI(h.hostSocket("a")) }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.Close()
	if _, err := h.Attest(conn.(*net.UnixConn)); err == nil {
		t.Error("a connection to a socket that was closed is attested")
	}
	path := filepath.Join(t.TempDir(), "s")
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() { _ = callAPI(path) }()
	conn, err = other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := h.Attest(conn.(*net.UnixConn)); err == nil {
		t.Error("a connection to a socket of somebody else is attested")
	}
	if _, _, err := h.WorkloadAPI("../a"); err == nil {
		t.Error("an API for a workload that is not there")
	}
}

func TestAttestCgroup(t *testing.T) {
	for text, want := range map[string]bool{
		"0::/system.slice/db.service\n":                    true,
		"0::/system.slice/db.service/worker\n":             true,
		"3:cpu:/other\n0::/system.slice/db.service\n":      true,
		"0::/system.slice/db.service2\n":                   false,
		"0::/\n":                                           false,
		"1:name=systemd:/system.slice/db.service\n":        false,
		"0::/system.slice/db.service/../other.service\n":   false,
		"0::/../system.slice/db.service\n":                 false,
		"0::/system.slice\n":                               false,
		"":                                                 false,
		"1:x:/a\n0::/user.slice/system.slice/db.service\n": false,
	} {
		for _, name := range []string{"system.slice/db.service", "/system.slice/db.service"} {
			if err := cgroupWithin(text, name); (err == nil) != want {
				t.Errorf("%q in %q: %v", text, name, err)
			}
		}
	}
	for _, bad := range []string{"", "/", "..", "a/../..", "."} {
		if err := cgroupWithin("0::/x\n", bad); err == nil {
			t.Errorf("everything is in %q", bad)
		}
	}
}

// TestAttestBound: a process that bulkhead did not start, by its control group.
func TestAttestBound(t *testing.T) {
	mount, err := cgroupMount()
	if err == nil {
		err = os.Mkdir(filepath.Join(mount, "bulkhead-test"), 0o755)
	}
	if err != nil || os.Geteuid() != 0 || InUserNamespace() {
		t.Skip("SKIPPED: control groups need root; run: sudo go test ./mesh/host")
	}
	group := filepath.Join(mount, "bulkhead-test")
	defer os.Remove(group)
	h := isolatedHost(t)
	defer os.RemoveAll(besides(h.options.RunDir))
	h.members["db"] = &member{Member: Member{Name: "db", CgroupPath: group}}
	l, path, err := h.WorkloadAPI("db")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	call := func(inside bool) (string, error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{markPrefix + "test/call"}
		cmd.Env = []string{"SOCKET=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if inside {
			fd, err := unix.Open(group, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); time.Sleep(10 * time.Millisecond) }()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return h.Attest(conn.(*net.UnixConn))
	}
	if name, err := call(true); err != nil || name != "db" {
		t.Error(name, err)
	}
	if name, err := call(false); err == nil || name != "" || !strings.Contains(err.Error(), "control group") {
		t.Error("a process outside is", name, err)
	}
	if _, err := h.Start(t.Context(), "db", Command{Path: "true"}); err == nil {
		t.Error("a workload that runs already was started")
	}
}

func TestUnitControlGroup(t *testing.T) {
	root := t.TempDir()
	for dir, events := range map[string]string{
		"system.slice/db.service":                                "populated 1\nfrozen 0\n",
		"system.slice/off.service":                               "populated 0\nfrozen 0\n",
		"system.slice/system-web.slice/web@1.service":            "populated 1\n",
		"system.slice/twice.service":                             "populated 1\n",
		"other.slice/twice.service":                              "populated 1\n",
		"user.slice/user-1.slice/user@1.service/fake.service":    "populated 1\n",
		"user.slice/user-1.slice/db.service":                     "populated 1\n",
		"system.slice/db.service/fake.service":                   "populated 1\n",
		"system.slice/db.service/db.service":                     "populated 1\n",
		"system.slice/container.scope/inner.slice/inner.service": "populated 1\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, "cgroup.events"), []byte(events), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for unit, want := range map[string]string{
		"db": "/system.slice/db.service", "db.service": "/system.slice/db.service", "web@1.service": "/system.slice/system-web.slice/web@1.service",
		"off": "", "twice": "", "fake": "", "inner": "", "../x": "", "none": "", "": "", ".": "",
	} {
		got, err := cgroupOf(root, unit)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q %v", unit, got, err)
		}
	}
}

func FuzzPeerControlGroup(f *testing.F) {
	f.Add("0::/a/b\n")
	f.Add("1:name=x:/a\n0::/..\n")
	f.Fuzz(func(t *testing.T, text string) {
		if cgroupWithin(text, "/a") == nil && !strings.Contains(text, "0::/a") {
			t.Errorf("%q is in /a", text)
		}
	})
}
