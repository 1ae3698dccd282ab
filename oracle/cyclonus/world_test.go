// Package cyclonus compares bulkhead with the simulator of cyclonus, on
// cyclonus' own cases. README.md says how.
package cyclonus

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
	"bulkhead/target/kubernetes"
)

// newCluster makes the cluster that `cyclonus generate --mock` makes: pods a,
// b, c in namespaces x, y, z, each serving 80 and 81 by all three protocols.
func newCluster(t *testing.T) *connectivity.TestCaseState {
	t.Helper()
	mock := kube.NewMockKubernetes(1)
	resources, err := probe.NewDefaultResources(mock, []string{"x", "y", "z"}, []string{"a", "b", "c"}, []int{80, 81},
		[]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}, nil, 1, false, "example")
	if err != nil {
		t.Fatal(err)
	}
	return &connectivity.TestCaseState{Kubernetes: mock, Resources: resources}
}

// apply does to the cluster what an action says.
func apply(c *connectivity.TestCaseState, a *generator.Action) error {
	switch {
	case a.CreatePolicy != nil:
		return c.CreatePolicy(a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		return c.UpdatePolicy(a.UpdatePolicy.Policy)
	case a.DeletePolicy != nil:
		return c.DeletePolicy(a.DeletePolicy.Namespace, a.DeletePolicy.Name)
	case a.CreateNamespace != nil:
		return c.CreateNamespace(a.CreateNamespace.Namespace, a.CreateNamespace.Labels)
	case a.SetNamespaceLabels != nil:
		return c.SetNamespaceLabels(a.SetNamespaceLabels.Namespace, a.SetNamespaceLabels.Labels)
	case a.DeleteNamespace != nil:
		return c.DeleteNamespace(a.DeleteNamespace.Namespace)
	case a.ReadNetworkPolicies != nil:
		return c.ReadPolicies(a.ReadNetworkPolicies.Namespaces)
	case a.CreatePod != nil:
		return c.CreatePod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels)
	case a.SetPodLabels != nil:
		return c.SetPodLabels(a.SetPodLabels.Namespace, a.SetPodLabels.Pod, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		return c.DeletePod(a.DeletePod.Namespace, a.DeletePod.Pod)
	}
	return fmt.Errorf("unknown action %+v", a)
}

// manifests returns the cluster as `kubectl get -o yaml` would print it. Names
// and labels come from cyclonus' resources and not from its mock cluster,
// which loses changed labels of namespaces; policies come from the cluster.
func manifests(c *connectivity.TestCaseState) ([]byte, error) {
	var out bytes.Buffer
	add := func(o any) error {
		text, err := yaml.Marshal(o)
		out.WriteString("---\n")
		out.Write(text)
		return err
	}
	namespaces := c.Resources.NamespacesSlice()
	slices.Sort(namespaces)
	found := 0
	for _, name := range namespaces {
		ns := probe.KubeNamespace(name, c.Resources.Namespaces[name])
		ns.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}
		if err := add(ns); err != nil {
			return nil, err
		}
		policies, err := c.Kubernetes.GetNetworkPoliciesInNamespace(name)
		if err != nil {
			return nil, err
		}
		found += len(policies)
		slices.SortFunc(policies, func(a, b networkingv1.NetworkPolicy) int { return strings.Compare(a.Name, b.Name) })
		for _, p := range policies {
			p.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
			if err := add(p); err != nil {
				return nil, err
			}
		}
	}
	if found != len(c.Policies) {
		return nil, fmt.Errorf("%d policies are in the cluster and %d are simulated", found, len(c.Policies))
	}
	for _, pod := range c.Resources.Pods {
		p, s := pod.KubePod(), pod.KubeService()
		p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: pod.IP, PodIPs: []corev1.PodIP{{IP: pod.IP}}}
		s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
		if err := add(p); err != nil {
			return nil, err
		}
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// estate is what bulkhead makes of manifests.
type estate struct {
	*reach.Analysis
	class map[string]reach.ClassID // by namespace/pod
}

func read(t *testing.T, text []byte) *estate {
	t.Helper()
	im, err := kubernetes.New().NewImporter(target.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for doc, d := range yamldoc.Documents("cluster.yaml", text, yamldoc.ManifestLimits) {
		if d != nil {
			t.Fatal(d)
		}
		if !im.Add(target.Document{Value: doc}) {
			t.Fatalf("the importer knows nothing of %s", doc.Pos())
		}
	}
	n := &network.Network{}
	ds := im.Finish(n)
	for _, d := range ds {
		t.Logf("%s\n%s", d, text)
		t.Fail()
	}
	if c := n.Coverage; c.Understood != c.Objects {
		t.Errorf("%d of %d objects understood: %v", c.Understood, c.Objects, c.Ignored)
	}
	e := &estate{Analysis: reach.New(n), class: map[string]reach.ClassID{}}
	for i := range n.Endpoints {
		if namespace, pod, ok := strings.Cut(n.Endpoints[i].Workload, "/Pod/"); ok {
			e.class[namespace+"/"+pod] = e.ClassOf(i)
		}
	}
	return e
}

// blocks returns the address blocks of a policy and their exceptions.
func blocks(p *networkingv1.NetworkPolicy) []string {
	var peers []networkingv1.NetworkPolicyPeer
	for _, r := range p.Spec.Ingress {
		peers = append(peers, r.From...)
	}
	for _, r := range p.Spec.Egress {
		peers = append(peers, r.To...)
	}
	var out []string
	for _, peer := range peers {
		if peer.IPBlock != nil {
			out = append(append(out, peer.IPBlock.CIDR), peer.IPBlock.Except...)
		}
	}
	return out
}
