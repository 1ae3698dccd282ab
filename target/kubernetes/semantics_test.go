package kubernetes

import (
	"strings"
	"testing"

	"bulkhead/core/netset"
)

// verdict is an expected answer for one connection.
type verdict struct {
	from, to string
	proto    netset.Protocol
	port     uint16
	want     string
}

func check(t *testing.T, w *world, verdicts []verdict) {
	t.Helper()
	for _, v := range verdicts {
		if got := w.between(v.from, v.to, v.proto, v.port); got != v.want {
			t.Errorf("%s to %s, %s %d: got %s, want %s", v.from, v.to, v.proto, v.port, got, v.want)
		}
	}
}

// pods is two namespaces with a client and a server each.
var pods = namespaceYAML("shop", "team: a") + namespaceYAML("other", "team: b") +
	deployment("shop", "web", "") + deployment("shop", "db", ", tier: data") + deployment("other", "guest", "")

const tcp, udp, sctp = netset.TCP, netset.UDP, netset.SCTP

// TestPolicySemantics holds the rules of networking/v1 that analysers get
// wrong, each with the smallest input that tells right from wrong.
func TestPolicySemantics(t *testing.T) {
	for _, c := range []struct {
		name, profile, input string
		verdicts             []verdict
	}{
		{"no policy allows everything", "", pods, []verdict{
			{"guest", "db", tcp, 5432, "allow"}, {"guest", "8.8.8.8", tcp, 443, "allow"}, {"8.8.8.8", "db", tcp, 1, "allow"}}},
		{"absent policyTypes closes ingress only", "", pods + policyYAML("shop", "p", `{podSelector: {matchLabels: {app: db}}}`), []verdict{
			{"web", "db", tcp, 1, "deny"}, {"db", "web", tcp, 1, "allow"}}},
		{"an egress rule closes egress too", "", pods + policyYAML("shop", "p",
			`{podSelector: {matchLabels: {app: db}}, egress: [{ports: [{protocol: UDP, port: 53}]}]}`), []verdict{
			{"web", "db", tcp, 1, "deny"}, {"db", "web", tcp, 1, "deny"}, {"db", "web", udp, 53, "allow"}}},
		{"an empty egress list does not", "", pods + policyYAML("shop", "p", `{podSelector: {}, egress: []}`), []verdict{
			{"db", "guest", tcp, 1, "allow"}, {"web", "db", tcp, 1, "deny"}}},
		{"policyTypes Egress alone leaves ingress open", "", pods + policyYAML("shop", "p", `{podSelector: {}, policyTypes: [Egress]}`), []verdict{
			{"guest", "db", tcp, 1, "allow"}, {"db", "guest", tcp, 1, "deny"}}},
		{"egress and ingress must both allow", "", pods +
			policyYAML("shop", "in", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}`) +
			policyYAML("shop", "out", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}`), []verdict{
			{"web", "db", tcp, 1, "deny"}, {"db", "web", tcp, 1, "allow"}}},
		{"an empty from means everyone, an absent one too", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [], ports: [{port: 1}]}]}`) +
			policyYAML("shop", "b", `{podSelector: {matchLabels: {app: web}}, ingress: [{}]}`), []verdict{
			{"guest", "db", tcp, 1, "allow"}, {"8.8.8.8", "db", tcp, 1, "allow"}, {"guest", "db", tcp, 2, "deny"},
			{"guest", "web", sctp, 7, "allow"}}},
		{"an absent or empty ports means every protocol", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}], ports: []}]}`), []verdict{
			{"web", "db", udp, 1, "allow"}, {"web", "db", netset.ICMP, 0x800, "allow"}}},
		{"a port without protocol is TCP", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 53}]}]}`), []verdict{
			{"web", "db", tcp, 53, "allow"}, {"web", "db", udp, 53, "deny"}}},
		{"a protocol without port is every port of it", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: UDP}]}]}`), []verdict{
			{"web", "db", tcp, 53, "deny"}, {"web", "db", udp, 65535, "allow"}}},
		{"an SCTP-only rule isolates TCP", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: SCTP, port: 9}]}]}`), []verdict{
			{"web", "db", tcp, 9, "deny"}, {"web", "db", sctp, 9, "allow"}}},
		{"endPort is inclusive", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 100, endPort: 200}]}]}`), []verdict{
			{"web", "db", tcp, 99, "deny"}, {"web", "db", tcp, 100, "allow"}, {"web", "db", tcp, 200, "allow"}, {"web", "db", tcp, 201, "deny"}}},
		{"a named port is that of each destination", "", pods + strings.Replace(deployment("shop", "alt", ""), "8080", "9999", 1) +
			policyYAML("shop", "a", `{podSelector: {}, ingress: [{ports: [{port: http}]}]}`), []verdict{
			{"web", "db", tcp, 8080, "allow"}, {"web", "alt", tcp, 9999, "allow"}, {"web", "alt", tcp, 8080, "deny"}}},
		{"a named port has its protocol", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: dns, protocol: TCP}, {port: http, protocol: UDP}]}]}`), []verdict{
			{"web", "db", udp, 5353, "deny"}, {"web", "db", tcp, 5353, "deny"}, {"web", "db", tcp, 8080, "deny"}}},
		{"a named port on egress without to reaches no address outside", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}`), []verdict{
			{"web", "db", tcp, 8080, "allow"}, {"web", "db", tcp, 81, "deny"}, {"web", "8.8.8.8", tcp, 8080, "deny"}}},
		{"both selectors of one peer must hold", "", pods + deployment("other", "data", ", tier: data") +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {tier: data}}}]}]}`), []verdict{
			{"data", "web", tcp, 1, "allow"}, {"guest", "web", tcp, 1, "deny"}, {"db", "web", tcp, 1, "deny"}}},
		{"two peers are alternatives", "", pods + deployment("other", "data", ", tier: data") +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {tier: data}}}]}]}`), []verdict{
			{"data", "web", tcp, 1, "allow"}, {"guest", "web", tcp, 1, "allow"}, {"db", "web", tcp, 1, "allow"}}},
		{"a podSelector alone is the policy's namespace", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}]}]}`), []verdict{
			{"db", "web", tcp, 1, "allow"}, {"guest", "web", tcp, 1, "deny"}, {"8.8.8.8", "web", tcp, 1, "deny"}}},
		{"an empty namespaceSelector is all pods and nothing outside", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}}]}]}`), []verdict{
			{"guest", "web", tcp, 1, "allow"}, {"8.8.8.8", "web", tcp, 1, "deny"}}},
		{"kubernetes.io/metadata.name is set on every namespace", "", pods + deployment("unseen", "u", "") +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [other, unseen]}]}}]}]}`), []verdict{
			{"guest", "web", tcp, 1, "allow"}, {"u", "web", tcp, 1, "allow"}, {"db", "web", tcp, 1, "deny"}}},
		{"other labels of a namespace that is not in the input are not known", "", pods + deployment("unseen", "u", "") +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}`), []verdict{
			{"guest", "web", tcp, 1, "allow"}, {"u", "web", tcp, 1, "unknown"}, {"db", "web", tcp, 1, "deny"}}},
		{"policies of one pod add up", "", pods +
			policyYAML("shop", "a", `{podSelector: {}, ingress: [{ports: [{port: 1}]}]}`) +
			policyYAML("shop", "b", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 2}]}]}`), []verdict{
			{"web", "db", tcp, 1, "allow"}, {"web", "db", tcp, 2, "allow"}, {"db", "web", tcp, 2, "deny"}}},
		{"except is of one peer and another may allow it again", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}, {ipBlock: {cidr: 192.0.2.200/32}}]}]}`), []verdict{
			{"192.0.2.1", "web", tcp, 1, "allow"}, {"192.0.2.130", "web", tcp, 1, "deny"}, {"192.0.2.200", "web", tcp, 1, "allow"}}},
		{"IPv6 blocks are IPv6", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: "2001:db8::/32"}}]}]}`), []verdict{
			{"web", "2001:db8::1", tcp, 1, "allow"}, {"web", "32.1.13.184", tcp, 1, "deny"}, {"web", "2001:db9::1", tcp, 1, "deny"}}},
		{"an ipBlock may mean pods whose address is not known", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}`), []verdict{
			{"guest", "web", tcp, 1, "unknown"}, {"10.1.2.3", "web", tcp, 1, "allow"}}},
		{"an ipBlock of every address means every pod", "", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`), []verdict{
			{"guest", "web", tcp, 1, "allow"}}},
		{"for Cilium an ipBlock means no pod and no node", "cilium", pods +
			policyYAML("shop", "a", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`), []verdict{
			{"web", "guest", tcp, 1, "deny"}, {"web", "nodes", tcp, 10250, "deny"}, {"web", "8.8.8.8", tcp, 1, "allow"}}},
		{"without a plugin policies have no effect", "none", pods + policyYAML("shop", "p", `{podSelector: {}}`), []verdict{
			{"guest", "web", tcp, 1, "allow"}}},
		{"a pod's own node always reaches it", "", pods + policyYAML("shop", "p", `{podSelector: {}}`), []verdict{
			{"nodes", "web", tcp, 8080, "allow"}, {"control-plane", "web", tcp, 8080, "deny"}}},
		{"a pod on the host's network is neither subject nor pod peer", "", pods + strings.Replace(deployment("shop", "agent", ""), "containers:", "hostNetwork: true\n      containers:", 1) +
			policyYAML("shop", "p", `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: agent}}}]}], egress: [{to: [{podSelector: {}}]}]}`), []verdict{
			{"guest", "agent", tcp, 1, "allow"}, {"agent", "guest", tcp, 1, "allow"}, {"agent", "8.8.8.8", tcp, 1, "allow"},
			{"web", "agent", tcp, 1, "deny"}, {"web", "db", tcp, 1, "deny"},
			// Whether it shares the node of the pod is not known.
			{"agent", "web", tcp, 1, "unknown"}}},
		{"a label that a controller fills in is not known", "", pods +
			policyYAML("shop", "p", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {pod-template-hash: abc}}}]}]}`), []verdict{
			{"db", "web", tcp, 1, "unknown"}, {"guest", "web", tcp, 1, "deny"}}},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, load(t, c.profile, c.input).clean(), c.verdicts) })
	}
}

func TestKnownPodAddressesDecideBlocks(t *testing.T) {
	pod := func(name, ip string) string {
		return "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: shop, labels: {app: " + name + "}}, " +
			"spec: {containers: [{name: c}]}, status: {podIPs: [{ip: " + ip + "}]}}\n"
	}
	w := load(t, "", pod("a", "10.1.0.5")+pod("b", "10.2.0.5")+pod("c", `"fd00::5"`)+
		policyYAML("shop", "p", `{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10.2.0.0/16}}, {ipBlock: {cidr: "fd00::/8"}}]}]}`)+
		policyYAML("shop", "q", `{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 10.3.0.0/16}}]}]}`)).clean()
	check(t, w, []verdict{
		{"b", "a", tcp, 1, "allow"}, {"c", "a", tcp, 1, "allow"}, {"a", "b", tcp, 1, "deny"}, {"c", "b", tcp, 1, "deny"},
	})
}

func TestDaemonSetOnEveryNodeIsLocalToEveryPod(t *testing.T) {
	daemon := func(spec string) string {
		return "\n---\n{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent, namespace: sys}, spec: {template: {metadata: {labels: {app: agent}}, spec: {hostNetwork: true" + spec + ", containers: [{name: c}]}}}}\n"
	}
	closed := pods + policyYAML("shop", "p", `{podSelector: {}}`)
	check(t, load(t, "", closed+daemon("")).clean(), []verdict{{"agent", "web", tcp, 1, "allow"}})
	// With a node selector it runs on some nodes only.
	check(t, load(t, "", closed+daemon(", nodeSelector: {gpu: yes-please}")).clean(), []verdict{{"agent", "web", tcp, 1, "unknown"}})
	check(t, load(t, "", closed+daemon(", nodeSelector: {kubernetes.io/os: linux}")).clean(), []verdict{{"agent", "web", tcp, 1, "allow"}})
}
