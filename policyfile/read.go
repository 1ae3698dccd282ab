package policyfile

import (
	"strings"
	"time"

	"bulkhead/core/policy"
	"bulkhead/internal/yamldoc"
)

// The functions of this file read a document that was checked, so they meet
// only what the language permits and can report nothing.

// readPolicy adds what a document declares to p.
func readPolicy(p *policy.Policy, root yamldoc.Value) {
	if p.Platform.Value == "" {
		p.Platform = text(root.Get("platform"))
	}
	if p.TrustDomain.Value == "" {
		p.TrustDomain = text(root.Get("trustDomain"))
	}
	for k, v := range root.Get("zones").Entries() {
		p.Zones = append(p.Zones, policy.Zone{Name: text(k), Role: text(v.Get("role")), In: text(v.Get("in"))})
	}
	for k, v := range root.Get("workloads").Entries() {
		p.Workloads = append(p.Workloads, policy.Workload{Name: text(k), Zone: text(v.Get("zone")),
			Serves: services(v.Get("serves")), Bindings: bindings(v.Get("at"))})
	}
	for _, v := range root.Get("flows").Items() {
		p.Flows = append(p.Flows, policy.Flow{From: texts(v.Get("from")), To: texts(v.Get("to")),
			May: texts(v.Get("may")), EnforcedBy: text(v.Get("enforcedBy")), Plaintext: truthOf(v.Get("plaintext")),
			Rate: text(v.Get("rate")), Evidence: truthOf(v.Get("evidence")), Why: why(v), Pos: v.Pos()})
	}
	readOutside(p, root)
	readShortForms(p, root)
	readAssurance(p, root)
}

func readOutside(p *policy.Policy, root yamldoc.Value) {
	for _, v := range root.Get("egress").Items() {
		p.Egress = append(p.Egress, policy.Egress{From: texts(v.Get("from")), To: texts(v.Get("to")),
			Ports: texts(v.Get("ports")), Region: text(v.Get("region")), May: texts(v.Get("may")),
			EnforcedBy: text(v.Get("enforcedBy")), Inspect: truthOf(v.Get("inspect")), Accept: texts(v.Get("accept")),
			Budget: budgetOf(v.Get("budget")), Why: why(v), Pos: v.Pos()})
	}
	for k, v := range root.Get("destinations").Entries() {
		p.Destinations = append(p.Destinations, policy.Destination{Name: text(k), Title: proseText(v.Get("title")),
			Category: text(v.Get("category")), Owner: proseText(v.Get("owner")), Hosts: texts(v.Get("hosts")),
			Addresses: texts(v.Get("addresses")), Ports: texts(v.Get("ports")), MultiTenant: truthOf(v.Get("multiTenant")), Private: texts(v.Get("private")),
			Risk: proseText(v.Get("risk")), Source: proseText(v.Get("source")), Date: day(v.Get("date"))})
	}
	for k, v := range root.Get("endpoints").Entries() {
		p.Endpoints = append(p.Endpoints, policy.Endpoint{Name: text(k), Service: text(v.Get("service")),
			Region: text(v.Get("region")), Hosts: texts(v.Get("hosts")), Address: text(v.Get("address")),
			Ports: texts(v.Get("ports")), Protocol: text(v.Get("protocol")), Consumers: texts(v.Get("consumers")),
			May: texts(v.Get("may")), EnforcedBy: text(v.Get("enforcedBy")), Inspect: truthOf(v.Get("inspect")),
			Budget: budgetOf(v.Get("budget")), Accepted: acceptanceOf(v.Get("accepted")), Why: why(v), Pos: k.Pos()})
	}
	for _, v := range root.Get("exposures").Items() {
		p.Exposures = append(p.Exposures, policy.Exposure{To: texts(v.Get("to")), From: texts(v.Get("from")),
			May: texts(v.Get("may")), Why: why(v), Pos: v.Pos()})
	}
}

// readShortForms reads the sections that are one value, short or long. Where
// two files agree on a short form, the first is kept.
func readShortForms(p *policy.Policy, root yamldoc.Value) {
	if v := root.Get("dns"); v.Kind() != yamldoc.Missing && p.DNS == nil {
		p.DNS = &policy.DNS{To: shortOrKey(v, "to"), From: texts(v.Get("from")), Why: why(v), Pos: v.Pos()}
	}
	if v := root.Get("telemetry"); v.Kind() != yamldoc.Missing && p.Telemetry == nil {
		p.Telemetry = &policy.Telemetry{To: shortOrKey(v, "to"), From: texts(v.Get("from")),
			Evidence: truthOf(v.Get("evidence")), Why: why(v), Pos: v.Pos()}
	}
	if v := root.Get("gateway"); v.Kind() != yamldoc.Missing && p.Gateway == nil {
		p.Gateway = &policy.Gateway{Through: shortOrKey(v, "through"), Mode: text(v.Get("mode")), For: texts(v.Get("for")),
			Aliases: text(v.Get("aliases")), WithoutLog: text(v.Get("withoutLog")), Upstream: text(v.Get("upstream")),
			Why: why(v), Pos: v.Pos()}
	}
}

