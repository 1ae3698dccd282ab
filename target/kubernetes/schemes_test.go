package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"bulkhead/core/network"
)

// TestSignalsSaySources: what tells internal from public is either read
// somewhere or says that it was not.
func TestSignalsSaySources(t *testing.T) {
	for _, s := range serviceSignals {
		if s.source != "" && !strings.HasPrefix(s.source, "https://") {
			t.Errorf("%s: source %q", s.key, s.source)
		}
	}
}

// Only what limits the clients for sure is taken for a limit.
func TestWhoMayUseALoadBalancer(t *testing.T) {
	const anyone = "any"
	for _, c := range []struct{ name, annotations, spec, want string }{
		{"the field", "", ", loadBalancerSourceRanges: [192.0.2.0/24]", "192.0.2.0/24"},
		{"the annotation", "service.beta.kubernetes.io/load-balancer-source-ranges: 192.0.2.0/24", "", "192.0.2.0/24"},
		{"Azure", "service.beta.kubernetes.io/azure-allowed-ip-ranges: 192.0.2.0/24", "", "192.0.2.0/24"},
		{"Azure, with tags that nothing here explains", "service.beta.kubernetes.io/azure-allowed-ip-ranges: 192.0.2.0/24, service.beta.kubernetes.io/azure-allowed-service-tags: Internet", "", anyone},
		{"AWS, with security groups of its own", "service.beta.kubernetes.io/aws-load-balancer-security-groups: sg-1", ", loadBalancerSourceRanges: [192.0.2.0/24]", anyone},
		{"an annotation that no provider reads", "load-balancer.hetzner.cloud/allowed-source-ranges: 192.0.2.0/24, service.beta.kubernetes.io/openstack-load-balancer-source-ranges: 192.0.2.0/24", "", anyone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if f := load(t, "", lb(c.annotations, c.spec, "")).clean().front("Service shop/web (LoadBalancer)"); f.Clients.String() != c.want {
				t.Errorf("got %s, want %s", f.Clients, c.want)
			}
		})
	}
}

func TestWhoMayUseAnIngress(t *testing.T) {
	const anyone = "any"
	class := func(name, controller, params string) string {
		return fmt.Sprintf("\n---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: %s}, spec: {controller: %s%s}}\n", name, controller, params)
	}
	alb := class("c", "ingress.k8s.aws/alb", ", parameters: {name: p}") +
		"\n---\n{apiVersion: elbv2.k8s.aws/v1beta1, kind: IngressClassParams, metadata: {name: p}, spec: {scheme: internet-facing%s}}\n"
	for _, c := range []struct{ name, annotations, more, want string }{
		{"ALB", "alb.ingress.kubernetes.io/inbound-cidrs: 192.0.2.0/24", fmt.Sprintf(alb, ""), "192.0.2.0/24"},
		{"ALB, the parameters win", "alb.ingress.kubernetes.io/inbound-cidrs: 192.0.2.0/24", fmt.Sprintf(alb, ", inboundCIDRs: [198.51.100.0/24]"), "198.51.100.0/24"},
		{"ALB, with security groups of its own", "alb.ingress.kubernetes.io/inbound-cidrs: 192.0.2.0/24, alb.ingress.kubernetes.io/security-groups: sg-1", fmt.Sprintf(alb, ""), anyone},
		{"ALB reads none of nginx", "nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24", fmt.Sprintf(alb, ""), anyone},
		{"ingress-nginx", "nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24", class("c", "k8s.io/ingress-nginx", ""), "192.0.2.0/24"},
		{"NGINX of F5 reads none of ingress-nginx", "nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24", class("c", "nginx.org/ingress-controller", ""), anyone},
		{"HAProxy", "haproxy.org/allow-list: 192.0.2.0/24", class("c", "haproxy.org/ingress-controller/haproxy", ""), "192.0.2.0/24"},
		{"nothing tells who reads it", "nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24", "", anyone},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := load(t, "", lb("", "", "")+ingressYAML(c.annotations, ", ingressClassName: c")+c.more).clean().front("Ingress shop/web")
			if f.Clients.String() != c.want {
				t.Errorf("got %s, want %s", f.Clients, c.want)
			}
		})
	}
}

