package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Start runs a command as a workload: in its network namespace, with mounts,
// processes, semaphores and a host name of its own, without any capability. It
// returns when the command itself runs, or says which step was refused.
//
// ctx limits the start only. The process ends by itself, by [Process.Stop],
// with the workload's namespace, or with this process, however that dies.
func (h *Host) Start(ctx context.Context, workload string, c Command) (*Process, error) {
	p, err := h.start(ctx, workload, c)
	if err != nil {
		return nil, fmt.Errorf("workload %s: %w", workload, err)
	}
	return p, nil
}

func (h *Host) start(ctx context.Context, workload string, c Command) (*Process, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s, err := h.site(workload)
	if err != nil {
		return nil, err
	}
	who, err := s.account(c.User)
	if err != nil {
		return nil, err
	}
	if s.mode == Cooperative {
		return s.plain(ctx, c, who)
	}
	return s.isolated(ctx, c, who)
}

func (c *Command) check() error {
	if (c.Path == "") == (c.Child == "") {
		return errors.New("a command has a program or a child, and exactly one of them")
	}
	if _, ok := registered(c.Child); c.Child != "" && !ok {
		return fmt.Errorf("no child is registered as %q", c.Child)
	}
	for _, s := range append(append([]string{c.Path, c.Dir}, c.Args...), c.Env...) {
		if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
			return fmt.Errorf("%q has a NUL or is not UTF-8, which no command, folder or variable can be", s)
		}
	}
	for _, e := range c.Env {
		if i := strings.Index(e, "="); i < 1 {
			return fmt.Errorf("the variable %q is not of the form NAME=VALUE", e)
		}
	}
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("the folder %s is not absolute", c.Dir)
	}
	return nil
}

// command returns what os/exec starts for c under the mark, with the standard
// files and nothing of this process's environment.
func command(mark string, c Command) *exec.Cmd {
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{mark}, Env: []string{},
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		// What is not a file is copied by goroutines. All writers have ended with
		// the first process; a reader of its input may never end.
		WaitDelay: time.Second,
		// A session of its own has no terminal into which it could type.
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	}
}

// isolated starts the shim in the namespaces of the workload and waits until it
// has become the command.
func (s *site) isolated(ctx context.Context, c Command, who account) (*Process, error) {
	config, err := s.shimConfig(c, who)
	if err != nil {
		return nil, err
	}
	in, err := sealed(config)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	said, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer said.Close()

	cmd := command(markShim, c)
	cmd.ExtraFiles = []*os.File{in, tell} // shimConfigFile, shimTellFile
	s.separate(cmd.SysProcAttr, who)
	err = s.thread.do(cmd.Start)
	tell.Close()
	if err != nil {
		return nil, fmt.Errorf("its namespaces cannot be made: %w", err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go p.reap()
	err = p.ready(ctx, said)
	if err == nil {
		// A change of the user ends the bond to the thread until the shim renews
		// it. If the thread is still there now, it will take the process with it.
		err = s.thread.do(func() error { return nil })
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-p.done
		return nil, err
	}
	return p, nil
}

// separate puts the shim into namespaces of its own.
func (s *site) separate(attr *syscall.SysProcAttr, who account) {
	attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if s.mode != User {
		return
	}
	// Whoever is root in the node's user namespace becomes itself again in
	// another one below, which has no power over the network namespace. An exec
	// without user id 0 keeps only ambient capabilities.
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: who.uid, HostID: 0, Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: who.gid, HostID: 0, Size: 1}}
	attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
}

// ready reads what the shim says: one byte when everything is isolated, after
// it the reason if there is no program in its place then.
func (p *Process) ready(ctx context.Context, said *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = said.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(said, 4096))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case string(text) == shimReady:
		return nil
	case len(text) == 0:
		_ = p.cmd.Process.Kill()
		return fmt.Errorf("the process ended before it was isolated: %s", p.Wait())
	}
	return errors.New(strings.TrimPrefix(string(text), shimReady))
}

// plain starts a child without isolation. The goroutine that waits for it also
// started it, so that the thread to which PR_SET_PDEATHSIG is tied stays.
func (s *site) plain(ctx context.Context, c Command, who account) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmd := command(markPrefix+c.Child, c)
	cmd.Env, cmd.Dir = s.environment(c, who), cmp.Or(c.Dir, "/")
	if c.Child == "" {
		cmd.Path, cmd.Args = c.Path, append([]string{c.Path}, c.Args...)
		if !strings.Contains(c.Path, "/") {
			path, err := exec.LookPath(c.Path)
			if err != nil {
				return nil, fmt.Errorf("%s: not found in PATH", c.Path)
			}
			cmd.Path = path
		}
	}
	if who.change {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.reap()
	}()
	if err := <-started; err != nil {
		var at *os.PathError
		if errors.As(err, &at) {
			return nil, fmt.Errorf("%s: %w", cmp.Or(c.Path, c.Child), at.Err)
		}
		return nil, err
	}
	return p, nil
}

// sealed returns a file that only who inherits it can read: a command line and
// an environment are shown to others, and a pipe is too small.
func sealed(config shimConfig) (*os.File, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("workload", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "workload")
	_, err = f.Write(text)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// takesTerm reports whether a process handles or ignores SIGTERM.
func takesTerm(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var mask uint64
		if name != "SigCgt" && name != "SigIgn" {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &mask); err == nil && mask&(1<<(syscall.SIGTERM-1)) != 0 {
			return true
		}
	}
	return false
}
