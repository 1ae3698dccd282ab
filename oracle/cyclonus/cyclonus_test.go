package cyclonus

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/reach"
)

// What cyclonus v0.5.6 has. A change means that another cyclonus was asked.
const (
	wantCases    = 230
	wantSteps    = 256
	wantVerdicts = 124884 // combined; as many of each side
)

// knownDifference is a set of verdicts that bulkhead gives otherwise than
// cyclonus, and why it is right to.
type knownDifference struct {
	test  string // description of the case
	count int    // verdicts of all kinds in all its steps
	// says is the sentence of the specification at url that decides.
	says, url string
}

// knownDifferences is empty: bulkhead and cyclonus agree on every verdict.
var knownDifferences = []knownDifference{}

// kind is what a verdict is about.
type kind int

const (
	combined kind = iota
	ingress
	egress
	beyond // what cyclonus' cases do not probe: other ports, other addresses
	kinds
)

func (k kind) String() string { return [...]string{"combined", "ingress", "egress", "beyond"}[k] }

type tally struct {
	equal, different [kinds]int
	allowed          [kinds]int
	loopback         [2]int // combined verdicts of a pod to itself: all, denied
	byCase           map[string]int
	examples         map[string][]string
}

func (t *tally) compare(k kind, test string, step int, what string, theirs, ours string) {
	if theirs == "allow" {
		t.allowed[k]++
	}
	if theirs == ours {
		t.equal[k]++
		return
	}
	t.different[k]++
	t.byCase[test]++
	if len(t.examples[test]) < 3 {
		t.examples[test] = append(t.examples[test], fmt.Sprintf("step %d, %s %s: cyclonus says %s, bulkhead %s", step, k, what, theirs, ours))
	}
}

var protocols = map[corev1.Protocol]netset.Protocol{
	corev1.ProtocolTCP: netset.TCP, corev1.ProtocolUDP: netset.UDP, corev1.ProtocolSCTP: netset.SCTP,
}

func verdictOf(d reach.Decision, p corev1.Protocol, port int) string {
	switch {
	case d.Allow.Has(protocols[p], uint16(port)):
		return "allow"
	case d.Unknown.Has(protocols[p], uint16(port)):
		return "unknown"
	}
	return "deny"
}

func word(c probe.Connectivity) string {
	switch c {
	case probe.ConnectivityAllowed:
		return "allow"
	case probe.ConnectivityBlocked:
		return "deny"
	}
	return string(c)
}

func passes(ok bool) string {
	if ok {
		return "allow"
	}
	return "deny"
}

// TestCyclonus asks bulkhead what cyclonus expects of a cluster in each step
// of each of its cases.
func TestCyclonus(t *testing.T) {
	logrus.SetOutput(io.Discard)
	begin := time.Now()
	var imports time.Duration
	result := &tally{byCase: map[string]int{}, examples: map[string][]string{}}
	steps := 0
	zc, err := newCluster(t).Resources.GetPod("z", "c")
	if err != nil {
		t.Fatal(err)
	}
	cases := generator.NewTestCaseGenerator(true, zc.IP, []string{"x", "y", "z"}, nil, nil).GenerateAllTestCases()
	for _, test := range cases {
		cluster := newCluster(t)
		for i, step := range test.Steps {
			for _, action := range step.Actions {
				if err := apply(cluster, action); err != nil {
					t.Fatalf("%s: %v", test.Description, err)
				}
			}
			steps++
			text, err := manifests(cluster)
			if err != nil {
				t.Fatalf("%s: %v", test.Description, err)
			}
			start := time.Now()
			estate := read(t, text)
			imports += time.Since(start)
			if t.Failed() {
				t.Fatalf("%s: step %d cannot be imported", test.Description, i+1)
			}
			policies := matcher.BuildNetworkPolicies(true, cluster.Policies)
			result.probed(t, test.Description, i+1, cluster, policies, estate)
			result.beyond(test.Description, i+1, cluster, policies, estate)
		}
	}
	result.judge(t)

	var b strings.Builder
	fmt.Fprintf(&b, "cyclonus v0.5.6: %d cases, %d steps, %.1f s (%.1f s of it bulkhead's import and analysis)\n",
		len(cases), steps, time.Since(begin).Seconds(), imports.Seconds())
	fmt.Fprintf(&b, "%-10s %10s %10s %10s %10s\n", "verdicts", "compared", "allowed", "equal", "different")
	for k := range kinds {
		fmt.Fprintf(&b, "%-10s %10d %10d %10d %10d\n", k, result.equal[k]+result.different[k], result.allowed[k], result.equal[k], result.different[k])
	}
	fmt.Fprintf(&b, "%d of the combined verdicts are of a pod to itself, %d of them deny\n", result.loopback[0], result.loopback[1])
	t.Log("\n" + b.String())
	if len(cases) != wantCases || steps != wantSteps {
		t.Errorf("%d cases with %d steps, want %d with %d", len(cases), steps, wantCases, wantSteps)
	}
	for _, k := range []kind{combined, ingress, egress} {
		if n := result.equal[k] + result.different[k]; n != wantVerdicts {
			t.Errorf("%d %s verdicts, want %d", n, k, wantVerdicts)
		}
	}
}