// A controller on the machines' own addresses is not only inside, whatever its
// services are.
func TestIngressOfAControllerOnNodes(t *testing.T) {
	nginx := strings.Replace(deployment("ingress", "nginx", ""), "example/nginx", "registry.k8s.io/ingress-nginx/controller:v1", 1) + `
---
{apiVersion: v1, kind: Service, metadata: {name: nginx, namespace: ingress}, spec: {selector: {app: nginx}, ports: [{port: 443}]}}
`
	input := lb("", "", "") + ingressYAML("", ", ingressClassName: nginx")
	if f := load(t, "", input+nginx).clean().front("Ingress shop/web"); f.Reach != network.ReachInside {
		t.Errorf("got %s (%s)", f.Reach, f.Why)
	}
	for _, change := range []string{"    spec:\n      hostNetwork: true", "    spec:"} {
		on := strings.Replace(nginx, "    spec:", change, 1)
		if change == "    spec:" {
			on = strings.Replace(on, "containerPort: 8080", "containerPort: 8080, hostPort: 80", 1)
		}
		if f := load(t, "", input+on).clean().front("Ingress shop/web"); f.Reach != network.ReachUnknown || f.Why == "" {
			t.Errorf("%q: got %s (%s)", change, f.Reach, f.Why)
		}
	}
}

// The annotations of an object count for the Service that is made for it only
// where its operator copies them.
func TestAnnotationsOfMadeServices(t *testing.T) {
	internal := `{service.beta.kubernetes.io/azure-load-balancer-internal: "true"}`
	ray := `{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: rc, namespace: ns%s}, spec: {%sheadGroupSpec: {serviceType: LoadBalancer%s, template: {spec: {containers: [{name: h}]}}}}}`
	for _, c := range []struct {
		name, input string
		want        network.Reach
	}{
		{"of the cluster", fmt.Sprintf(ray, ", annotations: "+internal, "", ""), network.ReachPublic},
		{"for the head's service", fmt.Sprintf(ray, "", "headServiceAnnotations: "+internal+", ", ""), network.ReachPrivate},
		{"of the head's service", fmt.Sprintf(ray, "", "", ", headService: {metadata: {annotations: "+internal+"}}"), network.ReachPrivate},
	} {
		if f := load(t, "", c.input).clean().front("Service ns/rc-head-svc (made for RayCluster rc) (LoadBalancer)"); f.Reach != c.want {
			t.Errorf("%s: got %s (%s), want %s", c.name, f.Reach, f.Why, c.want)
		}
	}
	nim := `{apiVersion: apps.nvidia.com/v1alpha1, kind: NIMService, metadata: {name: n, namespace: ns}, spec: {image: {repository: x}, expose: {service: {type: LoadBalancer, annotations: ` + internal + `}}}}`
	if f := load(t, "", nim).clean().front("Service ns/n (made for NIMService n) (LoadBalancer)"); f.Reach != network.ReachPrivate {
		t.Errorf("NIM: got %s (%s)", f.Reach, f.Why)
	}
	gateway := `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g, namespace: ns%s}, spec: {gatewayClassName: %s%s, listeners: [{name: w, port: 80, protocol: HTTP}]}}`
	infrastructure := ", infrastructure: {annotations: " + internal + "}"
	for _, c := range []struct {
		name, input string
		want        network.Reach
	}{
		{"of the Gateway", fmt.Sprintf(gateway, ", annotations: "+internal, "x", ""), network.ReachUnknown},
		{"of its infrastructure", fmt.Sprintf(gateway, "", "x", infrastructure), network.ReachPrivate},
		{"of a class that does not read them", fmt.Sprintf(gateway, "", "gke-l7-global-external-managed", infrastructure), network.ReachPublic},
	} {
		if f := load(t, "", c.input).clean().front("Gateway ns/g"); f.Reach != c.want {
			t.Errorf("%s: got %s (%s), want %s", c.name, f.Reach, f.Why, c.want)
		}
	}
}

// What AWS does by default is an assumption unless its controller is there.
func TestDefaultOfAWSIsAnAssumption(t *testing.T) {
	input := lb("service.beta.kubernetes.io/aws-load-balancer-type: external", "", "")
	controller := strings.Replace(deployment("kube-system", "lbc", ""), "example/lbc", "public.ecr.aws/eks/aws-load-balancer-controller:v2.17.0", 1)
	for more, want := range map[string]int{"": 1, controller: 0} {
		w := load(t, "", input+more).clean()
		got := 0
		for _, a := range w.n.Assumptions {
			if a.ID == "aws-scheme" {
				got++
			}
		}
		if f := w.front("Service shop/web (LoadBalancer)"); got != want || f.Reach != network.ReachPrivate {
			t.Errorf("%d assumptions, want %d; %s (%s)", got, want, f.Reach, f.Why)
		}
	}
}
