package kubernetes

import (
	"encoding/json"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/target/kube"
)

// ingress is an Ingress.
type ingress struct {
	objectName
	class  string
	notes  map[string]string // the annotations that this package reads
	ranges balancer          // clients, by annotation
	lb     balancer          // addresses it was given
	rules  []ingressRule
	tls    bool
	pos    source.Pos
}

// ingressRule is a path of a host; an empty host is any.
type ingressRule struct {
	host, path, pathType string
	to                   backendRef
	pos                  source.Pos
}

// backendRef names a port of a service.
type backendRef struct {
	service objectName
	number  uint16
	name    string
	pos     source.Pos
}

type ingressClass struct {
	controller string
	isDefault  bool
	params     string
}

// ingressNotes are the annotations that decide something.
var ingressNotes = []string{
	"kubernetes.io/ingress.class",
	"alb.ingress.kubernetes.io/scheme", "alb.ingress.kubernetes.io/listen-ports", "alb.ingress.kubernetes.io/certificate-arn",
	"alb.ingress.kubernetes.io/target-type", "appgw.ingress.kubernetes.io/use-private-ip", "tailscale.com/funnel",
	"networking.gke.io/load-balancer-type", "kubernetes.io/ingress.regional-static-ip-name",
}

// ingressRanges are the annotations that limit the clients.
var ingressRanges = []string{
	"alb.ingress.kubernetes.io/inbound-cidrs",
	"nginx.ingress.kubernetes.io/whitelist-source-range", "nginx.ingress.kubernetes.io/allowlist-source-range",
	"haproxy.org/allow-list", "haproxy-ingress.github.io/allowlist-source-range", "konghq.com/whitelist",
}

func (im *importer) readIngress(o *kube.Object) bool {
	root := im.root(o)
	spec := root.Field("spec")
	im.useNamespace(o.Namespace)
	in := ingress{objectName: objectName{o.Namespace, o.Name}, pos: o.Pos, notes: map[string]string{}}
	for _, key := range ingressNotes {
		if v := o.Annotation(key); v != "" {
			in.notes[key] = strings.Clone(v)
		}
	}
	for _, key := range ingressRanges {
		im.addRanges(&in.ranges, root.At("metadata", "annotations", key))
	}
	addrs, hosts, _ := statusAddresses(o.Value)
	in.lb.addresses, in.lb.hosts = addrs, im.internAll(hosts)
	if !spec.Known("ingressClassName", "defaultBackend", "backend", "tls", "rules") {
		if !spec.Has() {
			missing(root, "spec")
		}
		return true
	}
	class, _ := spec.Field("ingressClassName").Text()
	if class == "" {
		class = in.notes["kubernetes.io/ingress.class"]
	}
	in.class = im.names.text(class)
	in.tls = spec.Field("tls").Len() > 0
	for _, key := range []string{"defaultBackend", "backend"} {
		if to, ok := im.readIngressBackend(spec.Field(key), o.Namespace); ok {
			in.rules = append(in.rules, ingressRule{to: to, pos: to.pos})
		}
	}
	for _, r := range spec.Field("rules").Items() {
		im.readIngressRule(o, r, &in)
	}
	im.ingresses = append(im.ingresses, in)
	return true
}

// readIngressRule reads the paths of a host.
func (im *importer) readIngressRule(o *kube.Object, r kube.Node, in *ingress) {
	if !r.Known("host", "http") {
		return
	}
	host, _ := r.Field("host").Text()
	for _, p := range r.At("http", "paths").Items() {
		if !p.Known("path", "pathType", "backend") {
			continue
		}
		rule := ingressRule{host: im.names.text(strings.ToLower(host)), pos: p.Pos()}
		path, _ := p.Field("path").Text()
		rule.path = im.names.text(path)
		if p.Field("pathType").Has() {
			rule.pathType, _ = p.Field("pathType").OneOf("Exact", "Prefix", "ImplementationSpecific")
			rule.pathType = im.names.text(rule.pathType)
		}
		to, ok := im.readIngressBackend(p.Field("backend"), o.Namespace)
		switch rule.to = to; {
		case ok:
			in.rules = append(in.rules, rule)
		case p.At("backend", "resource").Has():
			im.ignore(o, "a backend that is no Service is not read", true)
		case !p.Field("backend").Has():
			missing(p, "backend")
		}
	}
}

