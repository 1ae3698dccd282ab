package kubernetes

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target/kube"
)

// workload is an object that runs pods or is one.
type workload struct {
	group, kind     string
	namespace, name string
	pos             source.Pos
	owner           kube.Owner
	parts           []part
	pod             bool // it is a Pod and not a template of some
	idle            bool // it runs nothing: scaled to zero or finished

	parent  *workload
	covered bool // what it made is in the input and speaks for it
}

// part is one kind of pod of a workload.
type part struct {
	name           string
	labels         map[string]string
	ports          []network.Port
	hostPorts      []hostPort
	serviceAccount string
	images         []string
	commands       []string
	hostNetwork    bool
	everywhere     bool
	unseen         bool // its template is not in the input
	ips            []netip.Addr
	node           string
	pos            source.Pos
}

// hostPort is a container's port that the node forwards.
type hostPort struct {
	network.Port
	host uint16
	addr string // hostIP
	pos  source.Pos
}

// builtinTemplates says where the kinds of Kubernetes itself keep their pod.
var builtinTemplates = map[groupKind][]string{
	{"apps", "Deployment"}:        {"spec", "template"},
	{"apps", "StatefulSet"}:       {"spec", "template"},
	{"apps", "DaemonSet"}:         {"spec", "template"},
	{"apps", "ReplicaSet"}:        {"spec", "template"},
	{"extensions", "Deployment"}:  {"spec", "template"},
	{"extensions", "DaemonSet"}:   {"spec", "template"},
	{"extensions", "ReplicaSet"}:  {"spec", "template"},
	{"", "ReplicationController"}: {"spec", "template"},
	{"batch", "Job"}:              {"spec", "template"},
	{"batch", "CronJob"}:          {"spec", "jobTemplate", "spec", "template"},
}

func (im *importer) newWorkload(o *kube.Object) *workload {
	w := &workload{group: im.names.text(o.Group), kind: o.Kind, namespace: o.Namespace, name: o.Name, pos: o.Pos}
	if owner, ok := kube.OwnerOf(o.Value); ok {
		w.owner = kube.Owner{Group: im.names.text(owner.Group), Kind: im.names.text(owner.Kind), Name: im.names.text(owner.Name)}
	}
	im.useNamespace(o.Namespace)
	im.workloads = append(im.workloads, w)
	return w
}

// readBuiltin reads a kind of Kubernetes itself that makes pods.
func (im *importer) readBuiltin(o *kube.Object) bool {
	root := im.root(o)
	w := im.newWorkload(o)
	spec := root.Field("spec")
	if !spec.Map() {
		missing(root, "spec")
		return true
	}
	template := root.At(builtinTemplates[groupKind{o.Group, o.Kind}]...)
	if !template.Map() {
		missing(spec, "template")
		return true
	}
	p := im.readPod(template)
	if o.Kind == "DaemonSet" {
		p.everywhere = !limitedToSomeNodes(template.Field("spec").Value)
	}
	w.idle = finished(o) || o.Kind == "ReplicaSet" && w.owner.Name != "" && isZero(spec.Field("replicas").Value)
	im.checkOwnSelector(o, spec, &p)
	p.labels = im.withControllerLabels(o, p.labels)
	w.parts = append(w.parts, p)
	return true
}

// checkOwnSelector warns about a selector that does not match the template,
// which the API server refuses.
func (im *importer) checkOwnSelector(o *kube.Object, spec kube.Node, p *part) {
	if o.Group != "apps" || !spec.Field("selector").Has() {
		return
	}
	sel := spec.Field("selector")
	for k, v := range sel.Value.Get("matchLabels").Entries() {
		key, _ := k.Text()
		want, _ := v.Text()
		if got, ok := p.labels[key]; !ok || got != want {
			sel.Warnf("own-selector", "the selector wants %s=%s, which the pod template does not have", key, want).
				WithFix("make the two agree: the API server refuses the object")
			return
		}
	}
}

func finished(o *kube.Object) bool {
	if o.Kind != "Job" {
		return false
	}
	for _, c := range o.Value.At("status", "conditions").Items() {
		typ, _ := c.Get("type").Text()
		status, _ := c.Get("status").Text()
		if (typ == "Complete" || typ == "Failed") && status == "True" {
			return true
		}
	}
	return false
}

func isZero(v yamldoc.Value) bool {
	n, ok := v.Int()
	return ok && n == 0
}

