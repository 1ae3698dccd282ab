package kubernetes

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"bulkhead/core/netset"
)

// TestUpstreamTruthTables asks what the end-to-end tests of Kubernetes expect
// of every network plugin: the cases of test/e2e/network/netpol at v1.37.2,
// under their own names. The tables are facts about the API restated in our
// own form; no code is taken over.
//
// Every case runs in one world: pods a, b and c in namespaces x, y and z, each
// serving 80 and 81 by TCP, UDP and SCTP. Upstream starts fewer pods a case;
// where its table says nothing of one of the nine, the rule that it tests is
// spelled out for that pod too. A pod to itself is left out, as upstream does
// ("may be undefined", kubernetes/kubernetes#95879).
func TestUpstreamTruthTables(t *testing.T) {
	const wantCases = 49
	if len(e2eCases) != wantCases {
		t.Errorf("%d cases, want %d", len(e2eCases), wantCases)
	}
	tables, cells := 0, 0
	for _, c := range e2eCases {
		t.Run(c.name, func(t *testing.T) {
			for i, s := range c.steps {
				w := load(t, "", e2eWorld(s)).clean()
				for _, table := range s.tables {
					tables++
					for _, src := range e2ePods {
						for _, dst := range e2ePods {
							if src == dst {
								continue
							}
							cells++
							want := table.want(t, src, dst)
							if got := w.between(src, dst, table.proto, table.port); got != want {
								t.Errorf("step %d: %s to %s, %s %d: got %s, want %s", i+1, src, dst, table.proto, table.port, got, want)
							}
						}
					}
				}
			}
		})
	}
	t.Logf("%d cases, %d tables, %d verdicts", len(e2eCases), tables, cells)
}

var e2ePods = func() (pods []string) {
	for _, namespace := range []string{"x", "y", "z"} {
		for _, name := range []string{"a", "b", "c"} {
			pods = append(pods, namespace+"/"+name)
		}
	}
	return pods
}()

// e2eTable is what must pass on one port: everything, except for what the
// statements say, later ones before earlier ones. A statement is
// `deny FROM TO` or `allow FROM TO` with namespace/pod, either of which may be
// a *; a lone * is every pod.
type e2eTable struct {
	proto netset.Protocol
	port  uint16
	says  string // separated by semicolons
}

func (e e2eTable) want(t *testing.T, src, dst string) string {
	t.Helper()
	matches := func(pattern, pod string) bool {
		ok, err := path.Match(pattern, pod)
		return err == nil && ok || pattern == "*"
	}
	verdict := "allow"
	for _, s := range strings.Split(e.says, ";") {
		words := strings.Fields(s)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 || words[0] != "allow" && words[0] != "deny" {
			t.Fatalf("%q is no statement", s)
		}
		if matches(words[1], src) && matches(words[2], dst) {
			verdict = words[0]
		}
	}
	return verdict
}

// e2eStep is a state of the world with what must pass in it.
type e2eStep struct {
	policies string
	// labels adds labels to a pod, or to a namespace.
	labels map[string]string
	tables []e2eTable
}

// e2eAddr is the address of a pod: 192.168.1.1 for x/a to 192.168.1.9 for z/c.
func e2eAddr(pod string) string {
	for i, p := range e2ePods {
		if p == pod {
			return fmt.Sprintf("192.168.1.%d", i+1)
		}
	}
	panic("no pod " + pod)
}

func e2eWorld(s e2eStep) string {
	var b strings.Builder
	for _, namespace := range []string{"x", "y", "z"} {
		b.WriteString(namespaceYAML(namespace, s.labels[namespace]))
	}
	var ports []string
	for _, port := range []int{80, 81} {
		for _, proto := range []string{"TCP", "UDP", "SCTP"} {
			ports = append(ports, fmt.Sprintf("{name: serve-%d-%s, containerPort: %d, protocol: %s}", port, strings.ToLower(proto), port, proto))
		}
	}
	for _, pod := range e2ePods {
		namespace, name, _ := strings.Cut(pod, "/")
		labels := "pod: " + name
		if more := s.labels[pod]; more != "" {
			labels += ", " + more
		}
		fmt.Fprintf(&b, "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: %s, labels: {%s}}, "+
			"spec: {containers: [{name: c, ports: [%s]}]}, status: {podIP: %s}}\n", name, namespace, labels, strings.Join(ports, ", "), e2eAddr(pod))
	}
	return b.String() + s.policies
}

