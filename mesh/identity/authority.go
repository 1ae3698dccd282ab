package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// propagation is how long a new key is published before it signs: every node
// and every federated trust domain fetches bundles more often.
const propagation = 5 * time.Minute

// AuthorityOptions say how an authority is opened.
type AuthorityOptions struct {
	TrustDomain string
	// Passphrase or KeyFile (an age identity, as age-keygen writes it) encrypts
	// the keys at rest. A file that is not encrypted yet becomes so.
	Passphrase []byte
	KeyFile    string
	LeafLife   time.Duration    // of X.509-SVIDs; an hour if zero
	Now        func() time.Time // time.Now if nil
	Log        *slog.Logger     // slog.Default if nil
}

// Authority is the embedded certificate authority: it owns the keys of a trust
// domain, in one file of a folder that only one process uses at a time. It
// signs for whoever calls it: who may have which identity is decided before.
//
// A clock that runs backwards does no harm: what is not valid yet is not used
// but made anew, until the clock is before the root itself, when nothing is
// signed. One that jumps ahead ends certificates early and no later than their
// clock says.
type Authority struct {
	td       spiffeid.TrustDomain
	path     string
	seal     seal
	leafLife time.Duration
	now      func() time.Time
	log      *slog.Logger

	mu      sync.Mutex // guards all following fields
	state   *state
	retryAt time.Time // when a state that could not be written is tried again
}

var _ Issuer = (*Authority)(nil)

// OpenAuthority loads the authority of a folder, or makes one.
func OpenAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("trust domain %q: %w", o.TrustDomain, err)
	}
	s, err := newSeal(o.Passphrase, o.KeyFile)
	if err != nil {
		return nil, err
	}
	if err := makePrivate(dir); err != nil {
		return nil, err
	}
	a := &Authority{td: td, path: filepath.Join(dir, "authority"), seal: s,
		leafLife: o.LeafLife, now: o.Now, log: o.Log}
	if a.leafLife <= 0 {
		a.leafLife = leafLife
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	return a, a.load()
}

func (a *Authority) load() error {
	text, asWritten, err := a.seal.read(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		first, err := newState(a.td, a.now())
		if err != nil {
			return err
		}
		return a.save(first)
	}
	if err != nil {
		return err
	}
	s, err := decodeState(text, a.td)
	if err != nil {
		return fmt.Errorf("%s is no authority of %s: %w", a.path, a.td, err)
	}
	if asWritten {
		a.state = s
		return nil
	}
	return a.save(s)
}

// save makes a state count once it is on disk. The caller holds mu, or is the
// only one that knows a.
func (a *Authority) save(s *state) error {
	text, err := s.encode(a.td)
	if err != nil {
		return err
	}
	if err := a.seal.write(a.path, text); err != nil {
		return err
	}
	a.state = s
	return nil
}

// TrustDomain is what the authority speaks for.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.td }

// X509 implements [Issuer].
func (a *Authority) X509(ctx context.Context, r X509Request) ([]*x509.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id, err := ID(a.td.Name(), r.Zone, r.Workload)
	if err != nil {
		return nil, err
	}
	now := a.now()
	by := a.current(now).intermediate
	if !valid(by.cert, now) {
		return nil, fmt.Errorf("the authority of %s signs nothing: its intermediate is valid from %s to %s; correct the clock or the disk",
			a.td, by.cert.NotBefore.Format(time.RFC3339), by.cert.NotAfter.Format(time.RFC3339))
	}
	leaf, err := newLeaf(id, r.PublicKey, by, a.leafLife, now)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{leaf, by.cert}, nil
}

// JWT implements [Issuer].
func (a *Authority) JWT(ctx context.Context, r JWTRequest) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	id, err := ID(a.td.Name(), r.Zone, r.Workload)
	if err != nil {
		return "", err
	}
	now := a.now()
	return signJWT(a.current(now).jwtSigner(now), id, r.Audience, now)
}

// Bundle implements [Issuer].
func (a *Authority) Bundle(context.Context) (*spiffebundle.Bundle, error) {
	s := a.current(a.now())
	b := spiffebundle.New(a.td)
	for _, r := range s.roots {
		b.AddX509Authority(r.cert)
	}
	for _, k := range s.jwtKeys {
		if err := b.AddJWTAuthority(k.id, &k.key.PublicKey); err != nil {
			return nil, err
		}
	}
	b.SetSequenceNumber(s.sequence)
	b.SetRefreshHint(propagation)
	return b, nil
}

// GetBundleForTrustDomain implements [spiffebundle.Source], which a federation
// endpoint serves.
func (a *Authority) GetBundleForTrustDomain(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	if td != a.td {
		return nil, fmt.Errorf("this is the authority of %s, not of %s", a.td, td)
	}
	return a.Bundle(context.Background())
}

// current returns the state, with what is due at now replaced. If that cannot
// be written the old state goes on, which is half as old as it may become.
func (a *Authority) current(now time.Time) *state {
	a.mu.Lock()
	defer a.mu.Unlock()
	const pause = 10 * time.Second
	if wait := a.retryAt.Sub(now); wait > 0 && wait <= pause {
		return a.state
	}
	next, err := a.state.renewed(a.td, now)
	if err == nil && next != a.state {
		err = a.save(next)
	}
	if err != nil {
		a.retryAt = now.Add(pause)
		a.log.Error("the authority could not renew its keys; the old ones go on", "trustDomain", a.td.Name(), "err", err)
	}
	return a.state
}
