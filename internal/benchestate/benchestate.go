// Package benchestate makes large Kubernetes estates from a seed, for
// benchmarks: many Deployments over many namespaces with the policies that
// careful teams write. The same Size always gives the same text.
package benchestate

import (
	"fmt"
	"io"
	"math/rand/v2"
)

// Size says how large an estate is.
type Size struct {
	Workloads  int
	Namespaces int
	// CIDRs adds one policy that allows egress to that many distinct networks.
	CIDRs int
	Seed  uint64
}

// The sizes that the performance table reports. Every namespace has five
// policies.
var (
	Small  = Size{Workloads: 500, Namespaces: 50}
	Medium = Size{Workloads: 2_000, Namespaces: 50}
	Large  = Size{Workloads: 10_000, Namespaces: 200}
	Huge   = Size{Workloads: 100_000, Namespaces: 500}
	CIDRs  = Size{Workloads: 100, Namespaces: 10, CIDRs: 1_000}
)

// Write writes the manifests of an estate.
func Write(w io.Writer, s Size) error {
	r := rand.New(rand.NewPCG(s.Seed, 1))
	for n := range s.Namespaces {
		if _, err := fmt.Fprintf(w, `apiVersion: v1
kind: Namespace
metadata:
  name: ns-%d
  labels: {team: t%d, env: prod}
---
`, n, n%10); err != nil {
			return err
		}
		if err := Policies(w, n, r.IntN(10), r.IntN(200)); err != nil {
			return err
		}
	}
	for i := range s.Workloads {
		_, err := fmt.Fprintf(w, `apiVersion: apps/v1
kind: Deployment
metadata:
  name: w-%d
  namespace: ns-%d
spec:
  replicas: 3
  selector: {matchLabels: {app: a%d, instance: w-%d}}
  template:
    metadata:
      labels: {app: a%d, tier: t%d, instance: w-%d}
    spec:
      containers:
        - name: main
          image: registry.example/app:1
          ports: [{containerPort: 8080, name: http}, {containerPort: 9090, name: metrics}]
---
`, i, i%s.Namespaces, i%8, i, i%8, r.IntN(3), i)
		if err != nil {
			return err
		}
	}
	return writeCIDRs(w, s)
}

// Policies writes the five policies of a namespace: nothing by default, DNS,
// the namespace's own traffic, one port range to another team, one network.
func Policies(w io.Writer, namespace, team, subnet int) error {
	_, err := fmt.Fprintf(w, `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: ns-%[1]d}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dns, namespace: ns-%[1]d}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
      ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: own, namespace: ns-%[1]d}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{podSelector: {}}]
      ports: [{protocol: TCP, port: 8080}]
  egress:
    - to: [{namespaceSelector: {}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: team, namespace: ns-%[1]d}
spec:
  podSelector: {matchLabels: {app: a%[4]d}}
  policyTypes: [Ingress]
  ingress:
    - from:
        - namespaceSelector: {matchLabels: {team: t%[2]d}}
          podSelector: {matchLabels: {tier: t%[5]d}}
      ports: [{protocol: TCP, port: 9000, endPort: 9100}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: ns-%[1]d}
spec:
  podSelector: {matchLabels: {tier: t0}}
  policyTypes: [Egress]
  egress:
    - to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.%[3]d.0.0/16]}}]
      ports: [{protocol: TCP, port: 443}]
---
`, namespace, team, subnet, namespace%8, namespace%3)
	return err
}

func writeCIDRs(w io.Writer, s Size) error {
	if s.CIDRs == 0 {
		return nil
	}
	if _, err := fmt.Fprint(w, `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: networks, namespace: ns-0}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
`); err != nil {
		return err
	}
	for i := range s.CIDRs {
		if _, err := fmt.Fprintf(w, "    - to: [{ipBlock: {cidr: %d.%d.%d.0/%d}}]\n      ports: [{protocol: TCP, port: %d}]\n",
			20+i%50, i%250, (i*7)%256, 20+i%5, 1000+i%7); err != nil {
			return err
		}
	}
	return nil
}
