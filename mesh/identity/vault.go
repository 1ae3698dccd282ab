package identity

import (
	"path/filepath"
)

// Vault keeps other secrets of a platform as the authority keeps its keys: in
// private files, encrypted at rest where a passphrase or key file is given.
type Vault struct {
	dir  string
	seal seal
}

// OpenVault opens the vault of a folder, which it makes.
func OpenVault(dir string, passphrase []byte, keyFile string) (*Vault, error) {
	s, err := newSeal(passphrase, keyFile)
	if err != nil {
		return nil, err
	}
	return &Vault{dir, s}, makePrivate(dir)
}

// Read returns a secret; what was never written is fs.ErrNotExist. A secret that
// should be encrypted and is not becomes so.
func (v *Vault) Read(name string) ([]byte, error) {
	path := filepath.Join(v.dir, name)
	secret, asWritten, err := v.seal.read(path)
	if err == nil && !asWritten {
		err = v.seal.write(path, secret)
	}
	return secret, err
}

// Write keeps a secret, in the place of one with the same name.
func (v *Vault) Write(name string, secret []byte) error {
	return v.seal.write(filepath.Join(v.dir, name), secret)
}