// readIngressBackend reads a backend of v1, or of the removed v1beta1.
func (im *importer) readIngressBackend(n kube.Node, namespace string) (backendRef, bool) {
	to := backendRef{pos: n.Pos()}
	if !n.Known("service", "resource", "serviceName", "servicePort") {
		return to, false
	}
	name, port := n.Field("serviceName"), n.Field("servicePort")
	if s := n.Field("service"); s.Known("name", "port") {
		name, port = s.Field("name"), s.Field("port")
		port.Known("name", "number")
		if v, ok := port.Field("number").Int(0, 65535); ok {
			to.number = uint16(v)
		}
		text, _ := port.Field("name").Text()
		to.name = im.names.text(text)
	} else if port.Value.IsString() {
		text, _ := port.Text()
		to.name = im.names.text(text)
	} else if v, ok := port.Int(1, 65535); ok {
		to.number = uint16(v)
	}
	text, ok := name.Text()
	to.service = objectName{namespace, im.names.text(text)}
	return to, ok && text != ""
}

func (im *importer) readIngressClass(o *kube.Object) bool {
	if im.classes == nil {
		im.classes = map[string]ingressClass{}
	}
	controller, _ := o.Value.At("spec", "controller").Text()
	params, _ := o.Value.At("spec", "parameters", "name").Text()
	im.classes[o.Name] = ingressClass{
		controller: im.names.text(controller), params: im.names.text(params),
		isDefault: o.Annotation("ingressclass.kubernetes.io/is-default-class") == "true",
	}
	return true
}

// readELB reads the objects of the AWS Load Balancer Controller.
func (im *importer) readELB(o *kube.Object) bool {
	switch o.Kind {
	case "IngressClassParams":
		if im.albParams == nil {
			im.albParams = map[string]string{}
		}
		scheme, _ := o.Value.At("spec", "scheme").Text()
		im.albParams[o.Name] = im.names.text(scheme)
	case "TargetGroupBinding":
		im.readTargetBinding(o)
	}
	return true
}

// controllerOf is what is known of the programs that serve Ingresses.
type controllerOf struct {
	controller, class string
	images            []string
}

var ingressControllers = []controllerOf{
	{"k8s.io/ingress-nginx", "nginx", []string{"ingress-nginx/controller", "nginx-ingress-controller", "nginx/nginx-ingress"}},
	{"nginx.org/ingress-controller", "nginx", []string{"nginx/nginx-ingress"}},
	{"traefik.io/ingress-controller", "traefik", []string{"traefik"}},
	{"haproxy.org/ingress-controller", "haproxy", []string{"haproxytech/kubernetes-ingress"}},
	{"haproxy-ingress.github.io/controller", "haproxy", []string{"haproxy-ingress"}},
	{"ingress-controllers.konghq.com/kong", "kong", []string{"kong"}},
	{"projectcontour.io/ingress-controller", "contour", []string{"envoyproxy/envoy"}},
	{"istio.io/ingress-controller", "istio", []string{"istio/proxyv2"}},
	{"openshift.io/ingress-to-route", "openshift-default", []string{"haproxy-router"}},
}

// controllerFound are the pods of an ingress controller and the best reach of
// the services before them.
type controllerFound struct {
	found bool
	via   network.PredicateID
	reach network.Reach
	why   string
	lb    balancer
}

// addIngresses adds a front for each Ingress.
func (b *builder) addIngresses() {
	for i := range b.ingresses {
		in := &b.ingresses[i]
		f := network.Front{Name: "Ingress " + in.String(), Clients: anyone(in.ranges.clients), Source: network.SourceReplaced,
			Addresses: in.lb.addresses, Hosts: in.lb.hosts, Pos: in.pos}
		b.ingressReach(in, &f)
		seen := map[string]bool{}
		for r := range in.rules {
			rule := &in.rules[r]
			if rule.host != "" && !seen[rule.host] {
				seen[rule.host] = true
				f.Hosts = append(f.Hosts[:len(f.Hosts):len(f.Hosts)], rule.host)
			}
			requests := b.requestsOf(in, rule)
			for _, route := range b.backendOf(f.Name, rule.to) {
				route.Requests, route.Pos = requests, rule.pos
				for _, port := range in.listens() {
					route.Port = port
					f.Routes = append(f.Routes, route)
				}
			}
		}
		b.addFront(f)
	}
}

// listens returns the ports on which an Ingress answers.
func (in *ingress) listens() []uint16 {
	if text := in.notes["alb.ingress.kubernetes.io/listen-ports"]; text != "" {
		var listeners []map[string]uint16
		if json.Unmarshal([]byte(text), &listeners) == nil {
			var ports []uint16
			for _, l := range listeners {
				for _, key := range sortedKeys(l) {
					ports = append(ports, l[key])
				}
			}
			return ports
		}
	}
	switch {
	case in.notes["alb.ingress.kubernetes.io/certificate-arn"] != "":
		return []uint16{443}
	case in.tls:
		return []uint16{80, 443}
	}
	return []uint16{80}
}

