package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
	"bulkhead/target/targettest"
)

func TestNetworkPolicyIsWhatIsDeclared(t *testing.T) {
	targettest.Run(t, targettest.Suite{
		Target: New(), Bind: drawBindings, Estate: drawEstate, Resolvers: []string{"kubernetes", "openshift"},
		Widens:     widens(limitGatewayNames, limitBlockPods, limitNodeLocal),
		Everywhere: localNode,
		Examples:   limitExamples,
	})
}

func TestClusterNetworkPolicyIsWhatIsDeclared(t *testing.T) {
	targettest.Run(t, targettest.Suite{
		Target: NewAdmin(), Bind: drawBindings, Estate: drawEstate, Resolvers: []string{"kubernetes", "openshift"},
		Widens:     widens(limitBlockHosts, limitNodeLocal),
		Everywhere: outsideIngress,
		Examples:   limitExamples,
	})
}

// widens says where the limits open places that are not declared.
func widens(limits ...target.Limit) map[string]func(*policy.Permission, targettest.Place) bool {
	inside := func(p *policy.Permission, at targettest.Place) bool {
		return !at.Outside() && at.Endpoint.Addrs.Overlaps(p.Addrs)
	}
	all := map[string]func(*policy.Permission, targettest.Place) bool{
		limitBlockPods.ID: inside,
		limitBlockHosts.ID: func(p *policy.Permission, at targettest.Place) bool {
			return inside(p, at) && at.Endpoint.EndOf() != network.EndOwn
		},
		limitGatewayNames.ID: func(_ *policy.Permission, at targettest.Place) bool {
			return at.Domain != "" || at.Outside() && netset.PublicAddrs().Contains(at.Addr)
		},
		limitNodeLocal.ID: func(_ *policy.Permission, at targettest.Place) bool {
			return at.Outside() && at.Addr == nodeLocalDNS
		},
	}
	out := map[string]func(*policy.Permission, targettest.Place) bool{}
	for _, l := range limits {
		out[l.ID] = all[l.ID]
	}
	return out
}

// localNode covers what may come from a pod's own machine.
func localNode(limit string, from, _ targettest.Place) bool {
	return limit == limitLocalNode.ID && !from.Outside() && from.Endpoint.EndOf()&hostEnds != 0
}

// outsideIngress covers what comes from anything but a pod with an address of
// its own.
func outsideIngress(limit string, from, _ targettest.Place) bool {
	return limit == limitOutsideIngress.ID && (from.Outside() || from.Endpoint.EndOf() != network.EndOwn)
}

// both is the two targets applied together: what one cannot express the other
// can, so that only what neither can is left.
type both struct{ Target }

func (both) Limits() []target.Limit {
	return append(append([]target.Limit(nil), commonLimits...), limitLocalNode, limitHosts, limitControlPlane, limitBlockPods, limitBlockHosts)
}

func (both) Compile(in *policy.Intent) target.Output {
	a, b := New().Compile(in), NewAdmin().Compile(in)
	out := target.Output{Files: append(a.Files, b.Files...)}
	for _, r := range a.Residue {
		// Names are accepted by the administrator's policies and denied by no
		// other, and the gateway's are narrowed to them.
		if r.Limit != limitNames.ID && r.Limit != limitGatewayNames.ID {
			out.Residue = append(out.Residue, r)
		}
	}
	for _, r := range b.Residue {
		if (r.Limit == limitRequests.ID || r.Limit == limitRate.ID) && !slices.Contains(out.Residue, r) {
			out.Residue = append(out.Residue, r) // of a name, which the first leaves out
		}
	}
	return out
}

func TestBothTogetherAreWhatIsDeclared(t *testing.T) {
	rapid.Check(t, targettest.Suite{
		Target: both{}, Bind: drawBindings, Estate: drawEstate, Resolvers: []string{"kubernetes", "openshift"},
		Widens: widens(limitBlockPods, limitNodeLocal), Everywhere: localNode,
	}.CheckRandom)
}

func text(s string) policy.Text { return policy.Text{Value: s} }

func bindField(key, value string) policy.Field {
	return policy.Field{Key: text(key), Text: text(value)}
}

func labelField(pairs ...string) policy.Field {
	f := policy.Field{Key: text("labels")}
	for i := 0; i < len(pairs); i += 2 {
		f.Map = append(f.Map, bindField(pairs[i], pairs[i+1]))
	}
	return f
}

// awkward are values of labels that a careless writer changes.
var awkward = []string{"yes", "on", "null", "1e3", "0x1F", "1.0", "007", "2026-01-01", "", "A_b.c-d", strings.Repeat("v", 63)}

