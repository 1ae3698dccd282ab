package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// KeeperOptions say what a keeper keeps.
type KeeperOptions struct {
	TrustDomain string
	Issuer      Issuer
	Federation  *Federation      // bundles of other trust domains; may be nil
	Now         func() time.Time // time.Now if nil
	Log         *slog.Logger     // slog.Default if nil
}

// Keeper keeps a valid certificate for each workload of a node. It renews at
// half of the lifetime with a fresh key, goes on with what it has while the
// issuer is away, and gives nothing once that has expired.
//
// All waiting is a matter of a few seconds at most, after which the clock is
// read again: a machine that slept, or whose clock was set, renews at once.
type Keeper struct {
	td         spiffeid.TrustDomain
	issuer     Issuer
	federation *Federation
	now        func() time.Time
	log        *slog.Logger
	wake       chan struct{} // capacity 1: something is due

	mu       sync.RWMutex // guards all following fields
	kept     map[string]*keptSVID
	denied   map[string]bool
	bundle   *spiffebundle.Bundle // nil before the first; never changed in place
	x509     *x509bundle.Bundle   // of bundle
	fetching bool                 // a request for the bundle is on its way
	fetch    retry                // of the bundle
	asking   int                  // requests for certificates on their way

	changing change
}

// keptSVID is a workload and its certificate. It is replaced, not changed, when
// the workload moves to another zone, so that an answer to an older request
// finds nobody.
type keptSVID struct {
	zone    string
	svid    *x509svid.SVID // nil before the first, and when denied
	renewAt time.Time
	retry   retry
	asking  bool // a request is on its way
}

// NewKeeper returns a keeper that keeps nothing yet; Run keeps it going.
func NewKeeper(o KeeperOptions) (*Keeper, error) {
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("trust domain %q: %w", o.TrustDomain, err)
	}
	if o.Issuer == nil {
		return nil, errors.New("a keeper needs an issuer")
	}
	if o.Federation != nil && o.Federation.has(td) {
		return nil, fmt.Errorf("trust domain %s cannot be federated with itself; remove it from the federated ones", td)
	}
	k := &Keeper{td: td, issuer: o.Issuer, federation: o.Federation, now: o.Now, log: o.Log,
		wake: make(chan struct{}, 1), kept: map[string]*keptSVID{}, denied: map[string]bool{}}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.Default()
	}
	return k, nil
}

// Keep says which workloads this node has, and their zones. What is not named
// any more is dropped.
func (k *Keeper) Keep(zones map[string]string) {
	k.mu.Lock()
	for name := range k.kept {
		if _, ok := zones[name]; !ok {
			delete(k.kept, name)
		}
	}
	for name, zone := range zones {
		if e := k.kept[name]; e == nil || e.zone != zone {
			k.kept[name] = &keptSVID{zone: zone}
		}
	}
	k.changing.happened()
	k.mu.Unlock()
	k.kick()
}

// Deny takes a workload's certificate away and asks for no other until Release.
// A request that is on its way is not used.
func (k *Keeper) Deny(workload string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.denied[workload] {
		return
	}
	k.denied[workload] = true
	if e := k.kept[workload]; e != nil {
		k.kept[workload] = &keptSVID{zone: e.zone}
	}
	k.changing.happened()
}

// Release takes Deny back.
func (k *Keeper) Release(workload string) {
	k.mu.Lock()
	delete(k.denied, workload)
	k.changing.happened()
	k.mu.Unlock()
	k.kick()
}

// SVID implements [Source].
func (k *Keeper) SVID(workload string) (*x509svid.SVID, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e, err := k.identified(workload)
	if err != nil {
		return nil, err
	}
	return current(e.svid, workload, k.now())
}

// identified returns the entry of a workload that may have an identity. The
// caller holds mu.
func (k *Keeper) identified(workload string) (*keptSVID, error) {
	e := k.kept[workload]
	switch {
	case e == nil:
		return nil, fmt.Errorf("workload %q is not of this node: %w", workload, ErrNoIdentity)
	case k.denied[workload]:
		return nil, fmt.Errorf("workload %q is quarantined: %w", workload, ErrNoIdentity)
	}
	return e, nil
}

// current returns a certificate if it is valid now.
func current(svid *x509svid.SVID, workload string, now time.Time) (*x509svid.SVID, error) {
	if svid == nil {
		return nil, fmt.Errorf("workload %q has no certificate yet", workload)
	}
	if !validChain(svid, now) {
		c := svid.Certificates[0]
		return nil, fmt.Errorf("the certificate of workload %q is valid from %s to %s, not now",
			workload, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	return svid, nil
}

func validChain(svid *x509svid.SVID, now time.Time) bool {
	return svid != nil && !slices.ContainsFunc(svid.Certificates, func(c *x509.Certificate) bool { return !valid(c, now) })
}

// JWT implements [Provider].
func (k *Keeper) JWT(ctx context.Context, workload string, audience []string) (string, error) {
	k.mu.RLock()
	e, err := k.identified(workload)
	k.mu.RUnlock()
	if err != nil {
		return "", err
	}
	token, err := k.issuer.JWT(ctx, JWTRequest{Zone: e.zone, Workload: workload, Audience: audience})
	if err != nil {
		return "", err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, err = k.identified(workload)
	if err != nil {
		return "", err
	}
	return token, nil
}

// GetX509BundleForTrustDomain implements [Source].
func (k *Keeper) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != k.td {
		if k.federation == nil {
			return nil, fmt.Errorf("trust domain %s is not federated with %s", td, k.td)
		}
		return k.federation.GetX509BundleForTrustDomain(td)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.x509 == nil {
		return nil, fmt.Errorf("the bundle of %s was not received yet", td)
	}
	return k.x509, nil
}

// GetBundleForTrustDomain implements [spiffebundle.Source] for the own trust
// domain, which a federation endpoint serves.
func (k *Keeper) GetBundleForTrustDomain(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if td != k.td || k.bundle == nil {
		return nil, fmt.Errorf("there is no bundle of %s here", td)
	}
	return k.bundle, nil
}

// Bundles implements [Provider].
func (k *Keeper) Bundles() []*spiffebundle.Bundle {
	k.mu.RLock()
	own := k.bundle
	k.mu.RUnlock()
	if own == nil {
		return nil
	}
	out := []*spiffebundle.Bundle{own}
	if k.federation != nil {
		out = append(out, k.federation.Bundles()...)
	}
	return out
}

// FederatedX509 returns the X.509 bundles of the federated trust domains.
func (k *Keeper) FederatedX509() []*x509bundle.Bundle {
	var out []*x509bundle.Bundle
	if k.federation != nil {
		for _, b := range k.federation.Bundles() {
			out = append(out, b.X509Bundle())
		}
	}
	return out
}

// Now is the keeper's clock.
func (k *Keeper) Now() time.Time { return k.now() }

// Changed implements [Provider].
func (k *Keeper) Changed() <-chan struct{} { return k.changing.next() }

// Ready waits until every workload that is kept and not denied has a valid
// certificate.
func (k *Keeper) Ready(ctx context.Context) error {
	for {
		changed := k.Changed()
		missing := k.missing()
		if missing == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("workload %q has no certificate: %w", missing, ctx.Err())
		}
	}
}

func (k *Keeper) missing() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for name, e := range k.kept {
		if _, err := current(e.svid, name, k.now()); err != nil && !k.denied[name] {
			return name
		}
	}
	return ""
}

func (k *Keeper) kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}
