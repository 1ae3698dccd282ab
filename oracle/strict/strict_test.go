// Package strict reads everything that bulkhead compiles for Kubernetes as an
// API server does: no unknown field, and every rule of the API holds. The rules
// of ClusterNetworkPolicy are those of the definition that network-policy-api
// ships, CEL included; those of NetworkPolicy are restated here with the checks
// of apimachinery.
package strict

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"bulkhead/core/policy"
	"bulkhead/policyfile"
	"bulkhead/target"
	"bulkhead/target/kubernetes"
	"bulkhead/target/targettest"
)

var now = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

// server is the API server that judges.
type server struct {
	channels map[string]*crd
	// seen counts objects by kind.
	seen map[string]int
}

func newServer(t *testing.T) *server {
	return &server{seen: map[string]int{}, channels: map[string]*crd{
		"standard": clusterNetworkPolicy(t, "standard"), "experimental": clusterNetworkPolicy(t, "experimental"),
	}}
}

// judge reads all files of an output and returns what is wrong with them.
// Names of domains and named ports are in the experimental channel only.
func (s *server) judge(out target.Output) []string {
	var wrong []string
	names := map[string]bool{}
	for _, f := range out.Files {
		for i, doc := range bytes.Split(f.Data, []byte("\n---\n")) {
			bad := func(format string, args ...any) {
				wrong = append(wrong, fmt.Sprintf("%s object %d: %s", f.Path, i+1, fmt.Sprintf(format, args...)))
			}
			var head metav1.PartialObjectMetadata
			if err := yaml.Unmarshal(doc, &head); err != nil {
				bad("%v", err)
				continue
			}
			if id := head.Kind + " " + head.Namespace + "/" + head.Name; names[id] {
				bad("%s is there twice", id)
			} else {
				names[id] = true
			}
			s.seen[head.Kind]++
			switch head.APIVersion + " " + head.Kind {
			case "networking.k8s.io/v1 NetworkPolicy":
				var p networkingv1.NetworkPolicy
				if err := yaml.UnmarshalStrict(doc, &p); err != nil {
					bad("%v", err)
					continue
				}
				for _, e := range networkPolicy(&p) {
					bad("%v", e)
				}
			case "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy":
				var p npav1alpha2.ClusterNetworkPolicy
				if err := yaml.UnmarshalStrict(doc, &p); err != nil {
					bad("%v", err)
					continue
				}
				for _, e := range apivalidation.ValidateObjectMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata")) {
					bad("%v", e)
				}
				channel := "standard"
				if bytes.Contains(doc, []byte("domainNames:")) || bytes.Contains(doc, []byte("destinationNamedPort:")) || bytes.Contains(doc, []byte("nodes:")) {
					channel = "experimental"
				}
				o, err := object(doc)
				if err != nil {
					bad("%v", err)
					continue
				}
				for _, e := range s.channels[channel].errors(o) {
					bad("%s (channel %s)", e, channel)
				}
			default:
				bad("%s %s is no policy", head.APIVersion, head.Kind)
			}
		}
	}
	return wrong
}

// object reads a document as an API server does, which knows whole numbers.
func object(doc []byte) (o map[string]any, err error) {
	text, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, err
	}
	return o, json.Unmarshal(text, &o)
}

// networkPolicy checks what an API server checks of a NetworkPolicy that is
// created.
func networkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	for _, msg := range validation.IsDNS1123Label(p.Namespace) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "namespace"), p.Namespace, msg))
	}
	spec := field.NewPath("spec")
	errs = append(errs, selector(&p.Spec.PodSelector, spec.Child("podSelector"))...)
	seen := map[networkingv1.PolicyType]bool{}
	for i, t := range p.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress || seen[t] {
			errs = append(errs, field.Invalid(spec.Child("policyTypes").Index(i), t, "unknown or repeated"))
		}
		seen[t] = true
	}
	if len(p.Spec.PolicyTypes) == 0 {
		errs = append(errs, field.Required(spec.Child("policyTypes"), "the default depends on the rules"))
	}
	rule := func(at *field.Path, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, key string) {
		for i := range ports {
			errs = append(errs, policyPort(&ports[i], at.Child("ports").Index(i))...)
		}
		for i := range peers {
			errs = append(errs, policyPeer(&peers[i], at.Child(key).Index(i))...)
		}
	}
	for i, r := range p.Spec.Ingress {
		rule(spec.Child("ingress").Index(i), r.Ports, r.From, "from")
	}
	for i, r := range p.Spec.Egress {
		rule(spec.Child("egress").Index(i), r.Ports, r.To, "to")
	}
	return errs
}

func selector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)
}

func policyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) (errs field.ErrorList) {
	if p.Protocol == nil || *p.Protocol != "TCP" && *p.Protocol != "UDP" && *p.Protocol != "SCTP" {
		errs = append(errs, field.Invalid(at.Child("protocol"), p.Protocol, "not written, or unknown"))
	}
	invalid := func(key string, value any, msgs ...string) {
		for _, msg := range msgs {
			errs = append(errs, field.Invalid(at.Child(key), value, msg))
		}
	}
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			invalid("endPort", *p.EndPort, "needs a port")
		}
	case p.Port.Type == intstr.String:
		invalid("port", p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal)...)
		if p.EndPort != nil {
			invalid("endPort", *p.EndPort, "needs a number")
		}
	default:
		invalid("port", p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal))...)
		if p.EndPort != nil {
			invalid("endPort", *p.EndPort, validation.IsValidPortNum(int(*p.EndPort))...)
			if *p.EndPort < p.Port.IntVal {
				invalid("endPort", *p.EndPort, "is lower than the port")
			}
		}
	}
	return errs
}

