package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// UpstreamOptions say how an existing Workload API is used.
type UpstreamOptions struct {
	TrustDomain string
	Now         func() time.Time // time.Now if nil
	Log         *slog.Logger     // slog.Default if nil
}

// Upstream takes the identities of this node's workloads from an existing
// Workload API, such as a SPIRE agent's, in the place of the embedded authority.
// The agent must offer this process an X.509-SVID for each.
//
// A certificate is the workload's that its ID names in our form. One of another
// form is the workload's that its hint names; other nodes do not know it by its
// ID, so it serves only peers that ask for exactly this ID. What two
// certificates claim belongs to nobody.
type Upstream struct {
	td     spiffeid.TrustDomain
	client *workloadapi.Client
	now    func() time.Time
	log    *slog.Logger
	stop   context.CancelFunc
	group  *errgroup.Group

	mu       sync.RWMutex // guards all following fields
	svids    map[string]*x509svid.SVID
	x509     *x509bundle.Set
	jwt      *jwtbundle.Set
	denied   map[string]bool
	away     error // what was said of it last, nil if it answered since
	changing change
}

var (
	_ Provider = (*Upstream)(nil)
	_ Provider = (*Keeper)(nil)
)

// NewUpstream connects to a Workload API (unix:///path) and waits for its first
// answer, or for ctx. It then follows the Workload API until Close.
func NewUpstream(ctx context.Context, addr string, o UpstreamOptions) (*Upstream, error) {
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("trust domain %q: %w", o.TrustDomain, err)
	}
	// Keys do not travel over TCP, where nothing would protect them.
	if err := workloadapi.ValidateAddress(addr); err != nil || !strings.HasPrefix(addr, "unix:") {
		return nil, fmt.Errorf("%q is no address of a workload API; write unix:///PATH", addr)
	}
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(addr),
		workloadapi.WithDialOptions(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20))))
	if err != nil {
		return nil, err
	}
	u := &Upstream{td: td, client: client, now: o.Now, log: o.Log, denied: map[string]bool{}}
	if u.now == nil {
		u.now = time.Now
	}
	if u.log == nil {
		u.log = slog.Default()
	}
	if err := u.start(ctx, addr); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *Upstream) start(ctx context.Context, addr string) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	u.stop = stop
	u.group, run = errgroup.WithContext(run)
	u.group.Go(func() error { return again(run, func() error { return u.client.WatchX509Context(run, u) }) })
	u.group.Go(func() error { return again(run, func() error { return u.client.WatchJWTBundles(run, u) }) })
	for {
		changed := u.Changed()
		u.mu.RLock()
		ready := u.x509 != nil
		u.mu.RUnlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			u.mu.RLock()
			why := cmp.Or(u.away, ctx.Err())
			u.mu.RUnlock()
			return errors.Join(fmt.Errorf("the workload API %s offers no identity: %w", addr, why), u.Close())
		}
	}
}

