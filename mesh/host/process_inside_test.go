//go:build linux

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// What tests run inside workloads.
func init() {
	RegisterChild("test/hello", func() { fmt.Println("hello") })
	RegisterChild("test/inspect", func() { tell(inspect()) })
	RegisterChild("test/nest", nest)
	RegisterChild("test/nested", func() { tell(nested()) })
	RegisterChild("test/node", node)
	RegisterChild("test/call", call)
}

func tell(found map[string]string) {
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		panic(err)
	}
}

// short is the reason of an error without the operation, empty for none.
func short(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

func list(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, e := range entries {
		if e.Type() == os.ModeSymlink {
			continue
		}
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func newSocket(domain, kind, proto int) string {
	fd, err := unix.Socket(domain, kind, proto)
	if err == nil {
		unix.Close(fd)
	}
	return short(err)
}

func write(path, text string) string {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return refused(err)
	}
	_, err = f.WriteString(text)
	return refused(errors.Join(err, f.Close()))
}

// refused does not tell by whom.
func refused(err error) string {
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return "refused"
	}
	return short(err)
}

func inspect() map[string]string {
	found := map[string]string{}
	// The files first, before this looks around. The runtime opens some itself.
	var files []string
	for fd := range 64 {
		var st unix.Stat_t
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && unix.Fstat(fd, &st) == nil && flags&unix.FD_CLOEXEC == 0 {
			files = append(files, strconv.Itoa(fd))
		}
	}
	found["files"] = strings.Join(files, " ")
	status, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(status)) {
		k, v, _ := strings.Cut(line, ":")
		if strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" || k == "Seccomp" {
			found[k] = strings.TrimSpace(v)
		}
	}
	found["uid"], found["pid"] = strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getpid())
	groups, _ := os.Getgroups()
	found["gid"], found["groups"] = strconv.Itoa(os.Getgid()), fmt.Sprint(groups)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	found["processes"] = strconv.Itoa(len(processes))
	found["hostname"], _ = os.Hostname()
	found["cwd"], _ = os.Getwd()
	found["foo"], found["secret"] = os.Getenv("FOO"), os.Getenv("BULKHEAD_SECRET")
	found["SPIFFE_ENDPOINT_SOCKET"] = os.Getenv("SPIFFE_ENDPOINT_SOCKET")

	found["packet socket"] = newSocket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	found["vsock"] = newSocket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	found["raw socket"] = newSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	found["raw6 socket"] = newSocket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
	found["tcp socket"] = newSocket(unix.AF_INET, unix.SOCK_STREAM, 0)
	found["unix socket"] = newSocket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	var params [120]byte
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	found["io_uring"] = errno.Error()
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
		found["mark"] = short(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1))
		unix.Close(fd)
	}

	found["ip_forward"] = write("/proc/sys/net/ipv4/ip_forward", "1")
	found["sys"] = refused(os.Mkdir("/sys/kernel/x", 0o755))
	state, run := os.Getenv("STATE"), os.Getenv("RUN")
	for name, dir := range map[string]string{"state": state, "run": run, "/run": "/run", "/run/bulkhead": "/run/bulkhead", "/tmp": "/tmp"} {
		found[name] = list(dir)
	}
	found["make in /run"] = refused(os.Mkdir("/run/x", 0o755))
	found["make in state"] = refused(os.Mkdir(state+"/x", 0o755))
	found["make in /tmp"] = short(os.Mkdir("/tmp/x", 0o755))
	found["remove the API socket"] = refused(os.Remove(apiSocket))
	found["write hosts"] = write("/etc/hosts", "x")
	for name, path := range map[string]string{"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf"} {
		text, err := os.ReadFile(path)
		found[name] = string(text) + short(err)
	}
	var readOnly []string
	for _, path := range []string{"/proc/sys", "/sys", "/etc/hosts", "/run"} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err == nil && st.Flags&unix.ST_RDONLY != 0 {
			readOnly = append(readOnly, path)
		}
	}
	found["read-only"] = strings.Join(readOnly, " ")
	pid := func(name string) int { n, _ := strconv.Atoi(os.Getenv(name)); return n }
	found["kill node"] = short(unix.Kill(pid("NODE"), 0))
	found["kill other"] = short(unix.Kill(pid("OTHER"), 0))
	found["trace node"] = short(unix.PtraceAttach(pid("NODE")))
	found["chroot"] = short(unix.Chroot("/tmp"))
	found["unshare net"] = short(unix.Unshare(unix.CLONE_NEWNET))
	found["umount"] = short(unix.Unmount("/run", unix.MNT_DETACH))
	found["hostname change"] = short(unix.Sethostname([]byte("x")))
	_, err := os.Open("/dev/tty")
	found["terminal"] = short(err)
	return found
}

