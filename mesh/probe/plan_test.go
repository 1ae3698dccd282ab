package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/report"
	"bulkhead/policyfile"
)

const platformText = `
version: 1
platform: p
zones: {a: {role: custom}, b: {role: custom}}
workloads:
  client: {zone: a, serves: {ui: http/8888}}
  server: {zone: b, serves: {api: http/8080, names: dns/53, ring: nccl/29600}}
  store: {zone: b, serves: {db: postgres/5432, wide: tcp/7000-7999}}
  alone: {zone: a}
flows:
  - {from: client, to: server/api, may: read, because: x, owner: o}
  - {from: client, to: server/names, because: x, owner: o}
  - {from: client, to: server/ring, plaintext: true, because: x, owner: o}
  - {from: server, to: store/db, because: x, owner: o}
`

func intentOf(t testing.TB, text string) *policy.Intent {
	t.Helper()
	p, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(text)}})
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	in, ds := policy.Resolve(p, time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	return in
}

// platformOf puts every workload of a policy on this node.
func platformOf(t testing.TB, text string) *Platform {
	t.Helper()
	p := &Platform{Intent: intentOf(t, text), TrustDomain: "p.example", Addresses: map[string][]netip.Addr{}, Zones: map[string]string{},
		Doors: map[[2]string]bool{}, Silent: map[string]string{}, APIs: map[string]string{}, Machine: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Private: []string{"/private"}, Sockets: []string{"/private/admin.sock"}, PID: 4711, Run: "prun"}
	for i := range p.Intent.Policy.Workloads {
		w := &p.Intent.Policy.Workloads[i]
		name := w.Name.Value
		p.Members = append(p.Members, Member{Name: name})
		p.Zones[name] = w.Zone.Value
		p.Addresses[name] = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1))}
		p.APIs[name] = "/private/" + name
	}
	p.Doors[[2]string{"a", "b"}] = true
	return p
}

// TestEveryPairIsTried: each workload to each other, each port that it serves,
// both versions of IP, and what is expected is what the intent decides.
func TestEveryPairIsTried(t *testing.T) {
	p := platformOf(t, platformText)
	type key struct {
		from, to string
		udp      bool
		at       netip.AddrPort
	}
	planned := map[key]*Case{}
	for _, c := range Plan(p, Filter{}) {
		if !c.Kind.Attack && !c.Here && c.Task.Do != AskHTTP {
			k := key{c.From, c.To, c.Task.Do == SendUDP, c.Task.To}
			if planned[k] != nil {
				t.Errorf("%s is planned twice", c.Name)
			}
			planned[k] = c
		}
	}
	for from := range p.Addresses {
		for to, addrs := range p.Addresses {
			if from == to {
				continue
			}
			w := p.Intent.Workload(to)
			for i := range w.Serves {
				for _, r := range w.Serves[i].Traffic().Runs() {
					for _, port := range []uint16{r.Lo, r.Hi} {
						for _, addr := range addrs {
							c := planned[key{from, to, r.Protocol == netset.UDP, netip.AddrPortFrom(addr, port)}]
							if c == nil {
								t.Errorf("%s → %s %s %s is not planned", from, to, r.Protocol, netip.AddrPortFrom(addr, port))
								continue
							}
							want := p.Intent.Decide(policy.Question{From: party(from), To: party(to), Protocol: r.Protocol, Port: port}).Allowed
							if (c.Expected() == "allowed") != want {
								t.Errorf("%s: expected to be %s, and the intent decides %t", c.Name, c.Expected(), want)
							}
						}
					}
				}
			}
		}
	}
	for k, c := range planned {
		protocol := netset.TCP
		if k.udp {
			protocol = netset.UDP
		}
		want := p.Intent.Decide(policy.Question{From: party(k.from), To: party(k.to), Protocol: protocol, Port: k.at.Port()}).Allowed
		if (c.Expected() == "allowed") != want {
			t.Errorf("%s: expected to be %s, and the intent decides %t", c.Name, c.Expected(), want)
		}
	}
}

func TestAnExemptionIsTriedWithItsNeighbours(t *testing.T) {
	want := map[string]string{
		"client → server tcp/29600 over IPv4": "plaintext allowed",
		"client → server tcp/29599 over IPv4": "plaintext-neighbour refused",
		"client → server tcp/29601 over IPv4": "plaintext-neighbour refused",
		"client → server udp/29600 over IPv4": "plaintext-neighbour refused",
		"server → client tcp/29600 over IPv4": "plaintext-neighbour refused",
	}
	for _, c := range Plan(platformOf(t, platformText), Filter{}) {
		if w, ok := want[c.Name]; ok && w == c.Kind.ID+" "+c.Expected() {
			delete(want, c.Name)
		}
	}
	for name, w := range want {
		t.Errorf("%s is not tried as %s", name, w)
	}
}

