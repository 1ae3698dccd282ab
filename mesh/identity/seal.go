package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"bulkhead/internal/atomicfile"
)

// seal is how a file lies on disk: as it is, or encrypted.
type seal struct {
	identity  age.Identity // nil: not encrypted
	recipient age.Recipient
	with      string // for messages
}

// scryptWork is the cost of a passphrase, as a power of two; about a second.
// Tests lower it.
var scryptWork = 18

const (
	sealedPrefix = "age-encryption.org/"
	maxFile      = 1 << 20
)

// KeyError says that a passphrase or key file is missing, cannot be used, or is
// not the one that a file was encrypted with.
type KeyError struct{ err error }

func (e *KeyError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *KeyError) Unwrap() error { return e.err }

func newSeal(passphrase []byte, keyFile string) (seal, error) {
	var s seal
	var err error
	switch {
	case len(passphrase) > 0 && keyFile != "":
		err = errors.New("an authority is encrypted with a passphrase or with a key file, not with both; give one")
	case len(passphrase) > 0:
		s, err = passphraseSeal(string(passphrase))
	case keyFile != "":
		s, err = keyFileSeal(keyFile)
	}
	if err != nil {
		return seal{}, &KeyError{err}
	}
	return s, nil
}

func passphraseSeal(passphrase string) (seal, error) {
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return seal{}, err
	}
	recipient.SetWorkFactor(scryptWork)
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return seal{}, err
	}
	return seal{identity, recipient, "the passphrase"}, nil
}

func keyFileSeal(path string) (seal, error) {
	err := checkPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seal{}, fmt.Errorf("there is no key file %s; make one with age-keygen -o %s", path, path)
	}
	if err != nil {
		return seal{}, err
	}
	text, err := readLimited(path)
	if err != nil {
		return seal{}, err
	}
	identities, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return seal{}, fmt.Errorf("%s is no key file; make one with age-keygen: %w", path, err)
	}
	if len(identities) != 1 {
		return seal{}, fmt.Errorf("%s holds %d keys; keep one", path, len(identities))
	}
	s := seal{identity: identities[0], with: "the key of " + path}
	switch i := identities[0].(type) {
	case *age.X25519Identity:
		s.recipient = i.Recipient()
	case *age.HybridIdentity:
		s.recipient = i.Recipient()
	default:
		return seal{}, fmt.Errorf("%s holds a key of a kind that cannot encrypt; make one with age-keygen", path)
	}
	return s, nil
}

// write replaces a file, which would keep a mode that somebody widened.
func (s seal) write(path string, data []byte) error {
	if err := checkPrivate(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.recipient != nil {
		var out bytes.Buffer
		w, err := age.Encrypt(&out, s.recipient)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		data = out.Bytes()
	}
	return atomicfile.Write(path, data, 0o600)
}

// read returns a file's content, and whether it lies there as s would write it.
func (s seal) read(path string) (data []byte, asWritten bool, err error) {
	if err := checkPrivate(path); err != nil {
		return nil, false, err
	}
	text, err := readLimited(path)
	if err != nil {
		return nil, false, err
	}
	if !strings.HasPrefix(string(text), sealedPrefix) {
		return text, s.identity == nil, nil
	}
	if s.identity == nil {
		return nil, false, &KeyError{fmt.Errorf("%s is encrypted; give its passphrase or key file", path)}
	}
	r, err := age.Decrypt(bytes.NewReader(text), s.identity)
	if err != nil {
		return nil, false, &KeyError{fmt.Errorf("%s does not open %s: it was encrypted with another one, or it is damaged", s.with, path)}
	}
	data, err = io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, false, fmt.Errorf("%s is damaged; restore it from a backup: %w", path, err)
	}
	return data, true, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// makePrivate makes a folder that only its owner enters, or checks one.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return checkPrivate(dir)
}

// checkPrivate refuses what others than its owner may touch: keys that somebody
// may have read are not secret any more.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may use %s (mode %04o); run: chmod go= %s",
			path, info.Mode().Perm(), filepath.Clean(path))
	}
	return nil
}
