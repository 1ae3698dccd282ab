package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// lb returns a Service of type LoadBalancer with annotations and more fields
// of its spec, in flow style, and a status.
func lb(annotations, spec, status string) string {
	return deployment("shop", "web", "") + fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {%s}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 443, targetPort: http, nodePort: 30443}]%s}
status: {loadBalancer: {ingress: [%s]}}
`, annotations, spec, status)
}

// TestLoadBalancerReach tells internet-facing load balancers from internal
// ones by what each cloud goes by.
func TestLoadBalancerReach(t *testing.T) {
	const aws = "service.beta.kubernetes.io/aws-load-balancer-"
	for _, c := range []struct {
		name, annotations, spec, status string
		want                            network.Reach
	}{
		{"nothing said", "", "", "", network.ReachPublic},
		{"AWS scheme internal", aws + "type: external, " + aws + "scheme: internal", "", "", network.ReachPrivate},
		{"AWS scheme internal, which the older provider does not read", aws + "scheme: internal", "", "", network.ReachUnknown},
		{"AWS scheme internet-facing, as the older provider makes it", aws + "scheme: internet-facing", "", "", network.ReachPublic},
		{"AWS scheme internal and internal true", aws + `scheme: internal, ` + aws + `internal: "true"`, "", "", network.ReachPrivate},
		{"AWS scheme internal and internal false", aws + `scheme: internal, ` + aws + `internal: "false"`, "", "", network.ReachUnknown},
		{"AWS scheme misspelt", aws + "type: external, " + aws + "scheme: private", "", "", network.ReachUnknown},
		{"AWS controller, internal false", aws + `type: external, ` + aws + `internal: "false"`, "", "", network.ReachPublic},
		{"AWS controller, internal False", aws + `type: external, ` + aws + `internal: "False"`, "", "", network.ReachPublic},
		{"AWS controller, the scheme wins", aws + `type: external, ` + aws + `scheme: internet-facing, ` + aws + `internal: "true"`, "", "", network.ReachPublic},
		{"AWS internal False, read differently", aws + `internal: "False"`, "", "", network.ReachUnknown},
		{"AWS class, internet-facing", aws + "scheme: internet-facing", ", loadBalancerClass: service.k8s.aws/nlb", "", network.ReachPublic},
		{"EKS Auto Mode", "", ", loadBalancerClass: eks.amazonaws.com/nlb", "", network.ReachPrivate},
		{"EKS Auto Mode reads no internal", aws + `internal: "false"`, ", loadBalancerClass: eks.amazonaws.com/nlb", "", network.ReachPrivate},
		{"EKS Auto Mode, internet-facing", aws + "scheme: internet-facing", ", loadBalancerClass: eks.amazonaws.com/nlb", "", network.ReachPublic},
		{"AWS scheme internet-facing", aws + "type: external, " + aws + "scheme: internet-facing", "", "", network.ReachPublic},
		{"AWS controller without a scheme is internal", aws + "type: external, " + aws + "nlb-target-type: ip", "", "", network.ReachPrivate},
		{"AWS controller, the older type", aws + "type: nlb-ip", "", "", network.ReachPrivate},
		{"AWS class", "", ", loadBalancerClass: service.k8s.aws/nlb", "", network.ReachPrivate},
		{"AWS provider of Kubernetes, nlb, is internet-facing", aws + "type: nlb", "", "", network.ReachPublic},
		{"AWS internal true", aws + `internal: "true"`, "", "", network.ReachPrivate},
		{"AWS internal, the legacy value", aws + "internal: 0.0.0.0/0", "", "", network.ReachPrivate},
		{"AWS internal false", aws + `internal: "false"`, "", "", network.ReachPublic},
		{"AWS internal name", "", "", "{hostname: internal-a1-2.eu-west-1.elb.amazonaws.com}", network.ReachPrivate},
		{"GKE", "networking.gke.io/load-balancer-type: Internal", "", "", network.ReachPrivate},
		{"GKE, the older key", "cloud.google.com/load-balancer-type: Internal", "", "", network.ReachPrivate},
		{"GKE, another spelling is none", "networking.gke.io/load-balancer-type: INTERNAL", "", "", network.ReachPublic},
		{"GKE, the newer key wins", "networking.gke.io/load-balancer-type: External, cloud.google.com/load-balancer-type: Internal", "", "", network.ReachPublic},
		{"GKE, the class wins", "networking.gke.io/load-balancer-type: Internal", ", loadBalancerClass: networking.gke.io/l4-regional-external", "", network.ReachPublic},
		{"GKE, internal class", "", ", loadBalancerClass: networking.gke.io/l4-regional-internal-legacy", "", network.ReachPrivate},
		{"Azure, another spelling is none", `service.beta.kubernetes.io/azure-load-balancer-internal: "True"`, "", "", network.ReachPublic},
		{"Azure", `service.beta.kubernetes.io/azure-load-balancer-internal: "true"`, "", "", network.ReachPrivate},
		{"Azure, public", `service.beta.kubernetes.io/azure-load-balancer-internal: "false"`, "", "", network.ReachPublic},
		{"Oracle", `service.beta.kubernetes.io/oci-load-balancer-internal: "true"`, "", "", network.ReachPrivate},
		{"Oracle, another kind does not read it", `service.beta.kubernetes.io/oci-load-balancer-internal: "true", oci.oraclecloud.com/load-balancer-type: nlb`, "", "", network.ReachPublic},
		{"Oracle, network load balancer", `oci-network-load-balancer.oraclecloud.com/internal: "true", oci.oraclecloud.com/load-balancer-type: nlb`, "", "", network.ReachPrivate},
		{"Oracle, network load balancer of no type", `oci-network-load-balancer.oraclecloud.com/internal: "true"`, "", "", network.ReachPublic},
		{"IBM", "service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type: private", "", "", network.ReachPrivate},
		{"Alibaba", "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type: intranet", "", "", network.ReachPrivate},
		{"Tencent", "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid: subnet-1", "", "", network.ReachPrivate},
		{"Huawei inner", `kubernetes.io/elb.autocreate: '{"type": "inner"}'`, "", "", network.ReachPrivate},
		{"Huawei public", `kubernetes.io/elb.autocreate: '{"type": "public"}'`, "", "", network.ReachPublic},
		{"OpenStack", `service.beta.kubernetes.io/openstack-internal-load-balancer: "true"`, "", "", network.ReachPrivate},
		{"DigitalOcean", "service.beta.kubernetes.io/do-loadbalancer-network: INTERNAL", "", "", network.ReachPrivate},
		{"Scaleway", `service.beta.kubernetes.io/scw-loadbalancer-private: "true"`, "", "", network.ReachPrivate},
		{"Alibaba, one that exists", "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type: intranet, service.beta.kubernetes.io/alibaba-cloud-loadbalancer-id: lb-1", "", "", network.ReachUnknown},
		{"Tencent, one that exists", "service.kubernetes.io/tke-existed-lbid: lb-1", "", "", network.ReachUnknown},
		{"Huawei, one that exists", "kubernetes.io/elb.id: a-b", "", "", network.ReachUnknown},
		{"Baidu", `service.beta.kubernetes.io/cce-load-balancer-internal-vpc: "true"`, "", "", network.ReachPrivate},
		{"OpenStack, another spelling is none", `service.beta.kubernetes.io/openstack-internal-load-balancer: "True"`, "", "", network.ReachPublic},
		{"DigitalOcean, public", "service.beta.kubernetes.io/do-loadbalancer-network: EXTERNAL", "", "", network.ReachPublic},
		{"Scaleway, managed elsewhere", `service.beta.kubernetes.io/scw-loadbalancer-private: "true", service.beta.kubernetes.io/scw-loadbalancer-externally-managed: "true"`, "", "", network.ReachUnknown},
		{"Linode", `service.beta.kubernetes.io/linode-loadbalancer-throttle: "4"`, "", "", network.ReachPublic},
		{"Linode in a network", `service.beta.kubernetes.io/linode-loadbalancer-frontend-subnet-id: "1"`, "", "", network.ReachUnknown},
		{"Hetzner", `load-balancer.hetzner.cloud/disable-public-network: "true"`, "", "", network.ReachPrivate},
		{"Hetzner, public", `load-balancer.hetzner.cloud/disable-public-network: "false"`, "", "", network.ReachPublic},
		{"two clouds that agree", `service.beta.kubernetes.io/azure-load-balancer-internal: "true", networking.gke.io/load-balancer-type: Internal`, "", "", network.ReachPrivate},
		{"two clouds that do not", `service.beta.kubernetes.io/azure-load-balancer-internal: "true", ` + aws + `internal: "false"`, "", "", network.ReachUnknown},
		{"a public address, whatever was asked for", "networking.gke.io/load-balancer-type: Internal", "", "{ip: 8.8.4.4}", network.ReachPublic},
		{"a class that nothing is known of", "", ", loadBalancerClass: example.com/lb", "", network.ReachUnknown},
		{"a class that nothing is known of, with an address", "", ", loadBalancerClass: example.com/lb", "{ip: 10.1.2.3}", network.ReachPrivate},
		{"tailscale", "", ", loadBalancerClass: tailscale", "", network.ReachPrivate},
		{"a private address", "", "", "{ip: 10.1.2.3}", network.ReachPrivate},
		{"a public address", "", "", "{ip: 8.8.4.4}", network.ReachPublic},
		{"a private address asked for", "", ", loadBalancerIP: 192.168.1.5", "", network.ReachPrivate},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := load(t, "", lb(c.annotations, c.spec, c.status)).clean().front("Service shop/web (LoadBalancer)")
			if f.Reach != c.want || f.Why == "" {
				t.Errorf("got %s (%s), want %s", f.Reach, f.Why, c.want)
			}
		})
	}
}

func TestMetalLBPoolsDecideWhereNothingElseDoes(t *testing.T) {
	pool := "\n---\n{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: p, namespace: m}, spec: {addresses: [%s]}}\n"
	w := load(t, "", lb("", "", "")+fmt.Sprintf(pool, "192.168.0.10-192.168.0.20, 10.0.0.0/24")).clean()
	if f := w.front("Service shop/web (LoadBalancer)"); f.Reach != network.ReachPrivate {
		t.Errorf("got %s (%s)", f.Reach, f.Why)
	}
	w = load(t, "", lb("", "", "")+fmt.Sprintf(pool, "8.8.8.0/28")).clean()
	if f := w.front("Service shop/web (LoadBalancer)"); f.Reach != network.ReachPublic {
		t.Errorf("got %s (%s)", f.Reach, f.Why)
	}
}

func TestServiceFronts(t *testing.T) {
	w := load(t, "", lb("", ", loadBalancerSourceRanges: [203.0.113.0/24], externalTrafficPolicy: Local, clusterIP: 10.96.0.1, externalIPs: [8.8.8.8]", "")).clean()
	inside := w.front("Service shop/web")
	if inside.Reach != network.ReachInside || inside.Addresses.String() != "10.96.0.1/32" || inside.Hosts[0] != "web.shop.svc" {
		t.Errorf("inside: %+v", inside)
	}
	r := inside.Routes[0]
	if r.Port != 443 || r.Name != "http" || r.Number != 0 || r.At(&w.n.Endpoints[w.endpoint("shop/Deployment/web")]).String() != netset.Port(netset.TCP, 8080).String() {
		t.Errorf("route: %+v", r)
	}
	out := w.front("Service shop/web (LoadBalancer)")
	if out.Clients.String() != "203.0.113.0/24" || out.Source != network.SourceKept {
		t.Errorf("load balancer: clients %s, source %d", out.Clients, out.Source)
	}
	node := w.front("Service shop/web (NodePort)")
	if node.Routes[0].Port != 30443 || node.Reach != network.ReachUnknown || node.Source != network.SourceKept {
		t.Errorf("node port: %+v", node)
	}
	if f := w.front("Service shop/web (external IPs)"); f.Reach != network.ReachPublic {
		t.Errorf("external IPs: %s", f.Reach)
	}
	without := load(t, "", lb("", ", allocateLoadBalancerNodePorts: false", "")).clean()
	for _, f := range without.n.Fronts {
		if strings.HasSuffix(f.Name, "(NodePort)") {
			t.Errorf("front %q where no node port is allocated", f.Name)
		}
	}
}

func TestPoliciesApplyBehindALoadBalancer(t *testing.T) {
	open := lb("", ", externalTrafficPolicy: Local", "{ip: 8.8.4.4}")
	published := func(input string) string {
		var out []string
		for _, p := range load(t, "", input).clean().analysis().Published() {
			if strings.HasSuffix(p.Front.Name, "(LoadBalancer)") && !p.Allow.IsEmpty() {
				out = append(out, p.Allow.String())
			}
		}
		return strings.Join(out, " ")
	}
	if got := published(open); got != "TCP 8080" {
		t.Errorf("no policy: %q", got)
	}
	if got := published(open + policyYAML("shop", "p", `{podSelector: {}}`)); got != "" {
		t.Errorf("default deny: %q", got)
	}
}

func TestServicesWithoutASelector(t *testing.T) {
	w := load(t, "", `
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: ns}, spec: {ports: [{name: db, port: 5432}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: s, namespace: ns}, subsets: [{addresses: [{ip: 10.9.9.9}], ports: [{name: db, port: 6543}]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: t, namespace: ns}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: t-x, namespace: ns, labels: {kubernetes.io/service-name: t}}, addressType: IPv4,
 endpoints: [{addresses: [10.0.0.7], targetRef: {kind: Pod, name: p}}], ports: [{port: 8080}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: ns}, spec: {containers: [{name: c}]}, status: {podIP: 10.0.0.7}}
