package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"bulkhead/mesh/outside"
)

// upstream is the proxy through which the gateway itself goes out; its port is 0
// if there is none.
func (g *Gateway) upstream() outside.Target {
	f := g.o.Registry.Force()
	if f == nil || f.Intent.Policy.Gateway == nil {
		return outside.Target{}
	}
	return UpstreamOf(f.Intent.Policy.Gateway.Upstream.Value)
}

// UpstreamOf reads the place of an upstream proxy, http://HOST:PORT. What cannot
// be read has port 1, at which nothing is reached.
func UpstreamOf(text string) outside.Target {
	if text == "" {
		return outside.Target{}
	}
	authority, ok := strings.CutPrefix(text, "http://")
	t, err := outside.ParseAuthority(strings.TrimSuffix(authority, "/"))
	if !ok || err != nil {
		return outside.Target{Addr: netip.IPv4Unspecified(), Port: 1}
	}
	return t
}

// throughUpstream asks a proxy for the very address that was decided about, so
// that it has no name to resolve anew. Where the proxy is was declared by who
// wrote the policy, and is not decided.
func (g *Gateway) throughUpstream(ctx context.Context, up outside.Target, addr netip.AddrPort) (net.Conn, error) {
	at := up.Addr
	if up.Host != "" {
		answer, err := g.o.Resolver.Lookup(ctx, up.Host)
		if err != nil {
			return nil, fmt.Errorf("the upstream proxy %s cannot be resolved: %w", up.Host, err)
		}
		if len(answer.Addrs) == 0 {
			return nil, fmt.Errorf("the upstream proxy %s has no address", up.Host)
		}
		at = answer.Addrs[0]
	}
	conn, err := g.o.Dial(ctx, netip.AddrPortFrom(at, up.Port))
	if err != nil {
		return nil, fmt.Errorf("the upstream proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("the upstream proxy: %w", err)
	}
	r := reader{conn: conn}
	text, err := r.head(0, dialTime)
	var h head
	if err == nil {
		err = parseAnswer(text, &h)
	}
	switch {
	case err != nil:
	case h.status/100 != 2:
		err = fmt.Errorf("it answered %d", h.status)
	case len(r.buffered()) > 0:
		err = errNoAnswer // nobody may speak before the client does
	}
	r.r, r.w = 0, 0
	r.release()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("the upstream proxy: %w", err)
	}
	if !stop() {
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	return conn, conn.SetDeadline(time.Time{})
}
