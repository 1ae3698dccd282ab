package kubernetes

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/target"
)

// Compile turns an intent into NetworkPolicies, one file for each namespace in
// which a workload lives. All pods of such a namespace are closed in both
// directions, whether the policy knows them or not.
func (Target) Compile(in *policy.Intent) target.Output {
	p := newPlan(in, false)
	return target.Output{Files: p.emitPolicies(), Residue: p.residue}
}

// plan is an intent in terms that policies of both kinds know: rules for
// workloads whose peers are pods, address blocks and names. What cannot be
// said in these terms is residue.
type plan struct {
	in    *policy.Intent
	admin bool // for ClusterNetworkPolicy

	subjects   map[string][]subject // by workload
	namespaces []string             // in which workloads live, sorted
	rules      map[string]*[2]ruleList
	groups     map[*policy.Group]peerSet
	residue    []target.Residue
	said       map[target.Residue]bool
}

// ruleList is the rules of a workload in one direction, with the place of each
// by what it allows, so that permissions that allow the same share a rule.
type ruleList struct {
	rules []rule
	byKey map[string]int
}

// rule is traffic to or from peers, and why.
type rule struct {
	peers       []peer
	traffic     netset.Traffic
	permissions []*policy.Permission
	notes       []string
}

// peer is pods of a namespace, or addresses, or names.
type peer struct {
	namespace string
	labels    network.Selector
	block     netset.Addrs
	names     []string
}

func (p *peer) isPods() bool { return p.namespace != "" }

// peerSet is a list of peers with a key that is equal for equal lists.
type peerSet struct {
	peers []peer
	key   string
}

func newPlan(in *policy.Intent, admin bool) *plan {
	p := &plan{
		in: in, admin: admin,
		subjects: map[string][]subject{},
		rules:    map[string]*[2]ruleList{},
		groups:   map[*policy.Group]peerSet{},
		said:     map[target.Residue]bool{},
	}
	p.bind()
	p.findOverlaps()
	for i := range in.Permissions {
		p.permission(&in.Permissions[i])
	}
	if len(p.namespaces) > 0 {
		everywhere := limitLocalNode
		if admin {
			everywhere = limitOutsideIngress
		}
		p.leave(everywhere.At("", in.Policy.Platform.Pos, "%s", everywhere.What))
	}
	return p
}

// leave records a residue, once.
func (p *plan) leave(r target.Residue) {
	if !p.said[r] {
		p.said[r] = true
		p.residue = append(p.residue, r)
	}
}

// permission adds the rules that a permission needs on both sides.
func (p *plan) permission(m *policy.Permission) {
	if m.Via != "" {
		return // the permissions of the gateway that it implies are the way
	}
	if portsOf(m.Traffic) == nil {
		return
	}
	done := false
	switch {
	case m.From.Members[0].Kind != policy.WorkloadParty:
		done = p.exposure(m)
	case m.To.Kind == policy.WorkloadParty:
		done = p.flow(m)
	case m.To.Kind == policy.ResolverParty:
		done = p.resolver(m)
	default:
		done = p.egress(m)
	}
	if done && m.Traffic.HasRequests() {
		p.leave(limitRequests.Of(m, "%s: all of %s is open, where only %s is declared", m.Name, m.Traffic.AnyRequests(), m.Traffic))
	}
	if done && m.Rate > 0 {
		p.leave(limitRate.Of(m, "%s is not limited to %d bytes a second", m.Name, m.Rate))
	}
}

// flow permits pods to reach pods: egress at the source, ingress at the
// destination. It reports whether anything was permitted.
func (p *plan) flow(m *policy.Permission) bool {
	to, from := p.peersOf(m.To.Name), p.peersOfGroup(m.From)
	if len(to.peers) == 0 || len(from.peers) == 0 {
		return false
	}
	p.eachBound(m.From, func(workload string) { p.add(workload, network.Egress, to, m) })
	p.add(m.To.Name, network.Ingress, from, m)
	return true
}

// exposure permits a workload to be reached from what is no workload.
func (p *plan) exposure(m *policy.Permission) bool {
	if p.admin || len(p.subjects[m.To.Name]) == 0 {
		return false // an administrator's policy never closed it
	}
	switch m.From.Members[0].Kind {
	case policy.HostsParty:
		p.leave(limitHosts.Of(m, "%s: of the machines, only the one that the pod runs on reaches it", m.Name))
		return false
	case policy.ControlParty:
		p.leave(limitControlPlane.Of(m, "%s: the control plane is denied", m.Name))
		return false
	}
	p.checkBlock(m)
	p.add(m.To.Name, network.Ingress, blockPeer(m.Addrs), m,
		"Behind a load balancer this holds only where it keeps the client's address",
		"(externalTrafficPolicy: Local). If it does not, declare a flow from what forwards.")
	return true
}

// resolver permits name resolution.
func (p *plan) resolver(m *policy.Permission) bool {
	to := resolverPeers(m.To.Name)
	return p.egressTo(m, to, func() {
		if slices.ContainsFunc(to.peers, func(r peer) bool { return !r.isPods() }) {
			p.leave(limitNodeLocal.Of(m, "%s: %s is opened too, where NodeLocal DNSCache answers", m.Name, nodeLocalDNS))
		}
	}, "With NodeLocal DNSCache the resolver is an address of the machine.")
}