---
{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: ns}, spec: {type: ExternalName, externalName: t.ns.svc.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: out, namespace: ns}, spec: {type: ExternalName, externalName: db.example.com}}
---
{apiVersion: v1, kind: Service, metadata: {name: headless, namespace: ns}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 80, targetPort: 8080}]}}
`).clean()
	r := w.front("Service ns/s").Routes[0]
	if r.Address.String() != "10.9.9.9/32" || r.Number != 6543 || r.Port != 5432 {
		t.Errorf("endpoints: %+v", r)
	}
	for _, name := range []string{"Service ns/t", "Service ns/alias (ExternalName)"} {
		routes := w.front(name).Routes
		if name == "Service ns/alias (ExternalName)" {
			if len(routes) != 1 {
				t.Errorf("%s: %d routes", name, len(routes))
			}
			continue
		}
		p := w.n.Predicates()[routes[0].Backends]
		e := &w.n.Endpoints[w.endpoint("ns/Pod/p")]
		if p.MatchEndpoint(e, &w.n.Scopes[e.Scope]) != network.Yes || routes[0].Number != 8080 {
			t.Errorf("%s: %+v", name, routes[0])
		}
	}
	if f := w.front("Service ns/out (ExternalName)"); len(f.Routes) != 0 || f.Reach != network.ReachInside {
		t.Errorf("external name: %+v", f)
	}
	if r := w.front("Service ns/headless").Routes[0]; r.Number != 80 {
		t.Errorf("headless: %+v", r)
	}
	if !strings.Contains(w.ds.Error(), "Service ns/headless selects a=b, and no pod of the input has these labels") {
		t.Errorf("no warning for a service without pods: %v", w.ds)
	}
}

func TestHostPorts(t *testing.T) {
	w := load(t, "", `
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: ns}, spec: {containers: [{name: c, ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8081, hostIP: 127.0.0.1}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: ns}, spec: {hostNetwork: true, containers: [{name: c, ports: [{containerPort: 9100, hostPort: 9100}]}]}}
`).clean()
	f := w.front("hostPort of Pod ns/a")
	if len(f.Routes) != 1 || f.Routes[0].Port != 8080 || f.Routes[0].Number != 80 {
		t.Errorf("hostPort: %+v", f.Routes)
	}
	if f := w.front("host network of Pod ns/b"); len(f.Routes) != 1 || f.Routes[0].Number != 9100 {
		t.Errorf("host network: %+v", f.Routes)
	}
	if len(w.n.Fronts) != 2 {
		t.Errorf("%d fronts", len(w.n.Fronts))
	}
}

// TestHostPortsOfEveryPart: each part of a workload publishes its own ports, and
// the pods of one owner publish theirs once.
func TestHostPortsOfEveryPart(t *testing.T) {
	w := load(t, "", `
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: r, namespace: ns}
spec:
  headGroupSpec: {template: {spec: {containers: [{name: c, ports: [{containerPort: 8265, hostPort: 8265}]}]}}}
  workerGroupSpecs: [{groupName: w, template: {spec: {containers: [{name: c, ports: [{containerPort: 22, hostPort: 2222}]}]}}}]
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: web, namespace: ns}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: []}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-a, namespace: ns, labels: {app: web}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, controller: true}]}, spec: {containers: [{name: c, ports: [{containerPort: 80, hostPort: 80}]}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-b, namespace: ns, labels: {app: web}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, controller: true}]}, spec: {containers: [{name: c, ports: [{containerPort: 80, hostPort: 80}]}]}, status: {podIP: 10.0.0.2}}
`).clean()
	var got []string
	for _, f := range w.n.Fronts {
		if !strings.HasPrefix(f.Name, "hostPort of ") {
			continue
		}
		for _, r := range f.Routes {
			got = append(got, fmt.Sprint(f.Name, " ", r.Port))
		}
	}
	want := []string{"hostPort of RayCluster ns/r 8265", "hostPort of RayCluster ns/r 2222", "hostPort of ReplicaSet ns/web 80"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func ingressYAML(annotations, spec string) string {
	return fmt.Sprintf(`
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop, annotations: {%s}}
spec: {rules: [{host: a.example.com, http: {paths: [{path: /api, pathType: Prefix, backend: {service: {name: web, port: {number: 443}}}}]}}]%s}
`, annotations, spec)
}

func TestIngressReach(t *testing.T) {
	nginx := strings.Replace(deployment("ingress", "nginx", ""), "example/nginx", "registry.k8s.io/ingress-nginx/controller:v1", 1) + `
