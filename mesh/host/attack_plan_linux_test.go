package host

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// What a new plan takes away is taken away also if something else in it cannot
// be enforced: otherwise a mistake in one place keeps a quarantined workload's
// plaintext open.
func TestNetworkWrongPlanStillTakesAway(t *testing.T) {
	h := openHost(t)
	p := testPlan(h)
	p.Plain = []Plain{{"a", "c", "tcp", 9000, 9010, "r"}, {"a", "c", "udp", 9000, 9010, "r"}}
	for name, wrong := range map[string]func(*Plan){
		"a flow that nobody can enforce": func(p *Plan) { p.Plain = []Plain{{"b", "c", "tcp", 1, 65535, ""}} },
		"two with one address":           func(p *Plan) { p.Plain, p.Members[1].V4 = nil, p.Members[2].V4 },
		"a door to nowhere":              func(p *Plan) { p.Plain, p.Doors = nil, []Door{{"one", "none"}} },
	} {
		t.Run(name, func(t *testing.T) {
			apply(t, h, p)
			to := netip.AddrPortFrom(p.addr("c", false), 9001)
			l := listenAs(t, h, "c", to)
			defer l.Close()
			serveEcho(l)
			c, err := dialAs(t, h, "a", "tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			if err := echo(c, "plain"); err != nil {
				t.Fatal(err)
			}
			door, err := socketsOf(t, h, "a").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("c", false), TunnelPort))
			if err == nil {
				door.Close()
			} else if !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal(err)
			}
			bad := p
			bad.Members = append([]Member{}, p.Members...)
			wrong(&bad)
			if err := h.Apply(bad); err == nil {
				t.Fatal("a wrong plan is applied")
			}
			if err := echo(c, "over"); err == nil {
				t.Error("the connection is still open")
			}
			if c, err := dialAs(t, h, "a", "tcp", to); err == nil {
				t.Error("a new one can be opened")
				c.Close()
			}
			if bad.Doors[0].To == "none" {
				if c, err := socketsOf(t, h, "a").DialPeer(t.Context(), netip.AddrPortFrom(p.addr("c", false), TunnelPort)); !errors.Is(err, unix.ECONNRESET) && err == nil {
					t.Error("the door is still open")
					c.Close()
				}
			}
		})
	}
	apply(t, h, p) // and what is right is in force again
	to := netip.AddrPortFrom(p.addr("c", false), 9001)
	serveEcho(listenAs(t, h, "c", to))
	c, err := dialAs(t, h, "a", "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(c, "again"); err != nil {
		t.Error(err)
	}
}