// drawBindings binds each workload in one to two places, in few namespaces so
// that they meet. Some bindings say more than labels, some overlap, and some
// cannot be used.
func drawBindings(t *rapid.T, p *policy.Policy) {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		for n := range rapid.IntRange(0, 8).Draw(t, "bindings")%3 + 1 {
			if n == 2 {
				break // one binding twice as often as two
			}
			ns := rapid.SampledFrom([]string{"team-a", "team-b", "on", "default"}).Draw(t, "namespace")
			fields := []policy.Field{bindField("namespace", ns)}
			switch rapid.IntRange(0, 14).Draw(t, "kind") {
			case 0:
				fields = append(fields, labelField("app", fmt.Sprintf("w%d", i)), bindField("serviceAccount", "robot"))
			case 1:
				fields = append(fields, labelField("app", fmt.Sprintf("w%d", i)), bindField("workload", "Deployment/"+deploymentName(i, n)))
			case 2:
				fields = append(fields, bindField("serviceAccount", fmt.Sprintf("robot-%d", i)))
			case 3:
				fields = append(fields, labelField("app", "shared"))
			case 4:
				fields = append(fields, labelField("app", "shared", "role", fmt.Sprintf("r%d", i)))
			case 5:
				fields = append(fields, labelField("app", "bad\nvalue"))
			case 6:
				continue
			case 7:
				fields = []policy.Field{bindField("namespace", "../../etc"), labelField("app", "x")}
			default:
				fields = append(fields, labelField("app", fmt.Sprintf("w%d", i), "example.com/v", rapid.SampledFrom(awkward).Draw(t, "value")))
			}
			w.Bindings = append(w.Bindings, policy.Binding{Target: text("kubernetes"), Fields: fields})
		}
	}
}

func deploymentName(workload, binding int) string { return fmt.Sprintf("w%d-%d", workload, binding) }

// estate collects objects and what they are.
type estate struct {
	t    *rapid.T
	docs []yamltext.Node
	out  targettest.Estate
	ips  int
	// labels are those of each of out.Deployed.
	labels []deployedLabels
}

// drawEstate deploys something for every binding, in an object of its own, and
// what the policy does not know: pods in the same namespaces, pods elsewhere
// with a workload's labels, and pods with them under another service account.
func drawEstate(t *rapid.T, in *policy.Intent) targettest.Estate {
	e := &estate{t: t}
	e.out.Options.Workloads = netset.MustAddrs("10.244.0.0/16")
	for i := range in.Policy.Workloads {
		w := &in.Policy.Workloads[i]
		for n, b := range w.Bindings {
			pred, ds := New().Bind(b)
			if ds.HasErrors() || pred.ScopeName == "../../etc" {
				continue
			}
			labels, account, selectable := map[string]string{"pod": "p"}, "default", len(pred.Attributes) == 0
			for _, r := range pred.Attributes {
				switch r.Key {
				case ServiceAccountAttribute:
					account = r.Values[0]
				case WorkloadAttribute:
				default:
					labels[r.Key] = r.Values[0]
					selectable = true
				}
			}
			is := policy.Party{Kind: policy.WorkloadParty, Name: w.Name.Value}
			e.add(pred.ScopeName, deploymentName(i, n), labels, account, is, false)
			e.out.Deployed[len(e.out.Deployed)-1].Unselectable = !selectable
			if rapid.Bool().Draw(t, "twin") {
				e.add("elsewhere", fmt.Sprintf("twin-%d-%d", i, n), labels, account, policy.Party{}, false)
			}
			if len(pred.Attributes) > 0 && account == "robot" {
				e.add(pred.ScopeName, fmt.Sprintf("impostor-%d-%d", i, n), labels, "other", policy.Party{}, false)
			}
		}
	}
	for _, ns := range []string{"team-a", "elsewhere"} {
		e.add(ns, "bystander", map[string]string{"app": "bystander"}, "default", policy.Party{}, false)
		e.add(ns, "agent", map[string]string{"app": "agent"}, "default", policy.Party{}, true)
	}
	for _, ns := range []string{"team-a", "team-b", "kube-system"} {
		e.addOpen(ns)
	}
	e.add("kube-system", "coredns", map[string]string{"k8s-app": "kube-dns"}, "coredns", policy.Party{Kind: policy.ResolverParty, Name: "kubernetes"}, false)
	e.add("openshift-dns", "dns-default", map[string]string{"dns.operator.openshift.io/daemonset-dns": "default"}, "dns",
		policy.Party{Kind: policy.ResolverParty, Name: "openshift"}, false)
	e.likenesses(in)
	e.out.Files = []target.File{{Path: "estate.yaml", Data: yamltext.Documents(e.docs...)}}
	return e.out
}

