package example

import (
	"errors"
	"fmt"
	"slices"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
)

var errProfile = errors.New("a fence has no profiles: leave it out")

// importer collects what it is given; the network is made at the end, when
// every machine is known.
type importer struct {
	ds        source.Diagnostics
	objects   int
	endpoints []network.Endpoint
	machines  map[string]source.Pos
	lines     []line
}

type line struct {
	from, to network.Predicate
	traffic  netset.Traffic
	pos      source.Pos
}

// Add takes a document with the key `fence`.
func (im *importer) Add(d target.Document) bool {
	v := d.Value
	if v.Get("fence").Kind() == yamldoc.Missing {
		return false
	}
	im.objects++
	// Input is never ignored silently: a version or key that is not known is
	// an error.
	if version, _ := v.Get("fence").Text(); version != "v1" {
		im.ds.Errorf("version", v.Get("fence").Pos(), "fence version %q is not known", version).WithFix("write fence: v1")
	}
	im.known(v, "fence", "machines", "allow")
	for _, m := range v.Get("machines").Items() {
		im.addMachine(m)
	}
	for _, l := range v.Get("allow").Items() {
		im.addLine(l)
	}
	return true
}

func (im *importer) known(v yamldoc.Value, keys ...string) {
	for k := range v.Entries() {
		key, _ := k.Text()
		if !slices.Contains(keys, key) {
			im.ds.Errorf("unknown-field", k.Pos(), "there is no field %q", key).WithFix("known: %v", keys)
		}
	}
}

func (im *importer) addMachine(v yamldoc.Value) {
	im.known(v, "name", "address")
	name, _ := v.Get("name").Text()
	text, _ := v.Get("address").Text()
	addrs, err := netset.ParseCIDR(text)
	if first, twice := im.machines[name]; err != nil || name == "" || twice {
		im.ds.Errorf("machine", v.Pos(), "a machine needs a name of its own and an address").WithNote(first, "the other one")
		return
	}
	im.machines[name] = v.Pos()
	im.endpoints = append(im.endpoints, network.Endpoint{
		Workload: "fence/Machine/" + name, Scope: -1, Attributes: map[string]string{"machine": name},
		Addrs: addrs, AddrsKnown: true, Pos: v.Pos()})
}

func (im *importer) addLine(v yamldoc.Value) {
	im.known(v, "from", "to", "traffic")
	text, _ := v.Get("traffic").Text()
	traffic, err := netset.ParseTraffic(text)
	if err != nil || traffic.IsEmpty() {
		im.ds.Errorf("traffic", v.Get("traffic").Pos(), "%q is not traffic", text).WithFix("write TCP 443 or TCP 8000-8010; UDP 53")
		return
	}
	im.lines = append(im.lines, line{from: party(v.Get("from")), to: party(v.Get("to")), traffic: traffic, pos: v.Pos()})
}

// party reads a CIDR or the name of a machine.
func party(v yamldoc.Value) network.Predicate {
	text, _ := v.Text()
	if addrs, err := netset.ParseCIDR(text); err == nil {
		return network.Predicate{Addrs: addrs, AddrsOutsideOnly: true}
	}
	return machine(text)
}

// Finish appends the machines, one layer that filters on both sides, and the
// paths along which it does.
func (im *importer) Finish(n *network.Network) source.Diagnostics {
	n.Endpoints = append(n.Endpoints, im.endpoints...)
	n.Coverage.Objects += im.objects
	n.Coverage.Understood += im.objects
	everyone := n.Predicate(network.Predicate{Endpoints: true})
	layer := network.Layer{Name: "fence"}
	for d := range layer.Tables {
		layer.Tables[d] = []network.Table{{Name: "lines", Isolates: []network.Isolation{{Name: "fence", Subject: everyone}}}}
	}
	for i, l := range im.lines {
		rule := network.Rule{Name: fmt.Sprintf("fence line %d", i+1), Traffic: l.traffic, Pos: l.pos}
		out, in := rule, rule
		out.Subject, out.Peers = n.Predicate(l.from), []network.PredicateID{n.Predicate(l.to)}
		in.Subject, in.Peers = n.Predicate(l.to), []network.PredicateID{n.Predicate(l.from)}
		layer.Tables[network.Egress][0].Rules = append(layer.Tables[network.Egress][0].Rules, out)
		layer.Tables[network.Ingress][0].Rules = append(layer.Tables[network.Ingress][0].Rules, in)
	}
	egress := network.Step{Kind: network.Filter, Layer: len(n.Layers), Direction: network.Egress, Name: "fence of the source"}
	ingress := network.Step{Kind: network.Filter, Layer: len(n.Layers), Direction: network.Ingress, Name: "fence of the destination"}
	n.Layers = append(n.Layers, layer)
	n.Paths = append(n.Paths,
		network.Path{Name: "between machines", From: network.EndOwn, To: network.EndOwn, Steps: []network.Step{egress, ingress}},
		network.Path{Name: "to outside", From: network.EndOwn, To: network.EndOutside, Steps: []network.Step{egress}},
		network.Path{Name: "from outside", From: network.EndOutside, To: network.EndOwn, Steps: []network.Step{ingress}})
	return im.ds
}
