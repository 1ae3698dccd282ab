// Package node is a running node: it takes generations from control, puts them in
// force, keeps the workloads of this machine running inside them, and answers on
// the admin socket.
//
// It promises the order in which things happen. What a generation takes away is
// gone before the generation is confirmed; what it adds comes after. A generation
// that cannot be read changes nothing, and without one nothing is allowed.
//
// What is dangerous: whoever can write to the admin socket commands the platform.
// It belongs to the user who started the node, and to root.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/control"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/proxy"
	"bulkhead/mesh/registry"
)

// Options are what a node is made of.
type Options struct {
	Name, Platform string
	// RunDir is where the admin socket is; it exists, and only its owner can
	// enter it.
	RunDir string
	// StateDir is where secrets are: no workload sees it.
	StateDir string
	// PolicyDir is where relative paths of commands start, BinDir what {bin}
	// stands for in them.
	PolicyDir, BinDir string
	Host              *host.Host
	Mode              host.Mode
	// Identities are the workloads' certificates: a Keeper, or what an existing
	// Workload API offers.
	Identities Identities
	// API is the Workload API of the workloads.
	API    *identity.Server
	Client *control.Client
	// Control is set on the node that runs control.
	Control *control.Control
	// Authority is set there too, unless identities come from elsewhere.
	Authority *identity.Authority
	// Bus is where other nodes find the bus; empty for where the embedded one
	// listens.
	Bus control.Access
	// Everywhere yields the flow records of all nodes since a time; set on the
	// node that runs control.
	Everywhere func(ctx context.Context, since time.Time, follow bool) iter.Seq2[flow.Record, error]
	// Outside is the way out; nil for none.
	Outside *Outside
	// Publish is the address at which exposures listen.
	Publish string
	// Commands replace the commands of workloads.
	Commands map[string][]string
	Output   io.Writer // of workloads
	Log      *slog.Logger
	Now      func() time.Time
	// UserName says who has a user id.
	UserName func(uid int) string
}

// Identities are certificates that can be taken away. [identity.Keeper] and
// [identity.Upstream] are.
type Identities interface {
	identity.Provider
	Deny(workload string)
	Release(workload string)
}

// Node is a running node.
type Node struct {
	o        Options
	registry *registry.Registry
	proxy    *proxy.Proxy
	flows    *flow.Log
	sup      *supervisor

	started time.Time

	// probing has the id of each attack that goes on, by its probeDial.
	probing sync.Map
	// kick tells converge that there is a new layout.
	kick chan struct{}

	mu       sync.Mutex // guards the following
	resolver generation.Resolver
	order    *generation.Order
	plan     *generation.Plan
	layout   *layout
	since    time.Time
	latest   time.Time // the latest time ever seen: clocks do not bring back what expired
	problems map[string]string
	placed   map[string]*placement // by workload, owned by converge
	doors    map[outerDoor]*door
}

// keptRecords is how many flow records a node keeps in memory.
const keptRecords = 1 << 15

// New returns a node that has not started.
func New(o Options) *Node {
	n := &Node{o: o, registry: registry.New(), flows: flow.NewLog(keptRecords), started: o.Now(),
		kick: make(chan struct{}, 1), problems: map[string]string{}, placed: map[string]*placement{}, doors: map[outerDoor]*door{}}
	po := proxy.Options{Node: o.Name, Registry: n.registry, Source: o.Identities, Sink: n.flows, Now: o.Now, Log: o.Log}
	if o.Outside != nil {
		o.Outside.attach(n.registry, n.flows)
		po.Outside = o.Outside
	}
	n.proxy = proxy.New(po)
	n.sup = &supervisor{host: o.Host, log: o.Log, resolve: n.resolve, output: o.Output, dir: o.PolicyDir, folders: existing(o.BinDir), running: map[string]*charge{}}
	return n
}

// existing returns a folder if there is one to show.
func existing(dir string) []string {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil
	}
	return []string{dir}
}

// Flows returns the flow log of the node.
func (n *Node) Flows() *flow.Log { return n.flows }

// Run runs the node until ctx ends, and then takes everything down.
func (n *Node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.serveAdmin(ctx) })
	g.Go(func() error { return n.serveExec(ctx) })
	g.Go(func() error { return n.o.Client.Run(ctx, n.apply) })
	g.Go(func() error { return n.converge(ctx) })
	g.Go(func() error { return n.o.Client.Ship(ctx, n.flows) })
	g.Go(func() error { return n.refusals(ctx) })
	g.Go(func() error { return n.exemptions(ctx) })
	if k, ok := n.o.Identities.(*identity.Keeper); ok {
		g.Go(func() error { return k.Run(ctx) })
	}
	if n.o.Outside != nil {
		g.Go(func() error { return n.o.Outside.run(ctx) })
	}
	err := g.Wait()
	n.sup.stop()
	if ctx.Err() != nil && err == context.Canceled {
		return nil
	}
	return err
}

// apply puts a generation in force. When it returns, nothing that the generation
// denies is open.
func (n *Node) apply(o *generation.Order, p *generation.Plan) (control.Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.enforce(o, p)
}

