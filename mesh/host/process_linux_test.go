package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// isolatedHost returns a host with workloads that have an empty network each.
// The tests of processes need no more of the network.
func isolatedHost(t testing.TB, workloads ...string) *Host {
	t.Helper()
	if !Privileged() {
		t.Skip("SKIPPED: making namespaces needs root; run: sudo go test ./mesh/host")
	}
	// Not below /tmp, which is hidden as a whole.
	dir, err := os.MkdirTemp("/var/tmp", "bulkhead-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := Options{Platform: "acme", StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Mode: Root, Log: slog.New(slog.DiscardHandler)}
	if InUserNamespace() {
		o.Mode = User
	}
	for _, d := range []string{o.StateDir, filepath.Join(o.RunDir, "live")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.StateDir, "key"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := &Host{options: o, members: map[string]*member{}}
	h.plan.Names = map[string][]netip.Addr{}
	for i, w := range workloads {
		th, err := newThread()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(th.close)
		h.members[w] = &member{Member: Member{Name: w}, thread: th}
		h.plan.Names[w] = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)})}
	}
	return h
}

func run(t *testing.T, h *Host, workload string, c Command) (string, Exit) {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	p, err := h.Start(t.Context(), workload, c)
	if err != nil {
		t.Fatal(err)
	}
	exit := p.Wait()
	return out.String(), exit
}

// ownProc reports whether workloads get a /proc of their own. An ordinary user
// cannot have it where parts of /proc are hidden, as in containers.
func ownProc(t *testing.T, h *Host, workload string) bool {
	t.Helper()
	self, _ := run(t, h, workload, Command{Path: "readlink", Args: []string{"/proc/self"}})
	if self != "1\n" && !InUserNamespace() {
		t.Fatalf("/proc/self is %q", self)
	}
	return self == "1\n"
}

