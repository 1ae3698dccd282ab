package host

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// Command is what runs as a workload.
type Command struct {
	// Path is the program: a path, or a name that is looked up in PATH inside
	// the workload. Args are its arguments, without the program itself.
	Path string
	Args []string
	// Child runs this very program instead, as the child that was registered
	// under this name with [RegisterChild]. Path and Args are not used.
	Child string
	// Env are variables as NAME=VALUE. Of this process's environment a workload
	// gets PATH, TZ and the language, and nothing else.
	Env []string
	// Dir is the working folder, `/` if empty. If it is one of
	// [Options].Guarded it is read-only; one below stays as it is.
	Dir string
	// DirIfAllowed makes `/` the working folder where the user may not enter Dir,
	// such as a policy in the home folder of root.
	DirIfAllowed bool
	// User is a name or a number. If it is empty, the user behind sudo, else
	// nobody. As an ordinary user it can be no other user.
	User string
	// Folders stay visible, read-only, where a workload sees an empty folder
	// otherwise: below /tmp, and below the folders of bulkhead itself. So do Dir,
	// which stays as it is, and the folder of Path.
	Folders []string

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exit says how a process ended.
type Exit struct {
	Code   int            // -1 if a signal ended it
	Signal syscall.Signal // 0 if it ended by itself
}

func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("ended by signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Process is the first process of a workload. With it all others of the
// workload end.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	exit Exit // set before done is closed
}

// Pid is the process's number as this process sees it.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and says how it ended. Any number of
// callers may wait.
func (p *Process) Wait() Exit {
	<-p.done
	return p.exit
}

// Stop asks the process to end, waits for at most grace, and then kills it and
// everything it started.
//
// In a namespace the process is the first one, for which the kernel drops
// SIGTERM if it has no handler for it. Everywhere else such a process would end
// at once, so Stop kills it at once.
func (p *Process) Stop(grace time.Duration) Exit {
	if grace > 0 && takesTerm(p.Pid()) {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
			return p.exit
		case <-timer.C:
		}
	}
	_ = p.cmd.Process.Kill()
	return p.Wait()
}

// reap waits for the end of the process that has been started and closes done.
// Whoever starts the process runs it, once.
func (p *Process) reap() {
	defer close(p.done)
	_ = p.cmd.Wait() // its error says no more than the state
	p.exit = Exit{Code: p.cmd.ProcessState.ExitCode()}
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		p.exit.Signal = s.Signal()
	}
}
