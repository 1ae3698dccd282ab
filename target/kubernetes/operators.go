package kubernetes

import (
	"maps"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/target/kube"
)

// operator says what is known of the pods that an operator makes from an
// object. The labels are those that rules select on and that the operator's
// documentation or source names; a value that only the cluster knows is
// unsettled.
type operator struct {
	// labels adds the operator's labels to the pod found at path.
	labels func(im *importer, o *kube.Object, path []string, p *part)
	// parts adds pods that are made without a template in the object, and the
	// services that the operator makes.
	parts func(im *importer, o *kube.Object, w *workload)
	// mayBeEmpty says that an object without a pod runs none.
	mayBeEmpty bool
}

// operators returns the kinds whose operators are known. Read in 2026-11:
// KubeRay 1.4 (ray-operator/controllers/ray/common), training-operator 1.9,
// mpi-operator 0.6, trainer 2.1, LeaderWorkerSet 0.7, JobSet 0.10, volcano
// 1.13, spark-operator 2.3, k8s-nim-operator 2.0, KServe 0.15, Kubeflow
// notebook-controller 1.10.
func operators() map[groupKind]operator {
	ops := map[groupKind]operator{
		{"ray.io", "RayCluster"}: {labels: rayLabels, parts: rayServices},
		{"ray.io", "RayService"}: {labels: rayLabels, parts: rayServices},
		{"ray.io", "RayJob"}:     {labels: rayLabels, parts: raySubmitter},

		{"kubeflow.org", "MPIJob"}:   {labels: mpiLabels},
		{"kubeflow.org", "Notebook"}: {labels: notebookLabels, parts: notebookService},

		{"leaderworkerset.x-k8s.io", "LeaderWorkerSet"}: {labels: lwsLabels},
		{"jobset.x-k8s.io", "JobSet"}:                   {labels: jobSetLabels},
		{"batch.volcano.sh", "Job"}:                     {labels: volcanoLabels},

		{"trainer.kubeflow.org", "TrainJob"}:                  {labels: trainJobLabels},
		{"serving.kserve.io", "InferenceService"}:             {labels: kserveLabels, parts: kserveParts},
		{"serving.kserve.io", "InferenceGraph"}:               {},
		{"apps.nvidia.com", "NIMService"}:                     {labels: nimLabels, parts: nimService},
		{"sparkoperator.k8s.io", "SparkApplication"}:          {labels: sparkLabels, parts: sparkParts},
		{"sparkoperator.k8s.io", "ScheduledSparkApplication"}: {labels: sparkLabels, parts: sparkParts},

		{"argoproj.io", "Workflow"}:                  {labels: argoLabels},
		{"argoproj.io", "CronWorkflow"}:              {labels: argoLabels},
		{"monitoring.coreos.com", "Prometheus"}:      {labels: prometheusLabels},
		{"monitoring.coreos.com", "PrometheusAgent"}: {labels: prometheusLabels},
		{"monitoring.coreos.com", "Alertmanager"}:    {labels: prometheusLabels},
		{"monitoring.coreos.com", "ThanosRuler"}:     {labels: prometheusLabels},
		{"tensorboard.kubeflow.org", "Tensorboard"}:  {labels: tensorboardLabels},
	}
	for _, kind := range []string{"PyTorchJob", "TFJob", "XGBoostJob", "PaddleJob", "JAXJob", "MXJob"} {
		ops[groupKind{"kubeflow.org", kind}] = operator{labels: trainingLabels}
	}
	return ops
}

// set gives labels to p that the operator sets whatever the template says.
// Values are interned; an empty one is unsettled.
func (p *part) set(im *importer, pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		v := pairs[i+1]
		if v == "" || strings.Contains(v, "*") {
			v = network.Unsettled
		}
		p.labels[pairs[i]] = im.names.text(v)
	}
}

// offer gives labels to p unless the template has them.
func (p *part) offer(im *importer, pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		if _, ok := p.labels[pairs[i]]; !ok {
			p.set(im, pairs[i], pairs[i+1])
		}
	}
}

