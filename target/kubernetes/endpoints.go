package kubernetes

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// addEndpoints adds an endpoint for every part of every workload that runs.
//
// Pods of one owner with equal labels, ports, service account and network are
// one endpoint with the union of their addresses, unless an address block of
// a policy tells their addresses apart: then they are as many as it takes for
// the answer to be exact.
func (b *builder) addEndpoints() {
	nodeAddrs, nodesKnown := b.nodeAddrs()
	slots := b.addressSlots()
	pods := map[string]int{}
	first := len(b.n.Endpoints)
	var hints []string
	for _, w := range b.workloads {
		if w.covered || w.idle {
			continue
		}
		top := w.top()
		b.injectLabels(w, top)
		name := b.names.text(w.namespace + "/" + top.kind + "/" + top.name)
		for i := range w.parts {
			p := &w.parts[i]
			if w.pod {
				key := podKey(w, p, slots, len(b.nodeKeys) > 0)
				if at, ok := pods[key]; ok {
					e := &b.n.Endpoints[at]
					e.Addrs = e.Addrs.Union(addrsOf(p.ips))
					p.labels = e.Attributes
					continue
				}
				pods[key] = len(b.n.Endpoints)
				if w.parent != nil {
					p.name = roleOf(p.labels)
					p.everywhere = w.parent.kind == "DaemonSet" && len(w.parent.parts) > 0 && w.parent.parts[0].everywhere
				}
			}
			e := b.endpoint(w, top, p)
			e.Workload, e.Part = name, p.name
			b.place(&e, p, nodeAddrs, nodesKnown)
			hint := w.name
			if w.pod && w.parent != nil && w.parent != top {
				hint = w.parent.name
			}
			hints = append(hints, hint)
			b.n.Endpoints = append(b.n.Endpoints, e)
		}
	}
	b.separate(first, hints)
	for i := first; i < len(b.n.Endpoints); i++ {
		e := &b.n.Endpoints[i]
		b.addressUnknown = b.addressUnknown || !e.AddrsKnown
	}
}

func (b *builder) endpoint(w, top *workload, p *part) network.Endpoint {
	attrs := p.labels
	if attrs == nil {
		attrs = map[string]string{}
	}
	account := p.serviceAccount
	if account == "" {
		account = network.Unsettled
	}
	attrs[ServiceAccountAttribute] = account
	attrs[WorkloadAttribute] = b.names.text(top.kind + "/" + top.name)
	if p.hostNetwork && len(b.nodeKeys) > 0 {
		node := p.node
		if node == "" {
			node = network.Unsettled
		}
		attrs[NodeAttribute] = node
	}
	facts := network.Facts{Group: top.group, Kind: top.kind, Name: top.name, Images: p.images, Commands: p.commands}
	return network.Endpoint{
		Kind: network.Workload, Scope: b.scopes[w.namespace], Attributes: attrs,
		Ports: p.ports, PortsUnseen: p.unseen, Facts: facts, Pos: w.pos, Everywhere: p.everywhere,
	}
}

// place says where an endpoint's instances are.
func (b *builder) place(e *network.Endpoint, p *part, nodeAddrs netset.Addrs, nodesKnown bool) {
	if p.hostNetwork {
		e.Attachment = network.HostShared
	}
	switch {
	case len(p.ips) > 0:
		e.Addrs, e.AddrsKnown = addrsOf(p.ips), true
	case p.hostNetwork && p.node != "" && nodesKnown:
		for _, nd := range b.nodes {
			if nd.name == p.node {
				e.Addrs, e.AddrsKnown = nd.ips, true
			}
		}
	case p.hostNetwork:
		e.Addrs, e.AddrsKnown = nodeAddrs, nodesKnown && p.everywhere
	}
	if e.Addrs.IsEmpty() {
		e.Addrs, e.AddrsKnown = b.space, false
	}
}

func addrsOf(ips []netip.Addr) netset.Addrs {
	prefixes := make([]netip.Prefix, len(ips))
	for i, a := range ips {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return netset.AddrsOf(prefixes...)
}

// addressSlots returns the points at which any address block of a policy
// begins or has ended, sorted. Addresses between the same two points are not
// told apart by any.
func (b *builder) addressSlots() []netip.Addr {
	var points []netip.Addr
	for _, set := range b.blocks {
		for _, r := range set.Ranges() {
			points = append(points, r.From())
			if next := r.To().Next(); next.IsValid() {
				points = append(points, next)
			}
		}
	}
	slices.SortFunc(points, netip.Addr.Compare)
	return slices.Compact(points)
}

// podKey is equal for pods that are one endpoint. Where policies tell nodes
// apart, so do the pods on their networks.
func podKey(w *workload, p *part, slots []netip.Addr, byNode bool) string {
	var k []byte
	text := func(s string) {
		k = binary.AppendUvarint(k, uint64(len(s)))
		k = append(k, s...)
	}
	if w.parent == nil {
		text(w.name)
	} else {
		text(w.parent.kind)
		text(w.parent.name)
	}
	text(w.namespace)
	text(p.serviceAccount)
	for _, key := range sortedKeys(p.labels) {
		text(key)
		text(p.labels[key])
	}
	k = append(k, 0xff)
	for _, port := range p.ports {
		text(port.Name)
		k = append(k, byte(port.Protocol))
		k = binary.AppendUvarint(k, uint64(port.Number))
	}
	for _, h := range p.hostPorts {
		k = binary.AppendUvarint(k, uint64(h.host))
	}
	if p.hostNetwork {
		k = append(k, 1)
		if byNode {
			text(p.node)
		}
	}
	k = append(k, 0xff)
	for _, ip := range p.ips {
		at, exact := slices.BinarySearchFunc(slots, ip, netip.Addr.Compare)
		if exact {
			at++
		}
		k = append(k, byte(ip.BitLen()))
		k = binary.AppendUvarint(k, uint64(at))
	}
	return string(k)
}

// separate gives endpoints of one workload different parts: after the object
// they come from where that differs, else by number.
func (b *builder) separate(first int, hints []string) {
	groups := map[string][]int{}
	for i := first; i < len(b.n.Endpoints); i++ {
		groups[b.n.Endpoints[i].Name()] = append(groups[b.n.Endpoints[i].Name()], i)
	}
	for _, ids := range groups {
		if len(ids) == 1 {
			continue
		}
		used := map[string]int{}
		for _, i := range ids {
			e := &b.n.Endpoints[i]
			e.Everywhere = false // each is on some nodes only
			hint := hints[i-first]
			if used[hint]++; used[hint] > 1 {
				hint = fmt.Sprintf("%s#%d", hint, used[hint])
			}
			if e.Part != "" {
				hint = e.Part + "/" + hint
			}
			e.Part = b.names.text(hint)
		}
	}
}
