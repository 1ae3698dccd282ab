package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	// look is how often the clock is read again at the latest.
	look = 2 * time.Second
	// bundleEvery is how often the bundle is fetched, far more often than a new
	// key needs to propagate.
	bundleEvery = 10 * time.Second
	// askTime bounds one request to the issuer, askAtOnce those at a time.
	askTime   = 10 * time.Second
	askAtOnce = 16
)

// request is for the certificate of an entry. Its answer counts only while the
// entry is still the workload's.
type request struct {
	workload string
	entry    *keptSVID
}

// Run renews until ctx ends. It owns every request to the issuer and returns
// when the last one has ended.
func (k *Keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.loop(ctx, group) })
	if k.federation != nil {
		group.Go(func() error { return k.follow(ctx, k.federation) })
	}
	return group.Wait()
}

func (k *Keeper) loop(ctx context.Context, group *errgroup.Group) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-k.wake:
		}
		bundle, requests, wait := k.due()
		if bundle {
			group.Go(func() error { k.refreshBundle(ctx); return nil })
		}
		for _, r := range requests {
			group.Go(func() error { k.renew(ctx, r); return nil })
		}
		timer.Reset(wait)
	}
}

// follow passes changes of federated bundles on.
func (k *Keeper) follow(ctx context.Context, f *Federation) error {
	for {
		changed := f.Changed()
		k.changing.happened()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// due takes what is to be asked for now, as much as there is room for, and says
// how long nothing else is due, if the clock runs on. Nothing is asked for
// before there is a bundle to check it with.
func (k *Keeper) due() (bundle bool, requests []request, wait time.Duration) {
	now := k.now()
	wait = look
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.fetching && k.fetch.due(now) {
		k.fetching, bundle = true, true
	}
	if k.bundle == nil {
		return bundle, nil, wait
	}
	for name, e := range k.kept {
		if e.asking || k.denied[name] {
			continue
		}
		switch {
		case !e.wants(now):
			wait = min(wait, e.renewAt.Sub(now))
		case e.retry.due(now) && k.asking < askAtOnce:
			e.asking = true
			k.asking++
			requests = append(requests, request{name, e})
		}
	}
	return bundle, requests, wait
}

// wants reports whether a new certificate is needed: there is none, it is not
// valid by the clock as it is now, or half of its life has passed.
func (e *keptSVID) wants(now time.Time) bool {
	return !validChain(e.svid, now) || !now.Before(e.renewAt)
}

func (k *Keeper) renew(ctx context.Context, r request) {
	svid, err := k.ask(ctx, r)
	k.mu.Lock()
	k.asking--
	r.entry.asking = false
	now := k.now()
	switch {
	case k.kept[r.workload] != r.entry:
		err = nil // dropped, moved or denied in the meantime
	case err != nil:
		r.entry.retry.failed(now)
	default:
		r.entry.retry = retry{}
		r.entry.svid = svid
		r.entry.renewAt = halfway(svid, now)
		k.changing.happened()
	}
	failures := r.entry.retry.failures
	k.mu.Unlock()
	if err != nil && failures == 1 && ctx.Err() == nil {
		k.log.Warn("no new certificate; the old one goes on until it expires", "workload", r.workload, "err", err)
	}
	k.kick()
}

// halfway is the middle of what is left of a certificate, not the same for all.
func halfway(svid *x509svid.SVID, now time.Time) time.Time {
	life := svid.Certificates[0].NotAfter.Sub(now)
	if life <= 0 {
		return now
	}
	return now.Add(life*9/20 + rand.N(life/10+1))
}

// ask gets a certificate for a fresh key, and believes it only if everybody
// else will.
func (k *Keeper) ask(ctx context.Context, r request) (*x509svid.SVID, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	id, err := ID(k.td.Name(), r.entry.zone, r.workload)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	certs, err := k.issuer.X509(ctx, X509Request{Zone: r.entry.zone, Workload: r.workload, PublicKey: &key.PublicKey})
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 || !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("the issuer answered with a certificate of another key")
	}
	svid := &x509svid.SVID{ID: id, Certificates: certs, PrivateKey: key, Hint: r.workload}
	if err := k.accepts(svid); err != nil {
		// Perhaps a root was activated that the bundle here does not name yet.
		if fetchErr := k.fetchBundle(ctx); fetchErr != nil {
			return nil, errors.Join(err, fetchErr)
		}
		return svid, k.accepts(svid)
	}
	return svid, nil
}

// accepts returns an error if another workload would not believe a certificate.
func (k *Keeper) accepts(svid *x509svid.SVID) error {
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		id, err := verify(svid.Certificates, k, use, k.now())
		if err != nil {
			return err
		}
		if id != svid.ID {
			return fmt.Errorf("the issuer answered with a certificate of %s, not %s", id, svid.ID)
		}
	}
	return nil
}

func (k *Keeper) refreshBundle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	err := k.fetchBundle(ctx)
	k.mu.Lock()
	k.fetching = false
	if err != nil {
		k.fetch.failed(k.now())
	} else {
		k.fetch = retry{at: k.now().Add(bundleEvery)}
	}
	failures := k.fetch.failures
	k.mu.Unlock()
	if failures == 1 && ctx.Err() == nil {
		k.log.Warn("no new bundle; the old one goes on", "trustDomain", k.td.Name(), "err", err)
	}
	k.kick()
}

// fetchBundle takes the issuer's bundle, unless a newer one is here.
func (k *Keeper) fetchBundle(ctx context.Context) error {
	b, err := k.issuer.Bundle(ctx)
	if err != nil {
		return err
	}
	if b == nil || b.TrustDomain() != k.td || len(b.X509Authorities()) == 0 {
		return fmt.Errorf("the issuer's bundle is none of %s", k.td)
	}
	k.mu.Lock()
	if k.bundle != nil && k.bundle.Equal(b) {
		k.mu.Unlock()
		return nil
	}
	if older(b, k.bundle) {
		k.mu.Unlock()
		return fmt.Errorf("the issuer's bundle of %s is older than the one here; restart the node if the authority was made anew", k.td)
	}
	k.bundle, k.x509 = b.Clone(), b.X509Bundle()
	k.changing.happened()
	k.mu.Unlock()
	k.recheck()
	return nil
}

// older reports whether a bundle was made before another.
func older(b, than *spiffebundle.Bundle) bool {
	if than == nil {
		return false
	}
	n, ok := b.SequenceNumber()
	m, has := than.SequenceNumber()
	return has && (!ok || n < m)
}

// recheck asks anew for certificates whose authority has left the bundle.
func (k *Keeper) recheck() {
	k.mu.RLock()
	kept := make(map[*keptSVID]*x509svid.SVID, len(k.kept))
	for _, e := range k.kept {
		if e.svid != nil {
			kept[e] = e.svid
		}
	}
	k.mu.RUnlock()
	for e, svid := range kept {
		if k.accepts(svid) == nil {
			continue
		}
		k.mu.Lock()
		if e.svid == svid {
			e.renewAt = time.Time{}
		}
		k.mu.Unlock()
	}
}
