package kubernetes

import (
	"encoding/json"
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
}

// signal is an annotation that tells internal load balancers from public ones.
type signal struct {
	key string
	// read returns the reach that the value means, ReachUnknown for none.
	read func(value string) network.Reach
	// source is the documentation, read 2026-11-22.
	source string
}

func privateIf(words ...string) func(string) network.Reach {
	return func(v string) network.Reach {
		for _, w := range words {
			if strings.EqualFold(v, w) {
				return network.ReachPrivate
			}
		}
		return network.ReachUnknown
	}
}

func eitherOf(private, public string) func(string) network.Reach {
	return func(v string) network.Reach {
		switch {
		case strings.EqualFold(v, private):
			return network.ReachPrivate
		case strings.EqualFold(v, public):
			return network.ReachPublic
		}
		return network.ReachUnknown
	}
}

// trueOrFalse reads "true" as private and "false" as public.
func trueOrFalse(v string) network.Reach { return eitherOf("true", "false")(v) }

// anyButFalse reads the annotation of the AWS cloud provider, where every
// value but "false" means internal: "true" and the legacy "0.0.0.0/0" alike.
func anyButFalse(v string) network.Reach {
	switch v {
	case "":
		return network.ReachUnknown
	case "false":
		return network.ReachPublic
	}
	return network.ReachPrivate
}

func presentMeansPrivate(v string) network.Reach {
	if v == "" {
		return network.ReachUnknown
	}
	return network.ReachPrivate
}

// serviceSignals are asked in order; the first that answers decides.
var serviceSignals = []signal{
	{"service.beta.kubernetes.io/aws-load-balancer-scheme", eitherOf("internal", "internet-facing"),
		"https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations/"},
	{"service.beta.kubernetes.io/aws-load-balancer-internal", anyButFalse,
		"https://github.com/kubernetes/cloud-provider-aws pkg/providers/v1/aws.go"},
	{"networking.gke.io/load-balancer-type", eitherOf("Internal", "External"),
		"https://cloud.google.com/kubernetes-engine/docs/concepts/service-load-balancer-parameters"},
	{"cloud.google.com/load-balancer-type", eitherOf("Internal", "External"),
		"https://cloud.google.com/kubernetes-engine/docs/concepts/service-load-balancer-parameters"},
	{"service.beta.kubernetes.io/azure-load-balancer-internal", trueOrFalse,
		"https://cloud-provider-azure.sigs.k8s.io/topics/loadbalancer/"},
	{"service.beta.kubernetes.io/oci-load-balancer-internal", trueOrFalse,
		"https://github.com/oracle/oci-cloud-controller-manager docs/load-balancer-annotations.md"},
	{"oci-network-load-balancer.oraclecloud.com/internal", trueOrFalse,
		"https://github.com/oracle/oci-cloud-controller-manager docs/load-balancer-annotations.md"},
	{"service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type", eitherOf("private", "public"),
		"https://cloud.ibm.com/docs/containers?topic=containers-loadbalancer"},
	{"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", eitherOf("intranet", "internet"),
		"https://github.com/kubernetes/cloud-provider-alibaba-cloud docs/usage.md"},
	{"service.beta.kubernetes.io/alicloud-loadbalancer-address-type", eitherOf("intranet", "internet"),
		"https://github.com/kubernetes/cloud-provider-alibaba-cloud docs/usage.md"},
	{"service.kubernetes.io/qcloud-loadbalancer-internal-subnetid", presentMeansPrivate,
		"https://github.com/TencentCloud/tencentcloud-cloud-controller-manager"},
	{"kubernetes.io/elb.autocreate", huaweiAutocreate,
		"https://support.huaweicloud.com/intl/en-us/usermanual-cce/cce_10_0681.html"},
	{"service.beta.kubernetes.io/openstack-internal-load-balancer", trueOrFalse,
		"https://github.com/kubernetes/cloud-provider-openstack docs/openstack-cloud-controller-manager/expose-applications-using-loadbalancer-type-service.md"},
	{"service.beta.kubernetes.io/do-loadbalancer-network", eitherOf("INTERNAL", "EXTERNAL"),
		"https://docs.digitalocean.com/products/kubernetes/how-to/configure-load-balancers/"},
	{"service.beta.kubernetes.io/scw-loadbalancer-private", privateIf("true"),
		"https://github.com/scaleway/scaleway-cloud-controller-manager docs/loadbalancer-annotations.md"},
	{"load-balancer.hetzner.cloud/disable-public-network", privateIf("true"),
		"https://github.com/hetznercloud/hcloud-cloud-controller-manager docs/reference/load_balancer_annotations.md"},
}

// huaweiAutocreate reads the JSON that describes the load balancer to make.
func huaweiAutocreate(v string) network.Reach {
	var spec struct {
		Type string `json:"type"`
	}
	if json.Unmarshal([]byte(v), &spec) != nil {
		return network.ReachUnknown
	}
	return eitherOf("inner", "public")(spec.Type)
}

