package probe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Credential says which certificate an attacker presents.
type Credential string

// The credentials.
const (
	// None is no certificate at all.
	None Credential = "none"
	// Own is the workload's own certificate; OldTLS is the same, in TLS 1.2.
	Own    Credential = "own"
	OldTLS Credential = "own-old-tls"
	// SelfMade is signed by an authority that the attacker made, for a claimed
	// identity; Expired is the same, and has expired.
	SelfMade Credential = "self-made"
	Expired  Credential = "expired"
	// OtherDomain is signed by the attacker's authority for its own trust domain.
	OtherDomain Credential = "other-domain"
	// Forged claims an identity, is signed with the key of the own certificate,
	// and comes with the own chain.
	Forged Credential = "forged"
)

// attackerDomain is the trust domain of an attacker.
const attackerDomain = "attacker.example"

var errNoCertificate = errors.New("the workload has no certificate")

// make returns the certificate, nil for none. Own is the attacker's own, nil if
// it has none.
func (c Credential) make(own *x509svid.SVID, claim string) (*tls.Certificate, error) {
	switch c {
	case None:
		return nil, nil
	case Own, OldTLS:
		if own == nil {
			return nil, errNoCertificate
		}
		return chainOf(own), nil
	}
	id, err := spiffeid.FromString(claim)
	if err != nil {
		return nil, fmt.Errorf("the claimed identity: %w", err)
	}
	now := time.Now()
	switch c {
	case Expired:
		return selfSigned(id, now.Add(-2*time.Hour), now.Add(-time.Hour))
	case OtherDomain:
		td, err := spiffeid.TrustDomainFromString(attackerDomain)
		if err != nil {
			return nil, err
		}
		if id, err = spiffeid.FromPath(td, id.Path()); err != nil {
			return nil, err
		}
		return selfSigned(id, now.Add(-time.Minute), now.Add(time.Hour))
	case SelfMade:
		return selfSigned(id, now.Add(-time.Minute), now.Add(time.Hour))
	case Forged:
		if own == nil {
			return nil, errNoCertificate
		}
		return forge(own, id, now)
	}
	return nil, fmt.Errorf("there is no credential %.40q", string(c))
}

func chainOf(svid *x509svid.SVID) *tls.Certificate {
	out := &tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// selfSigned makes an authority and a leaf that it signs.
func selfSigned(id spiffeid.ID, from, until time.Time) (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	authority := template(id.TrustDomain().ID(), from, until)
	authority.IsCA, authority.ExtKeyUsage = true, nil
	authority.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	leaf, leafKey, err := leafBy(template(id, from, until), authority, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf, der}, PrivateKey: leafKey}, nil
}

// forge makes a leaf below a certificate that may sign none.
func forge(own *x509svid.SVID, id spiffeid.ID, now time.Time) (*tls.Certificate, error) {
	leaf, key, err := leafBy(template(id, now.Add(-time.Minute), now.Add(time.Hour)), own.Certificates[0], own.PrivateKey)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: append([][]byte{leaf}, chainOf(own).Certificate...), PrivateKey: key}, nil
}

func leafBy(t, parent *x509.Certificate, by any) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, by)
	return der, key, err
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func template(id spiffeid.ID, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: from, NotAfter: until,
		URIs: []*url.URL{id.URL()}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}