---
{apiVersion: v1, kind: Service, metadata: {name: nginx, namespace: ingress, annotations: {%s}}, spec: {type: LoadBalancer, selector: {app: nginx}, ports: [{port: 443}]}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: nginx, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: k8s.io/ingress-nginx}}
`
	base := lb("", ", allocateLoadBalancerNodePorts: false", "")
	for _, c := range []struct {
		name, annotations, spec, more string
		want                          network.Reach
	}{
		{"no class", "", "", "", network.ReachUnknown},
		{"nginx that is not in the input", "", ", ingressClassName: nginx", "", network.ReachUnknown},
		{"nginx behind a public load balancer", "", ", ingressClassName: nginx", fmt.Sprintf(nginx, ""), network.ReachPublic},
		{"nginx behind an internal one", "", ", ingressClassName: nginx", fmt.Sprintf(nginx, "networking.gke.io/load-balancer-type: Internal"), network.ReachPrivate},
		{"the default class", "", "", fmt.Sprintf(nginx, ""), network.ReachPublic},
		{"ALB without a scheme is internal", "alb.ingress.kubernetes.io/target-type: ip", ", ingressClassName: alb", "", network.ReachPrivate},
		{"a class alb that may be of another cloud", "", ", ingressClassName: alb", "", network.ReachUnknown},
		{"a class alb of another cloud", "alb.ingress.kubernetes.io/listen-ports: '[]'", ", ingressClassName: alb",
			"\n---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: alb}, spec: {controller: ingress.k8s.alibabacloud/alb}}\n", network.ReachUnknown},
		{"ALB whose controller is started otherwise", "alb.ingress.kubernetes.io/target-type: ip", ", ingressClassName: alb", strings.Replace(deployment("kube-system", "lbc", ""),
			"example/lbc", "public.ecr.aws/eks/aws-load-balancer-controller:v2.17.0, args: ['--default-load-balancer-scheme=internet-facing']", 1), network.ReachPublic},
		{"ALB of a class that is not all there", "alb.ingress.kubernetes.io/scheme: internal", ", ingressClassName: mine",
			"\n---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: mine}, spec: {controller: ingress.k8s.aws/alb, parameters: {name: p}}}\n", network.ReachUnknown},
		{"ALB of a group that is internet-facing", "alb.ingress.kubernetes.io/group.name: g", ", ingressClassName: alb",
			"\n---\n{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: other, namespace: shop, annotations: {alb.ingress.kubernetes.io/group.name: g, alb.ingress.kubernetes.io/scheme: internet-facing}}, spec: {ingressClassName: alb, defaultBackend: {service: {name: web, port: {number: 443}}}}}\n", network.ReachPublic},
		{"ALB of a group that says nothing", "alb.ingress.kubernetes.io/group.name: g", ", ingressClassName: alb", "", network.ReachUnknown},
		{"EKS Auto Mode", "", ", ingressClassName: alb",
			"\n---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: alb}, spec: {controller: eks.amazonaws.com/alb, parameters: {apiGroup: eks.amazonaws.com, kind: IngressClassParams, name: p}}}\n---\n{apiVersion: eks.amazonaws.com/v1, kind: IngressClassParams, metadata: {name: p}, spec: {scheme: internet-facing}}\n", network.ReachPublic},
		{"nginx behind two that differ", "", ", ingressClassName: nginx", fmt.Sprintf(nginx, "") + strings.NewReplacer("namespace: ingress", "namespace: inside", "name: ingress", "name: inside").Replace(fmt.Sprintf(nginx, "networking.gke.io/load-balancer-type: Internal")), network.ReachUnknown},
		{"ALB internet-facing", "alb.ingress.kubernetes.io/scheme: internet-facing", ", ingressClassName: alb", "", network.ReachPublic},
		{"ALB by annotation", "kubernetes.io/ingress.class: alb, alb.ingress.kubernetes.io/scheme: internal", "", "", network.ReachPrivate},
		{"ALB whose class has parameters", "alb.ingress.kubernetes.io/scheme: internal", ", ingressClassName: mine",
			"\n---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: mine}, spec: {controller: ingress.k8s.aws/alb, parameters: {name: p}}}\n---\n{apiVersion: elbv2.k8s.aws/v1beta1, kind: IngressClassParams, metadata: {name: p}, spec: {scheme: internet-facing}}\n", network.ReachPublic},
		{"GCE", "kubernetes.io/ingress.class: gce", "", "", network.ReachPublic},
		{"GCE internal", "kubernetes.io/ingress.class: gce-internal", "", "", network.ReachPrivate},
		{"application gateway", "kubernetes.io/ingress.class: azure/application-gateway", "", "", network.ReachPublic},
		{"application gateway, private", `kubernetes.io/ingress.class: azure/application-gateway, appgw.ingress.kubernetes.io/use-private-ip: "true"`, "", "", network.ReachPrivate},
		{"application gateway for containers", "", ", ingressClassName: azure-alb-external", "", network.ReachPublic},
		{"tailscale", "", ", ingressClassName: tailscale", "", network.ReachPrivate},
		{"tailscale funnel", `tailscale.com/funnel: "true"`, ", ingressClassName: tailscale", "", network.ReachPublic},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := load(t, "", base+ingressYAML(c.annotations, c.spec)+c.more).clean().front("Ingress shop/web")
			if f.Reach != c.want || f.Why == "" {
				t.Errorf("got %s (%s), want %s", f.Reach, f.Why, c.want)
			}
			if proxied := strings.Contains(c.more, "registry.k8s.io/ingress-nginx"); f.Proxied != proxied {
				t.Errorf("proxied %v, want %v", f.Proxied, proxied)
			}
		})
	}
}

func TestIngressRequests(t *testing.T) {
	w := load(t, "", lb("", "", "")+ingressYAML("alb.ingress.kubernetes.io/inbound-cidrs: '198.51.100.0/24, 2001:db8::/32'", ", ingressClassName: alb, tls: [{hosts: [a.example.com]}]")).clean()
	f := w.front("Ingress shop/web")
	if len(f.Routes) != 2 || f.Routes[0].Port != 80 || f.Routes[1].Port != 443 || f.Routes[0].Name != "http" {
		t.Fatalf("routes %+v", f.Routes)
	}
	if f.Clients.String() != "198.51.100.0/24,2001:db8::/32" {
		t.Errorf("clients %s", f.Clients)
	}
	for _, c := range []struct {
		host, path string
		want       bool
	}{
		{"a.example.com", "/api", true}, {"a.example.com", "/api/x", true}, {"a.example.com", "/apix", false},
		{"b.example.com", "/api", false}, {"a.example.com", "/", false},
	} {
		if got := f.Routes[0].Requests.Contains(netset.Request{Method: "GET", Host: c.host, Path: c.path}); got != c.want {
			t.Errorf("%s%s: %v", c.host, c.path, got)
		}
	}
}

// A pattern is read as no fewer paths than the implementation forwards.
func TestPathPatterns(t *testing.T) {
	for _, c := range []struct {
		path, pathType string
		in, out        []string
	}{
		{"/a", "Exact", []string{"/a"}, []string{"/a/", "/ab"}},
		{"/a/", "Prefix", []string{"/a", "/a/", "/a/b"}, []string{"/ab"}},
		{"/", "Prefix", []string{"/", "/x"}, nil},
		{"/serve/(.*)", "ImplementationSpecific", []string{"/serve/x", "/serve/"}, []string{"/other"}},
		{"/ab?c", "", []string{"/ac", "/abc"}, []string{"/x"}},
		{"/a|/b", "", []string{"/a", "/b"}, nil},
	} {
		l := pathLanguage(c.path, c.pathType)
		for _, p := range c.in {
			if !l.Contains(p) {
				t.Errorf("%s %s does not hold %s", c.pathType, c.path, p)
			}
		}
		for _, p := range c.out {
			if l.Contains(p) {
				t.Errorf("%s %s holds %s", c.pathType, c.path, p)
			}
		}
	}
}

func TestGateway(t *testing.T) {
	gw := `
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra}
spec:
  gatewayClassName: %s
  listeners:
  - {name: web, port: 443, protocol: HTTPS, hostname: '*.example.com', allowedRoutes: {namespaces: {from: %s}}}
