package recognise

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func ids(ms []Match) []string {
	var out []string
	for _, m := range ms {
		out = append(out, m.Signature.ID)
	}
	return out
}

func TestBuiltinRecognisesRealWorkloads(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Facts
		want string // id of the best match, "" for none
	}{
		{"vLLM by image", Facts{Kind: "Deployment", Group: "apps", Images: []string{"vllm/vllm-openai:v0.11.0"}}, "vllm"},
		{"vLLM through a mirror", Facts{Images: []string{"123456789012.dkr.ecr.eu-west-1.amazonaws.com/docker-hub/vllm/vllm-openai:v0.11.0@sha256:00"}}, "vllm"},
		{"vLLM by command in a custom image", Facts{Images: []string{"registry.corp:5000/ml/serve"}, Commands: []string{"/bin/sh", "-c", "pip list && exec vllm serve meta-llama/Llama-3 --port 8000"}}, "vllm"},
		{"vLLM by argv", Facts{Commands: []string{"/opt/venv/bin/vllm", "serve", "/models/llama"}}, "vllm"},
		{"vLLM by module", Facts{Commands: []string{"python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "x"}}, "vllm"},
		{"vLLM Neuron image of AI on EKS", Facts{Images: []string{"public.ecr.aws/data-on-eks/neuron-sdk2.20-vllm0.5.0-neuron:v8"}}, "vllm"},
		{"vLLM on a VM", Facts{Name: "prod-vllm-1", Ports: []int{8000}}, "vllm"},
		{"multi-host vLLM", Facts{Group: "leaderworkerset.x-k8s.io/v1", Kind: "LeaderWorkerSet", Part: "leader", Images: []string{"public.ecr.aws/data-on-eks/neuron-sdk2.20-vllm0.5.0-neuron:v8"}}, "vllm-group-leader"},
		{"a worker of multi-host vLLM", Facts{Group: "leaderworkerset.x-k8s.io/v1", Kind: "LeaderWorkerSet", Part: "worker", Images: []string{"vllm/vllm-openai:v1"}}, "vllm-group-worker"},
		{"a leader-worker set of something else", Facts{Group: "leaderworkerset.x-k8s.io/v1", Kind: "LeaderWorkerSet", Part: "leader", Images: []string{"corp/serve"}}, "leader-worker-set"},
		{"Dex", Facts{Images: []string{"ghcr.io/dexidp/dex:v2.45.0"}, Commands: []string{"dex", "serve", "/etc/dex/cfg/config.yaml"}}, "dex"},
		{"OAuth2 Proxy", Facts{Images: []string{"quay.io/oauth2-proxy/oauth2-proxy:v7.14.3"}}, "authenticating-proxy"},
		{"a GPU test", Facts{Images: []string{"nvidia/cuda:11.6.2-cudnn8-runtime-ubuntu20.04"}, Commands: []string{"nvidia-smi"}}, "gpu-test"},
		{"production stack router", Facts{Images: []string{"lmcache/lmstack-router:latest"}}, "vllm-router"},
		{"SGLang", Facts{Images: []string{"docker.io/lmsysorg/sglang:v0.5.4"}}, "sglang"},
		{"SGLang by module", Facts{Commands: []string{"python3", "-m", "sglang.launch_server", "--host", "0.0.0.0"}}, "sglang"},
		{"TGI", Facts{Images: []string{"ghcr.io/huggingface/text-generation-inference:3.3.5"}}, "tgi"},
		{"TEI", Facts{Images: []string{"ghcr.io/huggingface/text-embeddings-inference:cpu-1.9"}}, "tei"},
		{"Triton", Facts{Images: []string{"nvcr.io/nvidia/tritonserver:25.01-py3"}, Commands: []string{"tritonserver", "--model-repository=/models"}}, "triton"},
		{"LMDeploy", Facts{Images: []string{"openmmlab/lmdeploy:latest"}}, "lmdeploy"},
		{"Ollama", Facts{Images: []string{"ollama/ollama"}}, "ollama"},
		{"Ollama by its port", Facts{Name: "gpu-box", Ports: []int{22, 11434}}, "ollama"},
		{"NIM service", Facts{Group: "apps.nvidia.com", Kind: "NIMService", Images: []string{"nvcr.io/nim/meta/llama-3.1-8b-instruct"}}, "nim"},
		{"NIM image", Facts{Group: "apps", Kind: "Deployment", Images: []string{"nvcr.io/nim/meta/llama-3.1-8b-instruct:1.3.3"}}, "nim"},
		{"Dynamo", Facts{Images: []string{"nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.4.0"}}, "dynamo"},
		{"KServe", Facts{Group: "serving.kserve.io", Kind: "InferenceService", Part: "predictor", Images: []string{"nvcr.io/nvidia/tritonserver:23.05-py3"}}, "kserve-inferenceservice"},
		{"KServe predictor", Facts{Group: "apps", Kind: "Deployment", Images: []string{"kserve/huggingfaceserver:v0.16.0"}, Labels: map[string]string{"serving.kserve.io/inferenceservice": "llama"}}, "kserve-inferenceservice"},
		{"TensorFlow Serving", Facts{Images: []string{"tensorflow/serving:2.6.2"}}, "tensorflow-serving"},
		{"TorchServe of KServe", Facts{Images: []string{"pytorch/torchserve-kfs:0.9.0"}}, "torchserve"},
		{"llama.cpp", Facts{Images: []string{"ghcr.io/ggml-org/llama.cpp:server-cuda"}}, "llama-cpp"},

		{"Ray cluster as a whole", Facts{Group: "ray.io", Kind: "RayCluster"}, "ray-cluster"},
		{"Ray head", Facts{Group: "ray.io", Kind: "RayCluster", Part: "head", Images: []string{"rayproject/ray:2.41.0"}}, "ray-head"},
		{"Ray worker group", Facts{Group: "ray.io", Kind: "RayCluster", Part: "gpu-group"}, "ray-worker"},
		{"Ray service", Facts{Group: "ray.io", Kind: "RayService"}, "ray-serve"},
		{"Ray service head with vLLM inside", Facts{Group: "ray.io", Kind: "RayService", Part: "head", Images: []string{"public.ecr.aws/data-on-eks/ray2.24.0-py310-vllm-gpu:v1"}, Ports: []int{6379, 8265, 10001, 8000}}, "ray-serve-head"},
		{"Ray service worker", Facts{Group: "ray.io", Kind: "RayService", Part: "worker"}, "ray-serve-worker"},
		{"pod that KubeRay made", Facts{Kind: "Pod", Labels: map[string]string{"ray.io/node-type": "head", "ray.io/cluster": "a"}, Images: []string{"x/ray-vllm:1"}}, "ray-head"},
		{"Ray job", Facts{Group: "ray.io", Kind: "RayJob"}, "ray-job"},
		{"Ray job head", Facts{Group: "ray.io", Kind: "RayJob", Part: "head"}, "ray-head"},
		{"Ray job submitter", Facts{Group: "ray.io", Kind: "RayJob", Part: "submitter"}, "ray-job"},
		{"Ray head by command", Facts{Commands: []string{"bash", "-lc", "ulimit -n 65536; ray start --block --head --port=6379"}}, "ray-head"},
		{"Ray worker by command", Facts{Commands: []string{"bash", "-lc", "ray start --address=head:6379 --block"}}, "ray-worker"},
		{"Ray head by ports", Facts{Ports: []int{8265, 10001, 6379}}, "ray-head"},

		{"notebook", Facts{Group: "kubeflow.org", Kind: "Notebook", Images: []string{"ghcr.io/kubeflow/kubeflow/notebook-servers/codeserver-python:v1.10.0"}}, "jupyter"},
		{"notebook image", Facts{Images: []string{"quay.io/jupyter/scipy-notebook:2025-01-01"}}, "jupyter"},
		{"JupyterHub", Facts{Images: []string{"quay.io/jupyterhub/k8s-hub:4.0.0"}}, "jupyterhub"},
		{"user server of JupyterHub", Facts{Labels: map[string]string{"app": "jupyterhub", "component": "singleuser-server"}, Images: []string{"corp/ds-image:1"}}, "jupyter"},

		{"PyTorchJob", Facts{Group: "kubeflow.org/v1", Kind: "PyTorchJob"}, "pytorch-job"},
		{"PyTorchJob master", Facts{Group: "kubeflow.org", Kind: "PyTorchJob", Part: "Master"}, "pytorch-master"},
		{"PyTorchJob worker", Facts{Group: "kubeflow.org", Kind: "PyTorchJob", Part: "Worker"}, "pytorch-worker"},
		{"PyTorchJob that runs an inference image", Facts{Group: "kubeflow.org", Kind: "PyTorchJob", Part: "Worker", Images: []string{"vllm/vllm-openai"}}, "pytorch-worker"},
		{"MPI launcher", Facts{Group: "kubeflow.org/v2beta1", Kind: "MPIJob", Part: "Launcher", Images: []string{"IMG_PLACEHOLDER"}, Commands: []string{"mpirun", "--allow-run-as-root"}}, "mpi-launcher"},
		{"MPI worker", Facts{Group: "kubeflow.org/v2beta1", Kind: "MPIJob", Part: "Worker"}, "mpi-worker"},
		{"TrainJob", Facts{Group: "trainer.kubeflow.org", Kind: "TrainJob"}, "kubeflow-trainjob"},
		{"Volcano job of AI on EKS", Facts{Group: "batch.volcano.sh", Kind: "Job", Images: []string{"<ACCOUNT_ID>.dkr.ecr.<REGION>.amazonaws.com/eks_mlperf_training:mlp"}, Commands: []string{"torchrun", "--nnodes=1", "train_torchrun.py"}}, "volcano-job"},
		{"plain job with torchrun", Facts{Group: "batch", Kind: "Job", Commands: []string{"torchrun", "--nnodes=2", "train.py"}}, "distributed-training"},
		{"plain job with a framework image", Facts{Group: "batch", Kind: "Job", Images: []string{"pytorch/pytorch:2.10.0"}, Commands: []string{"python", "/app/fit.py"}}, "distributed-training"},
		{"Axolotl", Facts{Images: []string{"axolotlai/axolotl:main"}}, "finetuning-toolkit"},

		{"MLflow", Facts{Images: []string{"ghcr.io/mlflow/mlflow:v3.1.0"}, Ports: []int{5000}}, "mlflow"},
		{"TensorBoard", Facts{Commands: []string{"tensorboard", "--logdir", "/logs"}}, "tensorboard"},
		{"Katib controller", Facts{Images: []string{"ghcr.io/kubeflow/katib/katib-controller:v0.19.0"}}, "katib"},
		{"Katib database", Facts{Images: []string{"mysql:8.0"}, Labels: map[string]string{"katib.kubeflow.org/component": "mysql"}}, "mysql"},
		{"Kubeflow Pipelines API", Facts{Images: []string{"ghcr.io/kubeflow/kfp-api-server:2.16.0"}, Ports: []int{8888, 8887}}, "kubeflow-pipelines"},
		{"Kubeflow Pipelines database", Facts{Images: []string{"mysql:8.4"}, Labels: map[string]string{"app": "mysql", "application-crd-id": "kubeflow-pipelines"}}, "mysql"},
		{"Kubeflow object store", Facts{Images: []string{"chrislusf/seaweedfs:4.00"}, Commands: []string{"server", "-dir=/data", "-s3"}}, "seaweedfs"},
		{"ML metadata", Facts{Images: []string{"gcr.io/tfx-oss-public/ml_metadata_store_server:1.14.0"}}, "ml-metadata"},
		{"Jupyter web app", Facts{Images: []string{"ghcr.io/kubeflow/kubeflow/jupyter-web-app:v1.10.0"}, Ports: []int{5000}}, "kubeflow-platform"},
		{"KServe controller", Facts{Images: []string{"kserve/kserve-controller:v0.16.0", "quay.io/brancz/kube-rbac-proxy:v0.18.0"}}, "kserve-controller"},
		{"trainer controller", Facts{Images: []string{"ghcr.io/kubeflow/trainer/trainer-controller-manager:v2.2.0"}}, "training-operator"},
		{"training runtime", Facts{Group: "trainer.kubeflow.org", Kind: "ClusterTrainingRuntime"}, "kubeflow-trainjob"},
		{"Spark operator", Facts{Images: []string{"ghcr.io/kubeflow/spark-operator/controller:2.5.0"}}, "spark-operator"},
		{"Spark driver", Facts{Group: "sparkoperator.k8s.io", Kind: "SparkApplication", Part: "driver"}, "spark-driver"},
		{"Spark application", Facts{Group: "sparkoperator.k8s.io", Kind: "SparkApplication"}, "spark-job"},
		{"Airflow", Facts{Images: []string{"apache/airflow:3.0.1"}}, "airflow"},

		{"Milvus", Facts{Images: []string{"milvusdb/milvus:v2.6.0"}, Commands: []string{"milvus", "run", "standalone"}}, "milvus"},
		{"Qdrant", Facts{Images: []string{"qdrant/qdrant:v1.15"}}, "qdrant"},
		{"Weaviate", Facts{Images: []string{"cr.weaviate.io/semitechnologies/weaviate:1.33.0"}}, "weaviate"},
		{"Chroma", Facts{Images: []string{"chromadb/chroma:1.0"}}, "chroma"},
		{"pgvector is not plain PostgreSQL", Facts{Images: []string{"pgvector/pgvector:pg17"}, Ports: []int{5432}}, "pgvector"},
		{"MinIO", Facts{Images: []string{"minio/minio:latest"}, Ports: []int{9000, 9001}}, "minio"},
		{"Feast", Facts{Images: []string{"quay.io/feastdev/feature-server:0.66.0"}}, "feast"},
		{"Open WebUI", Facts{Images: []string{"ghcr.io/open-webui/open-webui:main"}, Ports: []int{8080}}, "open-webui"},
		{"Gradio app of AI on EKS", Facts{Images: []string{"public.ecr.aws/data-on-eks/gradio-web-app-base:latest"}}, "gradio"},
		{"LiteLLM", Facts{Images: []string{"ghcr.io/berriai/litellm-database:v1.90.0"}}, "litellm"},
		{"DCGM exporter", Facts{Images: []string{"nvcr.io/nvidia/k8s/dcgm-exporter:3.3.9-3.6.1-ubuntu22.04"}}, "dcgm-exporter"},
		{"Neuron monitor", Facts{Images: []string{"public.ecr.aws/neuron/neuron-monitor:1.1.0"}}, "neuron-monitor"},
		{"Istio gateway", Facts{Images: []string{"gcr.io/istio-release/proxyv2:1.29.1"}, Commands: []string{"proxy", "router", "--domain", "x"}}, "istio-gateway"},
		{"Grafana", Facts{Images: []string{"grafana/grafana:12.0"}}, "grafana"},
		{"Loki", Facts{Images: []string{"grafana/loki:3.5"}}, "loki"},
		{"Kafka by operator", Facts{Group: "kafka.strimzi.io", Kind: "Kafka"}, "kafka"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Builtin().Recognise(c.f)
			if len(got) == 0 {
				t.Fatalf("nothing recognised, want %s", c.want)
			}
			if got[0].Signature.ID != c.want {
				t.Errorf("best is %s because of %q, want %s (all: %v)", got[0].Signature.ID, got[0].Evidence, c.want, ids(got))
			}
			if len(got[0].Evidence) == 0 {
				t.Error("no evidence")
			}
		})
	}
}

func TestFalseFriendsAreNotRecognised(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Facts
		not  []Class // no match may have one of these classes
		want string  // id of the best match, "" for none at all
	}{
		{"a common port alone", Facts{Name: "api", Ports: []int{8000}}, nil, ""},
		{"three common ports", Facts{Name: "api", Ports: []int{5000, 8080, 8888}}, nil, ""},
		{"Triton's ports without its name", Facts{Name: "api", Ports: []int{8000, 8001, 8002}}, nil, ""},
		{"a name alone", Facts{Name: "vllm"}, nil, ""},
		{"redis on the port of Ray's control store", Facts{Name: "redis", Images: []string{"redis:7"}, Ports: []int{6379}}, []Class{"ray-head", "ray-worker"}, "redis"},
		{"a Ray worker", Facts{Group: "ray.io", Kind: "RayCluster", Part: "worker-group", Ports: []int{8265, 10001}}, []Class{"ray-head"}, "ray-worker"},
		{"a worker pod", Facts{Labels: map[string]string{"ray.io/node-type": "worker"}, Images: []string{"rayproject/ray:2"}}, []Class{"ray-head"}, "ray-worker"},
		{"a head that also names an address", Facts{Commands: []string{"ray start --head --node-ip-address=1.2.3.4 && ray start --address=x"}}, []Class{"ray-worker"}, "ray-head"},
		{"nginx in front of a model", Facts{Name: "vllm-proxy", Images: []string{"nginx:1.29"}, Ports: []int{8000}}, []Class{"inference-server"}, "reverse-proxy"},
		{"nginx beside a model in one pod", Facts{Images: []string{"nginx:1.29", "vllm/vllm-openai:v1"}}, []Class{"gateway"}, "vllm"},
		{"an injected sidecar", Facts{Images: []string{"corp/web:1", "gcr.io/istio-release/proxyv2:1.29.1"}, Commands: []string{"web", "", "proxy", "sidecar"}}, nil, ""},
		{"a metrics sidecar", Facts{Images: []string{"corp/web:1", "oliver006/redis_exporter:v1"}}, nil, ""},
		{"Triton's client kit", Facts{Images: []string{"nvcr.io/nvidia/tritonserver:24.12-py3-sdk"}, Commands: []string{"sleep", "infinity"}}, []Class{"inference-server"}, "triton-client"},
		{"a training script that looks at the GPUs first", Facts{Images: []string{"nvidia/cuda:12"}, Commands: []string{"bash", "-c", "nvidia-smi && torchrun train.py"}}, []Class{"gpu-infrastructure"}, "distributed-training"},
		{"a client that waits for a server", Facts{Images: []string{"busybox"}, Commands: []string{"sh", "-c", "until nc -z tritonserver 8000; do sleep 1; done"}}, []Class{"inference-server"}, ""},
		{"a client of vLLM", Facts{Images: []string{"corp/vllm-client:1"}, Commands: []string{"python", "client.py", "--backend", "vllm"}}, []Class{"inference-server"}, ""},
		{"a benchmark of vLLM", Facts{Commands: []string{"vllm", "bench", "serve"}}, []Class{"inference-server"}, ""},
		{"a framework image that trains nothing", Facts{Group: "apps", Kind: "Deployment", Images: []string{"pytorch/pytorch:2.10"}, Commands: []string{"python", "api.py"}}, []Class{"training-job"}, ""},
		{"a plain job", Facts{Group: "batch", Kind: "Job", Images: []string{"alpine/k8s:1.32"}, Commands: []string{"kubectl", "apply"}}, []Class{"training-job"}, ""},
		{"a schema registry", Facts{Name: "schema-registry", Ports: []int{5000}}, []Class{"model-registry"}, ""},
		{"the MLflow command line", Facts{Images: []string{"corp/train:1"}, Commands: []string{"mlflow", "run", "."}}, []Class{"experiment-tracker"}, ""},
		{"cert-manager", Facts{Name: "cert-manager", Images: []string{"quay.io/jetstack/cert-manager-controller:v1.19.4"}, Ports: []int{9402}}, nil, ""},
		{"nothing", Facts{}, nil, ""},
		{"odd images", Facts{Images: []string{"", "/", ":", "@", "a/", "::", "http://x/"}}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Builtin().Recognise(c.f)
			best := ""
			if len(got) > 0 {
				best = got[0].Signature.ID
			}
			if best != c.want {
				t.Errorf("best is %q, want %q (all: %v)", best, c.want, ids(got))
			}
			for _, m := range got {
				if slices.Contains(c.not, m.Signature.Class) {
					t.Errorf("recognised as %s because of %q", m.Signature.ID, m.Evidence)
				}
			}
		})
	}
}

