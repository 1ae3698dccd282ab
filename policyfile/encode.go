package policyfile

import (
	"strconv"
	"time"

	"bulkhead/core/policy"
	"bulkhead/internal/yamldoc"
)

// encode turns a policy into a tree. Built-in destinations are left out: they
// are not of the text.
func encode(p *policy.Policy) *tree {
	t := mapTree(language)
	t.put("version", scalarTree("1", language.entry("version")))
	t.text("platform", p.Platform)
	t.text("trustDomain", p.TrustDomain)
	zones := t.section("zones", len(p.Zones))
	for _, z := range p.Zones {
		m := zones.named(z.Name)
		m.text("role", z.Role)
		m.text("in", z.In)
	}
	workloads := t.section("workloads", len(p.Workloads))
	for _, w := range p.Workloads {
		encodeWorkload(workloads.named(w.Name), w)
	}
	flows := t.section("flows", len(p.Flows))
	for _, f := range p.Flows {
		m := flows.item()
		m.texts("from", f.From)
		m.texts("to", f.To)
		m.texts("may", f.May)
		m.text("enforcedBy", f.EnforcedBy)
		m.truth("plaintext", f.Plaintext)
		m.text("rate", f.Rate)
		m.truth("evidence", f.Evidence)
		m.why(f.Why)
	}
	encodeOutside(t, p)
	encodeShortForms(t, p)
	encodeAssurance(t, p)
	t.arrange()
	return t
}

func encodeWorkload(m *tree, w policy.Workload) {
	m.text("zone", w.Zone)
	serves := m.section("serves", len(w.Serves))
	for _, s := range w.Serves {
		ports := strconv.Itoa(int(s.Lo))
		if s.Hi != s.Lo {
			ports += "-" + strconv.Itoa(int(s.Hi))
		}
		if len(s.Read) == 0 && len(s.Write) == 0 {
			serves.put(s.Name.Value, scalarTree(s.Protocol.Value+"/"+ports, service))
			continue
		}
		long := serves.named(s.Name)
		long.text("protocol", s.Protocol)
		long.put("port", scalarTree(ports, service.entry("port")))
		long.texts("read", s.Read)
		long.texts("write", s.Write)
	}
	at := m.section("at", len(w.Bindings))
	byTarget := map[string][]policy.Binding{}
	for _, b := range w.Bindings {
		byTarget[b.Target.Value] = append(byTarget[b.Target.Value], b)
	}
	for _, b := range w.Bindings {
		all := byTarget[b.Target.Value]
		delete(byTarget, b.Target.Value)
		switch len(all) {
		case 0: // written with the first of its target
		case 1:
			encodeFields(at.named(b.Target), all[0].Fields)
		default:
			list := &tree{shape: binding, form: yamldoc.List}
			at.put(b.Target.Value, list)
			for _, one := range all {
				encodeFields(list.item(), one.Fields)
			}
		}
	}
}

func encodeFields(m *tree, fields []policy.Field) {
	for _, f := range fields {
		switch s := m.shape.entry(f.Key.Value); {
		case len(f.Map) > 0:
			encodeFields(m.named(f.Key), f.Map)
		case len(f.List) > 0:
			m.put(f.Key.Value, listTree(f.List, s))
		default:
			m.put(f.Key.Value, scalarTree(f.Text.Value, s))
		}
	}
}

func encodeOutside(t *tree, p *policy.Policy) {
	egress := t.section("egress", len(p.Egress))
	for _, e := range p.Egress {
		m := egress.item()
		m.texts("from", e.From)
		m.texts("to", e.To)
		m.texts("ports", e.Ports)
		m.text("region", e.Region)
		m.texts("may", e.May)
		m.text("enforcedBy", e.EnforcedBy)
		m.truth("inspect", e.Inspect)
		m.texts("accept", e.Accept)
		m.budget(e.Budget)
		m.why(e.Why)
	}
	own := ownDestinations(p)
	destinations := t.section("destinations", len(own))
	for _, d := range own {
		m := destinations.named(d.Name)
		m.text("title", d.Title)
		m.text("category", d.Category)
		m.text("owner", d.Owner)
		m.texts("hosts", d.Hosts)
		m.texts("addresses", d.Addresses)
		m.texts("ports", d.Ports)
		m.truth("multiTenant", d.MultiTenant)
		m.texts("private", d.Private)
		m.text("risk", d.Risk)
		m.text("source", d.Source)
		m.date("date", d.Date)
	}
	endpoints := t.section("endpoints", len(p.Endpoints))
	for _, e := range ownEndpoints(p) {
		m := endpoints.named(e.Name)
		m.text("service", e.Service)
		m.texts("hosts", e.Hosts)
		m.text("region", e.Region)
		m.text("address", e.Address)
		m.texts("ports", e.Ports)
		m.text("protocol", e.Protocol)
		m.texts("consumers", e.Consumers)
		m.texts("may", e.May)
		m.text("enforcedBy", e.EnforcedBy)
		m.truth("inspect", e.Inspect)
		m.budget(e.Budget)
		m.accepted(e.Accepted)
		m.why(e.Why)
	}
	exposures := t.section("exposures", len(p.Exposures))
	for _, e := range p.Exposures {
		m := exposures.item()
		m.texts("to", e.To)
		m.texts("from", e.From)
		m.texts("may", e.May)
		m.why(e.Why)
	}
}

func ownDestinations(p *policy.Policy) []policy.Destination {
	var own []policy.Destination
	for _, d := range p.Destinations {
		if !d.Builtin {
			own = append(own, d)
		}
	}
	return own
}