// addOpen deploys something that its owner opened to everyone and everything,
// so that what it is denied, the other side alone denies.
func (e *estate) addOpen(ns string) {
	labels := map[string]string{"app": "open"}
	e.add(ns, "open", labels, "default", policy.Party{}, false)
	everything := yamltext.List(yamltext.Map())
	e.docs = append(e.docs, yamltext.Map(
		yamltext.At("apiVersion", yamltext.String("networking.k8s.io/v1")), yamltext.At("kind", yamltext.String("NetworkPolicy")),
		yamltext.At("metadata", yamltext.Map(yamltext.At("namespace", yamltext.String(ns)), yamltext.At("name", yamltext.String("open")))),
		yamltext.At("spec", yamltext.Map(
			yamltext.At("podSelector", yamltext.Map(yamltext.At("matchLabels", yamltext.Map(yamltext.At("app", yamltext.String("open")))))),
			yamltext.At("policyTypes", yamltext.Strings("Ingress", "Egress")),
			yamltext.At("ingress", everything), yamltext.At("egress", everything)))))
}

// add deploys something, as a Deployment or as a Pod whose address is known.
func (e *estate) add(ns, name string, labels map[string]string, account string, is policy.Party, hostNetwork bool) {
	var pairs []yamltext.Entry
	for _, k := range sortedKeys(labels) {
		pairs = append(pairs, yamltext.At(k, yamltext.String(labels[k])))
	}
	spec := []yamltext.Entry{
		yamltext.At("serviceAccountName", yamltext.String(account)),
		yamltext.At("containers", yamltext.List(yamltext.Map(yamltext.At("name", yamltext.String("c")), yamltext.At("image", yamltext.String("i"))))),
	}
	if hostNetwork {
		spec = append(spec, yamltext.At("hostNetwork", yamltext.Bool(true)))
	}
	meta := yamltext.Map(yamltext.At("namespace", yamltext.String(ns)), yamltext.At("name", yamltext.String(name)))
	kind := "Deployment"
	if !hostNetwork && is.Kind == policy.WorkloadParty && rapid.Bool().Draw(e.t, "pod") {
		kind = "Pod"
		e.ips++
		meta = yamltext.Map(yamltext.At("namespace", yamltext.String(ns)), yamltext.At("name", yamltext.String(name)), yamltext.At("labels", yamltext.Map(pairs...)))
		ip := fmt.Sprintf("10.244.%d.%d", rapid.IntRange(0, 5).Draw(e.t, "subnet"), e.ips)
		e.docs = append(e.docs, yamltext.Map(
			yamltext.At("apiVersion", yamltext.String("v1")), yamltext.At("kind", yamltext.String(kind)), yamltext.At("metadata", meta),
			yamltext.At("spec", yamltext.Map(spec...)),
			yamltext.At("status", yamltext.Map(yamltext.At("podIP", yamltext.String(ip))))))
	} else {
		template := yamltext.Map(yamltext.At("metadata", yamltext.Map(yamltext.At("labels", yamltext.Map(pairs...)))), yamltext.At("spec", yamltext.Map(spec...)))
		e.docs = append(e.docs, yamltext.Map(
			yamltext.At("apiVersion", yamltext.String("apps/v1")), yamltext.At("kind", yamltext.String(kind)), yamltext.At("metadata", meta),
			yamltext.At("spec", yamltext.Map(
				yamltext.At("selector", yamltext.Map(yamltext.At("matchLabels", yamltext.Map(pairs...)))), yamltext.At("template", template)))))
	}
	e.out.Deployed = append(e.out.Deployed, targettest.Deployed{Name: ns + "/" + kind + "/" + name, Is: is})
	e.labels = append(e.labels, deployedLabels{ns, labels})
}

type deployedLabels struct {
	namespace string
	labels    map[string]string
}

// likenesses finds what has the labels of a workload that it is not.
func (e *estate) likenesses(in *policy.Intent) {
	for i := range e.out.Deployed {
		d := &e.out.Deployed[i]
		for j := range in.Policy.Workloads {
			w := &in.Policy.Workloads[j]
			for _, b := range w.Bindings {
				pred, ds := New().Bind(b)
				if ds.HasErrors() || pred.ScopeName != e.labels[i].namespace || w.Name.Value == d.Is.Name {
					continue
				}
				var s network.Selector
				for _, r := range pred.Attributes {
					if !strings.HasPrefix(r.Key, "\x00") {
						s = append(s, r)
					}
				}
				if len(s) > 0 && s.Match(e.labels[i].labels) == network.Yes {
					d.Like = append(d.Like, w.Name.Value)
				}
			}
		}
	}
}
