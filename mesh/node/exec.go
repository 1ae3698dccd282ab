package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/mesh/host"
)

// execSocketName is the socket over which commands are run: unlike the admin
// socket it takes the caller's own files, which HTTP cannot carry.
const execSocketName = "exec.sock"

// ExecQuestion asks for a command to be run as a workload, with the caller's
// standard files.
type ExecQuestion struct {
	Workload string   `json:"workload"`
	Command  []string `json:"command"`
	Term     string   `json:"term,omitempty"` // the kind of terminal
}

// execAnswer says how it ended.
type execAnswer struct {
	Code    int      `json:"code"`
	Refused *Refused `json:"refused,omitempty"`
}

const (
	maxExecQuestion = 64 << 10
	execPatience    = 5 * time.Second // for the question to arrive
	execPause       = 100 * time.Millisecond
	standardFiles   = 3
)

// Exec runs a command as a workload and returns its exit code. The end of ctx
// kills it.
func (a *Admin) Exec(ctx context.Context, q ExecQuestion) (int, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(a.dir, execSocketName), Net: "unix"})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	text, err := json.Marshal(q)
	if err != nil {
		return 0, err
	}
	if len(text) > maxExecQuestion {
		return 0, fmt.Errorf("a command of %d bytes is too long", len(text))
	}
	files := unix.UnixRights(int(os.Stdin.Fd()), int(os.Stdout.Fd()), int(os.Stderr.Fd()))
	if _, _, err := conn.WriteMsgUnix(text, files, nil); err != nil {
		return 0, err
	}
	var answer execAnswer
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		if ctx.Err() != nil {
			return 128 + int(syscall.SIGINT), nil
		}
		return 0, fmt.Errorf("the node hung up: %w", err)
	}
	if answer.Refused != nil {
		return 0, answer.Refused
	}
	return answer.Code, nil
}

// serveExec runs commands for whoever may open the socket, until ctx ends.
func (n *Node) serveExec(ctx context.Context) error {
	listener, err := listenPrivately(filepath.Join(n.o.RunDir, execSocketName))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return ctx.Err()
		}
		if err != nil { // out of descriptors or memory, which must not end the node
			n.o.Log.Warn("a command was not taken", "says", err)
			select {
			case <-ctx.Done():
			case <-time.After(execPause):
			}
			continue
		}
		go n.execOne(ctx, conn.(*net.UnixConn)) // ends with its process, which ends with ctx
	}
}

func (n *Node) execOne(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	q, files, err := readExec(conn)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	answer := execAnswer{Refused: &Refused{}}
	if err != nil {
		answer.Refused.Says = err.Error()
	} else if answer.Code, err = n.execRun(ctx, conn, q, files); err != nil {
		answer.Refused.Says = err.Error()
	} else {
		answer.Refused = nil
	}
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		n.o.Log.Info("whoever ran a command hung up", "workload", q.Workload)
	}
}

// readExec reads the question and takes the files that come with it.
func readExec(conn *net.UnixConn) (q ExecQuestion, files []*os.File, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(execPatience)); err != nil {
		return q, nil, err
	}
	text, rights := make([]byte, maxExecQuestion), make([]byte, unix.CmsgSpace(8*4))
	size, rightsSize, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return q, nil, err
	}
	if files, err = received(rights[:rightsSize]); err != nil {
		return q, files, err
	}
	if len(files) != standardFiles {
		return q, files, fmt.Errorf("a command comes with %d files, not %d", standardFiles, len(files))
	}
	if err := json.Unmarshal(text[:size], &q); err != nil {
		return q, files, fmt.Errorf("the command cannot be read: %w", err)
	}
	if len(q.Command) == 0 {
		return q, files, errors.New("there is no command")
	}
	return q, files, conn.SetReadDeadline(time.Time{})
}

func received(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "of the caller"))
		}
	}
	return files, nil
}

// execRun runs the command to its end, or until the caller hangs up.
func (n *Node) execRun(ctx context.Context, conn *net.UnixConn, q ExecQuestion, files []*os.File) (int, error) {
	command := host.Command{Path: q.Command[0], Args: q.Command[1:], Dir: n.o.PolicyDir, DirIfAllowed: true, Stdin: files[0], Stdout: files[1], Stderr: files[2]}
	if q.Term != "" {
		command.Env = append(command.Env, "TERM="+q.Term)
	}
	p, err := n.o.Host.Start(ctx, q.Workload, command)
	if err != nil {
		return 0, err
	}
	go func() {
		// The caller sends nothing more: the end of reading is its end.
		if _, err := io.Copy(io.Discard, conn); err == nil {
			p.Stop(grace)
		}
	}()
	stop := context.AfterFunc(ctx, func() { p.Stop(0) })
	defer stop()
	exit := p.Wait()
	if exit.Signal != 0 {
		return 128 + int(exit.Signal), nil
	}
	return exit.Code, nil
}