// limitedToSomeNodes reports whether a pod can run on some nodes only.
func limitedToSomeNodes(spec yamldoc.Value) bool {
	for k := range spec.Get("nodeSelector").Entries() {
		if key, _ := k.Text(); key != "kubernetes.io/os" {
			return true
		}
	}
	required := spec.At("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
	return required.Kind() == yamldoc.Map
}

// readLivePod reads a Pod.
func (im *importer) readLivePod(o *kube.Object) bool {
	root := im.root(o)
	phase, _ := root.At("status", "phase").Value.Text()
	if phase == "Succeeded" || phase == "Failed" {
		return true
	}
	w := im.newWorkload(o)
	w.pod = true
	if !root.Field("spec").Map() {
		missing(root, "spec")
		return true
	}
	p := im.readPod(root)
	status := root.Field("status").Value
	for _, item := range status.Get("podIPs").Items() {
		p.addIP(im, item.Get("ip"))
	}
	if len(p.ips) == 0 {
		p.addIP(im, status.Get("podIP"))
	}
	name, _ := root.At("spec", "nodeName").Value.Text()
	p.node = im.names.text(name)
	w.parts = append(w.parts, p)
	return true
}

func (p *part) addIP(im *importer, v yamldoc.Value) {
	text, _ := v.Text()
	a, err := netip.ParseAddr(text)
	if err != nil {
		return
	}
	im.ipv6 = im.ipv6 || a.Is6() && !a.Is4In6()
	p.ips = append(p.ips, a.Unmap())
}

// eachPod finds the pods that are embedded in v: a map with a `spec` that
// lists containers, or a map that lists them itself. f gets the path of keys
// to it, with the names of list items, and the values of metadata and spec.
func eachPod(v yamldoc.Value, path []string, f func(path []string, meta, spec yamldoc.Value)) {
	switch v.Kind() {
	case yamldoc.List:
		for i, item := range v.Items() {
			eachPod(item, append(path, itemName(item, i)), f)
		}
	case yamldoc.Map:
		if v.Get("containers").Kind() == yamldoc.List {
			f(path, yamldoc.Value{}, v)
		} else if spec := v.Get("spec"); spec.Get("containers").Kind() == yamldoc.List {
			f(path, v.Get("metadata"), spec)
			eachOtherPod(spec, path, f)
			return
		}
		eachOtherPod(v, path, f)
	}
}

// eachOtherPod looks below a pod: some kinds keep a second pod inside the
// first, such as the workers of a KServe predictor.
func eachOtherPod(v yamldoc.Value, path []string, f func([]string, yamldoc.Value, yamldoc.Value)) {
	for k, val := range v.Entries() {
		if val.Kind() != yamldoc.Map && val.Kind() != yamldoc.List {
			continue
		}
		if key, _ := k.Text(); !podFields[key] {
			eachPod(val, append(path, key), f)
		}
	}
}

// podFields hold no pods, and are skipped for speed and safety.
var podFields = map[string]bool{
	"containers": true, "initContainers": true, "volumes": true, "affinity": true, "tolerations": true,
	"nodeSelector": true, "metadata": true, "status": true, "securityContext": true,
}

func itemName(item yamldoc.Value, i int) string {
	for _, key := range []string{"name", "groupName"} {
		if t, ok := item.Get(key).Text(); ok && t != "" {
			return t
		}
	}
	return strconv.Itoa(i)
}

// partName makes the name of a part from the path to its template: what every
// path of the kind holds is left out, so that `headGroupSpec.template` is
// `head` and `workerGroupSpecs.gpu.template` is `worker/gpu`.
func partName(path []string) string {
	var words []string
	for _, w := range path {
		switch {
		case strings.HasSuffix(w, "ReplicaSpecs") && w != "ReplicaSpecs":
			continue
		case strings.HasSuffix(w, "GroupSpecs"), strings.HasSuffix(w, "GroupSpec"):
			w, _, _ = strings.Cut(w, "GroupSpec")
		case strings.HasSuffix(w, "Template"):
			w = strings.TrimSuffix(w, "Template")
		case strings.HasSuffix(w, "Spec") && w != "Spec":
			w = strings.TrimSuffix(w, "Spec")
		}
		if !pathWords[w] {
			words = append(words, w)
		}
	}
	return strings.Join(words, "/")
}

// pathWords say where in an object a pod is and not which one it is.
var pathWords = map[string]bool{
	"spec": true, "template": true, "rayClusterConfig": true, "rayCluster": true, "rayClusterSpec": true,
	"leaderWorker": true, "job": true, "pod": true, "tasks": true, "replicatedJobs": true, "replicaSpecs": true,
	"predictors": true, "componentSpecs": true, "trial": true, "runPolicy": true, "sparkApplication": true, "": true,
}

// readCustom reads any other object that embeds pods or is known to run some.
func (im *importer) readCustom(o *kube.Object) bool {
	op := im.operators[groupKind{o.Group, o.Kind}]
	w := im.newWorkload(o)
	r := im.reader(o)
	eachPod(o.Value.Get("spec"), nil, func(path []string, meta, spec yamldoc.Value) {
		p := im.readPodAt(kube.Root(meta, r), kube.Root(spec, r))
		p.name = im.names.text(partName(path))
		if p.pos.Line == 0 {
			p.pos = spec.Pos()
		}
		if op.labels != nil {
			op.labels(im, o, path, &p)
		}
		w.parts = append(w.parts, p)
	})
	if op.parts != nil {
		op.parts(im, o, w)
	}
	if len(w.parts) == 0 && !op.mayBeEmpty {
		w.parts = append(w.parts, im.unseenPart(o, ""))
	}
	return true
}

// unseenPart is a pod that an operator makes without showing its template.
func (im *importer) unseenPart(o *kube.Object, name string) part {
	p := part{name: name, labels: map[string]string{}, pos: o.Pos, unseen: true}
	if op := im.operators[groupKind{o.Group, o.Kind}]; op.labels != nil {
		op.labels(im, o, []string{name}, &p)
	}
	return p
}

func sortedStrings(s []string) []string {
	slices.Sort(s)
	return s
}

// missing reports a field that an object cannot do without.
func missing(n kube.Node, field string) {
	n.Errorf("missing-field", "%s has no %s", n.Name(), field)
}