// egress permits workloads to reach what is outside.
func (p *plan) egress(m *policy.Permission) bool {
	done := false
	names := m.ByName()
	if !m.Addrs.IsEmpty() {
		done = p.egressTo(m, blockPeer(m.Addrs), func() { p.checkBlock(m) })
	}
	switch {
	case len(names) == 0 && m.Addrs.IsEmpty():
		p.egressTo(m, peerSet{}, func() {
			p.leave(limitNoAddress.Of(m, "%s: the endpoint's address is not declared, so it stays closed", m.Name))
		})
	case len(names) == 0:
	case p.admin:
		done = p.egressTo(m, namesPeer(names), nil) || done
	case p.isGateway(m):
		done = p.egressTo(m, blockPeer(netset.PublicAddrs()), func() {
			p.leave(limitGatewayNames.Of(m, "%s: every public address is open on %s, where only %s is declared",
				m.Name, m.Traffic.AnyRequests(), strings.Join(names, ", ")))
		}, "NetworkPolicy knows no names: the gateway itself decides by name.") || done
	default:
		p.egressTo(m, peerSet{}, func() {
			p.leave(limitNames.Of(m, "%s: %s stays closed, since NetworkPolicy has no names", m.Name, strings.Join(names, ", ")))
		})
	}
	return done
}

// isGateway reports whether a permission is the gateway's own way out.
func (p *plan) isGateway(m *policy.Permission) bool {
	if m.Kind == policy.GatewayKind {
		return true
	}
	g := p.in.Policy.Gateway
	if g == nil || len(m.From.Members) != 1 {
		return false
	}
	workload, _, _ := strings.Cut(g.Through.Value, "/")
	return m.From.Members[0].Name == workload
}

// egressTo adds an egress rule to each workload of a permission that lives
// here, and says what is to say if there is one.
func (p *plan) egressTo(m *policy.Permission, to peerSet, say func(), notes ...string) bool {
	found := false
	p.eachBound(m.From, func(workload string) {
		found = true
		p.add(workload, network.Egress, to, m, notes...)
	})
	if found && say != nil {
		say()
	}
	return found && len(to.peers) > 0
}

// checkBlock says where a block means more than what is outside. A single
// address is what it is, whoever has it.
func (p *plan) checkBlock(m *policy.Permission) {
	inside := m.Addrs.Intersect(privateV4.Union(privateV6))
	if prefixes := inside.Prefixes(); len(prefixes) == 0 || len(prefixes) == 1 && prefixes[0].IsSingleIP() {
		return
	}
	limit, who := limitBlockPods, "pods and machines"
	if p.admin {
		limit, who = limitBlockHosts, "machines and pods on their network"
	}
	p.leave(limit.Of(m, "%s: %s with an address in %s are meant too", m.Name, who, inside))
}

// add adds a rule to a workload, or a reason to a rule that it has already. An
// empty list of peers must never be emitted: policies read it as everyone.
func (p *plan) add(workload string, d network.Direction, to peerSet, m *policy.Permission, notes ...string) {
	if len(to.peers) == 0 {
		return
	}
	both := p.rules[workload]
	if both == nil {
		both = &[2]ruleList{{byKey: map[string]int{}}, {byKey: map[string]int{}}}
		p.rules[workload] = both
	}
	list := &both[d]
	traffic := m.Traffic.AnyRequests()
	key := to.key + "\x00" + traffic.Key()
	i, ok := list.byKey[key]
	if !ok {
		i = len(list.rules)
		list.byKey[key] = i
		list.rules = append(list.rules, rule{peers: to.peers, traffic: traffic, notes: notes})
	}
	list.rules[i].permissions = append(list.rules[i].permissions, m)
}

// eachBound calls f for the members of a group that live here.
func (p *plan) eachBound(g *policy.Group, f func(workload string)) {
	for _, m := range g.Members {
		if m.Kind == policy.WorkloadParty && len(p.subjects[m.Name]) > 0 {
			f(m.Name)
		}
	}
}

// portRange is a part of a traffic that policies can name.
type portRange struct {
	protocol netset.Protocol
	lo, hi   uint16
}

// whole reports whether r is every port.
func (r portRange) whole() bool { return r.lo <= 1 && r.hi == 65535 }

// portsOf returns the ports of t, nil if there are none. An empty list must
// never be emitted: policies read it as every port.
func portsOf(t netset.Traffic) []portRange {
	var out []portRange
	for _, r := range t.AnyRequests().Runs() {
		if r.Protocol.HasPorts() {
			out = append(out, portRange{r.Protocol, r.Lo, r.Hi})
		}
	}
	return out
}

// comments returns the lines above a rule: each permission that needs it, and
// why.
func (r *rule) comments() []string {
	var out []string
	for _, m := range r.permissions {
		out = append(out, m.Name)
		if m.Why.Because.Value != "" {
			out = append(out, "  because: "+m.Why.Because.Value)
		}
		if m.Why.Owner.Value != "" {
			out = append(out, "  owner: "+m.Why.Owner.Value)
		}
		if !m.Why.Until.Time.IsZero() {
			out = append(out, "  until: "+m.Why.Until.Time.Format("2006-01-02"))
		}
		if m.Traffic.HasRequests() {
			out = append(out, fmt.Sprintf("  only %s is declared, which this layer cannot tell apart", m.Traffic))
		}
	}
	return append(out, r.notes...)
}