// example makes a string that the glob matches.
func example(pattern string) string { return strings.ReplaceAll(pattern, "*", "x") }

// factsOf invents facts that satisfy exactly one alternative of each field.
func factsOf(c Clause, pick int) Facts {
	at := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return list[min(pick, len(list)-1)]
	}
	f := Facts{Part: example(at(c.Parts)), Name: example(at(c.Names)), Ports: c.Ports}
	if k := at(c.Kinds); k != "" {
		f.Group, f.Kind, _ = strings.Cut(k, "/")
	}
	if i := at(c.Images); i != "" {
		f.Images = []string{"registry.example:5000/" + example(i)}
	}
	if p := at(c.Commands); p != "" {
		f.Commands = strings.Fields(example(p))
	}
	for _, l := range c.Labels {
		if f.Labels == nil {
			f.Labels = map[string]string{}
		}
		f.Labels[l.Key] = example(l.Value)
	}
	return f
}

func TestEverySignatureRecognisesItselfFirst(t *testing.T) {
	for _, s := range Builtin().signatures {
		for i, c := range s.Match {
			n := max(len(c.Kinds), len(c.Parts), len(c.Images), len(c.Commands), len(c.Names), 1)
			for pick := range n {
				got := Builtin().Recognise(factsOf(c, pick))
				if len(got) == 0 || got[0].Signature.ID != s.ID {
					t.Errorf("%s clause %d pick %d: got %v for %+v", s.ID, i, pick, ids(got), factsOf(c, pick))
				}
			}
		}
	}
}

