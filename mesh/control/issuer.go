package control

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"bulkhead/mesh/identity"
)

var _ identity.Issuer = (*Client)(nil)

// ask asks control something that it answers to this client alone.
func (c *Client) ask(ctx context.Context, kind string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	key, err := kem().GenerateKey()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	m := c.message(kind, text)
	m.Reply = key.PublicKey().Bytes()
	data, err := sign(messageContext, m, c.key)
	if err != nil {
		return nil, err
	}
	msg, err := c.o.Bus.nc.RequestWithContext(ctx, c.n.requests+c.node, data)
	if err != nil {
		return nil, fmt.Errorf("control does not answer: %w", err)
	}
	r, err := openReply(msg.Data, c.o.Credential.Control)
	if err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(r.Nonce, m.Nonce):
		return nil, errors.New("an answer is to another question")
	case r.Denied:
		return nil, fmt.Errorf("%w: control: %s", identity.ErrNoIdentity, r.Error)
	case r.Error != "":
		return nil, fmt.Errorf("control: %s", r.Error)
	}
	return openSealed(key, m.Nonce, r.Sealed)
}

// X509 asks control for a certificate.
func (c *Client) X509(ctx context.Context, r identity.X509Request) ([]*x509.Certificate, error) {
	public, err := x509.MarshalPKIXPublicKey(r.PublicKey)
	if err != nil {
		return nil, err
	}
	plain, err := c.ask(ctx, kindX509, x509Body{Zone: r.Zone, Workload: r.Workload, PublicKey: public})
	if err != nil {
		return nil, err
	}
	var a x509Answer
	if err := json.Unmarshal(plain, &a); err != nil {
		return nil, fmt.Errorf("the certificates cannot be read: %w", err)
	}
	var chain []*x509.Certificate
	for _, der := range a.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("a certificate cannot be read: %w", err)
		}
		chain = append(chain, cert)
	}
	return chain, c.checkLeaf(chain, r)
}

// checkLeaf checks that a certificate is the one that was asked for.
func (c *Client) checkLeaf(chain []*x509.Certificate, r identity.X509Request) error {
	if len(chain) == 0 {
		return errors.New("control sent no certificate")
	}
	id, err := identity.ID(c.o.Credential.TrustDomain, r.Zone, r.Workload)
	if err != nil {
		return err
	}
	leaf := chain[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id.String() {
		return fmt.Errorf("control sent a certificate that is not for %s", id)
	}
	if key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(r.PublicKey) {
		return fmt.Errorf("control sent a certificate of %s with another key", id)
	}
	return nil
}

// JWT asks control for a token.
func (c *Client) JWT(ctx context.Context, r identity.JWTRequest) (string, error) {
	plain, err := c.ask(ctx, kindJWT, jwtBody{Zone: r.Zone, Workload: r.Workload, Audience: r.Audience})
	if err != nil {
		return "", err
	}
	var a jwtAnswer
	if err := json.Unmarshal(plain, &a); err != nil {
		return "", fmt.Errorf("the token cannot be read: %w", err)
	}
	return a.Token, nil
}

// Bundle asks control for the trust bundle.
func (c *Client) Bundle(ctx context.Context) (*spiffebundle.Bundle, error) {
	plain, err := c.ask(ctx, kindBundle, struct{}{})
	if err != nil {
		return nil, err
	}
	return c.parseBundle(plain)
}

// FirstBundle returns the trust bundle of the credential: what a node believes
// before control answered.
func (c *Client) FirstBundle() (*spiffebundle.Bundle, error) {
	return c.parseBundle(c.o.Credential.Bundle)
}

func (c *Client) parseBundle(text []byte) (*spiffebundle.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(c.o.Credential.TrustDomain)
	if err != nil {
		return nil, err
	}
	return spiffebundle.Parse(td, text)
}
