package egress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxProxyLine is the longest header of version 1, with its CRLF; maxProxyBlock
// what is read of one of version 2 besides the addresses.
const (
	maxProxyLine  = 107
	maxProxyBlock = 4 << 10
)

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

var errNoProxyHeader = errors.New("its connection does not begin with a header of the PROXY protocol")

// readProxyHeader reads the header of the PROXY protocol, versions 1 and 2, and
// not a byte more. The address is not valid if the balancer speaks for itself
// (LOCAL, UNKNOWN).
func readProxyHeader(conn net.Conn) (netip.AddrPort, error) {
	var b [maxProxyLine]byte
	if _, err := io.ReadFull(conn, b[:len(proxySignature)]); err != nil {
		return netip.AddrPort{}, errNoProxyHeader
	}
	if bytes.Equal(b[:len(proxySignature)], proxySignature) {
		return readProxyBlock(conn)
	}
	if !bytes.HasPrefix(b[:], []byte("PROXY ")) {
		return netip.AddrPort{}, errNoProxyHeader
	}
	n := len(proxySignature)
	for b[n-1] != '\n' {
		if n == len(b) {
			return netip.AddrPort{}, errNoProxyHeader
		}
		if _, err := io.ReadFull(conn, b[n:n+1]); err != nil {
			return netip.AddrPort{}, errNoProxyHeader
		}
		n++
	}
	line, ok := strings.CutSuffix(string(b[:n]), "\r\n")
	if !ok {
		return netip.AddrPort{}, errNoProxyHeader
	}
	return parseProxyLine(line)
}

func parseProxyLine(line string) (netip.AddrPort, error) {
	words := strings.Split(line, " ")
	if len(words) >= 2 && words[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return netip.AddrPort{}, errNoProxyHeader
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		addr, err := netip.ParseAddr(words[2+i])
		port, perr := strconv.ParseUint(words[4+i], 10, 16)
		if err != nil || perr != nil || addr.Zone() != "" || addr.Is4() != (words[1] == "TCP4") || words[4+i][0] == '+' {
			return netip.AddrPort{}, fmt.Errorf("its PROXY header says no address")
		}
		ends[i] = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	}
	return ends[0], nil
}

// readProxyBlock reads what follows the signature of version 2.
func readProxyBlock(conn net.Conn) (netip.AddrPort, error) {
	var h [4]byte
	if _, err := io.ReadFull(conn, h[:]); err != nil {
		return netip.AddrPort{}, errNoProxyHeader
	}
	size := int(binary.BigEndian.Uint16(h[2:]))
	if h[0]>>4 != 2 || h[0]&15 > 1 || size > maxProxyBlock {
		return netip.AddrPort{}, errNoProxyHeader
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(conn, b); err != nil {
		return netip.AddrPort{}, errNoProxyHeader
	}
	if h[0]&15 == 0 { // LOCAL
		return netip.AddrPort{}, nil
	}
	switch h[1] {
	case 0x11: // TCP over IPv4
		if size < 12 {
			return netip.AddrPort{}, errNoProxyHeader
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), binary.BigEndian.Uint16(b[8:])), nil
	case 0x21: // TCP over IPv6
		if size < 36 {
			return netip.AddrPort{}, errNoProxyHeader
		}
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.BigEndian.Uint16(b[32:])), nil
	}
	return netip.AddrPort{}, errors.New("its PROXY header is of no TCP connection")
}
