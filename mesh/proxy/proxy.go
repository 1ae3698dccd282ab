package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/socket"
	"bulkhead/mesh/tunnel"
)

// Options are what a Proxy needs. Now, Log and Random have defaults: the
// machine's clock, silence, and the kernel's random numbers.
type Options struct {
	Node     string
	Registry *registry.Registry
	Source   identity.Source
	// Sink takes the records and numbers them.
	Sink flow.Sink
	// Outside takes what leads out of the mesh; nil refuses it.
	Outside Outside
	Now     func() time.Time
	Log     *slog.Logger
	Random  io.Reader // of connection ids
}

// Workload is a workload of this node.
type Workload struct {
	Name, Zone string
	Sockets    socket.Maker
}

// Proxy carries the connections of the workloads of a node. Its methods may be
// called from any goroutine.
type Proxy struct {
	o       Options
	records *flow.Folder
	rates   *rates
	probes  *probes
	ends    *slots // of connections, of all workloads together
	// idle ends an association of datagrams.
	idle time.Duration

	world atomic.Pointer[World]

	// placing keeps SetWorld, Add and Remove in order, so that every member
	// has the captures of the world in force.
	placing sync.Mutex
	mu      sync.Mutex // guards members
	members map[string]*member
}

// New returns a Proxy without workloads. Until the first SetWorld and the first
// generation it refuses everything.
func New(o Options) *Proxy {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return &Proxy{
		o:       o,
		records: flow.NewFolder(o.Sink),
		rates:   newRates(),
		probes:  newProbes(o.Now),
		ends:    newEnds(openFiles()),
		idle:    idleAssociation,
		members: map[string]*member{},
	}
}

// SetWorld says where things are. It is called before the registry enforces the
// generation that w is of.
func (p *Proxy) SetWorld(w *World) {
	p.placing.Lock()
	defer p.placing.Unlock()
	w.index()
	p.world.Store(w)
	p.rates.follow(w.Intent)
	for _, m := range p.all() {
		m.locate(w)
		m.captureDatagrams(w.UDP[m.name])
	}
	p.checkIdentities(w)
}

// Add serves a workload until Remove or the end of ctx. It returns when the
// listeners are open.
func (p *Proxy) Add(ctx context.Context, w Workload) error {
	p.placing.Lock()
	defer p.placing.Unlock()
	m, err := newMember(ctx, p, w)
	if err != nil {
		return fmt.Errorf("workload %s: %w", w.Name, err)
	}
	p.mu.Lock()
	if p.members[w.Name] != nil {
		p.mu.Unlock()
		m.close()
		return fmt.Errorf("workload %s is served already: remove it first", w.Name)
	}
	p.members[w.Name] = m
	p.mu.Unlock()
	m.serve()
	if world := p.world.Load(); world != nil {
		m.locate(world)
		m.captureDatagrams(world.UDP[w.Name])
	}
	context.AfterFunc(ctx, func() { p.remove(m) })
	return nil
}

// Remove resets the connections of a workload and closes its listeners. When it
// returns nothing of it runs.
func (p *Proxy) Remove(name string) {
	if m := p.member(name); m != nil {
		p.remove(m)
	}
}

func (p *Proxy) remove(m *member) {
	p.mu.Lock()
	if p.members[m.name] == m {
		delete(p.members, m.name)
	}
	p.mu.Unlock()
	m.close()
}

func (p *Proxy) member(name string) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[name]
}

// all returns the members, in no order.
func (p *Proxy) all() []*member {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*member, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, m)
	}
	return out
}

// ExpectProbe marks the next connection that a workload opens from local as
// probe id. The node says so; a workload cannot.
func (p *Proxy) ExpectProbe(workload string, local netip.AddrPort, id string) {
	p.probes.expect(workload, local, id)
}

// ServeNode serves tunnels from other nodes to the workloads of this one until
// ctx ends.
func (p *Proxy) ServeNode(ctx context.Context, ln net.Listener) error {
	cfg := identity.ServerTLSFor(p.o.Source, func(serverName string) (string, bool) {
		m := p.named(serverName)
		if m == nil {
			return "", false
		}
		return m.name, true
	})
	return tunnel.Serve(ctx, ln, cfg, func(ctx context.Context, in *tunnel.Incoming) {
		p.arrived(ctx, in)
	}, func(remote netip.AddrPort, err error) { p.refuseStranger(remote, flow.Peer{}, err) })
}

// refuseStranger records a tunnel connection without a proven identity.
func (p *Proxy) refuseStranger(remote netip.AddrPort, to flow.Peer, err error) {
	from := flow.Peer{Addr: remote}
	rec := flow.Record{Time: p.o.Now(), Event: flow.Deny, Node: p.o.Node, Side: flow.Destination, Transport: "tcp", Verdict: "deny", To: to,
		Why: "it proves no identity: " + err.Error()}
	if w := p.world.Load(); w != nil {
		rec.Generation = w.Generation
		if at, ok := w.Places[remote.Addr()]; ok {
			from.Workload, from.Zone = at.Workload, at.Zone
		}
	}
	rec.From = from
	p.records.Record(rec)
}

// named returns the member that a server name of a tunnel means.
func (p *Proxy) named(serverName string) *member {
	all := p.all()
	i := slices.IndexFunc(all, func(m *member) bool { return identity.ServerName(m.zone, m.name) == serverName })
	if i < 0 {
		return nil
	}
	return all[i]
}

var errRemoved = errors.New("the workload is being removed")