func TestBuiltinIsSortedAndComplete(t *testing.T) {
	all := Builtin().signatures
	if len(all) < 90 {
		t.Errorf("%d signatures, want at least 90", len(all))
	}
	used := map[Class]bool{}
	for i, s := range all {
		used[s.Class] = true
		if i > 0 && cmp.Or(cmp.Compare(all[i-1].Class, s.Class), cmp.Compare(all[i-1].ID, s.ID)) >= 0 {
			t.Errorf("%s: %s stands after %s; sort by class, then id", s.At, s.ID, all[i-1].ID)
		}
	}
	for _, c := range Classes() {
		if !used[c] {
			t.Errorf("no signature has class %s", c)
		}
	}
	if !slices.IsSorted(Builtin().sidecars) {
		t.Error("sidecars are not sorted")
	}
}

func TestEvidenceIsAFragmentStrongestFirst(t *testing.T) {
	got := Builtin().Recognise(Facts{
		Group: "ray.io/v1", Kind: "RayService", Part: "head", Ports: []int{8265},
		Labels: map[string]string{"ray.io/node-type": "head", "ray.io/originated-from-crd": "RayService"},
	})
	want := "kind ray.io/RayService, label ray.io/node-type=head, label ray.io/originated-from-crd=RayService, part head, port 8265"
	if e := strings.Join(got[0].Evidence, ", "); e != want {
		t.Errorf("got  %s\nwant %s", e, want)
	}
}

