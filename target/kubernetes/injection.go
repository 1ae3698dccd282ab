package kubernetes

import (
	"bulkhead/core/network"
)

// Labels that the sidecar injector of Istio gives to the pods that it changes
// on admission, so that policies select on labels no template shows. Read
// 2026-11-22: istio.io/latest/docs/reference/config/labels and
// istio/istio pkg/kube/inject (1.29).
const (
	canonicalName     = "service.istio.io/canonical-name"
	canonicalRevision = "service.istio.io/canonical-revision"
	tlsMode           = "security.istio.io/tlsMode"
)

// injectLabels adds the labels of the sidecar injector to the pods of w that
// it changes. A live pod shows them itself.
func (b *builder) injectLabels(w, top *workload) {
	if w.pod && w.parent != nil {
		return
	}
	ns := b.namespaces[w.namespace]
	for i := range w.parts {
		p := &w.parts[i]
		if p.hostNetwork || p.labels == nil || !injected(ns.labels, p.labels) {
			continue
		}
		first := func(fallback string, keys ...string) string {
			for _, k := range keys {
				if v := p.labels[k]; v != "" {
					return v
				}
			}
			return fallback
		}
		p.offer(b.importer,
			canonicalName, first(top.name, "app.kubernetes.io/name", "app"),
			canonicalRevision, first("latest", "app.kubernetes.io/version", "version"),
			tlsMode, "istio")
	}
}

// injected reports whether the injector changes a pod: its own label decides,
// then those of the namespace.
func injected(namespace, pod map[string]string) bool {
	switch pod["sidecar.istio.io/inject"] {
	case "true":
		return true
	case "false":
		return false
	}
	switch namespace["istio-injection"] {
	case "enabled":
		return true
	case "disabled":
		return false
	}
	rev := namespace["istio.io/rev"]
	return rev != "" && rev != network.Unstated || pod["istio.io/rev"] != ""
}
