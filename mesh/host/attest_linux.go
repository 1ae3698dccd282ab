package host

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Attest returns the workload that is at the other end of a connection to one
// of the sockets of [Host.WorkloadAPI], from what the kernel says of the process
// that connected: its network namespace, or its control group for processes
// that run already. The socket must be that workload's own. Everybody else is
// an error.
//
// In cooperative mode processes cannot be told apart: whoever is the same user
// and finds the socket is believed.
func (h *Host) Attest(conn *net.UnixConn) (string, error) {
	h.sites.mu.Lock()
	workload, ok := h.sites.sockets[conn.LocalAddr().String()]
	h.sites.mu.Unlock()
	if !ok {
		return "", fmt.Errorf("%s is the Workload API of no workload of this machine", conn.LocalAddr())
	}
	m, ok := h.member(workload)
	if !ok {
		return "", fmt.Errorf("workload %s is not of this machine any more", workload)
	}
	p, err := peerOf(conn)
	if err != nil {
		return "", fmt.Errorf("the caller of the Workload API of %s: %w", workload, err)
	}
	defer p.unpin()
	if err := h.attest(m, p); err != nil {
		return "", fmt.Errorf("process %d of user %d is not workload %s: %w", p.pid, p.uid, workload, err)
	}
	return workload, nil
}

func (h *Host) attest(m Member, p *peer) error {
	var err error
	switch {
	case m.CgroupPath != "":
		err = p.inCgroup(m.CgroupPath)
	case h.options.Mode == Cooperative:
		if who, err := (&site{mode: Cooperative}).account(""); err != nil || p.uid != uint32(os.Getuid()) && p.uid != uint32(who.uid) {
			return errors.New("it is another user's")
		}
	default:
		t, terr := h.thread(m.Name)
		if terr != nil {
			return terr
		}
		err = p.inNamespace(t)
	}
	if err != nil {
		return err
	}
	// The facts are those of the process that connected only if it has lived up
	// to now: until then nobody else has its number.
	return p.alive()
}

// peer is the process that connected.
type peer struct {
	pid   int
	uid   uint32
	pidfd int    // -1 where the kernel has none for sockets (before 6.5)
	start string // else when the process began
}

func peerOf(conn *net.UnixConn) (*peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &peer{pidfd: -1}
	var cred *unix.Ucred
	var credErr, pidfdErr error
	err = raw.Control(func(fd uintptr) {
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr == nil {
			p.pidfd, pidfdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	})
	if err = errors.Join(err, credErr); err != nil {
		return nil, err
	}
	p.pid, p.uid = int(cred.Pid), cred.Uid
	if p.pid <= 0 {
		return nil, errors.New("its process is outside of what this process can see")
	}
	if errors.Is(pidfdErr, unix.ENOPROTOOPT) {
		p.pidfd = -1
		p.start, err = startOf(p.pid)
		return p, err
	}
	if pidfdErr != nil {
		return nil, fmt.Errorf("process %d is gone: %w", p.pid, pidfdErr)
	}
	return p, nil
}

func (p *peer) unpin() {
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
}

// alive returns an error if the process may have ended since it connected.
func (p *peer) alive() error {
	if p.pidfd < 0 {
		if now, err := startOf(p.pid); err != nil || now != p.start {
			return errors.New("it has ended")
		}
		return nil
	}
	if err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return errors.New("it has ended")
	}
	return nil
}

// startOf returns when a process began, in the words of /proc.
func startOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("process %d is gone", pid)
	}
	// The second field is a name in brackets that may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return string(fields[19]), nil
}

func (p *peer) inNamespace(t *thread) error {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.pid), &st); err != nil {
		return fmt.Errorf("its network namespace cannot be seen: %w", err)
	}
	if st.Ino != t.inode() || st.Dev != t.device() {
		return fmt.Errorf("it is in network namespace net:[%d], the workload in net:[%d]", st.Ino, t.inode())
	}
	return nil
}

func (p *peer) inCgroup(want string) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if err != nil {
		return fmt.Errorf("its control group cannot be seen: %w", err)
	}
	return cgroupWithin(string(text), want)
}

// cgroupWithin reads /proc/PID/cgroup. Only the line of version 2 counts:
// others are hierarchies in which the filter does not look.
func cgroupWithin(text, want string) error {
	want, err := cgroupName(want)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		if within(path, want) && !strings.Contains(path+"/", "/../") {
			return nil
		}
		return fmt.Errorf("it is in control group %q, the workload in %q", path, want)
	}
	return errors.New("it is in no control group of version 2")
}
