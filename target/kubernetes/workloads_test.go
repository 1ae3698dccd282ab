package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/netset"
	"bulkhead/core/network"
)

// names returns the names of the workloads' endpoints, sorted.
func (w *world) names() []string {
	var out []string
	for i := range w.n.Endpoints {
		if w.n.Endpoints[i].Kind == network.Workload {
			out = append(out, w.n.Endpoints[i].Name())
		}
	}
	slices.Sort(out)
	return out
}

const podSpec = "{containers: [{name: c, image: x}]}"

// TestWorkloadsAreFoundByShape: any object that embeds pods is a workload, and
// its parts are named after their path.
func TestWorkloadsAreFoundByShape(t *testing.T) {
	tmpl := "template: {spec: " + podSpec + "}"
	for _, c := range []struct{ kind, spec, want string }{
		{"v1/Pod", "spec: " + podSpec, "ns/Pod/x"},
		{"v1/ReplicationController", "spec: {" + tmpl + "}", "ns/ReplicationController/x"},
		{"apps/v1/Deployment", "spec: {" + tmpl + "}", "ns/Deployment/x"},
		{"batch/v1/CronJob", "spec: {jobTemplate: {spec: {" + tmpl + "}}}", "ns/CronJob/x"},
		{"ray.io/v1/RayCluster", "spec: {headGroupSpec: {" + tmpl + "}, workerGroupSpecs: [{groupName: gpu, " + tmpl + "}, {groupName: cpu, " + tmpl + "}]}",
			"ns/RayCluster/x[head] ns/RayCluster/x[worker/cpu] ns/RayCluster/x[worker/gpu]"},
		{"ray.io/v1/RayJob", "spec: {entrypoint: python x.py, rayClusterSpec: {headGroupSpec: {" + tmpl + "}}}", "ns/RayJob/x[head] ns/RayJob/x[submitter]"},
		{"ray.io/v1/RayJob", "spec: {submissionMode: HTTPMode, clusterSelector: {ray.io/cluster: a}}", ""},
		{"kubeflow.org/v1/PyTorchJob", "spec: {pytorchReplicaSpecs: {Master: {" + tmpl + "}, Worker: {" + tmpl + "}}}", "ns/PyTorchJob/x[Master] ns/PyTorchJob/x[Worker]"},
		{"kubeflow.org/v1/TFJob", "spec: {tfReplicaSpecs: {PS: {" + tmpl + "}}}", "ns/TFJob/x[PS]"},
		{"kubeflow.org/v2beta1/MPIJob", "spec: {mpiReplicaSpecs: {Launcher: {" + tmpl + "}, Worker: {" + tmpl + "}}}", "ns/MPIJob/x[Launcher] ns/MPIJob/x[Worker]"},
		{"kubeflow.org/v1/Notebook", "spec: {" + tmpl + "}", "ns/Notebook/x"},
		{"leaderworkerset.x-k8s.io/v1/LeaderWorkerSet", "spec: {leaderWorkerTemplate: {leaderTemplate: {spec: " + podSpec + "}, workerTemplate: {spec: " + podSpec + "}}}",
			"ns/LeaderWorkerSet/x[leader] ns/LeaderWorkerSet/x[worker]"},
		{"jobset.x-k8s.io/v1alpha2/JobSet", "spec: {replicatedJobs: [{name: driver, template: {spec: {" + tmpl + "}}}, {name: node, template: {spec: {" + tmpl + "}}}]}", "ns/JobSet/x[driver] ns/JobSet/x[node]"},
		{"batch.volcano.sh/v1alpha1/Job", "spec: {tasks: [{name: ps, " + tmpl + "}, {" + tmpl + "}]}", "ns/Job/x[default1] ns/Job/x[ps]"},
		{"sparkoperator.k8s.io/v1beta2/SparkApplication", "spec: {image: spark, driver: {serviceAccount: spark}, executor: {instances: 2}}", "ns/SparkApplication/x[driver] ns/SparkApplication/x[executor]"},
		{"apps.nvidia.com/v1alpha1/NIMService", "spec: {image: {repository: r}, expose: {service: {port: 8000}}}", "ns/NIMService/x"},
		{"serving.kserve.io/v1beta1/InferenceService", "spec: {predictor: {model: {modelFormat: {name: onnx}}}, transformer: {containers: [{name: t}]}}", "ns/InferenceService/x[predictor] ns/InferenceService/x[transformer]"},
		{"serving.kserve.io/v1alpha1/LLMInferenceService", "spec: {template: {containers: [{name: a}]}, worker: {containers: [{name: b}]}}", "ns/LLMInferenceService/x ns/LLMInferenceService/x[worker]"},
		{"serving.knative.dev/v1/Service", "spec: {" + tmpl + "}", "ns/Service/x"},
		{"machinelearning.seldon.io/v1/SeldonDeployment", "spec: {predictors: [{name: main, componentSpecs: [{spec: " + podSpec + "}]}]}", "ns/SeldonDeployment/x[main/0]"},
		{"trainer.kubeflow.org/v1alpha1/TrainJob", "spec: {runtimeRef: {name: torch}}", "ns/TrainJob/x"},
		{"trainer.kubeflow.org/v1alpha1/ClusterTrainingRuntime", "spec: {template: {spec: {replicatedJobs: [{name: a, template: {spec: {" + tmpl + "}}}]}}}", ""},
		{"serving.kserve.io/v1alpha1/ClusterServingRuntime", "spec: " + podSpec, ""},
		{"acme.example/v1/Fleet", "spec: {groups: {blue: {" + tmpl + "}, green: {podTemplate: {spec: " + podSpec + "}}}}", "ns/Fleet/x[groups/blue] ns/Fleet/x[groups/green]"},
		{"kyverno.io/v1/ClusterPolicy", "spec: {rules: [{validate: {pattern: {spec: " + podSpec + "}}}]}", ""},
	} {
		i := strings.LastIndexByte(c.kind, '/')
		t.Run(c.kind, func(t *testing.T) {
			w := load(t, "", fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: x, namespace: ns}\n%s\n", c.kind[:i], c.kind[i+1:], c.spec)).clean()
			if got := strings.Join(w.names(), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if w.n.Coverage.Objects != 1 || w.n.Coverage.Understood != 1 {
				t.Errorf("coverage %+v", w.n.Coverage)
			}
		})
	}
}

// Labels that operators add are what policies for AI platforms select on.
func TestOperatorLabels(t *testing.T) {
	tmpl := "template: {spec: " + podSpec + "}"
	w := load(t, "", `
{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: rc, namespace: ns}, spec: {headGroupSpec: {`+tmpl+`}, workerGroupSpecs: [{groupName: gpu, `+tmpl+`}]}}
---
{apiVersion: ray.io/v1, kind: RayService, metadata: {name: rs, namespace: ns}, spec: {rayClusterConfig: {headGroupSpec: {`+tmpl+`}}}}
---
{apiVersion: kubeflow.org/v1, kind: PyTorchJob, metadata: {name: pt, namespace: ns}, spec: {pytorchReplicaSpecs: {Worker: {`+tmpl+`}}}}
---
{apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, metadata: {name: lws, namespace: ns}, spec: {leaderWorkerTemplate: {leaderTemplate: {spec: `+podSpec+`}, workerTemplate: {spec: `+podSpec+`}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: ns}, spec: {`+tmpl+`}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: cj, namespace: ns}, spec: {jobTemplate: {spec: {`+tmpl+`}}}}
---
{apiVersion: kubeflow.org/v1, kind: Notebook, metadata: {name: nb, namespace: ns, labels: {team: x}}, spec: {`+tmpl+`}}
---
{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: llm, namespace: ns}, spec: {predictor: {model: {modelFormat: {name: huggingface}}}}}
`).clean()
	for _, c := range []struct{ endpoint, key, want string }{
		{"ns/RayCluster/rc[head]", "ray.io/node-type", "head"},
		{"ns/RayCluster/rc[worker/gpu]", "ray.io/group", "gpu"},
		{"ns/RayCluster/rc[head]", "ray.io/cluster", "rc"},
		{"ns/RayService/rs[head]", "ray.io/cluster", network.Unsettled},
		{"ns/PyTorchJob/pt[Worker]", "training.kubeflow.org/job-name", "pt"},
		{"ns/PyTorchJob/pt[Worker]", "training.kubeflow.org/replica-type", "worker"},
		{"ns/PyTorchJob/pt[Worker]", "training.kubeflow.org/replica-index", network.Unsettled},
		{"ns/LeaderWorkerSet/lws[leader]", "leaderworkerset.sigs.k8s.io/worker-index", "0"},
		{"ns/LeaderWorkerSet/lws[worker]", "leaderworkerset.sigs.k8s.io/worker-index", network.Unsettled},
		{"ns/Job/j", "job-name", "j"},
		{"ns/Job/j", "batch.kubernetes.io/job-name", "j"},
		{"ns/CronJob/cj", "job-name", network.Unsettled},
		{"ns/Notebook/nb", "notebook-name", "nb"},
		{"ns/Notebook/nb", "statefulset", "nb"},
		{"ns/Notebook/nb", "team", "x"},
		{"ns/InferenceService/llm[predictor]", "serving.kserve.io/inferenceservice", "llm"},
		{"ns/InferenceService/llm[predictor]", "component", "predictor"},
		{"ns/Job/j", ServiceAccountAttribute, "default"},
		{"ns/InferenceService/llm[predictor]", ServiceAccountAttribute, network.Unsettled},
		{"ns/Job/j", WorkloadAttribute, "Job/j"},
	} {
		e := w.n.Endpoints[w.endpoint(c.endpoint)]
		if got := e.Attributes[c.key]; got != c.want {
			t.Errorf("%s: %s is %q, want %q", c.endpoint, c.key, got, c.want)
		}
	}
}

func owned(kind, name, owner, labels, rest string) string {
	return fmt.Sprintf("\n---\n{apiVersion: %s, kind: %s, metadata: {name: %s, namespace: ns, labels: {%s}, ownerReferences: [%s]}, %s}\n",
		map[string]string{"Pod": "v1", "ReplicaSet": "apps/v1", "Deployment": "apps/v1", "Job": "batch/v1", "CronJob": "batch/v1", "RayCluster": "ray.io/v1", "RayService": "ray.io/v1"}[kind],
		kind, name, labels, owner, rest)
}

func TestLivePodsReplaceTheirTemplates(t *testing.T) {
	tmpl := "spec: {template: {metadata: {labels: {app: w}}, spec: " + podSpec + "}}"
	ref := func(group, kind, name string) string {
		return "{apiVersion: " + group + ", kind: " + kind + ", name: " + name + ", controller: true}"
	}
	live := func(ip string) string {
		return "spec: " + podSpec + ", status: {phase: Running, podIPs: [{ip: " + ip + "}]}"
	}
	for _, c := range []struct{ name, input, want string }{
		{"pod of a replica set of a deployment", owned("Deployment", "w", "", "", tmpl) + owned("ReplicaSet", "w-abc", ref("apps/v1", "Deployment", "w"), "", tmpl) +
			owned("Pod", "w-abc-1", ref("apps/v1", "ReplicaSet", "w-abc"), "app: w, pod-template-hash: abc", live("10.0.0.1")) +
			owned("Pod", "w-abc-2", ref("apps/v1", "ReplicaSet", "w-abc"), "app: w, pod-template-hash: abc", live("10.0.0.2")),
			"ns/Deployment/w=10.0.0.1/32,10.0.0.2/32"},
		{"the replica set is not in the input", owned("Pod", "w-abc-1", ref("apps/v1", "ReplicaSet", "w-abc"), "app: w, pod-template-hash: abc", live("10.0.0.1")),
			"ns/Deployment/w=10.0.0.1/32"},
		{"a replica set of another kind of owner", owned("Pod", "w-1", ref("apps/v1", "ReplicaSet", "w"), "app: w", live("10.0.0.1")), "ns/ReplicaSet/w=10.0.0.1/32"},
		{"old replica sets are no endpoints", owned("Deployment", "w", "", "", tmpl) + owned("ReplicaSet", "w-old", ref("apps/v1", "Deployment", "w"), "", strings.Replace(tmpl, "{template", "{replicas: 0, template", 1)),
			"ns/Deployment/w"},
		{"job of a cron job", owned("CronJob", "c", "", "", "spec: {jobTemplate: {"+tmpl+"}}") + owned("Job", "c-28", ref("batch/v1", "CronJob", "c"), "", tmpl) +
			owned("Pod", "c-28-x", ref("batch/v1", "Job", "c-28"), "", live("10.0.0.1")), "ns/CronJob/c=10.0.0.1/32"},
		{"job of a cron job that is not in the input itself", owned("CronJob", "c", "", "", "spec: {jobTemplate: {"+tmpl+"}}") +
			owned("Pod", "c-28-x", ref("batch/v1", "Job", "c-28"), "", live("10.0.0.1")), "ns/CronJob/c=10.0.0.1/32"},
		{"finished pods and jobs run nothing", owned("Pod", "a", "", "", "spec: "+podSpec+", status: {phase: Succeeded}") + owned("Pod", "b", "", "", "spec: "+podSpec+", status: {phase: Failed}") +
			owned("Job", "j", "", "", tmpl+", status: {conditions: [{type: Complete, status: \"True\"}]}"), ""},
		{"pods of a ray cluster of a ray service", owned("RayService", "s", "", "", "spec: {rayClusterConfig: {headGroupSpec: {template: {spec: "+podSpec+"}}}}") +
			owned("RayCluster", "s-x", ref("ray.io/v1", "RayService", "s"), "", "spec: {headGroupSpec: {template: {spec: "+podSpec+"}}}") +
			owned("Pod", "h", ref("ray.io/v1", "RayCluster", "s-x"), "ray.io/node-type: head, ray.io/cluster: s-x", live("10.0.0.1")), "ns/RayService/s[head]=10.0.0.1/32"},
		{"a static pod has no owner that was deployed", owned("Pod", "etcd", ref("v1", "Node", "n1"), "", live("10.0.0.1")), "ns/Pod/etcd=10.0.0.1/32"},
		{"owners in a circle", owned("Deployment", "a", ref("apps/v1", "Deployment", "b"), "", tmpl) + owned("Deployment", "b", ref("apps/v1", "Deployment", "a"), "", tmpl), "ns/Deployment/b"},
		{"pods with other labels are other endpoints", owned("Pod", "p1", ref("apps/v1", "ReplicaSet", "r"), "app: w", live("10.0.0.1")) +
			owned("Pod", "p2", ref("apps/v1", "ReplicaSet", "r"), "app: w, canary: \"1\"", live("10.0.0.2")), "ns/ReplicaSet/r[p1]=10.0.0.1/32 ns/ReplicaSet/r[p2]=10.0.0.2/32"},
		{"a block tells the addresses of pods apart", owned("Pod", "p1", ref("apps/v1", "ReplicaSet", "r"), "app: w", live("10.0.0.1")) +
			owned("Pod", "p2", ref("apps/v1", "ReplicaSet", "r"), "app: w", live("10.0.0.2")) + owned("Pod", "p3", ref("apps/v1", "ReplicaSet", "r"), "app: w", live("10.0.0.3")) +
			policyYAML("ns", "x", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.2/31}}]}]}"),
			"ns/ReplicaSet/r[p1]=10.0.0.1/32 ns/ReplicaSet/r[p2]=10.0.0.2/31"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := load(t, "", c.input).clean()
			var got []string
			for _, name := range w.names() {
				e := w.n.Endpoints[w.endpoint(name)]
				if e.AddrsKnown {
					name += "=" + e.Addrs.String()
				}
				got = append(got, name)
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("got %q, want %q", g, c.want)
			}
		})
	}
}

