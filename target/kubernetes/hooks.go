package kubernetes

import (
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/target/kube"
)

// hook is a service that the API server calls.
type hook struct {
	what string // the object that says so
	to   backendRef
	pos  source.Pos
}

// readWebhooks reads a webhook configuration: the API server calls a service,
// so that a policy which shuts it out breaks the cluster.
func (im *importer) readWebhooks(o *kube.Object) bool {
	for _, w := range im.root(o).Field("webhooks").Items() {
		im.readHookClient(o, w.Field("clientConfig"))
	}
	return true
}

// readHookClient reads the service of a client configuration. A url leads out
// of the cluster, or past services, and publishes nothing.
func (im *importer) readHookClient(o *kube.Object, config kube.Node) {
	s := config.Field("service")
	if s.Known("namespace", "name", "path", "port") {
		im.addHook(o, s)
	}
}

func (im *importer) addHook(o *kube.Object, s kube.Node) {
	h := hook{what: im.names.text(o.String()), pos: s.Pos()}
	ns, _ := s.Field("namespace").Text()
	name, _ := s.Field("name").Text()
	h.to = backendRef{service: objectName{im.names.text(ns), im.names.text(name)}, number: 443, pos: s.Pos()}
	if v, ok := s.Field("port").Int(1, 65535); ok {
		h.to.number = uint16(v)
	}
	for _, before := range im.hooks[max(0, len(im.hooks)-16):] {
		if before.what == h.what && before.to.service == h.to.service && before.to.number == h.to.number {
			return // the same service for another kind of object
		}
	}
	im.hooks = append(im.hooks, h)
}

func (im *importer) readAPIService(o *kube.Object) bool {
	s := im.root(o).At("spec", "service")
	if s.Known("namespace", "name", "port") {
		im.addHook(o, s)
	}
	return true
}

func (im *importer) readCRD(o *kube.Object) bool {
	im.readHookClient(o, im.root(o).At("spec", "conversion", "webhook", "clientConfig"))
	return true
}

// addHooks adds a front for each service that the API server calls.
func (b *builder) addHooks() {
	via := b.n.Predicate(network.Predicate{Endpoints: true, Kinds: network.EndControl})
	for _, h := range b.hooks {
		f := network.Front{Name: h.what, Reach: network.ReachInside, Why: "the API server calls it", Clients: netset.AnyAddr(),
			Source: network.SourceReplaced, Via: via, Proxied: true, Pos: h.pos}
		f.Routes = b.backendOf(h.what, h.to)
		b.addFront(f)
	}
}

// osRoute is a Route of OpenShift.
type osRoute struct {
	objectName
	host, path string
	targetPort string
	number     uint16
	tls        bool
	wildcard   bool
	services   []objectName
	ranges     balancer
	pos        source.Pos
}

func (im *importer) readOpenShiftRoute(o *kube.Object) bool {
	root := im.root(o)
	spec := root.Field("spec")
	im.useNamespace(o.Namespace)
	r := osRoute{objectName: objectName{o.Namespace, o.Name}, pos: o.Pos}
	for _, key := range []string{"haproxy.router.openshift.io/ip_whitelist", "haproxy.router.openshift.io/ip_allowlist"} {
		im.addRanges(&r.ranges, root.At("metadata", "annotations", key))
	}
	if !spec.Known("host", "subdomain", "path", "port", "to", "alternateBackends", "tls", "wildcardPolicy", "httpHeaders") {
		if !spec.Has() {
			missing(root, "spec")
		}
		return true
	}
	host, _ := spec.Field("host").Text()
	path, _ := spec.Field("path").Text()
	r.host, r.path = im.names.text(strings.ToLower(host)), im.names.text(path)
	r.tls = spec.Field("tls").Has()
	policy, _ := spec.Field("wildcardPolicy").Text()
	r.wildcard = policy == "Subdomain"
	if port := spec.At("port", "targetPort"); port.Value.IsString() {
		name, _ := port.Text()
		r.targetPort = im.names.text(name)
	} else if v, ok := port.Int(1, 65535); ok {
		r.number = uint16(v)
	}
	targets := []kube.Node{spec.Field("to")}
	for _, n := range spec.Field("alternateBackends").Items() {
		targets = append(targets, n)
	}
	for _, n := range targets {
		if weight, ok := n.Field("weight").Value.Int(); ok && weight == 0 {
			continue
		}
		if name, _ := n.Field("name").Text(); name != "" {
			r.services = append(r.services, objectName{o.Namespace, im.names.text(name)})
		}
	}
	im.osRoutes = append(im.osRoutes, r)
	return true
}