func readAssurance(p *policy.Policy, root yamldoc.Value) {
	for _, v := range root.Get("threats").Items() {
		p.Threats = append(p.Threats, policy.Threat{ID: text(v.Get("id")), Technique: text(v.Get("technique")),
			Says: proseText(v.Get("says")), Controls: texts(v.Get("controls")), Owner: proseText(v.Get("owner")),
			Status: text(v.Get("status"))})
	}
	for _, v := range root.Get("invariants").Items() {
		p.Invariants = append(p.Invariants, policy.Invariant{ID: text(v.Get("id")), Says: proseText(v.Get("says")),
			From: texts(v.Get("from")), To: texts(v.Get("to")), Transitive: truthOf(v.Get("transitive")),
			Owner: proseText(v.Get("owner")), Pos: v.Pos()})
	}
	for _, v := range root.Get("relaxations").Items() {
		p.Relaxations = append(p.Relaxations, policy.Relaxation{Invariant: text(v.Get("invariant")),
			For: texts(v.Get("for")), Why: why(v), Pos: v.Pos()})
	}
	for _, v := range root.Get("tests").Items() {
		p.Tests = append(p.Tests, policy.Test{From: text(v.Get("from")), To: text(v.Get("to")),
			Allow: texts(v.Get("allow")), Deny: texts(v.Get("deny")), Pos: v.Pos()})
	}
}

func services(v yamldoc.Value) []policy.Service {
	var all []policy.Service
	for k, s := range v.Entries() {
		service := policy.Service{Name: text(k), Protocol: text(s.Get("protocol")), Read: texts(s.Get("read")),
			Write: texts(s.Get("write"))}
		ports := text(s.Get("port")).Value
		if short, ok := s.Text(); ok {
			service.Protocol = text(s)
			service.Protocol.Value, ports, _ = strings.Cut(short, "/")
		}
		service.Lo, service.Hi = parsePortRange(ports)
		all = append(all, service)
	}
	return all
}

func bindings(v yamldoc.Value) []policy.Binding {
	var all []policy.Binding
	for target, b := range v.Entries() {
		if b.Kind() == yamldoc.Map {
			all = append(all, policy.Binding{Target: text(target), Fields: fields(b)})
			continue
		}
		for _, item := range b.Items() {
			all = append(all, policy.Binding{Target: text(target), Fields: fields(item)})
		}
	}
	return all
}

func fields(v yamldoc.Value) []policy.Field {
	var all []policy.Field
	for k, val := range v.Entries() {
		f := policy.Field{Key: text(k), Map: fields(val)}
		if val.Kind() == yamldoc.List {
			f.List = texts(val)
		} else {
			f.Text = text(val)
		}
		all = append(all, f)
	}
	return all
}

// text returns a scalar and its place, the zero Text if there is none.
func text(v yamldoc.Value) policy.Text {
	if v.Kind() == yamldoc.Missing {
		return policy.Text{}
	}
	t, ok := v.Text()
	if !ok && v.Kind() == yamldoc.Null {
		t = v.Node().Value // a key such as `null`, which is a name like any other
	}
	return policy.Text{Value: t, Pos: v.Pos()}
}

// texts returns one scalar or a list of them.
func texts(v yamldoc.Value) []policy.Text {
	switch v.Kind() {
	case yamldoc.Scalar:
		return []policy.Text{text(v)}
	case yamldoc.List:
		all := make([]policy.Text, 0, v.Len())
		for _, item := range v.Items() {
			all = append(all, text(item))
		}
		return all
	}
	return nil
}

// proseText returns a text for people on one line.
func proseText(v yamldoc.Value) policy.Text {
	t := text(v)
	t.Value = folded(t.Value)
	return t
}

// folded replaces all white space by single spaces, so that a text means the
// same however it is broken into lines.
func folded(t string) string { return strings.Join(strings.Fields(t), " ") }

func shortOrKey(v yamldoc.Value, key string) policy.Text {
	if v.Kind() == yamldoc.Scalar {
		return text(v)
	}
	return text(v.Get(key))
}

func why(v yamldoc.Value) policy.Why {
	return policy.Why{Because: proseText(v.Get("because")), Owner: proseText(v.Get("owner")), Until: day(v.Get("until"))}
}

func budgetOf(v yamldoc.Value) policy.Budget {
	return policy.Budget{Bytes: text(v.Get("bytes")), Requests: text(v.Get("requests")), Concurrent: text(v.Get("concurrent"))}
}

func acceptanceOf(v yamldoc.Value) policy.Acceptance {
	return policy.Acceptance{By: proseText(v.Get("by")), On: day(v.Get("on"))}
}

func day(v yamldoc.Value) policy.Date {
	if v.Kind() == yamldoc.Missing {
		return policy.Date{}
	}
	t, _ := time.Parse(time.DateOnly, text(v).Value)
	return policy.Date{Time: t, Pos: v.Pos()}
}

func truthOf(v yamldoc.Value) bool {
	b, _ := v.Bool()
	return b
}
