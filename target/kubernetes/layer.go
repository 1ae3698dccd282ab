package kubernetes

import (
	"bulkhead/core/network"
)

// addLayer adds the policies as one layer of three tables a direction: what
// the administrators decide first, NetworkPolicies, and what the
// administrators decide where nothing else did.
func (b *builder) addLayer() {
	b.layer = len(b.n.Layers)
	layer := network.Layer{Name: LayerName, Default: network.Allow}
	for d := range layer.Tables {
		layer.Tables[d] = []network.Table{
			{Name: AdminTable, Ordered: true},
			{Name: PolicyTable},
			{Name: BaselineTable, Ordered: true},
		}
		for i := range b.policies {
			b.addPolicy(&layer.Tables[d][1], &b.policies[i], network.Direction(d))
		}
		for i := range b.admin {
			table := &layer.Tables[d][0]
			if b.admin[i].baseline {
				table = &layer.Tables[d][2]
			}
			b.addAdmin(table, &b.admin[i], i+1, network.Direction(d))
		}
	}
	b.n.Layers = append(b.n.Layers, layer)
}

func (b *builder) addPolicy(t *network.Table, p *netpol, d network.Direction) {
	if !p.isolates[d] {
		return
	}
	subject := b.n.Predicate(p.subject)
	t.Isolates = append(t.Isolates, network.Isolation{Name: p.name, Subject: subject, Pos: p.pos})
	for i := range p.rules[d] {
		r := &p.rules[d][i]
		t.Rules = append(t.Rules, network.Rule{
			Name: r.name, Subject: subject, Peers: b.predicates(r.peers),
			Traffic: r.traffic, Named: r.named, Action: network.Allow, Pos: r.pos,
		})
	}
}

// addAdmin adds the rules of a policy as one group: they are asked in their
// order, and policies of equal priority in no known order.
func (b *builder) addAdmin(t *network.Table, p *adminPolicy, group int, d network.Direction) {
	uncertain := ""
	switch b.supports(p) {
	case ignored:
		return
	case unsure:
		uncertain = "whether it has an effect depends on the version of " + b.profile.Name
	}
	subject := b.n.Predicate(p.subject)
	for i := range p.rules[d] {
		r := &p.rules[d][i]
		peers := b.predicates(r.peers)
		for _, s := range r.nodes {
			peers = append(peers, b.n.Predicate(network.Predicate{
				Endpoints: true, Kinds: network.EndShared | network.EndSharedEverywhere,
				Attributes: network.Selector{{Key: NodeAttribute, Op: network.In, Values: b.nodesMatching(s)}},
			}))
		}
		t.Rules = append(t.Rules, network.Rule{
			Name: r.name, Subject: subject, Peers: peers, Traffic: r.traffic, Named: r.named,
			Action: r.action, Priority: p.priority, Group: group, Uncertain: uncertain, Pos: r.pos,
		})
	}
}

func (b *builder) predicates(ps []network.Predicate) []network.PredicateID {
	ids := make([]network.PredicateID, len(ps))
	for i := range ps {
		ids[i] = b.n.Predicate(ps[i])
	}
	return ids
}

// addPaths adds the ways that connections take in a cluster. Policies apply to
// pods with an address of their own, on either side; what shares a node's
// address is not subject to them.
func (b *builder) addPaths() {
	var egress, ingress []network.Step
	if b.profile.Enforces {
		egress = []network.Step{{Kind: network.Filter, Layer: b.layer, Direction: network.Egress, Name: "egress policies of the source"}}
		ingress = []network.Step{{Kind: network.Filter, Layer: b.layer, Direction: network.Ingress, Name: "ingress policies of the destination"}}
	}
	both := append(egress[:len(egress):len(egress)], ingress...)
	const hosts = hostEnds
	b.n.Paths = append(b.n.Paths,
		network.Path{Name: "pod to pod", From: network.EndOwn, To: network.EndOwn, Steps: both},
		network.Path{Name: "pod to host", From: network.EndOwn, To: hosts | network.EndControl, Steps: egress},
		network.Path{Name: "pod to outside", From: network.EndOwn, To: network.EndOutside, Steps: egress},
		network.Path{Name: "host to pod", From: hosts, To: network.EndOwn, Steps: ingress},
		network.Path{Name: "control plane to pod", From: network.EndControl, To: network.EndOwn, Steps: ingress},
		network.Path{Name: "outside to pod", From: network.EndOutside, To: network.EndOwn, Steps: ingress},
		network.Path{Name: "between hosts", From: hosts | network.EndControl | network.EndOutside, To: hosts | network.EndControl},
		network.Path{Name: "host to outside", From: hosts | network.EndControl, To: network.EndOutside},
	)
	if !b.profile.Enforces {
		return
	}
	// "OR if the traffic source is the pod's local node": NetworkPolicyIngressRule
	// and NetworkPolicySpec.Ingress, k8s.io/api networking/v1.
	b.n.Paths = append(b.n.Paths,
		network.Path{Name: "local node to pod", From: network.EndHost | network.EndSharedEverywhere, To: network.EndOwn, Local: true},
		network.Path{Name: "same node to pod", From: network.EndShared, To: network.EndOwn, Local: true,
			Uncertain: "policies do not apply to what comes from the pod's own node, and it is not known whether the two run on the same"},
	)
}