// TestProcessInUserNamespace runs all tests of processes again as an ordinary
// user.
func TestProcessInUserNamespace(t *testing.T) {
	if InUserNamespace() {
		t.Skip("SKIPPED: this is the inner run; run: go test ./mesh/host")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^Test(Process|Attest|Start)", "-test.v="+fmt.Sprint(testing.Verbose()))
	cmd.Env = append(os.Environ(), asUser+"=1", "TMPDIR=/tmp")
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("can make no user namespace")) {
		t.Skipf("SKIPPED: %s; run: sudo go test ./mesh/host", bytes.TrimSpace(out))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	h := isolatedHost(t, "trainer")
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Command{
		"workload trainer: /usr/bin/foo: no such file or directory": {Path: "/usr/bin/foo"},
		"workload trainer: foo-bar: not found in PATH":              {Path: "foo-bar"},
		"workload trainer: ./foo: no such file or directory":        {Path: "./foo"},
		"workload trainer: /nowhere: no such file or directory":     {Path: "true", Dir: "/nowhere"},
		"workload trainer: " + file + ": permission denied":         {Path: file},
		"the folder here is not absolute":                           {Path: "true", Dir: "here"},
		"exactly one of them":                                       {},
		"no child is registered":                                    {Child: "foo"},
		"where bulkhead keeps its state":                            {Path: "true", Dir: h.options.StateDir},
		"has a NUL":                                                 {Path: "true", Args: []string{"a\x00b"}},
		"is not UTF-8":                                              {Path: "true", Dir: "/\xff"},
		"not of the form NAME=VALUE":                                {Path: "true", Env: []string{"NAME"}},
		"user \"no-such-user\" does not exist":                      {Path: "true", User: "no-such-user"},
	} {
		p, err := h.Start(t.Context(), "trainer", c)
		if err == nil {
			t.Errorf("%+v was started: %s", c, p.Wait())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %q, want %q", c, err, want)
		}
	}
	if _, err := h.Start(t.Context(), "other", Command{Path: "true"}); err == nil {
		t.Error("a workload of another machine was started")
	}
	if _, err := h.Start(t.Context(), "trainer", Command{Path: "true", User: "root"}); err == nil {
		t.Error("a workload runs as root")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Start(ctx, "trainer", Command{Path: "true"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestStartFailsClosedOnDecoys(t *testing.T) {
	h := isolatedHost(t, "trainer")
	if _, exit := run(t, h, "trainer", Command{Path: "true"}); exit != (Exit{}) {
		t.Fatal(exit)
	}
	moved := h.options.StateDir + "-moved"
	if err := os.Rename(h.options.StateDir, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), "trainer", Command{Path: "true"}); err == nil {
		t.Error("started although the state folder is gone, and may be visible elsewhere")
	}
	if err := os.Mkdir(h.options.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), "trainer", Command{Path: "true"}); err == nil || !strings.Contains(err.Error(), "not the folder that it was") {
		t.Errorf("started although a decoy stands for the state folder: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(moved, link); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(h.options.StateDir), os.Rename(moved, h.options.StateDir), os.Mkdir(h.options.StateDir+"/bin", 0o755), os.Symlink(h.options.StateDir+"/bin", link+"2")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), "trainer", Command{Path: "true", Dir: link + "2"}); err == nil {
		t.Error("a symbolic link shows a part of the state")
	}
	if out, exit := run(t, h, "trainer", Command{Path: "ls", Args: []string{"-A", h.options.StateDir}, Folders: []string{h.options.StateDir + "/bin"}}); exit != (Exit{}) || out != "bin\n" {
		t.Errorf("%s%s: want only the folder that was asked for", out, exit)
	}
}

// TestAFolderThatTheUserMayNotEnter: the home folder of root, for a workload that
// runs as nobody.
func TestAFolderThatTheUserMayNotEnter(t *testing.T) {
	h := isolatedHost(t, "trainer")
	if os.Geteuid() != 0 || h.options.Mode != Root {
		t.Skip("SKIPPED: a folder of another user needs root; run: sudo go test ./mesh/host")
	}
	home, err := os.MkdirTemp("/var", "bulkhead-test-*") // 0700, and not below what is shown anew
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	if err := os.Mkdir(home+"/policy", 0o755); err != nil {
		t.Fatal(err)
	}
	c := Command{Path: "pwd", Dir: home + "/policy", User: "65534"}
	if _, err := h.Start(t.Context(), "trainer", c); err == nil || !strings.Contains(err.Error(), "give the workload a user") {
		t.Errorf("started in a folder that it may not enter, or without a fix: %v", err)
	}
	c.DirIfAllowed = true
	if out, exit := run(t, h, "trainer", c); exit != (Exit{}) || out != "/\n" {
		t.Errorf("%q, %s: want the root folder", out, exit)
	}
}

func TestProcessExit(t *testing.T) {
	h := isolatedHost(t, "trainer")
	if out, exit := run(t, h, "trainer", Command{Path: "sh", Args: []string{"-c", "echo out; echo err >&2; exit 3"}}); exit != (Exit{Code: 3}) || out != "out\nerr\n" {
		t.Errorf("%q %s", out, exit)
	}
	if out, _ := run(t, h, "trainer", Command{Path: "cat", Stdin: strings.NewReader("hello")}); out != "hello" {
		t.Errorf("stdin: %q", out)
	}
	p, err := h.Start(t.Context(), "trainer", Command{Path: "sleep", Args: []string{"100"}})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if exit := p.Stop(time.Minute); exit.Signal != unix.SIGKILL || time.Since(start) > 5*time.Second {
		t.Errorf("a program without a handler: %s after %s", exit, time.Since(start))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err = h.Start(t.Context(), "trainer", Command{Path: "sh", Args: []string{"-c", "trap 'exit 7' TERM; echo ready; sleep 100 & wait"}, Stdout: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if exit := p.Stop(time.Minute); exit != (Exit{Code: 7}) {
		t.Errorf("a program with a handler: %s", exit)
	}
	p, err = h.Start(t.Context(), "trainer", Command{Path: "sh", Args: []string{"-c", "trap '' TERM; sleep 100"}})
	if err != nil {
		t.Fatal(err)
	}
	if exit := p.Stop(50 * time.Millisecond); exit.Signal != unix.SIGKILL {
		t.Errorf("a program that ignores SIGTERM: %s", exit)
	}
}

// TestProcessSeesOnlyItsOwn looks from inside. See inspect.
func TestProcessSeesOnlyItsOwn(t *testing.T) {
	h := isolatedHost(t, "trainer", "store")
	other, err := h.Start(t.Context(), "store", Command{Path: "sleep", Args: []string{"1000"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Stop(0)
	for _, w := range []string{"trainer", "store"} {
		l, path, err := h.WorkloadAPI(w)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if path != apiSocket {
			t.Errorf("the socket of %s is at %s", w, path)
		}
	}
	t.Setenv("BULKHEAD_SECRET", "x")
	out, exit := run(t, h, "trainer", Command{Child: "test/inspect", Env: []string{"FOO=bar", "FOO=baz",
		"STATE=" + h.options.StateDir, "RUN=" + h.options.RunDir, fmt.Sprintf("NODE=%d", os.Getpid()), fmt.Sprintf("OTHER=%d", other.Pid())}})
	var got map[string]string
	if err := json.Unmarshal([]byte(out), &got); err != nil || exit != (Exit{}) {
		t.Fatalf("%s: %s %v", out, exit, err)
	}
	uid := fmt.Sprint(nobody)
	if who, err := (&site{mode: h.options.Mode}).account(""); err == nil {
		uid = fmt.Sprint(who.uid)
	}
	inRun := []string{"bulkhead"}
	if real, err := filepath.EvalSymlinks(resolvFile); err == nil && within(real, "/run") {
		inRun = append(inRun, strings.Split(real, "/")[2])
		slices.Sort(inRun)
	}
	none := "0000000000000000"
	want := map[string]string{
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
		"uid": uid, "gid": uid, "groups": "[]", "pid": "1", "processes": "1", "files": "0 1 2", "hostname": "trainer", "cwd": "/", "foo": "baz", "secret": "",
		"packet socket": "address family not supported by protocol", "vsock": "address family not supported by protocol",
		"raw socket": "operation not permitted", "raw6 socket": "operation not permitted", "tcp socket": "", "unix socket": "",
		"io_uring": "function not implemented",
		"mark":     "operation not permitted", "ip_forward": "refused", "sys": "refused", "read-only": "/proc/sys /sys /etc/hosts /run",
		"state": "", "run": "", "/run": strings.Join(inRun, " "), "/run/bulkhead": "workload.sock", "/tmp": "",
		"make in /run": "refused", "make in state": "refused", "remove the API socket": "refused",
		"write hosts": "refused", "resolv.conf": "", "make in /tmp": "",
		"hosts":      "127.0.0.1 localhost\n::1 localhost\n100.64.0.2 store\n100.64.0.1 trainer\n",
		"kill node":  "no such process",
		"kill other": "no such process", "trace node": "no such process",
		"chroot": "operation not permitted", "unshare net": "operation not permitted", "hostname change": "operation not permitted",
		"terminal": "no such device or address", "umount": "operation not permitted", "SPIFFE_ENDPOINT_SOCKET": "unix:///run/bulkhead/workload.sock",
	}
	if InUserNamespace() {
		delete(want, "groups") // an ordinary user keeps its own
		delete(got, "groups")
	}
	if !ownProc(t, h, "trainer") {
		delete(want, "processes")
		delete(got, "processes")
	}
	for k, w := range want {
		if g, ok := got[k]; g != w || !ok {
			t.Errorf("%s: %q, want %q", k, g, w)
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: %q is not expected at all", k, g)
		}
	}
}

// TestProcessNestedNamespaces: a user namespace below gives back nothing.
func TestProcessNestedNamespaces(t *testing.T) {
	h := isolatedHost(t, "trainer")
	if !ownProc(t, h, "trainer") {
		t.Skip("SKIPPED: parts of /proc are hidden here; run: sudo go test ./mesh/host")
	}
	out, exit := run(t, h, "trainer", Command{Child: "test/nest", Env: []string{"STATE=" + h.options.StateDir, "RUN=" + h.options.RunDir}})
	var got map[string]string
	if err := json.Unmarshal([]byte(out), &got); err != nil || exit != (Exit{}) {
		t.Fatalf("%s: %s %v", out, exit, err)
	}
	for _, must := range []string{"umount state", "umount lazily", "umount run", "umount /run", "umount /proc/sys", "umount /etc/hosts", "write /run",
		"overlay", "bind without what is on it", "join the network", "flush the rules", "set a mark", "new proc", "ip_forward", "read the key"} {
		if g, ok := got[must]; !ok || g == "" {
			t.Errorf("%s was possible, or was not tried: %q", must, g)
		}
	}
	t.Log(got)
}

func TestProcessFolders(t *testing.T) {
	h := isolatedHost(t, "trainer")
	dir := t.TempDir()
	work, bin := filepath.Join(dir, "work"), filepath.Join(dir, "bin")
	if err := errors.Join(os.Mkdir(work, 0o777), os.Chmod(work, 0o777), os.Mkdir(bin, 0o755), os.WriteFile(bin+"/hello", []byte("#!/bin/sh\npwd; touch made; touch \"$0.x\" || echo refused\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	out, exit := run(t, h, "trainer", Command{Path: bin + "/hello", Dir: work})
	if !strings.HasPrefix(out, work+"\n") || !strings.HasSuffix(out, "refused\n") || exit != (Exit{}) {
		t.Errorf("%q %s", out, exit)
	}
	if _, err := os.Stat(work + "/made"); err != nil {
		t.Error(err)
	}
}

// TestProcessLearnsNames: a new plan reaches workloads that run.
func TestProcessLearnsNames(t *testing.T) {
	h := isolatedHost(t, "trainer")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out bytes.Buffer
	p, err := h.Start(t.Context(), "trainer", Command{Path: "sh", Args: []string{"-c", "read go; cat /etc/hosts"}, Stdin: r, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	h.plan.Names = map[string][]netip.Addr{"x": {netip.MustParseAddr("fd00::1")}}
	if err := h.syncHosts(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "go")
	w.Close()
	p.Wait()
	if out.String() != "127.0.0.1 localhost\n::1 localhost\nfd00::1 x\n" {
		t.Error(out.String())
	}
	h.plan.Names = map[string][]netip.Addr{"x\n127.0.0.1 y": {netip.MustParseAddr("fd00::1")}}
	if err := h.syncHosts(); err == nil {
		t.Error("a name with a line of its own was written")
	}
}

// TestProcessDiesWithTheNode kills a node that has started a workload.
func TestProcessDiesWithTheNode(t *testing.T) {
	h := isolatedHost(t)
	node := exec.Command("/proc/self/exe")
	node.Args = []string{markPrefix + "test/node", h.options.RunDir, h.options.StateDir, string(h.options.Mode)}
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	node.Stderr = os.Stderr
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 1000); err != nil || n != 1 {
		t.Errorf("the workload lives on a second after its node: %d %v", n, err)
	}
}

func TestProcessEndsWithItsThread(t *testing.T) {
	h := isolatedHost(t, "trainer")
	p, err := h.Start(t.Context(), "trainer", Command{Path: "sh", Args: []string{"-c", "sleep 1000 & sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	h.members["trainer"].thread.close()
	select {
	case <-p.Done():
	case <-time.After(5 * time.Second):
		t.Error("the process outlives its namespace's thread")
		p.Stop(0)
	}
}

func TestProcessLeaksNothing(t *testing.T) {
	h := isolatedHost(t, "trainer")
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	once := func() {
		run(t, h, "trainer", Command{Path: "true"})
		_, _ = h.Start(t.Context(), "trainer", Command{Path: "/no/such"})
		l, _, err := h.WorkloadAPI("trainer")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	once()
	before := count()
	for range 5 {
		once()
	}
	if after := count(); after > before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}

// TestProcessCooperative: no isolation, but the same interface.
func TestProcessCooperative(t *testing.T) {
	dir := t.TempDir()
	h := &Host{options: Options{Platform: "acme", StateDir: dir, RunDir: dir, Mode: Cooperative}, members: map[string]*member{"a": {Member: Member{Name: "a"}}}}
	out, exit := run(t, h, "a", Command{Path: "sh", Args: []string{"-c", "echo $SPIFFE_ENDPOINT_SOCKET; pwd"}})
	if out != "unix://"+dir+"/live/api/a/workload.sock\n/\n" || exit != (Exit{}) {
		t.Errorf("%q %s", out, exit)
	}
	if out, _ := run(t, h, "a", Command{Child: "test/hello"}); out != "hello\n" {
		t.Errorf("%q", out)
	}
	_, err := h.Start(t.Context(), "a", Command{Path: "/usr/bin/foo"})
	if err == nil || err.Error() != "workload a: /usr/bin/foo: no such file or directory" {
		t.Error(err)
	}
}

func BenchmarkStart(b *testing.B) {
	h := isolatedHost(b, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	one := func(b *testing.B, w string) *Process {
		p, err := h.Start(b.Context(), w, Command{Path: "/bin/sleep", Args: []string{"1000"}})
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			p := one(b, "a")
			b.StopTimer()
			p.Stop(0)
			b.StartTimer()
		}
	})
	b.Run("ten-at-once", func(b *testing.B) {
		for b.Loop() {
			var wg sync.WaitGroup
			ps := make([]*Process, 10)
			for i := range ps {
				wg.Go(func() { ps[i] = one(b, string(rune('a'+i))) })
			}
			wg.Wait()
			b.StopTimer()
			for _, p := range ps {
				p.Stop(0)
			}
			b.StartTimer()
		}
	})
}
