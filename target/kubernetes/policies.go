package kubernetes

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// netpol is a NetworkPolicy.
type netpol struct {
	name     string // `NetworkPolicy shop/web`
	pos      source.Pos
	subject  network.Predicate
	isolates [2]bool // by network.Direction
	rules    [2][]npRule
}

// npRule is an item of ingress or egress.
type npRule struct {
	name    string
	peers   []network.Predicate
	traffic netset.Traffic
	named   []network.NamedPort
	pos     source.Pos
}

// asked is what policies ask for, collected while they are read.
type asked struct {
	scopeKeys map[string]bool // labels of namespaces
	nodeKeys  map[string]bool // labels of nodes
	blocks    []netset.Addrs  // address blocks
}

func (a *asked) askScope(s network.Selector) {
	for _, r := range s {
		if a.scopeKeys == nil {
			a.scopeKeys = map[string]bool{}
		}
		a.scopeKeys[r.Key] = true
	}
}

// readNetworkPolicy reads a NetworkPolicy with the defaults that the API
// server fills in.
func (im *importer) readNetworkPolicy(o *kube.Object) bool {
	root := im.root(o)
	if o.Group == "extensions" {
		root.Field("apiVersion").Warnf("old-version", "extensions/%s was removed in Kubernetes 1.16", o.Version).
			WithFix("write networking.k8s.io/v1")
	}
	im.useNamespace(o.Namespace)
	spec := root.Field("spec")
	p := netpol{name: im.names.text(o.String()), pos: o.Pos}
	spec.Known("podSelector", "policyTypes", "ingress", "egress")
	sel, ok := kube.Selector(spec.Field("podSelector"))
	if !ok && !spec.Field("podSelector").Has() {
		root.Warnf("missing-field", "spec has no podSelector, so it selects every pod of the namespace").
			WithFix("write podSelector: {} if that is meant")
	}
	p.subject = network.Predicate{Endpoints: true, ScopeName: o.Namespace, Attributes: im.selector(sel)}
	im.readPolicyTypes(spec, &p)
	for i, n := range spec.Field("ingress").Items() {
		im.readRule(n, &p, network.Ingress, "from", o.Namespace, i+1)
	}
	for i, n := range spec.Field("egress").Items() {
		im.readRule(n, &p, network.Egress, "to", o.Namespace, i+1)
	}
	im.policies = append(im.policies, p)
	return true
}

// readPolicyTypes says which directions a policy closes. Absent types mean
// Ingress, and Egress when there is an egress rule.
func (im *importer) readPolicyTypes(spec kube.Node, p *netpol) {
	types := spec.Field("policyTypes")
	egress := spec.Field("egress")
	if types.Len() == 0 {
		types.Items()(func(int, kube.Node) bool { return true }) // reports a wrong type
		p.isolates = [2]bool{network.Egress: egress.Len() > 0, network.Ingress: true}
		if egress.Value.Kind() == yamldoc.List && egress.Len() == 0 {
			egress.Warnf("no-effect", "an empty egress without policyTypes denies nothing").
				WithFix("write policyTypes: [Ingress, Egress] to deny all egress")
		}
		return
	}
	var named [2]bool
	for _, n := range types.Items() {
		word, ok := n.OneOf("Ingress", "Egress")
		if !ok {
			p.isolates = [2]bool{true, true} // whichever was meant
			continue
		}
		d := network.Ingress
		if word == "Egress" {
			d = network.Egress
		}
		if named[d] {
			n.Errorf("duplicate-value", "policyTypes names %s twice", word).WithFix("remove one of them")
		}
		named[d], p.isolates[d] = true, true
	}
	for d, key := range map[network.Direction]string{network.Ingress: "ingress", network.Egress: "egress"} {
		if !p.isolates[d] && spec.Field(key).Len() > 0 {
			spec.Field(key).Warnf("no-effect", "the %s rules have no effect: policyTypes does not name the direction", key).
				WithFix("add %s%s to policyTypes, or remove the rules", strings.ToUpper(key[:1]), key[1:])
		}
	}
}

