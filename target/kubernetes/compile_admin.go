package kubernetes

import (
	"fmt"
	"slices"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
)

// AdminTarget is Kubernetes by ClusterNetworkPolicy v1alpha2: isolation that
// the owners of namespaces cannot undo. It reads and binds like [Target], so
// that only one of the two should be offered the input.
//
// What is declared is passed on to the policies of the namespace, which may
// narrow it and cannot widen it; everything else is denied. Only names are
// accepted outright, since Pass does not know them and NetworkPolicy could
// not allow them: for those the owner of a namespace has no say.
type AdminTarget struct{ Target }

// NewAdmin returns the target.
func NewAdmin() AdminTarget { return AdminTarget{} }

// Name returns "kubernetes-admin".
func (AdminTarget) Name() string { return "kubernetes-admin" }

// Compile turns an intent into ClusterNetworkPolicies of the Admin tier: a file
// for each namespace and one that denies the rest in all of them. Apply that
// one last.
func (AdminTarget) Compile(in *policy.Intent) target.Output {
	p := newPlan(in, true)
	return target.Output{Files: p.emitAdmin(), Residue: p.residue}
}

// maxItems is the most rules of a direction, peers of a rule, protocols of a
// rule, and blocks or names of a peer.
const maxItems = 25

// band is a span of priorities: what is lower is asked first. Policies of one
// band all do the same, so that their order does not matter; the priorities of
// a workload's policies are consecutive as far as the band goes.
type band struct {
	name     string
	lo, hi   int
	action   string
	contains func(*peer) bool
}

// The order lets blocks mean what is outside only: other pods were denied
// before. Names come before blocks, so that one that is both is accepted.
var bands = []band{
	{"pods", 100, 399, "Pass", (*peer).isPods},
	{"names", 500, 599, "Accept", func(p *peer) bool { return len(p.names) > 0 }},
	{"networks", 600, 899, "Pass", func(p *peer) bool { return !p.isPods() && len(p.names) == 0 }},
}

const (
	denyPodsPriority = 400
	denyRestPriority = 900
)

func (p *plan) emitAdmin() []target.File {
	if len(p.namespaces) == 0 {
		return nil
	}
	names := newNames()
	names.reserve("", defaultDeny+"-pods")
	names.reserve("", defaultDeny+"-rest")
	byNamespace := map[string][]object{}
	for i := range p.in.Policy.Workloads {
		w := p.in.Policy.Workloads[i].Name.Value
		if p.rules[w] == nil {
			continue
		}
		for n, s := range p.subjects[w] {
			byNamespace[s.namespace] = append(byNamespace[s.namespace], p.adminObjects(names, w, n+1, s)...)
		}
	}
	var files []fileObjects
	for _, ns := range p.namespaces {
		if len(byNamespace[ns]) > 0 {
			files = append(files, fileObjects{path: "clusternetworkpolicy/" + ns + ".yaml", objects: byNamespace[ns]})
		}
	}
	// No namespace has an underscore in its name.
	files = append(files, fileObjects{path: "clusternetworkpolicy/_deny.yaml", objects: p.denyObjects()})
	return p.write(files)
}

// adminObjects returns the policies of one subject, band by band.
func (p *plan) adminObjects(names *objectNames, workload string, number int, s subject) []object {
	var out []object
	for _, b := range bands {
		var sides [2][]yamltext.Node
		for d := range sides {
			for i := range p.rules[workload][d].rules {
				sides[d] = append(sides[d], adminRules(&p.rules[workload][d].rules[i], network.Direction(d), b)...)
			}
		}
		ingress := slices.Collect(slices.Chunk(sides[network.Ingress], maxItems))
		egress := slices.Collect(slices.Chunk(sides[network.Egress], maxItems))
		for i := range max(len(ingress), len(egress)) {
			name := names.of("", workload, number, b.name)
			if i > 0 {
				name = names.of("", workload, number, fmt.Sprintf("%s-%d", b.name, i+1))
			}
			o := clusterPolicy(name, min(b.lo+i, b.hi), subjectNode(s), at(ingress, i), at(egress, i))
			o.about = "Workload " + workload
			out = append(out, o)
		}
	}
	return out
}

func at(chunks [][]yamltext.Node, i int) []yamltext.Node {
	if i < len(chunks) {
		return chunks[i]
	}
	return nil
}

