package node

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/control"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/host"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/report"
)

// refusals records what the kernel refused.
func (n *Node) refusals(ctx context.Context) error {
	return n.o.Host.Denials(ctx, func(d host.Denial) {
		n.mu.Lock()
		l := n.layout
		n.mu.Unlock()
		r := flow.Record{Time: n.o.Now(), Event: flow.Deny, Node: n.o.Name, Side: flow.Kernel, Transport: d.Network,
			Verdict: "deny", Lost: d.Lost, From: flow.Peer{Workload: d.Workload, Addr: d.From}, To: flow.Peer{Addr: d.To},
			Why: "the kernel refuses " + d.Network + " that is not declared"}
		if id, ok := n.probing.Load(probeDial{d.Workload, d.From.Port()}); ok {
			r.Probe = id.(string)
		}
		if l != nil {
			r.Generation = l.world.Generation
			if w := l.world.Intent.Workload(d.Workload); w != nil {
				r.From.Zone = w.Zone.Value
			}
			if p, ok := l.world.Places[d.To.Addr()]; ok {
				r.To.Workload, r.To.Zone = p.Workload, p.Zone
				v := n.registry.Decide(policy.Question{From: party(d.Workload), To: party(p.Workload), Protocol: protocol(d.Network), Port: d.To.Port()})
				if !v.Allowed {
					r.Why, r.Rule = v.Why(), registry.RuleOf(v.Nearest)
				}
			}
		}
		n.flows.Record(r)
	})
}

// protocol is the inverse of network: what is neither TCP nor UDP is never
// permitted, and Other with port 0 asks for that.
func protocol(name string) netset.Protocol {
	switch name {
	case "tcp":
		return netset.TCP
	case "udp":
		return netset.UDP
	}
	return netset.Other
}

func party(workload string) policy.Party {
	return policy.Party{Kind: policy.WorkloadParty, Name: workload}
}

// countEvery is how often the bytes of exempt flows are recorded.
const countEvery = 10 * time.Second

// exemptions records what passed in the clear since the last time: the proxy does
// not see it, so the kernel's counters are all there is.
func (n *Node) exemptions(ctx context.Context) error {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	before := map[host.Plain]host.PlainCount{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		counts, err := n.o.Host.PlainCounters()
		n.mu.Lock()
		n.problem("counters", err)
		l := n.layout
		n.mu.Unlock()
		now := map[host.Plain]host.PlainCount{}
		for _, c := range counts {
			now[c.Plain] = c
			out, in := more(c.Out, before[c.Plain].Out), more(c.In, before[c.Plain].In)
			if out+in > 0 && l != nil {
				n.flows.Record(flow.Record{Time: n.o.Now(), Event: flow.Count, Node: n.o.Name, Side: flow.Source, Transport: c.Network,
					Wire: "plaintext", Verdict: "allow", Rule: c.Rule, Generation: l.world.Generation, BytesOut: out, BytesIn: in,
					Duration: countEvery, From: flow.Peer{Workload: c.From}, To: flow.Peer{Workload: c.To}})
			}
		}
		before = now
	}
}

// more returns how many bytes a counter gained; a rule that was made anew begins
// at zero.
func more(now, before host.Count) int64 {
	if now.Bytes < before.Bytes {
		return int64(now.Bytes)
	}
	return int64(now.Bytes - before.Bytes)
}

// Status says how the node is doing.
func (n *Node) Status() *report.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &report.Status{Platform: n.o.Platform, Node: n.o.Name, Mode: string(n.o.Mode), Enforced: n.o.Mode != host.Cooperative,
		Started: n.started, Open: n.registry.Len()}
	if n.o.Outside != nil {
		s.Gateway = n.o.Outside.status()
		if s.Gateway.Problem != "" {
			s.Problems = append(s.Problems, "egress gateway: nothing passes while it cannot be recorded: "+s.Gateway.Problem)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(n.problems)) {
		s.Problems = append(s.Problems, what+": "+n.problems[what])
	}
	n.controlStatus(s)
	if n.layout == nil {
		return s
	}
	s.Generation, s.Plan, s.Since = n.order.Number, n.order.Plan, n.since
	s.Quarantines, s.Limits = n.order.Quarantines, n.layout.limits
	quarantined := map[string]bool{}
	for i := range n.order.Quarantines {
		for _, p := range targets(n.layout.world.Intent, n.order.Quarantines[i].Target) {
			quarantined[p.Name] = true
		}
	}
	for i, m := range n.layout.members {
		at := n.layout.plan.Members[i]
		w := report.WorkloadStatus{Name: at.Name, Zone: m.workload.Zone.Value, Addresses: n.layout.plan.Names[at.Name], Quarantined: quarantined[at.Name]}
		n.sup.report(&w)
		if svid, err := n.o.Identities.SVID(w.Name); err == nil {
			w.IdentityUntil = svid.Certificates[0].NotAfter
		}
		s.Workloads = append(s.Workloads, w)
	}
	for _, d := range n.layout.doors {
		st := report.DoorStatus{Workload: d.workload, Port: d.port}
		if o := n.doors[d]; o != nil {
			st.Listens, st.Problem = o.listens, o.problem
		}
		s.Doors = append(s.Doors, st)
	}
	return s
}

// scope adds to what control says of a quarantine what is open here.
func (n *Node) scope(p control.Scope) *report.Scope {
	s := &report.Scope{Target: p.Target, Workloads: p.Workloads, Already: p.Already}
	for _, g := range p.Permissions {
		s.Permissions = append(s.Permissions, report.ScopePermission(g))
	}
	for _, q := range n.registry.Questions() {
		if slices.Contains(p.Workloads, q.From.Name) || slices.Contains(p.Workloads, q.To.Name) {
			s.Open++
		}
	}
	return s
}

// controlStatus adds what only control knows. The lock is held.
func (n *Node) controlStatus(s *report.Status) {
	if n.o.Control == nil {
		return
	}
	c := n.o.Control.Status()
	s.Problems = append(s.Problems, c.Problems...)
	for _, p := range c.Nodes {
		s.Nodes = append(s.Nodes, report.PeerStatus{Name: p.Name, Generation: p.Generation, Heard: p.Heard})
	}
}

// Open returns how many connections, streams and requests are open.
func (n *Node) Open() int { return n.registry.Len() }

// Grants returns who may talk to whom, in the order of the policy.
func (n *Node) Grants() []report.Grant {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.layout == nil {
		return nil
	}
	var out []report.Grant
	in := n.layout.world.Intent
	for i := range in.Permissions {
		p := &in.Permissions[i]
		g := report.Grant{From: p.From.Name, To: p.To.Name, Allows: p.Traffic.String(), Because: p.Why.Because.Value, At: p.Pos.String(), Plaintext: p.Plaintext}
		if p.Service != nil {
			g.To += "/" + p.Service.Name.Value
		}
		out = append(out, g)
	}
	return out
}

// ServeNodes takes tunnels from the proxies of other nodes.
func (n *Node) ServeNodes(ctx context.Context, listener net.Listener) error {
	return n.proxy.ServeNode(ctx, listener)
}
