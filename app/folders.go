package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"bulkhead/mesh/node"
)

// folders are where a running platform keeps its files: secrets and generations,
// sockets, and the programs that were prepared, which workloads may read.
type folders struct{ state, run, bin string }

// folders returns where a platform keeps its files: those of the machine for
// root, those of the user for anybody else.
func (e *Env) folders(platform string) (folders, error) {
	bases, err := e.baseFolders()
	if err != nil {
		return folders{}, err
	}
	f := bases[0]
	return folders{filepath.Join(f.state, platform), filepath.Join(f.run, platform), filepath.Join(f.bin, platform)}, nil
}

// baseFolders returns the folders that platforms of this user are in, and after
// them those of the machine.
func (e *Env) baseFolders() ([]folders, error) {
	machine := folders{"/var/lib/bulkhead", "/run/bulkhead", "/var/cache/bulkhead"}
	if isRoot() {
		return []folders{machine}, nil
	}
	state, err := e.userFolder("XDG_STATE_HOME", ".local/state")
	if err != nil {
		return nil, err
	}
	cache, err := e.userFolder("XDG_CACHE_HOME", ".cache")
	if err != nil {
		return nil, err
	}
	run := filepath.Join(e.getenv("XDG_RUNTIME_DIR"), "bulkhead")
	if !filepath.IsAbs(run) || !isWritable(filepath.Dir(run)) {
		run = filepath.Join(state, "run")
	}
	return []folders{{state, run, cache}, machine}, nil
}

// userFolder returns the folder of bulkhead below one of the user's base folders.
func (e *Env) userFolder(variable, otherwise string) (string, error) {
	base := e.getenv(variable)
	if !filepath.IsAbs(base) {
		home := e.getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", wrongInput("set HOME or "+variable, "there is no folder to keep keys, generations and programs in")
		}
		base = filepath.Join(home, otherwise)
	}
	return filepath.Join(base, "bulkhead"), nil
}

// privateFolder makes a folder for keys and sockets, or takes the one that is
// there if nobody else can change what is in it.
func privateFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(owner.Uid) != os.Geteuid():
		return wrongInput("remove it, or choose another place with XDG_STATE_HOME and XDG_RUNTIME_DIR", "%s belongs to somebody else, who could replace the keys in it", dir)
	case info.Mode().Perm()&0o022 != 0:
		return wrongInput("chmod 700 "+dir, "%s can be written by others (mode %o), who could replace the keys in it", dir, info.Mode().Perm())
	}
	return nil
}

func isWritable(dir string) bool {
	probe, err := os.CreateTemp(dir, ".bulkhead-*")
	if err != nil {
		return false
	}
	probe.Close()
	return os.Remove(probe.Name()) == nil
}

// isRoot reports whether this process is root of the machine, and not only of a
// user namespace (user_namespaces(7): the first one maps every id to itself).
func isRoot() bool {
	if os.Geteuid() != 0 {
		return false
	}
	text, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

// running returns the admin of the platform that runs here: the one that is
// named, or else the only one.
func (e *Env) running(ctx context.Context, platform string) (*node.Admin, error) {
	bases, err := e.baseFolders()
	if err != nil {
		return nil, err
	}
	var names []string
	found := map[string]*node.Admin{}
	for _, base := range bases {
		sockets, err := filepath.Glob(filepath.Join(base.run, "*", node.SocketName))
		if err != nil {
			return nil, err
		}
		for _, socket := range sockets {
			dir := filepath.Dir(socket)
			admin := node.Dial(dir)
			if _, err := admin.Status(ctx); err != nil {
				continue // what a crashed run left
			}
			names = append(names, filepath.Base(dir))
			found[filepath.Base(dir)] = admin
		}
	}
	switch {
	case platform != "" && found[platform] != nil:
		return found[platform], nil
	case platform != "":
		return nil, &InputError{Says: fmt.Sprintf("platform %s does not run here", platform), Hint: "start it with bulkhead up", Choices: names}
	case len(names) == 0:
		return nil, wrongInput("start it with: bulkhead up examples/ai-platform", "nothing runs here, as far as this user may see")
	case len(names) > 1:
		return nil, &InputError{Says: "several platforms run here", Hint: "say which with --platform", Choices: names}
	}
	return found[names[0]], nil
}
