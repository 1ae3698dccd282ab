package host

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// maxExtensions is how many extension headers of IPv6 are followed.
const maxExtensions = 8

// parsePacket reads the addresses of an IP packet of which the beginning is
// known. It reports false for what is no IP packet. Ports that the beginning
// does not hold are 0.
func parsePacket(b []byte) (network string, from, to netip.AddrPort, ok bool) {
	if len(b) == 0 {
		return "", from, to, false
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		return parse6(b)
	}
	return "", from, to, false
}

func parse4(b []byte) (network string, from, to netip.AddrPort, ok bool) {
	header := int(b[0]&15) * 4
	if header < 20 || len(b) < 20 {
		return "", from, to, false
	}
	src := netip.AddrFrom4([4]byte(b[12:16]))
	dst := netip.AddrFrom4([4]byte(b[16:20]))
	rest := b[min(header, len(b)):]
	if binary.BigEndian.Uint16(b[6:8])&0x1fff != 0 {
		rest = nil // a later fragment has no ports
	}
	network, from, to = transport(b[9], src, dst, rest)
	return network, from, to, true
}

func parse6(b []byte) (network string, from, to netip.AddrPort, ok bool) {
	if len(b) < 40 {
		return "", from, to, false
	}
	src := netip.AddrFrom16([16]byte(b[8:24]))
	dst := netip.AddrFrom16([16]byte(b[24:40]))
	next, rest := b[6], b[40:]
	for range maxExtensions {
		size, isExtension := extension(next, rest)
		if !isExtension {
			break
		}
		if size > len(rest) || len(rest) < 8 {
			rest = nil
			break
		}
		if next == headerFragment && binary.BigEndian.Uint16(rest[2:4])&0xfff8 != 0 {
			next, rest = rest[0], nil
			break
		}
		next, rest = rest[0], rest[size:]
	}
	network, from, to = transport(next, src, dst, rest)
	return network, from, to, true
}

// The extension headers of IPv6 that precede a transport.
const (
	headerHopByHop    = 0
	headerRouting     = 43
	headerFragment    = 44
	headerAH          = 51
	headerDestination = 60
)

func extension(next byte, b []byte) (size int, ok bool) {
	length := 0
	if len(b) > 1 {
		length = int(b[1])
	}
	switch next {
	case headerHopByHop, headerRouting, headerDestination:
		return 8 + length*8, true
	case headerFragment:
		return 8, true
	case headerAH:
		return 8 + length*4, true
	}
	return 0, false
}

func transport(proto byte, src, dst netip.Addr, b []byte) (network string, from, to netip.AddrPort) {
	var sport, dport uint16
	switch proto {
	case protoTCP:
		network = "tcp"
	case protoUDP:
		network = "udp"
	case protoICMP, protoICMPv6:
		network = "icmp"
	default:
		network = "protocol " + strconv.Itoa(int(proto))
	}
	if (proto == protoTCP || proto == protoUDP) && len(b) >= 4 {
		sport, dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	return network, netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
}