// Parts of policies that many cases share.
const (
	e2ePodA   = `podSelector: {matchLabels: {pod: a}}`
	e2eFromY  = `namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}`
	e2eNotX   = `namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x]}]}`
	e2eDenyIn = `{podSelector: {}, policyTypes: [Ingress], ingress: []}`
	// What reaches x/a when only namespace y may.
	e2eOnlyY = "deny x/* x/a; deny z/* x/a"
)

// e2eA is a policy of namespace x for pod a that allows ingress by one rule.
func e2eA(name, rule string) string {
	return policyYAML("x", name, "{"+e2ePodA+", policyTypes: [Ingress], ingress: ["+rule+"]}")
}

// e2eAOut is one that allows egress.
func e2eAOut(name, rule string) string {
	return policyYAML("x", name, "{"+e2ePodA+", policyTypes: [Egress], egress: ["+rule+"]}")
}

func e2eOn(p netset.Protocol, port uint16, says string) []e2eTable {
	return []e2eTable{{p, port, says}}
}

func e2eStep1(policies string, tables ...e2eTable) []e2eStep {
	return []e2eStep{{policies: policies, tables: tables}}
}

var e2eCases = []struct {
	name  string
	steps []e2eStep
}{
	{"should support a 'default-deny-ingress' policy", e2eStep1(
		policyYAML("x", "deny-ingress", e2eDenyIn),
		e2eTable{tcp, 80, "deny * x/*"})},
	{"should support a 'default-deny-all' policy", e2eStep1(
		policyYAML("x", "deny-all", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [], egress: []}`),
		e2eTable{tcp, 80, "deny * x/*; deny x/* *"})},
	{"should enforce policy to allow traffic from pods within server namespace based on PodSelector", e2eStep1(
		e2eA("x-a-allows-x-b", `{from: [{podSelector: {matchLabels: {pod: b}}}]}`),
		e2eTable{tcp, 80, "deny * x/a; allow x/b x/a"})},
	{"should enforce policy to allow ingress traffic for a target", e2eStep1(
		policyYAML("x", "deny-all", e2eDenyIn)+e2eA("allow-all-to-a", `{from: [{podSelector: {}, namespaceSelector: {}}]}`),
		e2eTable{tcp, 80, "allow * x/a; deny * x/b; deny * x/c"})},
	{"should enforce policy to allow ingress traffic from pods in all namespaces", e2eStep1(
		e2eA("allow-from-another-ns", `{from: [{namespaceSelector: {matchLabels: {}}}]}`),
		e2eTable{tcp, 80, ""})},
	{"should enforce policy to allow traffic only from a different namespace, based on NamespaceSelector", e2eStep1(
		e2eA("allow-client-a-via-ns-selector", `{from: [{`+e2eFromY+`}]}`),
		e2eTable{tcp, 80, e2eOnlyY})},
	{"should enforce policy based on PodSelector with MatchExpressions", e2eStep1(
		e2eA("x-a-allows-x-b", `{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]}`),
		e2eTable{tcp, 80, "deny * x/a; allow x/b x/a"})},
	{"should enforce policy based on NamespaceSelector with MatchExpressions", e2eStep1(
		e2eA("allow-ns-y-match-selector", `{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [y]}]}}]}`),
		e2eTable{tcp, 80, e2eOnlyY})},
	{"should enforce policy based on PodSelector or NamespaceSelector", e2eStep1(
		e2eA("allow-ns-y-match-selector", `{from: [{`+e2eNotX+`}, {podSelector: {matchLabels: {pod: b}}}]}`),
		e2eTable{tcp, 80, "deny x/c x/a"})},
	{"should enforce policy based on PodSelector and NamespaceSelector", e2eStep1(
		e2eA("allow-ns-y-podselector-and-nsselector", `{from: [{`+e2eNotX+`, podSelector: {matchLabels: {pod: b}}}]}`),
		e2eTable{tcp, 80, "deny * x/a; allow y/b x/a; allow z/b x/a"})},
	{"should enforce policy based on Multiple PodSelectors and NamespaceSelectors", e2eStep1(
		e2eA("allow-ns-y-z-pod-b-c", `{from: [{`+e2eNotX+`, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]}`),
		e2eTable{tcp, 80, "deny x/* x/a; deny y/a x/a; deny z/a x/a"})},
	{"should enforce policy based on any PodSelectors", e2eStep1(
		e2eA("allow-ns-x-pod-b-c", `{from: [{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}]}`),
		e2eTable{tcp, 80, "deny * x/a; allow x/b x/a; allow x/c x/a"})},
	{"should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector", e2eStep1(
		e2eA("allow-ns-y-pod-a-via-namespace-pod-selector", `{from: [{`+e2eFromY+`, `+e2ePodA+`}]}`),
		e2eTable{tcp, 80, "deny * x/a; allow y/a x/a"})},
	{"should enforce policy based on Ports", e2eStep1(
		e2eA("allow-client-a-via-ns-selector", `{from: [{`+e2eFromY+`}], ports: [{port: 81, protocol: TCP}]}`),
		e2eTable{tcp, 81, "deny x/* x/a; allow y/* x/a; deny z/* x/a"})},
	{"should enforce multiple, stacked policies with overlapping podSelectors", []e2eStep{
		{policies: e2eA("allow-client-a-via-ns-selector", `{from: [{`+e2eFromY+`}], ports: [{port: 81, protocol: TCP}]}`),
			tables: []e2eTable{{tcp, 81, e2eOnlyY}, {tcp, 80, "deny * x/a"}}},
		{policies: e2eA("allow-client-a-via-ns-selector", `{from: [{`+e2eFromY+`}], ports: [{port: 81, protocol: TCP}]}`) +
			e2eA("allow-client-a-via-ns-selector-80", `{from: [{`+e2eFromY+`}], ports: [{port: 80, protocol: TCP}]}`),
			tables: []e2eTable{{tcp, 80, e2eOnlyY}, {tcp, 81, e2eOnlyY}}},
	}},
	{"should support allow-all policy", e2eStep1(
		policyYAML("x", "allow-all", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: [{}]}`),
		e2eTable{tcp, 80, ""}, e2eTable{tcp, 81, ""})},
	{"should allow ingress access on one named port", e2eStep1(
		policyYAML("x", "allow-all", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: [{ports: [{port: serve-81-tcp}]}]}`),
		e2eTable{tcp, 81, ""}, e2eTable{tcp, 80, "deny * x/*"})},
	{"should allow ingress access from namespace on one named port", e2eStep1(
		e2eA("allow-client-a-via-ns-selector-80", `{from: [{`+e2eFromY+`}], ports: [{port: serve-80-tcp, protocol: TCP}]}`),
		e2eTable{tcp, 80, e2eOnlyY}, e2eTable{tcp, 81, "deny * x/a"})},
	{"should allow egress access on one named port", e2eStep1(
		policyYAML("x", "allow-egress", `{podSelector: {matchLabels: {}}, policyTypes: [Egress], egress: [{ports: [{port: serve-80-tcp}]}]}`),
		e2eTable{tcp, 80, ""}, e2eTable{tcp, 81, "deny x/* *"})},
	{"should not allow all ports if it cannot limit to the requested port", e2eStep1(
		e2eA("allow-ingress-on-nonexistent-port", `{ports: [{port: no-such-port, protocol: TCP}]}`),
		e2eTable{tcp, 80, "deny * x/a"})},
	{"should enforce updated policy", []e2eStep{
		{policies: policyYAML("x", "allow-all-mutate-to-deny-all", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: [{}]}`),
			tables: e2eOn(tcp, 81, "")},
		{policies: policyYAML("x", "allow-all-mutate-to-deny-all", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: []}`),
			tables: e2eOn(tcp, 81, "deny * x/*")},
	}},
	{"should allow ingress access from updated namespace", []e2eStep{
		{policies: e2eA("allow-client-a-via-ns-selector", `{from: [{namespaceSelector: {matchLabels: {ns2: updated}}}]}`),
			tables: e2eOn(tcp, 80, "deny * x/a")},
		{policies: e2eA("allow-client-a-via-ns-selector", `{from: [{namespaceSelector: {matchLabels: {ns2: updated}}}]}`),
			labels: map[string]string{"y": "ns2: updated"},
			tables: e2eOn(tcp, 80, "deny * x/a; allow y/* *")},
	}},
	{"should allow ingress access from updated pod", []e2eStep{
		{policies: e2eA("allow-client-a-via-pod-selector", `{from: [{podSelector: {matchLabels: {pod: b, pod2: updated}}}]}`),
			tables: e2eOn(tcp, 80, "deny * x/a")},
		{policies: e2eA("allow-client-a-via-pod-selector", `{from: [{podSelector: {matchLabels: {pod: b, pod2: updated}}}]}`),
			labels: map[string]string{"x/b": "pod2: updated"},
			tables: e2eOn(tcp, 80, "deny * x/a; allow x/b x/a")},
	}},
	{"should deny ingress from pods on other namespaces", e2eStep1(
		policyYAML("x", "deny-empty-policy", `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {}}}]}]}`),
		e2eTable{tcp, 80, "deny y/* x/*; deny z/* x/*"})},
	{"should deny ingress access to updated pod", []e2eStep{
		{policies: policyYAML("x", "deny-ingress-via-label-selector", `{podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress], ingress: []}`),
			tables: e2eOn(tcp, 80, "")},
		{policies: policyYAML("x", "deny-ingress-via-label-selector", `{podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress], ingress: []}`),
			labels: map[string]string{"x/a": "target: isolated"},
			tables: e2eOn(tcp, 80, "deny * x/a")},
	}},
	{"should deny egress from pods based on PodSelector", e2eStep1(
		e2eAOut("deny-egress-pod-a", ""),
		e2eTable{tcp, 80, "deny x/a *"})},
	{"should deny egress from all pods in a namespace", e2eStep1(
		policyYAML("x", "deny-egress-ns-x", `{podSelector: {}, policyTypes: [Egress], egress: []}`),
		e2eTable{tcp, 80, "deny x/* *"})},
	{"should work with Ingress, Egress specified together", e2eStep1(
		policyYAML("x", "allow-client-a-via-pod-selector", `{`+e2ePodA+`, policyTypes: [Egress, Ingress], `+
			`ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: [{ports: [{port: 80}]}]}`),
		e2eTable{tcp, 80, "deny * x/a; allow x/b x/a"},
		e2eTable{tcp, 81, "deny * x/a; deny x/a *; allow x/b x/a"})},
	{"should support denying of egress traffic on the client side (even if the server explicitly allows this traffic)", e2eStep1(
		e2eAOut("allow-to-ns-y-pod-a", `{to: [{`+e2eFromY+`, `+e2ePodA+`}]}`)+
			policyYAML("y", "allow-from-xa-on-ya-match-selector", `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], `+
				`ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}, podSelector: {matchLabels: {pod: a}}}]}]}`)+
			policyYAML("y", "allow-from-xa-on-yb-match-selector", `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress], `+
				`ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}, podSelector: {matchLabels: {pod: a}}}]}]}`),
		e2eTable{tcp, 80, "deny x/a *; deny * y/a; allow x/a y/a; deny * y/b"})},
	{"should enforce egress policy allowing traffic to a server in a different namespace based on PodSelector and NamespaceSelector", e2eStep1(
		e2eAOut("allow-to-ns-y-pod-a", `{to: [{`+e2eFromY+`, `+e2ePodA+`}]}`),
		e2eTable{tcp, 80, "deny x/a *; allow x/a y/a"})},
	{"should enforce ingress policy allowing any port traffic to a server on a specific protocol", e2eStep1(
		e2eA("allow-ingress-by-proto", `{ports: [{protocol: TCP}]}`),
		e2eTable{tcp, 80, ""}, e2eTable{udp, 80, "deny * x/a"})},
	{"should enforce multiple ingress policies with ingress allow-all policy taking precedence", []e2eStep{
		{policies: policyYAML("x", "allow-ingress-port-80", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]}`),
			tables: e2eOn(tcp, 81, "deny * x/*")},
		{policies: policyYAML("x", "allow-ingress-port-80", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]}`) +
			policyYAML("x", "allow-ingress", `{podSelector: {matchLabels: {}}, policyTypes: [Ingress], ingress: [{}]}`),
			tables: e2eOn(tcp, 81, "")},
	}},
	{"should enforce multiple egress policies with egress allow-all policy taking precedence", []e2eStep{
		{policies: policyYAML("x", "allow-egress-port-80", `{podSelector: {matchLabels: {}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}`),
			tables: e2eOn(tcp, 81, "deny x/* *")},
		{policies: policyYAML("x", "allow-egress-port-80", `{podSelector: {matchLabels: {}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}`) +
			policyYAML("x", "allow-egress", `{podSelector: {matchLabels: {}}, policyTypes: [Egress], egress: [{}]}`),
			tables: e2eOn(tcp, 81, "")},
	}},
	{"should stop enforcing policies after they are deleted", []e2eStep{
		{policies: policyYAML("x", "deny-all", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [], egress: []}`),
			tables: e2eOn(tcp, 80, "deny x/* *; deny * x/*")},
		{tables: e2eOn(tcp, 80, "")},
	}},
	{"should allow egress access to server in CIDR block", e2eStep1(
		e2eAOut("allow-client-a-via-cidr-egress-rule", `{to: [{ipBlock: {cidr: `+e2eAddr("y/b")+`/32}}]}`),
		e2eTable{tcp, 80, "deny x/a *; allow x/a y/b"})},
	{"should enforce except clause while egress access to server in CIDR block", e2eStep1(
		e2eAOut("allow-client-a-via-cidr-egress-rule", `{to: [{ipBlock: {cidr: 192.0.0.0/4, except: [`+e2eAddr("x/b")+`/32]}}]}`),
		e2eTable{tcp, 80, "deny x/a x/b"})},
	{"should ensure an IP overlapping both IPBlock.CIDR and IPBlock.Except is allowed", []e2eStep{
		{policies: e2eAOut("allow-client-a-via-cidr-egress-rule", `{to: [{ipBlock: {cidr: 192.0.0.0/4, except: [`+e2eAddr("x/b")+`/32]}}]}`),
			tables: e2eOn(tcp, 80, "deny x/a x/b")},
		{policies: e2eAOut("allow-client-a-via-cidr-egress-rule", `{to: [{ipBlock: {cidr: `+e2eAddr("x/b")+`/32}}]}`),
			tables: e2eOn(tcp, 80, "deny x/a *; allow x/a x/b")},
	}},
	{"should enforce policies to check ingress and egress policies can be controlled independently based on PodSelector", []e2eStep{
		{policies: e2eAOut("allow-egress-for-target", `{}`), tables: e2eOn(tcp, 80, "")},
		{policies: e2eAOut("allow-egress-for-target", `{}`) + e2eA("deny-ingress-via-label-selector", ""),
			tables: e2eOn(tcp, 80, "deny * x/a")},
	}},
	{"should not mistakenly treat 'protocol: SCTP' as 'protocol: TCP', even if the plugin doesn't support SCTP", e2eStep1(
		policyYAML("x", "deny-ingress", e2eDenyIn)+e2eA("allow-only-sctp-ingress-on-port-81", `{ports: [{port: 81, protocol: SCTP}]}`),
		e2eTable{tcp, 81, "deny * x/*"})},
	{"should properly isolate pods that are selected by a policy allowing SCTP, even if the plugin doesn't support SCTP", e2eStep1(
		e2eA("allow-only-sctp-ingress-on-port-80", `{ports: [{port: 80, protocol: SCTP}]}`),
		e2eTable{tcp, 81, "deny * x/a"})},
	{"should not allow access by TCP when a policy specifies only UDP", e2eStep1(
		e2eA("allow-only-udp-ingress-on-port-81", `{ports: [{port: 81, protocol: UDP}]}`),
		e2eTable{tcp, 81, "deny * x/a"})},
	{"should enforce policy to allow traffic based on NamespaceSelector with MatchLabels using default ns label", e2eStep1(
		e2eA("allow-client-a-via-ns-selector-for-immutable-ns-label", `{from: [{`+e2eFromY+`}]}`),
		e2eTable{tcp, 80, e2eOnlyY})},
	{"should enforce policy based on NamespaceSelector with MatchExpressions using default ns label", e2eStep1(
		e2eAOut("allow-ns-y-match-selector-for-immutable-ns-label", `{to: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [y]}]}}]}`),
		e2eTable{tcp, 80, "deny x/a y/*"})},

	{"UDP: should support a 'default-deny-ingress' policy", e2eStep1(
		policyYAML("x", "deny-all", e2eDenyIn),
		e2eTable{udp, 80, "deny * x/*"})},
	{"UDP: should enforce policy based on Ports", e2eStep1(
		e2eA("allow-ingress-on-port-81-ns-x", `{from: [{`+e2eFromY+`}], ports: [{port: 81, protocol: UDP}]}`),
		e2eTable{udp, 81, e2eOnlyY})},
	{"UDP: should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector", e2eStep1(
		e2eA("allow-ns-y-pod-a-via-namespace-pod-selector", `{from: [{`+e2eFromY+`, `+e2ePodA+`}]}`),
		e2eTable{udp, 80, "deny * x/a; allow y/a x/a"})},

	{"SCTP: should support a 'default-deny-ingress' policy", e2eStep1(
		policyYAML("x", "deny-all", e2eDenyIn),
		e2eTable{sctp, 80, "deny * x/*"})},
	{"SCTP: should enforce policy based on Ports", e2eStep1(
		e2eA("allow-ingress-on-port-81-ns-x", `{from: [{`+e2eFromY+`}], ports: [{port: 81, protocol: SCTP}]}`),
		e2eTable{sctp, 81, e2eOnlyY})},
	{"SCTP: should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector", e2eStep1(
		e2eA("allow-ns-y-pod-a-via-namespace-pod-selector", `{from: [{`+e2eFromY+`, `+e2ePodA+`}]}`),
		e2eTable{sctp, 80, "deny * x/a; allow y/a x/a"})},
}
