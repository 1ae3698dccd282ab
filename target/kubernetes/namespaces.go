package kubernetes

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// namespace is one that is defined, or only used.
type namespace struct {
	labels  map[string]string
	pos     source.Pos
	defined bool
}

// useNamespace makes sure that there is a namespace of the name.
func (im *importer) useNamespace(name string) *namespace {
	ns := im.namespaces[name]
	if ns == nil {
		ns = &namespace{labels: map[string]string{kube.NamespaceLabel: name}}
		im.namespaces[name] = ns
	}
	return ns
}

func (im *importer) readNamespace(o *kube.Object) bool {
	ns := im.useNamespace(o.Name)
	ns.defined, ns.pos = true, o.Pos
	labels := im.labels(im.root(o).At("metadata", "labels"))
	if given, ok := labels[kube.NamespaceLabel]; ok && given != o.Name {
		im.root(o).At("metadata", "labels", kube.NamespaceLabel).
			Warnf("namespace-label", "the API server sets this label to %q whatever is written", o.Name).WithFix("remove it")
	}
	labels[kube.NamespaceLabel] = o.Name
	ns.labels = labels
	return true
}

// readProfile reads a Kubeflow Profile, whose controller makes a namespace of
// the same name. The labels are those of profile-controller 1.10's
// namespace-labels.yaml, which an installation can change.
func (im *importer) readProfile(o *kube.Object) bool {
	ns := im.useNamespace(o.Name)
	if ns.defined {
		return true
	}
	ns.pos = o.Pos
	maps.Copy(ns.labels, map[string]string{
		"app.kubernetes.io/part-of":                      "kubeflow-profile",
		"istio-injection":                                network.Unsettled,
		"katib.kubeflow.org/metrics-collector-injection": network.Unsettled,
		"serving.kubeflow.org/inferenceservice":          network.Unsettled,
		"pipelines.kubeflow.org/enabled":                 network.Unsettled,
	})
	return true
}

// node is a Node object.
type node struct {
	name     string
	labels   map[string]string
	ips      netset.Addrs
	external netset.Addrs // ExternalIP addresses
}

func (im *importer) readNode(o *kube.Object) bool {
	nd := node{name: o.Name, labels: im.labels(im.root(o).At("metadata", "labels"))}
	for _, item := range o.Value.At("status", "addresses").Items() {
		typ, _ := item.Get("type").Text()
		if typ != "InternalIP" && typ != "ExternalIP" {
			continue
		}
		text, _ := item.Get("address").Text()
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		nd.ips = nd.ips.Union(netset.Addr(a))
		if typ == "ExternalIP" {
			nd.external = nd.external.Union(netset.Addr(a))
		}
		im.ipv6 = im.ipv6 || a.Is6() && !a.Is4In6()
	}
	im.noteFamilies(o.Value.At("spec", "podCIDRs"))
	im.nodes = append(im.nodes, nd)
	return true
}

// noteFamilies looks for an IPv6 address in a list.
func (im *importer) noteFamilies(list yamldoc.Value) {
	for _, item := range list.Items() {
		text, _ := item.Text()
		im.ipv6 = im.ipv6 || strings.Contains(text, ":") || text == "IPv6"
	}
}

// addScopes adds a scope for each namespace. Of one that the input only names,
// any label that a rule asks for may or may not be there.
func (b *builder) addScopes() {
	for i := range b.n.Scopes {
		b.scopes[b.n.Scopes[i].Name] = i
	}
	for _, name := range sortedKeys(b.namespaces) {
		ns := b.namespaces[name]
		if !ns.defined {
			for key := range b.scopeKeys {
				if _, ok := ns.labels[key]; !ok {
					ns.labels[key] = network.Unstated
				}
			}
		}
		if i, ok := b.scopes[name]; ok {
			b.n.Scopes[i].Attributes, b.n.Scopes[i].Pos = ns.labels, ns.pos
			continue
		}
		b.scopes[name] = len(b.n.Scopes)
		b.n.Scopes = append(b.n.Scopes, network.Scope{Name: name, Attributes: ns.labels, Pos: ns.pos})
	}
}

// addHosts adds the nodes and the control plane. Nodes are one endpoint unless
// a policy selects nodes by labels that differ between them.
func (b *builder) addHosts() {
	b.first = len(b.n.Endpoints)
	keys := sortedKeys(b.nodeKeys)
	if len(b.nodes) == 0 {
		attrs := map[string]string{}
		for _, k := range keys {
			attrs[k] = network.Unstated
		}
		b.n.Endpoints = append(b.n.Endpoints, network.Endpoint{
			Kind: network.Host, Workload: NodesName, Scope: -1, Attributes: attrs, Attachment: network.HostShared,
			Addrs: b.space})
	}
	byLabels := map[string]int{}
	for _, nd := range b.nodes {
		attrs := map[string]string{}
		var parts []string
		for _, k := range keys {
			if v, ok := nd.labels[k]; ok {
				attrs[k] = v
				parts = append(parts, k+"="+v)
			}
		}
		part := strings.Join(parts, ",")
		i, ok := byLabels[part]
		if !ok {
			i = len(b.n.Endpoints)
			byLabels[part] = i
			b.n.Endpoints = append(b.n.Endpoints, network.Endpoint{
				Kind: network.Host, Workload: NodesName, Part: part, Scope: -1, Attributes: attrs,
				Attachment: network.HostShared, AddrsKnown: true})
		}
		e := &b.n.Endpoints[i]
		e.Addrs = e.Addrs.Union(nd.ips)
	}
	for i := range b.n.Endpoints[b.first:] {
		e := &b.n.Endpoints[b.first+i]
		if e.Addrs.IsEmpty() {
			e.Addrs, e.AddrsKnown = b.space, false
		}
		if e.Part == "" && len(byLabels) > 1 {
			e.Part = "other"
		}
	}
	b.n.Endpoints = append(b.n.Endpoints, network.Endpoint{
		Kind: network.Control, Workload: ControlPlaneName, Scope: -1, Attributes: map[string]string{},
		Attachment: network.HostShared, Addrs: b.space})
}

// nodeAddrs returns the addresses of all nodes; known is false when they are
// only where nodes may be.
func (b *builder) nodeAddrs() (addrs netset.Addrs, known bool) {
	for _, nd := range b.nodes {
		addrs = addrs.Union(nd.ips)
	}
	if addrs.IsEmpty() {
		return b.space, false
	}
	return addrs, true
}

// nodesMatching returns the names of the nodes that a selector means.
func (im *importer) nodesMatching(s network.Selector) []string {
	var names []string
	for _, nd := range im.nodes {
		if s.Match(nd.labels) == network.Yes {
			names = append(names, nd.name)
		}
	}
	slices.Sort(names)
	return names
}