`
	route := `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{name: gw, namespace: infra}]
  hostnames: [a.example.com, b.other.com]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v1}, method: POST}]
    backendRefs: [{name: web, namespace: %s, port: 443}]
`
	input := lb("", "", "")
	w := load(t, "", input+fmt.Sprintf(gw, "gke-l7-rilb", "All")+fmt.Sprintf(route, "shop")).clean()
	f := w.front("Gateway infra/gw")
	if f.Reach != network.ReachPrivate || len(f.Routes) != 1 || f.Routes[0].Port != 443 {
		t.Fatalf("%+v", f)
	}
	for _, c := range []struct {
		r    netset.Request
		want bool
	}{
		{netset.Request{Method: "POST", Host: "a.example.com", Path: "/v1/chat"}, true},
		{netset.Request{Method: "GET", Host: "a.example.com", Path: "/v1/chat"}, false},
		{netset.Request{Method: "POST", Host: "b.other.com", Path: "/v1"}, false},
	} {
		if got := f.Routes[0].Requests.Contains(c.r); got != c.want {
			t.Errorf("%v: %v", c.r, got)
		}
	}
	w = load(t, "", input+fmt.Sprintf(gw, "x", "Same")+fmt.Sprintf(route, "shop")).clean()
	if f := w.front("Gateway infra/gw"); len(f.Routes) != 0 || f.Reach != network.ReachUnknown || !strings.Contains(w.ds.Error(), "no listener of Gateway infra/gw admits it") {
		t.Errorf("another namespace was admitted: %+v, %v", f, w.ds)
	}
	other := strings.ReplaceAll(input, "shop", "back")
	w = load(t, "", other+fmt.Sprintf(gw, "x", "All")+fmt.Sprintf(route, "back")).clean()
	if f := w.front("Gateway infra/gw"); len(f.Routes) != 0 || !strings.Contains(w.ds.Error(), "no ReferenceGrant permits it") {
		t.Errorf("no grant: %+v, %v", f, w.ds)
	}
	grant := "\n---\n{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: back}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}\n"
	w = load(t, "", other+grant+fmt.Sprintf(gw, "x", "All")+fmt.Sprintf(route, "back")).clean()
	if f := w.front("Gateway infra/gw"); len(f.Routes) != 1 {
		t.Errorf("granted: %+v, %v", f, w.ds)
	}
	w = load(t, "", input+fmt.Sprintf(route, "shop")).clean()
	if f := w.front("HTTPRoute shop/r"); f.Reach != network.ReachUnknown || len(f.Routes) != 1 {
		t.Errorf("without its gateway: %+v", f)
	}
}

func TestWebhooksAreCalledByTheControlPlane(t *testing.T) {
	input := lb("", "", "") + `
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hooks}
webhooks:
- {name: a.example.com, clientConfig: {service: {namespace: shop, name: web, path: /a}}}
- {name: b.example.com, clientConfig: {service: {namespace: shop, name: web, path: /b}}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.x}, spec: {service: {namespace: shop, name: web, port: 443}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: x}, spec: {conversion: {strategy: Webhook, webhook: {clientConfig: {service: {namespace: shop, name: gone}}}}}}
`
	relayed := func(w *world) map[string]string {
		out := map[string]string{}
		for _, p := range w.analysis().Relayed() {
			out[p.Front.Name] = p.Allow.String()
		}
		return out
	}
	w := load(t, "", input).clean()
	if got := relayed(w)["ValidatingWebhookConfiguration hooks"]; got != "TCP 8080" {
		t.Errorf("open: %q", got)
	}
	if !strings.Contains(w.ds.Error(), "leads to Service shop/gone, which is not in the input") {
		t.Errorf("no warning for a missing service: %v", w.ds)
	}
	w = load(t, "", input+policyYAML("shop", "p", `{podSelector: {}}`)).clean()
	if got := relayed(w)["ValidatingWebhookConfiguration hooks"]; got != "" {
		t.Errorf("default deny lets the API server in: %q", got)
	}
}

func TestOpenShiftRoute(t *testing.T) {
	w := load(t, "", lb("", "", "")+`
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: r, namespace: shop, annotations: {haproxy.router.openshift.io/ip_allowlist: 10.0.0.0/8 192.0.2.1}}
spec: {host: a.example.com, path: /x, port: {targetPort: http}, to: {kind: Service, name: web}, tls: {termination: edge}}
`).clean()
	f := w.front("Route shop/r")
	if f.Reach != network.ReachUnknown || len(f.Routes) != 1 || f.Routes[0].Port != 443 || f.Clients.String() != "10.0.0.0/8,192.0.2.1/32" {
		t.Errorf("%+v", f)
	}
}

func TestOperatorServices(t *testing.T) {
	w := load(t, "", `
{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: rc, namespace: ns}, spec: {headGroupSpec: {serviceType: LoadBalancer, template: {spec: {containers: [{name: h, ports: [{name: dashboard, containerPort: 8265}]}]}}}}}
---
{apiVersion: kubeflow.org/v1, kind: Notebook, metadata: {name: nb, namespace: ns}, spec: {template: {spec: {containers: [{name: n}]}}}}
`).clean()
	f := w.front("Service ns/rc-head-svc (made for RayCluster rc) (LoadBalancer)")
	p := w.n.Predicates()[f.Routes[0].Backends]
	e := &w.n.Endpoints[w.endpoint("ns/RayCluster/rc[head]")]
	if f.Reach != network.ReachPublic || f.Routes[0].Port != 8265 || p.MatchEndpoint(e, &w.n.Scopes[e.Scope]) != network.Yes {
		t.Errorf("%+v", f)
	}
	if f := w.front("Service ns/nb (made for Notebook nb)"); f.Routes[0].Port != 80 || f.Routes[0].Number != 8888 {
		t.Errorf("%+v", f)
	}
}

// TestRouteFilters: a mirror is a backend like any other, and what is rewritten
// reaches its backend as another request than the route matches.
func TestRouteFilters(t *testing.T) {
	w := load(t, "", deployment("s", "llm", "")+deployment("s", "copy", "")+`
