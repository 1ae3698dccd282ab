package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nats-io/nkeys"
)

// NewCredential lets a node join, or replaces its credential: the one before stops
// working. Tunnel is where other nodes reach its proxies, zero if none do. Bus says
// where the node finds the bus; on the embedded one an empty list of addresses
// means the one on which it listens, if it is one, and the rest is filled in.
func (c *Control) NewCredential(ctx context.Context, node string, tunnel netip.AddrPort, bus Access) (*Credential, error) {
	if _, err := token(node); err != nil {
		return nil, fmt.Errorf("node %w", err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	e := entry{Name: node, Tunnel: tunnel, Key: public}
	if s := c.o.Bus.embedded; s != nil {
		if bus, e.BusKey, err = s.admit(bus); err != nil {
			return nil, err
		}
	}
	bundle, err := c.o.Authority.Bundle(ctx)
	if err != nil {
		return nil, fmt.Errorf("the trust bundle for node %s: %w", node, err)
	}
	cred := &Credential{Version: credentialVersion, Platform: c.o.Platform, TrustDomain: c.o.TrustDomain, Node: node,
		Control: c.public(), Seed: private.Seed(), Bus: bus, After: c.Number()}
	if cred.Bundle, err = bundle.Marshal(); err != nil {
		return nil, err
	}
	if err := c.o.Roster.put(e); err != nil {
		return nil, fmt.Errorf("node %s cannot be let in: %w", node, err)
	}
	return cred, c.nodesChanged()
}

// Expel takes a node out: its credential stops working and its connections to the
// embedded bus end. What it enforces it goes on enforcing; quarantine its workloads
// too if they must be cut off.
func (c *Control) Expel(node string) error {
	e, err := c.o.Roster.remove(node)
	if err != nil {
		return err
	}
	c.nodes.forget(node)
	if s := c.o.Bus.embedded; s != nil {
		err = s.expel(e.BusKey)
	}
	return errors.Join(err, c.nodesChanged())
}

// admit makes the key of a new client of the embedded bus.
func (s *Server) admit(bus Access) (Access, string, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return bus, "", err
	}
	seed, err := pair.Seed()
	if err != nil {
		return bus, "", err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return bus, "", err
	}
	bus.Seed, bus.Credentials = string(seed), ""
	if s.tls != nil {
		bus.Roots, bus.Name = string(s.tls.pem), busName
		at, err := netip.ParseAddrPort(s.Addr())
		if len(bus.URLs) == 0 && err == nil && !at.Addr().IsUnspecified() {
			bus.URLs = []string{"tls://" + s.Addr()}
		}
	}
	return bus, public, nil
}
