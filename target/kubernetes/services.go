package kubernetes

import (
	"net/netip"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// exposed is what publishes workloads, as read.
type exposed struct {
	services    map[objectName]*service
	serviceList []*service
	slices      map[objectName][]backend
	pools       netset.Addrs // of MetalLB
	hasPools    bool
	ingresses   []ingress
	classes     map[string]ingressClass
	albParams   map[string]albParams // IngressClassParams by name
	bindings    []targetBinding
	gatewayList []*gateway
	gwClasses   map[string]string // controller by GatewayClass
	gwRoutes    []gwRoute
	grants      []grant
	osRoutes    []osRoute
	hooks       []hook
}

// service is a Service, or one that an operator makes.
type service struct {
	objectName
	kind         string
	maker        *workload // of which an operator makes it, or nil
	selects      bool
	selector     network.Selector
	ports        []servicePort
	headless     bool
	addresses    netset.Addrs
	externalIPs  netset.Addrs
	externalName string
	noNodePorts  bool
	tailnet      bool // published by the operator of Tailscale
	local        bool // externalTrafficPolicy: Local
	lb           balancer
	pos          source.Pos
}

type servicePort struct {
	name       string
	protocol   netset.Protocol
	port, node uint16
	number     uint16 // of the target, or zero
	target     string // name of the target's port
	pos        source.Pos
}

// backend is an address behind a service without a selector.
type backend struct {
	addrs []netip.Addr
	pods  []string // names of Pods in the service's namespace
	ports []servicePort
	pos   source.Pos
}

// serviceFields are the fields of a Service's spec, so that a misspelt
// restriction is not taken for none.
var serviceFields = []string{"ports", "selector", "clusterIP", "clusterIPs", "type", "externalIPs", "sessionAffinity",
	"loadBalancerIP", "loadBalancerSourceRanges", "externalName", "externalTrafficPolicy", "healthCheckNodePort",
	"publishNotReadyAddresses", "sessionAffinityConfig", "ipFamilies", "ipFamilyPolicy", "ipFamily",
	"allocateLoadBalancerNodePorts", "loadBalancerClass", "internalTrafficPolicy", "trafficDistribution", "topologyKeys"}

func (im *importer) readService(o *kube.Object) bool {
	root := im.root(o)
	spec := root.Field("spec")
	im.useNamespace(o.Namespace)
	if !spec.Known(serviceFields...) {
		if !spec.Has() {
			missing(root, "spec")
		}
		return true
	}
	s := &service{objectName: objectName{o.Namespace, o.Name}, pos: o.Pos, kind: "ClusterIP"}
	if spec.Field("type").Has() {
		if kind, ok := spec.Field("type").OneOf("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"); ok {
			s.kind = kind
		}
	}
	if spec.Field("selector").Map() && spec.Field("selector").Len() > 0 {
		s.selects = true
		s.selector = im.selector(network.Equals(spec.Field("selector").StringMap()))
	}
	im.readServiceAddresses(spec, s)
	for _, n := range spec.Field("ports").Items() {
		if p, ok := im.readServicePort(n); ok {
			s.ports = append(s.ports, p)
		}
	}
	if len(s.ports) == 0 && spec.Field("ports").Len() == 0 && !s.headless && s.kind != "ExternalName" {
		missing(spec, "ports")
	}
	if policy := spec.Field("externalTrafficPolicy"); policy.Has() {
		word, _ := policy.OneOf("Cluster", "Local")
		s.local = word == "Local"
	}
	if allocate := spec.Field("allocateLoadBalancerNodePorts"); allocate.Has() {
		v, ok := allocate.Bool()
		s.noNodePorts = ok && !v
	}
	s.lb = im.readBalancer(spec, root.At("metadata", "annotations"), o.Value)
	s.tailnet = o.Annotation("tailscale.com/expose") == "true"
	im.addService(s)
	return true
}

// addService keeps a service. Of two that say different things both publish,
// and the first is the one that others refer to; one that is written comes
// before one that an operator would make.
func (im *importer) addService(s *service) {
	before := im.services[s.objectName]
	if before != nil && s.maker != nil {
		return
	}
	if before == nil || before.maker != nil {
		im.services[s.objectName] = s
	}
	im.serviceList = append(im.serviceList, s)
}

func (im *importer) readServiceAddresses(spec kube.Node, s *service) {
	im.noteFamilies(spec.Field("ipFamilies").Value)
	im.noteFamilies(spec.Field("clusterIPs").Value)
	ips := append(spec.Field("clusterIPs").Strings(), "")
	ips[len(ips)-1], _ = spec.Field("clusterIP").Text()
	for _, text := range ips {
		s.headless = s.headless || text == "None"
		if a, err := netip.ParseAddr(text); err == nil {
			s.addresses = s.addresses.Union(netset.Addr(a))
		}
	}
	for _, n := range spec.Field("externalIPs").Items() {
		text, ok := n.Text()
		if !ok {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			n.Errorf("bad-address", "%q is not an address", text)
			continue
		}
		s.externalIPs = s.externalIPs.Union(netset.Addr(a))
	}
	name, _ := spec.Field("externalName").Text()
	s.externalName = strings.Clone(name)
	if s.kind == "ExternalName" && name == "" {
		missing(spec, "externalName")
	}
}

func (im *importer) readServicePort(n kube.Node) (servicePort, bool) {
	var p servicePort
	if !n.Known("name", "protocol", "appProtocol", "port", "targetPort", "nodePort") {
		return p, false
	}
	if !n.Field("port").Has() {
		missing(n, "port")
		return p, false
	}
	port, ok := n.Field("port").Int(1, 65535)
	if !ok {
		return p, false
	}
	name, _ := n.Field("name").Text()
	p = servicePort{name: im.names.text(name), protocol: readProtocol(n.Field("protocol")), port: uint16(port), pos: n.Pos()}
	if node, ok := n.Field("nodePort").Int(0, 65535); ok {
		p.node = uint16(node)
	}
	p.number, p.target, ok = im.readTargetPort(n.Field("targetPort"), p.port)
	return p, ok
}

// readTargetPort reads a port by number or name; absent means fallback.
func (im *importer) readTargetPort(n kube.Node, fallback uint16) (number uint16, name string, ok bool) {
	switch {
	case !n.Has():
		return fallback, "", true
	case n.Value.IsString():
		name, _ = n.Text()
		if !validPortName(name) {
			d := n.Errorf("port-name", "%q cannot be the name of a port", name)
			if strings.Trim(name, "0123456789") == "" {
				d.WithFix("to mean the number, write it without quotes")
			} else {
				d.WithFix("a name has up to 15 lower-case letters, digits and -, and at least one letter")
			}
			return 0, "", false
		}
		return 0, im.names.text(name), true
	}
	v, ok := n.Int(0, 65535)
	if v == 0 {
		return fallback, "", ok
	}
	return uint16(v), "", ok
}

// readEndpoints reads the addresses behind a service without a selector.
func (im *importer) readEndpoints(o *kube.Object) bool {
	name := objectName{o.Namespace, o.Name}
	for _, n := range im.root(o).Field("subsets").Items() {
		if !n.Known("addresses", "notReadyAddresses", "ports") {
			continue
		}
		b := backend{pos: n.Pos()}
		for _, a := range n.Field("addresses").Items() {
			im.readBackendAddress(a.Field("ip"), &b)
			im.readTargetRef(a.Field("targetRef"), &b)
		}
		im.readBackendPorts(n.Field("ports"), &b)
		im.addBackend(name, b)
	}
	return true
}

func (im *importer) readEndpointSlice(o *kube.Object) bool {
	owner, _ := o.Value.At("metadata", "labels", "kubernetes.io/service-name").Text()
	if owner == "" {
		im.root(o).Warnf("no-service", "the label kubernetes.io/service-name is missing, so the slice belongs to no service").
			WithFix("add it")
		return true
	}
	b := backend{pos: o.Pos}
	root := im.root(o)
	for _, e := range root.Field("endpoints").Items() {
		if ready, ok := e.At("conditions", "ready").Value.Bool(); ok && !ready {
			continue
		}
		for _, a := range e.Field("addresses").Items() {
			im.readBackendAddress(a, &b)
		}
		im.readTargetRef(e.Field("targetRef"), &b)
	}
	im.readBackendPorts(root.Field("ports"), &b)
	im.addBackend(objectName{o.Namespace, im.names.text(owner)}, b)
	return true
}

func (im *importer) addBackend(name objectName, b backend) {
	if im.slices == nil {
		im.slices = map[objectName][]backend{}
	}
	im.slices[name] = append(im.slices[name], b)
}

func (im *importer) readBackendAddress(n kube.Node, b *backend) {
	text, ok := n.Text()
	if !ok {
		return
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		if strings.ContainsAny(text, ":/") || strings.Trim(text, "0123456789.") == "" {
			n.Errorf("bad-address", "%q is not an address", text)
		}
		return // a name, of an FQDN slice
	}
	im.ipv6 = im.ipv6 || a.Is6() && !a.Is4In6()
	b.addrs = append(b.addrs, a.Unmap())
}

func (im *importer) readTargetRef(n kube.Node, b *backend) {
	kind, _ := n.Field("kind").Value.Text()
	name, _ := n.Field("name").Value.Text()
	if kind == "Pod" && name != "" {
		b.pods = append(b.pods, im.names.text(name))
	}
}

func (im *importer) readBackendPorts(list kube.Node, b *backend) {
	for _, n := range list.Items() {
		port, ok := n.Field("port").Int(1, 65535)
		if !ok {
			continue
		}
		name, _ := n.Field("name").Text()
		b.ports = append(b.ports, servicePort{name: im.names.text(name), protocol: readProtocol(n.Field("protocol")),
			port: uint16(port), number: uint16(port), pos: n.Pos()})
	}
}

// rayServices adds the services of KubeRay: `<cluster>-head-svc` in front of
// the head, under the name that headService gives it if it gives one, and
// `<service>-serve-svc` in front of what serves.
func rayServices(im *importer, o *kube.Object, w *workload) {
	spec := o.Value.Get("spec")
	if o.Kind == "RayService" {
		spec = spec.Get("rayClusterConfig")
	}
	var head *part
	for i := range w.parts {
		if w.parts[i].name == "head" {
			head = &w.parts[i]
		}
	}
	if head == nil {
		return
	}
	group := spec.Get("headGroupSpec")
	name, _ := group.At("headService", "metadata", "name").Text()
	if name == "" {
		name = o.Name + "-head-svc"
	}
	s := &service{objectName: objectName{o.Namespace, im.names.text(name)}, kind: "ClusterIP", pos: o.Pos, maker: w,
		selects: true, headless: true}
	if kind, _ := group.Get("serviceType").Text(); kind != "" {
		s.kind, s.headless = im.names.text(kind), false
	}
	s.selector = network.Selector{{Key: "ray.io/node-type", Op: network.In, Values: []string{"head"}}}
	for _, p := range head.ports {
		if p.Protocol == netset.TCP {
			s.ports = append(s.ports, servicePort{name: p.Name, protocol: p.Protocol, port: p.Number, number: p.Number, pos: o.Pos})
		}
	}
	if len(s.ports) == 0 { // the operator's defaults
		for _, p := range []uint16{6379, 8265, 10001, 8080, 8000} {
			s.ports = append(s.ports, servicePort{protocol: netset.TCP, port: p, number: p, pos: o.Pos})
		}
	}
	made := kube.Root(group.Get("headService"), im.reader(o))
	notes := made.At("metadata", "annotations")
	if !notes.Has() {
		notes = made.Of(spec.Get("headServiceAnnotations"))
	}
	s.lb = im.readBalancer(made.Field("spec"), notes, yamldoc.Value{})
	im.addService(s)
	if o.Kind == "RayService" {
		serve := *s
		serve.objectName.name = im.names.text(o.Name + "-serve-svc")
		serve.selector = network.Selector{{Key: "ray.io/is-ray-node", Op: network.In, Values: []string{"yes"}}}
		serve.ports = []servicePort{{name: "serve", protocol: netset.TCP, port: 8000, number: 8000, pos: o.Pos}}
		serve.kind, serve.headless, serve.lb = "ClusterIP", false, balancer{}
		im.addService(&serve)
	}
}

// notebookService adds the service of a Kubeflow notebook: port 80 in front of
// its first port, or 8888.
func notebookService(im *importer, o *kube.Object, w *workload) {
	target := uint16(8888)
	for i := range w.parts {
		if len(w.parts[i].ports) > 0 {
			target = w.parts[i].ports[0].Number
		}
	}
	im.operatorService(o, w, servicePort{name: im.names.text("http-" + o.Name), protocol: netset.TCP, port: 80, number: target, pos: o.Pos})
}

// nimService adds the service of a NIM, which has its name.
func nimService(im *importer, o *kube.Object, w *workload) {
	port := uint16(8000)
	if v, ok := o.Value.At("spec", "expose", "service", "port").Int(); ok && v > 0 && v < 65536 {
		port = uint16(v)
	}
	w.parts = append(w.parts, im.unseenPart(o, ""))
	p := &w.parts[len(w.parts)-1]
	p.ports = []network.Port{{Name: "api", Protocol: netset.TCP, Number: port}}
	repository, _ := o.Value.At("spec", "image", "repository").Text()
	tag, _ := o.Value.At("spec", "image", "tag").Text()
	if repository != "" {
		p.images = []string{im.names.text(strings.TrimSuffix(repository+":"+tag, ":"))}
	}
	s := im.operatorService(o, w, servicePort{name: "api", protocol: netset.TCP, port: port, number: port, pos: o.Pos})
	if kind, _ := o.Value.At("spec", "expose", "service", "type").Text(); kind != "" {
		s.kind = im.names.text(kind)
		service := im.root(o).At("spec", "expose", "service")
		s.lb = im.readBalancer(service, service.Field("annotations"), yamldoc.Value{})
	}
}

// operatorService adds a service of the object's own name in front of all its
// pods.
func (im *importer) operatorService(o *kube.Object, w *workload, p servicePort) *service {
	s := &service{objectName: objectName{o.Namespace, o.Name}, kind: "ClusterIP", pos: o.Pos, maker: w, selects: true,
		ports: []servicePort{p}}
	im.addService(s)
	return s
}
