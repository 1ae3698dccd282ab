package host

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	RegisterChild("test/keys", func() {
		_, err := unix.AddKey("user", "bulkhead-attack", []byte("secret"), unix.KEY_SPEC_USER_KEYRING)
		_, search := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "bulkhead-attack", 0)
		_, request := unix.RequestKey("user", "bulkhead-attack", "", 0)
		fmt.Println(short(err), "|", short(search), "|", short(request))
	})
}

// The keyring of a user is one for all its processes, in whatever namespace:
// what one workload puts there another could read.
func TestProcessSharesNoKeyring(t *testing.T) {
	h := isolatedHost(t, "trainer", "gateway")
	for _, w := range []string{"trainer", "gateway"} {
		out, exit := run(t, h, w, Command{Child: "test/keys"})
		if want := "function not implemented | function not implemented | function not implemented\n"; out != want || exit != (Exit{}) {
			t.Errorf("%s: %q %s", w, out, exit)
		}
	}
}

// Message queues of the machine are files where this is mounted.
func TestSceneryHidesQueues(t *testing.T) {
	if !slices.ContainsFunc(realScenery, func(c cover) bool { return c.Path == "/dev/mqueue" }) {
		t.Error("workloads see the machine's message queues")
	}
}

// The folder for the API sockets of processes that run already is removed with a
// platform: it must not be the folder of another one.
func TestAPIFolderIsNoPlatforms(t *testing.T) {
	h := isolatedHost(t)
	other := h.options.RunDir + ".api"
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.removeFiles(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the files of platform `run.api` are removed with those of `run`: %v", err)
	}
}
