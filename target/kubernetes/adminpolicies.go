package kubernetes

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// adminPolicy is a policy of the cluster's administrators, of any version.
type adminPolicy struct {
	name     string
	dialect  *dialect
	baseline bool
	priority int
	subject  network.Predicate
	rules    [2][]adminRule
	pos      source.Pos
}

type adminRule struct {
	npRule
	action network.Action
	// nodes are selectors of nodes whose pods on the host's network are peers
	// as well; which those are is known at the end.
	nodes []network.Selector
}

// dialect is what the versions of the API name differently.
type dialect struct {
	accept   string // the word for network.Allow
	pass     bool   // whether Pass exists
	ports    string // the field that limits protocols and ports
	port     func(*importer, kube.Node, *adminRule)
	named    string // the field of a port's name
	limit    int    // most rules, peers and ports
	names    bool   // whether domainNames exists
	cluster  bool   // ClusterNetworkPolicy
	external []string
}

// The three kinds. Fields as in sigs.k8s.io/network-policy-api v0.1.7
// (v1alpha1) and v0.2.0 (v1alpha2).
var (
	adminV1 = dialect{accept: "Allow", pass: true, ports: "ports", port: (*importer).readAdminPort, named: "namedPort",
		limit: 100, names: true, external: []string{"nodes", "networks", "domainNames"}}
	baselineV1 = dialect{accept: "Allow", ports: "ports", port: (*importer).readAdminPort, named: "namedPort",
		limit: 100, external: []string{"nodes", "networks"}}
	clusterV2 = dialect{accept: "Accept", pass: true, ports: "protocols", port: (*importer).readClusterProtocol,
		named: "destinationNamedPort", limit: 25, names: true, cluster: true,
		external: []string{"nodes", "networks", "domainNames"}}
)

// baselinePriority puts a BaselineAdminNetworkPolicy, which has no priority
// and is alone, in a place of the baseline tier.
const baselinePriority = 1000

func (im *importer) readAdminNetworkPolicy(o *kube.Object) bool {
	spec := im.root(o).Field("spec")
	if !spec.Map() {
		missing(im.root(o), "spec")
		return true
	}
	spec.Known("priority", "subject", "ingress", "egress")
	im.readAdmin(o, spec, adminPolicy{dialect: &adminV1})
	return true
}

func (im *importer) readBaseline(o *kube.Object) bool {
	root := im.root(o)
	spec := root.Field("spec")
	if !spec.Map() {
		missing(root, "spec")
		return true
	}
	if o.Name != "default" {
		root.At("metadata", "name").Errorf("baseline-name", "the only BaselineAdminNetworkPolicy must be named default").
			WithFix("rename it to default")
	}
	spec.Known("subject", "ingress", "egress")
	im.readAdmin(o, spec, adminPolicy{dialect: &baselineV1, baseline: true, priority: baselinePriority})
	return true
}

func (im *importer) readClusterNetworkPolicy(o *kube.Object) bool {
	spec := im.root(o).Field("spec")
	if !spec.Map() {
		missing(im.root(o), "spec")
		return true
	}
	spec.Known("tier", "priority", "subject", "ingress", "egress")
	if !spec.Field("tier").Has() {
		missing(spec, "tier")
	}
	tier, _ := spec.Field("tier").OneOf("Admin", "Baseline")
	im.readAdmin(o, spec, adminPolicy{dialect: &clusterV2, baseline: tier == "Baseline"})
	return true
}

func (im *importer) readAdmin(o *kube.Object, spec kube.Node, p adminPolicy) {
	p.name, p.pos = im.names.text(o.String()), o.Pos
	if p.dialect != &baselineV1 {
		if !spec.Field("priority").Has() {
			missing(spec, "priority")
		}
		n, _ := spec.Field("priority").Int(0, 1000)
		p.priority = int(n)
	}
	subject := spec.Field("subject")
	if !subject.Has() {
		missing(spec, "subject")
		return
	}
	var ok bool
	if p.subject, ok = im.readPods(subject, "subject"); !ok {
		im.ignore(o, "its subject is not understood", true)
		return
	}
	for d, key := range map[network.Direction]string{network.Ingress: "ingress", network.Egress: "egress"} {
		list := spec.Field(key)
		if list.Len() > p.dialect.limit {
			list.Errorf("too-many", "%s has %d rules, and the most is %d", key, list.Len(), p.dialect.limit).
				WithFix("split the policy in two")
		}
		for i, n := range list.Items() {
			if r, ok := im.readAdminRule(o, n, &p, d, i+1); ok {
				p.rules[d] = append(p.rules[d], r)
			}
		}
	}
	im.admin = append(im.admin, p)
}

