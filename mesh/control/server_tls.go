package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"time"
)

// busIdentity is the certificate of the embedded bus. It is its own root, and the
// credential of each node holds it: a node therefore finds the bus also after the
// platform's authority has changed all its keys, and with a clock that is wrong.
type busIdentity struct {
	certificate tls.Certificate
	pem         []byte // without the key
}

const busKey = "bus.pem"

// openBusIdentity reads the bus's certificate, or makes it.
func openBusIdentity(v Vault, platform string) (*busIdentity, error) {
	text, err := v.Read(busKey)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newBusIdentity(); err == nil {
			err = v.Write(busKey, text)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate of the bus: %w", err)
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("the certificate of the bus cannot be used: %w", err)
	}
	return &busIdentity{certificate: cert,
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})}, nil
}

// busName is what the certificate proves. It is no name of a network: the
// certificate itself is what nodes know.
const busName = "bus.bulkhead.internal"

func newBusIdentity() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	// It is exchanged by giving out new credentials, never by time.
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "bulkhead bus"}, DNSNames: []string{busName},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}

func (b *busIdentity) config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{b.certificate}, MinVersion: tls.VersionTLS13}
}
