package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// shimConfig is what the shim gets from the node. Both are the same program.
type shimConfig struct {
	Workload  string
	Path      string
	Args, Env []string
	Child     string
	Dir       string
	Optional  bool // Dir is `/` where it cannot be entered
	UID, GID  int
	SetUser   bool // root mode: become the user
	Covers    []cover
	Shows     []show
}

// The files that the shim inherits besides the standard ones, and what it says
// when everything is isolated.
const (
	shimConfigFile = 3
	shimTellFile   = 4
	shimReady      = "+"
)

// runMarked is this program as the shim of a workload, or as the test whether a
// user namespace can be used. It ends in the command or returns.
func runMarked(mark string) {
	if mark == markTry {
		tryUserNamespace()
		return
	}
	// All that follows is a property of the thread that does it, and stays with
	// it when it becomes the command.
	runtime.LockOSThread()
	tell := os.NewFile(shimTellFile, "tell")
	err := shim(tell) // returns only if it fails
	_, _ = io.WriteString(tell, err.Error())
}

// shim isolates this process, which is alone in its new namespaces, and becomes
// the command. Every step must succeed; the order matters: mounts while there
// are capabilities, the folder and the program only as the user.
func shim(tell *os.File) error {
	if err := unix.CloseRange(shimConfigFile, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w; Linux 5.12 or later is needed", err)
	}
	var c shimConfig
	if err := json.NewDecoder(os.NewFile(shimConfigFile, "config")).Decode(&c); err != nil {
		return fmt.Errorf("the configuration: %w", err)
	}
	if err := c.mount(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(c.Workload)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := c.dropPrivileges(); err != nil {
		return err
	}
	if err := dieWithNode(tell); err != nil {
		return err
	}
	if err := c.enter(); err != nil {
		return err
	}
	path, args, err := c.program()
	if err != nil {
		return err
	}
	if err := restrictSockets(); err != nil {
		return err
	}
	if _, err := io.WriteString(tell, shimReady); err != nil {
		return err
	}
	err = syscall.Exec(path, args, c.Env)
	return fmt.Errorf("%s: %w", args[0], err)
}

// enter makes Dir the working folder.
func (c *shimConfig) enter() error {
	err := os.Chdir(c.Dir)
	switch {
	case errors.Is(err, fs.ErrPermission) && c.Optional:
		return os.Chdir("/")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; give the workload a user: that may enter it, or let others enter it and the folders above", plainError(err))
	case err != nil:
		return plainError(err)
	}
	return nil
}

// program returns what to execute. The user looks it up, in its own PATH.
func (c *shimConfig) program() (path string, args []string, err error) {
	if c.Child != "" {
		return "/proc/self/exe", []string{markPrefix + c.Child}, nil
	}
	args = append([]string{c.Path}, c.Args...)
	if strings.Contains(c.Path, "/") {
		return c.Path, args, nil
	}
	for _, e := range c.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return "", nil, err
			}
		}
	}
	if path, err = exec.LookPath(c.Path); err != nil {
		return "", nil, fmt.Errorf("%s: not found in PATH", c.Path)
	}
	return path, args, nil
}

// dieWithNode asks the kernel once more to kill this process with the thread
// that made it: a change of the user has undone it. If the node died in
// between, nobody reads what this process says.
func dieWithNode(tell *os.File) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_PDEATHSIG: %w", err)
	}
	fds := []unix.PollFd{{Fd: int32(tell.Fd()), Events: unix.POLLOUT}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		return errors.New("the node is gone")
	}
	return nil
}

// plainError leaves the operation out of an error about a file.
func plainError(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return fmt.Errorf("%s: %w", at.Path, at.Err)
	}
	return err
}