func (im *importer) readRule(n kube.Node, p *netpol, d network.Direction, peerKey, namespace string, number int) {
	before := len(im.ds)
	if n.Has() && !n.Known(peerKey, "ports") {
		return
	}
	r := npRule{name: im.names.text(fmt.Sprintf("%s %s rule %d", p.name, d, number)), pos: n.Pos()}
	if !n.Has() {
		n.Warnf("empty-rule", "%s rule %d is empty and allows everything", d, number).WithFix("write {} if that is meant")
	}
	peers, ports := n.Field(peerKey), n.Field("ports")
	for _, peer := range peers.Items() {
		if pred, ok := im.readPeer(peer, peerKey, namespace); ok {
			r.peers = append(r.peers, pred)
		}
	}
	if peers.Len() == 0 {
		r.peers = []network.Predicate{{Everything: true}}
	}
	if ports.Len() == 0 {
		ports.Items()(func(int, kube.Node) bool { return true }) // reports a wrong type
		r.traffic = netset.All()
	}
	for _, port := range ports.Items() {
		t, named := readPolicyPort(port)
		r.traffic = r.traffic.Union(t)
		r.named = append(r.named, named...)
	}
	// A rule that is wrong in part allows nothing: what was meant is not known.
	if p.isolates[d] && !im.ds[before:].HasErrors() {
		p.rules[d] = append(p.rules[d], r)
	}
}

// readPeer reads an item of from or to.
func (im *importer) readPeer(n kube.Node, key, namespace string) (network.Predicate, bool) {
	var p network.Predicate
	if !n.Has() || n.Map() && n.Len() == 0 {
		n.Errorf("empty-peer", "an item of %s names no peer", key).
			WithFix("write podSelector, namespaceSelector or ipBlock; to mean everyone, leave %s out", key)
		return p, false
	}
	if !n.Known("podSelector", "namespaceSelector", "ipBlock") {
		return p, false
	}
	pods, namespaces, block := n.Field("podSelector"), n.Field("namespaceSelector"), n.Field("ipBlock")
	if block.Has() {
		if pods.Has() || namespaces.Has() {
			block.Errorf("mixed-peer", "ipBlock cannot be combined with a selector").WithFix("make them two items of %s", key)
			return p, false
		}
		addrs, ok := im.readIPBlock(block)
		return network.Predicate{Addrs: addrs, AddrsOutsideOnly: !im.profile.BlocksMatchPods}, ok
	}
	p.Endpoints = true
	if !pods.Has() && !namespaces.Has() {
		null := func(n kube.Node) bool { return n.Value.Kind() == yamldoc.Null }
		if null(pods) || null(namespaces) || null(block) {
			n.Errorf("empty-peer", "an item of %s names no peer: null is not {}", key).
				WithFix("write podSelector: {} to mean every pod of the namespace")
		}
		return p, false // what else there is are unknown fields, already reported
	}
	sel, ok := kube.Selector(pods)
	if pods.Has() && !ok {
		return p, false
	}
	p.Attributes = im.selector(sel)
	if !namespaces.Has() {
		p.ScopeName = namespace
		return p, true
	}
	scope, ok := kube.Selector(namespaces)
	p.Scope = im.selector(scope)
	im.askScope(p.Scope)
	return p, ok
}

// readIPBlock reads a block and its exceptions.
func (im *importer) readIPBlock(n kube.Node) (netset.Addrs, bool) {
	if !n.Known("cidr", "except") {
		return netset.Addrs{}, false
	}
	if !n.Field("cidr").Has() {
		missing(n, "cidr")
		return netset.Addrs{}, false
	}
	whole, ok := readCIDR(n.Field("cidr"))
	if !ok {
		return netset.Addrs{}, false
	}
	addrs := whole
	for _, e := range n.Field("except").Items() {
		out, ok := readCIDR(e)
		if !ok {
			continue
		}
		if !out.SubsetOf(whole) || out.Equal(whole) {
			text, _ := e.Value.Text()
			cidr, _ := n.Field("cidr").Value.Text()
			e.Errorf("except-outside", "except %s is not a part of cidr %s", text, cidr).
				WithFix("an exception must lie inside its cidr and be smaller")
			continue
		}
		addrs = addrs.Subtract(out)
	}
	im.blocks = append(im.blocks, addrs)
	return addrs, true
}

