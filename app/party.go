package app

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/core/verify"
)

// side is what a name in a question means in an estate.
type side struct {
	name      string
	endpoints []int
	classes   []reach.ClassID
	// addrs are where it is, if it is outside.
	addrs netset.Addrs
	// somewhere says that it is at one of addrs and that it is not known which.
	somewhere bool
	note      string
}

func (s *side) outside() bool { return len(s.endpoints) == 0 }

// estateSide finds what text means: a workload of the policy, an address, a
// network, `internet`, a workload of the estate or a domain name.
func estateSide(a *reach.Analysis, text string, bound *verify.Bindings) (*side, error) {
	if bound != nil {
		if endpoints := bound.Workloads[text]; len(endpoints) > 0 {
			return endpointSide(a, text, endpoints), nil
		}
	}
	if text == policy.Internet {
		return addressSide(a, text, netset.PublicAddrs()), nil
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		return ipSide(a, ip.Unmap()), nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return addressSide(a, text, netset.AddrsOf(p.Masked())), nil
	}
	if endpoints := a.Find(text); len(endpoints) > 0 {
		return foundSide(a, text, endpoints)
	}
	if strings.Contains(text, ".") && !strings.Contains(text, "/") {
		return nameSide(a, strings.ToLower(text)), nil
	}
	return nil, unknownWorkload(text, a.Workloads())
}

func endpointSide(a *reach.Analysis, name string, endpoints []int) *side {
	s := &side{name: name, endpoints: endpoints}
	for _, e := range endpoints {
		if c := a.ClassOf(e); !slices.Contains(s.classes, c) {
			s.classes = append(s.classes, c)
		}
	}
	return s
}

// foundSide is what a name means that several endpoints have: the parts of one
// workload are one party, several workloads are a question back.
func foundSide(a *reach.Analysis, text string, endpoints []int) (*side, error) {
	var names []string
	for _, e := range endpoints {
		names = append(names, a.Net.Endpoints[e].Workload)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 1 {
		return nil, &InputError{Says: fmt.Sprintf("%q is ambiguous: it can be %d workloads", text, len(names)),
			Hint: "write more of the name", Choices: names}
	}
	name := names[0]
	if len(endpoints) == 1 && a.Net.Endpoints[endpoints[0]].Name() == text {
		name = text // one part of a workload
	}
	return endpointSide(a, name, endpoints), nil
}

func addressSide(a *reach.Analysis, name string, addrs netset.Addrs) *side {
	s := &side{name: name, addrs: addrs}
	for i, c := range a.Classes() {
		if c.Outside() && c.Addrs.Overlaps(addrs) {
			s.classes = append(s.classes, reach.ClassID(i))
		}
	}
	return s
}

// ipSide is an address: an endpoint that is known to be there, or outside.
func ipSide(a *reach.Analysis, ip netip.Addr) *side {
	for i := range a.Net.Endpoints {
		e := &a.Net.Endpoints[i]
		if e.AddrsKnown && e.Kind == network.Workload && e.Attachment == network.Own && e.Addrs.Contains(ip) {
			s := endpointSide(a, e.Name(), []int{i})
			s.note = fmt.Sprintf("%s is an address of %s", ip, e.Name())
			return s
		}
	}
	s := addressSide(a, ip.String(), netset.Addr(ip))
	for i := range a.Net.Endpoints {
		if e := &a.Net.Endpoints[i]; !e.AddrsKnown && e.Addrs.Contains(ip) {
			s.note = fmt.Sprintf("%s is in the address space of workloads; it is taken for something else that has it", ip)
			break
		}
	}
	return s
}

// nameSide is a domain name. One that no rule mentions is somewhere among the
// public addresses.
func nameSide(a *reach.Analysis, name string) *side {
	if c := a.ClassOfName(name); c >= 0 {
		return &side{name: name, classes: []reach.ClassID{c}}
	}
	s := addressSide(a, name, netset.PublicAddrs())
	s.somewhere = true
	s.note = fmt.Sprintf("no rule mentions %s: it is taken for any public address", name)
	return s
}

// declaredSide returns the parties of an intent that text can mean. The
// permissions towards an outside name or address are those of every
// destination that covers it.
func declaredSide(in *policy.Intent, text string, endpoints []int, bound *verify.Bindings) []policy.Party {
	if in.Workload(text) != nil {
		return []policy.Party{{Kind: policy.WorkloadParty, Name: text}}
	}
	switch text {
	case policy.Hosts:
		return []policy.Party{{Kind: policy.HostsParty, Name: text}}
	case policy.ControlPlane:
		return []policy.Party{{Kind: policy.ControlParty, Name: text}}
	}
	if len(endpoints) > 0 && bound != nil {
		return boundTo(in, endpoints, bound)
	}
	parties := []policy.Party{{Kind: policy.OutsideParty, Name: text}}
	ip, _ := netip.ParseAddr(text)
	for i := range in.Permissions {
		p := &in.Permissions[i]
		if !covers(p, text, ip) {
			continue
		}
		for _, party := range append([]policy.Party{p.To}, p.From.Members...) {
			if party.Kind == policy.OutsideParty && !slices.Contains(parties, party) {
				parties = append(parties, party)
			}
		}
	}
	return parties
}

// covers reports whether an outside party of p is or holds a name or address;
// `internet` is everything outside.
func covers(p *policy.Permission, name string, ip netip.Addr) bool {
	if ip.IsValid() && p.Addrs.Contains(ip.Unmap()) {
		return true
	}
	if name == policy.Internet && p.To.Kind == policy.OutsideParty {
		return len(p.Names) > 0 || p.Addrs.Overlaps(netset.PublicAddrs())
	}
	return slices.ContainsFunc(p.Names, func(n string) bool {
		return n == name || strings.HasPrefix(n, "*.") && strings.HasSuffix(name, n[1:])
	})
}

// boundTo returns the workloads of an intent that one of the endpoints is.
func boundTo(in *policy.Intent, endpoints []int, bound *verify.Bindings) []policy.Party {
	var out []policy.Party
	for i := range in.Policy.Workloads {
		name := in.Policy.Workloads[i].Name.Value
		if slices.ContainsFunc(bound.Workloads[name], func(e int) bool { return slices.Contains(endpoints, e) }) {
			out = append(out, policy.Party{Kind: policy.WorkloadParty, Name: name})
		}
	}
	return out
}

// intentName checks a name that is asked of a policy alone.
func intentName(in *policy.Intent, text string) error {
	if in.Workload(text) != nil || in.Destination(text) != nil || strings.ContainsAny(text, ".:") {
		return nil
	}
	switch text {
	case policy.Internet, policy.Hosts, policy.ControlPlane:
		return nil
	}
	names := workloadNames(in)
	err := &InputError{Says: fmt.Sprintf("the policy has no workload or destination %q", text)}
	candidates := slices.Clone(names)
	for i := range in.Policy.Destinations {
		candidates = append(candidates, in.Policy.Destinations[i].Name.Value)
	}
	if near := source.Nearest(text, candidates); near != "" {
		err.Hint = fmt.Sprintf("did you mean %s?", near)
	} else {
		err.Hint = "give a PATH to ask about what is deployed, or one of the workloads"
		err.Choices = names
	}
	return err
}

func workloadNames(in *policy.Intent) []string {
	var names []string
	for i := range in.Policy.Workloads {
		names = append(names, in.Policy.Workloads[i].Name.Value)
	}
	slices.Sort(names)
	return names
}
