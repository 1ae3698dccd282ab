package control

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nats-io/nkeys"

	"bulkhead/internal/atomicfile"
)

// Credential is what a node needs to join a platform. It holds secrets: whoever
// has it can speak as this node.
type Credential struct {
	Version  int    `json:"version"`
	Platform string `json:"platform"`
	// TrustDomain is the platform's; an order for another one is refused.
	TrustDomain string `json:"trustDomain"`
	Node        string `json:"node"`
	// Control is the key that signs orders and answers.
	Control ed25519.PublicKey `json:"control"`
	// Seed makes the key that signs what the node says.
	Seed []byte `json:"seed"`
	Bus  Access `json:"bus"`
	// After is the generation when the credential was made: the node takes none
	// that is older.
	After uint64 `json:"after,omitempty"`
	// Bundle is the trust bundle (SPIFFE JSON) when the credential was made.
	Bundle json.RawMessage `json:"bundle,omitempty"`
}

// Access says where a bus is and what to show there.
type Access struct {
	URLs []string `json:"urls,omitempty"`
	// Seed is an nkey seed. It is a key of its own: a bus chooses what is signed
	// with it.
	Seed string `json:"seed,omitempty"`
	// Credentials is the content of a NATS credentials file, for a cluster that
	// wants one.
	Credentials string `json:"credentials,omitempty"`
	// Roots are the certificates (PEM) that the bus must be certified by, Name
	// the name that it must prove; empty for those of the system and of the URL.
	Roots string `json:"roots,omitempty"`
	Name  string `json:"name,omitempty"`
}

const (
	credentialVersion = 1
	maxCredential     = 1 << 20
)

// ParseCredential reads a credential and checks that it is whole.
func ParseCredential(text []byte) (*Credential, error) {
	if len(text) > maxCredential {
		return nil, fmt.Errorf("a credential of %d bytes is longer than %d", len(text), maxCredential)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var c Credential
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("the credential cannot be read: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the credential cannot be read: there is more after its end")
	}
	return &c, c.check()
}

func (c *Credential) check() error {
	if c.Version != credentialVersion {
		return fmt.Errorf("the credential is of version %d, not %d: let control make a new one", c.Version, credentialVersion)
	}
	if _, err := platformNames(c.Platform); err != nil {
		return fmt.Errorf("the credential's %w", err)
	}
	if _, err := token(c.Node); err != nil {
		return fmt.Errorf("the credential's node %w", err)
	}
	switch {
	case c.TrustDomain == "":
		return errors.New("the credential names no trust domain")
	case len(c.Control) != ed25519.PublicKeySize:
		return errors.New("the credential's key of control is not an ed25519 key")
	case len(c.Seed) != ed25519.SeedSize:
		return errors.New("the credential's seed is not an ed25519 seed")
	}
	return c.Bus.check()
}

func (a *Access) check() error {
	if a.Seed == "" {
		return nil
	}
	if _, err := nkeys.FromSeed([]byte(a.Seed)); err != nil {
		return fmt.Errorf("the nkey seed of the bus cannot be used: %w", err)
	}
	return nil
}

// key returns the key that signs what the node says.
func (c *Credential) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(c.Seed) }

// ReadCredential reads a credential file that nobody else can read.
func ReadCredential(path string) (*Credential, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %o): chmod 600 it, or make a new one if they did", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err != nil {
		return nil, err
	}
	c, err := ParseCredential(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Write writes a credential to a file that nobody else can read.
func (c *Credential) Write(path string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s exists and can be read by others: remove it", path)
	}
	return atomicfile.Write(path, append(text, '\n'), 0o600)
}