---
{apiVersion: v1, kind: Service, metadata: {name: llm, namespace: s}, spec: {selector: {app: llm}, ports: [{port: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: copy, namespace: s}, spec: {selector: {app: copy}, ports: [{port: 8080}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: s}
spec: {gatewayClassName: gke-l7-gxlb, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: s}
spec:
  parentRefs: [{name: gw}]
  rules:
  - matches: [{path: {value: /ok}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 8080}}}
    - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /admin}}}
    backendRefs: [{name: llm, port: 8080}]
`).clean()
	got := map[string]string{}
	for _, p := range w.analysis().Published() {
		got[w.n.Endpoints[p.Endpoint].Workload] = p.Allow.String()
	}
	if len(got) != 2 || got["s/Deployment/llm"] != "TCP 8080" || got["s/Deployment/copy"] != "TCP 8080" {
		t.Errorf("published %v", got)
	}
}

// TestIngressRewrites: annotations of ingress-nginx that change which requests
// reach a backend make the rule wider and never narrower than it is.
func TestIngressRewrites(t *testing.T) {
	for notes, want := range map[string]string{
		"":               "TCP 8080 [any method on host x.example.com path /ok, prefix /ok/]",
		"rewrite-target": "TCP 8080 [any method on host x.example.com]",
		"use-regex":      "TCP 8080 [any method on host x.example.com path /ok*]",
		"server-alias":   "TCP 8080 [any method /ok, prefix /ok/]",
	} {
		note := ""
		if notes != "" {
			note = ", annotations: {nginx.ingress.kubernetes.io/" + notes + `: "true"}`
		}
		w := load(t, "", deployment("s", "llm", "")+`
