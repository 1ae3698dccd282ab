package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
)

// inspect ends the TLS of a tunnel and serves the requests in it, each decided for
// itself. The tunnel's own record says that it was inspected.
func (s *session) inspect(a *ask, in *reader, upstream net.Conn, hello outside.Hello) {
	g := s.g
	resetConn(upstream) // each request has the server verified first
	if g.o.Authority == nil {
		a.recordRefusal(g.refuse(503, "%s is inspected, and this gateway has no authority to do so", a.place()))
		resetConn(in.conn)
		return
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		Time:       g.o.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return g.o.Authority.Leaf(a.target.Host, g.o.Now())
		},
		SessionTicketsDisabled: true,
	}
	client := tls.Server(&replayed{in.conn, in}, cfg)
	ctx, cancel := context.WithTimeout(s.ctx, g.o.HelloTime)
	err := client.HandshakeContext(ctx)
	cancel()
	if err != nil {
		a.recordEnd(flow.Fail, 0, 0, 0, fmt.Errorf("its client does not accept the inspection: %w", err))
		resetConn(in.conn)
		return
	}
	if got := client.ConnectionState().ServerName; got != hello.ServerName {
		a.recordRefusal(g.refuse(403, "its TLS is for another server than it said first"))
		resetConn(in.conn)
		return
	}
	a.recordOpen()
	p := &proxied{s: s, in: reader{conn: client}, fixed: a.target, endpoint: a.endpoint, tls: &inspected{&tls.Config{
		ServerName: a.target.Host, RootCAs: g.o.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, Time: g.o.Now,
	}}}
	// The requests count themselves; the tunnel only begins and ends.
	p.serve()
	p.close()
	end := a.base(flow.Close, "allow")
	end.Duration = end.Time.Sub(a.began)
	end.Why = "inspected: its requests are recorded each"
	g.o.Sink.Record(end)
}

// lingerBefore keeps a leaf valid for clients whose clock is behind.
const lingerBefore = time.Hour
