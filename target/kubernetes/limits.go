package kubernetes

import (
	"slices"

	"bulkhead/target"
)

// policyTypes defines every field of a NetworkPolicy.
const policyTypes = "https://github.com/kubernetes/api/blob/master/networking/v1/types.go"

// What neither kind of policy can express. Both select pods by labels and see
// addresses, protocols and ports.
var (
	limitUnbound = target.Limit{ID: "unbound", Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "a workload without a usable kubernetes binding is nowhere: what it may do and what may reach it is left out",
		Source: "https://kubernetes.io/docs/concepts/services-networking/network-policies/",
		Fix:    "add at: {kubernetes: {namespace: NAME, labels: {KEY: VALUE}}} to the workload"}
	limitNoLabels = target.Limit{ID: "no-labels", Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "a binding by service account or object name alone selects nothing, since policies select pods by labels only; it is left out, not widened to the namespace",
		Source: policyTypes,
		Fix:    "add labels: to the binding that only these pods have"}
	limitServiceAccount = target.Limit{ID: "service-account", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "a policy cannot ask for the service account of a pod: pods with the labels and another account are treated alike",
		Source: policyTypes,
		Fix:    "keep others from creating pods with these labels, or enforce the identity with a mesh target as well"}
	limitWorkloadName = target.Limit{ID: "workload-name", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "a policy cannot ask which object made a pod: pods of others with the labels are treated alike",
		Source: policyTypes,
		Fix:    "bind by labels that only this workload's pods have"}
	limitOverlap = target.Limit{ID: "overlap", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "policies that select the same pod add up: a pod that two workloads are bound to may do what either may",
		Source: policyTypes,
		Fix:    "give the two bindings different values of the same label"}
	limitRequests = target.Limit{ID: "requests", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "policies see ports and no requests: the whole port is open where some requests are declared",
		Source: policyTypes,
		Fix:    "enforce the requests with a mesh target as well, or accept it with enforcedBy: application"}
	limitRate = target.Limit{ID: "rate", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-23",
		What:   "policies do not count bytes: a flow with a rate is not limited",
		Source: policyTypes,
		Fix:    "limit it with the network plugin's own bandwidth settings, or in the application"}
	limitNoAddress = target.Limit{ID: "endpoint-address", Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "a private endpoint whose address is not declared cannot be named: it stays closed",
		Source: policyTypes,
		Fix:    "add address: to the endpoint"}
	limitNodeLocal = target.Limit{ID: "node-local-dns", Wider: true, Since: "1.18", Verified: "2026-11-22",
		What:   "NodeLocal DNSCache answers on a link-local address of the machine and not as a pod: that address is opened for name resolution whether it is used or not",
		Source: "https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/",
		Fix:    "none is needed: where there is no cache, nothing has the address"}
)

// What NetworkPolicy cannot express.
var (
	limitNames = target.Limit{ID: "names", Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "NetworkPolicy has no domain names: a destination by name stays closed",
		Source: policyTypes,
		Fix:    "declare a gateway, name the destination's addresses, or compile for kubernetes-admin as well"}
	limitGatewayNames = target.Limit{ID: "gateway-names", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "NetworkPolicy has no domain names: the gateway may reach every public address on the ports of its destinations, and itself decides by name",
		Source: policyTypes,
		Fix:    "compile for kubernetes-admin as well, which knows names"}
	limitBlockPods = target.Limit{ID: "block-pods", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "an address block means pods and machines with such an address too, with most network plugins",
		Source: "https://kubernetes.io/docs/concepts/services-networking/network-policies/#behavior-of-ipblock-selectors",
		Fix:    "name blocks outside of the cluster's own networks"}
	limitLocalNode = target.Limit{ID: "local-node", Wider: true, Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "the machine that a pod runs on always reaches it, on every port",
		Source: policyTypes,
		Fix:    "keep workloads of different trust on different machines"}
	limitHosts = target.Limit{ID: "hosts", Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "NetworkPolicy cannot name machines: of the hosts, only the one that the pod runs on reaches it",
		Source: "https://kubernetes.io/docs/concepts/services-networking/network-policies/#what-you-can-t-do-with-network-policies-at-least-not-yet",
		Fix:    "expose it from: the CIDR of the machines' network"}
	limitControlPlane = target.Limit{ID: "control-plane", Since: "networking.k8s.io/v1", Verified: "2026-11-22",
		What:   "NetworkPolicy cannot name the control plane: it is denied",
		Source: "https://kubernetes.io/docs/concepts/services-networking/network-policies/#what-you-can-t-do-with-network-policies-at-least-not-yet",
		Fix:    "expose it from: the addresses of the API servers"}
)

// What ClusterNetworkPolicy cannot express.
var (
	limitOutsideIngress = target.Limit{ID: "outside-ingress", Wider: true, Since: "policy.networking.k8s.io/v1alpha2", Verified: "2026-11-22",
		What:   "the sources of a ClusterNetworkPolicy are pods: what comes from outside, from machines and from pods on their network is not filtered, declared or not",
		Source: "https://github.com/kubernetes-sigs/network-policy-api/blob/main/apis/v1alpha2/clusternetworkpolicy_types.go",
		Fix:    "apply the output of the kubernetes target as well, which closes it"}
	limitBlockHosts = target.Limit{ID: "block-hosts", Wider: true, Since: "policy.networking.k8s.io/v1alpha2", Verified: "2026-11-22",
		What:   "an address block means machines with such an address, and pods on their network, too",
		Source: "https://github.com/kubernetes-sigs/network-policy-api/blob/main/apis/v1alpha2/clusternetworkpolicy_types.go",
		Fix:    "name blocks outside of the machines' network"}
)

// commonLimits are those of both targets.
var commonLimits = []target.Limit{limitUnbound, limitNoLabels, limitServiceAccount, limitWorkloadName, limitOverlap,
	limitRequests, limitRate, limitNoAddress, limitNodeLocal}

// Limits returns what NetworkPolicy cannot express.
func (Target) Limits() []target.Limit {
	return append(slices.Clip(commonLimits), limitNames, limitGatewayNames, limitBlockPods, limitLocalNode, limitHosts, limitControlPlane)
}

// Limits returns what ClusterNetworkPolicy cannot express.
func (AdminTarget) Limits() []target.Limit {
	return append(slices.Clip(commonLimits), limitOutsideIngress, limitBlockHosts)
}
