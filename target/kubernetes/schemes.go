package kubernetes

import (
	"encoding/json"
	"strconv"
	"strings"

	"bulkhead/core/network"
)

// signal is an annotation that tells internal load balancers from public ones.
type signal struct {
	key string
	// read returns the reach that a value means, and whether it means any: a
	// value that the cloud takes for none leaves its default.
	read func(value string) (network.Reach, bool)
	// when limits the signal to the Services for which it counts.
	when func(annotation func(string) string) bool
	// source was read on 2026-11-22.
	source string
}

// internalIf reads the words that mean internal, as they are written: clouds
// take every other spelling for no request, and make a public one.
func internalIf(words ...string) func(string) (network.Reach, bool) {
	return func(v string) (network.Reach, bool) {
		for _, w := range words {
			if v == w {
				return network.ReachPrivate, true
			}
		}
		return network.ReachPublic, true
	}
}

func eitherOf(private, public string) func(string) (network.Reach, bool) {
	return func(v string) (network.Reach, bool) {
		switch v {
		case private:
			return network.ReachPrivate, true
		case public:
			return network.ReachPublic, true
		}
		return network.ReachUnknown, false
	}
}

// truth reads what Go takes for a truth value; no load balancer is made for
// anything else.
func truth(v string) (network.Reach, bool) {
	yes, err := strconv.ParseBool(v)
	switch {
	case err != nil:
		return network.ReachUnknown, false
	case yes:
		return network.ReachPrivate, true
	}
	return network.ReachPublic, true
}

func present(reach network.Reach) func(string) (network.Reach, bool) {
	return func(string) (network.Reach, bool) { return reach, true }
}

// ociNLB reports whether a Service asks Oracle for a network load balancer,
// which has annotations of its own and does not read those of the other kind.
func ociNLB(annotation func(string) string) bool {
	return strings.EqualFold(annotation("oci.oraclecloud.com/load-balancer-type"), "nlb")
}

const (
	gceSource = "https://github.com/kubernetes/cloud-provider-gcp/blob/master/providers/gce/gce_annotations.go"
	ociSource = "https://github.com/oracle/oci-cloud-controller-manager/blob/master/pkg/cloudprovider/providers/oci/load_balancer_spec.go"
	aliSource = "https://github.com/kubernetes/cloud-provider-alibaba-cloud/blob/master/docs/usage.md"
	k8sSource = "https://kubernetes.io/docs/concepts/services-networking/service/#internal-load-balancer"
)

// serviceSignals are all asked; where two disagree nothing is concluded. What
// AWS goes by is in awsReach.
var serviceSignals = []signal{
	{key: "networking.gke.io/load-balancer-type", read: internalIf("Internal", "internal"), source: gceSource},
	{key: "cloud.google.com/load-balancer-type", read: internalIf("Internal", "internal"), source: gceSource,
		when: func(annotation func(string) string) bool {
			return annotation("networking.gke.io/load-balancer-type") == "" // the newer key wins
		}},
	{key: "service.beta.kubernetes.io/azure-load-balancer-internal", read: internalIf("true"),
		source: "https://github.com/kubernetes-sigs/cloud-provider-azure/blob/master/pkg/provider/azure_loadbalancer.go"},
	{key: "service.beta.kubernetes.io/oci-load-balancer-internal", read: truth, source: ociSource,
		when: func(annotation func(string) string) bool { return !ociNLB(annotation) }},
	{key: "oci-network-load-balancer.oraclecloud.com/internal", read: truth, source: ociSource, when: ociNLB},
	{key: "service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type", read: eitherOf("private", "public"), source: k8sSource},
	{key: "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", read: eitherOf("intranet", "internet"), source: aliSource},
	{key: "service.beta.kubernetes.io/alicloud-loadbalancer-address-type", read: eitherOf("intranet", "internet"), source: aliSource},
	{key: "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid", read: present(network.ReachPrivate), source: k8sSource},
	{key: "service.beta.kubernetes.io/cce-load-balancer-internal-vpc", read: internalIf("true"), source: k8sSource},
	{key: "kubernetes.io/elb.autocreate", read: huaweiAutocreate, source: ""},
	{key: "service.beta.kubernetes.io/openstack-internal-load-balancer", read: internalIf("true"),
		source: "https://github.com/kubernetes/cloud-provider-openstack/blob/master/pkg/openstack/loadbalancer.go"},
	{key: "service.beta.kubernetes.io/do-loadbalancer-network", read: eitherOf("INTERNAL", "EXTERNAL"),
		source: "https://github.com/digitalocean/digitalocean-cloud-controller-manager/blob/main/cloud-controller-manager/do/loadbalancers.go"},
	{key: "service.beta.kubernetes.io/scw-loadbalancer-private", read: internalIf("true"),
		source: "https://github.com/scaleway/scaleway-cloud-controller-manager/blob/main/docs/loadbalancer-annotations.md"},
	{key: "load-balancer.hetzner.cloud/disable-public-network", read: internalIf("true"),
		source: "https://github.com/hetznercloud/hcloud-cloud-controller-manager/blob/main/docs/reference/load_balancer_annotations.md"},
}

