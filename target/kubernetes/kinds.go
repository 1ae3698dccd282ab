package kubernetes

import (
	"strings"

	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// groupKind names a kind; Kind "*" stands for every kind of the group that the
// table does not name.
type groupKind struct{ group, kind string }

// handler says what becomes of the objects of a kind. Without a read function
// an object is claimed only when pods are found in it.
type handler struct {
	// read takes an object and reports whether all of it was understood.
	read          func(*importer, *kube.Object) bool
	clusterScoped bool
	nameless      bool
	// asWritten leaves a missing namespace missing: the kind may be one
	// outside of namespaces, and nothing depends on it.
	asWritten bool
	// foreign marks what another target reads.
	foreign bool
}

// foreignGroups belong to other networking systems, which have targets of
// their own or are listed by the app as not understood.
var foreignGroups = []string{
	"cilium.io", "isovalent.com", "projectcalico.org", "crd.projectcalico.org", "operator.tigera.io",
	"networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io", "install.istio.io",
	"policy.linkerd.io", "linkerd.io", "multicluster.linkerd.io", "crd.antrea.io", "kuma.io",
	"consul.hashicorp.com", "traefik.io", "traefik.containo.us", "projectcontour.io", "k8s.nginx.org",
	"networking.gke.io", "k8s.ovn.org", "networking.k8s.aws", "vpcresources.k8s.aws", "crd.k8s.amazonaws.com",
	"kubeovn.io", "k8s.cni.cncf.io", "submariner.io", "configuration.konghq.com", "getambassador.io",
}

// irrelevantKinds change no connection. The list is explicit, so that a kind
// that is not in it is reported as not understood.
var irrelevantKinds = map[string][]string{
	"": {"ConfigMap", "Secret", "ServiceAccount", "PersistentVolume", "PersistentVolumeClaim", "Event",
		"LimitRange", "ResourceQuota", "Binding", "ComponentStatus"},
	"networking.k8s.io":            {"ServiceCIDR", "IPAddress"},
	"admissionregistration.k8s.io": {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"},
	"monitoring.coreos.com":        {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Probe", "AlertmanagerConfig", "ScrapeConfig"},
	"argoproj.io":                  {"Application", "ApplicationSet", "AppProject"},
	"kubeflow.org":                 {"PodDefault"},
	"serving.kserve.io":            {"ClusterStorageContainer", "LocalModelCache", "LocalModelNode", "LocalModelNodeGroup", "ClusterLocalModel", "TrainedModel"},
	"apps.nvidia.com":              {"NIMCache"},
	"caching.internal.knative.dev": {"Image"},
	"rbac.authorization.k8s.io":    {"*"}, "storage.k8s.io": {"*"}, "scheduling.k8s.io": {"*"}, "autoscaling": {"*"},
	"policy": {"*"}, "coordination.k8s.io": {"*"}, "certificates.k8s.io": {"*"}, "node.k8s.io": {"*"},
	"events.k8s.io": {"*"}, "flowcontrol.apiserver.k8s.io": {"*"}, "resource.k8s.io": {"*"},
	"authentication.k8s.io": {"*"}, "authorization.k8s.io": {"*"}, "metrics.k8s.io": {"*"},
	"snapshot.storage.k8s.io": {"*"}, "storagemigration.k8s.io": {"*"},
	"cert-manager.io": {"*"}, "acme.cert-manager.io": {"*"}, "trust.cert-manager.io": {"*"},
	"scheduling.volcano.sh": {"*"}, "scheduling.x-k8s.io": {"*"}, "kueue.x-k8s.io": {"*"},
	"karpenter.sh": {"*"}, "karpenter.k8s.aws": {"*"}, "autoscaling.k8s.io": {"*"}, "keda.sh": {"TriggerAuthentication", "ClusterTriggerAuthentication", "ScaledObject"},
	"external-secrets.io": {"*"}, "bitnami.com": {"*"}, "secrets-store.csi.x-k8s.io": {"*"},
	"kustomize.config.k8s.io": {"*"}, "kustomize.toolkit.fluxcd.io": {"*"}, "source.toolkit.fluxcd.io": {"*"}, "helm.toolkit.fluxcd.io": {"*"},
	"metacontroller.k8s.io": {"*"}, "wgpolicyk8s.io": {"*"}, "nfd.k8s-sigs.io": {"*"},
	// Policies of admission controllers hold patterns that look like pods.
	"kyverno.io": {"*"}, "policies.kyverno.io": {"*"}, "constraints.gatekeeper.sh": {"*"}, "templates.gatekeeper.sh": {"*"},
}

// templateKinds embed pods that run only once another object uses them.
var templateKinds = map[string][]string{
	"":                     {"PodTemplate"},
	"apps":                 {"ControllerRevision"},
	"serving.kserve.io":    {"ClusterServingRuntime", "ServingRuntime", "LLMInferenceServiceConfig"},
	"trainer.kubeflow.org": {"ClusterTrainingRuntime", "TrainingRuntime"},
	"argoproj.io":          {"WorkflowTemplate", "ClusterWorkflowTemplate", "AnalysisTemplate", "ClusterAnalysisTemplate"},
}

// nativeGroups are those whose kinds are all known, so that another kind in
// them is a slip.
var nativeGroups = map[string]bool{
	"": true, "apps": true, "batch": true, "networking.k8s.io": true, "policy.networking.k8s.io": true,
	"discovery.k8s.io": true, "gateway.networking.k8s.io": true, "extensions": true,
}

// makeHandlers returns the table of kinds that are read. It is built for each
// importer, since its functions look into it themselves.
func (im *importer) makeHandlers() map[groupKind]handler {
	hs := map[groupKind]handler{
		{"", "Namespace"}:                           {read: (*importer).readNamespace, clusterScoped: true},
		{"", "Node"}:                                {read: (*importer).readNode, clusterScoped: true},
		{"", "Pod"}:                                 {read: (*importer).readLivePod},
		{"", "Service"}:                             {read: (*importer).readService},
		{"", "Endpoints"}:                           {read: (*importer).readEndpoints},
		{"discovery.k8s.io", "*"}:                   {read: (*importer).readEndpointSlice},
		{"networking.k8s.io", "Ingress"}:            {read: (*importer).readIngress},
		{"extensions", "Ingress"}:                   {read: (*importer).readIngress},
		{"route.openshift.io", "Route"}:             {read: (*importer).readOpenShiftRoute},
		{"elbv2.k8s.aws", "*"}:                      {read: (*importer).readELB},
		{"eks.amazonaws.com", "IngressClassParams"}: {read: (*importer).readELB},
		{"eks.amazonaws.com", "TargetGroupBinding"}: {read: (*importer).readELB},
		{"kubeflow.org", "Profile"}:                 {read: (*importer).readProfile, clusterScoped: true},
		{"apiregistration.k8s.io", "*"}:             {read: (*importer).readAPIService, clusterScoped: true},
		{"apiextensions.k8s.io", "*"}:               {read: (*importer).readCRD, clusterScoped: true},
		{"networking.k8s.io", "NetworkPolicy"}:      {read: (*importer).readNetworkPolicy},
		{"extensions", "NetworkPolicy"}:             {read: (*importer).readNetworkPolicy},

		{"networking.k8s.io", "IngressClass"}:                              {read: (*importer).readIngressClass, clusterScoped: true},
		{"policy.networking.k8s.io", "AdminNetworkPolicy"}:                 {read: (*importer).readAdminNetworkPolicy, clusterScoped: true},
		{"policy.networking.k8s.io", "BaselineAdminNetworkPolicy"}:         {read: (*importer).readBaseline, clusterScoped: true},
		{"policy.networking.k8s.io", "ClusterNetworkPolicy"}:               {read: (*importer).readClusterNetworkPolicy, clusterScoped: true},
		{"admissionregistration.k8s.io", "ValidatingWebhookConfiguration"}: {read: (*importer).readWebhooks, clusterScoped: true},
		{"admissionregistration.k8s.io", "MutatingWebhookConfiguration"}:   {read: (*importer).readWebhooks, clusterScoped: true},

		{"gateway.networking.k8s.io", "GatewayClass"}:     {read: (*importer).readGatewayClass, clusterScoped: true},
		{"gateway.networking.k8s.io", "Gateway"}:          {read: (*importer).readGateway},
		{"gateway.networking.k8s.io", "HTTPRoute"}:        {read: (*importer).readRoute},
		{"gateway.networking.k8s.io", "GRPCRoute"}:        {read: (*importer).readRoute},
		{"gateway.networking.k8s.io", "TLSRoute"}:         {read: (*importer).readRoute},
		{"gateway.networking.k8s.io", "TCPRoute"}:         {read: (*importer).readRoute},
		{"gateway.networking.k8s.io", "UDPRoute"}:         {read: (*importer).readRoute},
		{"gateway.networking.k8s.io", "ReferenceGrant"}:   {read: (*importer).readReferenceGrant},
		{"gateway.networking.k8s.io", "BackendTLSPolicy"}: {read: (*importer).readIrrelevant},
		{"gateway.networking.k8s.io", "ListenerSet"}:      {read: (*importer).readUnread},
		{"metallb.io", "IPAddressPool"}:                   {read: (*importer).readPool},
		{"metallb.io", "*"}:                               {read: (*importer).readIrrelevant},
	}
	for gk := range builtinTemplates {
		hs[gk] = handler{read: (*importer).readBuiltin}
	}
	for gk := range im.operators {
		hs[gk] = handler{read: (*importer).readCustom}
	}
	for group, kinds := range irrelevantKinds {
		for _, k := range kinds {
			hs[groupKind{group, k}] = handler{read: (*importer).readIrrelevant, nameless: true, asWritten: true}
		}
	}
	for group, kinds := range templateKinds {
		for _, k := range kinds {
			hs[groupKind{group, k}] = handler{read: (*importer).readTemplate, nameless: true, asWritten: true}
		}
	}
	for _, group := range foreignGroups {
		hs[groupKind{group, "*"}] = handler{foreign: true}
	}
	return hs
}

// handlerOf returns what to do with the objects of a kind.
func (im *importer) handlerOf(apiVersion, kind string) handler {
	group, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		group = ""
	}
	if h, ok := im.handlers[groupKind{group, kind}]; ok {
		return h
	}
	if h, ok := im.handlers[groupKind{group, "*"}]; ok {
		return h
	}
	if nativeGroups[group] && im.nearestKind(group, kind) != "" {
		return handler{read: (*importer).readMisspelt, nameless: true}
	}
	return handler{}
}

func (im *importer) nearestKind(group, kind string) string {
	var kinds []string
	for gk := range im.handlers {
		if gk.group == group && gk.kind != "*" {
			kinds = append(kinds, gk.kind)
		}
	}
	return source.Nearest(kind, sortedStrings(kinds))
}

func (im *importer) readMisspelt(o *kube.Object) bool {
	im.ds.Errorf("unknown-kind", o.Value.Get("kind").Pos(), "%s: there is no kind %q in %s",
		o.String(), o.Kind, apiVersionOf(o)).
		WithFix("did you mean %q?", im.nearestKind(o.Group, o.Kind))
	im.ignore(o, "its kind is not known", true)
	return false
}

// readIrrelevant takes what changes no connection.
func (im *importer) readIrrelevant(*kube.Object) bool { return true }

// readTemplate takes what runs nothing by itself.
func (im *importer) readTemplate(o *kube.Object) bool {
	im.ignore(o, "it is a template: nothing runs until another object uses it", false)
	return true
}

// readUnread takes what is known to matter and is not read yet.
func (im *importer) readUnread(o *kube.Object) bool {
	im.ignore(o, "this kind is not read yet", true)
	return false
}

// hasPods reports whether a pod is embedded anywhere in v.
func (im *importer) hasPods(v yamldoc.Value, h handler) bool {
	if h.foreign {
		return false
	}
	found := false
	eachPod(v.Get("spec"), nil, func([]string, yamldoc.Value, yamldoc.Value) { found = true })
	return found
}

func apiVersionOf(o *kube.Object) string {
	if o.Group == "" {
		return o.Version
	}
	return o.Group + "/" + o.Version
}
