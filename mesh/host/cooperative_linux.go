package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"

	"bulkhead/mesh/socket"
)

// cooperative gives workloads addresses on loopback where the kernel enforces
// nothing: one on which each serves, and one for each pair by which it reaches
// another. It works within one machine, and on it a pair reaches the ports that
// the destination's member says it serves. Ports below 1024 are an error unless
// the user may listen on them.
type cooperative struct {
	base byte // 127.base.0.0/16

	mu      sync.Mutex // guards the following
	next    uint16
	given   map[[2]string]netip.Addr // by workload and destination; "" is its own
	members map[string]Member
	reaches map[string]map[string]bool
	funnels map[string]*funnel
}

func newCooperative(platform string) *cooperative {
	sum := sha256.Sum256([]byte("bulkhead/cooperative\n" + platform))
	return &cooperative{
		base:    64 + sum[0]%128, // platforms rarely meet, and 127.0 is left alone
		given:   map[[2]string]netip.Addr{},
		members: map[string]Member{},
		funnels: map[string]*funnel{},
	}
}

// give returns the address of a pair, always the same. The zero address means
// that there are no more.
func (c *cooperative) give(from, to string) netip.Addr {
	pair := [2]string{from, to}
	a, ok := c.given[pair]
	if !ok && c.next < 1<<16-2 {
		c.next++
		a = netip.AddrFrom4([4]byte{127, c.base, byte(c.next >> 8), byte(c.next)})
		c.given[pair] = a
	}
	return a
}

func (c *cooperative) own(workload string) netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.members[workload]; !ok {
		return netip.Addr{}
	}
	return c.give(workload, "")
}

func (c *cooperative) address(from, to string) netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.members[to]; !ok {
		return netip.Addr{}
	}
	if from == to {
		return c.give(to, "")
	}
	return c.give(from, to)
}

// workload returns whose mesh address that is.
func (c *cooperative) workload(a netip.Addr) (string, bool) {
	for name, m := range c.members {
		if m.has(a) {
			return name, true
		}
	}
	return "", false
}

func (h *Host) applyCooperative(p Plan) error {
	for _, m := range p.Members {
		if m.CgroupPath != "" {
			return fmt.Errorf("workload %q: a workload cannot be bound by unit or cgroup in cooperative mode; run as root", m.Name)
		}
	}
	members := map[string]*member{}
	for _, m := range p.Members {
		members[m.Name] = &member{Member: m}
	}
	h.mu.Lock()
	h.plan, h.members = p, members
	h.mu.Unlock()
	return h.cooperative.apply(p)
}

// apply closes what no door leads to any more, then opens what is new.
func (c *cooperative) apply(p Plan) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.members)
	for _, m := range p.Members {
		c.members[m.Name] = m
	}
	doors := map[Door]bool{}
	for _, d := range p.Doors {
		doors[d] = true
	}
	c.reaches = map[string]map[string]bool{}
	for _, a := range p.Members {
		c.reaches[a.Name] = map[string]bool{}
		for _, b := range p.Members {
			if a.Name != b.Name && doors[Door{a.Zone, b.Zone}] {
				c.reaches[a.Name][b.Name] = true
			}
		}
	}
	var errs []error
	for from, f := range c.funnels {
		errs = append(errs, f.set(c.destinations(from)))
	}
	return errors.Join(errs...)
}

// maxPorts is how many ports of one destination are listened on.
const maxPorts = 64

// destinations returns where a workload's proxy listens, and what for.
func (c *cooperative) destinations(from string) map[netip.AddrPort]netip.AddrPort {
	out := map[netip.AddrPort]netip.AddrPort{}
	for to := range c.reaches[from] {
		m := c.members[to]
		at, mesh := c.give(from, to), m.addresses()[0]
		if !at.IsValid() {
			continue
		}
		n := 0
		for _, s := range m.Serves {
			for p := int(s.Lo); s.Network == "tcp" && p <= int(s.Hi) && n < maxPorts; p++ {
				out[netip.AddrPortFrom(at, uint16(p))] = netip.AddrPortFrom(mesh, uint16(p))
				n++
			}
		}
	}
	return out
}

func (c *cooperative) close() {
	c.mu.Lock()
	funnels := maps.Clone(c.funnels)
	c.mu.Unlock()
	for _, f := range funnels {
		f.Close()
	}
}

// cooperativeSockets is the sockets of a workload that nothing holds.
type cooperativeSockets struct {
	c    *cooperative
	name string
}

func (s cooperativeSockets) Capture() ([]socket.Capture, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if old := s.c.funnels[s.name]; old != nil {
		old.Close()
	}
	f := newFunnel(s.c.give(s.name, ""))
	if err := f.set(s.c.destinations(s.name)); err != nil {
		f.Close()
		return nil, fmt.Errorf("workload %q: %w", s.name, err)
	}
	s.c.funnels[s.name] = f
	return []socket.Capture{{Listener: f, Original: f.original}}, nil
}

func (s cooperativeSockets) Tunnel() ([]net.Listener, error) {
	l, err := listenConfig(false).Listen(context.Background(), "tcp", netip.AddrPortFrom(s.c.own(s.name), TunnelPort).String())
	if err != nil {
		return nil, fmt.Errorf("workload %q: %w", s.name, err)
	}
	return []net.Listener{l}, nil
}

func (s cooperativeSockets) DialPeer(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	s.c.mu.Lock()
	if peer, ok := s.c.workload(to.Addr()); ok {
		to = netip.AddrPortFrom(s.c.give(peer, ""), to.Port())
	}
	s.c.mu.Unlock()
	d := net.Dialer{}
	return d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
}

func (s cooperativeSockets) DialOwn(ctx context.Context, port uint16) (*net.TCPConn, error) {
	return dialOwn(port, []netip.Addr{s.c.own(s.name)}, func(to netip.AddrPort) (*net.TCPConn, error) {
		d := net.Dialer{KeepAlive: -1}
		return d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	})
}

// CaptureUDP listens where the workload reaches the destination, since nothing
// redirects its datagrams.
func (s cooperativeSockets) CaptureUDP(local uint16) (*net.UDPConn, error) {
	at, err := s.captureAddress(local)
	if err != nil {
		return nil, err
	}
	c, err := listenConfig(false).ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, fmt.Errorf("workload %q: %w", s.name, err)
	}
	return c.(*net.UDPConn), nil
}

func (s cooperativeSockets) captureAddress(local uint16) (netip.AddrPort, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for _, u := range s.c.members[s.name].UDP {
		if to, ok := s.c.workload(u.To.Addr()); ok && u.Local == local {
			return netip.AddrPortFrom(s.c.give(s.name, to), u.To.Port()), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("the plan in force captures no datagrams of workload %q at port %d", s.name, local)
}

func (s cooperativeSockets) DialOwnUDP(ctx context.Context, port uint16) (*net.UDPConn, error) {
	d := net.Dialer{}
	return d.DialUDP(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(s.c.own(s.name), port))
}
