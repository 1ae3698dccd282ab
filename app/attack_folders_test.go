package app

import (
	"os"
	"path/filepath"
	"testing"
)

// Keys in a folder that another user made or may change are not the platform's.
func TestStateFolderOfOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bulkhead", "acme")
	if err := privateFolder(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	if err := privateFolder(dir); err != nil {
		t.Error("the second time: ", err)
	}
	for _, mode := range []os.FileMode{0o777, 0o720, 0o702} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := privateFolder(dir); err == nil {
			t.Errorf("a folder of mode %o is taken", mode)
		}
	}
	if !isRoot() {
		t.Skip("SKIPPED: giving a folder away needs root; run: sudo go test ./app")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if err := privateFolder(dir); err == nil {
		t.Error("a folder of another user is taken")
	}
}