// backendOf returns the routes to a port of a service, and warns about one
// that is not there.
func (b *builder) backendOf(what string, to backendRef) []network.Route {
	s := b.services[to.service]
	if s == nil {
		b.ds.Warnf("no-service", to.pos, "%s leads to Service %s, which is not in the input", what, to.service).
			WithFix("check the name, or include the Service")
		return nil
	}
	for i := range s.ports {
		p := &s.ports[i]
		if p.port != to.number && (to.name == "" || p.name != to.name) {
			continue
		}
		one := *s
		one.ports = s.ports[i : i+1]
		routes := b.routes(&one, func(p *servicePort) uint16 { return p.port })
		return routes
	}
	port := to.name
	if port == "" {
		port = netset.Port(netset.TCP, to.number).String()
	}
	b.ds.Warnf("no-port", to.pos, "%s leads to port %s, which Service %s does not have", what, port, to.service).
		WithNote(s.pos, "the Service is here").WithFix("use one of the Service's ports")
	return nil
}

// ingressReach says from where an Ingress can be reached, and who opens the
// connections to the backends.
func (b *builder) ingressReach(in *ingress, f *network.Front) {
	name, class := in.class, b.classes[in.class]
	if name == "" {
		for _, n := range sortedKeys(b.classes) {
			if b.classes[n].isDefault {
				name, class = n, b.classes[n]
			}
		}
	}
	switch {
	case class.controller == "ingress.k8s.aws/alb" || class.controller == "eks.amazonaws.com/alb" || name == "alb" ||
		name == "" && in.notes["alb.ingress.kubernetes.io/scheme"] != "":
		f.Reach, f.Why = albReach(b.albParams[class.params], in.notes["alb.ingress.kubernetes.io/scheme"])
	case name == "gce-internal":
		f.Reach, f.Why = network.ReachPrivate, "ingress class gce-internal"
	case name == "gce" || class.controller == "k8s.io/ingress-gce":
		f.Reach, f.Why = network.ReachPublic, "ingress class gce is an external load balancer"
	case class.controller == "azure/application-gateway" || name == "azure/application-gateway" || name == "azure-application-gateway":
		f.Reach, f.Why = network.ReachPublic, "an application gateway is public unless use-private-ip is set"
		if in.notes["appgw.ingress.kubernetes.io/use-private-ip"] == "true" {
			f.Reach, f.Why = network.ReachPrivate, "annotation appgw.ingress.kubernetes.io/use-private-ip"
		}
	case class.controller == "tailscale.com/ts-ingress" || name == "tailscale":
		f.Reach, f.Why = network.ReachPrivate, "ingress class tailscale is reachable in the tailnet only"
		if in.notes["tailscale.com/funnel"] == "true" {
			f.Reach, f.Why = network.ReachPublic, "annotation tailscale.com/funnel publishes it"
		}
	default:
		b.proxiedReach(in, f, name, class.controller)
	}
}

// albReach: the parameters of the class win over the annotation, and without
// either an ALB is internal.
func albReach(params, annotation string) (network.Reach, string) {
	scheme, from := params, "the scheme of its IngressClassParams is "
	if scheme == "" {
		scheme, from = annotation, "annotation alb.ingress.kubernetes.io/scheme: "
	}
	switch scheme {
	case "internet-facing":
		return network.ReachPublic, from + scheme
	case "internal":
		return network.ReachPrivate, from + scheme
	}
	return network.ReachPrivate, "the AWS Load Balancer Controller makes internal load balancers by default"
}

// proxiedReach is that of an Ingress which pods of the cluster serve: it is
// as reachable as they are.
func (b *builder) proxiedReach(in *ingress, f *network.Front, class, controller string) {
	c := b.findController(class, controller)
	if c.found {
		f.Via, f.Proxied = c.via, true
	}
	if r, why := reachOfAddresses(in.lb.addresses, in.lb.hosts); r != network.ReachUnknown {
		f.Reach, f.Why = r, why
		return
	}
	switch {
	case c.found && c.reach != network.ReachUnknown:
		f.Reach, f.Why = c.reach, c.why
		if in.ranges.clients.IsEmpty() {
			f.Clients = anyone(c.lb.clients)
		}
	case c.found:
		f.Why = "no service before its controller tells from where it can be reached"
	case class == "":
		f.Why = "it names no ingress class, and the input has no default one"
	default:
		f.Why = "the controller of ingress class " + class + " is not in the input"
	}
}

