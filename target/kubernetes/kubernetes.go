// Package kubernetes reads Kubernetes objects into the network model, binds
// policies to them, and compiles policies to NetworkPolicy ([Target]) and to
// ClusterNetworkPolicy ([AdminTarget]).
//
// It understands workloads of every kind that embeds a pod, NetworkPolicy,
// AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy,
// Services, Ingresses, Gateway API routes, OpenShift Routes and webhooks.
//
// # What it promises
//
// What is in the input is either understood, listed in the coverage, or left
// to another target; it is never skipped in silence. Where the specification
// leaves the outcome to the implementation, a profile decides and the network
// says so in its assumptions. What a controller adds to a pod is modelled
// where the controller documents it; a label whose value only the cluster
// knows is unsettled, so that a rule that selects on it is answered with
// unknown.
//
// # Endpoints
//
// An endpoint is named after its topmost owner, `namespace/Kind/name`. An
// object that is in the input together with what it made (a Deployment and its
// Pods) is described by the latter: real labels, addresses and ports. Pods of
// one owner are one endpoint unless their labels, ports, service account or
// network differ, or an address block in a policy tells their addresses apart.
//
// # Exposure
//
// From where a Service, an Ingress or a Gateway can be reached follows from
// annotations, classes and addresses; every front says what decided. A load
// balancer that nothing makes internal counts as public, as clouds make it. An
// Ingress served by pods of the cluster is as reachable as the Service before
// them, and their address is what policies see; where they are not in the
// input it is not known.
//
// # Compiling
//
// Every namespace in which a workload lives is closed, and then opened for
// what is declared. The two outputs are made to be applied together: the
// administrators' policies know names and cannot be undone by the owners of
// namespaces, and NetworkPolicies close what comes from outside the cluster.
// Each is right alone but for its [Target.Limits]. No policy applies to pods on
// the host's network: the compiler cannot see those, verification does.
//
// # What it leaves out
//
// Services that an operator makes are modelled for KubeRay (head and serve),
// NIM and Kubeflow notebooks only; those of KServe, training jobs and
// LeaderWorkerSets are not. Templates that run nothing by themselves (serving
// and training runtimes) are no workloads; the coverage lists them. Traffic through a service mesh is the
// business of that mesh's target.
package kubernetes

import (
	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/target"
)

// Attributes of endpoints that are not labels. Their keys cannot collide with
// a label's, which never holds a zero byte.
const (
	// ServiceAccountAttribute is the name of the service account.
	ServiceAccountAttribute = "\x00serviceAccount"
	// WorkloadAttribute is `Kind/name` of the topmost owner.
	WorkloadAttribute = "\x00workload"
	// NodeAttribute is the name of the node that an instance on the host's
	// network runs on, where that is known.
	NodeAttribute = "\x00node"
)

// LayerName is the name of the layer that holds all network policies.
const LayerName = "NetworkPolicy"

// Names of the tables of the layer, in the order in which they are asked.
const (
	AdminTable    = "Admin"
	PolicyTable   = "NetworkPolicy"
	BaselineTable = "Baseline"
)

// Names of the two endpoints that every cluster has.
const (
	NodesName        = "nodes"
	ControlPlaneName = "control-plane"
)

// Target is Kubernetes.
type Target struct{}

// New returns the target.
func New() Target { return Target{} }

// Name returns "kubernetes".
func (Target) Name() string { return "kubernetes" }

// NewImporter returns an importer for the profile that the options name.
func (Target) NewImporter(o target.Options) (target.Importer, error) {
	p, err := profileNamed(o.Profile)
	if err != nil {
		return nil, err
	}
	return newImporter(o, p), nil
}

// privateSpace is where pods and nodes can be when the input does not tell.
// 100.64.0.0/10 is what several clouds give to pods.
var (
	privateV4 = netset.MustAddrs("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
	privateV6 = netset.MustAddrs("fc00::/7")
)

// hostEnds are the ends that share a node's address.
const hostEnds = network.EndHost | network.EndShared | network.EndSharedEverywhere

// podEnds are the ends that are pods.
const podEnds = network.EndOwn | network.EndShared | network.EndSharedEverywhere