// nest makes a user namespace below, in which this process is root.
func nest() {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{markPrefix + "test/nested"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = inUserNamespace("").SysProcAttr
	cmd.SysProcAttr.Pdeathsig = 0
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func nested() map[string]string {
	state, run := os.Getenv("STATE"), os.Getenv("RUN")
	found := map[string]string{}
	if !Privileged() {
		return found
	}
	for name, path := range map[string]string{"umount state": state, "umount run": run, "umount /run": "/run", "umount /proc/sys": "/proc/sys", "umount /etc/hosts": "/etc/hosts"} {
		found[name] = short(unix.Unmount(path, 0))
	}
	found["umount lazily"] = short(unix.Unmount(state, unix.MNT_DETACH))
	found["write /run"] = short(errors.Join(unix.Mount("", "/run", "", unix.MS_REMOUNT|unix.MS_BIND, ""), os.Mkdir("/run/x", 0o755)))
	up := filepath.Dir(state)
	tmp, _ := os.MkdirTemp("/tmp", "")
	key := filepath.Join(tmp, "state", "key")
	visible := func(err error) string {
		if err != nil {
			return short(err)
		}
		if _, err := os.Stat(key); err != nil {
			return short(err)
		}
		return ""
	}
	found["overlay"] = visible(unix.Mount("overlay", tmp, "overlay", 0, "lowerdir="+up+":"+filepath.Dir(up)))
	found["bind without what is on it"] = visible(unix.Mount(up, tmp, "", unix.MS_BIND, ""))
	found["read the key"] = visible(nil)
	found["new proc"] = short(unix.Mount("proc", "/proc", "proc", 0, ""))
	found["ip_forward"] = write("/proc/sys/net/ipv4/ip_forward", "1")
	ns, err := os.Open("/proc/self/ns/net")
	if err == nil {
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	}
	found["join the network"] = short(err)
	rules := &nftables.Conn{}
	rules.FlushRuleset()
	found["flush the rules"] = short(rules.Flush())
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
		found["set a mark"] = short(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1))
	}
	return found
}

// node starts a workload, says its number and waits to be killed.
func node() {
	h := &Host{options: Options{Platform: "acme", RunDir: os.Args[1], StateDir: os.Args[2], Mode: Mode(os.Args[3])}, members: map[string]*member{}}
	insideUser = h.options.Mode == User
	th, err := newThread()
	if err == nil {
		h.members["trainer"] = &member{Member: Member{Name: "trainer"}, thread: th}
		var p *Process
		if p, err = h.Start(context.Background(), "trainer", Command{Path: "sleep", Args: []string{"1000"}}); err == nil {
			fmt.Println(p.Pid())
			p.Wait()
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// call connects to the path in SOCKET and says what it reads. NAMESPACE=new
// does so from a network namespace of its own.
func call() {
	if os.Getenv("NAMESPACE") == "new" {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{markPrefix + "test/call"}
		cmd.Env = []string{"SOCKET=" + os.Getenv("SOCKET")}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = inUserNamespace("").SysProcAttr
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
		}
		return
	}
	fmt.Print(callAPI(os.Getenv("SOCKET")))
}

func callAPI(path string) string {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return short(err)
	}
	defer conn.Close()
	text := make([]byte, 1024)
	n, _ := conn.Read(text)
	return string(text[:n])
}