---
{apiVersion: v1, kind: Service, metadata: {name: llm, namespace: s}, spec: {selector: {app: llm}, ports: [{port: 8080}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in, namespace: s`+note+`}
spec: {ingressClassName: nginx, rules: [{host: x.example.com, http: {paths: [{path: /ok, pathType: Prefix, backend: {service: {name: llm, port: {number: 8080}}}}]}}]}
`).clean()
		ps := w.analysis().Published()
		if len(ps) != 1 || ps[0].May().String() != want {
			t.Errorf("%q: %v, want %s", notes, ps[0].May(), want)
		}
	}
}

// TestIngressThroughAnotherName: an Ingress that leads to another name for a
// service of another namespace publishes what that one selects.
func TestIngressThroughAnotherName(t *testing.T) {
	for _, port := range []string{"number: 8080", "name: web"} {
		w := load(t, "", deployment("s", "llm", "")+`
---
{apiVersion: v1, kind: Service, metadata: {name: llm, namespace: s}, spec: {selector: {app: llm}, ports: [{port: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: d}, spec: {type: ExternalName, externalName: llm.s.svc.cluster.local, ports: [{name: web, port: 8080}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in, namespace: d}
spec: {ingressClassName: nginx, defaultBackend: {service: {name: alias, port: {`+port+`}}}}
`).clean()
		if ps := w.analysis().Published(); len(ps) != 1 || ps[0].Front.Name != "Ingress d/in" || w.n.Endpoints[ps[0].Endpoint].Workload != "s/Deployment/llm" {
			t.Errorf("%s: published %v", port, ps)
		}
	}
}
