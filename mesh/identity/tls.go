package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Protocol is what both ends of a tunnel must agree to speak (ALPN).
const Protocol = "bulkhead/1"

// ServerName is the name by which a tunnel's client says which workload it
// wants. It is a wish: the server's certificate proves who answers.
func ServerName(zone, workload string) string { return workload + "." + zone }

// nameOf is the [ServerName] of an ID; one that an upstream formed otherwise
// has its path, reversed.
func nameOf(id spiffeid.ID) string {
	if zone, workload, err := Workload(id, id.TrustDomain().Name()); err == nil {
		return ServerName(zone, workload)
	}
	parts := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	slices.Reverse(parts)
	return strings.Join(parts, ".")
}

// ClientTLS returns the configuration of a connection from a workload of this
// node to a peer, which is the only one that it accepts. Certificates and
// bundles are read at each handshake.
//
// The configuration verifies itself, since a SPIFFE certificate has no host
// name to compare: the connection's state has no VerifiedChains, and the peer
// of a connection that stands is the one that was asked for.
func ClientTLS(src Source, workload string, peer spiffeid.ID) *tls.Config {
	now := clock(src)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		Time:       now,
		ServerName: nameOf(peer),
		NextProtos: []string{Protocol},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return certificate(src, workload)
		},
		// VerifyConnection takes its place; it also runs for resumed sessions,
		// of which there are none without a ClientSessionCache.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := checkProtocol(cs); err != nil {
				return err
			}
			id, err := verify(cs.PeerCertificates, src, x509.ExtKeyUsageServerAuth, now())
			if err != nil {
				return err
			}
			if peer.IsZero() || id != peer {
				return fmt.Errorf("the server is %s, not %s", id, peer)
			}
			return nil
		},
	}
}

// ServerTLS returns the configuration of a listener for one workload.
func ServerTLS(src Source, workload string) *tls.Config {
	return ServerTLSFor(src, func(string) (string, bool) { return workload, true })
}

// ServerTLSFor returns the configuration of a listener for several workloads:
// pick says which one a client means by a server name. Whatever it says, the
// name must be that of the workload's certificate.
func ServerTLSFor(src Source, pick func(serverName string) (workload string, ok bool)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		Time:                   clock(src),
		NextProtos:             []string{Protocol},
		SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			workload, ok := pick(hello.ServerName)
			if !ok {
				return nil, fmt.Errorf("no workload here is named %q", hello.ServerName)
			}
			return serverConfig(src, workload, hello.ServerName)
		},
	}
}

// serverConfig is the configuration of one handshake. Crypto/tls verifies the
// chain, so that the state of the connection holds the verified one; the rules
// of SPIFFE are added to it.
func serverConfig(src Source, workload, asked string) (*tls.Config, error) {
	svid, err := src.SVID(workload)
	if err != nil {
		return nil, err
	}
	if name := nameOf(svid.ID); name != asked {
		return nil, fmt.Errorf("the client asks for %q; this is %q", asked, name)
	}
	roots, err := clientRoots(src, svid.ID.TrustDomain())
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		Time:                   clock(src),
		NextProtos:             []string{Protocol},
		SessionTicketsDisabled: true,
		Certificates:           []tls.Certificate{chainOf(svid)},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              roots,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := checkProtocol(cs); err != nil {
				return err
			}
			if len(cs.PeerCertificates) > maxChain {
				return fmt.Errorf("the peer presented %d certificates, more than %d", len(cs.PeerCertificates), maxChain)
			}
			_, err := identify(cs.VerifiedChains, src)
			return err
		},
	}, nil
}

// clientRoots are the authorities of everybody whose identity can be verified.
// That an authority signed for its own trust domain only is checked afterwards.
func clientRoots(src Source, own spiffeid.TrustDomain) (*x509.CertPool, error) {
	bundle, err := src.GetX509BundleForTrustDomain(own)
	if err != nil {
		return nil, err
	}
	roots := pool(bundle.X509Authorities())
	if f, ok := src.(interface{ FederatedX509() []*x509bundle.Bundle }); ok {
		for _, b := range f.FederatedX509() {
			for _, c := range b.X509Authorities() {
				roots.AddCert(c)
			}
		}
	}
	return roots, nil
}

// Peer returns who is at the other end of a connection that a server accepted:
// the leaf of the verified chain. There is an error if nothing was verified.
func Peer(cs tls.ConnectionState) (spiffeid.ID, error) {
	if !cs.HandshakeComplete || len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return spiffeid.ID{}, errors.New("the peer's certificate was not verified")
	}
	return leafID(cs.VerifiedChains[0][0])
}

// checkProtocol refuses a peer that did not say which protocol it speaks;
// crypto/tls refuses only one that named others.
func checkProtocol(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != Protocol {
		return fmt.Errorf("the peer speaks %q, not %q", cs.NegotiatedProtocol, Protocol)
	}
	return nil
}

func certificate(src Source, workload string) (*tls.Certificate, error) {
	svid, err := src.SVID(workload)
	if err != nil {
		return nil, err
	}
	c := chainOf(svid)
	return &c, nil
}

func chainOf(svid *x509svid.SVID) tls.Certificate {
	c := tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, cert := range svid.Certificates {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}