// readCIDR reads a CIDR. Bits behind the mask are read as the API server reads
// them, with a warning.
func readCIDR(n kube.Node) (netset.Addrs, bool) {
	text, ok := n.Text()
	if !ok {
		return netset.Addrs{}, false
	}
	if !strings.Contains(text, "/") {
		d := n.Errorf("bad-cidr", "%q is not a CIDR", text)
		if a, err := netset.ParseCIDR(text); err == nil {
			d.WithFix("write %s", a.CIDRs()[0])
		} else {
			d.WithFix("write an address and a mask, such as 10.0.0.0/8 or 2001:db8::/32")
		}
		return netset.Addrs{}, false
	}
	addrs, err := netset.ParseCIDR(text)
	var bits *netset.HostBitsError
	if errors.As(err, &bits) {
		n.Warnf("host-bits", "%s has bits set behind its mask and means %s", text, bits.Prefix.Masked()).
			WithFix("write %s, or %s/%d for the one address", bits.Prefix.Masked(), bits.Prefix.Addr(), bits.Prefix.Addr().BitLen())
		return addrs, true
	}
	if err != nil {
		n.Errorf("bad-cidr", "%q is not a CIDR", text).
			WithFix("write an address and a mask, such as 10.0.0.0/8 or 2001:db8::/32")
		return netset.Addrs{}, false
	}
	return addrs, true
}

// readPolicyPort reads an item of ports. Without a protocol it means TCP,
// without a port every port of the protocol.
func readPolicyPort(n kube.Node) (netset.Traffic, []network.NamedPort) {
	if !n.Has() {
		return netset.Whole(netset.TCP), nil
	}
	if !n.Known("protocol", "port", "endPort") {
		return netset.Traffic{}, nil
	}
	proto := readProtocol(n.Field("protocol"))
	port, end := n.Field("port"), n.Field("endPort")
	switch {
	case !port.Has():
		if end.Has() {
			end.Errorf("end-port", "endPort needs a port to begin at").WithFix("add port")
			return netset.Traffic{}, nil
		}
		return netset.Whole(proto), nil
	case port.Value.IsString():
		name, _ := port.Text()
		if !validPortName(name) {
			d := port.Errorf("port-name", "%q cannot be the name of a port", name)
			if strings.Trim(name, "0123456789") == "" {
				d.WithFix("to mean the number, write it without quotes")
			} else {
				d.WithFix("a name has up to 15 lower-case letters, digits and -, and at least one letter")
			}
			return netset.Traffic{}, nil
		}
		if end.Has() {
			end.Errorf("end-port", "endPort cannot follow the named port %q", name).WithFix("give port as a number")
		}
		return netset.Traffic{}, []network.NamedPort{{Protocol: proto, Name: strings.Clone(name)}}
	}
	lo, ok := port.Int(1, 65535)
	if !ok {
		return netset.Traffic{}, nil
	}
	hi := lo
	if end.Has() {
		if hi, ok = end.Int(1, 65535); !ok {
			return netset.Traffic{}, nil
		}
		if hi < lo {
			end.Errorf("end-port", "endPort %d is lower than port %d", hi, lo).WithFix("swap the two")
			return netset.Traffic{}, nil
		}
	}
	return netset.Ports(proto, uint16(lo), uint16(hi)), nil
}

func validPortName(s string) bool {
	letter := false
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z':
			letter = true
		case c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1 && s[i-1] != '-':
		default:
			return false
		}
	}
	return letter && len(s) <= 15
}

// selector interns the strings of a selector and sorts its values, so that
// equal selectors are one predicate.
func (im *importer) selector(s network.Selector) network.Selector {
	for i := range s {
		s[i].Key = im.names.text(s[i].Key)
		for j, v := range s[i].Values {
			s[i].Values[j] = im.names.text(v)
		}
		slices.Sort(s[i].Values)
		s[i].Values = slices.Compact(s[i].Values)
	}
	return s
}
