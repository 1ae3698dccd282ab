//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// originName is what requests ask for; only the proxies' hosts files know it.
	originName = "origin.bench.internal"
	// workload is who the client is, in its certificate and in the policy.
	workload = "client"
)

// keys are an authority, a certificate for whatever serves and one for the client.
type keys struct {
	roots          *x509.CertPool
	client, server tls.Certificate
	// files, as the proxies and the origin read them
	ca, cert, key string
}

func newKeys(dir string) (*keys, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	caDER, ca, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, caKey, caKey)
	if err != nil {
		return nil, err
	}
	k := &keys{roots: x509.NewCertPool(), ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "server.pem"), key: filepath.Join(dir, "server.key")}
	k.roots.AddCert(ca)
	leaf := func(t *x509.Certificate) (tls.Certificate, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return tls.Certificate{}, err
		}
		t.KeyUsage = x509.KeyUsageDigitalSignature
		der, cert, err := sign(t, ca, key, caKey)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, err
	}
	var err1, err2 error
	k.server, err1 = leaf(&x509.Certificate{
		Subject: pkix.Name{CommonName: originName}, DNSNames: []string{originName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	k.client, err2 = leaf(&x509.Certificate{Subject: pkix.Name{CommonName: workload}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k.server.PrivateKey)
	if err != nil {
		return nil, err
	}
	return k, errors.Join(
		writePEM(k.ca, "CERTIFICATE", caDER),
		writePEM(k.cert, "CERTIFICATE", k.server.Certificate[0]),
		writePEM(k.key, "PRIVATE KEY", keyDER))
}

// sign makes a certificate; without an issuer it is its own.
func sign(t, issuer *x509.Certificate, key, by *ecdsa.PrivateKey) ([]byte, *x509.Certificate, error) {
	t.SerialNumber = big.NewInt(time.Now().UnixNano())
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if issuer == nil {
		issuer = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, key.Public(), by)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(der)
	return der, c, err
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// proxy is the client's configuration towards a proxy. It has no cache of
// sessions, so that each handshake is a full one.
func (k *keys) proxy() *tls.Config {
	return &tls.Config{RootCAs: k.roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{k.client}, MinVersion: tls.VersionTLS13}
}

// origin is the client's configuration towards the origin.
func (k *keys) origin() *tls.Config {
	return &tls.Config{RootCAs: k.roots, ServerName: originName, MinVersion: tls.VersionTLS13}
}
