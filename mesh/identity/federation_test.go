package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func federated(t testing.TB, domains ...Federated) *Federation {
	t.Helper()
	f, err := NewFederation(filepath.Join(t.TempDir(), "federation"), domains, FederationOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// endpoint serves an authority's bundle with a configuration.
func endpoint(t testing.TB, a *Authority, config *tls.Config) string {
	t.Helper()
	handler, err := BundleEndpoint(a.td, a)
	if err != nil {
		t.Fatal(err)
	}
	return handle(t, handler, config)
}

func handle(t testing.TB, handler http.Handler, config *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handler, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan error, 1)
	go func() { ended <- s.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "https://" + ln.Addr().String()
}

// webPKI is a certificate for 127.0.0.1, and who vouches for it.
func webPKI(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key := mustKey(t)
	template := &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	self, err := sign(template, signer{key: key}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{self.cert.Raw}, PrivateKey: key}}}, pool([]*x509.Certificate{self.cert})
}

func TestFederationWithSPIFFE(t *testing.T) {
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	src := sourceOf(t, []string{"bundles"}, partner)
	url := endpoint(t, partner, EndpointTLS(src, "bundles"))
	id := mustID(t, "partner.test", "z", "bundles")
	d := Federated{TrustDomain: partner.td, URL: url, Endpoint: id, Initial: bundleOf(t, partner)}
	f := federated(t, d)
	if err := partner.PrepareRoot(); err != nil {
		t.Fatal(err)
	}
	pause, err := f.refresh(t.Context(), partner.td)
	if err != nil || pause != propagation {
		t.Fatalf("refresh: %v, %v", pause, err)
	}
	if !f.Bundles()[0].Equal(bundleOf(t, partner)) {
		t.Error("the new bundle is not here")
	}
	// It is on disk, and takes precedence over the first one.
	again, err := NewFederation(f.dir, []Federated{d}, FederationOptions{Log: quiet})
	if err != nil || !again.Bundles()[0].Equal(bundleOf(t, partner)) {
		t.Errorf("after a restart: %v", err)
	}
	// An independent client reads the same.
	b, err := federation.FetchBundle(t.Context(), partner.td, url, federation.WithSPIFFEAuth(f, id))
	if err != nil || !b.Equal(bundleOf(t, partner)) {
		t.Errorf("go-spiffe: %v", err)
	}
	if n, ok := b.SequenceNumber(); !ok || n != partner.state.sequence {
		t.Errorf("sequence %d, %v", n, ok)
	}

	for name, bad := range map[string]Federated{
		"another endpoint":   {TrustDomain: partner.td, URL: url, Endpoint: mustID(t, "partner.test", "z", "other"), Initial: d.Initial},
		"no first bundle":    {TrustDomain: partner.td, URL: url, Endpoint: id},
		"Web PKI":            {TrustDomain: partner.td, URL: url},
		"another's bundle":   {TrustDomain: partner.td, URL: url, Endpoint: id, Initial: bundleOf(t, newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"}))},
		"nobody answers":     {TrustDomain: partner.td, URL: "https://127.0.0.1:1", Endpoint: id, Initial: d.Initial},
		"endpoint elsewhere": {TrustDomain: partner.td, URL: url, Endpoint: mustID(t, domain, "z", "bundles"), Initial: d.Initial},
		"not found":          {TrustDomain: partner.td, URL: handle(t, http.NotFoundHandler(), EndpointTLS(src, "bundles")), Endpoint: id, Initial: d.Initial},
		"redirect":           {TrustDomain: partner.td, URL: handle(t, http.RedirectHandler(url, http.StatusFound), EndpointTLS(src, "bundles")), Endpoint: id, Initial: d.Initial},
		"endless":            {TrustDomain: partner.td, URL: handle(t, http.HandlerFunc(endless), EndpointTLS(src, "bundles")), Endpoint: id, Initial: d.Initial},
		"no bundle":          {TrustDomain: partner.td, URL: handle(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }), EndpointTLS(src, "bundles")), Endpoint: id, Initial: d.Initial},
	} {
		f := federated(t, bad)
		if _, err := f.refresh(t.Context(), partner.td); err == nil {
			t.Errorf("%s: it is fetched", name)
		}
		if bad.Initial != nil && !f.Bundles()[0].Equal(bad.Initial) {
			t.Errorf("%s: the bundle changed", name)
		}
	}
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for range 2 * maxBundle / 1024 {
		if _, err := w.Write(make([]byte, 1024)); err != nil {
			return
		}
	}
}

