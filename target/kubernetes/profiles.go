package kubernetes

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/target/kube"
)

// support says what an implementation does with a kind of policy.
type support uint8

const (
	honoured support = iota
	ignored
	unsure
)

// Profile is the behaviour of one implementation where the specification
// leaves it open.
type Profile struct {
	Name string
	// Enforces says whether policies have any effect.
	Enforces bool
	// BlocksMatchPods says whether an ipBlock means pods and nodes by their
	// address, and not only what is outside.
	BlocksMatchPods bool
	// Undefined are the protocols of which nothing is known. They are treated
	// like the rest, and an assumption says so.
	Undefined netset.Traffic
	// Admin and Cluster say what becomes of AdminNetworkPolicy (v1alpha1) and
	// ClusterNetworkPolicy (v1alpha2).
	Admin, Cluster support
	// Says is the behaviour in one sentence.
	Says string
	// Verified is the day on which Sources, pages or files of a repository, were
	// read, or empty.
	Verified string
	Sources  []string
}

var (
	otherProtocols = netset.Whole(netset.Other)
	withoutPorts   = netset.Whole(netset.ICMP).Union(netset.Whole(netset.ICMPv6)).Union(otherProtocols)
)

const (
	policyDocs = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
	// adminDocs lists who implements the policies of administrators; the list
	// is of 2026-04-21.
	adminDocs = "https://github.com/kubernetes-sigs/network-policy-api/blob/main/site-src/implementations.md"
)

// profiles are the known implementations; the first is the default.
var profiles = []Profile{
	{Name: "generic", Enforces: true, BlocksMatchPods: true, Undefined: withoutPorts,
		Says:     "the network plugin follows the specification; where that leaves it open, an ipBlock means whoever has the address, pods and nodes included",
		Verified: "2026-11-22", Sources: []string{policyDocs}},
	{Name: "calico", Enforces: true, BlocksMatchPods: true, Admin: unsure, Cluster: unsure,
		Says:     "Calico filters every protocol, and an ipBlock means whoever has the address, pods and nodes included; it implements AdminNetworkPolicy from 3.29 to 3.31 and ClusterNetworkPolicy since 3.32",
		Verified: "2026-11-22", Sources: []string{"https://github.com/projectcalico/calico/blob/master/libcalico-go/lib/backend/k8s/conversion/conversion.go",
			"https://docs.tigera.io/calico/latest/network-policy/policy-rules/icmp-ping", adminDocs,
			"https://github.com/projectcalico/calico/blob/master/release-notes/v3.32.0-release-notes.md"}},
	{Name: "cilium", Enforces: true, Undefined: otherProtocols, Admin: ignored, Cluster: unsure,
		Says:     "Cilium knows pods and nodes by identity, so that an ipBlock means neither of them (unless policy-cidr-match-mode adds nodes); it filters ICMP, and implements ClusterNetworkPolicy since 1.20 where that is enabled",
		Verified: "2026-11-22", Sources: []string{"https://docs.cilium.io/en/stable/network/kubernetes/policy/", "https://docs.cilium.io/en/latest/security/policy/deny/",
			"https://github.com/cilium/cilium/pull/47227", "https://github.com/cilium/cilium/issues/23380"}},
	{Name: "antrea", Enforces: true, BlocksMatchPods: true, Undefined: withoutPorts, Admin: unsure, Cluster: unsure,
		Says:     "an ipBlock means whoever has the address for Antrea, pods and nodes included; it implements AdminNetworkPolicy since 1.13 where its feature gate is on",
		Verified: "2026-11-22", Sources: []string{"https://github.com/antrea-io/antrea/blob/main/docs/admin-network-policy.md",
			"https://github.com/antrea-io/antrea/blob/main/pkg/agent/openflow/network_policy.go", adminDocs}},
	{Name: "kube-router", Enforces: true, BlocksMatchPods: true, Undefined: withoutPorts, Admin: ignored, Cluster: ignored,
		Says:     "kube-router filters by address, so that an ipBlock means whoever has it, lets pings and ICMP errors through whatever the policies say, and implements NetworkPolicy only",
		Verified: "2026-11-22", Sources: []string{"https://github.com/cloudnativelabs/kube-router/blob/master/pkg/controllers/netpol/npc_iptables.go",
			"https://github.com/cloudnativelabs/kube-router/blob/master/pkg/utils/iptables.go", adminDocs}},
	{Name: "ovn-kubernetes", Enforces: true, BlocksMatchPods: true, Undefined: otherProtocols, Cluster: unsure,
		Says:     "OVN-Kubernetes filters by address, so that an ipBlock means whoever has it, inside or outside, and drops all unicast traffic of isolated pods that is not allowed; it implements AdminNetworkPolicy",
		Verified: "2026-11-22", Sources: []string{"https://github.com/ovn-org/ovn-kubernetes/blob/master/docs/features/network-security-controls/network-policy.md",
			"https://github.com/ovn-org/ovn-kubernetes/blob/master/docs/features/network-security-controls/admin-network-policy.md", adminDocs}},
	{Name: "aws-vpc-cni", Enforces: true, BlocksMatchPods: true, Undefined: netset.Whole(netset.ICMPv6), Admin: unsure, Cluster: unsure,
		Says:     "the Amazon VPC CNI filters every protocol by address, so that an ipBlock means whoever has it; nodes of Fargate and Windows are not covered, and neither are pods that no other object owns",
		Verified: "2026-11-22", Sources: []string{"https://github.com/awsdocs/amazon-eks-user-guide/blob/mainline/latest/ug/networking/cni-network-policy.adoc",
			"https://github.com/aws/aws-network-policy-agent/blob/main/pkg/ebpf/c/tc.v4ingress.bpf.c", adminDocs}},
	{Name: "azure-cni-cilium", Enforces: true, Undefined: otherProtocols, Admin: ignored, Cluster: unsure,
		Says:     "Azure CNI powered by Cilium knows pods and nodes by identity, so that an ipBlock means neither of them",
		Verified: "2026-11-22", Sources: []string{"https://learn.microsoft.com/en-us/azure/aks/azure-cni-powered-by-cilium"}},
	{Name: "gke-dataplane-v2", Enforces: true, Undefined: otherProtocols, Admin: unsure, Cluster: unsure,
		Says:     "GKE Dataplane V2 is made with Cilium, which knows pods and nodes by identity, so that an ipBlock means neither of them",
		Verified: "2026-11-22", Sources: []string{"https://docs.cloud.google.com/kubernetes-engine/docs/concepts/dataplane-v2", "https://docs.cilium.io/en/stable/network/kubernetes/policy/"}},
	{Name: "none", BlocksMatchPods: true, Admin: ignored, Cluster: ignored,
		Says:     "no network plugin enforces policies, so that none of them has any effect",
		Verified: "2026-11-22", Sources: []string{policyDocs + "#prerequisites"}},
}

