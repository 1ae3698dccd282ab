package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// guardedHost returns a host of which the workloads own every folder above that
// of the policy, as they do when they run as the user who wrote it.
func guardedHost(t *testing.T) (h *Host, policy string) {
	t.Helper()
	h = isolatedHost(t, "trainer")
	top := filepath.Dir(h.options.StateDir)
	policy = filepath.Join(top, "project", "platform")
	for _, dir := range []string{top, filepath.Dir(policy), policy, filepath.Join(policy, "work")} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(policy, "bulkhead.yaml")
	if err := os.WriteFile(file, []byte("theirs"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	h.options.Guarded = []string{policy}
	return h, policy
}

// A workload that may write the policy's file grants itself what it wants: the
// policy is watched.
func TestProcessCannotChangeThePolicy(t *testing.T) {
	h, policy := guardedHost(t)
	for name, script := range map[string]string{
		"write":          `echo mine > "$P/bulkhead.yaml"`,
		"replace":        `echo mine > /tmp/x && mv -f /tmp/x "$P/bulkhead.yaml"`,
		"remove":         `rm -f "$P/bulkhead.yaml"`,
		"another file":   `echo mine > "$P/more.yaml"`,
		"permissions":    `chmod 000 "$P/bulkhead.yaml"`,
		"rename folder":  `mv "$P" "$P-moved" && mkdir "$P" && echo mine > "$P/bulkhead.yaml"`,
		"rename parent":  `mv "${P%/*}" "${P%/*}-moved" && mkdir -p "$P" && echo mine > "$P/bulkhead.yaml"`,
		"through root":   `echo mine > "/proc/self/root$P/bulkhead.yaml"`,
		"user namespace": `unshare -Urm sh -c 'umount -l "$P"; mount -o remount,rw,bind "$P"; echo mine > "$P/bulkhead.yaml"'`,
		"state's parent": `mv "${P%/project/*}" "${P%/project/*}-moved"`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, dir := range []string{policy, "/", "/tmp"} {
				out, exit := run(t, h, "trainer", Command{Path: "sh", Args: []string{"-c", script + "; :"}, Env: []string{"P=" + policy}, Dir: dir})
				text, err := os.ReadFile(filepath.Join(policy, "bulkhead.yaml"))
				if err != nil || string(text) != "theirs" || exit != (Exit{}) {
					t.Fatalf("in %s: the policy is %q (%v); %s: %s", dir, text, err, exit, out)
				}
				entries, err := os.ReadDir(policy)
				if err != nil || len(entries) != 2 {
					t.Fatalf("in %s: the folder holds %v (%v): %s", dir, entries, err, out)
				}
			}
		})
	}
}

// A folder of its own inside that of the policy stays writable.
func TestProcessWritesToItsOwnFolder(t *testing.T) {
	h, policy := guardedHost(t)
	work := filepath.Join(policy, "work")
	out, exit := run(t, h, "trainer", Command{Path: "sh", Args: []string{"-c", `echo mine > file && cat file && cat ../bulkhead.yaml`}, Dir: work})
	if exit != (Exit{}) || out != "mine\ntheirs" {
		t.Fatalf("%s: %q", exit, out)
	}
	// And one that holds the policy's does not open it.
	out, _ = run(t, h, "trainer", Command{Path: "sh", Args: []string{"-c", `echo mine > own && echo mine > platform/bulkhead.yaml; cat own platform/bulkhead.yaml`}, Dir: filepath.Dir(policy)})
	if !strings.HasSuffix(out, "mine\ntheirs") {
		t.Fatalf("%q", out)
	}
}

// What two workloads both see and may write is a way from one to the other that
// no policy knows.
func TestProcessSharesNoScratch(t *testing.T) {
	defer func(tests []cover) { scenery = tests }(scenery)
	scenery = realScenery
	h := isolatedHost(t, "trainer", "gateway")
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		if out, exit := run(t, h, "trainer", Command{Path: "sh", Args: []string{"-c", "mkfifo " + dir + "/bulkhead-attack"}}); exit != (Exit{}) {
			t.Fatalf("%s: %s: %s", dir, exit, out)
		}
		defer os.Remove(dir + "/bulkhead-attack")
		if out, exit := run(t, h, "gateway", Command{Path: "ls", Args: []string{dir + "/bulkhead-attack"}}); exit == (Exit{}) {
			t.Errorf("what one workload makes in %s another one sees: %s", dir, out)
		}
	}
}
