package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// innerVar is set in the child that a task makes in a user namespace of its own.
const innerVar = "BULKHEAD_PROBE_INNER"

// Main is the program of an agent, which the node starts as a workload. It
// returns the exit code.
func Main() int {
	if os.Getenv(innerVar) != "" {
		o := inner()
		if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
			return 1
		}
		return 0
	}
	if err := Agent(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// reachFor does what is not the network's. Nothing of it does harm if the kernel
// permits it.
func reachFor(t *Task) Observation {
	o := Observation{Stage: AtUse}
	var err error
	switch t.Do {
	case DialUnix:
		var c net.Conn
		if c, err = net.DialTimeout("unix", t.Path, patience); err == nil {
			c.Close()
		}
	case ListFolder:
		return listFolder(t.Path)
	case OpenWrite:
		var f *os.File
		if f, err = os.OpenFile(t.Path, os.O_WRONLY, 0); err == nil {
			f.Close()
		}
	case MarkSocket:
		err = markSocket()
	case SetLink:
		err = setLink()
	case SetRules:
		err = setRules()
	case EnterNamespace:
		err = enterNamespace(t.Path)
	case NewUser:
		return newUser()
	case Reach:
		if _, own := os.Stat(fmt.Sprintf("/proc/self/task/%d", t.PID)); own == nil {
			o.Untried = "the number is one of its own threads here"
			return o
		}
		err = reachProcess(t.PID)
	default:
		o.Untried = fmt.Sprintf("this agent does not know how to do %.40q", string(t.Do))
		return o
	}
	if err == nil {
		o.Done = true
		return o
	}
	o.fail(err)
	return o
}

func listFolder(path string) Observation {
	o := Observation{Stage: AtUse}
	entries, err := os.ReadDir(path)
	switch {
	case err != nil:
		o.fail(err)
	case len(entries) == 0:
		o.Error, o.Says = emptyFolder, path+" is empty"
	default:
		o.Done, o.Says = true, fmt.Sprintf("%s has %d entries, such as %.80s", path, len(entries), entries[0].Name())
	}
	return o
}

func markSocket() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1))
}

// setLink sets up lo, which is up.
func setLink() error {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], 1) // lo
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
	return askKernel(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, b)
}

// setRules begins a change of nftables, and makes none.
func setRules() error {
	return askKernel(unix.NETLINK_NETFILTER, unix.NFNL_MSG_BATCH_BEGIN, []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES})
}

// askKernel sends a netlink message and returns the kernel's answer.
func askKernel(protocol int, message uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, message)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(append(b, make([]byte, 8)...), body...) // sequence and sender: 0
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	if ready, err := wait(fd, unix.POLLIN, patience); err != nil || !ready {
		return orTimeout(err)
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return nil // the kernel talks to us: it did not refuse
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
		return os.NewSyscallError("netlink", unix.Errno(-code))
	}
	return nil
}

func enterNamespace(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- os.NewSyscallError("setns", unix.Setns(int(f.Fd()), unix.CLONE_NEWNET))
	}()
	return <-done
}

// reachProcess asks whether a process can be signalled, and whether its memory
// can be read, and does neither.
func reachProcess(pid int) error {
	if err := unix.Kill(pid, 0); err != nil {
		return os.NewSyscallError("kill", err)
	}
	var b [1]byte
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(1)
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
	return os.NewSyscallError("process_vm_readv", err)
}

// newUser does the rest in a user namespace of its own, where it has every
// capability, over nothing.
func newUser() Observation {
	o := Observation{Stage: AtUse}
	if !strings.HasPrefix(os.Args[0], "bulkhead:") {
		o.Untried = "the agent is not run by a node"
		return o
	}
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args[:1], Env: append(os.Environ(), innerVar+"=1"), Stdout: &out,
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}}
	if err := cmd.Run(); err != nil {
		o.fail(err)
		return o
	}
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		o.Untried = "the child in a user namespace said nothing: " + err.Error()
	}
	return o
}

// inner tries what a capability over the network namespace would permit.
func inner() Observation {
	last := Observation{Stage: AtUse}
	for _, act := range []Act{MarkSocket, SetLink, SetRules} {
		last = reachFor(&Task{Do: act})
		if last.Done {
			last.Says = "in a user namespace of its own: " + string(act)
			return last
		}
	}
	return last
}
