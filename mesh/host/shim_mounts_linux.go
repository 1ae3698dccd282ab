package host

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cover is a folder that the workload sees empty.
type cover struct {
	Path    string
	Scratch bool // writable, with a folder in memory of its own
	Exec    bool // what is written there can be executed
	Links   bool // the symbolic links directly in it stay
	// Dev and Ino are the identity of a folder of bulkhead itself. One that is
	// not where it was stops the start. Zero means any folder, or none.
	Dev, Ino uint64
	given    string // Path before symbolic links were resolved
}

func (c *cover) own() bool { return c.Ino != 0 }

// show is a folder or file that the workload sees at To, whatever covers it.
type show struct {
	From, To string
	Writable bool
}

// keep adds what the command needs and a cover would hide.
func (c *shimConfig) keep(cmd Command) error {
	folders := slices.Clone(cmd.Folders)
	if filepath.IsAbs(cmd.Path) {
		folders = append(folders, filepath.Dir(cmd.Path))
	}
	if err := c.keepFolder(c.Dir, true); err != nil {
		return err
	}
	for _, f := range folders {
		if err := c.keepFolder(f, false); err != nil {
			return err
		}
	}
	return nil
}

// keepFolder shows a folder that lies below a cover. A folder of bulkhead is
// shown only if it was named as such: a symbolic link that leads there may have
// been made by a workload.
func (c *shimConfig) keepFolder(given string, writable bool) error {
	path, err := filepath.EvalSymlinks(given)
	if err != nil {
		return plainError(err)
	}
	below := false
	for _, v := range c.Covers {
		if !within(path, v.Path) {
			continue
		}
		if v.own() && (path == v.Path || !within(given, v.Path) && !within(given, v.given)) {
			return fmt.Errorf("%s leads to %s, where bulkhead keeps its state", given, path)
		}
		below = below || path != v.Path
	}
	shown := slices.ContainsFunc(c.Shows, func(s show) bool { return s.To == path })
	if below && !shown {
		c.Shows = append(c.Shows, show{From: path, To: path, Writable: writable})
	}
	return nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir != "" && strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// step is a cover or a show that is being made.
type step struct {
	path  string
	cover *cover
	show  *show
	fd    int // of the detached mount
}

// mount makes the workload's view of the files. Mounts of this process are its
// own from the first call on; what they show is opened before anything is
// covered, outer folders are covered before inner ones are shown.
func (c *shimConfig) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	var steps []step
	for i := range c.Covers {
		steps = append(steps, step{path: c.Covers[i].Path, cover: &c.Covers[i]})
	}
	for i := range c.Shows {
		s := &c.Shows[i]
		fd, err := c.tree(s)
		if err != nil {
			return fmt.Errorf("show %s: %w", s.From, err)
		}
		steps = append(steps, step{path: s.To, show: s, fd: fd})
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Compare(strings.Count(a.path, "/"), strings.Count(b.path, "/"))
	})
	for i := range steps {
		if err := steps[i].make(steps[:i]); err != nil {
			return err
		}
	}
	for _, s := range steps {
		if s.cover != nil && !s.cover.Scratch && s.fd > 0 {
			if err := seal(s.fd, 0); err != nil {
				return fmt.Errorf("close %s: %w", s.path, err)
			}
		}
	}
	return c.kernelFiles()
}