// inherit gives the labels of the object itself to p.
func (p *part) inherit(im *importer, o *kube.Object) {
	for k, v := range im.labels(im.root(o).At("metadata", "labels")) {
		if _, ok := p.labels[k]; !ok {
			p.labels[k] = v
		}
	}
}

// withControllerLabels adds what the controllers of Kubernetes itself add.
func (im *importer) withControllerLabels(o *kube.Object, labels map[string]string) map[string]string {
	p := part{labels: labels}
	switch o.Kind {
	case "Deployment":
		p.set(im, "pod-template-hash", "")
	case "DaemonSet":
		p.set(im, "controller-revision-hash", "", "pod-template-generation", "")
	case "StatefulSet":
		p.setStateful(im)
	case "Job":
		p.setJob(im, o.Name)
		if mode, _ := o.Value.At("spec", "completionMode").Text(); mode == "Indexed" {
			p.set(im, "batch.kubernetes.io/job-completion-index", "")
		}
	case "CronJob":
		p.setJob(im, "")
	}
	return p.labels
}

func (p *part) setStateful(im *importer) {
	p.set(im, "statefulset.kubernetes.io/pod-name", "", "apps.kubernetes.io/pod-index", "", "controller-revision-hash", "")
}

func (p *part) setJob(im *importer, name string) {
	p.set(im, "job-name", name, "batch.kubernetes.io/job-name", name, "controller-uid", "", "batch.kubernetes.io/controller-uid", "")
}

func rayLabels(im *importer, o *kube.Object, path []string, p *part) {
	cluster := o.Name
	if o.Kind != "RayCluster" {
		cluster = "" // the operator appends a random suffix
		if o.Kind == "RayService" {
			p.set(im, "ray.io/serve", "")
		}
	}
	identifier := ""
	switch {
	case strings.HasPrefix(p.name, "head"):
		if cluster != "" {
			identifier = cluster + "-head"
		}
		p.set(im, "ray.io/node-type", "head", "ray.io/group", "headgroup")
	case strings.HasPrefix(p.name, "worker/"):
		if cluster != "" {
			identifier = cluster + "-worker"
		}
		p.set(im, "ray.io/node-type", "worker", "ray.io/group", strings.TrimPrefix(p.name, "worker/"))
	default: // the Job that submits to the cluster
		p.name = "submitter"
		p.setJob(im, o.Name)
		return
	}
	p.set(im, "ray.io/cluster", cluster, "ray.io/identifier", identifier, "ray.io/is-ray-node", "yes")
	p.offer(im, "app.kubernetes.io/name", "kuberay", "app.kubernetes.io/created-by", "kuberay-operator")
}

// raySubmitter adds the pod of the Job that submits a RayJob: without a
// template for it the operator makes one from the head's image.
func raySubmitter(im *importer, o *kube.Object, w *workload) {
	mode, _ := o.Value.At("spec", "submissionMode").Text()
	if mode != "" && mode != "K8sJobMode" {
		if len(w.parts) == 0 {
			w.idle = true // it only talks to another object's pods
		}
		return
	}
	p := part{name: "submitter", labels: map[string]string{}, pos: o.Pos}
	for i := range w.parts {
		if w.parts[i].name == "submitter" {
			return
		}
		if w.parts[i].name == "head" {
			p.images, p.serviceAccount = w.parts[i].images, w.parts[i].serviceAccount
		}
	}
	p.setJob(im, o.Name)
	if entry, _ := o.Value.At("spec", "entrypoint").Text(); entry != "" {
		p.commands = []string{im.names.text("ray"), im.names.text("job"), im.names.text("submit"), im.names.text(entry), ""}
	}
	w.parts = append(w.parts, p)
}