func TestExtendReplacesAndAdds(t *testing.T) {
	more, err := Parse("mine.yaml", []byte(`
sidecars: [corp/agent]
signatures:
  - {id: vllm, title: Ours, class: inference-server, zone: serving, match: [{images: [corp/llm]}], reference: "https://corp.example/"}
  - {id: corp-db, title: Corp DB, class: database, zone: data, match: [{images: [corp/db]}], reference: "https://corp.example/"}
`))
	if err != nil {
		t.Fatal(err)
	}
	both := Builtin().Extend(more)
	if n, want := len(both.signatures), len(Builtin().signatures)+1; n != want {
		t.Errorf("%d signatures, want %d", n, want)
	}
	for image, want := range map[string]string{"corp/llm": "vllm", "corp/db": "corp-db", "qdrant/qdrant": "qdrant"} {
		if got := both.Recognise(Facts{Images: []string{"corp/agent", image}}); len(got) == 0 || got[0].Signature.ID != want {
			t.Errorf("%s: got %v, want %s", image, ids(got), want)
		}
	}
	if got := both.Recognise(Facts{Images: []string{"vllm/vllm-openai"}}); len(got) != 0 {
		t.Errorf("the replaced entry still recognises: %v", ids(got))
	}
	if lookup(Builtin(), "vllm").Title != "vLLM" || lookup(both, "vllm").Title != "Ours" {
		t.Error("Extend changed a table that it was given")
	}
	var none *Table
	if none.Recognise(Facts{Name: "x"}) != nil || len(none.Extend(more).signatures) != 2 || len(more.Extend(nil).signatures) != 2 {
		t.Error("a nil table is not an empty one")
	}
}