// classReach is what a loadBalancerClass says without any annotation.
var classReach = map[string]struct {
	reach network.Reach
	why   string
}{
	"tailscale":                              {network.ReachPrivate, "loadBalancerClass tailscale is reachable in the tailnet only"},
	"service.k8s.aws/nlb":                    {network.ReachPrivate, "the AWS Load Balancer Controller makes internal load balancers by default"},
	"eks.amazonaws.com/nlb":                  {network.ReachPrivate, "EKS Auto Mode makes internal load balancers by default"},
	"networking.gke.io/l4-regional-internal": {network.ReachPrivate, "loadBalancerClass l4-regional-internal"},
	"networking.gke.io/l4-regional-external": {network.ReachPublic, "loadBalancerClass l4-regional-external"},
}

// awsTypes are the values of aws-load-balancer-type that hand a Service to the
// AWS Load Balancer Controller, whose default is internal, where that of the
// older provider in Kubernetes itself is internet-facing.
var awsTypes = map[string]bool{"external": true, "nlb-ip": true, "nlb-target-ip": true}

const awsPrefix = "service.beta.kubernetes.io/aws-load-balancer-"

// readBalancer says from where a Service of type LoadBalancer can be reached.
func (im *importer) readBalancer(o *kube.Object, spec kube.Node) balancer {
	var b balancer
	annotation := func(key string) string { return o.Annotation(key) }
	im.decideReach(&b, o, spec, annotation)
	im.readSourceRanges(&b, o, spec, annotation)
	switch typ := annotation(awsPrefix + "type"); {
	case awsTypes[typ] || typ == "nlb":
		// Client addresses are kept or not by target type and an attribute.
		b.source, b.sourceSet = network.SourceEither, true
	case hasPrefix(o, awsPrefix):
		b.source, b.sourceSet = network.SourceReplaced, true // a classic ELB is a proxy
	}
	if host := annotation("external-dns.alpha.kubernetes.io/hostname"); host != "" {
		for _, h := range splitList(host) {
			b.hosts = append(b.hosts, im.names.text(strings.ToLower(h)))
		}
	}
	return b
}

func hasPrefix(o *kube.Object, prefix string) bool {
	for k := range o.Value.At("metadata", "annotations").Entries() {
		if key, _ := k.Text(); strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// decideReach asks, in this order: the annotations, the class, the addresses
// that were given out, the address asked for. Nothing of these leaves public,
// which is what clouds do by default.
func (im *importer) decideReach(b *balancer, o *kube.Object, spec kube.Node, annotation func(string) string) {
	decide := func(r network.Reach, why string) {
		b.reach, b.why, b.decided = r, why, true
	}
	addrs, hosts, seen := statusAddresses(o.Value)
	b.addresses, b.hosts = addrs, im.internAll(hosts)
	for _, s := range serviceSignals {
		if v := annotation(s.key); v != "" {
			if r := s.read(v); r != network.ReachUnknown {
				decide(r, im.names.text("annotation "+s.key+": "+v[:min(len(v), 100)]))
				return
			}
		}
	}
	class, _ := spec.Field("loadBalancerClass").Text()
	if c, ok := classReach[class]; ok {
		decide(c.reach, c.why)
		return
	}
	if typ := annotation(awsPrefix + "type"); awsTypes[typ] {
		decide(network.ReachPrivate, "the AWS Load Balancer Controller makes internal load balancers by default")
		return
	}
	if r, why := reachOfAddresses(addrs, hosts); seen && r != network.ReachUnknown {
		decide(r, why)
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
	b.metallb = !hasCloudAnnotation(o)
	b.reach = network.ReachPublic
	b.why = "nothing makes it internal, and load balancers are public by default"
}

func hasCloudAnnotation(o *kube.Object) bool {
	return hasPrefix(o, "service.beta.kubernetes.io/") || hasPrefix(o, "cloud.google.com/") || hasPrefix(o, "networking.gke.io/")
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
	if public := addrs.Intersect(netset.PublicAddrs()); !public.IsEmpty() {
		return network.ReachPublic, "its address " + public.String() + " is a public one"
	}
	return network.ReachPrivate, "its address " + addrs.String() + " is a private one"
}

// rangeAnnotations limit the clients of a load balancer, as lists of CIDRs.
var rangeAnnotations = []string{
	"service.beta.kubernetes.io/load-balancer-source-ranges",
	"service.beta.kubernetes.io/azure-allowed-ip-ranges",
	"service.beta.kubernetes.io/openstack-load-balancer-source-ranges",
	"load-balancer.hetzner.cloud/allowed-source-ranges",
}

func (im *importer) readSourceRanges(b *balancer, o *kube.Object, spec kube.Node, annotation func(string) string) {
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
		im.addRanges(b, im.root(o).At("metadata", "annotations", key))
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