// readPods reads the union of namespaces and pods that subjects and peers
// share. It reports false when it says neither.
func (im *importer) readPods(n kube.Node, what string) (network.Predicate, bool) {
	p := network.Predicate{Endpoints: true}
	if !n.Map() {
		return p, false
	}
	if what == "subject" {
		n.Known("namespaces", "pods")
	}
	if n.Len() != 1 {
		n.Errorf("one-of", "%s must name exactly one of namespaces and pods", what)
		return p, false
	}
	switch {
	case n.Field("namespaces").Has():
		s, ok := kube.Selector(n.Field("namespaces"))
		p.Scope = im.selector(s)
		im.askScope(p.Scope)
		return p, ok
	case n.Field("pods").Has():
		pods := n.Field("pods")
		pods.Known("namespaceSelector", "podSelector")
		for _, key := range []string{"namespaceSelector", "podSelector"} {
			if !pods.Field(key).Has() {
				missing(pods, key)
				return p, false
			}
		}
		scope, ok := kube.Selector(pods.Field("namespaceSelector"))
		attrs, ok2 := kube.Selector(pods.Field("podSelector"))
		p.Scope, p.Attributes = im.selector(scope), im.selector(attrs)
		im.askScope(p.Scope)
		return p, ok && ok2
	}
	return p, false
}

func (im *importer) readAdminRule(o *kube.Object, n kube.Node, p *adminPolicy, d network.Direction, number int) (adminRule, bool) {
	key := "from"
	if d == network.Egress {
		key = "to"
	}
	r := adminRule{npRule: npRule{pos: n.Pos(), name: fmt.Sprintf("%s %s rule %d", p.name, d, number)}}
	if !n.Known("name", "action", key, p.dialect.ports) {
		return r, false
	}
	if name, _ := n.Field("name").Text(); name != "" {
		r.name += fmt.Sprintf(" (%s)", name)
	}
	r.name = im.names.text(r.name)
	action := n.Field("action")
	if !action.Has() {
		missing(n, "action")
		return r, false
	}
	words := []string{p.dialect.accept, "Deny"}
	if p.dialect.pass {
		words = append(words, "Pass")
	}
	word, ok := action.OneOf(words...)
	if !ok {
		return r, false
	}
	r.action = map[string]network.Action{p.dialect.accept: network.Allow, "Deny": network.Deny, "Pass": network.Pass}[word]
	im.readAdminPorts(n, p, &r)
	if !n.Field(key).Has() {
		missing(n, key)
	}
	if !im.readAdminPeers(n.Field(key), p, d, &r) {
		return im.failClosed(o, n, r)
	}
	return r, true
}

// failClosed is what the API demands of a rule with a peer that is not known:
// Accept matches nothing, Deny and Pass deny everything.
func (im *importer) failClosed(o *kube.Object, n kube.Node, r adminRule) (adminRule, bool) {
	at := *o
	at.Pos = n.Pos()
	if r.action == network.Allow {
		im.ignore(&at, "a peer of a rule is not understood: the rule matches nothing", true)
		return r, false
	}
	im.ignore(&at, "a peer of a rule is not understood: the rule denies everything", true)
	r.action, r.peers = network.Deny, []network.Predicate{{Everything: true}}
	r.traffic, r.named = netset.All(), nil
	return r, true
}

func (im *importer) readAdminPorts(n kube.Node, p *adminPolicy, r *adminRule) {
	ports := n.Field(p.dialect.ports)
	if !ports.Has() {
		r.traffic = netset.All()
		return
	}
	if ports.Value.Kind() == yamldoc.List && ports.Len() == 0 {
		ports.Errorf("empty-list", "%s is empty", ports.Name()).WithFix("leave it out to mean every protocol and port")
	}
	if ports.Len() > p.dialect.limit {
		ports.Errorf("too-many", "%s has %d items, and the most is %d", ports.Name(), ports.Len(), p.dialect.limit).
			WithFix("split the rule in two")
	}
	for _, port := range ports.Items() {
		p.dialect.port(im, port, r)
	}
}

