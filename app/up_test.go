package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/core/source"
	"bulkhead/mesh/host"
	"bulkhead/mesh/node"
	"bulkhead/mesh/report"
	"bulkhead/render"
)

// heavy makes tests repeat what they do until it takes minutes.
var heavy = os.Getenv("BULKHEAD_HEAVY") != ""

// What this program is when a test starts it again, by its first argument.
const (
	asUp       = "as-up"
	asWorkload = "as-workload"
	asExec     = "as-exec"
)

// become returns if this process is none of these.
func become(args []string) {
	switch {
	case len(args) > 1 && args[1] == asUp:
		becomeUp(args[2])
	case len(args) > 3 && args[1] == asExec:
		code, err := node.Dial(args[2]).Exec(context.Background(), node.ExecQuestion{Workload: args[3], Command: args[4:]})
		if err != nil {
			fmt.Println(err)
			code = 1
		}
		os.Exit(code)
	case len(args) > 2 && args[1] == asWorkload:
		becomeWorkload(args[2], args[3:])
	}
}

// upTest is `bulkhead up` in a process of its own, for the platform `testing`.
type upTest struct {
	// Dir holds everything: lib and run instead of the machine's folders.
	Dir                                     string
	Path, Join, Listen, Publish, Node, Mode string
	user                                    bool // an ordinary one
	inNetworkOf                             int  // a process, 0 for the machine's

	t      *testing.T
	cmd    *exec.Cmd
	output shared
	ended  chan struct{}
}

const readyLine = "READY "

