package kubernetes

import (
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/target/kube"
)

// readPod reads a pod template, or a Pod.
func (im *importer) readPod(template kube.Node) part {
	p := im.readPodAt(template.Field("metadata"), template.Field("spec"))
	if p.pos.Line == 0 {
		p.pos = template.Pos()
	}
	return p
}

// networkFields are the fields of a pod that change what it can reach; a field
// that looks like a misspelt one of them is an error.
var networkFields = []string{"hostNetwork", "containers", "initContainers", "serviceAccountName"}

func (im *importer) readPodAt(meta, spec kube.Node) part {
	p := part{pos: spec.Pos(), labels: im.labels(meta.Field("labels"))}
	if !spec.Map() {
		return p
	}
	for k := range spec.Value.Entries() {
		key, _ := k.Text()
		if slices.Contains(networkFields, key) || podSpecFields[key] {
			continue
		}
		if near := source.Nearest(key, networkFields); near != "" {
			spec.Of(k).Errorf("unknown-field", "a pod has no field %q", key).WithFix("did you mean %q?", near)
		}
	}
	p.hostNetwork, _ = spec.Field("hostNetwork").Bool()
	account := spec.Field("serviceAccountName")
	if !account.Has() {
		account = spec.Field("serviceAccount")
	}
	name, _ := account.Text()
	if name == "" {
		name = "default"
	}
	p.serviceAccount = im.names.text(name)
	for _, c := range spec.Field("containers").Items() {
		im.readContainer(c, &p)
	}
	for _, c := range spec.Field("initContainers").Items() {
		// A sidecar: an init container that keeps running.
		if restart, _ := c.Field("restartPolicy").Value.Text(); restart == "Always" {
			im.readContainer(c, &p)
		}
	}
	return p
}

// podSpecFields are real fields whose names come near to a network field.
var podSpecFields = map[string]bool{
	"serviceAccount": true, "ephemeralContainers": true, "hostname": true, "container": true,
}

// labels reads a map of labels; the strings are interned, the map is not.
func (im *importer) labels(n kube.Node) map[string]string {
	raw := n.StringMap()
	out := make(map[string]string, len(raw)+4)
	for k, v := range raw {
		out[im.names.text(k)] = im.names.text(v)
	}
	return out
}

// commandLimit bounds what is kept of one word of a command: enough to
// recognise a program by, and not the whole script.
const commandLimit = 4096

func (im *importer) readContainer(c kube.Node, p *part) {
	if !c.Map() {
		return
	}
	if image, _ := c.Field("image").Value.Text(); image != "" {
		p.images = append(p.images, im.names.text(image))
	}
	words := 0
	for _, key := range []string{"command", "args"} {
		for _, w := range c.Field(key).Value.Items() {
			if text, _ := w.Text(); text != "" {
				p.commands = append(p.commands, im.names.text(text[:min(len(text), commandLimit)]))
				words++
			}
		}
	}
	if words > 0 {
		p.commands = append(p.commands, "") // the end of one command line
	}
	for _, port := range c.Field("ports").Items() {
		im.readContainerPort(port, p)
	}
}

func (im *importer) readContainerPort(n kube.Node, p *part) {
	if !n.Known("name", "containerPort", "protocol", "hostPort", "hostIP") {
		return
	}
	if !n.Field("containerPort").Has() {
		n.Errorf("missing-field", "a container port has no containerPort")
		return
	}
	number, ok := n.Field("containerPort").Int(1, 65535)
	if !ok {
		return
	}
	proto := readProtocol(n.Field("protocol"))
	name, _ := n.Field("name").Text()
	port := network.Port{Name: im.names.text(name), Protocol: proto, Number: uint16(number)}
	p.ports = append(p.ports, port)
	host := n.Field("hostPort")
	if h, ok := host.Int(0, 65535); ok && h != 0 {
		addr, _ := n.Field("hostIP").Text()
		p.hostPorts = append(p.hostPorts, hostPort{Port: port, host: uint16(h), addr: im.names.text(addr), pos: host.Pos()})
	}
}

var protocolWords = map[string]netset.Protocol{"TCP": netset.TCP, "UDP": netset.UDP, "SCTP": netset.SCTP}

// readProtocol reads a protocol; absent means TCP.
func readProtocol(n kube.Node) netset.Protocol {
	if !n.Has() {
		return netset.TCP
	}
	word, ok := n.Text()
	if !ok {
		return netset.TCP
	}
	proto, known := protocolWords[word]
	if !known {
		d := n.Errorf("unknown-value", "protocol cannot be %q", word)
		if _, upper := protocolWords[strings.ToUpper(word)]; upper {
			d.WithFix("write %q", strings.ToUpper(word))
		} else {
			d.WithFix("write one of TCP, UDP, SCTP")
		}
	}
	return proto
}
