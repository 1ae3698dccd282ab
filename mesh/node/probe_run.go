package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/errgroup"

	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/probe"
	"bulkhead/mesh/report"
	"bulkhead/mesh/socket"
)

// probeRun is one attack.
type probeRun struct {
	n        *Node
	ctx      context.Context // of the whole run: cases are judged after who tried them has ended
	layout   *layout
	cases    []*probe.Case
	evidence *probe.Evidence
	settling sync.WaitGroup

	emitting sync.Mutex // one result at a time
	emit     func(report.ProbeResult)
}

func newProbeRun(n *Node, l *layout, q ProbeQuestion) (*probeRun, error) {
	if n.o.Mode == host.Cooperative {
		return nil, errors.New("in cooperative mode the kernel keeps nothing apart, so that there is nothing to prove")
	}
	p, err := n.probed(l)
	if err != nil {
		return nil, err
	}
	cases := probe.Plan(p, probe.Filter(q))
	if len(cases) == 0 {
		return nil, errors.New("there is nothing to try: no workload of this machine is asked for")
	}
	return &probeRun{n: n, layout: l, cases: cases, evidence: probe.NewEvidence(cases)}, nil
}

const (
	agentsAtOnce  = 4
	tunnelsAtOnce = 16
	// tunnelPatience bounds one attack on a tunnel.
	tunnelPatience = 15 * time.Second
)

// do tries all cases and calls emit for each, one at a time. It returns an error if
// not all could be settled.
func (r *probeRun) do(ctx context.Context, emit func(report.ProbeResult)) error {
	r.ctx, r.emit = ctx, emit
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	from := r.n.flows.Next()
	follower.Go(func() {
		for rec := range r.n.flows.Follow(following, from) {
			r.evidence.Record(rec)
		}
	})
	defer follower.Wait()
	defer stop()

	of := map[string][]*probe.Case{}
	var here []*probe.Case
	for _, c := range r.cases {
		switch {
		case c.Untried != "":
			r.settle(c, probe.Observation{Untried: c.Untried})
		case c.Here:
			here = append(here, c)
		default:
			of[c.From] = append(of[c.From], c)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(agentsAtOnce + 1)
	g.Go(func() error { return r.attackTunnels(gctx, here) })
	for _, m := range r.layout.plan.Members {
		if cases := of[m.Name]; len(cases) > 0 {
			g.Go(func() error {
				if err := r.runAgent(gctx, m.Name, cases); err != nil {
					return fmt.Errorf("workload %s: %w", m.Name, err)
				}
				return nil
			})
		}
	}
	err := g.Wait()
	r.settling.Wait()
	r.forget()
	return errors.Join(err, r.unchanged())
}

// forget ends the marking of this run's attacks.
func (r *probeRun) forget() {
	ours := map[string]bool{}
	for _, c := range r.cases {
		ours[c.ID] = true
	}
	r.n.probing.Range(func(dial, id any) bool {
		if ours[id.(string)] {
			r.n.probing.Delete(dial)
		}
		return true
	})
}

// unchanged returns an error if another generation came into force: what was
// expected is then no longer what the policy says.
func (r *probeRun) unchanged() error {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if now := r.n.layout.world.Generation; now != r.layout.world.Generation {
		return fmt.Errorf("the policy changed from generation %d to %d meanwhile: run it again", r.layout.world.Generation, now)
	}
	return nil
}

// settle judges a case when its records are there, without keeping anybody waiting.
func (r *probeRun) settle(c *probe.Case, o probe.Observation) {
	r.settling.Go(func() {
		result := r.evidence.Settle(r.ctx, c, &o)
		r.emitting.Lock()
		defer r.emitting.Unlock()
		r.emit(result)
	})
}

// runAgent has the cases of a workload tried by a process inside it.
func (r *probeRun) runAgent(ctx context.Context, workload string, cases []*probe.Case) error {
	byID := make(map[string]*probe.Case, len(cases))
	var tasks []*probe.Task
	for _, c := range cases {
		byID[c.ID] = c
		tasks = append(tasks, &c.Task)
	}
	a, err := r.startAgent(ctx, workload)
	if err != nil {
		return err
	}
	defer a.stop()
	unhang := context.AfterFunc(ctx, a.stop)
	defer unhang()
	err = probe.Drive(ctx, a.in, a.out, tasks, func(id string, local netip.AddrPort) {
		if to := byID[id].Task.To.Addr(); local.Addr().IsUnspecified() && to.IsLoopback() {
			local = netip.AddrPortFrom(to, local.Port())
		}
		r.evidence.Dials(workload, local, id)
		r.n.probing.Store(probeDial{workload, local.Port()}, id)
		r.n.proxy.ExpectProbe(workload, local, id)
	}, func(o probe.Observation) { r.settle(byID[o.Task], o) })
	if err != nil && ctx.Err() == nil {
		a.stop()
		return fmt.Errorf("%w: %s%s", err, a.process.Wait(), a.said())
	}
	return err
}

// probeDial is the local end of an attack. Agents bind a port once, and tell it
// over a pipe that the workload does not have.
type probeDial struct {
	workload string
	port     uint16
}

// agent is a process inside a workload that attacks.
type agent struct {
	process *host.Process
	in, out *os.File
	mu      sync.Mutex // guards errors
	errors  bytes.Buffer
	once    sync.Once
}

func (r *probeRun) startAgent(ctx context.Context, workload string) (*agent, error) {
	inside, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	out, told, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer told.Close()
	a := &agent{in: in, out: out}
	a.process, err = r.n.o.Host.Start(ctx, workload, host.Command{Child: probeChild, Stdin: inside, Stdout: told, Stderr: a})
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	return a, nil
}

// maxErrors is how much is kept of what an agent says when it fails.
const maxErrors = 4 << 10

// Write takes what the agent says when it fails.
func (a *agent) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.errors.Len() < maxErrors {
		a.errors.Write(b)
	}
	return len(b), nil
}

func (a *agent) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if text := strings.TrimSpace(a.errors.String()); text != "" {
		return ": " + text
	}
	return ""
}

// stop kills the agent. It may be called more than once.
func (a *agent) stop() {
	a.once.Do(func() {
		a.process.Stop(0)
		a.in.Close()
		a.out.Close()
	})
}

// attackTunnels tries what the filter of a namespace does not let out: the proxies'
// mutual TLS, over sockets that pass the filter.
func (r *probeRun) attackTunnels(ctx context.Context, cases []*probe.Case) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(tunnelsAtOnce)
	for _, c := range cases {
		g.Go(func() error {
			sockets, err := r.n.o.Host.Sockets(c.From)
			if err != nil {
				return err
			}
			r.settle(c, r.attackTunnel(ctx, c, sockets))
			return nil
		})
	}
	return g.Wait()
}

func (r *probeRun) attackTunnel(ctx context.Context, c *probe.Case, sockets socket.Maker) probe.Observation {
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := sockets.DialPeer(ctx, c.Task.To)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tunnelPatience)
	defer cancel()
	start := r.n.o.Now()
	var own *x509svid.SVID
	var src identity.Source
	if c.AsProxy() {
		src = r.n.o.Identities
	} else if svid, err := r.n.o.Identities.SVID(c.From); err == nil {
		own = svid
	}
	o := probe.Tunnel(ctx, &c.Task, own, src, dial)
	o.Took = r.n.o.Now().Sub(start)
	return o
}
