//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"bulkhead/mesh/identity"
)

// trustDomain holds workload "near", the client of the tunnel, and "far".
const trustDomain = "bench.example"

func id(workload string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://" + trustDomain + "/zone/bench/workload/" + workload)
}

// writeCertificates makes an authority, and a file for each half as nginx and
// haproxy read them.
func writeCertificates(ctx context.Context, dir string) error {
	a, err := identity.OpenAuthority(filepath.Join(dir, "ca"), identity.AuthorityOptions{TrustDomain: trustDomain})
	if err != nil {
		return err
	}
	b, err := a.Bundle(ctx)
	if err != nil {
		return err
	}
	roots, err := b.X509Bundle().Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "roots.pem"), roots, 0o600); err != nil {
		return err
	}
	for _, name := range []string{"near", "far"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		certs, err := a.X509(ctx, identity.X509Request{Zone: "bench", Workload: name, PublicKey: key.Public()})
		if err != nil {
			return err
		}
		var out bytes.Buffer
		for _, c := range certs {
			pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name+".pem"), out.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// files is an identity.Source of what writeCertificates wrote.
type files struct {
	svids  map[string]*x509svid.SVID
	bundle *x509bundle.Bundle
}

func readCertificates(dir string) (*files, error) {
	f := &files{svids: map[string]*x509svid.SVID{}}
	for _, name := range []string{"near", "far"} {
		file := filepath.Join(dir, name+".pem")
		s, err := x509svid.Load(file, file)
		if err != nil {
			return nil, err
		}
		f.svids[name] = s
	}
	var err error
	f.bundle, err = x509bundle.Load(spiffeid.RequireTrustDomainFromString(trustDomain), filepath.Join(dir, "roots.pem"))
	return f, err
}

func (f *files) SVID(workload string) (*x509svid.SVID, error) {
	if s := f.svids[workload]; s != nil {
		return s, nil
	}
	return nil, identity.ErrNoIdentity
}

func (f *files) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return f.bundle.GetX509BundleForTrustDomain(td)
}