func TestPodFacts(t *testing.T) {
	w := load(t, "", `
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns}
spec:
  serviceAccountName: robot
  initContainers:
  - {name: setup, image: setup, ports: [{containerPort: 1}]}
  - {name: proxy, image: proxy, restartPolicy: Always, ports: [{name: admin, containerPort: 15000}]}
  containers:
  - {name: main, image: main, command: [python], args: [-m, serve], ports: [{name: http, containerPort: 8000}, {name: q, containerPort: 8000, protocol: UDP}]}
`).clean()
	e := w.n.Endpoints[w.endpoint("ns/Pod/p")]
	if got := fmt.Sprint(e.Ports); got != "[{http TCP 8000} {q UDP 8000} {admin TCP 15000}]" {
		t.Errorf("ports %s", got)
	}
	if got := fmt.Sprintf("%q %q", e.Facts.Images, e.Facts.Commands); got != `["main" "proxy"] ["python" "-m" "serve" ""]` {
		t.Errorf("facts %s", got)
	}
	if e.Attributes[ServiceAccountAttribute] != "robot" || e.Identity != "" {
		t.Errorf("service account %q, identity %q", e.Attributes[ServiceAccountAttribute], e.Identity)
	}
	if !e.Addrs.Equal(privateV4) || e.AddrsKnown {
		t.Errorf("addresses %s", e.Addrs)
	}
}

