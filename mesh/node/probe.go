package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"bulkhead/core/policy"
	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/host"
	"bulkhead/mesh/probe"
	"bulkhead/mesh/proxy"
	"bulkhead/mesh/report"
)

func init() {
	host.RegisterChild(probeChild, func() { os.Exit(probe.Main()) })
}

// probeChild is the name of this program as the agent of a probe.
const probeChild = "probe"

// ProbeQuestion asks for an attack on the platform, limited to one source and one
// target where they are named.
type ProbeQuestion struct {
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Probe yields what an attack on the platform finds: a head, results, an end.
func (a *Admin) Probe(ctx context.Context, q ProbeQuestion) iter.Seq2[report.ProbeEvent, error] {
	return lines[report.ProbeEvent](ctx, a, "/v1/probe", q)
}

// adminProbe attacks the platform and streams what it finds.
func (n *Node) adminProbe(w http.ResponseWriter, r *http.Request) {
	var q ProbeQuestion
	if !read(w, r, &q) {
		return
	}
	n.mu.Lock()
	l := n.layout
	n.mu.Unlock()
	if l == nil {
		refuse(w, http.StatusConflict, "see bulkhead status", "no generation is in force, so that nothing runs that could be attacked")
		return
	}
	for _, name := range []string{q.From, q.To} {
		if name != "" && l.world.Intent.Workload(name) == nil {
			refuse(w, http.StatusBadRequest, "see bulkhead status", "the policy has no workload %q", name)
			return
		}
	}
	if q.From != "" && !slices.ContainsFunc(l.members, func(m member) bool { return m.workload.Name.Value == q.From }) {
		refuse(w, http.StatusBadRequest, "run it on the machine where it runs", "workload %s is not of this machine", q.From)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	s := &eventStream{enc: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
	start := n.o.Now()
	run, err := newProbeRun(n, l, q)
	if err == nil {
		s.send(report.ProbeEvent{Head: &report.ProbeHead{Platform: n.o.Platform, Node: n.o.Name, Mode: string(n.o.Mode),
			Generation: l.world.Generation, Started: start, Cases: len(run.cases)}})
		err = run.do(r.Context(), func(result report.ProbeResult) { s.send(report.ProbeEvent{Result: &result}) })
	}
	end := report.ProbeEnd{Took: n.o.Now().Sub(start)}
	if err != nil {
		end.Problem = err.Error()
	}
	s.send(report.ProbeEvent{End: &end})
}

// eventStream writes events, one line each. Whoever hung up gets no more.
type eventStream struct {
	enc   *json.Encoder
	flush func() error
	gone  bool
}

func (s *eventStream) send(e report.ProbeEvent) {
	if !s.gone {
		s.gone = s.enc.Encode(e) != nil || s.flush() != nil
	}
}

// probed describes the platform as an attack needs it.
func (n *Node) probed(l *layout) (*probe.Platform, error) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	p := &probe.Platform{Intent: l.world.Intent, TrustDomain: l.world.TrustDomain, Addresses: l.plan.Names, Zones: map[string]string{},
		Doors: map[[2]string]bool{}, Silent: map[string]string{}, Machine: machineAddresses(), APIs: map[string]string{},
		Private: []string{n.o.RunDir}, PID: os.Getpid(), Run: "p" + hex.EncodeToString(id[:]),
		FirstPort: int(probePorts.Add(portsBetween))}
	if n.o.Outside != nil {
		p.Gateway, p.Via = netip.AddrPortFrom(l.gatewayAt[0], proxy.ProxyPort), n.o.Outside.via()
		p.Endpoints = l.probedEndpoints()
	}
	if n.o.StateDir != "" {
		p.Private = append(p.Private, n.o.StateDir)
	}
	for _, name := range []string{SocketName, execSocketName} {
		p.Sockets = append(p.Sockets, filepath.Join(n.o.RunDir, name))
	}
	for _, d := range l.plan.Doors {
		p.Doors[[2]string{d.From, d.To}] = true
	}
	for i := range l.world.Intent.Policy.Workloads {
		w := &l.world.Intent.Policy.Workloads[i]
		p.Zones[w.Name.Value] = w.Zone.Value
		if !l.runs(w) {
			p.Silent[w.Name.Value] = "it runs on no node"
		}
	}
	for i, m := range l.members {
		p.Members = append(p.Members, n.probedMember(l, l.plan.Members[i], m, p))
	}
	return p, nil
}

// probedEndpoints describes the private endpoints that lead outside.
func (l *layout) probedEndpoints() []probe.Endpoint {
	var out []probe.Endpoint
	for i := range l.endpoints {
		e := &l.endpoints[i]
		if e.Workload != "" {
			continue // it leads to a workload, which is attacked as such
		}
		x := probe.Endpoint{Name: e.Name, At: netip.AddrPortFrom(l.endpointsAt[e.Name][0], e.Port), Consumers: e.Consumers, TLS: e.TLS}
		for _, h := range e.Hosts {
			if !strings.HasPrefix(h, "*") && h != endpoint.Name(e.Name) {
				x.Hosts = append(x.Hosts, h)
			}
		}
		out = append(out, x)
	}
	return out
}

// runs reports whether a workload has a place on some node.
func (l *layout) runs(w *policy.Workload) bool {
	for _, a := range l.plan.Names[w.Name.Value] {
		if l.world.Places[a].Tunnel.IsValid() {
			return true
		}
	}
	return false
}

func (n *Node) probedMember(l *layout, at host.Member, m member, p *probe.Platform) probe.Member {
	out := probe.Member{Name: at.Name, Datagrams: len(l.world.UDP[at.Name]) > 0}
	_, err := n.o.Identities.SVID(at.Name)
	out.Anonymous = err != nil
	n.mu.Lock()
	served := n.placed[at.Name] != nil
	n.mu.Unlock()
	switch {
	case l.shared[at.Name]:
		out.Untried = "it is bound to processes that run already"
	case !served:
		out.Untried = "it is not served yet"
	default:
		p.APIs[at.Name] = filepath.Join(n.o.RunDir, "live", "api", at.Name, "workload.sock")
	}
	if !served {
		p.Silent[at.Name] = "it is not served yet"
	} else if len(m.binding.Run) == 0 && !l.shared[at.Name] {
		p.Silent[at.Name] = "it has no command"
	}
	return out
}

// probePorts keeps the local ports of probes that follow each other apart.
var probePorts atomic.Uint32

const portsBetween = 1000

// maxMachine is how many addresses of the machine are attacked.
const maxMachine = 4

func machineAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // nothing to attack is no reason not to attack the rest
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() && len(out) < maxMachine {
			out = append(out, p.Addr())
		}
	}
	return out
}
