package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// stage says what a root is for.
type stage string

const (
	prepared stage = "prepared" // in bundles, signs nothing yet
	active   stage = "active"   // signs
	retiring stage = "retiring" // in bundles until what it signed has expired
)

// root is an authority that bundles name.
type root struct {
	signer
	stage stage
	since time.Time // of the stage
}

// jwtKey signs JWT-SVIDs, from some time after it was published.
type jwtKey struct {
	id   string
	key  *ecdsa.PrivateKey
	made time.Time
}

// state is everything that an authority remembers. It is never changed in place:
// a change makes a new one, which counts once it is on disk.
type state struct {
	sequence     uint64 // of the bundle
	roots        []root // one is active
	intermediate signer // signed by the active root
	jwtKeys      []jwtKey
}

func newState(td spiffeid.TrustDomain, now time.Time) (*state, error) {
	r, err := newRoot(td, now)
	if err != nil {
		return nil, err
	}
	i, err := newIntermediate(td, r, now)
	if err != nil {
		return nil, err
	}
	k, err := newJWTKey(now)
	if err != nil {
		return nil, err
	}
	// Starting with the time keeps a bundle of an authority that was made anew
	// from looking older than that of its predecessor.
	return &state{sequence: uint64(max(now.Unix(), 1)), roots: []root{{r, active, now}}, intermediate: i, jwtKeys: []jwtKey{k}}, nil
}

func newJWTKey(now time.Time) (jwtKey, error) {
	key, err := newKey()
	if err != nil {
		return jwtKey{}, err
	}
	id, err := keyID(&key.PublicKey)
	return jwtKey{id, key, now}, err
}

// clone returns a copy that may be changed.
func (s *state) clone() *state {
	c := *s
	c.roots = slices.Clone(s.roots)
	c.jwtKeys = slices.Clone(s.jwtKeys)
	return &c
}

// at returns the index of the root of a stage, -1 if there is none.
func (s *state) at(g stage) int {
	return slices.IndexFunc(s.roots, func(r root) bool { return r.stage == g })
}

// storedState is a state as it lies on disk.
type storedState struct {
	Version      int            `json:"version"`
	TrustDomain  string         `json:"trustDomain"`
	Sequence     uint64         `json:"sequence"`
	Roots        []storedRoot   `json:"roots"`
	Intermediate storedSigner   `json:"intermediate"`
	JWTKeys      []storedJWTKey `json:"jwtKeys"`
}

type storedSigner struct {
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8
}

type storedRoot struct {
	storedSigner
	Stage stage     `json:"stage"`
	Since time.Time `json:"since"`
}

type storedJWTKey struct {
	Key  []byte    `json:"key"`
	Made time.Time `json:"made"`
}

const stateVersion = 1

func (s *state) encode(td spiffeid.TrustDomain) ([]byte, error) {
	out := storedState{Version: stateVersion, TrustDomain: td.Name(), Sequence: s.sequence}
	var err error
	if out.Intermediate, err = s.intermediate.stored(); err != nil {
		return nil, err
	}
	for _, r := range s.roots {
		stored, err := r.stored()
		if err != nil {
			return nil, err
		}
		out.Roots = append(out.Roots, storedRoot{stored, r.stage, r.since})
	}
	for _, k := range s.jwtKeys {
		der, err := x509.MarshalPKCS8PrivateKey(k.key)
		if err != nil {
			return nil, err
		}
		out.JWTKeys = append(out.JWTKeys, storedJWTKey{der, k.made})
	}
	return json.Marshal(out)
}

func (s signer) stored() (storedSigner, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	return storedSigner{s.cert.Raw, der}, err
}

// decodeState reads a state and checks that it is whole and of the trust domain.
func decodeState(text []byte, td spiffeid.TrustDomain) (*state, error) {
	var in storedState
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	switch {
	case in.Version != stateVersion:
		return nil, fmt.Errorf("it is of version %d; this program reads %d", in.Version, stateVersion)
	case in.TrustDomain != td.Name():
		return nil, fmt.Errorf("it is of trust domain %q, not %q", in.TrustDomain, td.Name())
	case len(in.JWTKeys) == 0:
		return nil, errors.New("it holds no JWT key")
	}
	s := &state{sequence: in.Sequence}
	for _, r := range in.Roots {
		open, err := r.open(td)
		if err != nil {
			return nil, err
		}
		s.roots = append(s.roots, root{open, r.Stage, r.Since})
	}
	for _, k := range in.JWTKeys {
		key, err := openKey(k.Key)
		if err != nil {
			return nil, err
		}
		id, err := keyID(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		s.jwtKeys = append(s.jwtKeys, jwtKey{id, key, k.Made})
	}
	var err error
	if s.intermediate, err = in.Intermediate.open(td); err != nil {
		return nil, err
	}
	return s, s.check()
}

// check returns an error if the parts do not belong together.
func (s *state) check() error {
	count := map[stage]int{}
	for _, r := range s.roots {
		count[r.stage]++
	}
	if count[active] != 1 || count[prepared] > 1 || count[active]+count[prepared]+count[retiring] != len(s.roots) {
		return errors.New("it does not hold exactly one active root")
	}
	if err := s.intermediate.cert.CheckSignatureFrom(s.roots[s.at(active)].cert); err != nil {
		return fmt.Errorf("its intermediate is not signed by its active root: %w", err)
	}
	return nil
}

func (s storedSigner) open(td spiffeid.TrustDomain) (signer, error) {
	cert, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		return signer{}, err
	}
	key, err := openKey(s.Key)
	if err != nil {
		return signer{}, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return signer{}, fmt.Errorf("the key of %q is another's", cert.Subject)
	}
	return signer{cert, key}, checkSigner(cert, td)
}

func openKey(der []byte) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("a key of it is not ECDSA P-256")
	}
	return k, nil
}
