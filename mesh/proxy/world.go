package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
)

// World is what a generation says about where things are. It is read only
// once a proxy has it.
type World struct {
	TrustDomain string
	Intent      *policy.Intent
	Generation  uint64
	// Places are the addresses of the mesh.
	Places map[netip.Addr]Place
	// UDP are the captures of datagrams, by source workload.
	UDP map[string][]UDPCapture
	// Gateway are the addresses of the egress gateway and the resolver; Proxies
	// further places at which the gateway is, as the workload that it is.
	Gateway map[netip.Addr]bool
	Proxies map[netip.AddrPort]bool
	// Endpoints are the private endpoints by their addresses.
	Endpoints map[netip.Addr]Endpoint

	homes map[string]*netip.Addr // Places by workload; set by SetWorld
}

// index makes homes: the IPv4 address of each workload.
func (w *World) index() {
	if w.homes != nil {
		return
	}
	w.homes = make(map[string]*netip.Addr, len(w.Places)/2)
	for addr, place := range w.Places {
		if addr.Is4() {
			w.homes[place.Workload] = &addr
		}
	}
}

// Endpoint is a private endpoint. It exists for its consumers alone.
type Endpoint struct {
	Name      string
	Consumers map[string]bool
	// Workload is where one to a service of the platform leads, empty for
	// something outside.
	Workload string
}

// The ports of the gateway's address.
const (
	// ProxyPort takes requests to a forward proxy.
	ProxyPort    = 3128
	resolverPort = 53
)

// Outside is where what leads out of the mesh goes. Its methods decide, record,
// serve and close what they are given.
type Outside interface {
	// Proxied serves a connection that speaks to a forward proxy, Captured one
	// that wanted to go to an address, Private one to a private endpoint that
	// leads outside.
	Proxied(ctx context.Context, conn net.Conn, from flow.Peer, probe string)
	Captured(ctx context.Context, conn net.Conn, from flow.Peer, probe string, to netip.AddrPort)
	Private(ctx context.Context, conn net.Conn, from flow.Peer, probe, endpoint string, port uint16)
	// Resolve serves a connection to the resolver; Answer answers one datagram, nil
	// for none.
	Resolve(ctx context.Context, conn net.Conn, from flow.Peer)
	Answer(ctx context.Context, query []byte, from flow.Peer) []byte
}

// Place is what is at an address of the mesh.
type Place struct {
	Workload, Zone string
	// Tunnel is where its tunnel listens: port 15008 of its own address, or its
	// node's. It is zero for a workload that runs nowhere.
	Tunnel netip.AddrPort
}

// UDPCapture says that datagrams to To arrive at port Local of loopback.
type UDPCapture struct {
	To    netip.AddrPort
	Local uint16
}

// The ports of the data plane in a workload's namespace. No server of a
// workload is reached at them: the proxy would speak to itself.
const (
	capturePort = 15001
	tunnelPort  = 15008
)

func reserved(port uint16) bool { return port == 0 || port == capturePort || port == tunnelPort }

// prove says whose certificate the other end has shown. It returns why the policy
// does not know it, empty if it does: names alone are decided, and a workload that
// moved to another zone is another one.
func (c *connection) prove(peer flow.Peer) string {
	c.proven.Store(&peer) // before the world is read: see checkIdentities
	return c.m.p.world.Load().knows(peer)
}

// knows returns why the policy does not know an identity, empty if it does.
func (w *World) knows(peer flow.Peer) string {
	switch known := w.Intent.Workload(peer.Workload); {
	case known == nil:
		return fmt.Sprintf("its identity is %s, and generation %d has no workload %s", peer.ID, w.Generation, peer.Workload)
	case known.Zone.Value != peer.Zone:
		return fmt.Sprintf("its identity is %s, and generation %d has %s in zone %s", peer.ID, w.Generation, peer.Workload, known.Zone.Value)
	}
	return ""
}

// checkIdentities cuts connections whose other end has proven an identity that w
// does not know. A connection that proves its own later reads w, which is stored.
func (p *Proxy) checkIdentities(w *World) {
	for _, m := range p.all() {
		for _, c := range m.connections() {
			if peer := c.proven.Load(); peer != nil {
				if why := w.knows(*peer); why != "" {
					c.life.Sever(why)
				}
			}
		}
	}
}
