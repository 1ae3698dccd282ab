package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/internal/yamldoc"
	"bulkhead/target"

	"bulkhead/core/network"
)

// inputs is the folder of real inputs, beside the repository and not a part
// of it.
const inputs = "../../../shared/inputs"

func input(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(inputs, name))
	if err != nil {
		t.Skipf("SKIPPED: the real inputs are not here: %v", err)
	}
	return string(text)
}

// aiOnEKS says, file by file as read by a person, which workloads with which
// parts there are and from where each Service and Ingress can be reached. No
// file says anything of its nginx: what publishes it is not in the input.
var aiOnEKS = []struct{ file, workloads, fronts string }{
	{"blueprints_inference_gpu_nvidia-nim-operator-llama3-8b_genaiperf-deploy.yaml", "default/Deployment/genai-perf", ""},
	{"blueprints_inference_gpu_nvidia-nim-operator-llama3-8b_nim-service-llama3-8b-instruct.yaml", "nim-service/NIMService/meta-llama3-8b-instruct", ""},
	{"blueprints_inference_gpu_nvidia-nim-operator-llama3-8b_openai-webui-deployment.yaml", "openai-webui/Deployment/open-webui", "Service openai-webui/open-webui: inside"},
	{"blueprints_inference_llama2-13b-chat-rayserve-inf2_gradio-ui.yaml", "gradio-llama2-inf2/Deployment/gradio-deployment", "Service gradio-llama2-inf2/gradio-service: inside"},
	{"blueprints_inference_llama2-13b-chat-rayserve-inf2_ray-service-llama2.yaml", "llama2/RayService/llama2[head] llama2/RayService/llama2[worker/inf2]", "Ingress llama2/llama2: unknown"},
	{"blueprints_inference_llama3-8b-instruct-rayserve-inf2_ray-service-llama3.yaml", "llama3/RayService/llama3[head] llama3/RayService/llama3[worker/inf2]", "Ingress llama3/llama3: unknown"},
	{"blueprints_inference_mistral-7b-rayserve-inf2_gradio-ui.yaml", "gradio-mistral7b-inf2/Deployment/gradio-deployment", "Service gradio-mistral7b-inf2/gradio-service: inside"},
	{"blueprints_inference_mistral-7b-rayserve-inf2_ray-service-mistral-ft.yaml", "mistral/RayService/mistral[head] mistral/RayService/mistral[worker/inf2]", "Ingress mistral/mistral: unknown"},
	{"blueprints_inference_mistral-7b-rayserve-inf2_ray-service-mistral.yaml", "mistral/RayService/mistral[head] mistral/RayService/mistral[worker/inf2]", "Ingress mistral/mistral: unknown"},
	{"blueprints_inference_nvidia-nim_genaiperf-deploy.yaml", "default/Deployment/tritonserver-deployment", ""},
	{"blueprints_inference_nvidia-nim_openai-webui-deployment.yaml", "openai-webui/Deployment/open-webui", "Service openai-webui/open-webui: inside"},
	{"blueprints_inference_stable-diffusion-rayserve-gpu_ray-serve-stablediffusion.yaml", "stablediffusion/RayService/stablediffusion[head] stablediffusion/RayService/stablediffusion[worker/gpu]", "Ingress stablediffusion/stablediffusion: unknown"},
	{"blueprints_inference_stable-diffusion-xl-base-rayserve-inf2_ray-service-stablediffusion.yaml", "stablediffusion/RayService/stablediffusion[head] stablediffusion/RayService/stablediffusion[worker/inf2]", "Ingress stablediffusion/stablediffusion: unknown"},
	{"blueprints_inference_vllm-llama3.1-405b-trn1_gradio-client.yaml", "default/Deployment/gradio-llama-interface", "Service default/gradio-llama-interface: inside"},
	{"blueprints_inference_vllm-llama3.1-405b-trn1_llama3-405b-vllm-lws-deployment.yaml", "default/LeaderWorkerSet/llama3-405b-lws[leader] default/LeaderWorkerSet/llama3-405b-lws[worker]", "Service default/vllm-leader: inside"},
	{"blueprints_inference_vllm-ray-gpu-deepseek_open-webui.yaml", "open-webui/Deployment/open-webui", "Service open-webui/open-webui: inside"},
	{"blueprints_inference_vllm-ray-gpu-deepseek_ray-vllm-deepseek.yml", "rayserve-vllm/RayService/vllm[head] rayserve-vllm/RayService/vllm[worker/gpu-group]", ""},
	{"blueprints_inference_vllm-rayserve-gpu_ray-service-vllm.yaml", "rayserve-vllm/RayService/vllm[head] rayserve-vllm/RayService/vllm[worker/gpu-group]", ""},
	{"blueprints_inference_vllm-rayserve-inf2_openai-webui-deployment.yaml", "openai-webui/Deployment/open-webui", "Service openai-webui/open-webui: inside"},
	{"blueprints_inference_vllm-rayserve-inf2_vllm-rayserve-deployment.yaml", "vllm/RayService/vllm-llama3-inf2[head] vllm/RayService/vllm-llama3-inf2[worker/inf2-group]", ""},
	{"blueprints_training_raytrain-llama2-pretrain-trn1_1-llama2-pretrain-trn1-rayjob-create-test-data.yaml", "default/RayJob/llama2-generate-pretraining-test-data[submitter]", ""},
	{"blueprints_training_raytrain-llama2-pretrain-trn1_2-llama2-pretrain-trn1-rayjob-precompilation.yaml", "default/RayJob/llama2-precompilation-job[submitter]", ""},
	{"blueprints_training_raytrain-llama2-pretrain-trn1_3-llama2-pretrain-trn1-rayjob.yaml", "default/RayJob/llama2-pretraining-job[submitter]", ""},
	{"blueprints_training_raytrain-llama2-pretrain-trn1_llama2-pretrain-trn1-raycluster.yaml", "default/RayCluster/kuberay-trn1[head] default/RayCluster/kuberay-trn1[worker/workergroup]", ""},
	{"infra_base_terraform_monitoring_dcgm-service.yaml", "", "Service nvidia-device-plugin/dcgm-exporter: inside"},
	{"infra_base_terraform_monitoring_dcgm.yaml", "nvidia-device-plugin/DaemonSet/dcgm-exporter", ""},
	{"infra_base_terraform_monitoring_neuron-monitor-daemonset.yaml", "kube-system/DaemonSet/neuron-monitor", ""},
	{"infra_base_terraform_monitoring_podMonitor.yaml", "", ""},
	{"infra_base_terraform_monitoring_serviceMonitor-dcgm.yaml", "", ""},
	{"infra_base_terraform_monitoring_serviceMonitor.yaml", "", ""},
	{"infra_bionemo_examples_esm1nv_esm1nv_pretrain-job.yaml", "default/PyTorchJob/esm1nv-pretraining[Worker]", ""},
	{"infra_bionemo_examples_esm1nv_uniref50-job.yaml", "default/Job/uniref50-download", ""},
	{"infra_bionemo_examples_esm2nv_esm2nv-training-job.yaml", "default/PyTorchJob/esm2nv-training[Worker]", ""},
	{"infra_emr-spark-rapids_examples_nvidia-smi-test_nvidia-smi-clusterautoscaler-test.yaml", "nvidia-smi-ns/Pod/nvidia-smi-al2-ca", ""},
	{"infra_emr-spark-rapids_examples_nvidia-smi-test_nvidia-smi-karpenter-test.yaml", "nvidia-smi-ns/Pod/nvidia-smi-al2-karpenter", ""},
	{"infra_emr-spark-rapids_examples_xgboost_driver-pod-template.yaml", "emr-ml-team-a/Pod/xgboost-mortgage-driver", ""},
	{"infra_emr-spark-rapids_examples_xgboost_executor-pod-template.yaml", "emr-ml-team-a/Pod/xgboost-mortgage-executor", ""},
	{"infra_jark-stack_src_app_streamlit.yaml", "dogbooth-app/Deployment/streamlit-deployment", "Service dogbooth-app/streamlit-service: inside; Ingress dogbooth-app/dogbooth-app: unknown"},
	{"infra_jark-stack_src_service_ray-service.yaml", "dogbooth/RayService/dogbooth[head] dogbooth/RayService/dogbooth[worker/small-group]", "Ingress dogbooth/dogbooth: unknown"},
	{"infra_jupyterhub_examples_test-pods_timeslicing-test.yaml", "default/Deployment/time-slicing-verification", ""},
	{"infra_jupyterhub_examples_test-pods_verify-gpu-access.yaml", "jupyterhub/Deployment/verify-gpu", ""},
	{"infra_trainium-inferentia_examples_llama2_example_manifests_llama_compile.yaml", "default/MPIJob/test-mpi-compile[Launcher] default/MPIJob/test-mpi-compile[Worker]", ""},
	{"infra_trainium-inferentia_examples_llama2_example_manifests_llama_train.yaml", "default/MPIJob/test-mpi-train[Launcher] default/MPIJob/test-mpi-train[Worker]", ""},
	{"infra_trainium-inferentia_examples_mlp_train_trn1-mlp-cluster-autoscaler.yaml", "ml-team-a-ns/Job/trn1-mlp-job[default0]", ""},
	{"infra_trainium-inferentia_examples_mlp_train_trn1-mlp-karpenter.yaml", "ml-team-a-ns/Job/trn1-mlp-job[default0]", ""},
}