// readAdminPort reads a port of v1alpha1.
func (im *importer) readAdminPort(n kube.Node, r *adminRule) {
	if !n.Known("portNumber", "namedPort", "portRange") {
		return
	}
	if n.Len() != 1 {
		n.Errorf("one-of", "a port must have exactly one of portNumber, namedPort and portRange")
		return
	}
	number, span := n.Field("portNumber"), n.Field("portRange")
	switch {
	case number.Has():
		number.Known("protocol", "port")
		if port, ok := number.Field("port").Int(1, 65535); ok {
			r.traffic = r.traffic.Union(netset.Port(readProtocol(number.Field("protocol")), uint16(port)))
		} else if !number.Field("port").Has() {
			missing(number, "port")
		}
	case span.Has():
		span.Known("protocol", "start", "end")
		lo, hi, ok := readSpan(span)
		if ok {
			r.traffic = r.traffic.Union(netset.Ports(readProtocol(span.Field("protocol")), lo, hi))
		}
	default:
		im.readNamedPort(n.Field("namedPort"), r)
	}
}

// readNamedPort adds a port by name: containers name ports of any protocol.
func (im *importer) readNamedPort(n kube.Node, r *adminRule) {
	name, ok := n.Text()
	if !ok {
		return
	}
	for _, proto := range []netset.Protocol{netset.TCP, netset.UDP, netset.SCTP} {
		r.named = append(r.named, network.NamedPort{Protocol: proto, Name: im.names.text(name)})
	}
}

func readSpan(n kube.Node) (lo, hi uint16, ok bool) {
	for _, key := range []string{"start", "end"} {
		if !n.Field(key).Has() {
			missing(n, key)
			return 0, 0, false
		}
	}
	a, okA := n.Field("start").Int(1, 65535)
	b, okB := n.Field("end").Int(1, 65535)
	if !okA || !okB {
		return 0, 0, false
	}
	if a >= b {
		n.Errorf("port-range", "start %d must be less than end %d", a, b)
		return 0, 0, false
	}
	return uint16(a), uint16(b), true
}

// readClusterProtocol reads an item of protocols of v1alpha2.
func (im *importer) readClusterProtocol(n kube.Node, r *adminRule) {
	if !n.Known("tcp", "udp", "sctp", "destinationNamedPort") {
		return
	}
	if n.Len() != 1 {
		n.Errorf("one-of", "an item of protocols must have exactly one of tcp, udp, sctp and destinationNamedPort")
		return
	}
	if n.Field("destinationNamedPort").Has() {
		im.readNamedPort(n.Field("destinationNamedPort"), r)
		return
	}
	for key, proto := range map[string]netset.Protocol{"tcp": netset.TCP, "udp": netset.UDP, "sctp": netset.SCTP} {
		p := n.Field(key)
		if !p.Has() {
			continue
		}
		p.Known("destinationPort")
		port := p.Field("destinationPort")
		if !port.Has() {
			p.Errorf("missing-field", "%s has no destinationPort", key).WithFix("name the ports, such as range: {start: 1, end: 65535}")
			continue
		}
		port.Known("number", "range")
		if port.Len() != 1 {
			port.Errorf("one-of", "destinationPort must have exactly one of number and range")
			continue
		}
		if number := port.Field("number"); number.Has() {
			if v, ok := number.Int(1, 65535); ok {
				r.traffic = r.traffic.Union(netset.Port(proto, uint16(v)))
			}
		} else if lo, hi, ok := readSpan(port.Field("range")); ok {
			r.traffic = r.traffic.Union(netset.Ports(proto, lo, hi))
		}
	}
}

// readAdminPeers reads from or to. It reports false when one of the peers is
// not understood.
func (im *importer) readAdminPeers(list kube.Node, p *adminPolicy, d network.Direction, r *adminRule) bool {
	if list.Len() == 0 {
		if list.Has() {
			list.Errorf("empty-list", "%s is empty", list.Name()).WithFix("name the peers; namespaces: {} is all of them")
		}
		return false
	}
	if list.Len() > p.dialect.limit {
		list.Errorf("too-many", "%s has %d peers, and the most is %d", list.Name(), list.Len(), p.dialect.limit).
			WithFix("split the rule in two")
	}
	understood := true
	for _, n := range list.Items() {
		if !im.readAdminPeer(n, p, d, r) {
			understood = false
		}
	}
	return understood
}

