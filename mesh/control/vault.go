package control

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Vault keeps secrets. What it does not have is fs.ErrNotExist.
type Vault interface {
	Read(name string) ([]byte, error)
	Write(name string, secret []byte) error
}

// Folder is a Vault of plain files that nobody else can read.
type Folder string

// Read returns a secret, unless others can read it too.
func (d Folder) Read(name string) ([]byte, error) {
	path := filepath.Join(string(d), name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %o): chmod 600 it, or replace it if they did", path, mode)
	}
	return os.ReadFile(path)
}

// Write keeps a secret.
func (d Folder) Write(name string, secret []byte) error {
	return writeDurably(filepath.Join(string(d), name), secret)
}

const signingKey = "control.key"

// Secrets are the names under which control and the embedded bus keep theirs.
func Secrets() []string { return []string{signingKey, busKey} }

// openSigningKey reads the key that signs orders, or makes it.
func openSigningKey(v Vault) (ed25519.PrivateKey, error) {
	seed, err := v.Read(signingKey)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		return key, v.Write(signingKey, key.Seed())
	}
	if err != nil {
		return nil, fmt.Errorf("the key that signs orders: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the key that signs orders has %d bytes, not %d: restore it", len(seed), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