// kernelFiles gives the workload a view of its own processes only, and closes
// the switches of the kernel.
func (c *shimConfig) kernelFiles() error {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	// Where parts of /proc are hidden from this process too, as in containers, an
	// ordinary user gets no new one. The old one shows names of other processes;
	// another user namespace protects their memory, another process namespace
	// protects them from signals. As root nothing else does.
	if err != nil && (c.SetUser || !errors.Is(err, unix.EPERM)) {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, path := range []string{"/proc/sys", "/sys"} {
		fd, err := openTree(unix.AT_FDCWD, path, unix.RESOLVE_NO_SYMLINKS)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = errors.Join(seal(fd, unix.AT_RECURSIVE), attach(fd, path))
		}
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	return nil
}

func (s *step) make(before []step) error {
	covered := insideCover(s.path, before)
	if s.cover != nil {
		if err := s.coverIt(covered || insideOther(s.path, before)); err != nil {
			return fmt.Errorf("hide %s: %w", s.path, err)
		}
		return nil
	}
	if err := s.showIt(covered); err != nil {
		return fmt.Errorf("show %s: %w", s.path, err)
	}
	return nil
}

// insideCover reports whether the innermost of what has been made around path
// is a cover.
func insideCover(path string, before []step) bool {
	covered, depth := false, -1
	for _, b := range before {
		if d := strings.Count(b.path, "/"); b.fd > 0 && b.path != path && within(path, b.path) && d >= depth {
			covered, depth = b.cover != nil, d
		}
	}
	return covered
}

// insideOther reports whether something that lies elsewhere is shown around path:
// what was there is hidden by it.
func insideOther(path string, before []step) bool {
	return slices.ContainsFunc(before, func(b step) bool {
		return b.show != nil && b.fd > 0 && b.show.From != b.show.To && b.path != path && within(path, b.path)
	})
}

func (s *step) coverIt(covered bool) error {
	at, err := open(unix.AT_FDCWD, s.path, unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ENOENT) && (covered || !s.cover.own()) {
		return nil // hidden with a folder above, or not there
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := s.cover.verify(at); err != nil {
		return err
	}
	var links map[string]string
	if s.cover.Links {
		if links, err = linksIn(s.path); err != nil {
			return err
		}
	}
	if s.fd, err = s.cover.folder(); err != nil {
		return err
	}
	if err := unix.MoveMount(s.fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return err
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(s.path, name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *cover) verify(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if c.own() && (st.Dev != c.Dev || st.Ino != c.Ino) {
		return errors.New("it is not the folder that it was; move it back, and start bulkhead again")
	}
	return nil
}

func linksIn(folder string) (map[string]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	links := map[string]string{}
	for _, e := range entries {
		if e.Type() != os.ModeSymlink {
			continue
		}
		if to, err := os.Readlink(filepath.Join(folder, e.Name())); err == nil {
			links[e.Name()] = to
		}
	}
	return links, nil
}

// folder returns the file system in memory for a cover. It is mounted nowhere.
func (c *cover) folder() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	mode, attributes := "0755", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC
	if c.Scratch {
		mode = "1777"
	}
	if c.Exec {
		attributes &^= unix.MOUNT_ATTR_NOEXEC
	}
	if err := errors.Join(unix.FsconfigSetString(fs, "mode", mode), unix.FsconfigCreate(fs)); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
}

func (s *step) showIt(covered bool) error {
	if covered {
		if err := s.createTarget(); err != nil {
			return err
		}
	}
	if !s.show.Writable {
		if err := seal(s.fd, unix.AT_RECURSIVE); err != nil {
			return err
		}
	}
	return attach(s.fd, s.path)
}

// createTarget makes something to mount on in the empty folder of a cover.
func (s *step) createTarget() error {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.MkdirAll(s.path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

// tree opens what a show shows, with everything mounted in it. Inside a folder
// of bulkhead it begins there, so that nobody else can say what is shown.
func (c *shimConfig) tree(s *show) (int, error) {
	for _, v := range c.Covers {
		if !v.own() || !within(s.From, v.Path) || s.From == v.Path {
			continue
		}
		dir, err := open(unix.AT_FDCWD, v.Path, unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return 0, err
		}
		defer unix.Close(dir)
		if err := v.verify(dir); err != nil {
			return 0, err
		}
		inner := strings.TrimPrefix(s.From, v.Path+"/")
		return openTree(dir, inner, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	}
	return openTree(unix.AT_FDCWD, s.From, unix.RESOLVE_NO_SYMLINKS)
}

func openTree(at int, path string, resolve uint64) (int, error) {
	fd, err := open(at, path, resolve)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

func open(at int, path string, resolve uint64) (int, error) {
	return unix.Openat2(at, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
}

// attach mounts a detached mount at path.
func attach(fd int, path string) error {
	at, err := open(unix.AT_FDCWD, path, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// seal makes a mount read-only.
func seal(fd int, flags uint) error {
	return unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
