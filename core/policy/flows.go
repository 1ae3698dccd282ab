package policy

import "fmt"

func (r *resolver) flows() {
	for i := range r.in.Policy.Flows {
		r.flow(&r.in.Policy.Flows[i])
	}
}

// flow permits what a flow says, or nothing if its terms are wrong.
func (r *resolver) flow(f *Flow) {
	if v := f.EnforcedBy.Value; v != "" && v != EnforcedByApplication {
		r.ds.Errorf("enforced-by", f.EnforcedBy.Pos, "enforcedBy %q is not known", v).WithFix("write enforcedBy: application, or leave it out")
	}
	from := r.groups(f.From)
	p := Permission{Kind: FlowKind, Plaintext: f.Plaintext, Evidence: f.Evidence, Why: f.Why, Pos: f.Pos}
	ok := r.rate(f, &p)
	ok = r.exempt(f) && ok
	var permits []Permission
	for _, to := range f.To {
		for _, t := range r.targets(to) {
			proto, _ := ProtocolByName(t.service.Protocol.Value)
			a := resolveAccess(f.May, proto, t.service, f.EnforcedBy, &r.ds)
			p.To, p.Service = Party{WorkloadParty, t.workload.Name.Value}, t.service
			p.Traffic, p.ByApplication = t.service.traffic(a), a.byApp
			at := t.workload.Name.Value + "/" + t.service.Name.Value
			if ok && f.Plaintext && p.Traffic.HasRequests() {
				r.ds.Errorf("plaintext", f.May[0].Pos, "a plaintext flow is limited to some requests of %s, and nobody reads them", at).
					WithFix("remove plaintext: or may:, or add enforcedBy: application if the application itself tells them apart")
				ok = false
			}
			for _, g := range from {
				p.From, p.Name = g, fmt.Sprintf("flow %s → %s", g.Name, at)
				permits = append(permits, p)
			}
		}
	}
	if !ok {
		return
	}
	for _, p := range permits {
		r.permit(p)
	}
}

// rate reads the rate of a flow. A cap that cannot be read is not no cap: false
// says that the flow permits nothing.
func (r *resolver) rate(f *Flow, p *Permission) bool {
	if f.Rate.Value == "" {
		return true
	}
	var err error
	if p.Rate, err = ParseRate(f.Rate.Value); err != nil {
		r.ds.Errorf("rate", f.Rate.Pos, "the rate of a flow: %v", err).WithFix("write a rate such as 100MiB/s")
	}
	return err == nil
}

// exempt reports whether a flow, if it is plaintext, says what an exemption from
// the mesh must say.
func (r *resolver) exempt(f *Flow) bool {
	if !f.Plaintext {
		return true
	}
	ok := true
	if f.Rate.Value != "" {
		r.ds.Errorf("plaintext", f.Rate.Pos, "a plaintext flow has a rate, which only the mesh can hold").
			WithFix("remove rate: or plaintext:")
		ok = false
	}
	if f.Because.Value == "" {
		r.ds.Errorf("plaintext", f.Pos, "a plaintext flow has no reason, which an exemption from the mesh needs").
			WithFix("add because: TEXT, or remove plaintext:")
		ok = false
	}
	if f.Owner.Value == "" {
		r.ds.Errorf("plaintext", f.Pos, "a plaintext flow has no owner, which an exemption from the mesh needs").
			WithFix("add owner: TEXT, or remove plaintext:")
		ok = false
	}
	return ok
}
