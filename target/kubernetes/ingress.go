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
	notes  map[string]string   // the annotations that this package reads
	ranges map[string]balancer // clients, by annotation
	lb     balancer            // addresses it was given
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
	"alb.ingress.kubernetes.io/target-type", "alb.ingress.kubernetes.io/group.name", "alb.ingress.kubernetes.io/security-groups",
	"alb.ingress.kubernetes.io/subnets", "appgw.ingress.kubernetes.io/use-private-ip", "tailscale.com/funnel",
	nginxPrefix + "rewrite-target", nginxPrefix + "use-regex", nginxPrefix + "server-alias",
}

const nginxPrefix = "nginx.ingress.kubernetes.io/"

// ingressRanges are the annotations that limit the clients, and the word in
// the name of the controllers that read them.
var ingressRanges = []struct{ key, family string }{
	{albCIDRs, "alb"},
	{"nginx.ingress.kubernetes.io/whitelist-source-range", "ingress-nginx"},
	{"nginx.ingress.kubernetes.io/allowlist-source-range", "ingress-nginx"},
	{"haproxy.org/allow-list", "haproxy.org"},
	{"haproxy-ingress.github.io/allowlist-source-range", "haproxy-ingress"},
}

const albCIDRs = "alb.ingress.kubernetes.io/inbound-cidrs"

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
	for _, r := range ingressRanges {
		if n := root.At("metadata", "annotations", r.key); n.Has() {
			var b balancer
			im.addRanges(&b, n)
			if in.ranges == nil {
				in.ranges = map[string]balancer{}
			}
			in.ranges[r.key] = b
		}
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
			im.albParams = map[string]albParams{}
		}
		scheme, _ := o.Value.At("spec", "scheme").Text()
		group, _ := o.Value.At("spec", "group", "name").Text()
		p := albParams{scheme: im.names.text(scheme), group: im.names.text(group)}
		for _, n := range im.root(o).At("spec", "inboundCIDRs").Items() {
			p.limited = true
			if a, ok := readCIDR(n); ok {
				p.clients = p.clients.Union(a)
			}
		}
		im.albParams[o.Name] = p
	case "TargetGroupBinding":
		im.readTargetBinding(o)
	}
	return true
}

// addIngresses adds a front for each Ingress.
func (b *builder) addIngresses() {
	for i := range b.ingresses {
		in := &b.ingresses[i]
		f := network.Front{Name: "Ingress " + in.String(), Clients: netset.AnyAddr(), Source: network.SourceReplaced,
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
	if other := b.aliased(s); other != nil {
		alias := backendRef{service: other.objectName, number: to.number, name: to.name, pos: to.pos}
		for _, p := range s.ports {
			if to.name != "" && p.name == to.name {
				alias.number, alias.name = p.port, ""
			}
		}
		return b.backendOf(what, alias)
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
	switch {
	case in.notes[nginxPrefix+"rewrite-target"] != "":
		paths = netset.AnyString() // what the backend gets is not what clients ask for
	case in.notes[nginxPrefix+"use-regex"] == "true":
		paths = pathLanguage(rule.path, "ImplementationSpecific")
	}
	if in.notes[nginxPrefix+"server-alias"] != "" {
		hosts = netset.AnyString()
	}
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