// addOpenShiftRoutes adds the Routes. The router is a part of the platform
// and not of the input.
func (b *builder) addOpenShiftRoutes() {
	for i := range b.osRoutes {
		r := &b.osRoutes[i]
		f := network.Front{Name: "Route " + r.String(), Clients: anyone(r.ranges.clients), Source: network.SourceReplaced, Pos: r.pos,
			Why: "how the routers of the cluster are published is not in the input"}
		host := r.host
		if host != "" {
			if f.Hosts = []string{host}; r.wildcard {
				_, parent, _ := strings.Cut(host, ".")
				host = "*." + parent
			}
		}
		var requests *netset.Requests
		hosts, _ := hostLanguage(host)
		if paths := pathLanguage(r.path, "Prefix"); !hosts.IsAll() || !paths.IsAll() {
			set := netset.RequestsOf(netset.Pattern{Hosts: hosts, Paths: paths})
			requests = &set
		}
		port := uint16(80)
		if r.tls {
			port = 443
		}
		for _, name := range r.services {
			s := b.services[name]
			if s == nil {
				b.ds.Warnf("no-service", r.pos, "Route %s leads to Service %s, which is not in the input", r, name).
					WithFix("check the name, or include the Service")
				continue
			}
			for _, route := range b.routes(s, func(p *servicePort) uint16 { return p.port }) {
				if r.targetPort != "" && !b.isPort(s, &route, r.targetPort) || r.number != 0 && route.Number != r.number {
					continue
				}
				route.Port, route.Requests = port, requests
				f.Routes = append(f.Routes, route)
			}
		}
		b.addFront(f)
	}
}

// isPort reports whether a route belongs to the service's port of a name, or
// leads to a container's port of it.
func (b *builder) isPort(s *service, r *network.Route, name string) bool {
	for i := range s.ports {
		if s.ports[i].name == name && s.ports[i].port == r.Port {
			return true
		}
	}
	return r.Name == name
}

// targetBinding is a TargetGroupBinding: an existing AWS load balancer is
// given the pods of a service.
type targetBinding struct {
	objectName
	to      backendRef
	clients balancer
	pos     source.Pos
}

func (im *importer) readTargetBinding(o *kube.Object) {
	t := targetBinding{objectName: objectName{o.Namespace, o.Name}, pos: o.Pos}
	ref := im.root(o).At("spec", "serviceRef")
	name, _ := ref.Field("name").Text()
	t.to = backendRef{service: objectName{o.Namespace, im.names.text(name)}, pos: ref.Pos()}
	port := ref.Field("port")
	if port.Value.IsString() {
		text, _ := port.Text()
		t.to.name = im.names.text(text)
	} else if v, ok := port.Int(1, 65535); ok {
		t.to.number = uint16(v)
	}
	for _, in := range im.root(o).At("spec", "networking", "ingress").Items() {
		for _, from := range in.Field("from").Items() {
			if cidr := from.At("ipBlock", "cidr"); cidr.Has() {
				if a, ok := readCIDR(cidr); ok {
					t.clients.clients = t.clients.clients.Union(a)
				}
			}
		}
	}
	im.bindings = append(im.bindings, t)
}

func (b *builder) addTargetBindings() {
	for i := range b.bindings {
		t := &b.bindings[i]
		f := network.Front{Name: "TargetGroupBinding " + t.String(), Clients: netset.AnyAddr(), Source: network.SourceEither, Pos: t.pos,
			Why: "the load balancer of the target group is not in the input"}
		f.Routes = b.backendOf(f.Name, t.to)
		b.addFront(f)
	}
}