func TestAIOnEKS(t *testing.T) {
	for _, c := range aiOnEKS {
		t.Run(c.file, func(t *testing.T) {
			w := load(t, "", input(t, "ai-on-eks/"+c.file)).clean()
			if got := strings.Join(w.names(), " "); got != c.workloads {
				t.Errorf("workloads: got %s, want %s", got, c.workloads)
			}
			var fronts []string
			for _, f := range w.n.Fronts {
				if !strings.Contains(f.Name, "(made for") {
					fronts = append(fronts, f.Name+": "+f.Reach.String())
				}
				if len(f.Routes) == 0 {
					t.Errorf("%s leads nowhere", f.Name)
				}
			}
			if got := strings.Join(fronts, "; "); got != c.fronts {
				t.Errorf("fronts: got %s, want %s", got, c.fronts)
			}
			if cov := w.n.Coverage; cov.Objects != cov.Understood || cov.Objects == 0 {
				t.Errorf("coverage %+v", cov)
			}
		})
	}
	// Every file of the folder is in the table.
	files, _ := filepath.Glob(filepath.Join(inputs, "ai-on-eks", "*.y*ml"))
	if len(files) > 0 && len(files) != len(aiOnEKS) {
		t.Errorf("%d files, and the table has %d", len(files), len(aiOnEKS))
	}
}

