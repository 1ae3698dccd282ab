package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	route "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	sizeofDiagID     = 48
	sizeofDiagMsg    = 72
	sizeofDiagReq    = 8 + sizeofDiagID
)

// Every state in which a socket has a peer, except TIME_WAIT, which sends
// nothing by itself.
const (
	tcpListen   = 10
	tcpTimeWait = 6
	withPeer    = 0x1ffe &^ (1<<tcpListen | 1<<tcpTimeWait)
)

// diagSocket is a socket as the kernel describes it. id names it to the kernel.
type diagSocket struct {
	id            [sizeofDiagID]byte
	local, remote netip.AddrPort
}

// abort ends the sockets of the thread's namespace of which match says so, with
// ECONNABORTED for their owner and a reset for the peer.
func abort(in *thread, v6 bool, proto uint8, match func(diagSocket) bool) error {
	return in.do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		sockets, err := listSockets(conn, v6, proto)
		if err != nil {
			return fmt.Errorf("sockets cannot be listed: %w", err)
		}
		var errs error
		for _, s := range sockets {
			if !match(s) {
				continue
			}
			_, err := conn.Execute(netlink.Message{
				Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
				Data:   diagRequest(v6, proto, s.id),
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				errs = errors.Join(errs, fmt.Errorf("the connection %s to %s cannot be ended: %w", s.local, s.remote, err))
			}
		}
		return errs
	})
}

func listSockets(conn *netlink.Conn, v6 bool, proto uint8) ([]diagSocket, error) {
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   diagRequest(v6, proto, [sizeofDiagID]byte{}),
	})
	if err != nil {
		return nil, err
	}
	var out []diagSocket
	for _, m := range messages {
		if len(m.Data) < sizeofDiagMsg {
			continue
		}
		s := diagSocket{id: [sizeofDiagID]byte(m.Data[4 : 4+sizeofDiagID])}
		s.local = diagAddr(m.Data[0], s.id[4:20], s.id[0:2])
		s.remote = diagAddr(m.Data[0], s.id[20:36], s.id[2:4])
		out = append(out, s)
	}
	return out, nil
}

// diagAddr reads an address; IPv4 of an IPv6 socket counts as IPv4.
func diagAddr(family byte, addr, port []byte) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(addr)).Unmap()
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}

func diagRequest(v6 bool, proto uint8, id [sizeofDiagID]byte) []byte {
	family := byte(unix.AF_INET)
	if v6 {
		family = unix.AF_INET6
	}
	b := make([]byte, 0, sizeofDiagReq)
	b = append(b, family, proto, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, withPeer)
	return append(b, id[:]...)
}

// cutFlows ends what plaintext flows that are no longer permitted left open in
// the namespace of one of their ends: sockets, and what conntrack remembers of
// datagrams, so that those that are captured from now on are captured at once.
func cutFlows(in *thread, workload string, gone []tuple) error {
	match := func(proto uint8) func(diagSocket) bool {
		return func(s diagSocket) bool {
			return slices.ContainsFunc(gone, func(t tuple) bool {
				return t.proto == proto && (t.plain.From == workload && t.has(s.local, s.remote) || t.plain.To == workload && t.has(s.remote, s.local))
			})
		}
	}
	var errs []error
	for _, proto := range []uint8{protoTCP, protoUDP} {
		if !slices.ContainsFunc(gone, func(t tuple) bool { return t.proto == proto }) {
			continue
		}
		for _, v6 := range []bool{false, true} { // IPv4 may be used by IPv6 sockets
			if !v6 || hasIPv6 {
				errs = append(errs, abort(in, v6, proto, match(proto)))
			}
		}
		if proto == protoUDP {
			errs = append(errs, forgetFlows(in, gone))
		}
	}
	return errors.Join(errs...)
}

func forgetFlows(in *thread, gone []tuple) error {
	match := func(f *route.ConntrackFlow) bool {
		client, server := flowAddr(f.Forward.SrcIP, f.Forward.SrcPort), flowAddr(f.Forward.DstIP, f.Forward.DstPort)
		return slices.ContainsFunc(gone, func(t tuple) bool { return t.proto == f.Forward.Protocol && t.has(client, server) })
	}
	return errors.Join(forget(in, true, match), forget(in, false, match))
}