// Profiles returns the names of the known profiles, the default first.
func Profiles() []string {
	names := make([]string, len(profiles))
	for i := range profiles {
		names[i] = profiles[i].Name
	}
	return names
}

func profileNamed(name string) (*Profile, error) {
	if name == "" {
		return &profiles[0], nil
	}
	names := Profiles()
	if i := slices.Index(names, name); i >= 0 {
		return &profiles[i], nil
	}
	hint := ""
	if near := source.Nearest(name, names); near != "" {
		hint = fmt.Sprintf(", did you mean %q?", near)
	}
	return nil, fmt.Errorf("there is no profile %q%s (known: %s)", name, hint, strings.Join(names, ", "))
}

// assume records what the verdicts rest on and the input does not state.
func (b *builder) assume() {
	says := func(id, format string, args ...any) *network.Assumption {
		b.n.Assumptions = append(b.n.Assumptions, network.Assumption{ID: id, Says: fmt.Sprintf(format, args...)})
		return &b.n.Assumptions[len(b.n.Assumptions)-1]
	}
	if b.awsAssumed {
		says("aws-scheme", "the AWS Load Balancer Controller, which is not in the input, is not started with %s", awsFlag)
	}
	if len(b.policies)+len(b.admin) == 0 {
		return
	}
	says("profile", "profile %s: %s", b.profile.Name, b.profile.Says)
	b.warnIgnored()
	if !b.profile.Enforces {
		return
	}
	if !b.profile.Undefined.IsEmpty() {
		says("protocols", "what policies do to protocols without ports is not defined for profile %s; they are treated like the rest",
			b.profile.Name).Traffic = b.profile.Undefined
	}
	says("local-node", "policies do not apply to what a pod's own node opens to it, and do apply to what it opens to the node")
	if b.addressUnknown && b.blocksSplit() {
		says("pod-addresses", "pods and nodes whose address is not in the input are somewhere in %s", b.space)
	}
	if unseen := b.unseenNamespaces(); len(unseen) > 0 {
		says("namespace-labels", "the labels of namespaces that are not in the input are not known: %s", listed(unseen))
	}
}

// blocksSplit reports whether an address block holds some of the addresses
// that pods may have and not others.
func (b *builder) blocksSplit() bool {
	if !b.profile.BlocksMatchPods {
		return slices.ContainsFunc(b.admin, func(p adminPolicy) bool { return len(p.rules[network.Egress]) > 0 }) && b.anySplit()
	}
	return b.anySplit()
}

func (b *builder) anySplit() bool {
	return slices.ContainsFunc(b.blocks, func(block netset.Addrs) bool {
		return network.MatchAddrs(b.space, block) != network.No && network.MatchAddrs(b.space, block) != network.Yes
	})
}

// unseenNamespaces returns those that are used and not defined, where a rule
// selects namespaces by a label.
func (b *builder) unseenNamespaces() []string {
	var names []string
	for key := range b.scopeKeys {
		if key == kube.NamespaceLabel {
			continue
		}
		for _, name := range sortedKeys(b.namespaces) {
			if !b.namespaces[name].defined {
				names = append(names, name)
			}
		}
		break
	}
	return names
}

// listed joins names, the first few of many.
func listed(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// warnIgnored warns about policies that the profile does not implement.
func (b *builder) warnIgnored() {
	if !b.profile.Enforces {
		for i := range b.policies {
			b.ds.Warnf("no-effect", b.policies[i].pos, "%s has no effect with profile %s", b.policies[i].name, b.profile.Name).
				WithFix("install a network plugin that enforces policies")
		}
	}
	clusterBaseline, baseline := false, false
	for i := range b.admin {
		p := &b.admin[i]
		if b.supports(p) == ignored {
			b.ds.Warnf("no-effect", p.pos, "%s has no effect with profile %s, which does not implement it", p.name, b.profile.Name).
				WithFix("use a kind of policy that it implements")
		}
		clusterBaseline = clusterBaseline || p.baseline && p.dialect.cluster
		baseline = baseline || p.baseline && !p.dialect.cluster
		if clusterBaseline && baseline {
			b.ds.Warnf("two-baselines", p.pos, "%s: the order of a BaselineAdminNetworkPolicy and a ClusterNetworkPolicy of the baseline tier is not defined", p.name).
				WithFix("use one of the two kinds")
			baseline = false
		}
	}
}

func (b *builder) supports(p *adminPolicy) support {
	if p.dialect.cluster {
		return b.profile.Cluster
	}
	return b.profile.Admin
}
