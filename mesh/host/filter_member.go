package host

// memberFilter is the filter of a workload's namespace. It lets out: what the
// proxy sends to tunnels, what the workload sends to itself, what was
// redirected to the proxy, and declared plaintext. It lets in: tunnels, replies
// to the proxy's own, and declared plaintext. Everything else is refused and
// reported on the way out, dropped on the way in. tuples are the plaintext flows
// of the plan, those of others included or not.
func memberFilter(m *Member, tuples []tuple) table {
	captures := sets4and6("captures", set{key: []field{fieldTo, fieldToPort}, ports: true})
	if m.CgroupPath == "" {
		for _, c := range m.UDP {
			captures[family(c.To.Addr())].add(element{to: host(c.To.Addr()), toPort: port(c.To.Port()), value: c.Local})
		}
	}
	out := sets4and6("out", set{key: []field{fieldTo, fieldProto, fieldToPort}, ranges: true})
	in := sets4and6("in", set{key: []field{fieldFrom, fieldProto, fieldToPort}, ranges: true})
	for _, t := range tuples {
		e := element{proto: t.proto, toPort: t.ports}
		i := family(t.from)
		switch m.Name {
		case t.plain.From:
			e.to = host(t.to)
			out[i].add(e)
		case t.plain.To:
			e.from = host(t.from)
			in[i].add(e)
		}
	}
	return table{
		name: "bulkhead",
		sets: append(append(captures[:], out[:]...), in[:]...),
		chains: []chain{
			refusedChain(),
			{name: "input", hook: inputHook, drop: true, rule: memberInput(out, in)},
			{name: "forward", hook: forwardHook, drop: true},
			{name: "output", hook: outputHook, drop: true, rule: memberOutput(out, in)},
			{name: "redirect", hook: outputHook, nat: true, rule: memberRedirect(captures, out)},
		},
	}
}

// memberRedirect sees the first packet of each connection, and never what goes
// to loopback or to the workload's own address.
func memberRedirect(captures, out [2]*set) []rule {
	rules := []rule{
		{mark: proxyMark, do: verdict{kind: accept}},
		{out: "lo", do: verdict{kind: accept}},
	}
	rules = append(rules, both(out, rule{do: verdict{kind: accept}}, lookup{})...)
	rules = append(rules, rule{proto: protoTCP, do: verdict{kind: redirect, port: CapturePort}})
	for i, s := range captures {
		rules = append(rules, rule{family: [2]uint8{4, 6}[i], proto: protoUDP, do: verdict{kind: redirectBy, set: s}})
	}
	return rules
}

func memberOutput(out, in [2]*set) []rule {
	rules := []rule{
		// Kernel chatter (MLD) and leftovers of closed connections. On loopback
		// this must not meet the ICMP errors that tell of a refusal.
		{out: meshLink, broken: true, do: verdict{kind: drop}},
		{proto: protoTCP, broken: true, do: verdict{kind: drop}},
		{proto: protoTCP, syn: true, dir: reply, do: verdict{kind: drop}},
		// Redirected packets still name the interface by which they would have
		// left, so this asks conntrack and not the interface.
		{dnat: true, do: verdict{kind: accept}},
		{out: meshLink, mark: proxyMark, proto: protoTCP, toPort: port(TunnelPort), dir: original, do: verdict{kind: accept}},
		{out: meshLink, mark: proxyMark, proto: protoTCP, fromPort: port(TunnelPort), dir: reply, do: verdict{kind: accept}},
		// The kernel's reset for a tunnel whose socket is gone has no mark.
		{out: meshLink, proto: protoTCP, fromPort: port(TunnelPort), dir: reply, rst: true, do: verdict{kind: accept}},
		// To the capture port comes only what was redirected, see above.
		{out: "lo", proto: protoTCP, toPort: port(CapturePort), do: verdict{kind: jump, chain: "refused"}},
		{out: "lo", proto: protoTCP, toPort: port(TunnelPort), do: verdict{kind: jump, chain: "refused"}},
		{out: "lo", do: verdict{kind: accept}},
	}
	rules = append(rules, both(out, rule{out: meshLink, do: verdict{kind: accept}}, lookup{})...)
	rules = append(rules, both(in, rule{out: meshLink, dir: reply, do: verdict{kind: accept}}, lookup{back: true})...)
	return append(rules, rule{do: verdict{kind: jump, chain: "refused"}})
}

func memberInput(out, in [2]*set) []rule {
	rules := []rule{
		{in: "lo", do: verdict{kind: accept}},
		{broken: true, do: verdict{kind: drop}},
		{proto: protoTCP, syn: true, dir: reply, do: verdict{kind: drop}},
		{in: meshLink, proto: protoTCP, toPort: port(TunnelPort), dir: original, do: verdict{kind: accept}},
		{in: meshLink, proto: protoTCP, fromPort: port(TunnelPort), dir: reply, do: verdict{kind: accept}},
	}
	rules = append(rules, both(in, rule{in: meshLink, do: verdict{kind: accept}}, lookup{})...)
	return append(rules, both(out, rule{in: meshLink, dir: reply, do: verdict{kind: accept}}, lookup{back: true})...)
}

// refusedChain reports a packet and refuses it. TCP gets a reset: an ICMP error
// finds the socket locked by the connect that waits for it.
func refusedChain() chain {
	return chain{name: "refused", rule: []rule{
		{do: verdict{kind: logged}},
		{proto: protoTCP, do: verdict{kind: reset}},
		{do: verdict{kind: refuse}},
	}}
}