// takenOver are annotations by which a Service uses what is configured
// elsewhere, so that nothing in the input says whether it is public.
var takenOver = []string{
	"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-id", "service.beta.kubernetes.io/alicloud-loadbalancer-id",
	"service.kubernetes.io/tke-existed-lbid", "kubernetes.io/elb.id", "loadbalancer.openstack.org/load-balancer-id",
	"service.beta.kubernetes.io/scw-loadbalancer-externally-managed", "service.beta.kubernetes.io/linode-loadbalancer-nodebalancer-id",
	"service.beta.kubernetes.io/linode-loadbalancer-frontend-vpc-name", "service.beta.kubernetes.io/linode-loadbalancer-frontend-subnet-id", "service.beta.kubernetes.io/linode-loadbalancer-frontend-subnet-name",
}

// huaweiAutocreate reads the JSON that describes the load balancer to make.
func huaweiAutocreate(v string) (network.Reach, bool) {
	var spec struct {
		Type string `json:"type"`
	}
	if json.Unmarshal([]byte(v), &spec) != nil {
		return network.ReachUnknown, false
	}
	return eitherOf("inner", "public")(spec.Type)
}

// signalled asks all signals.
func signalled(annotation func(string) string) (network.Reach, string, bool) {
	for _, key := range takenOver {
		if v := annotation(key); v != "" && v != "false" {
			return network.ReachUnknown, "annotation " + key + " uses a load balancer or a network that is described elsewhere", true
		}
	}
	reach, why, found := awsReach(annotation)
	for _, s := range serviceSignals {
		v := annotation(s.key)
		if v == "" || s.when != nil && !s.when(annotation) {
			continue
		}
		r, ok := s.read(v)
		if !ok {
			continue
		}
		says := "annotation " + s.key + ": " + v[:min(len(v), 100)]
		if found && r != reach {
			return network.ReachUnknown, why + ", and " + says + ": the cloud that runs it decides", true
		}
		reach, why, found = r, says, true
	}
	return reach, why, found
}

// classReach is what a loadBalancerClass says whatever the annotations are.
var classReach = map[string]struct {
	reach network.Reach
	why   string
}{
	"tailscale":                                     {network.ReachPrivate, "loadBalancerClass tailscale is reachable in the tailnet only"},
	"networking.gke.io/l4-regional-internal":        {network.ReachPrivate, "loadBalancerClass l4-regional-internal"},
	"networking.gke.io/l4-regional-external":        {network.ReachPublic, "loadBalancerClass l4-regional-external"},
	"networking.gke.io/l4-regional-internal-legacy": {network.ReachPrivate, "loadBalancerClass l4-regional-internal-legacy"},
	"networking.gke.io/l4-regional-external-legacy": {network.ReachPublic, "loadBalancerClass l4-regional-external-legacy"},
}

// The two load balancer classes of AWS.
const (
	albClass  = "service.k8s.aws/nlb"
	autoClass = "eks.amazonaws.com/nlb"
)

