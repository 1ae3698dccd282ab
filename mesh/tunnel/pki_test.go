package tunnel

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"bulkhead/mesh/identity"
)

// platform is a trust domain whose authority signs for every workload of zone
// "z".
type platform struct {
	authority *identity.Authority
	bundle    *x509bundle.Bundle

	mu    sync.Mutex // guards svids
	svids map[string]*x509svid.SVID
}

var _ identity.Source = (*platform)(nil)

func newPlatform(t testing.TB) *platform {
	t.Helper()
	a, err := identity.OpenAuthority(filepath.Join(t.TempDir(), "ca"), identity.AuthorityOptions{TrustDomain: "test.example"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.Bundle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &platform{authority: a, bundle: b.X509Bundle(), svids: map[string]*x509svid.SVID{}}
}

func id(workload string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://test.example/zone/z/workload/" + workload)
}

func (p *platform) SVID(workload string) (*x509svid.SVID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.svids[workload]; s != nil {
		return s, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certs, err := p.authority.X509(context.Background(), identity.X509Request{Zone: "z", Workload: workload, PublicKey: key.Public()})
	if err != nil {
		return nil, err
	}
	s := &x509svid.SVID{ID: id(workload), Certificates: certs, PrivateKey: crypto.Signer(key)}
	p.svids[workload] = s
	return s, nil
}

// renew makes the next SVID of a workload another one.
func (p *platform) renew(workload string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.svids, workload)
}

func (p *platform) leaf(workload string) (*x509.Certificate, error) {
	s, err := p.SVID(workload)
	if err != nil {
		return nil, err
	}
	return s.Certificates[0], nil
}

func (p *platform) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != p.bundle.TrustDomain() {
		return nil, fmt.Errorf("no bundle of %s", td)
	}
	return p.bundle, nil
}
