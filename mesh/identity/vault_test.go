package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestVaultEncryptsWhatLayOpen(t *testing.T) {
	defer func(old int) { scryptWork = old }(scryptWork)
	scryptWork = 10
	dir := filepath.Join(t.TempDir(), "vault")
	open, err := OpenVault(dir, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read("key"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a secret that was never written: %v", err)
	}
	if err := open.Write("key", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	sealed, err := OpenVault(dir, []byte("passphrase"), "")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := sealed.Read("key"); err != nil || string(got) != "secret" {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "key")); err != nil || bytes.Contains(text, []byte("secret")) {
		t.Errorf("the secret lies open: %v", err)
	}
	if _, err := open.Read("key"); err == nil {
		t.Error("an encrypted secret was read without its passphrase")
	}
	wrong, err := OpenVault(dir, []byte("other"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Read("key"); err == nil {
		t.Error("an encrypted secret was read with another passphrase")
	}
}
