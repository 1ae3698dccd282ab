package kubernetes

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/target/kube"
)

// bindingName is the name under which policies bind workloads, for both
// targets of the package.
const bindingName = "kubernetes"

// subject is the pods of one binding of a workload.
type subject struct {
	namespace string
	labels    network.Selector // empty for every pod of the namespace
}

// bind finds the subjects of every workload, and the namespaces to close.
func (p *plan) bind() {
	closed := map[string]bool{}
	for i := range p.in.Policy.Workloads {
		w := &p.in.Policy.Workloads[i]
		bindings := 0
		for j := range w.Bindings {
			if w.Bindings[j].Target.Value == bindingName {
				bindings++
				p.bindOne(w, w.Bindings[j], closed)
			}
		}
		if bindings == 0 {
			p.leave(limitUnbound.At(w.Name.Value, w.Name.Pos, "workload %s has no kubernetes binding: its permissions are left out", w.Name.Value))
		}
	}
	for ns := range closed {
		p.namespaces = append(p.namespaces, ns)
	}
	slices.Sort(p.namespaces)
}

// bindOne adds the subject of a binding. A binding that says more than labels
// is taken by its labels, and left out where it has none: the namespace is no
// stand-in for one workload of it.
func (p *plan) bindOne(w *policy.Workload, b policy.Binding, closed map[string]bool) {
	name := w.Name.Value
	pred, ds := Target{}.Bind(b)
	if err := cmp.Or(ds.Err(), checkPredicate(&pred)); err != nil {
		why := strings.ReplaceAll(err.Error(), "\n", "; ")
		p.leave(limitUnbound.At(name, b.Target.Pos, "workload %s: a kubernetes binding of it cannot be used (%s), so its permissions there are left out", name, why))
		return
	}
	closed[pred.ScopeName] = true
	s := subject{namespace: pred.ScopeName}
	account, object := "", ""
	for _, r := range pred.Attributes {
		switch r.Key {
		case ServiceAccountAttribute:
			account = r.Values[0]
		case WorkloadAttribute:
			object = r.Values[0]
		default:
			s.labels = append(s.labels, r)
		}
	}
	if len(s.labels) == 0 && account+object != "" {
		p.leave(limitNoLabels.At(name, b.Target.Pos, "workload %s is bound without labels, so its pods cannot be selected: its permissions there are left out", name))
		return
	}
	if account != "" {
		p.leave(limitServiceAccount.At(name, b.Target.Pos, "workload %s: every pod of namespace %s with %s is meant, not only those of service account %s", name, s.namespace, s.labels, account))
	}
	if object != "" {
		p.leave(limitWorkloadName.At(name, b.Target.Pos, "workload %s: every pod of namespace %s with %s is meant, not only those of %s", name, s.namespace, s.labels, object))
	}
	slices.SortFunc(s.labels, func(a, b network.Requirement) int { return strings.Compare(a.Key, b.Key) })
	if !slices.ContainsFunc(p.subjects[name], s.equal) {
		p.subjects[name] = append(p.subjects[name], s)
	}
}

func (s subject) equal(o subject) bool { return s.key() == o.key() }

func (s subject) key() string { return s.namespace + "\x00" + s.labels.String() }