// again calls watch until ctx ends: the library gives up when the server says
// that it was cancelled, as one that restarts may.
func again(ctx context.Context, watch func() error) error {
	for {
		err := watch()
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// Close ends following. The certificates go on until they expire.
func (u *Upstream) Close() error {
	u.stop()
	err := u.group.Wait()
	if canceled(err) {
		err = nil
	}
	return errors.Join(err, u.client.Close())
}

func canceled(err error) bool {
	return errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled
}

// OnX509ContextUpdate implements [workloadapi.X509ContextWatcher].
func (u *Upstream) OnX509ContextUpdate(c *workloadapi.X509Context) {
	svids := u.assign(c.SVIDs)
	u.mu.Lock()
	u.svids, u.x509, u.away = svids, c.Bundles, nil
	u.changing.happened()
	u.mu.Unlock()
}

// assign says whose the certificates are.
func (u *Upstream) assign(offered []*x509svid.SVID) map[string]*x509svid.SVID {
	named, hinted := map[string][]*x509svid.SVID{}, map[string][]*x509svid.SVID{}
	for _, svid := range offered {
		if svid.ID.TrustDomain() != u.td {
			continue
		}
		if _, name, err := Workload(svid.ID, u.td.Name()); err == nil {
			named[name] = append(named[name], svid)
		} else if svid.Hint != "" {
			hinted[svid.Hint] = append(hinted[svid.Hint], svid)
		}
	}
	for name, svids := range hinted {
		if named[name] == nil {
			named[name] = svids
		}
	}
	out := map[string]*x509svid.SVID{}
	for name, svids := range named {
		if len(svids) > 1 {
			u.log.Warn("the workload API offers several identities for one workload; it gets none", "workload", name,
				"first", svids[0].ID.String(), "second", svids[1].ID.String())
			continue
		}
		out[name] = svids[0]
	}
	return out
}

// OnX509ContextWatchError implements [workloadapi.X509ContextWatcher].
func (u *Upstream) OnX509ContextWatchError(err error) { u.watchError(err) }

// OnJWTBundlesUpdate implements [workloadapi.JWTBundleWatcher].
func (u *Upstream) OnJWTBundlesUpdate(s *jwtbundle.Set) {
	u.mu.Lock()
	u.jwt = s
	u.changing.happened()
	u.mu.Unlock()
}

// OnJWTBundlesWatchError implements [workloadapi.JWTBundleWatcher].
func (u *Upstream) OnJWTBundlesWatchError(err error) { u.watchError(err) }

// watchError says once that the Workload API is away. One that has not answered
// yet is the business of who waits for it.
func (u *Upstream) watchError(err error) {
	if canceled(err) {
		return
	}
	u.mu.Lock()
	first := u.away == nil && u.x509 != nil
	u.away = err
	u.mu.Unlock()
	if first {
		u.log.Warn("the workload API is away; what it gave goes on until it expires", "err", err)
	}
}

// Deny takes a workload's certificate out of use until Release.
func (u *Upstream) Deny(workload string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.denied[workload] = true
	u.changing.happened()
}

// Release takes Deny back.
func (u *Upstream) Release(workload string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.denied, workload)
	u.changing.happened()
}

// SVID implements [Source].
func (u *Upstream) SVID(workload string) (*x509svid.SVID, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	switch svid := u.svids[workload]; {
	case u.denied[workload]:
		return nil, fmt.Errorf("workload %q is quarantined: %w", workload, ErrNoIdentity)
	case svid == nil:
		return nil, fmt.Errorf("the workload API offers no identity for workload %q: %w", workload, ErrNoIdentity)
	default:
		return current(svid, workload, u.now())
	}
}

// JWT implements [Provider].
func (u *Upstream) JWT(ctx context.Context, workload string, audience []string) (string, error) {
	if err := checkAudience(audience); err != nil {
		return "", err
	}
	svid, err := u.SVID(workload)
	if err != nil {
		return "", err
	}
	token, err := u.client.FetchJWTSVID(ctx, jwtsvid.Params{Subject: svid.ID, Audience: audience[0], ExtraAudiences: audience[1:]})
	if err != nil {
		return "", err
	}
	if token.ID != svid.ID {
		return "", fmt.Errorf("the workload API answered with a token of %s, not %s", token.ID, svid.ID)
	}
	if _, err := u.SVID(workload); err != nil {
		return "", err
	}
	return token.Marshal(), nil
}

// GetX509BundleForTrustDomain implements [Source].
func (u *Upstream) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.x509.GetX509BundleForTrustDomain(td)
}

// FederatedX509 returns the X.509 bundles of the federated trust domains.
func (u *Upstream) FederatedX509() []*x509bundle.Bundle {
	u.mu.RLock()
	defer u.mu.RUnlock()
	var out []*x509bundle.Bundle
	for _, b := range u.x509.Bundles() {
		if b.TrustDomain() != u.td {
			out = append(out, b)
		}
	}
	return out
}

// Bundles implements [Provider].
func (u *Upstream) Bundles() []*spiffebundle.Bundle {
	u.mu.RLock()
	defer u.mu.RUnlock()
	own, ok := u.x509.Get(u.td)
	if !ok {
		return nil
	}
	out := []*spiffebundle.Bundle{u.joined(own)}
	for _, b := range u.x509.Bundles() {
		if b.TrustDomain() != u.td {
			out = append(out, u.joined(b))
		}
	}
	return out
}

// joined is a bundle of both kinds of authority. The caller holds mu.
func (u *Upstream) joined(b *x509bundle.Bundle) *spiffebundle.Bundle {
	out := spiffebundle.FromX509Bundle(b)
	if u.jwt != nil {
		if jwt, ok := u.jwt.Get(b.TrustDomain()); ok {
			out.SetJWTAuthorities(jwt.JWTAuthorities())
		}
	}
	return out
}

// Now is the clock by which certificates expire.
func (u *Upstream) Now() time.Time { return u.now() }

// Changed implements [Provider].
func (u *Upstream) Changed() <-chan struct{} { return u.changing.next() }