// enforce is apply with the lock held.
func (n *Node) enforce(o *generation.Order, p *generation.Plan) (control.Applied, error) {
	start := n.now()
	in, ds := n.resolver.Intent(o, p, start)
	if ds.HasErrors() {
		return control.Applied{}, fmt.Errorf("generation %d: %w", o.Number, firstError(ds))
	}
	bindings, err := bindings(p.Policy)
	if err != nil {
		return control.Applied{}, fmt.Errorf("generation %d: %w", o.Number, err)
	}
	for name, command := range n.o.Commands {
		b := bindings[name]
		b.Run, b.Prepare = command, nil
		bindings[name] = b
	}
	force := &registry.Force{Number: o.Number, Digest: o.Plan, Intent: in, Since: start}
	var first registry.Enforced
	if n.onlyTakes(o) {
		// What is cut off does not wait until it is known where everything is:
		// nothing moves.
		first = n.registry.Enforce(force)
	}
	l := arrange(n.o.Name, o, p, in, bindings, n.layout)
	l.bind(n.controlGroup)
	n.problem("existing processes", l.unbound)
	if n.o.Outside != nil {
		n.o.Outside.set(l)
	}
	n.proxy.SetWorld(l.world)
	done := n.registry.Enforce(force)
	done.Closed += first.Closed
	if done.Refused {
		return control.Applied{}, fmt.Errorf("generation %d: another one is in force", o.Number)
	}
	// The kernel's share. Workloads that leave keep their namespace, without any
	// permission, until converge has stopped them.
	err = n.o.Host.Apply(withLeavers(l.plan, n.layout))
	n.problem("kernel", err)
	n.proxy.SetWorld(l.world) // again: captures of datagrams begin when the filter has their ports
	n.order, n.plan, n.layout, n.since = o, p, l, start
	n.identify(o, in, l)
	select {
	case n.kick <- struct{}{}:
	default:
	}
	return control.Applied{Closed: done.Closed, Kept: done.Kept}, err
}

// onlyTakes reports whether an order does nothing to the one in force but to
// take permissions away. The lock is held.
func (n *Node) onlyTakes(o *generation.Order) bool {
	if n.order == nil || o.Plan != n.order.Plan {
		return false
	}
	for i := range n.order.Quarantines {
		before := &n.order.Quarantines[i]
		if !slices.ContainsFunc(o.Quarantines, func(q policy.Quarantine) bool {
			return q.Target == before.Target && q.KeepEvidence == before.KeepEvidence
		}) {
			return false
		}
	}
	return true
}

// controlGroup finds the processes that a binding means.
func (n *Node) controlGroup(b host.Binding) (string, error) {
	if n.o.Mode != host.Root {
		return "", errors.New("it is bound to processes that run already, which needs root: start bulkhead with sudo")
	}
	if b.Unit != "" {
		return host.CgroupOf(b.Unit)
	}
	return b.Cgroup, nil
}

// again puts the generation in force anew, where something that it needs was not
// there before.
func (n *Node) again() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.layout == nil || n.layout.unbound == nil {
		return nil
	}
	_, err := n.enforce(n.order, n.plan)
	return err
}

// now returns the time, which never runs backwards for a node. The lock is held.
func (n *Node) now() time.Time {
	if now := n.o.Now(); now.After(n.latest) {
		n.latest = now
	}
	return n.latest
}

// problem notes what needs a person, or that it does no more. The lock is held.
func (n *Node) problem(what string, err error) {
	if err == nil {
		delete(n.problems, what)
		return
	}
	if says := err.Error(); n.problems[what] != says {
		n.problems[what] = says
		n.o.Log.Error("problem", "with", what, "says", says)
	}
}

func firstError(ds source.Diagnostics) error {
	for _, d := range ds {
		if d.Severity == source.Error {
			return fmt.Errorf("%s: %s", d.Pos, d.Message)
		}
	}
	return nil
}

// bindings reads the bindings to hosts of a policy.
func bindings(p *policy.Policy) (map[string]host.Binding, error) {
	out := map[string]host.Binding{}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		for _, b := range w.Bindings {
			if b.Target.Value != host.BindingName {
				continue
			}
			parsed, ds := host.ParseBinding(b)
			if ds.HasErrors() {
				return nil, firstError(ds)
			}
			out[w.Name.Value] = parsed
		}
	}
	return out, nil
}

// withLeavers adds to a plan the members of the layout before that it no longer
// has.
func withLeavers(p host.Plan, before *layout) host.Plan {
	if before == nil {
		return p
	}
	stays := map[string]bool{}
	for _, m := range p.Members {
		stays[m.Name] = true
	}
	zones := map[string]bool{}
	for _, z := range p.Zones {
		zones[z.Name] = true
	}
	for _, m := range before.plan.Members {
		if !stays[m.Name] && zones[m.Zone] {
			m.UDP = nil
			p.Members = append(p.Members[:len(p.Members):len(p.Members)], m)
		}
	}
	return p
}

// identify says who may have a certificate: the workloads of this node that are
// not quarantined.
func (n *Node) identify(o *generation.Order, in *policy.Intent, l *layout) {
	want := map[string]string{}
	for _, m := range l.members {
		want[m.workload.Name.Value] = m.workload.Zone.Value
	}
	denied := map[string]bool{}
	for i := range o.Quarantines {
		if q := &o.Quarantines[i]; !q.KeepEvidence {
			for _, p := range targets(in, q.Target) {
				denied[p.Name] = true
			}
		}
	}
	if k, ok := n.o.Identities.(*identity.Keeper); ok {
		k.Keep(want)
	}
	for name := range want {
		if denied[name] {
			n.o.Identities.Deny(name)
		} else {
			n.o.Identities.Release(name)
		}
	}
}

func targets(in *policy.Intent, target string) []policy.Party {
	parties, err := in.QuarantineTarget(target)
	if err != nil {
		return nil // a workload that the policy no longer has
	}
	return parties
}
