package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A link of the mesh is a veth pair without address resolution: both ends have
// the same hardware address and IFF_NOARP, so that nothing is asked of a
// neighbour and nobody can answer for another. Routes name the link, so that no
// gateway has an address that could be attacked.
var linkAddr = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// linkMTU is the largest of veth: no packet ever reaches a wire.
const linkMTU = 65535

// hasIPv6 reports whether this kernel speaks IPv6.
var hasIPv6 = func() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}()

// settings are written before a namespace has a link other than lo. A new
// namespace takes IPv4 settings from the machine's own, so all that matter are
// said here.
var (
	commonSettings = []setting{
		{"ipv4/conf/all/rp_filter", "0"}, // the fabric's filter checks sources
		{"ipv4/conf/default/rp_filter", "0"},
		{"ipv4/conf/all/accept_redirects", "0"},
		{"ipv4/conf/default/accept_redirects", "0"},
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
		{"ipv4/conf/all/accept_source_route", "0"},
		{"ipv4/conf/default/accept_source_route", "0"},
		{"ipv4/conf/all/route_localnet", "0"},
		{"ipv4/conf/default/route_localnet", "0"},
		{"ipv6/conf/all/disable_ipv6", "0"},
		{"ipv6/conf/default/disable_ipv6", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		{"ipv6/conf/default/accept_redirects", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/default/addr_gen_mode", "1"}, // no link-local address
	}
	memberSettings = []setting{
		{"ipv4/ip_forward", "0"},
		{"ipv6/conf/all/forwarding", "0"},
		// A workload has no capability, and its ports are its own.
		{"ipv4/ip_unprivileged_port_start", "0"},
	}
	fabricSettings = []setting{
		{"ipv4/ip_forward", "1"},
		{"ipv6/conf/all/forwarding", "1"},
	}
)

type setting struct{ path, value string }

// configure writes settings of the calling thread's namespace.
func configure(settings ...[]setting) error {
	for _, some := range settings {
		for _, s := range some {
			if !hasIPv6 && s.path[:4] == "ipv6" {
				continue
			}
			err := os.WriteFile(filepath.Join("/proc/sys/net", s.path), []byte(s.value), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("a network namespace cannot be configured: %w", err)
			}
		}
	}
	return nil
}

// loopback sets up lo of the calling thread's namespace.
func loopback(h *netlink.Handle) error {
	return h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
}

// netlinkOf opens a connection to the links of a namespace.
func netlinkOf(t *thread) (*netlink.Handle, error) {
	var h *netlink.Handle
	err := t.do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rtnetlink cannot be reached: %w", err)
	}
	return h, nil
}

// address returns the prefix as the kernel's, without duplicate address
// detection: nobody else can have it.
func linkAddress(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: ipNet(host(a)), Flags: unix.IFA_F_NODAD, Scope: unix.RT_SCOPE_UNIVERSE}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setUp gives the workload's end of a link its addresses and makes it the way
// to everywhere.
func setUp(t *thread, m *Member) error {
	h, err := netlinkOf(t)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(meshLink)
	if err != nil {
		return err
	}
	if err := errors.Join(loopback(h), h.LinkSetARPOff(link), h.LinkSetUp(link)); err != nil {
		return err
	}
	for _, a := range m.addresses() {
		if err := h.AddrAdd(link, linkAddress(a)); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
		everywhere := netip.PrefixFrom(unspecified(a), 0)
		if err := h.RouteAdd(routeTo(everywhere, link)); err != nil {
			return fmt.Errorf("default route of %s: %w", a, err)
		}
	}
	return waitLocal(h, m.addresses())
}

// waitLocal waits until the kernel takes packets for the addresses: it does so
// for an IPv6 address only after a work queue has run.
func waitLocal(h *netlink.Handle, addresses []netip.Addr) error {
	for _, a := range addresses {
		for try := 0; ; try++ {
			routes, err := h.RouteGet(a.AsSlice())
			if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			if try == 1000 {
				return fmt.Errorf("address %s does not come up", a)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func routeTo(p netip.Prefix, link netlink.Link) *netlink.Route {
	scope := netlink.SCOPE_LINK
	if p.Addr().Is6() {
		scope = netlink.SCOPE_UNIVERSE // IPv6 routes have no other
	}
	return &netlink.Route{Dst: ipNet(p), LinkIndex: link.Attrs().Index, Scope: scope}
}
