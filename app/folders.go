package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bulkhead/mesh/node"
)

// folders are where a running platform keeps its files.
type folders struct{ state, run string }

// folders returns where a platform keeps its files: those of the machine for
// root, those of the user for anybody else.
func (e *Env) folders(platform string) (folders, error) {
	bases, err := e.baseFolders()
	if err != nil {
		return folders{}, err
	}
	f := bases[0]
	return folders{filepath.Join(f.state, platform), filepath.Join(f.run, platform)}, nil
}

// baseFolders returns the folders that platforms of this user are in, and after
// them those of the machine.
func (e *Env) baseFolders() ([]folders, error) {
	machine := folders{"/var/lib/bulkhead", "/run/bulkhead"}
	if isRoot() {
		return []folders{machine}, nil
	}
	state := e.getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home := e.getenv("HOME")
		if !filepath.IsAbs(home) {
			return nil, wrongInput("set HOME or XDG_STATE_HOME", "there is no folder to keep keys and generations in")
		}
		state = filepath.Join(home, ".local", "state")
	}
	state = filepath.Join(state, "bulkhead")
	run := filepath.Join(e.getenv("XDG_RUNTIME_DIR"), "bulkhead")
	if !filepath.IsAbs(run) || !isWritable(filepath.Dir(run)) {
		run = filepath.Join(state, "run")
	}
	return []folders{{state, run}, machine}, nil
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
