package kubernetes

import (
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// gateway is a Gateway of the Gateway API.
type gateway struct {
	objectName
	class     string
	lb        balancer
	listeners []listener
	pos       source.Pos
}

// listener is a port of a Gateway and who may attach routes to it.
type listener struct {
	name, host, protocol string
	port                 uint16
	from                 string // Same, All, Selector or None
	selector             network.Selector
}

// gwRoute is an HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute.
type gwRoute struct {
	kind string
	objectName
	parents []parentRef
	hosts   []string
	rules   []gwRule
	pos     source.Pos
}

type parentRef struct {
	gateway objectName
	section string
	port    uint16
	pos     source.Pos
}

type gwRule struct {
	matches  []gwMatch
	backends []backendRef
	// rewrites says that backends see other hosts and paths than clients ask for.
	rewrites bool
	pos      source.Pos
}

type gwMatch struct{ path, pathType, method string }

// grant is a ReferenceGrant: it lets routes of other namespaces lead to
// services of its own.
type grant struct {
	namespace string
	from      []objectName // kind by namespace
	services  []string     // empty means every service
}

func (im *importer) readGatewayClass(o *kube.Object) bool {
	if im.gwClasses == nil {
		im.gwClasses = map[string]string{}
	}
	controller, _ := o.Value.At("spec", "controllerName").Text()
	im.gwClasses[o.Name] = im.names.text(controller)
	return true
}

func (im *importer) readGateway(o *kube.Object) bool {
	root := im.root(o)
	spec := root.Field("spec")
	im.useNamespace(o.Namespace)
	g := &gateway{objectName: objectName{o.Namespace, o.Name}, pos: o.Pos}
	if !spec.Known("gatewayClassName", "listeners", "addresses", "infrastructure", "backendTLS", "tls", "allowedListeners", "defaultScope") {
		if !spec.Has() {
			missing(root, "spec")
		}
		return true
	}
	class, _ := spec.Field("gatewayClassName").Text()
	g.class = im.names.text(class)
	// What is made for a Gateway gets the annotations of its infrastructure;
	// those of the Gateway itself are copied by few implementations.
	notes := spec.At("infrastructure", "annotations")
	g.lb = im.readBalancer(kube.Node{}, notes, yamldoc.Value{})
	var addrs netset.Addrs
	for _, at := range []kube.Node{root.At("status", "addresses"), spec.Field("addresses")} {
		for _, item := range at.Value.Items() {
			text, _ := item.Get("value").Text()
			if a, err := netip.ParseAddr(text); err == nil {
				addrs = addrs.Union(netset.Addr(a))
			} else if text != "" {
				g.lb.hosts = append(g.lb.hosts, im.names.text(strings.ToLower(text)))
			}
		}
	}
	g.lb.addresses = addrs
	for _, n := range spec.Field("listeners").Items() {
		if l, ok := im.readListener(n); ok {
			g.listeners = append(g.listeners, l)
		}
	}
	im.gatewayList = append(im.gatewayList, g)
	return true
}

func (im *importer) readListener(n kube.Node) (listener, bool) {
	l := listener{from: "Same"}
	if !n.Known("name", "hostname", "port", "protocol", "tls", "allowedRoutes") {
		return l, false
	}
	name, _ := n.Field("name").Text()
	host, _ := n.Field("hostname").Text()
	proto, _ := n.Field("protocol").Text()
	port, ok := n.Field("port").Int(1, 65535)
	if !ok && !n.Field("port").Has() {
		missing(n, "port")
	}
	l.name, l.host, l.protocol, l.port = im.names.text(name), im.names.text(strings.ToLower(host)), im.names.text(proto), uint16(port)
	allowed := n.Field("allowedRoutes")
	if !allowed.Known("namespaces", "kinds") {
		return l, ok
	}
	namespaces := allowed.Field("namespaces")
	if namespaces.Known("from", "selector") && namespaces.Field("from").Has() {
		if from, ok := namespaces.Field("from").OneOf("Same", "All", "Selector", "None"); ok {
			l.from = from
		}
		s, _ := kube.Selector(namespaces.Field("selector"))
		l.selector = im.selector(s)
		im.askScope(l.selector)
	}
	return l, ok
}

func (im *importer) readRoute(o *kube.Object) bool {
	root := im.root(o)
	spec := root.Field("spec")
	im.useNamespace(o.Namespace)
	r := gwRoute{kind: o.Kind, objectName: objectName{o.Namespace, o.Name}, pos: o.Pos}
	if !spec.Known("parentRefs", "hostnames", "rules", "useDefaultGateways") {
		if !spec.Has() {
			missing(root, "spec")
		}
		return true
	}
	for _, n := range spec.Field("parentRefs").Items() {
		if !n.Known("group", "kind", "namespace", "name", "sectionName", "port") {
			continue
		}
		if kind, _ := n.Field("kind").Text(); kind != "" && kind != "Gateway" {
			continue // routes between services belong to a mesh
		}
		p := parentRef{gateway: objectName{o.Namespace, ""}, pos: n.Pos()}
		if ns, _ := n.Field("namespace").Text(); ns != "" {
			p.gateway.namespace = im.names.text(ns)
		}
		name, _ := n.Field("name").Text()
		section, _ := n.Field("sectionName").Text()
		p.gateway.name, p.section = im.names.text(name), im.names.text(section)
		if v, ok := n.Field("port").Int(1, 65535); ok {
			p.port = uint16(v)
		}
		r.parents = append(r.parents, p)
	}
	for _, h := range spec.Field("hostnames").Strings() {
		r.hosts = append(r.hosts, im.names.text(strings.ToLower(h)))
	}
	for _, n := range spec.Field("rules").Items() {
		r.rules = append(r.rules, im.readRouteRule(n, o))
	}
	im.gwRoutes = append(im.gwRoutes, r)
	return true
}

func (im *importer) readRouteRule(n kube.Node, o *kube.Object) gwRule {
	r := gwRule{pos: n.Pos()}
	for _, m := range n.Field("matches").Items() {
		var match gwMatch
		if o.Kind == "GRPCRoute" {
			match = grpcMatch(m)
		} else {
			path, _ := m.At("path", "value").Text()
			typ, _ := m.At("path", "type").Text()
			method, _ := m.Field("method").Text()
			if typ == "" {
				typ = "PathPrefix"
			}
			match = gwMatch{path, typ, method}
		}
		r.matches = append(r.matches, gwMatch{im.names.text(match.path), im.names.text(match.pathType), im.names.text(match.method)})
	}
	im.readRouteFilters(n.Field("filters"), o, &r)
	for _, b := range n.Field("backendRefs").Items() {
		if weight, ok := b.Field("weight").Value.Int(); ok && weight == 0 {
			continue
		}
		im.readRouteFilters(b.Field("filters"), o, &r)
		im.readRouteBackend(b, o, &r)
	}
	return r
}

// readRouteFilters reads what changes requests on their way and what sends
// them to further backends.
func (im *importer) readRouteFilters(list kube.Node, o *kube.Object, r *gwRule) {
	for _, f := range list.Items() {
		switch typ, _ := f.Field("type").Text(); typ {
		case "RequestMirror":
			im.readRouteBackend(f.At("requestMirror", "backendRef"), o, r)
		case "URLRewrite":
			r.rewrites = true
		}
	}
}

func (im *importer) readRouteBackend(b kube.Node, o *kube.Object, r *gwRule) {
	if kind, _ := b.Field("kind").Text(); kind != "" && kind != "Service" {
		at := *o
		at.Pos = b.Pos()
		im.ignore(&at, "a backend of kind "+kind+" is not read", true)
		return
	}
	to := backendRef{service: objectName{namespace: o.Namespace}, pos: b.Pos()}
	if ns, _ := b.Field("namespace").Text(); ns != "" {
		to.service.namespace = im.names.text(ns)
	}
	name, _ := b.Field("name").Text()
	to.service.name = im.names.text(name)
	if v, ok := b.Field("port").Int(1, 65535); ok {
		to.number = uint16(v)
	}
	r.backends = append(r.backends, to)
}

// grpcMatch is the HTTP request of a method: POST /service/method.
func grpcMatch(m kube.Node) gwMatch {
	service, _ := m.At("method", "service").Text()
	method, _ := m.At("method", "method").Text()
	typ, _ := m.At("method", "type").Text()
	switch {
	case typ == "RegularExpression" || service == "":
		return gwMatch{"", "", "POST"}
	case method == "":
		return gwMatch{"/" + service, "PathPrefix", "POST"}
	}
	return gwMatch{"/" + service + "/" + method, "Exact", "POST"}
}

func (im *importer) readReferenceGrant(o *kube.Object) bool {
	g := grant{namespace: o.Namespace}
	spec := im.root(o).Field("spec")
	for _, f := range spec.Field("from").Items() {
		kind, _ := f.Field("kind").Text()
		ns, _ := f.Field("namespace").Text()
		g.from = append(g.from, objectName{im.names.text(ns), im.names.text(kind)})
	}
	services := false
	for _, t := range spec.Field("to").Items() {
		if kind, _ := t.Field("kind").Text(); kind != "Service" {
			continue
		}
		services = true
		if name, _ := t.Field("name").Text(); name != "" {
			g.services = append(g.services, im.names.text(name))
		}
	}
	if services {
		im.grants = append(im.grants, g)
	}
	return true
}

// granted reports whether r may lead to a service.
func (b *builder) granted(r *gwRoute, to objectName) bool {
	if to.namespace == r.namespace {
		return true
	}
	for _, g := range b.grants {
		if g.namespace == to.namespace && slices.Contains(g.from, objectName{r.namespace, r.kind}) &&
			(len(g.services) == 0 || slices.Contains(g.services, to.name)) {
			return true
		}
	}
	return false
}

// addGateways adds a front for each Gateway with the routes attached to it,
// and one for each route whose Gateway is not in the input.
func (b *builder) addGateways() {
	fronts := map[*gateway]*network.Front{}
	for _, g := range b.gatewayList {
		f := &network.Front{Name: "Gateway " + g.String(), Clients: netset.AnyAddr(), Source: network.SourceReplaced,
			Addresses: g.lb.addresses, Hosts: g.lb.hosts, Pos: g.pos}
		f.Reach, f.Why = b.gatewayReach(g)
		fronts[g] = f
	}
	for i := range b.gwRoutes {
		for _, p := range b.gwRoutes[i].parents {
			b.attach(&b.gwRoutes[i], p, fronts)
		}
	}
	for _, g := range b.gatewayList {
		b.addFront(*fronts[g])
	}
}

// attach adds a route to the fronts of its parent.
func (b *builder) attach(r *gwRoute, p parentRef, fronts map[*gateway]*network.Front) {
	var parent *gateway
	attached := false
	for _, g := range b.gatewayList {
		if g.objectName != p.gateway {
			continue
		}
		parent = g
		for _, l := range g.listeners {
			if p.section != "" && p.section != l.name || p.port != 0 && p.port != l.port ||
				!carries(l.protocol, r.kind) || !b.admits(g, &l, r.namespace) {
				continue
			}
			attached = true
			f := fronts[g]
			f.Routes = append(f.Routes, b.gatewayRoutes(r, l)...)
			f.Hosts = append(f.Hosts[:len(f.Hosts):len(f.Hosts)], r.hosts...)
		}
	}
	switch {
	case parent == nil:
		b.addFront(network.Front{Name: r.kind + " " + r.String(), Clients: netset.AnyAddr(), Source: network.SourceReplaced,
			Why: "its Gateway " + p.gateway.String() + " is not in the input", Hosts: r.hosts, Pos: r.pos,
			Routes: b.gatewayRoutes(r, listener{protocol: "HTTP", from: "All"})})
	case !attached:
		b.ds.Warnf("not-attached", p.pos, "%s %s: no listener of Gateway %s admits it", r.kind, r, parent).
			WithNote(parent.pos, "the Gateway is here").WithFix("compare sectionName, port and allowedRoutes")
	}
}

// carries reports whether a listener of a protocol takes routes of a kind.
func carries(protocol, kind string) bool {
	switch kind {
	case "HTTPRoute", "GRPCRoute":
		return protocol == "HTTP" || protocol == "HTTPS"
	case "TLSRoute":
		return protocol == "TLS"
	case "TCPRoute":
		return protocol == "TCP" || protocol == "TLS"
	}
	return protocol == "UDP"
}

func (b *builder) admits(g *gateway, l *listener, namespace string) bool {
	switch l.from {
	case "All":
		return true
	case "Same":
		return namespace == g.namespace
	case "Selector":
		ns := b.namespaces[namespace]
		return ns != nil && l.selector.Match(ns.labels) != network.No
	}
	return false
}

// gatewayRoutes returns the routes of r through a listener.
func (b *builder) gatewayRoutes(r *gwRoute, l listener) []network.Route {
	var out []network.Route
	for i := range r.rules {
		rule := &r.rules[i]
		var requests *netset.Requests
		if r.kind == "HTTPRoute" || r.kind == "GRPCRoute" {
			requests = routeRequests(r, rule, l)
		}
		if requests != nil && requests.IsEmpty() {
			continue // the listener answers for none of its hosts
		}
		if rule.rewrites {
			requests = nil // what backends get of it is not what clients ask for
		}
		for _, to := range rule.backends {
			if !b.granted(r, to.service) {
				b.ds.Warnf("not-granted", to.pos, "%s %s may not lead to Service %s: no ReferenceGrant permits it", r.kind, r, to.service).
					WithFix("add a ReferenceGrant in namespace %s", to.service.namespace)
				continue
			}
			for _, route := range b.backendOf(r.kind+" "+r.String(), to) {
				route.Port, route.Requests, route.Pos = l.port, requests, rule.pos
				out = append(out, route)
			}
		}
	}
	return out
}

// routeRequests returns the requests that a rule takes through a listener:
// hosts that both name, and any of its matches. Conditions on headers and
// parameters are left out, so that it is never fewer than really pass.
func routeRequests(r *gwRoute, rule *gwRule, l listener) *netset.Requests {
	hosts := netset.NoStrings()
	for _, h := range r.hosts {
		one, _ := routeHost(h)
		hosts = hosts.Union(one)
	}
	if len(r.hosts) == 0 {
		hosts = netset.AnyString()
	}
	if l.host != "" {
		one, _ := routeHost(l.host)
		hosts = hosts.Intersect(one)
	}
	var all netset.Requests
	for _, m := range rule.matches {
		p := netset.Pattern{Hosts: hosts, Paths: netset.AnyString()}
		if m.path != "" {
			p.Paths = pathLanguage(m.path, m.pathType)
		}
		if m.method != "" {
			p.Methods = []string{m.method}
		}
		all = all.Union(netset.RequestsOf(p))
	}
	if len(rule.matches) == 0 {
		all = netset.RequestsOf(netset.Pattern{Hosts: hosts, Paths: netset.AnyString()})
	}
	if all.IsAll() {
		return nil
	}
	return &all
}

// routeHost returns the names of a Gateway API hostname, where `*.x` is any
// name below x.
func routeHost(host string) (netset.Language, bool) {
	if strings.HasPrefix(host, "*.") {
		l, err := netset.Segments("*"+host, '.')
		if err != nil {
			return netset.AnyString(), false
		}
		return l, true
	}
	return hostLanguage(host)
}

// gatewayClasses say from where the Gateways of a class or of a controller can
// be reached. Those of GKE are listed at cloud.google.com/kubernetes-engine/
// docs/how-to/gatewayclass-capabilities.
var gatewayClasses = []struct {
	class, controller string
	reach             network.Reach
	why               string
}{
	{class: "istio-waypoint", reach: network.ReachInside, why: "a waypoint proxy serves the mesh only"},
	{class: "gke-l7-rilb", reach: network.ReachPrivate, why: "gateway class gke-l7-rilb is an internal load balancer"},
	{class: "gke-l7-cross-regional-internal-managed-mc", reach: network.ReachPrivate, why: "its gateway class is an internal load balancer"},
	{class: "gke-l7-rilb-mc", reach: network.ReachPrivate, why: "its gateway class is an internal load balancer"},
	{class: "gke-l7-global-external-managed", reach: network.ReachPublic, why: "its gateway class is an external load balancer"},
	{class: "gke-l7-regional-external-managed", reach: network.ReachPublic, why: "its gateway class is an external load balancer"},
	{class: "gke-l7-global-external-managed-mc", reach: network.ReachPublic, why: "its gateway class is an external load balancer"},
	{class: "gke-l7-regional-external-managed-mc", reach: network.ReachPublic, why: "its gateway class is an external load balancer"},
	{class: "gke-l7-gxlb-mc", reach: network.ReachPublic, why: "its gateway class is an external load balancer"},
	{class: "gke-l7-gxlb", reach: network.ReachPublic, why: "its gateway class is an external load balancer"},
	{controller: "application-networking.k8s.aws/gateway-api-controller", reach: network.ReachPrivate, why: "VPC Lattice is reachable inside VPCs only"},
	{class: "azure-alb-external", reach: network.ReachPublic, why: "an Application Gateway for Containers has a public frontend"},
	{controller: "alb.networking.azure.io/alb-controller", reach: network.ReachPublic, why: "an Application Gateway for Containers has a public frontend"},
	{controller: "tailscale.com", reach: network.ReachPrivate, why: "its gateway class is reachable in the tailnet only"},
}

// gatewayReach asks the addresses, the class and the annotations, in this
// order: the classes of clouds do not read the annotations of Services.
func (b *builder) gatewayReach(g *gateway) (network.Reach, string) {
	if r, why := reachOfAddresses(g.lb.addresses, g.lb.hosts); r != network.ReachUnknown {
		return r, why
	}
	controller := b.gwClasses[g.class]
	for _, c := range gatewayClasses {
		if c.class != "" && c.class == g.class || c.controller != "" && strings.HasPrefix(controller, c.controller) {
			return c.reach, c.why
		}
	}
	if g.lb.decided && !strings.HasPrefix(controller, "gateway.k8s.aws/") {
		return b.balancerReach(&g.lb)
	}
	return network.ReachUnknown, "gateway class " + g.class + " does not tell from where it can be reached"
}
