package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideUser says that this process is the one that EnterUserNamespace made.
var insideUser bool

// restoreName takes the mark off the arguments of that process.
func restoreName(args []string) {
	insideUser = true
	if len(args) > 1 {
		os.Args = args[1:]
	}
}

// InUserNamespace reports whether this process is root only in a user namespace
// of one user: the one that [EnterUserNamespace] made, or one like it.
func InUserNamespace() bool {
	if insideUser {
		return true
	}
	uid, err := outsideID("/proc/self/uid_map")
	return err == nil && uid >= 0
}

// Privileged reports whether this process may make namespaces and filters, as
// root of the machine or of a user namespace.
func Privileged() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SETPCAP
	return data[0].Effective&need == need
}

// EnterUserNamespace makes an ordinary user able to isolate workloads: it runs
// this program again as root of a new user namespace, which is nobody but this
// user outside, with mounts of its own and the machine's network. It passes
// signals on, waits, and exits with the code of that process. Inside, and for a
// process that is privileged anyway, it returns nil at once.
func EnterUserNamespace() error {
	if Privileged() {
		return nil
	}
	if insideUser {
		return errors.New("this process has no privileges in its own user namespace; start bulkhead with sudo, or with --mode cooperative")
	}
	if err := CanUserNamespace(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	cmd := inUserNamespace(markUser)
	cmd.Args = append(cmd.Args, os.Args...)
	cmd.Env = os.Environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // the child dies with this thread
	if err := cmd.Start(); err != nil {
		runtime.UnlockOSThread()
		return userNamespaceError(err)
	}
	go func() {
		for s := range signals {
			if s == unix.SIGINT && terminalSignals() {
				continue // the terminal has sent it to both
			}
			_ = cmd.Process.Signal(s)
		}
	}()
	_ = cmd.Wait() // its error says no more than the state
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}

// terminalSignals reports whether this process is in the foreground of a
// terminal, which sends its signals to every process there.
func terminalSignals() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// CanUserNamespace returns why this user cannot make a user namespace in which
// it has power over networks, nil if it can.
func CanUserNamespace() error {
	cmd := inUserNamespace(markTry)
	cmd.Env = []string{}
	said, err := cmd.Output()
	if err == nil {
		return nil
	}
	if text := strings.TrimSpace(string(said)); text != "" {
		err = errors.New(text)
	}
	return userNamespaceError(err)
}

// tryUserNamespace is the process that CanUserNamespace starts.
func tryUserNamespace() {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func inUserNamespace(mark string) *exec.Cmd {
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{mark},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			Pdeathsig:   unix.SIGKILL,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		},
	}
}

// userNamespaceError names what forbids it, and the ways out.
func userNamespaceError(err error) error {
	why := "the kernel or the container that this runs in forbids it"
	for _, s := range []struct{ name, forbids, says string }{
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"},
		{"user/max_user_namespaces", "0", "user.max_user_namespaces is 0"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor forbids it (kernel.apparmor_restrict_unprivileged_userns is 1)"},
	} {
		if text, err := os.ReadFile("/proc/sys/" + s.name); err == nil && strings.TrimSpace(string(text)) == s.forbids {
			why = s.says
			break
		}
	}
	return fmt.Errorf("this user can make no user namespace (%w): %s; start bulkhead with sudo, or with --mode cooperative, which enforces nothing", err, why)
}
