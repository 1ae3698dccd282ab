package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"bulkhead/core/network"
)

// cnp returns a ClusterNetworkPolicy of v1alpha2 with rules in flow style.
func cnp(name, tier string, priority int, ingress, egress string) string {
	return fmt.Sprintf(`
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: %s}
spec:
  tier: %s
  priority: %d
  subject: {namespaces: {}}
  ingress: [%s]
  egress: [%s]
`, name, tier, priority, ingress, egress)
}

// TestAdminSemantics holds the rules of the three administrators' kinds.
func TestAdminSemantics(t *testing.T) {
	fromOther := "from: [{namespaces: {matchLabels: {team: b}}}]"
	allowAll := policyYAML("shop", "open", `{podSelector: {}, ingress: [{}]}`)
	denyAll := policyYAML("shop", "closed", `{podSelector: {}}`)
	for _, c := range []struct {
		name, input string
		verdicts    []verdict
	}{
		{"a policy without rules isolates nothing", pods + cnp("a", "Admin", 1, "", ""), []verdict{{"guest", "web", tcp, 1, "allow"}}},
		{"Deny of the admin tier wins over NetworkPolicy", pods + allowAll + cnp("a", "Admin", 1, "{action: Deny, "+fromOther+"}", ""), []verdict{
			{"guest", "web", tcp, 1, "deny"}, {"db", "web", tcp, 1, "allow"}}},
		{"Accept of the admin tier wins over NetworkPolicy", pods + denyAll + cnp("a", "Admin", 1, "{action: Accept, "+fromOther+"}", ""), []verdict{
			{"guest", "web", tcp, 1, "allow"}, {"db", "web", tcp, 1, "deny"}}},
		{"Pass skips the rest of the tier", pods + cnp("a", "Admin", 1, "{action: Pass, "+fromOther+"}", "") + cnp("b", "Admin", 2, "{action: Deny, from: [{namespaces: {}}]}", ""), []verdict{
			{"guest", "web", tcp, 1, "allow"}, {"db", "web", tcp, 1, "deny"}}},
		{"the lower number is asked first", pods + cnp("late", "Admin", 20, "{action: Accept, "+fromOther+"}", "") + cnp("early", "Admin", 10, "{action: Deny, "+fromOther+"}", ""), []verdict{
			{"guest", "web", tcp, 1, "deny"}}},
		{"rules of one policy are asked in order", pods + cnp("a", "Admin", 1, "{action: Accept, "+fromOther+", protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Deny, "+fromOther+"}", ""), []verdict{
			{"guest", "web", tcp, 80, "allow"}, {"guest", "web", tcp, 81, "deny"}, {"guest", "web", udp, 80, "deny"}}},
		{"policies of one priority have no order", pods + cnp("a", "Admin", 5, "{action: Accept, "+fromOther+"}", "") + cnp("b", "Admin", 5, "{action: Deny, "+fromOther+"}", ""), []verdict{
			{"guest", "web", tcp, 1, "unknown"}, {"db", "web", tcp, 1, "allow"}}},
		{"the order inside a policy holds in a tie", pods + cnp("a", "Admin", 5, "{action: Deny, "+fromOther+"}, {action: Accept, "+fromOther+"}", "") + cnp("b", "Admin", 5, "{action: Deny, "+fromOther+"}", ""), []verdict{
			{"guest", "web", tcp, 1, "deny"}}},
		{"the baseline decides where no NetworkPolicy selects", pods + denyAll + cnp("a", "Baseline", 1, "{action: Deny, from: [{namespaces: {}}]}", "") +
			policyYAML("shop", "x", `{podSelector: {matchLabels: {app: web}}, ingress: [{}]}`), []verdict{
			{"db", "guest", tcp, 1, "deny"}, {"guest", "web", tcp, 1, "allow"}, {"guest", "db", tcp, 1, "deny"}}},
		{"networks mean pods too", pods + cnp("a", "Admin", 1, "", "{action: Deny, to: [{networks: [0.0.0.0/0]}]}"), []verdict{
			{"web", "8.8.8.8", tcp, 1, "deny"}, {"web", "db", tcp, 1, "deny"}, {"web", "2001:4860::1", tcp, 1, "allow"}}},
		{"nodes means nodes", pods + cnp("a", "Admin", 1, "", "{action: Deny, to: [{nodes: {}}]}"), []verdict{
			{"web", "nodes", tcp, 10250, "deny"}, {"web", "db", tcp, 1, "allow"}}},
		{"nodes by label are not known without Node objects", pods + cnp("a", "Admin", 1, "", "{action: Deny, to: [{nodes: {matchExpressions: [{key: gpu, operator: Exists}]}}]}"), []verdict{
			{"web", "nodes", tcp, 10250, "unknown"}}},
		{"domain names", pods + cnp("a", "Admin", 1, "", "{action: Accept, to: [{domainNames: ['*.example.com', api.test.io.]}]}, {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}"), []verdict{
			{"web", "name:api.test.io", tcp, 443, "allow"}, {"web", "name:*.example.com", tcp, 443, "allow"},
			{"web", "8.8.8.8", tcp, 443, "deny"}}},
		{"a named port of any protocol", pods + cnp("a", "Admin", 1, "{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: http}, {destinationNamedPort: dns}]}", ""), []verdict{
			{"guest", "web", tcp, 8080, "deny"}, {"guest", "web", udp, 5353, "deny"}, {"guest", "web", tcp, 5353, "allow"}}},
		{"a range is inclusive", pods + cnp("a", "Admin", 1, "{action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 10, end: 20}}}}]}", ""), []verdict{
			{"guest", "web", udp, 20, "deny"}, {"guest", "web", udp, 21, "allow"}, {"guest", "web", tcp, 20, "allow"}}},
		{"AdminNetworkPolicy", pods + `
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: a}
spec:
  priority: 3
  subject: {pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: web}}}}
  ingress:
  - {name: keep-out, action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {team: b}}, podSelector: {}}}], ports: [{portNumber: {port: 80}}, {portRange: {protocol: UDP, start: 1, end: 9}}]}
`, []verdict{{"guest", "web", tcp, 80, "deny"}, {"guest", "web", udp, 9, "deny"}, {"guest", "web", tcp, 81, "allow"}, {"guest", "db", tcp, 80, "allow"}}},
		{"BaselineAdminNetworkPolicy", pods + `
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
`, []verdict{{"guest", "web", tcp, 80, "deny"}, {"8.8.8.8", "web", tcp, 80, "allow"}}},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, load(t, "", c.input).clean(), c.verdicts) })
	}
}