// dnsLabel is RFC 1123's form of a label, which names of namespaces have.
// labelKey is the form of a label's key.
var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	labelKey = regexp.MustCompile(`^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
)

// checkPredicate refuses what the API server would: a policy that it does not
// accept protects nothing.
func checkPredicate(p *network.Predicate) error {
	if !dnsLabel.MatchString(p.ScopeName) {
		return fmt.Errorf("%q cannot be the name of a namespace", p.ScopeName)
	}
	values := map[string]string{}
	for _, r := range p.Attributes {
		if r.Op != network.In || len(r.Values) != 1 {
			return fmt.Errorf("%s is no plain value", r.Key)
		}
		if before, twice := values[r.Key]; twice && before != r.Values[0] {
			return fmt.Errorf("%s is given twice", strings.TrimPrefix(r.Key, "\x00"))
		}
		values[r.Key] = r.Values[0]
		if !strings.HasPrefix(r.Key, "\x00") && !labelKey.MatchString(r.Key) {
			return fmt.Errorf("%q cannot be the key of a label", r.Key)
		}
	}
	return nil
}

// findOverlaps reports workloads that may be bound to the same pod.
func (p *plan) findOverlaps() {
	type bound struct {
		w *policy.Workload
		s subject
	}
	byNamespace := map[string][]bound{}
	for i := range p.in.Policy.Workloads {
		w := &p.in.Policy.Workloads[i]
		for _, s := range p.subjects[w.Name.Value] {
			for _, o := range byNamespace[s.namespace] {
				if o.w != w && !exclusive(s.labels, o.s.labels) {
					p.overlap(w, s, o.w, o.s)
				}
			}
			byNamespace[s.namespace] = append(byNamespace[s.namespace], bound{w, s})
		}
	}
}

// exclusive reports whether no pod can have the labels of both.
func exclusive(a, b network.Selector) bool {
	for len(a) > 0 && len(b) > 0 {
		switch c := strings.Compare(a[0].Key, b[0].Key); {
		case c < 0:
			a = a[1:]
		case c > 0:
			b = b[1:]
		case a[0].Values[0] != b[0].Values[0]:
			return true
		default:
			a, b = a[1:], b[1:]
		}
	}
	return false
}

// overlap reports two workloads whose pods may be the same. The residue is
// named after the one whose permissions reach further than they should.
func (p *plan) overlap(w *policy.Workload, s subject, o *policy.Workload, other subject) {
	say := func(of, to *policy.Workload, a, b subject) {
		what := "may have"
		if len(a.labels) == len(matching(a.labels, b.labels)) {
			what = "has"
		}
		p.leave(limitOverlap.At(of.Name.Value, of.Name.Pos, "a pod of workload %s %s the labels of workload %s in namespace %s, and then may do what either may",
			to.Name.Value, what, of.Name.Value, a.namespace))
	}
	// Where the labels of one are among those of the other, only the pods of
	// the other are sure to be both.
	common := len(matching(s.labels, other.labels))
	if common < len(other.labels) || common == len(s.labels) {
		say(w, o, s, other)
	}
	if common < len(s.labels) || common == len(other.labels) {
		say(o, w, other, s)
	}
}

// matching returns the requirements that both selectors have.
func matching(a, b network.Selector) network.Selector {
	var out network.Selector
	for _, r := range a {
		if slices.ContainsFunc(b, func(o network.Requirement) bool { return o.Key == r.Key && o.Values[0] == r.Values[0] }) {
			out = append(out, r)
		}
	}
	return out
}

// peersOf returns a workload as a peer.
func (p *plan) peersOf(workload string) peerSet {
	var peers []peer
	for _, s := range p.subjects[workload] {
		peers = append(peers, peer{namespace: s.namespace, labels: s.labels})
	}
	return newPeerSet(peers)
}

// peersOfGroup returns the members of a group that live here.
func (p *plan) peersOfGroup(g *policy.Group) peerSet {
	if set, ok := p.groups[g]; ok {
		return set
	}
	var peers []peer
	p.eachBound(g, func(workload string) {
		for _, s := range p.subjects[workload] {
			peers = append(peers, peer{namespace: s.namespace, labels: s.labels})
		}
	})
	set := newPeerSet(compact(peers))
	p.groups[g] = set
	return set
}

// compact joins peers of a namespace that are told by the values of one label,
// so that a large zone is one peer and not hundreds.
func compact(peers []peer) []peer {
	type place struct{ namespace, key string }
	at := map[place]int{}
	var out []peer
	for _, q := range peers {
		if len(q.labels) != 1 {
			out = append(out, q)
			continue
		}
		r := q.labels[0]
		i, ok := at[place{q.namespace, r.Key}]
		if !ok {
			at[place{q.namespace, r.Key}] = len(out)
			r.Values = slices.Clone(r.Values)
			out = append(out, peer{namespace: q.namespace, labels: network.Selector{r}})
			continue
		}
		joined := &out[i].labels[0]
		joined.Values = append(joined.Values, r.Values...)
	}
	for i := range out {
		for j := range out[i].labels {
			slices.Sort(out[i].labels[j].Values)
			out[i].labels[j].Values = slices.Compact(out[i].labels[j].Values)
		}
	}
	return out
}

func newPeerSet(peers []peer) peerSet {
	var key strings.Builder
	out := peers[:0:0]
	seen := map[string]bool{}
	for _, q := range peers {
		k := fmt.Sprintf("%q %q %q %q", q.namespace, q.labels.String(), q.block.Key(), q.names)
		if !seen[k] {
			seen[k] = true
			key.WriteString(k + "\n")
			out = append(out, q)
		}
	}
	return peerSet{peers: out, key: key.String()}
}

func blockPeer(a netset.Addrs) peerSet { return newPeerSet([]peer{{block: a}}) }

func namesPeer(names []string) peerSet {
	names = slices.Clone(names)
	slices.Sort(names)
	return newPeerSet([]peer{{names: slices.Compact(names)}})
}

// nodeLocalDNS is where NodeLocal DNSCache answers, by the address that its
// documentation gives.
var nodeLocalDNS = netip.MustParseAddr("169.254.20.10")

// resolverPods says where the resolvers that policies know by name run. The
// labels are those of kubeadm and the clouds, and of OpenShift's DNS operator.
var resolverPods = map[string]subject{
	"kubernetes": {namespace: "kube-system", labels: network.Selector{equals("k8s-app", "kube-dns")}},
	"openshift":  {namespace: "openshift-dns", labels: network.Selector{equals("dns.operator.openshift.io/daemonset-dns", "default")}},
}

func resolverPeers(name string) peerSet {
	s, ok := resolverPods[name]
	if !ok {
		return peerSet{}
	}
	peers := []peer{{namespace: s.namespace, labels: s.labels}}
	if name == "kubernetes" {
		peers = append(peers, peer{block: netset.Addr(nodeLocalDNS)})
	}
	return newPeerSet(peers)
}

// Resolver says what a resolver of [policy.Resolvers] is: endpoints, and
// addresses of no endpoint at which it may answer as well.
func (Target) Resolver(name string) (network.Predicate, bool) {
	s, ok := resolverPods[name]
	p := network.Predicate{Endpoints: true, Kinds: podEnds, ScopeName: s.namespace, Attributes: s.labels, AddrsOutsideOnly: true}
	for _, q := range resolverPeers(name).peers {
		p.Addrs = p.Addrs.Union(q.block)
	}
	return p, ok
}

// namespaceSelector selects namespaces by name.
func namespaceSelector(names ...string) network.Selector {
	return network.Selector{{Key: kube.NamespaceLabel, Op: network.In, Values: names}}
}
