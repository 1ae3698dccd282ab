package host

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideAct says what the inner process of the following tests does.
const insideAct = "BULKHEAD_TEST_ACT"

// userInside runs TestUserNamespaceInside in a user namespace, as an ordinary user.
func userInside(t *testing.T, act string) *exec.Cmd {
	t.Helper()
	outer := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespaceInside$")
		cmd.Dir = "/"
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		cmd.Env = append(os.Environ(), asUser+"=1", "TMPDIR=/tmp")
		return cmd
	}
	if out, err := outer().CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: %s; run: sudo go test ./mesh/host", strings.TrimSpace(string(out)))
	}
	cmd := outer()
	cmd.Env = append(cmd.Env, insideAct+"="+act)
	return cmd
}

func TestUserNamespaceInside(t *testing.T) {
	switch os.Getenv(insideAct) {
	case "":
		t.Skip("SKIPPED: this is the inner part of other tests; run: go test -run TestUserNamespace ./mesh/host")
	case "exit":
		text, err := io.ReadAll(os.Stdin)
		status, _ := os.ReadFile("/proc/self/setgroups")
		fmt.Printf("%d %s %s%v %v", os.Geteuid(), text, status, err, InUserNamespace() && Privileged() && EnterUserNamespace() == nil)
		os.Exit(7)
	case "signal":
		got := make(chan os.Signal, 1)
		signal.Notify(got, unix.SIGTERM, unix.SIGHUP, unix.SIGINT)
		fmt.Println(os.Getpid())
		if s := <-got; s == unix.SIGHUP {
			os.Exit(9)
		}
		os.Exit(10)
	case "wait":
		fmt.Println(os.Getpid())
		time.Sleep(time.Minute)
	}
}

func TestUserNamespacePassesEverythingThrough(t *testing.T) {
	cmd := userInside(t, "exit")
	cmd.Stdin = strings.NewReader("input")
	out, err := cmd.Output()
	if string(out) != "0 input deny\n<nil> true" || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("%s: %v", out, err)
	}
}

func TestUserNamespaceSignals(t *testing.T) {
	cmd := userInside(t, "signal")
	startAndRead(t, cmd)
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Error(cmd.ProcessState)
	}
}

// TestUserNamespaceEndsTogether: what is inside dies with the process that the
// user sees.
func TestUserNamespaceEndsTogether(t *testing.T) {
	cmd := userInside(t, "wait")
	pid := startAndRead(t, cmd)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); err != nil || n != 1 {
		t.Error("the process inside lives on", err)
	}
	cmd = userInside(t, "wait")
	if err := unix.Kill(startAndRead(t, cmd), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 128+9 {
		t.Error(cmd.ProcessState)
	}
}

// startAndRead returns the number that a process says first.
func startAndRead(t *testing.T, cmd *exec.Cmd) (n int) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(bufio.NewReader(out), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUserNamespaceErrorSaysTheWayOut(t *testing.T) {
	err := userNamespaceError(unix.EPERM).Error()
	for _, want := range []string{"operation not permitted", "sudo", "--mode cooperative"} {
		if !strings.Contains(err, want) {
			t.Error(err)
		}
	}
}