// TestKubeflow: a whole platform. Its README counts 48 workloads; there are
// 49, and one more with ambient, of three kinds.
func TestKubeflow(t *testing.T) {
	for _, c := range []struct {
		file      string
		workloads int
	}{{"install.yaml", 49}, {"install-ambient.yaml", 50}} {
		t.Run(c.file, func(t *testing.T) {
			im, _ := New().NewImporter(target.Options{})
			left := map[string]int{}
			for v, d := range yamldoc.Documents(c.file, []byte(input(t, "kubeflow/"+c.file)), yamldoc.ManifestLimits) {
				if d != nil {
					t.Fatal(d)
				}
				if !im.Add(target.Document{Value: v}) {
					group, _ := v.Get("apiVersion").Text()
					group, _, _ = strings.Cut(group, "/")
					left[group]++
				}
			}
			w := &world{t: t, n: &network.Network{}}
			w.ds = im.Finish(w.n)
			w.clean()
			if got := len(w.names()); got != c.workloads {
				t.Errorf("%d workloads, want %d", got, c.workloads)
			}
			services, hooks := 0, 0
			for _, f := range w.n.Fronts {
				switch {
				case strings.HasPrefix(f.Name, "Service "):
					services++
					if f.Reach != network.ReachInside {
						t.Errorf("%s: %s", f.Name, f.Reach)
					}
				case strings.Contains(f.Name, "WebhookConfiguration "):
					hooks++
				}
				if len(f.Routes) == 0 {
					t.Errorf("%s leads nowhere", f.Name)
				}
			}
			if services != 45 || hooks != 27 {
				t.Errorf("%d services and %d webhooks, want 45 and 27", services, hooks)
			}
			if got := len(w.n.Layers[0].Tables[network.Ingress][1].Isolates); got != 40 {
				t.Errorf("%d policies, want 40", got)
			}
			for group := range left {
				if !strings.HasSuffix(group, ".istio.io") {
					t.Errorf("objects of %s were left to others", group)
				}
			}
			// The one webhook that the policies as published shut out: no
			// policy names the controller of LLMInferenceServices.
			var shut []string
			for _, p := range w.analysis().Relayed() {
				if strings.Contains(p.Front.Name, "WebhookConfiguration ") && p.Allow.IsEmpty() {
					shut = append(shut, p.Front.Name)
				}
			}
			if got := strings.Join(shut, ", "); got != "ValidatingWebhookConfiguration llminferenceservice.serving.kserve.io" {
				t.Errorf("webhooks that the control plane does not reach: %s", got)
			}
			check(t, w, []verdict{
				{"istio-system/Deployment/istio-ingressgateway", "kubeflow/Deployment/centraldashboard", tcp, 8082, "allow"},
				{"knative-serving/Deployment/activator", "kubeflow/Deployment/mysql", tcp, 3306, "deny"},
				{"kubeflow/Deployment/ml-pipeline", "kubeflow/Deployment/mysql", tcp, 3306, "allow"},
				{"8.8.8.8", "kubeflow/Deployment/seaweedfs", tcp, 8333, "deny"},
			})
		})
	}
}
