//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"bulkhead/mesh/identity"
	"bulkhead/mesh/tunnel"
)

// role is what this program does as one of the processes that it starts: listen
// on the first address, and connect to the second.
func role(name string, args []string) error {
	if name == "backend" && len(args) == 1 {
		ln, err := net.Listen("tcp", args[0])
		if err != nil {
			return err
		}
		return backend(ln)
	}
	if len(args) != 3 {
		return errors.New("this is for the program itself; see -help")
	}
	src, err := readCertificates(args[0])
	if err != nil {
		return err
	}
	var g errgroup.Group
	switch from, to := args[1], args[2]; name {
	case "near":
		return near(src, from, to)
	case "far":
		return far(src, from, to)
	case "both":
		between, err := freeAddr()
		if err != nil {
			return err
		}
		g.Go(func() error { return far(src, between, to) })
		g.Go(func() error { return near(src, from, between) })
	default:
		return fmt.Errorf("no role %q", name)
	}
	return g.Wait()
}

type open struct{}

func (open) Revoked() bool { return false }

// near takes connections and carries them through tunnels.
func near(src identity.Source, from, to string) error {
	ln, err := net.Listen("tcp", from)
	if err != nil {
		return err
	}
	var d net.Dialer
	pool := tunnel.NewPool(tunnel.PoolOptions{
		TLS: func(peer spiffeid.ID) *tls.Config { return identity.ClientTLS(src, "near", peer) },
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", to.String())
		},
	})
	addr := netip.MustParseAddrPort(to)
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			r := tunnel.Request{Workload: "far", Network: "tcp", Port: 80, ID: "0123456789abcdef0123456789abcdef"}
			s, err := pool.Open(context.Background(), addr, id("far"), r)
			if err != nil {
				c.Close()
				return
			}
			tunnel.Relay(c, s, open{}, &tunnel.Meter{}, nil, true)
		}()
	}
}

// far takes tunnels and carries what comes to the server.
func far(src identity.Source, from, to string) error {
	ln, err := net.Listen("tcp", from)
	if err != nil {
		return err
	}
	return tunnel.Serve(context.Background(), ln, identity.ServerTLS(src, "far"), func(ctx context.Context, in *tunnel.Incoming) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", to)
		if err != nil {
			in.Refuse(tunnel.Refusal{Code: "unreachable", Says: err.Error()})
			return
		}
		s, err := in.Accept()
		if err != nil {
			c.Close()
			return
		}
		tunnel.Relay(c, s, open{}, &tunnel.Meter{}, nil, false)
	}, nil)
}