func encodeShortForms(t *tree, p *policy.Policy) {
	short := func(name, key string, to policy.Text, from []policy.Text, evidence bool, why policy.Why) {
		s := language.entry(name)
		if len(from) == 0 && !evidence && why == (policy.Why{}) {
			t.put(name, scalarTree(to.Value, s))
			return
		}
		m := mapTree(s)
		t.put(name, m)
		m.text(key, to)
		m.texts("from", from)
		m.truth("evidence", evidence)
		m.why(why)
	}
	if d := p.DNS; d != nil {
		short("dns", "to", d.To, d.From, false, d.Why)
	}
	if d := p.Telemetry; d != nil {
		short("telemetry", "to", d.To, d.From, d.Evidence, d.Why)
	}
	if g := p.Gateway; g != nil {
		encodeGateway(t, g)
	}
}

func encodeGateway(t *tree, g *policy.Gateway) {
	s := language.entry("gateway")
	m := mapTree(s)
	m.text("through", g.Through)
	m.text("mode", g.Mode)
	m.texts("for", g.For)
	m.text("aliases", g.Aliases)
	m.text("withoutLog", g.WithoutLog)
	m.text("upstream", g.Upstream)
	m.why(g.Why)
	if len(m.parts) == 1 && g.Through.Value != "" {
		m = scalarTree(g.Through.Value, s)
	}
	t.put("gateway", m)
}

func encodeAssurance(t *tree, p *policy.Policy) {
	threats := t.section("threats", len(p.Threats))
	for _, x := range p.Threats {
		m := threats.item()
		m.text("id", x.ID)
		m.text("technique", x.Technique)
		m.text("says", x.Says)
		m.texts("controls", x.Controls)
		m.text("owner", x.Owner)
		m.text("status", x.Status)
	}
	invariants := t.section("invariants", len(p.Invariants))
	for _, x := range p.Invariants {
		m := invariants.item()
		m.text("id", x.ID)
		m.text("says", x.Says)
		m.texts("from", x.From)
		m.texts("to", x.To)
		m.truth("transitive", x.Transitive)
		m.text("owner", x.Owner)
	}
	relaxations := t.section("relaxations", len(p.Relaxations))
	for _, x := range p.Relaxations {
		m := relaxations.item()
		m.text("invariant", x.Invariant)
		m.texts("for", x.For)
		m.why(x.Why)
	}
	tests := t.section("tests", len(p.Tests))
	for _, x := range p.Tests {
		m := tests.item()
		m.text("from", x.From)
		m.text("to", x.To)
		m.texts("allow", x.Allow)
		m.texts("deny", x.Deny)
	}
}

// The methods below put values into a tree under construction. What is empty
// is left out.

func mapTree(s *shape) *tree { return &tree{shape: s, form: yamldoc.Map} }

func (t *tree) put(key string, v *tree) { t.parts = append(t.parts, &part{key: key, value: v}) }

func (t *tree) text(key string, x policy.Text) {
	if x.Value != "" {
		t.put(key, scalarTree(x.Value, t.shape.entry(key)))
	}
}

func (t *tree) texts(key string, xs []policy.Text) {
	s := t.shape.entry(key)
	switch {
	case len(xs) == 0:
	case len(xs) == 1 && s.scalar != nil:
		t.put(key, scalarTree(xs[0].Value, s))
	default:
		t.put(key, listTree(xs, s))
	}
}

func listTree(xs []policy.Text, s *shape) *tree {
	list := &tree{shape: s, form: yamldoc.List}
	for _, x := range xs {
		list.parts = append(list.parts, &part{value: scalarTree(x.Value, s.list)})
	}
	return list
}

func (t *tree) truth(key string, x bool) {
	if x {
		t.put(key, scalarTree("true", t.shape.entry(key)))
	}
}

func (t *tree) date(key string, d policy.Date) {
	if !d.Time.IsZero() {
		t.put(key, scalarTree(d.Time.Format(time.DateOnly), t.shape.entry(key)))
	}
}

func (t *tree) why(w policy.Why) {
	t.text("because", w.Because)
	t.text("owner", w.Owner)
	t.date("until", w.Until)
}

func (t *tree) budget(b policy.Budget) {
	if b.Bytes.Value == "" && b.Requests.Value == "" && b.Concurrent.Value == "" {
		return
	}
	m := mapTree(t.shape.entry("budget"))
	m.text("bytes", b.Bytes)
	m.text("requests", b.Requests)
	m.text("concurrent", b.Concurrent)
	t.put("budget", m)
}

func (t *tree) accepted(a policy.Acceptance) {
	if a.By.Value == "" && a.On.Time.IsZero() {
		return
	}
	m := mapTree(t.shape.entry("accepted"))
	m.text("by", a.By)
	m.date("on", a.On)
	t.put("accepted", m)
}

// section adds a collection of n parts; one of none is not written.
func (t *tree) section(key string, n int) *tree {
	s := t.shape.entry(key)
	v := mapTree(s)
	if s.list != nil && s.named == nil {
		v.form = yamldoc.List
	}
	if n > 0 {
		t.put(key, v)
	}
	return v
}

// named adds a map under a name that the user chose.
func (t *tree) named(name policy.Text) *tree {
	m := mapTree(t.shape.entry(name.Value))
	t.put(name.Value, m)
	return m
}

// item adds a map to a list.
func (t *tree) item() *tree {
	m := mapTree(t.shape.list)
	t.parts = append(t.parts, &part{value: m})
	return m
}
