package kubernetes

import (
	"slices"
	"strings"

	"bulkhead/target/kube"
)

// finishOwners links every workload to the one that made it, and marks those
// whose makings are in the input.
func (b *builder) finishOwners() {
	byID := make(map[identity]*workload, len(b.workloads))
	for _, w := range b.workloads {
		byID[identity{w.group, w.kind, w.namespace, w.name}] = w
	}
	cronJobs := map[string][]*workload{}
	for _, w := range b.workloads {
		if w.kind == "CronJob" {
			cronJobs[w.namespace] = append(cronJobs[w.namespace], w)
		}
	}
	for i := 0; i < len(b.workloads); i++ { // grows as unseen owners are added
		w := b.workloads[i]
		owner, ok := ownerOf(w, cronJobs)
		if !ok {
			continue
		}
		id := identity{owner.Group, owner.Kind, w.namespace, owner.Name}
		parent := byID[id]
		if parent == nil {
			parent = &workload{group: owner.Group, kind: owner.Kind, namespace: w.namespace, name: owner.Name, pos: w.pos, idle: true}
			byID[id] = parent
			b.workloads = append(b.workloads, parent)
			if owner.Kind == "ReplicaSet" {
				parent.parts = w.parts // for the label that names its Deployment
			}
		}
		if !parent.isBelow(w) {
			w.parent = parent
		}
	}
	for _, w := range b.workloads {
		if w.idle || len(w.parts) == 0 {
			continue
		}
		for p := w.parent; p != nil && !p.covered; p = p.parent {
			p.covered = true
		}
	}
	b.keepUnseenParts()
}

// keepUnseenParts gives back to an owner of several parts those of which
// nothing runs yet, such as a group of workers that is scaled to none: they are
// not spoken for. Where a role is not among its parts, all of them are.
func (b *builder) keepUnseenParts() {
	roles := map[*workload][]string{}
	for _, w := range b.workloads {
		if w.idle || w.covered && len(w.parts) < 2 {
			continue
		}
		for i := range w.parts {
			role := w.parts[i].name
			if w.pod {
				role = roleOf(w.parts[i].labels)
			}
			for p := w.parent; p != nil; p = p.parent {
				if p.covered && len(p.parts) > 1 && !p.idle {
					roles[p] = append(roles[p], role)
				}
			}
		}
	}
	for w, seen := range roles {
		known := func(role string) bool {
			return slices.ContainsFunc(w.parts, func(p part) bool { return strings.EqualFold(p.name, role) })
		}
		if slices.ContainsFunc(seen, func(role string) bool { return !known(role) }) {
			continue
		}
		var left []part
		for _, p := range w.parts {
			if !slices.ContainsFunc(seen, func(role string) bool { return strings.EqualFold(p.name, role) }) {
				left = append(left, p)
			}
		}
		if len(left) > 0 {
			w.parts, w.covered = left, false
		}
	}
}

// ownerOf returns the owner of w as its metadata says, or as the names that
// Kubernetes gives say where the owner's own metadata is not in the input.
func ownerOf(w *workload, cronJobs map[string][]*workload) (kube.Owner, bool) {
	switch {
	case w.owner.Kind == "Node" && w.owner.Group == "":
		return kube.Owner{}, false // a static pod: the node runs it and nothing made it
	case w.owner.Name != "":
		return w.owner, true
	case w.pos.Line == 0 || !w.idle:
		return kube.Owner{}, false
	}
	switch w.kind {
	case "ReplicaSet":
		for i := range w.parts {
			hash := w.parts[i].labels["pod-template-hash"]
			if name, ok := strings.CutSuffix(w.name, "-"+hash); ok && hash != "" {
				return kube.Owner{Group: "apps", Kind: "Deployment", Name: name}, true
			}
		}
	case "Job":
		for _, c := range cronJobs[w.namespace] {
			if rest, ok := strings.CutPrefix(w.name, c.name+"-"); ok && strings.Trim(rest, "0123456789") == "" {
				return kube.Owner{Group: "batch", Kind: "CronJob", Name: c.name}, true
			}
		}
	}
	return kube.Owner{}, false
}

// top returns the topmost owner of w, itself if it has none.
func (w *workload) top() *workload {
	for w.parent != nil {
		w = w.parent
	}
	return w
}

// isBelow reports whether w is other or is owned by it, so that owning it in
// turn would be a circle.
func (w *workload) isBelow(other *workload) bool {
	for ; w != nil; w = w.parent {
		if w == other {
			return true
		}
	}
	return false
}

// roleLabels tell which part of its owner a live pod is.
var roleLabels = []string{
	"training.kubeflow.org/replica-type", "training.kubeflow.org/job-role", "jobset.sigs.k8s.io/replicatedjob-name",
	"volcano.sh/task-spec", "spark-role",
}

// roleOf returns the part that the labels of a pod name.
func roleOf(labels map[string]string) string {
	switch labels["ray.io/node-type"] {
	case "head":
		return "head"
	case "worker":
		return "worker/" + labels["ray.io/group"]
	}
	if labels["serving.kserve.io/inferenceservice"] != "" {
		return labels["component"]
	}
	if labels["leaderworkerset.sigs.k8s.io/name"] != "" {
		if labels["leaderworkerset.sigs.k8s.io/worker-index"] == "0" {
			return "leader"
		}
		return "worker"
	}
	for _, key := range roleLabels {
		if v := labels[key]; v != "" {
			return v
		}
	}
	return ""
}
