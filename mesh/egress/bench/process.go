//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that this one started.
type process struct {
	name   string
	cmd    *exec.Cmd
	output string // file of what it says
	log    string // file with a line or more for each request
	ended  chan struct{}
}

// startProcess starts a program that ends with this one. As is the user that it
// runs as, nil for this one.
func startProcess(ctx context.Context, name, dir string, as *syscall.Credential, command ...string) (*process, error) {
	p := &process{name: name, output: filepath.Join(dir, name+".output"), ended: make(chan struct{})}
	out, err := os.OpenFile(p.output, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.CommandContext(ctx, command[0], command[1:]...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Credential: as}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop ends it, gently first.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// waitFor waits until it works.
func (p *process) waitFor(works func() error) error {
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		if err = works(); err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return p.explain(errors.New("it ended at once"))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return p.explain(err)
}

// explain adds the end of what the process said.
func (p *process) explain(err error) error {
	said, _ := os.ReadFile(p.output)
	if said = bytes.TrimSpace(said); len(said) > 0 {
		return fmt.Errorf("%s: %w; it says: …%s", p.name, err, said[max(0, len(said)-1000):])
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

// logged checks, when the process has ended, that its log has a line for each of n
// requests. What the clients were doing when they stopped may be missing.
func (p *process) logged(n int) error {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	if lines := bytes.Count(b, []byte("\n")); lines < n-clients {
		return fmt.Errorf("%s has %d lines in its log after %d requests: that is less work than it is measured for", p.name, lines, n)
	}
	return nil
}

// family returns the process and all that it started.
func family(pid int) []int {
	all := []int{pid}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, child := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, family(n)...)
			}
		}
	}
	return all
}

// tick is the unit of times in /proc/PID/stat: 1/100 s for programs, whatever the
// kernel itself counts in.
const tick = 10 * time.Millisecond

// cpu returns the user and system time of the process and of all that it started,
// with those of its threads that have ended. Nil used none.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	var sum time.Duration
	for _, pid := range family(p.cmd.Process.Pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		sum += statCPU(string(b))
	}
	return sum
}

// statCPU reads fields 14 and 15 of /proc/PID/stat. The name before them may hold
// spaces and brackets.
func statCPU(stat string) time.Duration {
	_, rest, _ := cutLast(stat, ')')
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	var sum time.Duration
	for _, s := range f[11:13] {
		n, err := strconv.ParseUint(s, 10, 38)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// memory returns VmRSS of the process and of all that it started, in KiB.
func (p *process) memory() float64 {
	var sum float64
	for _, pid := range family(p.cmd.Process.Pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, _ := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
				sum += n
			}
		}
	}
	return sum
}

// raiseDescriptors raises the limit for this process and those that it starts, and
// returns it.
func raiseDescriptors() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Cur < 2048 {
		return 0, fmt.Errorf("a process may have %d descriptors, which is not enough: raise it with ulimit -n", l.Cur)
	}
	return min(l.Cur, 1<<20), nil
}

// freeAddr returns an address of loopback that nobody listens on. Its port is
// below those that the kernel gives to clients, which could take it before it is
// used.
func freeAddr() (*net.TCPAddr, error) {
	const first, last = 10_000, 32_000
	for range 100 {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first + rand.IntN(last-first)})
		if err == nil {
			defer ln.Close()
			return ln.Addr().(*net.TCPAddr), nil
		}
	}
	return nil, errors.New("a hundred ports of loopback are all taken")
}
