package kubernetes

import (
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// albParams is an IngressClassParams of the AWS Load Balancer Controller or of
// EKS Auto Mode: what it says wins over the annotations.
type albParams struct {
	scheme, group string
	limited       bool // it says who the clients are
	clients       netset.Addrs
}

// classOf returns the class of an Ingress, the default one if it names none.
func (b *builder) classOf(in *ingress) (string, ingressClass) {
	if in.class != "" {
		return in.class, b.classes[in.class]
	}
	for _, n := range sortedKeys(b.classes) {
		if b.classes[n].isDefault {
			return n, b.classes[n]
		}
	}
	return "", ingressClass{}
}

// ingressReach says from where an Ingress can be reached, by whom, and who
// opens the connections to the backends.
func (b *builder) ingressReach(in *ingress, f *network.Front) {
	name, class := b.classOf(in)
	controller := class.controller
	switch {
	case b.isALB(in, name, controller):
		f.Reach, f.Why = b.albReach(in, class)
		f.Clients = b.albClients(in, class)
		controller = "alb"
	case name == "alb" && controller == "":
		f.Why = "ingress class alb is not in the input: it may be one of AWS, which makes internal load balancers by default, or of another cloud"
	case name == "gce-internal":
		f.Reach, f.Why = network.ReachPrivate, "ingress class gce-internal"
	case name == "gce" || name == "gce-regional-external" || controller == "k8s.io/ingress-gce":
		f.Reach, f.Why = network.ReachPublic, "ingress class gce is an external load balancer"
	case controller == "azure/application-gateway" || name == "azure/application-gateway" || name == "azure-application-gateway":
		f.Reach, f.Why = network.ReachPublic, "an application gateway is public unless use-private-ip is set"
		if in.notes["appgw.ingress.kubernetes.io/use-private-ip"] == "true" {
			f.Reach, f.Why = network.ReachPrivate, "annotation appgw.ingress.kubernetes.io/use-private-ip"
		}
	case controller == "alb.networking.azure.io/alb-controller" || name == "azure-alb-external":
		f.Reach, f.Why = network.ReachPublic, "an Application Gateway for Containers has a public frontend"
	case controller == "tailscale.com/ts-ingress" || name == "tailscale":
		f.Reach, f.Why = network.ReachPrivate, "ingress class tailscale is reachable in the tailnet only"
		if v := in.notes["tailscale.com/funnel"]; v != "" && v != "false" {
			f.Reach, f.Why = network.ReachPublic, "annotation tailscale.com/funnel publishes it"
		}
	default:
		b.proxiedReach(in, f, name, controller)
	}
	if r, why := reachOfAddresses(in.lb.addresses, nil); r == network.ReachPublic {
		f.Reach, f.Why = r, why
	}
	if controller == "alb" {
		return
	}
	var clients netset.Addrs
	for _, r := range ingressRanges {
		if of, ok := in.ranges[r.key]; ok && r.key != albCIDRs && reads(r.family, name, controller) {
			clients = clients.Union(of.clients)
		}
	}
	if !clients.IsEmpty() {
		f.Clients = clients
	}
}

// reads reports whether the controller of an ingress class reads the
// annotations of a family.
func reads(family, class, controller string) bool {
	if controller != "" {
		return strings.Contains(controller, family)
	}
	word := strings.TrimSuffix(strings.TrimPrefix(family, "ingress-"), ".org")
	return strings.Contains(class, strings.TrimSuffix(word, "-ingress"))
}

// isALB reports whether AWS serves an Ingress with an Application Load
// Balancer. Where the class is not in the input, an annotation tells, because
// another cloud has a class of the same name.
func (b *builder) isALB(in *ingress, name, controller string) bool {
	switch controller {
	case "ingress.k8s.aws/alb", "eks.amazonaws.com/alb":
		return true
	case "":
	default:
		return false
	}
	if name != "" && name != "alb" {
		return false
	}
	if name == "" {
		return in.notes["alb.ingress.kubernetes.io/scheme"] != ""
	}
	own := []string{"scheme", "target-type", "certificate-arn", "group.name", "security-groups", "subnets"}
	return !in.ranges[albCIDRs].clients.IsEmpty() ||
		slices.ContainsFunc(own, func(key string) bool { return in.notes["alb.ingress.kubernetes.io/"+key] != "" })
}

// albGroup returns the group that shares one load balancer, or nothing.
func (b *builder) albGroup(in *ingress, class ingressClass) string {
	if group := b.albParams[class.params].group; group != "" {
		return group
	}
	return in.notes["alb.ingress.kubernetes.io/group.name"]
}

// albReach: the parameters of the class win over the annotation, and what any
// Ingress of a group says is true of all, which share one load balancer.
// Without either it is internal (kubernetes-sigs/aws-load-balancer-controller,
// pkg/ingress/model_build_load_balancer.go).
func (b *builder) albReach(in *ingress, class ingressClass) (network.Reach, string) {
	if _, ok := b.albParams[class.params]; class.params != "" && !ok {
		return network.ReachUnknown, "IngressClassParams " + class.params + ", which wins over annotations, is not in the input"
	}
	members := []*ingress{in}
	group := b.albGroup(in, class)
	if group != "" {
		members = members[:0]
		for i := range b.ingresses {
			other := &b.ingresses[i]
			name, its := b.classOf(other)
			if b.isALB(other, name, its.controller) && b.albGroup(other, its) == group {
				members = append(members, other)
			}
		}
	}
	scheme, from := "", ""
	for _, m := range members {
		_, its := b.classOf(m)
		s, says := b.albParams[its.params].scheme, "the scheme of its IngressClassParams is "
		if s == "" {
			s, says = m.notes["alb.ingress.kubernetes.io/scheme"], "annotation alb.ingress.kubernetes.io/scheme: "
		}
		switch {
		case s == "" || s == scheme:
			continue
		case scheme != "":
			return network.ReachUnknown, "the Ingresses of group " + group + " disagree about the scheme"
		case m != in:
			says = "in its group, " + m.String() + " says: " + says
		}
		scheme, from = s, says
	}
	switch {
	case scheme == "internet-facing":
		return network.ReachPublic, from + scheme
	case scheme == "internal":
		return network.ReachPrivate, from + scheme
	case scheme != "":
		return network.ReachUnknown, from + scheme + ", which is no scheme"
	case group != "":
		return network.ReachUnknown, "no Ingress of group " + group + " in the input says the scheme, and one that is not in the input may"
	case class.controller == "eks.amazonaws.com/alb":
		return network.ReachPrivate, "EKS Auto Mode makes internal load balancers by default"
	}
	return b.awsDefaultReach()
}

// albClients: the parameters of the class win over the annotation, which
// counts for nothing where security groups are named.
func (b *builder) albClients(in *ingress, class ingressClass) netset.Addrs {
	if in.notes["alb.ingress.kubernetes.io/security-groups"] != "" {
		return netset.AnyAddr()
	}
	if p := b.albParams[class.params]; p.limited {
		return anyone(p.clients)
	}
	return anyone(in.ranges[albCIDRs].clients)
}

// controllerOf is what is known of the programs that serve Ingresses.
type controllerOf struct {
	controller, class string
	images            []string
	// label is one that its pods have, where others run the same image, and
	// value what it has to be, or empty.
	label, value string
}

var ingressControllers = []controllerOf{
	{controller: "k8s.io/ingress-nginx", class: "nginx", images: []string{"ingress-nginx/controller", "nginx-ingress-controller", "nginx/nginx-ingress"}},
	{controller: "nginx.org/ingress-controller", class: "nginx", images: []string{"nginx/nginx-ingress"}},
	{controller: "traefik.io/ingress-controller", class: "traefik", images: []string{"traefik"}},
	{controller: "haproxy.org/ingress-controller", class: "haproxy", images: []string{"haproxytech/kubernetes-ingress"}},
	{controller: "haproxy-ingress.github.io/controller", class: "haproxy", images: []string{"haproxy-ingress"}},
	{controller: "ingress-controllers.konghq.com/kong", class: "kong", images: []string{"kong"}},
	{controller: "projectcontour.io/ingress-controller", class: "contour", images: []string{"envoyproxy/envoy"}, label: "app", value: "envoy"},
	{controller: "istio.io/ingress-controller", class: "istio", images: []string{"istio/proxyv2"}, label: "istio"},
	{controller: "openshift.io/ingress-to-route", class: "openshift-default", images: []string{"haproxy-router"}},
}

// controllerFound are the pods of an ingress controller, and from where the
// services before them can be reached.
type controllerFound struct {
	found bool
	via   network.PredicateID
	reach network.Reach
	why   string
	lb    balancer
}

// proxiedReach is that of an Ingress which pods of the cluster serve: it is
// as reachable as they are.
func (b *builder) proxiedReach(in *ingress, f *network.Front, class, controller string) {
	c := b.findController(class, controller)
	if c.found {
		f.Via, f.Proxied = c.via, true
	}
	r, why := reachOfAddresses(in.lb.addresses, in.lb.hosts)
	switch {
	case c.found && c.reach == network.ReachPublic:
		// The address may be that of a node behind the load balancer.
		f.Reach, f.Why = c.reach, c.why
	case r != network.ReachUnknown:
		f.Reach, f.Why = r, why
		return
	case c.found && c.reach != network.ReachUnknown:
		f.Reach, f.Why = c.reach, c.why
	case c.found && c.why != "":
		f.Why = c.why
	case c.found:
		f.Why = "no service before its controller tells from where it can be reached"
	case class == "":
		f.Why = "it names no ingress class, and the input has no default one"
	default:
		f.Why = "the controller of ingress class " + class + " is not in the input"
	}
	if c.found && c.reach != network.ReachUnknown {
		f.Clients = anyone(c.lb.clients)
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
	for i := range ingressControllers {
		known := &ingressControllers[i]
		if !out.found && (controller != "" && strings.HasPrefix(controller, known.controller) || controller == "" && class == known.class) {
			out = b.running(known, class, controller)
		}
	}
	b.controllers[key] = out
	return out
}

// running finds the pods of a controller. Of several that may serve a class,
// one that is public and one that is not leave it open.
func (b *builder) running(known *controllerOf, class, controller string) controllerFound {
	var out controllerFound
	var names, scopes []string
	for i := b.first; i < len(b.n.Endpoints); i++ {
		e := &b.n.Endpoints[i]
		if e.Kind != network.Workload || !runs(e, known.images) || !known.labelled(e) || servesOther(e, class, controller) {
			continue
		}
		c := b.before(e)
		switch {
		case !out.found:
			out = c
		case out.reach != c.reach:
			out.reach, out.why, out.lb = network.ReachUnknown, "several controllers may serve it, and they are not equally reachable", balancer{}
		case !c.lb.clients.Equal(out.lb.clients):
			out.lb.clients = netset.Addrs{}
		}
		names, scopes = append(names, e.Attributes[WorkloadAttribute]), append(scopes, b.n.Scopes[e.Scope].Name)
	}
	if !out.found {
		return out
	}
	slices.Sort(names)
	via := network.Predicate{Endpoints: true, Kinds: podEnds,
		Attributes: network.Selector{{Key: WorkloadAttribute, Op: network.In, Values: slices.Compact(names)}}}
	slices.Sort(scopes)
	if scopes = slices.Compact(scopes); len(scopes) == 1 {
		via.ScopeName = scopes[0]
	}
	out.via = b.n.Predicate(via)
	return out
}

func (c *controllerOf) labelled(e *network.Endpoint) bool {
	v := e.Attributes[c.label]
	return c.label == "" || v != "" && (c.value == "" || v == c.value)
}

// servesOther reports whether a controller is started for another class.
func servesOther(e *network.Endpoint, class, controller string) bool {
	if v, ok := flagValue(e.Facts.Commands, "--controller-class"); ok && controller != "" {
		return v != controller
	}
	for _, flag := range []string{"--ingress-class", "--providers.kubernetesingress.ingressclass"} {
		if v, ok := flagValue(e.Facts.Commands, flag); ok && class != "" {
			return v != class
		}
	}
	return false
}

// before says from where the pods of a controller can be reached: by the
// services that select them, or on the nodes' own addresses.
func (b *builder) before(e *network.Endpoint) controllerFound {
	out := controllerFound{found: true}
	scope := b.n.Scopes[e.Scope].Name
	open := "" // why it may be reached from further than anything tells
	add := func(r network.Reach, why string, lb balancer) {
		if r == network.ReachUnknown {
			open = why
		}
		if r > out.reach {
			out.reach, out.why, out.lb = r, why, lb
		}
	}
	if e.Attachment == network.HostShared || b.hasHostPorts(scope, e) {
		r, why := b.nodeReach()
		add(r, "its controller is on the nodes' own addresses: "+why, balancer{})
	}
	for _, s := range b.serviceList {
		if s.namespace != scope || !s.selects || s.selector.Match(e.Attributes) == network.No {
			continue
		}
		name := "Service " + s.String() + " before its controller"
		switch s.kind {
		case "LoadBalancer":
			r, why := b.balancerReach(&s.lb)
			add(r, name+": "+why, s.lb)
		case "NodePort":
			r, why := b.nodeReach()
			add(r, name+" is on the nodes: "+why, balancer{})
		default:
			if slices.ContainsFunc(b.bindings, func(t targetBinding) bool { return t.to.service == s.objectName }) {
				add(network.ReachUnknown, name+" is in a target group whose load balancer is not in the input", balancer{})
			} else {
				add(network.ReachInside, "the only service before its controller, "+s.String()+", is a cluster address", balancer{})
			}
		}
	}
	if open != "" && out.reach != network.ReachPublic {
		out.reach, out.why, out.lb = network.ReachUnknown, open, balancer{}
	}
	return out
}

// hasHostPorts reports whether nodes forward ports to the pods of e.
func (b *builder) hasHostPorts(namespace string, e *network.Endpoint) bool {
	for _, w := range b.workloads {
		if w.namespace != namespace || w.covered {
			continue
		}
		if top := w.top(); top.kind+"/"+top.name != e.Attributes[WorkloadAttribute] {
			continue
		}
		for i := range w.parts {
			if len(w.parts[i].hostPorts) > 0 {
				return true
			}
		}
	}
	return false
}