// A peer of a newer version of the API must not open anything.
func TestUnknownPeerFailsClosed(t *testing.T) {
	for _, c := range []struct {
		action, want string
		note         string
	}{{"Accept", "allow", "matches nothing"}, {"Deny", "deny", "denies everything"}, {"Pass", "deny", "denies everything"}} {
		w := load(t, "", pods+cnp("a", "Admin", 1, "{action: "+c.action+", from: [{identities: {}}]}", ""))
		if !w.ds.HasErrors() {
			t.Errorf("%s: no error for the unknown peer", c.action)
		}
		if got := w.between("guest", "web", tcp, 1); got != c.want {
			t.Errorf("%s: got %s, want %s", c.action, got, c.want)
		}
		if ig := w.n.Coverage.Ignored; len(ig) != 1 || !ig[0].Matters || !strings.Contains(ig[0].Why, c.note) {
			t.Errorf("%s: coverage says %v", c.action, ig)
		}
	}
	w := load(t, "", pods+policyYAML("shop", "p", `{podSelector: {}}`)+cnp("a", "Admin", 1, "{action: Accept, from: [{}]}", ""))
	if got := w.between("guest", "web", tcp, 1); got != "deny" {
		t.Errorf("Accept with an empty peer: got %s, want deny", got)
	}
}

func TestNodesSelectedByLabel(t *testing.T) {
	node := func(name, ip, labels string) string {
		return "\n---\n{apiVersion: v1, kind: Node, metadata: {name: " + name + ", labels: {" + labels + "}}, status: {addresses: [{type: InternalIP, address: " + ip + "}]}}\n"
	}
	hostPod := func(name, node string) string {
		return "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: sys}, spec: {hostNetwork: true, nodeName: " + node + ", containers: [{name: c}]}}\n"
	}
	w := load(t, "", pods+node("n1", "10.0.0.1", "gpu: a")+node("n2", "10.0.0.2", "zone: x")+hostPod("h1", "n1")+hostPod("h2", "n2")+
		cnp("a", "Admin", 1, "", "{action: Deny, to: [{nodes: {matchLabels: {gpu: a}}}]}")).clean()
	check(t, w, []verdict{
		{"web", "nodes[gpu=a]", tcp, 1, "deny"}, {"web", "nodes[other]", tcp, 1, "allow"},
		{"web", "sys/Pod/h1", tcp, 1, "deny"}, {"web", "sys/Pod/h2", tcp, 1, "allow"},
	})
	// Labels that no policy asks for do not split the nodes.
	one := load(t, "", node("n1", "10.0.0.1", "gpu: a")+node("n2", "10.0.0.2", "zone: x")).clean()
	hosts := 0
	for _, e := range one.n.Endpoints {
		if e.Kind == network.Host {
			hosts++
		}
	}
	if hosts != 1 {
		t.Errorf("%d endpoints for the nodes, want 1", hosts)
	}
}

func TestProfilesThatLackAKindIgnoreItWithAWarning(t *testing.T) {
	input := pods + cnp("a", "Admin", 1, "{action: Deny, from: [{namespaces: {}}]}", "")
	w := load(t, "kube-router", input).clean()
	check(t, w, []verdict{{"guest", "web", tcp, 1, "allow"}})
	if !strings.Contains(w.ds.Error(), "has no effect with profile kube-router") {
		t.Errorf("no warning in %v", w.ds)
	}
	// Whether these two read it depends on their version and settings.
	for _, profile := range []string{"calico", "cilium"} {
		check(t, load(t, profile, input).clean(), []verdict{{"guest", "web", tcp, 1, "unknown"}})
	}
}
