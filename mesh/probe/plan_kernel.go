package probe

import (
	"fmt"
	"net/netip"
)

// Numbers of Linux (socket.h, in.h). They are data here, so that a plan can be
// made and tested anywhere.
const (
	afInet, afInet6, afPacket, afVsock   = 2, 10, 17, 40
	sockStream, sockDgram, sockRaw       = 1, 2, 3
	sockSeqpacket, sockDCCP              = 5, 6
	protoICMP, protoDCCP, protoICMPv6    = 1, 33, 58
	protoSCTP, protoUDPLite, protoMPTCP  = 132, 136, 262
	protoRaw                             = 255
	noSuchSocket, noSuchKind, noSuchType = "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"
)

// socketKind is a socket that the net package does not make.
type socketKind struct {
	name                   string
	domain, kind, protocol int
}

// sockets adds what passes by TCP and UDP: raw sockets, and other transports.
func (pl *planner) sockets(m *Member, victim string) {
	for _, s := range []socketKind{
		{"a raw ICMP socket", afInet, sockRaw, protoICMP},
		{"a raw IP socket", afInet, sockRaw, protoRaw},
		{"a raw IPv6 socket", afInet6, sockRaw, protoRaw},
		{"a packet socket", afPacket, sockRaw, 0},
		{"a packet socket for datagrams", afPacket, sockDgram, 0},
		{"a socket to the hypervisor", afVsock, sockStream, 0},
	} {
		pl.socket(m, rawSocket, s, netip.Addr{})
	}
	for _, addr := range pl.Addresses[victim] {
		if addr.Is4() {
			pl.socket(m, otherTransport, socketKind{"ICMP echo", afInet, sockDgram, protoICMP}, addr)
			pl.socket(m, otherTransport, socketKind{"SCTP", afInet, sockStream, protoSCTP}, addr)
			pl.socket(m, otherTransport, socketKind{"DCCP", afInet, sockDCCP, protoDCCP}, addr)
			pl.socket(m, otherTransport, socketKind{"UDP-Lite", afInet, sockDgram, protoUDPLite}, addr)
			pl.socket(m, otherTransport, socketKind{"Multipath TCP", afInet, sockStream, protoMPTCP}, addr)
			continue
		}
		pl.socket(m, otherTransport, socketKind{"ICMPv6 echo", afInet6, sockDgram, protoICMPv6}, addr)
	}
}

func (pl *planner) socket(m *Member, kind Kind, s socketKind, addr netip.Addr) {
	c := Case{Kind: kind, Name: m.Name + ": " + s.name, From: m.Name, Policy: "a workload speaks TCP and UDP, and neither is raw", want: wantStop,
		accept: []string{"EPERM", "EACCES", noSuchSocket, noSuchKind, noSuchType},
		Task:   Task{Do: OpenSocket, Domain: s.domain, Type: s.kind, Protocol: s.protocol, Hold: holdOpen}}
	if addr.IsValid() {
		// A port that nobody serves: what a permission allows is no attack.
		c.Task.To, c.Task.Bind = netip.AddrPortFrom(addr, 1), pl.own(m.Name, addr)
		if !c.Task.Bind.IsValid() {
			return
		}
	}
	if s.protocol == protoMPTCP {
		c.want = wantProxyRefusal // it is TCP to whoever does not know better
	}
	pl.add(c)
}

// kernel adds what would change the isolation itself, and what leads out of it
// without the network.
func (pl *planner) kernel(m *Member) {
	denied := []string{"EPERM", "EACCES"}
	do := func(kind Kind, name, policy string, accept []string, t Task) {
		pl.add(Case{Kind: kind, Name: m.Name + ": " + name, From: m.Name, Policy: policy, want: wantStop, accept: accept, Task: t})
	}
	const powerless = "a workload has no capability"
	do(setMark, "SO_MARK", powerless, denied, Task{Do: MarkSocket})
	do(kernelRules, "a network interface changed", powerless, denied, Task{Do: SetLink})
	do(kernelRules, "nftables changed", powerless, denied, Task{Do: SetRules})
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/core_pattern"} {
		do(kernelRules, path+" opened for writing", powerless, append(denied, "EROFS", "ENOENT"), Task{Do: OpenWrite, Path: path})
	}
	do(namespaces, "setns to the network of process 1", powerless, append(denied, "ENOENT"), Task{Do: EnterNamespace, Path: "/proc/1/ns/net"})
	do(namespaces, "setns to the network of the node", powerless, append(denied, "ENOENT", "ESRCH"),
		Task{Do: EnterNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", pl.PID)})
	do(namespaces, "rules changed from a user namespace of its own", powerless, append(denied, "EINVAL", "ENOSPC", "EUSERS"), Task{Do: NewUser})
	do(processes, fmt.Sprintf("process %d, the node", pl.PID), "a workload sees only its own processes", append(denied, "ESRCH"), Task{Do: Reach, PID: pl.PID})
	hidden := append(denied, "ENOENT", "ENOTDIR", "ECONNREFUSED")
	const private = "bulkhead's files are no workload's"
	for _, path := range pl.Sockets {
		do(unixSockets, path, private, hidden, Task{Do: DialUnix, Path: path})
	}
	for _, dir := range pl.Private {
		do(unixSockets, dir, private, append(hidden, emptyFolder), Task{Do: ListFolder, Path: dir})
	}
	others := 0
	for i := range pl.Members {
		other := pl.Members[i].Name
		if path := pl.APIs[other]; other != m.Name && path != "" && others < maxOthers {
			others++
			do(unixSockets, path, "a workload has one Workload API, its own", hidden, Task{Do: DialUnix, Path: path})
		}
	}
}

// maxOthers is how many other Workload APIs each workload tries to reach.
const maxOthers = 16