func TestRequestsAreTriedWhereTheyAreToldApart(t *testing.T) {
	p := platformOf(t, platformText)
	var prohibited, permitted int
	for _, c := range Plan(p, Filter{}) {
		if c.Task.Do != AskHTTP {
			continue
		}
		if c.From != "client" || c.To != "server" {
			t.Errorf("%s: no permission tells requests apart there", c.Name)
		}
		r := netset.Request{Method: c.Task.Method, Host: c.Task.Host, Path: c.Task.Path}
		allowed := p.Intent.Decide(policy.Question{From: party(c.From), To: party(c.To), Protocol: netset.TCP, Port: c.Task.To.Port(), Request: &r}).Allowed
		switch {
		case c.Kind == prohibitedRequest && !allowed:
			prohibited++
		case c.Kind == permittedRequest && allowed && (r.Method == "GET" || r.Method == "HEAD"):
			permitted++
		default:
			t.Errorf("%s is a %s, and the intent decides %t", c.Name, c.Kind.ID, allowed)
		}
	}
	if prohibited != 1 || permitted != 1 {
		t.Errorf("%d prohibited and %d permitted requests, want one of each", prohibited, permitted)
	}
}

// TestEveryWorkloadTriesEveryAttack holds the plan to the list of attacks.
func TestEveryWorkloadTriesEveryAttack(t *testing.T) {
	p := platformOf(t, platformText)
	all := []Kind{ownIdentity, directTunnel, noCertificate, wrongDomain, expiredSVID, selfMade, forgedLeaf, otherSNI, plainToTLS, oldTLS,
		deniedStream, strayStream, metadata, outsideDNS, outsideHost, machinePorts, loopback, spoofed, rawSocket, otherTransport,
		broadcast, setMark, kernelRules, namespaces, processes, unixSockets}
	inside, here := map[string]map[Kind]bool{}, map[string]map[Kind]bool{}
	note := func(m map[string]map[Kind]bool, name string, k Kind) {
		if m[name] == nil {
			m[name] = map[Kind]bool{}
		}
		m[name][k] = true
	}
	ids := map[string]bool{}
	for _, c := range Plan(p, Filter{}) {
		if c.Here {
			note(here, c.To, c.Kind)
		} else {
			note(inside, c.From, c.Kind)
		}
		if c.Kind.Attack && c.Expected() != "refused" {
			t.Errorf("%s is an attack that is expected to be %s", c.Name, c.Expected())
		}
		if c.want == wantKernelRefusal && len(c.accept) == 0 || c.want == wantStop && len(c.accept) == 0 {
			t.Errorf("%s can never go as expected", c.Name)
		}
		if ids[c.ID] || c.Task.ID != c.ID || c.Policy == "" || c.Name == "" {
			t.Errorf("%s has no id of its own, no name or no reason: %+v", c.Name, c)
		}
		ids[c.ID] = true
		if err := c.Task.check(); err != nil {
			t.Error(err)
		}
	}
	for _, m := range p.Members {
		for _, k := range all {
			tunnel := k == deniedStream || k == strayStream
			if !tunnel && !inside[m.Name][k] {
				t.Errorf("%s does not try %s", m.Name, k.ID)
			}
			if (tunnel || slices.ContainsFunc(intrusions, func(a intrusion) bool { return a.kind == k })) && !here[m.Name][k] {
				t.Errorf("the tunnel of %s is not attacked with %s", m.Name, k.ID)
			}
		}
	}
	if !here["server"][control] {
		t.Error("nothing shows that attacks on the tunnel of server reach it")
	}
}

func TestAFilterLeavesOutTheRest(t *testing.T) {
	p := platformOf(t, platformText)
	for _, f := range []Filter{{From: "client"}, {To: "store"}, {From: "client", To: "store"}} {
		cases := Plan(p, f)
		if len(cases) == 0 {
			t.Errorf("%+v leaves nothing", f)
		}
		for _, c := range cases {
			if f.From != "" && c.From != f.From || f.To != "" && c.To != f.To {
				t.Errorf("%+v leaves %s", f, c.Name)
			}
		}
	}
}

// TestLocalPortsAreNotUsedTwice: conntrack translates a port that it remembers.
func TestLocalPortsAreNotUsedTwice(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Plan(platformOf(t, platformText), Filter{}) {
		if c.Task.From == 0 {
			continue
		}
		k := fmt.Sprintf("%s:%d", c.From, c.Task.From)
		if seen[k] {
			t.Errorf("%s is used twice", k)
		}
		seen[k] = true
	}
}

func TestWhatCannotBeTriedIsSaid(t *testing.T) {
	p := platformOf(t, platformText)
	p.Members[0].Untried = "it is bound"
	found := 0
	for _, c := range Plan(p, Filter{}) {
		if c.From == "client" {
			r, final := Judge(c, &Observation{Untried: c.Untried}, nil)
			if found++; c.Here || r.Outcome != report.Untried || r.Says != "it is bound" || !final {
				t.Errorf("%s: %+v", c.Name, r)
			}
		}
	}
	if found != 1 {
		t.Errorf("client has %d cases, want the one that says why", found)
	}
}

func TestAWorkloadInQuarantineIsExpectedToReachNothing(t *testing.T) {
	p := platformOf(t, platformText)
	p.Intent = p.Intent.Quarantined([]policy.Quarantine{{Target: "client", Because: "x"}})
	p.Members[0].Anonymous = true
	for _, c := range Plan(p, Filter{}) {
		if (c.From == "client" || c.To == "client") && c.Expected() == "allowed" {
			t.Errorf("%s is expected to be allowed", c.Name)
		}
		if c.From == "client" && c.Kind == prohibitedPair && c.Task.Do == DialTCP && c.To == "server" && c.Task.To.Port() == 8080 && !strings.Contains(c.Policy, "quarantined") {
			t.Errorf("%s: %s", c.Name, c.Policy)
		}
	}
}