func (t tuple) has(client, server netip.AddrPort) bool {
	return client.Addr() == t.from && server.Addr() == t.to && server.Port() >= t.ports.lo && server.Port() <= t.ports.hi
}

func flowAddr(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// forgetting is a function as a filter of conntrack entries.
type forgetting func(*route.ConntrackFlow) bool

func (f forgetting) MatchConntrackFlow(flow *route.ConntrackFlow) bool { return f(flow) }

// forget removes conntrack entries of the thread's namespace, or of the
// machine's own for nil.
func forget(in *thread, v4 bool, match func(*route.ConntrackFlow) bool) error {
	family := route.InetFamily(unix.AF_INET6)
	if v4 {
		family = unix.AF_INET
	}
	forget := func() error {
		h, err := route.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.ConntrackDeleteFilters(route.ConntrackTable, family, forgetting(match))
		return err
	}
	if in == nil {
		return forget()
	}
	return in.do(forget)
}

// forgetCaptures removes what conntrack remembers of captures that are gone or
// lead elsewhere now.
func forgetCaptures(in *thread, before, now []UDPCapture) error {
	gone := map[netip.AddrPort]bool{}
	for _, c := range before {
		gone[c.To] = true
	}
	for _, c := range now {
		for _, b := range before {
			if b == c {
				delete(gone, c.To)
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	match := func(f *route.ConntrackFlow) bool {
		return f.Forward.Protocol == protoUDP && gone[flowAddr(f.Forward.DstIP, f.Forward.DstPort)]
	}
	return errors.Join(forget(in, true, match), forget(in, false, match))
}

// PlainCounters returns what each plaintext flow has carried.
func (h *Host) PlainCounters() ([]PlainCount, error) {
	h.applying.Lock()
	defer h.applying.Unlock()
	if h.fabric == nil {
		return nil, nil
	}
	counts := map[Plain]*PlainCount{}
	var out []PlainCount
	plan := h.current()
	tuples := plan.tuples()
	for _, t := range tuples {
		if counts[t.plain] == nil {
			counts[t.plain] = &PlainCount{Plain: t.plain}
		}
	}
	for name, of := range map[string]func(*PlainCount) *Count{
		"plain": func(c *PlainCount) *Count { return &c.Out }, "answers": func(c *PlainCount) *Count { return &c.In },
	} {
		got, err := h.fabric.filter.counters(name)
		if err != nil {
			return nil, fmt.Errorf("the counters of plaintext flows cannot be read: %w", err)
		}
		for _, t := range tuples {
			c, add := of(counts[t.plain]), got[t.element()]
			c.Packets += add.Packets
			c.Bytes += add.Bytes
		}
	}
	for _, p := range plan.Plain {
		if c := counts[p]; c != nil {
			out = append(out, *c)
		}
	}
	return out, nil
}

// counters returns the counts of the elements of both families' sets.
func (f *filter) counters(name string) (map[element]Count, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[element]Count{}
	for _, n := range []string{name + "4", name + "6"} {
		elements, err := f.conn.GetSetElements(f.sets[n])
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			if key, ok := decodeTuple(e.Key, e.KeyEnd); ok && e.Counter != nil {
				out[key] = Count{e.Counter.Packets, e.Counter.Bytes}
			}
		}
	}
	return out, nil
}

// decodeTuple reads the key of a plaintext flow: two addresses, a protocol and
// ports, each filled up to four bytes.
func decodeTuple(key, end []byte) (element, bool) {
	size := (len(key) - 8) / 2
	if size != 4 && size != 16 || len(key) != 2*size+8 || len(end) != len(key) {
		return element{}, false
	}
	from, _ := netip.AddrFromSlice(key[:size])
	to, _ := netip.AddrFromSlice(key[size : 2*size])
	return element{
		from: host(from), to: host(to), proto: key[2*size],
		toPort: ports{binary.BigEndian.Uint16(key[2*size+4:]), binary.BigEndian.Uint16(end[2*size+4:])},
	}, true
}
