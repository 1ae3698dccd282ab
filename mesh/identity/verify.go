package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// maxChain bounds what a peer may make us verify: leaf, and intermediates of a
// deep hierarchy.
const maxChain = 6

// leafID returns the identity that a leaf states, if it may state one. It says
// nothing about who signed it.
func leafID(leaf *x509.Certificate) (spiffeid.ID, error) {
	id, err := x509svid.IDFromCert(leaf)
	switch {
	case err != nil:
		return spiffeid.ID{}, fmt.Errorf("the certificate has not exactly one URI SAN with a SPIFFE ID: %w", err)
	case id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%s has no path: it names a trust domain, not a workload", id)
	case leaf.IsCA:
		return spiffeid.ID{}, fmt.Errorf("the certificate of %s is an authority's, not a workload's", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, fmt.Errorf("the certificate of %s must not sign: it lacks the key usage digitalSignature", id)
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, fmt.Errorf("the certificate of %s has the key usage of an authority", id)
	}
	return id, nil
}

// checkSigner returns an error if a certificate must not sign leaves of a trust
// domain.
func checkSigner(c *x509.Certificate, td spiffeid.TrustDomain) error {
	if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("the signing certificate %q is no authority", c.Subject)
	}
	if len(c.URIs) == 0 {
		return nil
	}
	id, err := x509svid.IDFromCert(c)
	switch {
	case err != nil:
		return fmt.Errorf("the signing certificate %q has no well-formed SPIFFE ID: %w", c.Subject, err)
	case id.Path() != "":
		return fmt.Errorf("the signing certificate of %s names a workload, not a trust domain", id)
	case id.TrustDomain() != td:
		return fmt.Errorf("the signing certificate is of %s, the leaf of %s", id.TrustDomain(), td)
	}
	return nil
}

// identify returns the identity that verified chains prove. All have the same
// leaf. At least one must lead to an authority of the leaf's own trust domain
// over signers that may sign for it.
func identify(chains [][]*x509.Certificate, bundles x509bundle.Source) (spiffeid.ID, error) {
	if len(chains) == 0 || len(chains[0]) == 0 {
		return spiffeid.ID{}, errors.New("there is no verified certificate")
	}
	id, err := leafID(chains[0][0])
	if err != nil {
		return spiffeid.ID{}, err
	}
	bundle, err := bundles.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%s is of a trust domain that is not trusted here: %w", id, err)
	}
	roots := bundle.X509Authorities()
	var refused error
	for _, chain := range chains {
		if err := checkChain(chain, id.TrustDomain(), roots); err != nil {
			refused = err
			continue
		}
		return id, nil
	}
	return spiffeid.ID{}, refused
}

func checkChain(chain []*x509.Certificate, td spiffeid.TrustDomain, roots []*x509.Certificate) error {
	if len(chain) < 2 {
		return errors.New("the certificate is not signed by an authority")
	}
	for _, signer := range chain[1:] {
		if err := checkSigner(signer, td); err != nil {
			return err
		}
	}
	root := chain[len(chain)-1]
	if !slices.ContainsFunc(roots, root.Equal) {
		return fmt.Errorf("the authority %q is none of %s", root.Subject, td)
	}
	return nil
}

// verify returns the identity that presented certificates prove to somebody who
// trusts the bundles, for a use. The first is the one whose key the handshake
// proved; no other gives an identity.
func verify(certs []*x509.Certificate, bundles x509bundle.Source, use x509.ExtKeyUsage, now time.Time) (spiffeid.ID, error) {
	if len(certs) == 0 {
		return spiffeid.ID{}, errors.New("the peer presented no certificate")
	}
	if len(certs) > maxChain {
		return spiffeid.ID{}, fmt.Errorf("the peer presented %d certificates, more than %d", len(certs), maxChain)
	}
	id, err := leafID(certs[0])
	if err != nil {
		return spiffeid.ID{}, err
	}
	bundle, err := bundles.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%s is of a trust domain that is not trusted here: %w", id, err)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots:         pool(bundle.X509Authorities()),
		Intermediates: pool(certs[1:]),
		KeyUsages:     []x509.ExtKeyUsage{use},
		CurrentTime:   now,
	})
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("the certificate of %s is not believed: %w", id, err)
	}
	return identify(chains, bundles)
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
