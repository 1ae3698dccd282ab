package app

import (
	"net"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// cable connects two networks of its own, each held by a process.
type cable struct {
	t    *testing.T
	a, b int // processes
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{t: t, a: holdNetwork(t), b: holdNetwork(t)}
	must(t, inNetworkOf(c.a, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cable"}, PeerName: "cable", PeerNamespace: netlink.NsPid(c.b)})
	}))
	must(t, inNetworkOf(c.a, func() error { return plug(addrA) }))
	must(t, inNetworkOf(c.b, func() error { return plug(addrB) }))
	return c
}

// holdNetwork returns a process with a network of its own.
func holdNetwork(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// plug gives the end of the cable in this network an address.
func plug(addr string) error {
	for _, name := range []string{"lo", "cable"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "cable" {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(24, 32)}}
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

func (c *cable) cut()  { c.set(netlink.LinkSetDown) }
func (c *cable) heal() { c.set(netlink.LinkSetUp) }

func (c *cable) set(state func(netlink.Link) error) {
	c.t.Helper()
	must(c.t, inNetworkOf(c.a, func() error {
		link, err := netlink.LinkByName("cable")
		if err != nil {
			return err
		}
		return state(link)
	}))
}
