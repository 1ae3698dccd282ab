package identity

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Source is what a proxy needs to speak for the workloads of its node and to
// believe those of others. [Keeper] and [Upstream] implement it.
//
// A source with a method Now() time.Time decides what is expired by that clock;
// one with a method FederatedX509() []*x509bundle.Bundle lets servers verify
// clients of these trust domains too.
type Source interface {
	// SVID returns the current certificate of a workload of this node. There is
	// an error if there is none or it is not valid now.
	SVID(workload string) (*x509svid.SVID, error)
	x509bundle.Source
}

// Provider is what the Workload API hands out. [Keeper] and [Upstream]
// implement it.
type Provider interface {
	Source
	// JWT issues a JWT-SVID of a workload.
	JWT(ctx context.Context, workload string, audience []string) (string, error)
	// Bundles returns the bundle of the own trust domain, then those federated
	// with it. There are none before the first was received.
	Bundles() []*spiffebundle.Bundle
	// Changed returns a channel that is closed at the next change of anything
	// above. Ask for it before reading, so that no change is missed.
	Changed() <-chan struct{}
}

// Issuer signs. [Authority] is one in this process; control's client is one
// over the bus.
type Issuer interface {
	// X509 returns a certificate, the leaf first, then intermediates.
	X509(ctx context.Context, r X509Request) ([]*x509.Certificate, error)
	JWT(ctx context.Context, r JWTRequest) (string, error)
	Bundle(ctx context.Context) (*spiffebundle.Bundle, error)
}

// X509Request asks for an X.509-SVID. Whether who asks may have it is decided
// before the issuer sees it.
type X509Request struct {
	Zone, Workload string
	PublicKey      crypto.PublicKey // ECDSA P-256
}

// JWTRequest asks for a JWT-SVID.
type JWTRequest struct {
	Zone, Workload string
	Audience       []string
}

// Attestor says which workload is at the other end of a socket, from facts of
// the kernel alone.
type Attestor interface {
	Attest(conn *net.UnixConn) (workload string, err error)
}

// ErrNoIdentity is the error of a workload that is not of this node, or that is
// quarantined: waiting does not help.
var ErrNoIdentity = errors.New("the workload has no identity here")

// clock returns the clock of a source.
func clock(src Source) func() time.Time {
	if c, ok := src.(interface{ Now() time.Time }); ok {
		return c.Now
	}
	return time.Now
}
