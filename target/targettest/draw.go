package targettest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"bulkhead/core/policy"
)

// Names of workloads: among them some that platforms do not take as they are,
// and some that a careless compiler gives to something else.
var workloadNames = []string{"trainer", "feature-store", "llm", "a.b", "a-b", "a_b", "llm-2", "default-deny", "X9",
	strings.Repeat("long-", 50) + "name"}

// becauses are reasons that try to be something else.
var becauses = []string{"nightly training (DATA-112)", "two\nlines\n---\nkind: Namespace", "# no\r\n  ports: []", "a: b, {c}", "…\u2028\u202e\x00\x1b[2J"}

var (
	blocks = []string{"203.0.113.0/24", "198.51.100.7/32", "8.8.8.0/24", "10.0.0.0/8", "10.20.0.0/16", "10.244.3.0/24",
		"0.0.0.0/0", "::/0", "2001:db8::/32", "fd00:1::/64"}
	hosts        = []string{"pypi.org", "*.example.com", "api.example.com", "hub"}
	destinations = []policy.Destination{{Name: text("hub"), Hosts: texts("hub.example.org", "*.cdn.example.org"), Ports: texts("443", "8443")}}
)

func text(s string) policy.Text { return policy.Text{Value: s} }

func texts(ss ...string) []policy.Text {
	var out []policy.Text
	for _, s := range ss {
		out = append(out, text(s))
	}
	return out
}

func coin(t *rapid.T, label string) bool { return rapid.Bool().Draw(t, label) }

func one(t *rapid.T, label string, of []string) string { return rapid.SampledFrom(of).Draw(t, label) }

// drawer draws the parts of a policy.
type drawer struct {
	*rapid.T
	p       *policy.Policy
	parties []string // what a flow can come from
	served  []string // what a flow can go to
}

// drawPolicy draws a policy without bindings. It may be wrong in places, as
// policies are; what is right of it counts.
func drawPolicy(t *rapid.T, resolvers []string) *policy.Policy {
	d := &drawer{T: t, p: &policy.Policy{Platform: text("acme\n---"), Destinations: destinations}}
	zones := []string{"data", "training", "serving"}
	for i, z := range zones {
		zone := policy.Zone{Name: text(z)}
		if i == 2 && coin(t, "nested") {
			zone.In = text(zones[0])
		}
		d.p.Zones = append(d.p.Zones, zone)
	}
	names := rapid.Permutation(workloadNames).Draw(t, "names")
	for i := range rapid.IntRange(1, 5).Draw(t, "workloads") {
		w := policy.Workload{Name: text(names[i]), Zone: text(one(t, "zone", zones))}
		for j := range rapid.IntRange(0, 2).Draw(t, "services") {
			w.Serves = append(w.Serves, d.service(j))
			d.served = append(d.served, names[i], fmt.Sprintf("%s/s%d", names[i], j))
		}
		d.p.Workloads = append(d.p.Workloads, w)
		d.parties = append(d.parties, names[i], policy.ZonePrefix+w.Zone.Value)
	}
	d.parties = append(d.parties, policy.All)
	d.addGateway()
	d.addFlows()
	d.addOutside()
	d.addDNS(resolvers)
	return d.p
}

func (d *drawer) service(i int) policy.Service {
	protocols := []string{"tcp", "udp", "sctp", "dns", "http", "grpc", "s3", "postgres"}
	lo := rapid.Uint16Range(1, 400).Draw(d.T, "port") + uint16(i)*1000
	hi := lo + rapid.SampledFrom([]uint16{0, 0, 3}).Draw(d.T, "range")
	if rapid.IntRange(0, 20).Draw(d.T, "whole") == 0 && i == 0 {
		lo, hi = 1, 65535
	}
	return policy.Service{Name: text(fmt.Sprintf("s%d", i)), Protocol: text(one(d.T, "protocol", protocols)), Lo: lo, Hi: hi,
		Read: texts("POST /pkg.Svc/Get"), Write: texts("POST /pkg.Svc/Set")}
}