func TestIPv6IsAssumedOnlyWhereTheInputShowsIt(t *testing.T) {
	for _, c := range []struct {
		input string
		want  bool
	}{
		{policyYAML("ns", "p", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}]}`), false},
		{"\n---\n{apiVersion: v1, kind: Service, metadata: {name: s, namespace: ns}, spec: {ipFamilies: [IPv4, IPv6], selector: {a: b}, ports: [{port: 1}]}}\n", true},
		{"\n---\n{apiVersion: v1, kind: Pod, metadata: {name: q}, spec: {containers: [{name: c}]}, status: {podIPs: [{ip: 10.0.0.1}, {ip: \"2001:db8::7\"}]}}\n", true},
	} {
		w := load(t, "", deployment("ns", "w", "")+c.input).clean()
		e := w.n.Endpoints[w.endpoint("ns/Deployment/w")]
		if got := e.Addrs.Overlaps(netset.AnyV6()); got != c.want {
			t.Errorf("%s: IPv6 %v", c.input, got)
		}
	}
}

// TestPartsThatDoNotRunYet: pods of one part of a workload do not speak for the
// others, which may be scaled up at any time.
func TestPartsThatDoNotRunYet(t *testing.T) {
	cluster := `
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: r, namespace: ns}
spec:
  headGroupSpec: {template: {spec: {containers: [{name: c}]}}}
  workerGroupSpecs: [{groupName: w, template: {spec: {containers: [{name: c}]}}}]
`
	live := func(name, kind, group string) string {
		return "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: ns, labels: {ray.io/cluster: r, ray.io/node-type: " + kind + ", ray.io/group: " + group +
			"}, ownerReferences: [{apiVersion: ray.io/v1, kind: RayCluster, name: r, controller: true}]}, spec: {containers: [{name: c}]}, status: {podIP: 10.0.0.1}}\n"
	}
	for _, c := range []struct{ text, want string }{
		{cluster, "ns/RayCluster/r[head] ns/RayCluster/r[worker/w]"},
		{cluster + live("h", "head", "headgroup"), "ns/RayCluster/r[head] ns/RayCluster/r[worker/w]"},
		{cluster + live("h", "head", "headgroup") + live("w", "worker", "w"), "ns/RayCluster/r[head] ns/RayCluster/r[worker/w]"},
	} {
		var got []string
		for _, e := range load(t, "", c.text).clean().n.Endpoints {
			if e.Kind == network.Workload {
				got = append(got, e.Name())
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("got %s, want %s", s, c.want)
		}
	}
}
