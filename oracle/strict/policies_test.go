package strict

import (
	"fmt"

	"pgregory.net/rapid"

	"bulkhead/core/policy"
	"bulkhead/target"
)

// judged is a target whose every output is judged.
type judged struct {
	target.Limited
	t        *rapid.T
	server   *server
	compiled *int
}

func (j judged) Compile(in *policy.Intent) target.Output {
	out := j.Limited.Compile(in)
	*j.compiled++
	if wrong := j.server.judge(out); len(wrong) > 0 {
		j.t.Errorf("%d objections, the first of them: %s", len(wrong), wrong[0])
	}
	return out
}

func text(s string) policy.Text { return policy.Text{Value: s} }

// at binds in a namespace by labels; values are drawn to be awkward in YAML.
func at(namespace string, labels ...string) policy.Binding {
	b := policy.Binding{Target: text("kubernetes"), Fields: []policy.Field{{Key: text("namespace"), Text: text(namespace)}}}
	if len(labels) > 0 {
		f := policy.Field{Key: text("labels")}
		for i := 0; i < len(labels); i += 2 {
			f.Map = append(f.Map, policy.Field{Key: text(labels[i]), Text: text(labels[i+1])})
		}
		b.Fields = append(b.Fields, f)
	}
	return b
}

func bind(t *rapid.T, p *policy.Policy) {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		for range rapid.IntRange(1, 2).Draw(t, "bindings") {
			namespace := rapid.SampledFrom([]string{"team-a", "on", "123", "default"}).Draw(t, "namespace")
			value := rapid.SampledFrom([]string{"yes", "null", "1e3", "0x1F", "007", "", "2026-01-01", "A_b.c-d"}).Draw(t, "value")
			w.Bindings = append(w.Bindings, at(namespace, "app", fmt.Sprintf("w%d", i), "example.com/v", value))
		}
	}
}

// large is a policy with n of everything; name makes the names longer.
func large(n int, name func(string, int) string) *policy.Policy {
	why := policy.Why{Because: text("all\nof\n---\nthem: # " + name("because ", 50)), Owner: text("o\"w'n: er")}
	p := &policy.Policy{Platform: text("p"), Zones: []policy.Zone{{Name: text("z")}}, DNS: &policy.DNS{To: text("kubernetes"), Why: why}}
	server := policy.Workload{Name: text("server" + name("s", 1)), Zone: text("z")}
	for i := range n {
		server.Serves = append(server.Serves, policy.Service{Name: text(fmt.Sprintf("s%d", i)), Protocol: text([]string{"tcp", "udp"}[i%2]),
			Lo: uint16(1000 + 10*i), Hi: uint16(1000 + 10*i + i%3)})
	}
	for i := range n {
		server.Bindings = append(server.Bindings, at(fmt.Sprintf("server-%d", i), "app", "server"))
	}
	p.Workloads = append(p.Workloads, server)
	var blocks, domains []policy.Text
	for i := range n {
		w := policy.Workload{Name: text(fmt.Sprintf("client-%d%s", i, name("c", 100))), Zone: text("z"),
			Bindings: []policy.Binding{at(fmt.Sprintf("client-%d", i), "app", "client")}}
		p.Workloads = append(p.Workloads, w)
		p.Flows = append(p.Flows, policy.Flow{From: []policy.Text{w.Name}, To: []policy.Text{text(server.Name.Value + fmt.Sprintf("/s%d", i))}, Why: why})
		blocks = append(blocks, text(fmt.Sprintf("10.%d.0.0/17", i)), text(fmt.Sprintf("2001:db8:%x::/49", i)))
		domains = append(domains, text(fmt.Sprintf("host-%d.example.com", i)), text(fmt.Sprintf("*.zone-%d.example.com", i)))
	}
	p.Flows = append(p.Flows, policy.Flow{From: []policy.Text{text("all")}, To: []policy.Text{server.Name}, Why: why})
	p.Egress = []policy.Egress{
		{From: []policy.Text{text("zone/z")}, To: blocks, Ports: []policy.Text{text("443"), text("8443")}, Why: why},
		{From: []policy.Text{p.Workloads[1].Name}, To: domains, Why: why},
	}
	p.Exposures = []policy.Exposure{{To: []policy.Text{server.Name}, From: []policy.Text{text("internet")}, Why: why}}
	return p
}
