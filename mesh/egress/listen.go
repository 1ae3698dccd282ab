package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/flow"
)

// Door is a listener of a gateway that stands alone: it says who its clients are.
type Door struct {
	Listener net.Listener
	// TLS is the configuration towards clients, nil for plaintext. Where it asks
	// for a certificate, Certified says whom it stands for.
	TLS       *tls.Config
	Certified func(*x509.Certificate) (Client, error)
	// Networks are the clients that are known by their address, the longest prefix
	// first. A client with a certificate is known by that alone.
	Networks []Network
	// Balancers are from where a connection begins with a header of the PROXY
	// protocol, which says the address of the client.
	Balancers []netip.Prefix
	// Captured says that connections come from clients that know of no proxy, and
	// where they wanted to go.
	Captured func(net.Conn) (netip.AddrPort, error)
}

// Network is a client by its addresses.
type Network struct {
	Prefix netip.Prefix
	Client Client
}

const (
	// greetingTime bounds a TLS handshake, and the header of the PROXY protocol.
	greetingTime = 10 * time.Second
	// maxStrangers is how many connections may be without an identity at once.
	maxStrangers = 4096
)

// Serve serves the clients of a door until ctx ends. What is open then goes on
// until Drain ends it. When it returns the listener is closed.
func (g *Gateway) Serve(ctx context.Context, d Door) error {
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, func() { _ = d.Listener.Close() })
	defer stop()
	strangers := make(chan struct{}, maxStrangers)
	open := context.WithoutCancel(ctx)
	pause := time.Duration(0)
	for {
		conn, err := d.Listener.Accept()
		switch {
		case err == nil:
			pause = 0
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors or memory: others must end first
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			g.o.Log.Warn("a connection was not accepted", "err", err)
			time.Sleep(pause)
			continue
		}
		select {
		case strangers <- struct{}{}:
		default:
			g.stranger(conn, "too many clients have not said yet who they are")
			continue
		}
		running.Go(func() {
			conn, c, err := d.meet(conn)
			<-strangers
			if err != nil {
				g.stranger(conn, err.Error())
				return
			}
			g.welcome(open, d, conn, c)
		})
	}
}

// welcome serves a client that is known.
func (g *Gateway) welcome(ctx context.Context, d Door, conn net.Conn, c Client) {
	if d.Captured != nil {
		to, err := d.Captured(conn)
		if err != nil {
			g.stranger(conn, "where it wanted to go is unknown: "+err.Error())
			return
		}
		g.ServeCaptured(ctx, conn, c, to)
		return
	}
	if over, ok := conn.(*tls.Conn); ok && over.ConnectionState().NegotiatedProtocol == "h2" {
		s := g.begin(ctx, c, func() { resetConn(conn) })
		if s == nil {
			g.tooMany(conn, c)
			return
		}
		defer s.end()
		s.serveHTTP2(conn)
		_ = conn.Close()
		return
	}
	g.ServeProxy(ctx, conn, c)
}

// stranger refuses a connection of which nobody knows who it is.
func (g *Gateway) stranger(conn net.Conn, why string) {
	g.counters.denied.Add(1)
	g.o.Sink.Record(flow.Record{Time: g.o.Now(), Event: flow.Deny, Node: g.o.Node, Side: flow.Gateway, From: flow.Peer{Addr: remote(conn)},
		Transport: "tcp", Verdict: "deny", Generation: g.generation(), Why: why})
	resetConn(conn)
}

func remote(conn net.Conn) netip.AddrPort {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// meet finds out who a client is. It returns the connection to go on with.
func (d *Door) meet(conn net.Conn) (net.Conn, Client, error) {
	from := remote(conn)
	_ = conn.SetDeadline(time.Now().Add(greetingTime))
	for _, b := range d.Balancers {
		if !b.Contains(from.Addr()) {
			continue
		}
		said, err := readProxyHeader(conn)
		if err != nil {
			return conn, Client{}, fmt.Errorf("the balancer at %s: %w", from.Addr(), err)
		}
		if said.IsValid() {
			from = said
		}
		break
	}
	c, err := Client{}, error(nil)
	if d.TLS != nil {
		over := tls.Server(conn, d.TLS)
		if err := over.Handshake(); err != nil {
			return conn, Client{}, fmt.Errorf("it proves no identity: %w", err)
		}
		conn = over
		if certs := over.ConnectionState().PeerCertificates; len(certs) > 0 {
			if len(over.ConnectionState().VerifiedChains) == 0 {
				return conn, Client{}, errors.New("its certificate was not verified")
			}
			c, err = d.Certified(certs[0])
			c.Wire = "mtls"
		} else {
			c, err = d.network(from.Addr())
			c.Wire = "tls"
		}
	} else {
		c, err = d.network(from.Addr())
		c.Wire = "plaintext"
	}
	if err != nil {
		return conn, Client{}, err
	}
	c.Peer.Addr = from
	return conn, c, conn.SetDeadline(time.Time{})
}

func (d *Door) network(addr netip.Addr) (Client, error) {
	best := -1
	for i, n := range d.Networks {
		if n.Prefix.Contains(addr) && (best < 0 || n.Prefix.Bits() > d.Networks[best].Prefix.Bits()) {
			best = i
		}
	}
	if best < 0 {
		return Client{}, fmt.Errorf("nobody is known at %s", addr)
	}
	return d.Networks[best].Client, nil
}

// Known returns the client that a workload of the policy is.
func Known(in *policy.Intent, name string) (Client, error) {
	w := in.Workload(name)
	if w == nil {
		return Client{}, fmt.Errorf("the policy has no workload %q", name)
	}
	return Client{Party: policy.Party{Kind: policy.WorkloadParty, Name: name},
		Peer: flow.Peer{Workload: name, Zone: w.Zone.Value}}, nil
}

// Name returns the workload that is known at an address, empty for nobody.
func (d *Door) Name(addr netip.Addr) string {
	c, err := d.network(addr.Unmap())
	if err != nil {
		return ""
	}
	return c.Party.Name
}
