package app

import (
	"os"
	"testing"
	"time"

	"bulkhead/core/network"
	"bulkhead/recognise"
)

// TestEveryRealWorkloadIsNamed: what the workloads of real platforms are, by
// name and part; an empty title is one that is no component of AI platforms,
// or that nothing but a name speaks for.
func TestEveryRealWorkloadIsNamed(t *testing.T) {
	for input, want := range map[string]map[string]string{
		"../../shared/inputs/kubeflow/install.yaml": {
			"auth/Deployment/dex":                                            "Dex identity provider",
			"cert-manager/Deployment/cert-manager":                           "",
			"cert-manager/Deployment/cert-manager-cainjector":                "",
			"cert-manager/Deployment/cert-manager-webhook":                   "",
			"istio-system/Deployment/cluster-local-gateway":                  "Istio gateway",
			"istio-system/Deployment/istio-ingressgateway":                   "Istio gateway",
			"istio-system/Deployment/istiod":                                 "",
			"knative-serving/Deployment/activator":                           "Knative activator",
			"knative-serving/Deployment/autoscaler":                          "",
			"knative-serving/Deployment/controller":                          "",
			"knative-serving/Deployment/net-istio-controller":                "",
			"knative-serving/Deployment/net-istio-webhook":                   "",
			"knative-serving/Deployment/webhook":                             "",
			"kubeflow-system/Deployment/kubeflow-trainer-controller-manager": "Kubeflow training operator",
			"kubeflow/Deployment/admission-webhook-deployment":               "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/cache-server":                               "Kubeflow Pipelines",
			"kubeflow/Deployment/centraldashboard":                           "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/jupyter-web-app-deployment":                 "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/katib-controller":                           "Katib",
			"kubeflow/Deployment/katib-db-manager":                           "Katib",
			"kubeflow/Deployment/katib-mysql":                                "MySQL or MariaDB",
			"kubeflow/Deployment/katib-ui":                                   "Katib",
			"kubeflow/Deployment/kserve-controller-manager":                  "KServe controller",
			"kubeflow/Deployment/kserve-localmodel-controller-manager":       "KServe local model cache",
			"kubeflow/Deployment/kserve-models-web-application":              "KServe models web application",
			"kubeflow/Deployment/kubeflow-pipelines-profile-controller":      "Kubeflow Pipelines",
			"kubeflow/Deployment/llmisvc-controller-manager":                 "KServe controller",
			"kubeflow/Deployment/metadata-envoy-deployment":                  "ML metadata store",
			"kubeflow/Deployment/metadata-grpc-deployment":                   "ML metadata store",
			"kubeflow/Deployment/metadata-writer":                            "Kubeflow Pipelines",
			"kubeflow/Deployment/ml-pipeline":                                "Kubeflow Pipelines",
			"kubeflow/Deployment/ml-pipeline-persistenceagent":               "Kubeflow Pipelines",
			"kubeflow/Deployment/ml-pipeline-scheduledworkflow":              "Kubeflow Pipelines",
			"kubeflow/Deployment/ml-pipeline-ui":                             "Kubeflow Pipelines",
			"kubeflow/Deployment/ml-pipeline-viewer-crd":                     "Kubeflow Pipelines",
			"kubeflow/Deployment/ml-pipeline-visualizationserver":            "Kubeflow Pipelines",
			"kubeflow/Deployment/mysql":                                      "MySQL or MariaDB",
			"kubeflow/Deployment/notebook-controller-deployment":             "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/profiles-deployment":                        "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/pvcviewer-controller-manager":               "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/seaweedfs":                                  "SeaweedFS",
			"kubeflow/Deployment/spark-operator-controller":                  "Spark operator",
			"kubeflow/Deployment/spark-operator-webhook":                     "Spark operator",
			"kubeflow/Deployment/tensorboard-controller-deployment":          "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/tensorboards-web-app-deployment":            "Kubeflow platform services (dashboard, notebooks, profiles)",
			"kubeflow/Deployment/volumes-web-app-deployment":                 "Kubeflow platform services (dashboard, notebooks, profiles)",
			"oauth2-proxy/Deployment/oauth2-proxy":                           "OAuth2 Proxy or another authenticating proxy",
			"kubeflow/StatefulSet/metacontroller":                            "Metacontroller",
			"kube-system/DaemonSet/istio-cni-node":                           "",
		},
		"../../shared/inputs/ai-on-eks": {
			"default/Deployment/genai-perf":                                      "NVIDIA Triton client (GenAI-Perf, Perf Analyzer)",
			"nim-service/NIMService/meta-llama3-8b-instruct":                     "NVIDIA NIM",
			"openai-webui/Deployment/open-webui[open-webui]":                     "Open WebUI",
			"gradio-llama2-inf2/Deployment/gradio-deployment":                    "Gradio app",
			"llama2/RayService/llama2[head]":                                     "Ray head node of a Serve application",
			"llama2/RayService/llama2[worker/inf2]":                              "Ray worker node of a Serve application",
			"llama3/RayService/llama3[head]":                                     "Ray head node of a Serve application",
			"llama3/RayService/llama3[worker/inf2]":                              "Ray worker node of a Serve application",
			"gradio-mistral7b-inf2/Deployment/gradio-deployment":                 "Gradio app",
			"mistral/RayService/mistral[head/mistral]":                           "Ray head node of a Serve application",
			"mistral/RayService/mistral[worker/inf2/mistral]":                    "Ray worker node of a Serve application",
			"mistral/RayService/mistral[head/mistral#2]":                         "Ray head node of a Serve application",
			"mistral/RayService/mistral[worker/inf2/mistral#2]":                  "Ray worker node of a Serve application",
			"default/Deployment/tritonserver-deployment":                         "NVIDIA Triton client (GenAI-Perf, Perf Analyzer)",
			"openai-webui/Deployment/open-webui[open-webui#2]":                   "Open WebUI",
			"stablediffusion/RayService/stablediffusion[head/stablediffusion]":   "Ray head node of a Serve application",
			"stablediffusion/RayService/stablediffusion[worker/gpu]":             "Ray worker node of a Serve application",
			"stablediffusion/RayService/stablediffusion[head/stablediffusion#2]": "Ray head node of a Serve application",
			"stablediffusion/RayService/stablediffusion[worker/inf2]":            "Ray worker node of a Serve application",
			"default/Deployment/gradio-llama-interface":                          "Gradio app",
			"default/LeaderWorkerSet/llama3-405b-lws[leader]":                    "vLLM leader of a leader-worker set",
			"default/LeaderWorkerSet/llama3-405b-lws[worker]":                    "vLLM worker of a leader-worker set",
			"open-webui/Deployment/open-webui":                                   "Open WebUI",
			"rayserve-vllm/RayService/vllm[head/vllm]":                           "Ray head node of a Serve application",
			"rayserve-vllm/RayService/vllm[worker/gpu-group/vllm]":               "Ray worker node of a Serve application",
			"rayserve-vllm/RayService/vllm[head/vllm#2]":                         "Ray head node of a Serve application",
			"rayserve-vllm/RayService/vllm[worker/gpu-group/vllm#2]":             "Ray worker node of a Serve application",
			"openai-webui/Deployment/open-webui[open-webui#3]":                   "Open WebUI",
			"vllm/RayService/vllm-llama3-inf2[head]":                             "Ray head node of a Serve application",
			"vllm/RayService/vllm-llama3-inf2[worker/inf2-group]":                "Ray worker node of a Serve application",
			"default/RayJob/llama2-generate-pretraining-test-data[submitter]":    "Ray job",
			"default/RayJob/llama2-precompilation-job[submitter]":                "Ray job",
			"default/RayJob/llama2-pretraining-job[submitter]":                   "Ray job",
			"default/RayCluster/kuberay-trn1[head]":                              "Ray head node",
			"default/RayCluster/kuberay-trn1[worker/workergroup]":                "Ray worker node",
			"nvidia-device-plugin/DaemonSet/dcgm-exporter":                       "NVIDIA DCGM exporter",
			"kube-system/DaemonSet/neuron-monitor":                               "AWS Neuron monitor",
			"default/PyTorchJob/esm1nv-pretraining[Worker]":                      "PyTorchJob worker",
			"default/Job/uniref50-download":                                      "NVIDIA BioNeMo or NeMo job",
			"default/PyTorchJob/esm2nv-training[Worker]":                         "PyTorchJob worker",
			"nvidia-smi-ns/Pod/nvidia-smi-al2-ca":                                "GPU test pod",
			"nvidia-smi-ns/Pod/nvidia-smi-al2-karpenter":                         "GPU test pod",
			"emr-ml-team-a/Pod/xgboost-mortgage-driver":                          "",
			"emr-ml-team-a/Pod/xgboost-mortgage-executor":                        "",
			"dogbooth-app/Deployment/streamlit-deployment":                       "Streamlit app",
			"dogbooth/RayService/dogbooth[head]":                                 "Ray head node of a Serve application",
			"dogbooth/RayService/dogbooth[worker/small-group]":                   "Ray worker node of a Serve application",
			"default/Deployment/time-slicing-verification":                       "GPU test pod",
			"jupyterhub/Deployment/verify-gpu":                                   "GPU test pod",
			"default/MPIJob/test-mpi-compile[Launcher]":                          "MPI launcher",
			"default/MPIJob/test-mpi-compile[Worker]":                            "MPI worker",
			"default/MPIJob/test-mpi-train[Launcher]":                            "MPI launcher",
			"default/MPIJob/test-mpi-train[Worker]":                              "MPI worker",
			"ml-team-a-ns/Job/trn1-mlp-job[default0/trn1-mlp-job]":               "Volcano job",
			"ml-team-a-ns/Job/trn1-mlp-job[default0/trn1-mlp-job#2]":             "Volcano job",
		},
	} {
		t.Run(input, func(t *testing.T) {
			if _, err := os.Stat(input); err != nil {
				t.Skipf("SKIPPED %s: it is not here; put the folder of real inputs beside the repository to run this", input)
			}
			e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
			est, _, err := e.Init(Input{Paths: []string{input}})
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for i := range est.Net.Endpoints {
				ep := &est.Net.Endpoints[i]
				if ep.Kind != network.Workload {
					continue
				}
				seen[ep.Name()] = true
				title := ""
				if matches := recognise.Builtin().Recognise(factsOf(ep)); len(matches) > 0 {
					title = matches[0].Signature.Title
				}
				if expected, ok := want[ep.Name()]; !ok || title != expected {
					t.Errorf("%s is %q, want %q", ep.Name(), title, expected)
				}
			}
			for name := range want {
				if !seen[name] {
					t.Errorf("%s is missing", name)
				}
			}
		})
	}
}
