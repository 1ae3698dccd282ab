package kubernetes

import (
	"net/netip"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// balancer is what a Service or an Ingress says about its load balancer.
type balancer struct {
	reach network.Reach
	why   string
	// decided says that an annotation, a class or an address decided reach.
	decided   bool
	clients   netset.Addrs // empty means anyone
	source    network.Source
	sourceSet bool
	addresses netset.Addrs
	hosts     []string
	metallb   bool // the address comes from a pool of the input
	// awsDefault says that the default of the AWS Load Balancer Controller decided.
	awsDefault bool
}

// readBalancer says from where a Service of type LoadBalancer can be reached.
// notes are its annotations, status is what it was given.
func (im *importer) readBalancer(spec, notes kube.Node, status yamldoc.Value) balancer {
	var b balancer
	annotation := func(key string) string {
		v, _ := notes.Value.Get(key).Text()
		return v
	}
	im.decideReach(&b, spec, notes, status, annotation)
	im.readSourceRanges(&b, spec, notes, annotation)
	switch typ := annotation(awsPrefix + "type"); {
	case awsTypes[typ] || typ == "nlb":
		// Client addresses are kept or not by target type and an attribute.
		b.source, b.sourceSet = network.SourceEither, true
	case hasPrefix(notes, awsPrefix):
		b.source, b.sourceSet = network.SourceReplaced, true // a classic ELB is a proxy
	}
	if host := annotation("external-dns.alpha.kubernetes.io/hostname"); host != "" {
		for _, h := range splitList(host) {
			b.hosts = append(b.hosts, im.names.text(strings.ToLower(h)))
		}
	}
	return b
}

func hasPrefix(notes kube.Node, prefix string) bool {
	for k := range notes.Value.Entries() {
		if key, _ := k.Text(); strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// decideReach asks, in this order: a public address that was given out, the
// class, the annotations, other addresses that were given out, the address
// asked for. Nothing of these leaves public, which is what clouds do by default.
func (im *importer) decideReach(b *balancer, spec, notes kube.Node, status yamldoc.Value, annotation func(string) string) {
	decide := func(r network.Reach, why string) {
		b.reach, b.why, b.decided = r, im.names.text(why), true
	}
	addrs, hosts, seen := statusAddresses(status)
	b.addresses, b.hosts = addrs, im.internAll(hosts)
	given, givenWhy := reachOfAddresses(addrs, hosts)
	if seen && given == network.ReachPublic {
		decide(given, givenWhy)
		return
	}
	class, _ := spec.Field("loadBalancerClass").Text()
	if c, ok := classReach[class]; ok {
		decide(c.reach, c.why)
		return
	}
	if class == albClass || class == autoClass || class == "" && awsTypes[annotation(awsPrefix+"type")] {
		r, why, byDefault := awsControlled(class, annotation)
		b.awsDefault = byDefault
		decide(r, why)
		return
	}
	if r, why, ok := signalled(annotation); ok {
		decide(r, why)
		return
	}
	if seen && given != network.ReachUnknown {
		decide(given, givenWhy)
		return
	}
	wanted, _ := spec.Field("loadBalancerIP").Text()
	for _, key := range []string{"metallb.universe.tf/loadBalancerIPs", "metallb.io/loadBalancerIPs", "lbipam.cilium.io/ips", "kube-vip.io/loadbalancerIPs"} {
		if v := annotation(key); v != "" && wanted == "" {
			wanted = v
		}
	}
	if addrs := parseAddrList(wanted); !addrs.IsEmpty() {
		b.addresses = addrs
		r, _ := reachOfAddresses(addrs, nil)
		decide(r, "the address asked for is "+addrs.String())
		return
	}
	b.metallb = strings.HasPrefix(class, "metallb.") || class == "" && !hasCloudAnnotation(notes)
	if class != "" {
		b.why = im.names.text("loadBalancerClass " + class + " does not tell from where it can be reached")
		return
	}
	b.reach = network.ReachPublic
	b.why = "nothing makes it internal, and load balancers are public by default"
}

// cloudPrefixes are those of the annotations of clouds, which have load
// balancers of their own.
var cloudPrefixes = []string{"service.beta.kubernetes.io/", "service.kubernetes.io/ibm-", "service.kubernetes.io/qcloud-", "service.kubernetes.io/tke-", "cloud.google.com/", "networking.gke.io/",
	"load-balancer.hetzner.cloud/", "loadbalancer.openstack.org/", "kubernetes.io/elb.", "oci.oraclecloud.com/",
	"oci-network-load-balancer.oraclecloud.com/", "kubernetes.digitalocean.com/"}

func hasCloudAnnotation(notes kube.Node) bool {
	for _, prefix := range cloudPrefixes {
		if hasPrefix(notes, prefix) {
			return true
		}
	}
	return false
}

// statusAddresses reads what a load balancer was given.
func statusAddresses(v yamldoc.Value) (addrs netset.Addrs, hosts []string, seen bool) {
	for _, item := range v.At("status", "loadBalancer", "ingress").Items() {
		if text, ok := item.Get("ip").Text(); ok {
			if a, err := netip.ParseAddr(text); err == nil {
				addrs, seen = addrs.Union(netset.Addr(a)), true
			}
		}
		if text, ok := item.Get("hostname").Text(); ok && text != "" {
			hosts, seen = append(hosts, strings.ToLower(text)), true
		}
	}
	return addrs, hosts, seen
}

// reachOfAddresses concludes from addresses, and from the names that AWS gives
// to internal load balancers.
func reachOfAddresses(addrs netset.Addrs, hosts []string) (network.Reach, string) {
	if public := addrs.Intersect(netset.PublicAddrs()); !public.IsEmpty() {
		return network.ReachPublic, "its address " + public.String() + " is a public one"
	}
	for _, h := range hosts {
		if strings.HasPrefix(h, "internal-") && strings.Contains(h, ".elb.") && strings.Contains(h, ".amazonaws.com") {
			return network.ReachPrivate, "its name " + h + " is that of an internal load balancer"
		}
		if strings.HasSuffix(h, ".ts.net") {
			return network.ReachPrivate, "its name " + h + " is one of a tailnet"
		}
	}
	if addrs.IsEmpty() {
		return network.ReachUnknown, ""
	}
	return network.ReachPrivate, "its address " + addrs.String() + " is a private one"
}

// rangeAnnotations limit the clients of a load balancer, as lists of CIDRs.
var rangeAnnotations = []string{
	"service.beta.kubernetes.io/load-balancer-source-ranges",
	"service.beta.kubernetes.io/azure-allowed-ip-ranges",
}

// readSourceRanges reads who may use a load balancer. Security groups and
// service tags, which are described elsewhere, replace or widen it.
func (im *importer) readSourceRanges(b *balancer, spec, notes kube.Node, annotation func(string) string) {
	if annotation(awsPrefix+"security-groups") != "" || annotation("service.beta.kubernetes.io/azure-allowed-service-tags") != "" {
		return
	}
	given := false
	for _, n := range spec.Field("loadBalancerSourceRanges").Items() {
		given = true
		if a, ok := readCIDR(n); ok {
			b.clients = b.clients.Union(a)
		}
	}
	if given {
		return // the field wins over the annotation
	}
	for _, key := range rangeAnnotations {
		im.addRanges(b, notes.Field(key))
	}
	for _, rule := range splitList(annotation("service.beta.kubernetes.io/do-loadbalancer-allow-rules")) {
		if cidr, ok := strings.CutPrefix(rule, "cidr:"); ok {
			if a, err := netset.ParseCIDR(cidr); err == nil {
				b.clients = b.clients.Union(a)
			}
		} else if ip, ok := strings.CutPrefix(rule, "ip:"); ok {
			b.clients = b.clients.Union(parseAddrList(ip))
		}
	}
}

// addRanges adds the CIDRs of a comma-separated annotation to the clients.
func (im *importer) addRanges(b *balancer, n kube.Node) {
	text, _ := n.Value.Text()
	for _, cidr := range splitList(text) {
		a, err := netset.ParseCIDR(cidr)
		if err != nil && a.IsEmpty() {
			n.Errorf("bad-cidr", "%s holds %q, which is not a CIDR", n.Name(), cidr)
			continue
		}
		b.clients = b.clients.Union(a)
	}
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == ';' })
}

func parseAddrList(s string) netset.Addrs {
	var out netset.Addrs
	for _, t := range splitList(s) {
		if a, err := netip.ParseAddr(t); err == nil {
			out = out.Union(netset.Addr(a))
		}
	}
	return out
}

func (im *importer) internAll(list []string) []string {
	for i := range list {
		list[i] = im.names.text(list[i])
	}
	return list
}

// readPool reads an IPAddressPool of MetalLB: CIDRs and ranges.
func (im *importer) readPool(o *kube.Object) bool {
	for _, n := range im.root(o).At("spec", "addresses").Items() {
		text, ok := n.Text()
		if !ok {
			continue
		}
		a, ok := parseRange(text)
		if !ok {
			n.Errorf("bad-range", "%q is neither a CIDR nor a range of addresses", text).WithFix("write 10.0.0.0/24 or 10.0.0.1-10.0.0.9")
			continue
		}
		im.pools, im.hasPools = im.pools.Union(a), true
	}
	return true
}