func (im *importer) readAdminPeer(n kube.Node, p *adminPolicy, d network.Direction, r *adminRule) bool {
	fields := []string{"namespaces", "pods"}
	if d == network.Egress {
		fields = append(fields, p.dialect.external...)
	}
	if !n.Has() || n.Map() && n.Len() == 0 {
		n.Errorf("empty-peer", "a peer names nothing, so the rule fails closed").WithFix("name one of %s", strings.Join(fields, ", "))
		return false
	}
	if !n.Known(fields...) {
		return false
	}
	if n.Len() != 1 {
		n.Errorf("one-of", "a peer must name exactly one of %s", strings.Join(fields, ", "))
		return false
	}
	if n.Field("namespaces").Has() || n.Field("pods").Has() {
		pred, ok := im.readPods(n, "a peer")
		r.peers = append(r.peers, pred)
		return ok
	}
	if d == network.Ingress {
		return false // an unknown field, already reported
	}
	return im.readOutsidePeer(n, p, r)
}

func (im *importer) readOutsidePeer(n kube.Node, p *adminPolicy, r *adminRule) bool {
	if len(r.named) > 0 {
		n.Errorf("named-outside", "%s cannot be used with nodes, networks or domainNames, whose ports have no names", p.dialect.named).
			WithFix("give the port as a number")
	}
	nodes, networks, names := n.Field("nodes"), n.Field("networks"), n.Field("domainNames")
	switch {
	case nodes.Has():
		s, ok := kube.Selector(nodes)
		im.addNodePeers(im.selector(s), r)
		return ok
	case networks.Has():
		return im.readNetworks(networks, r)
	case names.Has() && slices.Contains(p.dialect.external, "domainNames"):
		return im.readDomainNames(names, p, r)
	}
	return false
}

// addNodePeers adds the nodes that s selects, and what runs on their network:
// it has their addresses. Which pods those are is known where their node is.
func (im *importer) addNodePeers(s network.Selector, r *adminRule) {
	if len(s) == 0 {
		r.peers = append(r.peers, network.Predicate{Endpoints: true, Kinds: hostEnds})
		return
	}
	for _, req := range s {
		if im.nodeKeys == nil {
			im.nodeKeys = map[string]bool{}
		}
		im.nodeKeys[req.Key] = true
	}
	r.peers = append(r.peers, network.Predicate{Endpoints: true, Kinds: network.EndHost, Attributes: s})
	r.nodes = append(r.nodes, s)
}

func (im *importer) readNetworks(n kube.Node, r *adminRule) bool {
	if n.Len() > 25 {
		n.Errorf("too-many", "networks has %d items, and the most is 25", n.Len()).WithFix("split the peer in two")
	}
	var all netset.Addrs
	understood := n.Len() > 0
	for _, item := range n.Items() {
		a, ok := readCIDR(item)
		all, understood = all.Union(a), understood && ok
	}
	im.blocks = append(im.blocks, all)
	// Networks mean addresses inside the cluster too, by the API's own words.
	r.peers = append(r.peers, network.Predicate{Addrs: all})
	return understood
}

func (im *importer) readDomainNames(n kube.Node, p *adminPolicy, r *adminRule) bool {
	if r.action != network.Allow {
		n.Errorf("domain-names", "domainNames can only be used with action %s", p.dialect.accept).
			WithFix("deny with networks, and put an %s rule for the names before it", p.dialect.accept)
		return false
	}
	if n.Len() > 25 {
		n.Errorf("too-many", "domainNames has %d items, and the most is 25", n.Len()).WithFix("split the peer in two")
	}
	var names []string
	for _, item := range n.Items() {
		text, ok := item.Text()
		if !ok {
			continue
		}
		name := strings.TrimSuffix(strings.ToLower(text), ".")
		if !validDomain(strings.TrimPrefix(name, "*.")) {
			item.Errorf("domain-name", "%q is not a domain name", text).
				WithFix("write a name such as example.com, or *.example.com for every name below it")
			continue
		}
		names = append(names, im.names.text(name))
	}
	slices.Sort(names)
	r.peers = append(r.peers, network.Predicate{Names: slices.Compact(names)})
	return len(names) > 0
}

// validDomain reports whether s has two or more labels of letters, digits, _
// and -, as the API's pattern wants.
func validDomain(s string) bool {
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || strings.Trim(l[:1]+l[len(l)-1:], "-") != l[:1]+l[len(l)-1:] {
			return false
		}
	}
	return len(labels) > 1
}
