package app

import (
	"strings"

	"bulkhead/core/network"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// system is something that decides about connections and that no importer
// reads yet, by the API groups of its objects.
type system struct {
	name string
	// groups are API groups; an object of one of them, or of one below it,
	// belongs to the system.
	groups []string
}

var systems = []system{
	{"istio", []string{"istio.io"}},
	{"linkerd", []string{"linkerd.io"}},
	{"cilium", []string{"cilium.io", "isovalent.com"}},
	{"calico", []string{"projectcalico.org", "tigera.io"}},
	{"antrea", []string{"antrea.io"}},
	{"kuma", []string{"kuma.io"}},
	{"consul", []string{"consul.hashicorp.com"}},
	{"traefik", []string{"traefik.io", "traefik.containo.us"}},
	{"contour", []string{"projectcontour.io"}},
	{"nginx", []string{"k8s.nginx.org", "gateway.nginx.org"}},
	{"kong", []string{"konghq.com"}},
	{"emissary", []string{"getambassador.io"}},
	{"envoy gateway", []string{"gateway.envoyproxy.io"}},
	{"gke", []string{"networking.gke.io", "cloud.google.com"}},
	{"ovn-kubernetes", []string{"k8s.ovn.org"}},
	{"kube-ovn", []string{"kubeovn.io"}},
	{"amazon vpc cni", []string{"networking.k8s.aws", "vpcresources.k8s.aws", "crd.k8s.amazonaws.com"}},
	{"multus", []string{"k8s.cni.cncf.io"}},
	{"submariner", []string{"submariner.io"}},
}

// disown records an object that no importer claimed, with what it may mean.
func disown(v yamldoc.Value, c *network.Coverage) {
	ig := network.Ignored{Pos: v.Pos()}
	if kube.IsObject(v) {
		disownObject(v, &ig)
	} else {
		disownOther(v, &ig)
	}
	c.Ignored = append(c.Ignored, ig)
	if ig.Kind != policyKind {
		c.Objects++
	}
}

func disownObject(v yamldoc.Value, ig *network.Ignored) {
	kind, _ := v.Get("kind").Text()
	version, _ := v.Get("apiVersion").Text()
	name, _ := v.At("metadata", "name").Text()
	if ns, ok := v.At("metadata", "namespace").Text(); ok {
		name = ns + "/" + name
	}
	ig.Kind, ig.Name = strings.Clone(kind), strings.Clone(name)
	group, _, _ := strings.Cut(version, "/")
	for _, s := range systems {
		for _, g := range s.groups {
			if group == g || strings.HasSuffix(group, "."+g) {
				ig.Why = "no importer understands " + s.name + " " + version + " " + kind + " yet"
				ig.Matters = true
				return
			}
		}
	}
	ig.Why = "no importer understands " + version + " " + kind + ": if a controller makes workloads of it, add those"
}

// policyKind is how a policy of our own is called that lies among the input.
const policyKind = "bulkhead policy"

// disownOther names a document that is no object by the keys that give its
// format away.
func disownOther(v yamldoc.Value, ig *network.Ignored) {
	has := func(keys ...string) bool {
		for _, k := range keys {
			if v.Get(k).Kind() == yamldoc.Missing {
				return false
			}
		}
		return true
	}
	set := func(kind, why string, matters bool) {
		ig.Kind, ig.Why, ig.Matters = kind, why, matters
	}
	const notYet = "no importer understands it yet"
	switch {
	case has("format_version", "planned_values") || has("format_version", "resource_changes"):
		set("Terraform plan", notYet, true)
	case has("format_version", "values") || has("terraform_version", "resources"):
		set("Terraform state", notYet, true)
	case has("AWSTemplateFormatVersion") || has("Resources") && v.Get("Resources").Kind() == yamldoc.Map:
		set("CloudFormation template", notYet, true)
	case has("services") && v.Get("services").Kind() == yamldoc.Map:
		set("Compose file", notYet, true)
	case has("static_resources"):
		set("Envoy configuration", notYet, true)
	case has("version", "zones"), has("version", "workloads"), has("version", "platform"):
		set(policyKind, "it declares what should be; --policy compares it with what is", false)
	case has("resources"), has("bases"), has("patches"), has("kustomization"):
		set("kustomization", "it is input of kustomize: read what kustomize build makes of it", false)
	case has("kind"):
		kind, _ := v.Get("kind").Text()
		set(strings.Clone(kind), "it has a kind and no apiVersion, so that nothing can be applied of it", true)
	default:
		set("document", "it is no configuration that an importer knows", false)
	}
}
