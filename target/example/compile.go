package example

import (
	"bulkhead/core/policy"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
)

// Compile turns an intent into one list of lines.
func (Target) Compile(in *policy.Intent) target.Output {
	c := compiler{in: in, machines: map[string][]string{}}
	c.bind()
	for i := range in.Permissions {
		c.permission(&in.Permissions[i])
	}
	doc := yamltext.Map(yamltext.At("fence", yamltext.String("v1")), yamltext.At("allow", yamltext.List(c.lines...)))
	return target.Output{Files: []target.File{{Path: "fence.yaml", Data: yamltext.Documents(doc)}}, Residue: c.residue}
}

type compiler struct {
	in       *policy.Intent
	machines map[string][]string // by workload
	lines    []yamltext.Node
	residue  []target.Residue
}

// bind finds the machines of each workload. It asks Bind, so that a binding
// means the same to the compiler and to whoever verifies.
func (c *compiler) bind() {
	owner := map[string]string{}
	for i := range c.in.Policy.Workloads {
		w := &c.in.Policy.Workloads[i]
		name := w.Name.Value
		for _, b := range w.Bindings {
			pred, ds := Target{}.Bind(b)
			if b.Target.Value != "fence" || ds.HasErrors() {
				continue
			}
			m := pred.Attributes[0].Values[0]
			c.machines[name] = append(c.machines[name], m)
			if other := owner[m]; other != "" && other != name {
				c.residue = append(c.residue,
					limitShared.At(name, w.Name.Pos, "machine %s is workload %s and also %s, and may do what either may", m, other, name),
					limitShared.At(other, w.Name.Pos, "machine %s is workload %s and also %s, and may do what either may", m, name, other))
			}
			owner[m] = name
		}
		if len(c.machines[name]) == 0 {
			c.residue = append(c.residue, limitUnbound.At(name, w.Name.Pos, "workload %s has no machine: its permissions are left out", name))
		}
	}
}

// permission writes the lines of one permission, or says why it cannot.
func (c *compiler) permission(p *policy.Permission) {
	if p.Via != "" {
		return // what it implies for the gateway is the way
	}
	from, to := c.parties(p, p.From.Members...), c.parties(p, p.To)
	if len(p.Addrs.CIDRs()) == 0 && (p.To.Kind != policy.WorkloadParty || p.From.Members[0].Kind != policy.WorkloadParty) {
		c.residue = append(c.residue, limitNoAddress.Of(p, "%s: it has no address and stays closed", p.Name))
	}
	traffic := p.Traffic.AnyRequests()
	for _, f := range from {
		for _, t := range to {
			c.lines = append(c.lines, yamltext.Map(
				yamltext.At("from", yamltext.String(f)), yamltext.At("to", yamltext.String(t)), yamltext.At("traffic", yamltext.String(traffic.String())),
			).Above(p.Name, "  because: "+p.Why.Because.Value, "  owner: "+p.Why.Owner.Value))
		}
	}
	if p.Traffic.HasRequests() {
		c.residue = append(c.residue, limitRequests.Of(p, "%s: all of %s is open, where only %s is declared", p.Name, traffic, p.Traffic))
	}
}

// parties returns what a line calls the members of one side of a permission.
func (c *compiler) parties(p *policy.Permission, members ...policy.Party) []string {
	var out []string
	for _, m := range members {
		if m.Kind == policy.WorkloadParty {
			out = append(out, c.machines[m.Name]...)
		} else {
			out = append(out, p.Addrs.CIDRs()...)
		}
	}
	return out
}