func trainingLabels(im *importer, o *kube.Object, path []string, p *part) {
	role := ""
	if i := strings.LastIndexByte(p.name, '/'); i >= 0 || p.name != "" {
		role = strings.ToLower(p.name[i+1:])
	}
	p.set(im, "training.kubeflow.org/job-name", o.Name, "training.kubeflow.org/replica-type", role,
		"training.kubeflow.org/replica-index", "",
		"training.kubeflow.org/operator-name", strings.ToLower(o.Kind)+"-controller")
	if role == "master" || role == "chief" {
		p.set(im, "training.kubeflow.org/job-role", "master")
	}
}

func mpiLabels(im *importer, o *kube.Object, path []string, p *part) {
	if o.Version == "v1" { // the training operator's; v2beta1 is the MPI operator's
		trainingLabels(im, o, path, p)
		return
	}
	role := strings.ToLower(p.name)
	p.set(im, "training.kubeflow.org/job-name", o.Name, "training.kubeflow.org/job-role", role,
		"training.kubeflow.org/operator-name", "mpi-operator")
	if role == "launcher" {
		p.setJob(im, o.Name+"-launcher")
	} else {
		p.set(im, "training.kubeflow.org/replica-index", "")
	}
}

func notebookLabels(im *importer, o *kube.Object, path []string, p *part) {
	p.inherit(im, o)
	p.set(im, "notebook-name", o.Name, "statefulset", o.Name)
	p.setStateful(im)
}

func lwsLabels(im *importer, o *kube.Object, path []string, p *part) {
	const prefix = "leaderworkerset.sigs.k8s.io/"
	index := ""
	if p.name == "leader" {
		index = "0"
	}
	p.set(im, prefix+"name", o.Name, prefix+"worker-index", index, prefix+"group-index", "",
		prefix+"group-key", "", prefix+"template-revision-hash", "")
	p.setStateful(im)
}

func jobSetLabels(im *importer, o *kube.Object, path []string, p *part) {
	const prefix = "jobset.sigs.k8s.io/"
	p.set(im, prefix+"jobset-name", o.Name, prefix+"replicatedjob-name", p.name, prefix+"replicatedjob-replicas", "",
		prefix+"job-index", "", prefix+"job-key", "", prefix+"restart-attempt", "")
	p.setJob(im, "")
	p.set(im, "batch.kubernetes.io/job-completion-index", "")
}

func volcanoLabels(im *importer, o *kube.Object, path []string, p *part) {
	if p.name != "" && strings.Trim(p.name, "0123456789") == "" {
		p.name = im.names.text("default" + p.name) // the name volcano gives to a task without one
	}
	queue, _ := o.Value.At("spec", "queue").Text()
	if queue == "" {
		queue = "default"
	}
	p.set(im, "volcano.sh/job-name", o.Name, "volcano.sh/job-namespace", o.Namespace,
		"volcano.sh/task-spec", p.name, "volcano.sh/queue-name", queue, "volcano.sh/task-index", "")
}

// trainJobLabels: a TrainJob runs the jobs of a runtime as a JobSet of its
// own name. Which jobs those are stands in the runtime.
func trainJobLabels(im *importer, o *kube.Object, path []string, p *part) {
	jobSetLabels(im, o, path, p)
	p.set(im, "jobset.sigs.k8s.io/replicatedjob-name", "")
}

func kserveLabels(im *importer, o *kube.Object, path []string, p *part) {
	p.inherit(im, o)
	component, _, _ := strings.Cut(p.name, "/")
	p.set(im, "serving.kserve.io/inferenceservice", o.Name, "component", component)
	// Knative and the raw deployment mode give `app` different values.
	p.offer(im, "app", "")
}

// kserveParts adds the components that name a model and no container.
func kserveParts(im *importer, o *kube.Object, w *workload) {
	for _, component := range []string{"predictor", "transformer", "explainer"} {
		v := o.Value.At("spec", component)
		if !kube.Root(v, im.reader(o)).Has() || hasPart(w, component) {
			continue
		}
		p := im.unseenPart(o, component)
		maps.Copy(p.labels, im.labels(kube.Root(v, im.reader(o)).Field("labels")))
		if format, ok := v.At("model", "modelFormat", "name").Text(); ok {
			p.commands = []string{im.names.text("model-format=" + format), ""}
		}
		for key, val := range v.Entries() {
			name, _ := key.Text()
			if image, ok := val.Get("image").Text(); ok && name == "model" {
				p.images = append(p.images, im.names.text(image))
			}
		}
		w.parts = append(w.parts, p)
	}
}

