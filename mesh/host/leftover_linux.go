package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// takeLock makes this process the only one that runs the platform here. The
// kernel releases the lock when the process dies.
func takeLock(o Options) (*os.File, error) {
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(o.RunDir, "lock")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			defer f.Close()
			return nil, fmt.Errorf("platform %q already runs here, as process %s: stop it first", o.Platform, holder(f))
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s cannot be locked: %w", path, err)
		}
		if !isAt(f, path) {
			f.Close() // whoever held it removed it meanwhile
			continue
		}
		pid := strconv.Itoa(os.Getpid()) + "\n"
		_, err = f.WriteAt([]byte(pid), 0)
		if err = errors.Join(err, f.Truncate(int64(len(pid)))); err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
}

// holder returns the process id that a lock file names.
func holder(f *os.File) string {
	b, _ := io.ReadAll(io.LimitReader(f, 32))
	text := strings.TrimSpace(string(b))
	if _, err := strconv.Atoi(text); err != nil {
		return "unknown"
	}
	return text
}

// isAt reports whether f is what is at path.
func isAt(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Lstat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// releaseLock removes the lock file while it is still locked.
func releaseLock(f *os.File) error {
	if f == nil {
		return nil
	}
	return errors.Join(os.Remove(f.Name()), f.Close())
}

// clearLive removes the files of a run that died: it holds the lock, so nobody
// uses them.
func (h *Host) clearLive() error {
	if err := h.removeFiles(); err != nil {
		return err
	}
	return os.MkdirAll(h.liveDir(), 0o700)
}

// removeFiles removes the files of a run, those beside RunDir included that
// processes of other users reach.
func (h *Host) removeFiles() error {
	run, err := filepath.EvalSymlinks(h.options.RunDir)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(h.liveDir()), os.RemoveAll(besides(run)))
}

// besides is the folder for the API sockets of processes that run already: no
// platform has a name with this mark.
func besides(run string) string { return run + "~api" }
