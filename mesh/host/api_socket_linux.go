package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// apiDir returns the folder of a workload's API socket, which exists then. It
// must be the only thing in it: a workload sees the folder.
//
// The folder of processes that run already is beside RunDir, because they are
// other users and RunDir is closed to them. Everybody sees that socket; Attest
// tells who may use it.
func (h *Host) apiDir(m Member) (string, error) {
	if m.Name != filepath.Base(m.Name) || m.Name == "." || m.Name == ".." {
		return "", fmt.Errorf("workload %q cannot have a folder of its name", m.Name)
	}
	run, err := filepath.EvalSymlinks(h.options.RunDir)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(run, "live", "api", m.Name)
	if m.CgroupPath != "" {
		dir = filepath.Join(besides(run), m.Name)
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// apiInside returns where a workload with a namespace sees its API socket: in
// /run, which is covered for it, else in the folder that covers RunDir.
func (h *Host) apiInside() (string, error) {
	if info, err := os.Lstat("/run"); err == nil && info.IsDir() {
		return apiSocket, nil
	}
	run, err := filepath.EvalSymlinks(h.options.RunDir)
	return filepath.Join(run, "api", socketName), err
}

// WorkloadAPI listens on a socket that a workload finds at the path. A workload
// with a namespace of its own sees no other such socket. Every connection must
// be shown to [Host.Attest] all the same.
func (h *Host) WorkloadAPI(workload string) (net.Listener, string, error) {
	m, ok := h.member(workload)
	if !ok {
		return nil, "", fmt.Errorf("workload %s is not of this machine", workload)
	}
	dir, err := h.apiDir(m)
	if err != nil {
		return nil, "", fmt.Errorf("workload %s: its API socket: %w", workload, err)
	}
	inside := filepath.Join(dir, socketName)
	if h.options.Mode != Cooperative && m.CgroupPath == "" {
		if inside, err = h.apiInside(); err != nil {
			return nil, "", err
		}
	}
	l, err := h.listenAPI(dir, workload)
	if err != nil {
		return nil, "", fmt.Errorf("workload %s: its API socket: %w", workload, err)
	}
	return l, inside, nil
}

// apiListener is a socket in a folder that is held open, because an address of
// a socket has room for 107 bytes and a folder's path may be longer.
type apiListener struct {
	*net.UnixListener
	folder *os.File
	forget func()
}

func (l *apiListener) Close() error {
	l.forget()
	return errors.Join(l.UnixListener.Close(), l.folder.Close())
}

func (h *Host) listenAPI(dir, workload string) (net.Listener, error) {
	// What a killed run left does not accept any more.
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	folder := os.NewFile(uintptr(fd), dir)
	address := fmt.Sprintf("/proc/self/fd/%d/%s", fd, socketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		folder.Close()
		return nil, err
	}
	if err := os.Chmod(address, 0o666); err != nil {
		return nil, errors.Join(err, l.Close(), folder.Close())
	}
	h.sites.mu.Lock()
	defer h.sites.mu.Unlock()
	if h.sites.sockets == nil {
		h.sites.sockets = map[string]string{}
	}
	h.sites.sockets[address] = workload
	return &apiListener{l, folder, func() {
		h.sites.mu.Lock()
		defer h.sites.mu.Unlock()
		delete(h.sites.sockets, address)
	}}, nil
}