func TestRecogniseIsDeterministicAndConcurrent(t *testing.T) {
	f := Facts{
		Images: []string{"redis:7", "qdrant/qdrant", "postgres:17", "minio/minio"},
		Labels: map[string]string{"a": "b", "ray.io/node-type": "head", "katib.kubeflow.org/component": "ui", "cnpg.io/cluster": "x"},
	}
	want := fmt.Sprint(ids(Builtin().Recognise(f)))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if got := fmt.Sprint(ids(Builtin().Recognise(f))); got != want {
					t.Errorf("got %s, want %s", got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkRecognise(b *testing.B) {
	facts := []Facts{
		{Group: "apps", Kind: "Deployment", Name: "web", Images: []string{"corp/web:1", "gcr.io/istio-release/proxyv2:1.29.1"}, Ports: []int{8080}, Labels: map[string]string{"app": "web", "app.kubernetes.io/name": "web"}},
		{Group: "apps", Kind: "Deployment", Name: "llm", Images: []string{"vllm/vllm-openai:v1"}, Commands: []string{"bash", "-c", "vllm serve m --port 8000"}, Ports: []int{8000}, Labels: map[string]string{"app": "llm"}},
		{Group: "ray.io", Kind: "RayCluster", Name: "r", Part: "head", Images: []string{"rayproject/ray:2"}, Ports: []int{6379, 8265, 10001}},
		{Group: "batch", Kind: "Job", Name: "train", Images: []string{"pytorch/pytorch:2"}, Commands: []string{"torchrun", "train.py"}},
	}
	t := Builtin()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		t.Recognise(facts[i%len(facts)])
	}
}

func lookup(t *Table, id string) *Signature {
	i := slices.IndexFunc(t.signatures, func(s *Signature) bool { return s.ID == id })
	if i < 0 {
		return &Signature{}
	}
	return t.signatures[i]
}
