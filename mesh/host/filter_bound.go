package host

import "fmt"

// bound is a workload whose processes already run, in the machine's own
// network namespace.
type bound struct {
	member  *Member
	cgroup  cgroup
	capture uint16 // the port of loopback where its connections are captured
	index   uint32 // unlike that of every other bound workload
}

// selfMark marks what a bound workload sends over loopback, until the other end
// is known to be its own too.
func (b *bound) selfMark() uint32 { return 0x0b<<16 | b.index }

// boundFilter is the only filter in the machine's own namespace. It decides
// about sockets in the control groups of bound workloads and lets everything
// else pass. Of a bound workload it redirects TCP and declared UDP to the
// proxy, and lets through what stays within the workload; to it, it lets only
// the proxy.
func boundFilter(name string, all []bound) table {
	t := table{name: name}
	output := chain{name: "output", hook: outputHook}
	input := chain{name: "input", hook: inputHook}
	forward := chain{name: "forward", hook: forwardHook}
	capture := chain{name: "redirect", hook: outputHook, nat: true, rule: []rule{
		{mark: proxyMark, do: verdict{kind: accept}},
	}}
	output.rule = append(output.rule, rule{mark: proxyMark, do: verdict{kind: setCtMark, mark: proxyMark}})
	for i := range all {
		b := &all[i]
		captures := sets4and6(fmt.Sprintf("captures%d_", b.index), set{key: []field{fieldTo, fieldToPort}, ports: true})
		for _, c := range b.member.UDP {
			captures[family(c.To.Addr())].add(element{to: host(c.To.Addr()), toPort: port(c.To.Port()), value: c.Local})
		}
		t.sets = append(t.sets, captures[:]...)
		own := boundChains(b, captures)
		t.chains = append(t.chains, own[:]...)
		output.rule = append(output.rule, rule{socketIn: &b.cgroup, do: verdict{kind: jump, chain: own[0].name}})
		input.rule = append(input.rule, rule{socketIn: &b.cgroup, do: verdict{kind: jump, chain: own[1].name}})
		capture.rule = append(capture.rule, rule{socketIn: &b.cgroup, do: verdict{kind: jump, chain: own[2].name}})
	}
	for i := range all {
		// What it sent over loopback to somebody else. While a connection opens,
		// its socket has no control group yet; conntrack knows it by then.
		mark := all[i].selfMark()
		input.rule = append(input.rule,
			rule{mark: mark, ctMark: mark, do: verdict{kind: accept}},
			rule{mark: mark, do: verdict{kind: logged}},
			rule{mark: mark, proto: protoTCP, do: verdict{kind: reset}},
			rule{mark: mark, do: verdict{kind: drop}})
		// A socket that is tied to lo can send there what is for elsewhere.
		forward.rule = append(forward.rule, rule{mark: mark, do: verdict{kind: drop}})
	}
	t.chains = append([]chain{refusedChain()}, append(t.chains, output, input, forward, capture)...)
	return t
}

// boundChains are the rules for what one bound workload sends, what arrives at
// its sockets, and what of it is redirected.
func boundChains(b *bound, captures [2]*set) [3]chain {
	output := []rule{
		{dnat: true, do: verdict{kind: accept}},
		{dir: reply, ctMark: proxyMark, do: verdict{kind: accept}},
		{do: verdict{kind: setMark, mark: b.selfMark()}}, // also tells whose a denial is
		{out: "lo", do: verdict{kind: accept}},
		{do: verdict{kind: jump, chain: "refused"}},
	}
	input := []rule{
		{in: "lo", dnat: true, dir: reply, do: verdict{kind: accept}},
		{in: "lo", mark: proxyMark, do: verdict{kind: accept}},
		{in: "lo", mark: b.selfMark(), do: verdict{kind: setCtMark, mark: b.selfMark()}},
		{in: "lo", mark: b.selfMark(), do: verdict{kind: accept}},
		// The answer to its own SYN is sent by a socket without a control group.
		{in: "lo", ctMark: b.selfMark(), dir: reply, do: verdict{kind: accept}},
		{in: "lo", proto: protoTCP, rst: true, dir: reply, do: verdict{kind: accept}},
		{do: verdict{kind: drop}},
	}
	capture := []rule{
		{out: "lo", do: verdict{kind: accept}},
		{proto: protoTCP, do: verdict{kind: redirect, port: b.capture}},
	}
	for i, s := range captures {
		capture = append(capture, rule{family: [2]uint8{4, 6}[i], proto: protoUDP, do: verdict{kind: redirectBy, set: s}})
	}
	return [3]chain{
		{name: fmt.Sprintf("output%d", b.index), rule: output},
		{name: fmt.Sprintf("input%d", b.index), rule: input},
		{name: fmt.Sprintf("redirect%d", b.index), rule: capture},
	}
}