// probed compares every cell of the tables that cyclonus makes of all servers.
func (r *tally) probed(t *testing.T, test string, step int, c *connectivity.TestCaseState, policies *matcher.Policy, e *estate) {
	t.Helper()
	runner := probe.NewSimulatedRunner(policies, &probe.JobBuilder{TimeoutSeconds: 1})
	table := runner.RunProbeForConfig(generator.ProbeAllAvailable, c.Resources)
	for _, key := range table.Wrapped.Keys() {
		src, found := e.class[key.From]
		dst, both := e.class[key.To]
		if !found || !both {
			t.Fatalf("%s: bulkhead has no endpoint for %s or %s", test, key.From, key.To)
		}
		all, out, in := e.Between(src, dst), e.Side(network.Egress, src, dst), e.Side(network.Ingress, src, dst)
		for _, cell := range table.Get(key.From, key.To).JobResults {
			p, port := cell.Job.Protocol, cell.Job.ResolvedPort
			what := fmt.Sprintf("%s to %s %s %d", key.From, key.To, p, port)
			if key.From == key.To {
				r.loopback[0]++
				if cell.Combined == probe.ConnectivityBlocked {
					r.loopback[1]++
				}
			}
			r.compare(combined, test, step, what, word(cell.Combined), verdictOf(all, p, port))
			r.compare(ingress, test, step, what, word(*cell.Ingress), verdictOf(in, p, port))
			r.compare(egress, test, step, what, word(*cell.Egress), verdictOf(out, p, port))
		}
	}
}

// beyond asks cyclonus' matcher what its cases do not ask: ports that no one
// serves, and addresses of no pod around the edges of every block.
func (r *tally) beyond(test string, step int, c *connectivity.TestCaseState, policies *matcher.Policy, e *estate) {
	type party struct {
		name  string
		peer  matcher.TrafficPeer
		class reach.ClassID
	}
	var pods, outside []party
	taken := map[string]bool{}
	for _, p := range c.Resources.Pods {
		taken[p.IP] = true
		name := p.PodString().String()
		pods = append(pods, party{name, matcher.TrafficPeer{IP: p.IP, Internal: &matcher.InternalPeer{
			PodLabels: p.Labels, Namespace: p.Namespace, NamespaceLabels: c.Resources.Namespaces[p.Namespace]}}, e.class[name]})
	}
	for _, a := range addresses(c) {
		if !taken[a.String()] {
			outside = append(outside, party{a.String(), matcher.TrafficPeer{IP: a.String()}, e.ClassOfAddr(a)})
		}
	}
	ask := func(src, dst party, ports []int) {
		d := e.Between(src.class, dst.class)
		for p := range protocols {
			for _, port := range ports {
				theirs := policies.IsTrafficAllowed(&matcher.Traffic{Source: &src.peer, Destination: &dst.peer, ResolvedPort: port, Protocol: p})
				r.compare(beyond, test, step, fmt.Sprintf("%s to %s %s %d", src.name, dst.name, p, port),
					passes(theirs.IsAllowed()), verdictOf(d, p, port))
			}
		}
	}
	for _, a := range pods {
		for _, b := range pods {
			ask(a, b, []int{1, 53, 79, 82, 103, 65535})
		}
		for _, b := range outside {
			ask(a, b, []int{53, 80, 443})
			ask(b, a, []int{53, 443})
		}
	}
}

// addresses returns those around the edges of every block of every policy, and
// one of each family that is in none.
func addresses(c *connectivity.TestCaseState) []netip.Addr {
	out := []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2001:db8::8")}
	for _, p := range c.Policies {
		for _, text := range blocks(p) {
			prefix := netip.MustParsePrefix(text).Masked()
			ranges := netset.AddrsOf(prefix).Ranges()
			first, last := ranges[0].From(), ranges[len(ranges)-1].To()
			for _, a := range []netip.Addr{first.Prev(), first, last, last.Next()} {
				if a.IsValid() {
					out = append(out, a)
				}
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// judge fails on a difference that is not known and on a known one that is not
// there.
func (r *tally) judge(t *testing.T) {
	t.Helper()
	known := map[string]int{}
	for _, k := range knownDifferences {
		known[k.test] = k.count
		if k.says == "" || k.url == "" {
			t.Errorf("known difference %q does not say which sentence decides", k.test)
		}
		if got := r.byCase[k.test]; got != k.count {
			t.Errorf("known difference %q: %d verdicts differ, want %d", k.test, got, k.count)
		}
	}
	for test, n := range r.byCase {
		if _, ok := known[test]; !ok {
			t.Errorf("%s: %d verdicts differ:\n\t%s", test, n, strings.Join(r.examples[test], "\n\t"))
		}
	}
}