// denyObjects deny what no band let through, for every pod of the namespaces:
// a pod that drops its labels must not gain by it.
func (p *plan) denyObjects() []object {
	subject := yamltext.Map(yamltext.At("namespaces", selectorNode(namespaceSelector(p.namespaces...))))
	allPods := yamltext.Map(yamltext.At("namespaces", yamltext.Map()))
	var all []string
	for _, n := range allNetworks {
		all = append(all, n.String())
	}
	deny := func(field string, peer yamltext.Node, name string) []yamltext.Node {
		return []yamltext.Node{yamltext.Map(
			yamltext.At("name", yamltext.String(name)),
			yamltext.At("action", yamltext.String("Deny")),
			yamltext.At(field, yamltext.List(peer)))}
	}
	pods := clusterPolicy(defaultDeny+"-pods", denyPodsPriority, subject,
		deny("from", allPods, "undeclared pods"), deny("to", allPods, "undeclared pods"))
	pods.about = "Every pod of the namespaces: what is not declared between pods is denied."
	rest := clusterPolicy(defaultDeny+"-rest", denyRestPriority, subject, nil,
		deny("to", yamltext.Map(yamltext.At("networks", yamltext.Strings(all...))), "undeclared destinations"))
	rest.about = "Every pod of the namespaces: what is not declared outside is denied."
	return []object{pods, rest}
}

func clusterPolicy(name string, priority int, subject yamltext.Node, ingress, egress []yamltext.Node) object {
	entries := []yamltext.Entry{
		yamltext.At("tier", yamltext.String("Admin")),
		yamltext.At("priority", yamltext.Int(priority)),
		yamltext.At("subject", subject),
	}
	if len(ingress) > 0 {
		entries = append(entries, yamltext.At("ingress", yamltext.List(ingress...)))
	}
	if len(egress) > 0 {
		entries = append(entries, yamltext.At("egress", yamltext.List(egress...)))
	}
	return object{apiVersion: "policy.networking.k8s.io/v1alpha2", kind: "ClusterNetworkPolicy", name: name, spec: yamltext.Map(entries...)}
}

func subjectNode(s subject) yamltext.Node {
	return yamltext.Map(yamltext.At("pods", podsNode(s.namespace, s.labels)))
}

func podsNode(namespace string, labels network.Selector) yamltext.Node {
	return yamltext.Map(
		yamltext.At("namespaceSelector", selectorNode(namespaceSelector(namespace))),
		yamltext.At("podSelector", selectorNode(labels)))
}

// adminRules writes the part of a rule that belongs to a band, as many rules
// as its peers and ports take.
func adminRules(r *rule, d network.Direction, b band) []yamltext.Node {
	var peers []yamltext.Node
	for i := range r.peers {
		if b.contains(&r.peers[i]) {
			peers = append(peers, adminPeers(&r.peers[i])...)
		}
	}
	field := "to"
	if d == network.Ingress {
		field = "from"
	}
	var out []yamltext.Node
	for some := range slices.Chunk(peers, maxItems) {
		for protocols := range slices.Chunk(adminProtocols(r.traffic), maxItems) {
			out = append(out, yamltext.Map(
				yamltext.At("name", yamltext.String(shortened(r.permissions[0].Name, 100))),
				yamltext.At("action", yamltext.String(b.action)),
				yamltext.At(field, yamltext.List(some...)),
				yamltext.At("protocols", yamltext.List(protocols...)),
			).Above(r.comments()...))
		}
	}
	return out
}

// shortened returns the first n characters of s.
func shortened(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

func adminPeers(q *peer) []yamltext.Node {
	if q.isPods() {
		return []yamltext.Node{yamltext.Map(yamltext.At("pods", podsNode(q.namespace, q.labels)))}
	}
	field, texts := "networks", q.block.CIDRs()
	if len(q.names) > 0 {
		field, texts = "domainNames", q.names
	}
	var out []yamltext.Node
	for some := range slices.Chunk(texts, maxItems) {
		out = append(out, yamltext.Map(yamltext.At(field, yamltext.Strings(some...))))
	}
	return out
}

var protocolFields = map[netset.Protocol]string{netset.TCP: "tcp", netset.UDP: "udp", netset.SCTP: "sctp"}

func adminProtocols(t netset.Traffic) []yamltext.Node {
	var out []yamltext.Node
	for _, r := range portsOf(t) {
		port := yamltext.Map(yamltext.At("number", yamltext.Int(int(r.lo))))
		if r.hi > r.lo {
			port = yamltext.Map(yamltext.At("range", yamltext.Map(
				yamltext.At("start", yamltext.Int(int(r.lo))), yamltext.At("end", yamltext.Int(int(r.hi))))))
		}
		out = append(out, yamltext.Map(yamltext.At(protocolFields[r.protocol], yamltext.Map(yamltext.At("destinationPort", port)))))
	}
	return out
}
