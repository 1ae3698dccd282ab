package host

import "net/netip"

// tuple is a plaintext flow between two addresses of one family.
type tuple struct {
	plain    Plain
	from, to netip.Addr
	proto    uint8
	ports    ports
}

// tuples returns the plaintext flows by address, in the order of the plan.
func (p *Plan) tuples() []tuple {
	if len(p.Plain) == 0 {
		return nil
	}
	members := make(map[string]*Member, len(p.Members))
	for i := range p.Members {
		members[p.Members[i].Name] = &p.Members[i]
	}
	var out []tuple
	for _, t := range p.Plain {
		from, to := members[t.From], members[t.To]
		if from == nil || to == nil {
			continue
		}
		for _, a := range from.addresses() {
			if b := to.address(a); b.IsValid() {
				out = append(out, tuple{t, a, b, protoOf(t.Network), ports{t.Lo, t.Hi}})
			}
		}
	}
	return out
}

// fabricFilter is the filter of the namespace that routes between workloads. It
// forwards tunnels through doors and declared plaintext, and only packets whose
// source is the address of the workload behind the interface. link names the
// interface of a member.
func fabricFilter(p *Plan, tuples []tuple, link func(workload string) string) table {
	sources := sets4and6("sources", set{key: []field{fieldIn, fieldFrom}})
	for i := range p.Members {
		m := &p.Members[i]
		for _, a := range m.addresses() {
			sources[family(a)].add(element{in: link(m.Name), from: host(a)})
		}
	}
	doors := fabricDoors(p)
	key := []field{fieldFrom, fieldTo, fieldProto, fieldToPort}
	there := sets4and6("plain", set{key: key, ranges: true, counted: true})
	back := sets4and6("answers", set{key: key, ranges: true, counted: true})
	for _, t := range tuples {
		e := t.element()
		there[family(t.from)].add(e)
		back[family(t.from)].add(e)
	}
	sets := append(append(sources[:], doors[:]...), there[:]...)
	return table{
		name: "bulkhead",
		sets: append(sets, back[:]...),
		chains: []chain{
			{name: "spoofed", rule: []rule{{do: verdict{kind: logged}}, {do: verdict{kind: drop}}}},
			{name: "input", hook: inputHook, drop: true},
			{name: "output", hook: outputHook, drop: true, rule: []rule{
				{proto: protoTCP, rst: true, do: verdict{kind: accept}}, // see fabricForward
			}},
			{name: "forward", hook: forwardHook, drop: true, rule: fabricForward(sources, doors, there, back)},
		},
	}
}

func (t tuple) element() element {
	return element{from: host(t.from), to: host(t.to), proto: t.proto, toPort: t.ports}
}

func fabricDoors(p *Plan) [2]*set {
	doors := sets4and6("doors", set{key: []field{fieldFrom, fieldTo}, ranges: true})
	zones := make(map[string]Zone, len(p.Zones))
	for _, z := range p.Zones {
		zones[z.Name] = z
	}
	for _, d := range p.Doors {
		from, to := zones[d.From], zones[d.To]
		if from.V4.IsValid() && to.V4.IsValid() {
			doors[0].add(element{from: from.V4.Masked(), to: to.V4.Masked()})
		}
		if from.V6.IsValid() && to.V6.IsValid() {
			doors[1].add(element{from: from.V6.Masked(), to: to.V6.Masked()})
		}
	}
	return doors
}

// fabricForward permits the direction of a permission without regard to state,
// so that it ends when the permission does, and the other direction only for
// packets that conntrack knows as replies.
func fabricForward(sources, doors, there, back [2]*set) []rule {
	rules := both(sources, rule{do: verdict{kind: jump, chain: "spoofed"}}, lookup{not: true})
	rules = append(rules,
		rule{broken: true, do: verdict{kind: drop}},
		rule{proto: protoTCP, syn: true, dir: reply, do: verdict{kind: drop}})
	tunnel := rule{proto: protoTCP, toPort: port(TunnelPort), dir: original, do: verdict{kind: accept}}
	rules = append(rules, both(doors, tunnel, lookup{})...)
	answer := rule{proto: protoTCP, fromPort: port(TunnelPort), dir: reply, do: verdict{kind: accept}}
	rules = append(rules, both(doors, answer, lookup{back: true})...)
	rules = append(rules, both(there, rule{do: verdict{kind: accept}}, lookup{})...)
	rules = append(rules, both(back, rule{dir: reply, do: verdict{kind: accept}}, lookup{back: true})...)
	return append(rules,
		rule{do: verdict{kind: logged}},
		// What is cut here ends at once instead of hanging.
		rule{proto: protoTCP, do: verdict{kind: reset}})
}