func hasPart(w *workload, name string) bool {
	for i := range w.parts {
		if first, _, _ := strings.Cut(w.parts[i].name, "/"); first == name {
			return true
		}
	}
	return false
}

func nimLabels(im *importer, o *kube.Object, path []string, p *part) {
	p.set(im, "app", o.Name, "app.kubernetes.io/name", o.Name, "app.kubernetes.io/instance", o.Name,
		"app.kubernetes.io/part-of", "nim-service", "app.kubernetes.io/managed-by", "k8s-nim-operator",
		"app.kubernetes.io/operator-version", "")
	for k, v := range im.labels(im.root(o).At("spec", "labels")) {
		p.labels[k] = v
	}
}

func sparkLabels(im *importer, o *kube.Object, path []string, p *part) {
	name := o.Name
	if o.Kind == "ScheduledSparkApplication" {
		name = "" // each run has a name of its own
	}
	p.set(im, "sparkoperator.k8s.io/app-name", name, "spark-app-name", name, "spark-role", p.name, "spark-app-selector", "",
		"sparkoperator.k8s.io/submission-id", "", "sparkoperator.k8s.io/launched-by-spark-operator", "true")
	if p.name == "executor" {
		p.set(im, "spark-exec-id", "", "spark-exec-resourceprofile-id", "")
	}
}

// sparkParts adds the driver and the executors where they have no template.
func sparkParts(im *importer, o *kube.Object, w *workload) {
	spec := o.Value.Get("spec")
	if o.Kind == "ScheduledSparkApplication" {
		spec = spec.Get("template")
	}
	for _, role := range []string{"driver", "executor"} {
		if hasPart(w, role) {
			continue
		}
		v := spec.Get(role)
		p := im.unseenPart(o, role)
		maps.Copy(p.labels, im.labels(kube.Root(v, im.reader(o)).Field("labels")))
		for _, at := range []string{"serviceAccount", "image"} {
			text, ok := v.Get(at).Text()
			if !ok && at == "image" {
				text, ok = spec.Get("image").Text()
			}
			if ok && at == "image" {
				p.images = []string{im.names.text(text)}
			} else if ok {
				p.serviceAccount = im.names.text(text)
			}
		}
		p.hostNetwork, _ = v.Get("hostNetwork").Bool()
		w.parts = append(w.parts, p)
	}
}

func argoLabels(im *importer, o *kube.Object, path []string, p *part) {
	name := o.Name
	if o.Kind == "CronWorkflow" {
		name = ""
	}
	p.set(im, "workflows.argoproj.io/workflow", name, "workflows.argoproj.io/completed", "")
}

func prometheusLabels(im *importer, o *kube.Object, path []string, p *part) {
	kind := strings.ToLower(o.Kind)
	p.set(im, "app.kubernetes.io/name", map[string]string{"prometheusagent": "prometheus-agent", "thanosruler": "thanos-ruler"}[kind],
		"app.kubernetes.io/instance", o.Name, "app.kubernetes.io/managed-by", "prometheus-operator", "app.kubernetes.io/version", "")
	if kind == "prometheus" || kind == "alertmanager" {
		p.set(im, "app.kubernetes.io/name", kind, kind, o.Name)
		p.ports = append(p.ports, network.Port{Name: "web", Protocol: netset.TCP,
			Number: map[string]uint16{"prometheus": 9090, "alertmanager": 9093}[kind]})
	}
	for k, v := range im.labels(im.root(o).At("spec", "podMetadata", "labels")) {
		p.labels[k] = v
	}
	p.setStateful(im)
}

func tensorboardLabels(im *importer, o *kube.Object, path []string, p *part) {
	p.set(im, "app", o.Name, "pod-template-hash", "")
}
