package kubernetes

import (
	"net/netip"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
)

// emitPolicies writes the NetworkPolicies.
func (p *plan) emitPolicies() []target.File {
	names := newNames()
	for _, ns := range p.namespaces {
		names.reserve(ns, defaultDeny)
	}
	byNamespace := map[string][]object{}
	for i := range p.in.Policy.Workloads {
		w := p.in.Policy.Workloads[i].Name.Value
		if p.rules[w] == nil {
			continue // the namespace's own policy keeps it closed
		}
		for n, s := range p.subjects[w] {
			o := object{apiVersion: "networking.k8s.io/v1", kind: "NetworkPolicy", namespace: s.namespace,
				name: names.of(s.namespace, w, n+1, ""), about: "Workload " + w}
			o.spec = networkPolicySpec(s, p.rules[w])
			byNamespace[s.namespace] = append(byNamespace[s.namespace], o)
		}
	}
	var files []fileObjects
	for _, ns := range p.namespaces {
		deny := object{apiVersion: "networking.k8s.io/v1", kind: "NetworkPolicy", namespace: ns, name: defaultDeny,
			about: "Every pod of the namespace: what no other policy allows is denied.",
			spec:  networkPolicySpec(subject{namespace: ns}, nil)}
		files = append(files, fileObjects{path: "networkpolicy/" + ns + ".yaml", objects: append([]object{deny}, byNamespace[ns]...)})
	}
	return p.write(files)
}

// networkPolicySpec closes the pods of s in both directions, but for rules.
func networkPolicySpec(s subject, rules *[2]ruleList) yamltext.Node {
	entries := []yamltext.Entry{
		yamltext.At("podSelector", selectorNode(s.labels)),
		yamltext.At("policyTypes", yamltext.Strings("Ingress", "Egress")),
	}
	if rules != nil {
		for _, side := range []struct {
			d           network.Direction
			field, peer string
		}{{network.Ingress, "ingress", "from"}, {network.Egress, "egress", "to"}} {
			var items []yamltext.Node
			for i := range rules[side.d].rules {
				r := &rules[side.d].rules[i]
				items = append(items, yamltext.Map(
					yamltext.At(side.peer, yamltext.List(policyPeers(s.namespace, r.peers)...)),
					yamltext.At("ports", yamltext.List(policyPorts(r.traffic)...)),
				).Above(r.comments()...))
			}
			if len(items) > 0 {
				entries = append(entries, yamltext.At(side.field, yamltext.List(items...)))
			}
		}
	}
	return yamltext.Map(entries...)
}

// policyPeers writes peers as seen from a namespace. Both selectors stand in
// one item: two items would be alternatives.
func policyPeers(from string, peers []peer) []yamltext.Node {
	var out []yamltext.Node
	for _, q := range peers {
		switch {
		case q.namespace == from:
			out = append(out, yamltext.Map(yamltext.At("podSelector", selectorNode(q.labels))))
		case q.isPods():
			out = append(out, yamltext.Map(
				yamltext.At("namespaceSelector", selectorNode(namespaceSelector(q.namespace))),
				yamltext.At("podSelector", selectorNode(q.labels))))
		default:
			out = append(out, ipBlocks(q.block.Intersect(netset.AnyV4()), netset.AnyV4())...)
			out = append(out, ipBlocks(q.block.Intersect(netset.AnyV6()), netset.AnyV6())...)
		}
	}
	return out
}

// ipBlocks writes the addresses of one family as blocks, or as the whole
// family without the rest where that is shorter.
func ipBlocks(a, family netset.Addrs) []yamltext.Node {
	block := func(cidr string, except []string) yamltext.Node {
		entries := []yamltext.Entry{yamltext.At("cidr", yamltext.String(cidr))}
		if len(except) > 0 {
			entries = append(entries, yamltext.At("except", yamltext.Strings(except...)))
		}
		return yamltext.Map(yamltext.At("ipBlock", yamltext.Map(entries...)))
	}
	cidrs, rest := a.CIDRs(), family.Subtract(a).CIDRs()
	if len(cidrs) > 1 && len(rest) < len(cidrs) {
		return []yamltext.Node{block(family.CIDRs()[0], rest)}
	}
	var out []yamltext.Node
	for _, c := range cidrs {
		out = append(out, block(c, nil))
	}
	return out
}

func policyPorts(t netset.Traffic) []yamltext.Node {
	var out []yamltext.Node
	for _, r := range portsOf(t) {
		entries := []yamltext.Entry{yamltext.At("protocol", yamltext.String(r.protocol.String()))}
		if !r.whole() {
			entries = append(entries, yamltext.At("port", yamltext.Int(int(r.lo))))
			if r.hi > r.lo {
				entries = append(entries, yamltext.At("endPort", yamltext.Int(int(r.hi))))
			}
		}
		out = append(out, yamltext.Map(entries...))
	}
	return out
}

// allNetworks are the blocks of every address.
var allNetworks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