func policyPeer(p *networkingv1.NetworkPolicyPeer, at *field.Path) (errs field.ErrorList) {
	if p.PodSelector != nil {
		errs = append(errs, selector(p.PodSelector, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, selector(p.NamespaceSelector, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock == nil {
		if p.PodSelector == nil && p.NamespaceSelector == nil {
			errs = append(errs, field.Required(at, "must specify a peer"))
		}
		return errs
	}
	if p.PodSelector != nil || p.NamespaceSelector != nil {
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	whole, err := netip.ParsePrefix(p.IPBlock.CIDR)
	if err != nil || whole != whole.Masked() {
		return append(errs, field.Invalid(at.Child("ipBlock", "cidr"), p.IPBlock.CIDR, "is not a canonical CIDR"))
	}
	for i, text := range p.IPBlock.Except {
		e, err := netip.ParsePrefix(text)
		if err != nil || e != e.Masked() || !whole.Contains(e.Addr()) || e.Bits() <= whole.Bits() {
			errs = append(errs, field.Invalid(at.Child("ipBlock", "except").Index(i), text, "is not a strict subset of cidr"))
		}
	}
	return errs
}

// targets are those that compile for Kubernetes' own kinds of policies.
var targets = []target.Limited{kubernetes.New(), kubernetes.NewAdmin()}

func compile(t *testing.T, s *server, what string, p *policy.Policy) {
	t.Helper()
	in, ds := policy.Resolve(p, now)
	if ds.HasErrors() {
		t.Fatalf("%s: %v", what, ds)
	}
	for _, tg := range targets {
		out := tg.Compile(in)
		if len(out.Files) == 0 {
			t.Errorf("%s: %s compiles to nothing", what, tg.Name())
		}
		report(t, what+", "+tg.Name(), s.judge(out))
	}
}

func report(t *testing.T, what string, wrong []string) {
	t.Helper()
	if len(wrong) > 0 {
		t.Errorf("%s: %d objections, the first of them:\n\t%s", what, len(wrong), strings.Join(wrong[:min(len(wrong), 5)], "\n\t"))
	}
}

// TestExamplesAreAccepted compiles every example platform.
func TestExamplesAreAccepted(t *testing.T) {
	s := newServer(t)
	paths, err := filepath.Glob("../../examples/*/bulkhead.yaml")
	if err != nil || len(paths) == 0 {
		t.Skip("SKIPPED: there is no example platform")
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, ds := policyfile.Parse([]policyfile.File{{Name: path, Text: text}})
		if ds.HasErrors() {
			t.Fatal(ds)
		}
		compile(t, s, path, p)
	}
	t.Logf("%d examples, %v", len(paths), s.seen)
}

// TestLargePoliciesAreAccepted compiles policies that meet every limit on the
// number of rules, peers, ports, blocks and names, and the length of a name.
func TestLargePoliciesAreAccepted(t *testing.T) {
	s := newServer(t)
	compile(t, s, "many of everything", large(30, strings.Repeat))
	compile(t, s, "odd names", large(3, func(string, int) string { return "Ünï_cødé. -" + strings.Repeat("x", 300) }))
	t.Logf("%v", s.seen)
}

// TestRandomPoliciesAreAccepted compiles the random policies of targettest.
func TestRandomPoliciesAreAccepted(t *testing.T) {
	s := newServer(t)
	compiled := 0
	for _, tg := range targets {
		t.Run(tg.Name(), func(t *testing.T) {
			rapid.Check(t, func(r *rapid.T) {
				targettest.Suite{
					Target: judged{tg, r, s, &compiled}, Bind: bind, Resolvers: []string{"kubernetes", "openshift"},
					Estate: func(*rapid.T, *policy.Intent) targettest.Estate { return targettest.Estate{} },
				}.CheckRandom(r)
			})
		})
	}
	t.Logf("%d policies, %v", compiled, s.seen)
}

// TestServerObjects makes sure that the server says no to what is wrong.
func TestServerObjects(t *testing.T) {
	s := newServer(t)
	admin := func(spec string) string {
		return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, " + spec + "}\n"
	}
	plain := func(spec string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: n}\nspec: {podSelector: {}, policyTypes: [Egress], egress: [" + spec + "]}\n"
	}
	for object, want := range map[string]string{
		admin("egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]"):                                                             "",
		admin("egress: [{action: Deny, to: [{networks: [10.0.0.0]}]}]"):                                                               "Invalid CIDR",
		admin("egress: [{action: Deny, to: [{network: [10.0.0.0/8]}]}]"):                                                              "unknown field",
		admin("egress: [{action: Allow, to: [{namespaces: {}}]}]"):                                                                    "Unsupported value",
		admin("egress: [{action: Deny, to: [" + strings.Repeat("{namespaces: {}}, ", 26) + "]}]"):                                     "must have at most 25 items",
		admin("egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: web}]}]"):                   "cannot be set with namedPorts",
		admin("egress: [{action: Pass, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 2, end: 1}}}}]}]"): "Start port must be less than End port",
		plain("{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}"):                                                                                "",
		plain("{to: [{ipBlock: {cidr: 10.0.0.1/8}}]}"):                                                                                "canonical CIDR",
		plain("{to: [{}]}"): "must specify a peer",
		plain("{ports: [{protocol: TCP, port: a-name-that-is-too-long}]}"): "no more than 15",
		plain("{toPorts: []}"): "unknown field",
	} {
		got := strings.Join(s.judge(target.Output{Files: []target.File{{Path: "f", Data: []byte(object)}}}), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", object, got, want)
		}
	}
}