func (d *drawer) why() policy.Why {
	w := policy.Why{Because: text(one(d.T, "because", becauses)), Owner: text("ml-platform")}
	switch rapid.IntRange(0, 5).Draw(d.T, "until") {
	case 0:
		w.Until.Time = time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC) // expired
	case 1:
		w.Until.Time = time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	}
	return w
}

func (d *drawer) some(label string, of []string) []policy.Text {
	if len(of) == 0 {
		return nil
	}
	return texts(rapid.SliceOfN(rapid.SampledFrom(of), 1, 2).Draw(d.T, label)...)
}

func (d *drawer) addGateway() {
	if !coin(d.T, "gateway") {
		return
	}
	d.p.Workloads = append(d.p.Workloads, policy.Workload{Name: text("egress-gateway"), Zone: text("serving"),
		Serves: []policy.Service{{Name: text("proxy"), Protocol: text("http"), Lo: 3128, Hi: 3128}}})
	d.parties = append(d.parties, "egress-gateway")
	d.p.Gateway = &policy.Gateway{Through: text("egress-gateway/proxy")}
}

var accesses = [][]policy.Text{nil, nil, texts("connect"), texts("read"), texts("write"), texts("call"),
	texts("GET /features/*"), texts("GET,HEAD /a/**", "POST /b")}

func (d *drawer) addFlows() {
	if len(d.served) == 0 {
		return
	}
	for range rapid.IntRange(0, 5).Draw(d.T, "flows") {
		f := policy.Flow{From: d.some("from", d.parties), To: d.some("to", d.served), Why: d.why(),
			May: rapid.SampledFrom(accesses).Draw(d.T, "may")}
		if rapid.IntRange(0, 4).Draw(d.T, "enforced") == 0 {
			f.EnforcedBy = text(policy.EnforcedByApplication)
		}
		d.p.Flows = append(d.p.Flows, f)
	}
}

// addOutside adds egress, endpoints and exposures.
func (d *drawer) addOutside() {
	for range rapid.IntRange(0, 3).Draw(d.T, "egress") {
		e := policy.Egress{From: d.some("from", d.parties), To: d.some("to", slices.Concat(hosts, blocks)), Why: d.why()}
		if coin(d.T, "ports") {
			e.Ports = texts("443", "5000")
		}
		if coin(d.T, "read") {
			e.May = texts("read")
		}
		d.p.Egress = append(d.p.Egress, e)
	}
	for i := range rapid.IntRange(0, 2).Draw(d.T, "endpoints") {
		e := policy.Endpoint{Name: text(fmt.Sprintf("ep%d", i)), Service: text("aws/bedrock-runtime"), Consumers: d.some("consumers", d.parties), Why: d.why()}
		if coin(d.T, "address") {
			e.Address = text(one(d.T, "at", []string{"10.200.0.7", "203.0.113.9"}))
		}
		if len(d.served) > 0 && coin(d.T, "internal") {
			e.Service = text(one(d.T, "service", d.served))
		}
		d.p.Endpoints = append(d.p.Endpoints, e)
	}
	if len(d.served) == 0 {
		return
	}
	sources := append([]string{policy.Internet, policy.Hosts, policy.ControlPlane}, blocks...)
	for range rapid.IntRange(0, 2).Draw(d.T, "exposures") {
		d.p.Exposures = append(d.p.Exposures, policy.Exposure{To: d.some("to", d.served), From: d.some("from", sources), Why: d.why(),
			May: rapid.SampledFrom(accesses[:5]).Draw(d.T, "may")})
	}
}

func (d *drawer) addDNS(resolvers []string) {
	if !coin(d.T, "dns") {
		return
	}
	to := append(slices.Clone(resolvers), d.served...)
	if len(to) == 0 {
		return
	}
	d.p.DNS = &policy.DNS{To: text(one(d.T, "to", to)), Why: d.why()}
	if coin(d.T, "limited") {
		d.p.DNS.From = d.some("from", d.parties)
	}
}