// awsTypes are the values of aws-load-balancer-type that hand a Service to the
// AWS Load Balancer Controller, whose default is internal, where that of the
// older provider is internet-facing.
var awsTypes = map[string]bool{"external": true, "nlb-ip": true, "nlb-target-ip": true}

const awsPrefix = "service.beta.kubernetes.io/aws-load-balancer-"

// awsReach reads the annotations of AWS where it is not known which of its
// programs makes the load balancer: what they agree on. The older provider
// (kubernetes/cloud-provider-aws, pkg/providers/v1/aws.go) reads "internal",
// takes every value but "false" for yes, and knows no "scheme". The AWS Load
// Balancer Controller (pkg/service/model_build_load_balancer.go) reads
// "scheme", and "internal" as a truth value where there is none.
func awsReach(annotation func(string) string) (network.Reach, string, bool) {
	scheme, internal := annotation(awsPrefix+"scheme"), annotation(awsPrefix+"internal")
	old, older := network.ReachPublic, ""
	if internal != "" {
		older = "annotation " + awsPrefix + "internal: " + internal
		if internal != "false" {
			old = network.ReachPrivate
		}
	}
	says := "annotation " + awsPrefix + "scheme: " + scheme
	r, known := eitherOf("internal", "internet-facing")(scheme)
	switch {
	case scheme == "" && internal == "":
		return network.ReachUnknown, "", false
	case scheme == "":
		if now, ok := truth(internal); ok && now != old {
			return network.ReachUnknown, older + ", which the two providers of AWS read differently", true
		}
		return old, older, true
	case !known:
		return network.ReachUnknown, says + ", which is no scheme", true
	case r == old:
		return r, says, true
	}
	return network.ReachUnknown, says + " counts with the AWS Load Balancer Controller only, and the Service does not name it", true
}

// awsControlled reads a Service that the AWS Load Balancer Controller or EKS
// Auto Mode serves. byDefault says that nothing but its default decides.
func awsControlled(class string, annotation func(string) string) (reach network.Reach, why string, byDefault bool) {
	if scheme := annotation(awsPrefix + "scheme"); scheme != "" {
		why = "annotation " + awsPrefix + "scheme: " + scheme
		if r, ok := eitherOf("internal", "internet-facing")(scheme); ok {
			return r, why, false
		}
		return network.ReachUnknown, why + ", which is no scheme", false
	}
	if class == autoClass {
		return network.ReachPrivate, "EKS Auto Mode makes internal load balancers by default", false
	}
	if internal := annotation(awsPrefix + "internal"); internal != "" {
		why = "annotation " + awsPrefix + "internal: " + internal
		if r, ok := truth(internal); ok {
			return r, why, false
		}
		return network.ReachUnknown, why + ", which is no truth value", false
	}
	return network.ReachPrivate, awsDefault, true
}

const (
	awsDefault = "the AWS Load Balancer Controller makes internal load balancers by default"
	awsFlag    = "--default-load-balancer-scheme"
)

// awsDefaultReach is what the AWS Load Balancer Controller makes without a
// scheme: internal, unless it was started otherwise.
func (b *builder) awsDefaultReach() (network.Reach, string) {
	found := false
	for i := b.first; i < len(b.n.Endpoints); i++ {
		e := &b.n.Endpoints[i]
		if e.Kind != network.Workload || !runs(e, []string{"aws-load-balancer-controller"}) {
			continue
		}
		found = true
		if v, ok := flagValue(e.Facts.Commands, awsFlag); ok && v != "internal" {
			if v == "internet-facing" {
				return network.ReachPublic, "the AWS Load Balancer Controller is started with " + awsFlag + "=" + v
			}
			return network.ReachUnknown, "the AWS Load Balancer Controller is started with " + awsFlag + "=" + v
		}
	}
	b.awsAssumed = b.awsAssumed || !found
	return network.ReachPrivate, awsDefault
}

// flagValue returns the value of a flag among the words of a command.
func flagValue(words []string, flag string) (string, bool) {
	for i, w := range words {
		if v, ok := strings.CutPrefix(w, flag+"="); ok {
			return v, true
		}
		if w == flag && i+1 < len(words) {
			return words[i+1], true
		}
	}
	return "", false
}
