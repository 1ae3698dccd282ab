package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Lifetimes. A certificate begins a little before it was made, so that a peer
// whose clock is behind believes it.
const (
	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 90 * 24 * time.Hour
	leafLife         = time.Hour
	jwtLife          = 5 * time.Minute
	jwtKeyLife       = 7 * 24 * time.Hour
	skew             = time.Minute
)

// signer is an authority's certificate and its key.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// keyID names a public key.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:16]), nil
}

func newRoot(td spiffeid.TrustDomain, now time.Time) (signer, error) {
	key, err := newKey()
	if err != nil {
		return signer{}, err
	}
	return sign(authorityTemplate(td, "root", 1, now.Add(rootLife), now), signer{key: key}, key)
}

func newIntermediate(td spiffeid.TrustDomain, root signer, now time.Time) (signer, error) {
	key, err := newKey()
	if err != nil {
		return signer{}, err
	}
	return sign(authorityTemplate(td, "intermediate", 0, now.Add(intermediateLife), now), root, key)
}

// authorityTemplate names the trust domain and no path, as the standard wants it
// of a signing certificate.
func authorityTemplate(td spiffeid.TrustDomain, name string, below int, end, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: "bulkhead " + name},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-skew),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            below,
		MaxPathLenZero:        below == 0,
	}
}

// newLeaf signs an X.509-SVID. It has no subject, so that the SAN is critical
// and nothing else can be taken for a name.
func newLeaf(id spiffeid.ID, key crypto.PublicKey, by signer, life time.Duration, now time.Time) (*x509.Certificate, error) {
	if k, ok := key.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("the public key of a certificate request must be ECDSA P-256")
	}
	template := &x509.Certificate{
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	return signPublic(template, by, key)
}

// sign makes an authority's certificate; by without a certificate signs itself.
func sign(template *x509.Certificate, by signer, key *ecdsa.PrivateKey) (signer, error) {
	cert, err := signPublic(template, by, &key.PublicKey)
	return signer{cert, key}, err
}

func signPublic(template *x509.Certificate, by signer, key crypto.PublicKey) (*x509.Certificate, error) {
	parent := by.cert
	if parent == nil {
		parent = template
	} else if template.NotAfter.After(parent.NotAfter) {
		// Nothing outlives what signed it.
		template.NotAfter = parent.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func valid(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}