func TestFederationWithWebPKI(t *testing.T) {
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	config, roots := webPKI(t)
	url := endpoint(t, partner, config)
	d := Federated{TrustDomain: partner.td, URL: url, Roots: roots}
	f := federated(t, d)
	if _, err := f.refresh(t.Context(), partner.td); err != nil || len(f.Bundles()) != 1 {
		t.Fatal(err)
	}
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, answer.Status)
		}
	}
}

func TestFederationDoesNotGoBack(t *testing.T) {
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	var old atomic.Bool
	before, err := bundleOf(t, partner).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	handler, err := BundleEndpoint(partner.td, partner)
	if err != nil {
		t.Fatal(err)
	}
	config, roots := webPKI(t)
	url := handle(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if old.Load() {
			w.Write(before)
			return
		}
		handler.ServeHTTP(w, r)
	}), config)
	f := federated(t, Federated{TrustDomain: partner.td, URL: url, Roots: roots})
	if err := partner.PrepareRoot(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.refresh(t.Context(), partner.td); err != nil {
		t.Fatal(err)
	}
	old.Store(true)
	if _, err := f.refresh(t.Context(), partner.td); err == nil || len(f.Bundles()[0].X509Authorities()) != 2 {
		t.Errorf("an older bundle is taken: %v", err)
	}
}

func TestFederationRunsAndWakesTheKeeper(t *testing.T) {
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	config, roots := webPKI(t)
	url := endpoint(t, partner, config)
	f := federated(t, Federated{TrustDomain: partner.td, URL: url, Roots: roots})
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{}), Federation: f}, map[string]string{"a": "z"})
	ready(t, k)
	if len(k.Bundles()) != 1 {
		t.Fatal("a bundle is here before it was fetched")
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	for deadline := time.After(20 * time.Second); len(k.Bundles()) != 2; {
		select {
		case <-k.Changed():
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("the keeper has no federated bundle")
		}
	}
	if _, err := k.GetX509BundleForTrustDomain(partner.td); err != nil || len(k.FederatedX509()) != 1 {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFederationIsChecked(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("partner.test")
	for name, d := range map[string]Federated{
		"no name":      {URL: "https://x"},
		"plain":        {TrustDomain: td, URL: "http://x"},
		"no host":      {TrustDomain: td, URL: "https://"},
		"password":     {TrustDomain: td, URL: "https://a:b@x"},
		"wrong bundle": {TrustDomain: td, URL: "https://x", Initial: bundleOf(t, newAuthority(t, AuthorityOptions{}))},
	} {
		if _, err := NewFederation(t.TempDir(), []Federated{d}, FederationOptions{}); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	dir := filepath.Join(t.TempDir(), "f")
	d := Federated{TrustDomain: td, URL: "https://x"}
	if _, err := NewFederation(dir, []Federated{d, d}, FederationOptions{}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("twice: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bundle-partner.test.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewFederation(dir, []Federated{d}, FederationOptions{}); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a damaged file: %v", err)
	}
	f := federated(t, Federated{TrustDomain: spiffeid.RequireTrustDomainFromString(domain), URL: "https://x"})
	if _, err := NewKeeper(KeeperOptions{TrustDomain: domain, Issuer: newAuthority(t, AuthorityOptions{}), Federation: f}); err == nil {
		t.Error("a trust domain is federated with itself")
	}
}
