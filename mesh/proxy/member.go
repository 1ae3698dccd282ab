package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/socket"
	"bulkhead/mesh/tunnel"
)

// Limits of what one workload has open. They bound what a workload that attacks
// costs its node; no honest one comes near.
const (
	// maxOpened are connections that a workload opened.
	maxOpened = 1 << 14
	// maxArrived are connections to a workload from any one other: half of what
	// its tunnel carries, so that none shuts out the rest.
	maxArrived = 1 << 13
	// maxExposed are connections from outside to a workload.
	maxExposed = 1 << 14
	// maxAssociations are the clients of datagrams of a workload, and those of
	// any one source at a destination.
	maxAssociations = 1 << 12
)

// openTimeout bounds how long a connection may take to come about. Nothing
// bounds how long it stays.
const openTimeout = 15 * time.Second

// member is a workload of this node, and everything that runs for it.
type member struct {
	p          *Proxy
	name, zone string
	sockets    socket.Maker
	pool       *tunnel.Pool
	captures   []socket.Capture
	tunnels    []net.Listener

	ctx    context.Context // ends when the workload is removed
	cancel context.CancelFunc

	// home is its address in the mesh, for records; nil before a world has it.
	home atomic.Pointer[netip.Addr]

	// opened, arrived and exposed count connections; associations those of
	// datagrams on both ends.
	opened, arrived, exposed, associations *slots

	mu        sync.Mutex // guards the following
	closed    bool
	live      map[*connection]struct{}
	datagrams map[UDPCapture]*datagramCapture
	running   sync.WaitGroup
}

// newMember opens the listeners of a workload.
func newMember(ctx context.Context, p *Proxy, w Workload) (*member, error) {
	m := &member{p: p, name: w.Name, zone: w.Zone, sockets: w.Sockets,
		live: map[*connection]struct{}{}, datagrams: map[UDPCapture]*datagramCapture{},
		opened: p.ends.part(maxOpened), arrived: p.ends.part(maxArrived), exposed: p.ends.part(maxExposed),
		associations: p.ends.part(maxAssociations)}
	m.ctx, m.cancel = context.WithCancel(ctx)
	m.pool = tunnel.NewPool(tunnel.PoolOptions{
		TLS:  func(peer spiffeid.ID) *tls.Config { return identity.ClientTLS(p.o.Source, m.name, peer) },
		Dial: m.dialTunnel,
		Leaf: m.leaf,
		Now:  p.o.Now,
	})
	var err error
	if m.captures, err = w.Sockets.Capture(); err == nil {
		m.tunnels, err = w.Sockets.Tunnel()
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// leaf returns the certificate that the member has now.
func (m *member) leaf() (*x509.Certificate, error) {
	svid, err := m.p.o.Source.SVID(m.name)
	if err != nil {
		return nil, err
	}
	return svid.Certificates[0], nil
}

// dialTunnel dials the proxy of a workload in its namespace, or that of another
// node, which is reached from the host's own network.
func (m *member) dialTunnel(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if w := m.p.world.Load(); w != nil {
		if _, here := w.Places[to.Addr()]; here {
			return m.sockets.DialPeer(ctx, to)
		}
	}
	return (&net.Dialer{Timeout: openTimeout}).DialContext(ctx, "tcp", to.String())
}

// serve starts what serves the listeners.
func (m *member) serve() {
	for _, l := range m.captures {
		m.run(func() {
			m.accept(m.ctx, l, m.opened, m.refuseCaptured, func(conn net.Conn) { m.captured(l, conn) })
		})
	}
	cfg := identity.ServerTLS(m.p.o.Source, m.name)
	for _, l := range m.tunnels {
		m.run(func() {
			err := tunnel.Serve(m.ctx, l, cfg, func(ctx context.Context, in *tunnel.Incoming) { m.incoming(ctx, in) }, m.unproven)
			if err != nil && m.ctx.Err() == nil {
				m.p.o.Log.Error("a workload takes no more tunnels", "workload", m.name, "err", err)
			}
		})
	}
}

// unproven records a connection to the tunnel port that proved no identity. The
// source is whose address it is, which the fabric checks; no certificate says so.
func (m *member) unproven(remote netip.AddrPort, err error) {
	m.p.refuseStranger(remote, flow.Peer{Workload: m.name, Zone: m.zone}, err)
}

// run starts f unless the member is closed, and reports whether it did.
func (m *member) run(f func()) bool {
	if !m.enter() {
		return false
	}
	go func() {
		defer m.running.Done()
		f()
	}()
	return true
}

// enter counts the caller as running. The caller must call running.Done if it
// returns true.
func (m *member) enter() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.running.Add(1)
	return true
}

// track makes c one of the connections that end with the member.
func (m *member) track(c *connection) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.live[c] = struct{}{}
	return true
}

func (m *member) untrack(c *connection) {
	m.mu.Lock()
	delete(m.live, c)
	m.mu.Unlock()
}

func (m *member) connections() []*connection {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*connection, 0, len(m.live))
	for c := range m.live {
		out = append(out, c)
	}
	return out
}

// locate remembers where the member is.
func (m *member) locate(w *World) {
	if home := w.homes[m.name]; home != nil {
		m.home.Store(home)
	}
}

// asServer is the member as the end that serves a port.
func (m *member) asServer(port uint16) flow.Peer {
	p := flow.Peer{Workload: m.name, Zone: m.zone}
	if home := m.home.Load(); home != nil {
		p.Addr = netip.AddrPortFrom(*home, port)
	}
	return p
}

// close ends everything of the member, and returns when it has ended. It may be
// called more than once.
func (m *member) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	for _, l := range m.captures {
		_ = l.Close() // nothing is lost with a listener
	}
	for _, l := range m.tunnels {
		_ = l.Close()
	}
	m.captureDatagrams(nil)
	for _, c := range m.connections() {
		c.life.Sever(errRemoved.Error())
	}
	_ = m.pool.Close() // its connections are of no use any more
	m.running.Wait()
}

// accept serves the connections of a listener, each in a goroutine, until it is
// closed or ctx ends. What is beyond the limit goes to refuse.
func (m *member) accept(ctx context.Context, l net.Listener, held *slots, refuse, serve func(net.Conn)) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors or memory: others must end first
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			m.p.o.Log.Warn("a workload's connection was not accepted", "workload", m.name, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		if !held.take("") {
			refuse(conn)
			continue
		}
		if !m.run(func() {
			defer held.give("")
			serve(conn)
		}) {
			held.give("")
			resetConn(conn)
		}
	}
}