// becomeUp is the process. As root it sees folders of the test in the place of
// the machine's, in mounts of its own.
func becomeUp(config string) {
	var u upTest
	fatal := func(err error) {
		if err != nil {
			fmt.Println("UP", err)
			os.Exit(1)
		}
	}
	fatal(json.Unmarshal([]byte(config), &u))
	if isRoot() {
		for from, to := range map[string]string{"lib": "/var/lib", "run": "/run"} {
			fatal(unix.Mount(filepath.Join(u.Dir, from), to, "", unix.MS_BIND, ""))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	e := &Env{Dir: u.Dir, Now: time.Now(), Version: "test", Getenv: os.Getenv}
	err := e.Up(ctx, Up{Path: u.Path, Mode: u.Mode, Join: u.Join, Listen: u.Listen, Publish: u.Publish, Node: u.Node, Output: os.Stdout,
		Log:  slog.New(slog.NewTextHandler(os.Stdout, nil)),
		Warn: func(source.Diagnostics, Lines) error { return nil },
		Ready: func(up *render.Up) error {
			fmt.Println(readyLine, up.Status.Ready())
			return nil
		}})
	fatal(err)
	os.Exit(0)
}

// nobody is an ordinary user.
const nobody = 65534

// shortDir returns a folder with a short name, since the paths of sockets are
// limited, that every user can enter.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "up")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// newUp returns a platform that has not started. The test is skipped where it
// cannot.
func newUp(t *testing.T, user bool) *upTest {
	t.Helper()
	if !isRoot() {
		if !user {
			t.Skip("SKIPPED: it needs root; run: sudo go test ./app")
		}
		if err := host.CanUserNamespace(); err != nil {
			t.Skipf("SKIPPED: %v; run: sudo go test ./app", err)
		}
	}
	u := &upTest{t: t, Dir: shortDir(t), user: user, Publish: ownLoopback(2)}
	for _, name := range []string{"lib", "run", "home"} {
		must(t, os.Mkdir(filepath.Join(u.Dir, name), 0o755))
	}
	if user && isRoot() {
		must(t, os.Chown(filepath.Join(u.Dir, "home"), nobody, nobody))
	}
	t.Cleanup(func() {
		u.kill()
		if t.Failed() {
			t.Logf("the output of %s:\n%s", u.Node, &u.output)
		}
	})
	return u
}

// program copies this program to where every user can execute it.
func program(t *testing.T, dir string) string {
	t.Helper()
	bin := filepath.Join(dir, "program")
	must(t, os.Mkdir(bin, 0o755))
	from, err := os.Open("/proc/self/exe")
	must(t, err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(bin, "workload"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(to, from)
	must(t, errors.Join(err, to.Close()))
	return to.Name()
}

// start starts the process, and returns before anything is ready.
func (u *upTest) start() {
	u.t.Helper()
	if u.user {
		u.Mode = string(host.User)
	}
	config, err := json.Marshal(u)
	must(u.t, err)
	cmd := exec.Command("/proc/self/exe", asUp, string(config))
	cmd.Dir = u.Dir
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(u.Dir, "home"), "XDG_STATE_HOME=", "XDG_RUNTIME_DIR=")
	cmd.Stdout, cmd.Stderr = &u.output, &u.output
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	switch {
	case isRoot() && u.user:
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	case isRoot():
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	u.cmd, u.ended = cmd, make(chan struct{})
	must(u.t, inNetworkOf(u.inNetworkOf, cmd.Start))
	go func() {
		defer close(u.ended)
		cmd.Wait() // how it ended is looked up where it matters
	}()
}

// kill ends it at once, as `kill -9` does.
func (u *upTest) kill() {
	if u.cmd != nil {
		u.cmd.Process.Kill()
		<-u.ended
	}
}

// stop ends it as Ctrl-C does.
func (u *upTest) stop() {
	u.t.Helper()
	must(u.t, u.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-u.ended:
	case <-time.After(15 * time.Second):
		u.t.Fatal("it does not end")
	}
	if code := u.cmd.ProcessState.ExitCode(); code != 0 {
		u.t.Errorf("it ends with exit code %d", code)
	}
}

// runDir is the run-time folder of a platform.
func (u *upTest) runDir(platform string) string {
	if isRoot() && !u.user {
		return filepath.Join(u.Dir, "run", "bulkhead", platform)
	}
	return filepath.Join(u.Dir, "home", ".local", "state", "bulkhead", "run", platform)
}

func (u *upTest) admin() *node.Admin { return node.Dial(u.runDir("testing")) }

func (u *upTest) status() *report.Status {
	s, err := u.admin().Status(u.t.Context())
	if err != nil {
		return &report.Status{}
	}
	return s
}

// ready waits until everything runs as declared.
func (u *upTest) ready() {
	u.t.Helper()
	u.eventually("the platform is ready", func() bool { return u.status().Ready() })
}

// eventually waits until is holds, as long as the process runs.
func (u *upTest) eventually(what string, is func() bool) {
	u.t.Helper()
	eventually(u.t, what, func() bool {
		select {
		case <-u.ended:
			u.t.Fatal("the process has ended")
		default:
		}
		return is()
	})
}

func (u *upTest) workload(name string) report.WorkloadStatus {
	for _, w := range u.status().Workloads {
		if w.Name == name {
			return w
		}
	}
	return report.WorkloadStatus{}
}

// inNetworkOf runs f in the network of a process, on a thread that ends with it;
// here if there is none.
func inNetworkOf(pid int, f func() error) error {
	if pid == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		done <- func() error {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// leftovers returns what is still there of a platform whose files are below its
// folder: processes and mounts.
func (u *upTest) leftovers() []string {
	var out []string
	paths, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range paths {
		if path == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		for _, name := range []string{"cmdline", "mounts"} {
			text, err := os.ReadFile(filepath.Join(path, name))
			if err == nil && bytes.Contains(text, []byte(u.Dir)) {
				out = append(out, fmt.Sprintf("%s: %s", filepath.Join(path, name), bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
			}
		}
	}
	return out
}

// gone waits until nothing is left.
func (u *upTest) gone() {
	u.t.Helper()
	var left []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left = u.leftovers(); len(left) == 0 {
			return
		}
	}
	u.t.Errorf("it is gone, and these are left:\n%s", strings.Join(left, "\n"))
}

// interfaces of the machine.
func interfaces(t *testing.T) int {
	t.Helper()
	list, err := net.Interfaces()
	must(t, err)
	return len(list)
}

// TestUpOfTheExample: from the start to everything green, the programs talk, the
// door streams tokens, and after the end nothing is left.
func TestUpOfTheExample(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it builds programs; run: go test ./app")
	}
	bin := shortDir(t)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "./...")
	build.Dir = filepath.Join("..", "examples", "ai-platform", "programs")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join("..", "examples", "ai-platform", PolicyFile))
	must(t, err)
	for _, user := range []bool{false, true} {
		name := "root"
		if user {
			name = "user"
		}
		t.Run(name, func(t *testing.T) {
			u := newUp(t, user)
			before := interfaces(t)
			must(t, os.WriteFile(filepath.Join(u.Dir, PolicyFile), built(string(text), bin), 0o644))
			begin := time.Now()
			u.start()
			u.eventually("it says that it is ready", func() bool { return strings.Contains(u.output.String(), readyLine+" true") })
			t.Logf("everything is green after %s", time.Since(begin).Round(time.Millisecond))
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("it took %s", took)
			}
			eventually(t, "the steps of the trainer succeed, and their logs arrive", func() bool {
				out := u.output.String()
				return strings.Contains(out, "trainer | step") && strings.Contains(out, `log-collector | {"program":"trainer"`)
			})
			u.tokens("http://" + u.Publish + ":8088/v1/chat/completions")
			u.stop()
			u.gone()
			if n := interfaces(t); n != before {
				t.Errorf("the machine had %d interfaces and has %d", before, n)
			}
			u.onlyState("acme-ai")
		})
	}
}

var prepares = regexp.MustCompile(`prepare: \[[^]]*\],? *`)

// built is the example's policy with programs that are built already.
func built(text, bin string) []byte {
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = prepares.ReplaceAllString(line, "")
		out.WriteString(strings.ReplaceAll(line, "{bin}", bin))
	}
	return []byte(out.String())
}

// tokens asks the model at the door and expects a stream.
func (u *upTest) tokens(url string) {
	u.t.Helper()
	var answer string
	eventually(u.t, "the door streams tokens", func() bool {
		resp, err := http.Post(url, "application/json", strings.NewReader(`{"stream": true, "max_tokens": 5}`))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		answer = string(text)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	if n := strings.Count(answer, "data: {"); n < 5 || !strings.Contains(answer, "[DONE]") {
		u.t.Errorf("the answer is\n%s", answer)
	}
	http.DefaultClient.CloseIdleConnections()
}

// onlyState fails the test if there are files at run time's place.
func (u *upTest) onlyState(platform string) {
	u.t.Helper()
	entries, err := os.ReadDir(u.runDir(platform))
	must(u.t, err)
	for _, e := range entries {
		if e.Name() != "lock" {
			u.t.Errorf("%s is left in the run-time folder", e.Name())
		}
	}
}

// ownLoopback returns a loopback address that no other run of these tests uses.
func ownLoopback(n int) string {
	return fmt.Sprintf("127.%d.%d.%d", 88+n, os.Getpid()>>8&255, os.Getpid()&255)
}