// findController finds the pods that serve an ingress class by the images that
// they run, and the services before them.
func (b *builder) findController(class, controller string) controllerFound {
	key := class + "\x00" + controller
	if c, ok := b.controllers[key]; ok {
		return c
	}
	if b.controllers == nil {
		b.controllers = map[string]controllerFound{}
	}
	var out controllerFound
	for _, known := range ingressControllers {
		if controller != "" && !strings.HasPrefix(controller, known.controller) || controller == "" && class != known.class || out.found {
			continue
		}
		out = b.runningAny(known.images)
	}
	b.controllers[key] = out
	return out
}

// runningAny finds the pods that run one of the images.
func (b *builder) runningAny(images []string) controllerFound {
	var out controllerFound
	for i := b.first; i < len(b.n.Endpoints); i++ {
		e := &b.n.Endpoints[i]
		if e.Kind != network.Workload || !runs(e, images) {
			continue
		}
		out.found = true
		scope := b.n.Scopes[e.Scope].Name
		out.via = b.n.Predicate(network.Predicate{Endpoints: true, Kinds: podEnds, ScopeName: scope,
			Attributes: network.Selector{{Key: WorkloadAttribute, Op: network.In, Values: []string{e.Attributes[WorkloadAttribute]}}}})
		for _, s := range b.serviceList {
			if s.namespace != scope || !s.selects || s.selector.Match(e.Attributes) == network.No {
				continue
			}
			r, why := network.ReachInside, "the only service before its controller, "+s.String()+", is a cluster address"
			switch s.kind {
			case "LoadBalancer":
				r, why = b.balancerReach(&s.lb)
				why = "Service " + s.String() + " before its controller: " + why
			case "NodePort":
				r, why = b.nodeReach()
				why = "Service " + s.String() + " before its controller is on the nodes: " + why
			}
			if r > out.reach {
				out.reach, out.why, out.lb = r, why, s.lb
			}
		}
		return out
	}
	return out
}

func runs(e *network.Endpoint, images []string) bool {
	for _, image := range e.Facts.Images {
		for _, part := range images {
			if strings.Contains(image, part) {
				return true
			}
		}
	}
	return false
}

// requestsOf returns the requests of a rule, nil for all.
func (b *builder) requestsOf(in *ingress, rule *ingressRule) *netset.Requests {
	hosts, ok := hostLanguage(rule.host)
	if !ok {
		b.ds.Warnf("bad-host", rule.pos, "Ingress %s: %q is not a host, so the rule is read as one for any", in, rule.host)
	}
	paths := pathLanguage(rule.path, rule.pathType)
	if hosts.IsAll() && paths.IsAll() {
		return nil
	}
	r := netset.RequestsOf(netset.Pattern{Hosts: hosts, Paths: paths})
	return &r
}

// hostLanguage returns the names that a host means: `*.x` is one label more
// than x.
func hostLanguage(host string) (netset.Language, bool) {
	if host == "" || host == "*" {
		return netset.AnyString(), true
	}
	if len(host) > 253 {
		return netset.AnyString(), false
	}
	if !strings.HasPrefix(host, "*.") {
		return netset.Exact(host), true
	}
	l, err := netset.Segments(host, '.')
	if err != nil {
		return netset.AnyString(), false
	}
	return l, true
}

// pathLanguage returns the paths that a rule means. A Prefix goes by whole
// elements. What an implementation reads as a pattern is read as the prefix
// before the first sign that has a meaning in patterns: never fewer paths
// than it really forwards.
func pathLanguage(path, pathType string) netset.Language {
	if len(path) > netset.MaxPatternBytes {
		return netset.AnyString()
	}
	switch pathType {
	case "Exact":
		return netset.Exact(path)
	case "Prefix", "PathPrefix":
		base := strings.TrimRight(path, "/")
		if base == "" {
			return netset.AnyString()
		}
		return netset.Exact(base).Union(netset.Prefix(base + "/"))
	}
	literal := path
	if i := strings.IndexAny(path, `.*+?()[]{}|^$\`); i >= 0 {
		literal = path[:i]
		if i > 0 && strings.ContainsRune("*?{|", rune(path[i])) {
			literal = path[:i-1] // the sign before may be left out
		}
		if strings.Contains(path, "|") {
			literal = ""
		}
	}
	if literal == "" || literal == "/" {
		return netset.AnyString()
	}
	return netset.Prefix(literal)
}
