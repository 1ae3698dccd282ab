package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"bulkhead/internal/atomicfile"
)

// Federated is another trust domain whose workloads can be verified. None of
// them is a workload of ours: what they may do is nothing, until a policy says
// otherwise.
type Federated struct {
	TrustDomain spiffeid.TrustDomain
	URL         string // of the bundle endpoint, https
	// Endpoint is the SPIFFE ID that the endpoint proves (profile https_spiffe).
	// Zero means that the Web PKI vouches for its host name (https_web).
	Endpoint spiffeid.ID
	// Initial is the first bundle, for an endpoint that proves an ID of the very
	// trust domain; a bundle that was fetched before takes precedence.
	Initial *spiffebundle.Bundle
	// Roots vouch for https_web; those of the system if nil.
	Roots *x509.CertPool
}

// FederationOptions are how a federation tells time and what happened.
type FederationOptions struct {
	Now func() time.Time // time.Now if nil
	Log *slog.Logger     // slog.Default if nil
}

// Federation keeps the bundles of other trust domains, on disk too.
type Federation struct {
	dir     string
	now     func() time.Time
	log     *slog.Logger
	domains map[spiffeid.TrustDomain]Federated

	mu       sync.RWMutex // guards bundles
	bundles  map[spiffeid.TrustDomain]*spiffebundle.Bundle
	changing change
}

const (
	maxBundle     = 1 << 20
	fetchTime     = 20 * time.Second
	refreshAtMost = time.Hour
	refreshAfter  = 10 * time.Second // at least, and after a failure
)

// NewFederation loads what was fetched before from a folder; Run keeps it
// fresh.
func NewFederation(dir string, domains []Federated, o FederationOptions) (*Federation, error) {
	if err := makePrivate(dir); err != nil {
		return nil, err
	}
	f := &Federation{dir: dir, now: o.Now, log: o.Log, domains: map[spiffeid.TrustDomain]Federated{},
		bundles: map[spiffeid.TrustDomain]*spiffebundle.Bundle{}}
	if f.now == nil {
		f.now = time.Now
	}
	if f.log == nil {
		f.log = slog.Default()
	}
	for _, d := range domains {
		if err := d.Check(); err != nil {
			return nil, err
		}
		if _, twice := f.domains[d.TrustDomain]; twice {
			return nil, fmt.Errorf("trust domain %s is federated twice; keep one", d.TrustDomain)
		}
		f.domains[d.TrustDomain] = d
		b, err := f.load(d.TrustDomain)
		if err != nil {
			return nil, err
		}
		if b == nil {
			b = d.Initial
		}
		if b != nil {
			f.bundles[d.TrustDomain] = b
		}
	}
	return f, nil
}

// Check returns an error if a trust domain cannot be federated as it is described.
func (d Federated) Check() error {
	u, err := url.Parse(d.URL)
	switch {
	case d.TrustDomain.IsZero():
		return errors.New("a federated trust domain needs a name")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil:
		return fmt.Errorf("the bundle endpoint of %s must be an https:// address without user information", d.TrustDomain)
	case d.Initial != nil && d.Initial.TrustDomain() != d.TrustDomain:
		return fmt.Errorf("the first bundle of %s is of %s", d.TrustDomain, d.Initial.TrustDomain())
	}
	return nil
}

func (f *Federation) path(td spiffeid.TrustDomain) string {
	return filepath.Join(f.dir, "bundle-"+td.Name()+".json")
}

func (f *Federation) load(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	text, err := readLimited(f.path(td))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := spiffebundle.Parse(td, text)
	if err != nil {
		return nil, fmt.Errorf("%s is no bundle of %s; delete it to fetch anew: %w", f.path(td), td, err)
	}
	return b, nil
}

// Run fetches the bundles again and again, each as often as it wishes, until
// ctx ends.
func (f *Federation) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for td := range f.domains {
		group.Go(func() error {
			for ctx.Err() == nil {
				pause, err := f.refresh(ctx, td)
				if err != nil && ctx.Err() == nil {
					f.log.Warn("the bundle of a federated trust domain was not refreshed; the old one goes on",
						"trustDomain", td.Name(), "err", err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// refresh fetches one bundle and returns when to do so again.
func (f *Federation) refresh(ctx context.Context, td spiffeid.TrustDomain) (time.Duration, error) {
	b, err := f.fetch(ctx, f.domains[td])
	if err != nil {
		return refreshAfter, err
	}
	f.mu.RLock()
	before := f.bundles[td]
	f.mu.RUnlock()
	if older(b, before) {
		return refreshAfter, fmt.Errorf("the endpoint of %s serves a bundle that is older than the one here; if that is right, delete %s", td, f.path(td))
	}
	pause := propagation
	if hint, ok := b.RefreshHint(); ok {
		pause = min(max(hint, refreshAfter), refreshAtMost)
	}
	if before != nil && before.Equal(b) {
		return pause, nil
	}
	f.mu.Lock()
	f.bundles[td] = b
	f.mu.Unlock()
	f.changing.happened()
	text, err := b.Marshal()
	if err != nil {
		return pause, err
	}
	return pause, atomicfile.Write(f.path(td), text, 0o600)
}

// fetch gets a bundle. A redirect is not followed: it would leave the host that
// was configured.
func (f *Federation) fetch(ctx context.Context, d Federated) (*spiffebundle.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: f.endpointTLS(d), ForceAttemptHTTP2: true, DisableKeepAlives: true,
		Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 64 << 10}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return fmt.Errorf("the bundle endpoint of %s redirects; configure where it is", d.TrustDomain)
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the bundle endpoint of %s answers %s", d.TrustDomain, answer.Status)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxBundle+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBundle {
		return nil, fmt.Errorf("the bundle of %s is larger than %d bytes", d.TrustDomain, maxBundle)
	}
	return spiffebundle.Parse(d.TrustDomain, text)
}

func (f *Federation) endpointTLS(d Federated) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, Time: f.now, RootCAs: d.Roots}
	if d.Endpoint.IsZero() {
		return config
	}
	config.InsecureSkipVerify = true // VerifyConnection takes its place
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := verify(cs.PeerCertificates, f, x509.ExtKeyUsageServerAuth, f.now())
		if err == nil && id != d.Endpoint {
			err = fmt.Errorf("the bundle endpoint is %s, not %s", id, d.Endpoint)
		}
		return err
	}
	return config
}

// GetX509BundleForTrustDomain implements [x509bundle.Source].
func (f *Federation) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	b := f.bundles[td]
	if b == nil {
		return nil, fmt.Errorf("there is no bundle of trust domain %s", td)
	}
	return b.X509Bundle(), nil
}

// Bundles returns the bundles that are here.
func (f *Federation) Bundles() []*spiffebundle.Bundle {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make([]*spiffebundle.Bundle, 0, len(f.bundles))
	for _, b := range f.bundles {
		out = append(out, b)
	}
	return out
}

func (f *Federation) has(td spiffeid.TrustDomain) bool {
	_, ok := f.domains[td]
	return ok
}

// Changed returns a channel that is closed when a bundle changes.
func (f *Federation) Changed() <-chan struct{} { return f.changing.next() }
