package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"bulkhead/mesh/identity"
	"bulkhead/mesh/report"
	"bulkhead/mesh/tunnel"
)

// mesh is two identities and a listener for tunnels to one of them.
type mesh struct {
	keeper *identity.Keeper
	own    *x509svid.SVID
	to     netip.AddrPort
}

func newMesh(t *testing.T, config func(identity.Source) *tls.Config) *mesh {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	authority, err := identity.OpenAuthority(filepath.Join(t.TempDir(), "authority"), identity.AuthorityOptions{TrustDomain: "p.example", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := identity.NewKeeper(identity.KeeperOptions{TrustDomain: "p.example", Issuer: authority, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	keeper.Keep(map[string]string{"client": "a", "server": "b"})
	go keeper.Run(t.Context()) // ends with the test
	if err := keeper.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	own, err := keeper.SVID("client")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := tunnel.Serve(ctx, ln, config(keeper), refuseOthers, nil); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &mesh{keeper, own, netip.MustParseAddrPort(ln.Addr().String())}
}

// refuseOthers is a proxy that permits port 53 of server to everybody.
func refuseOthers(_ context.Context, in *tunnel.Incoming) {
	if in.Request.Workload != "server" || in.Request.Port != 53 {
		_ = in.Refuse(tunnel.Refusal{Code: "denied", Says: "no permission"})
		return
	}
	if s, err := in.Accept(); err == nil {
		s.Close()
	}
}

func (m *mesh) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", m.to.String())
}

// attack tries a case of a plan against the mesh.
func (m *mesh) attack(t *testing.T, c *Case) report.ProbeResult {
	t.Helper()
	c.Task.To = m.to
	var src identity.Source
	if c.AsProxy() {
		src = m.keeper
	}
	o := Tunnel(t.Context(), &c.Task, m.own, src, m.dial)
	r, _ := Judge(c, &o, nil)
	return r
}

// attacks are the cases of a plan against the tunnel of server.
func attacks(t *testing.T) []*Case {
	p := platformOf(t, platformText)
	var out []*Case
	for _, c := range Plan(p, Filter{From: "client", To: "server"}) {
		if c.Here {
			out = append(out, c)
		}
	}
	if len(out) != len(intrusions)+3 {
		t.Fatalf("%d attacks on a tunnel, want %d intrusions and 3 streams", len(out), len(intrusions))
	}
	return out
}

func TestTunnelsWithstand(t *testing.T) {
	m := newMesh(t, func(src identity.Source) *tls.Config { return identity.ServerTLS(src, "server") })
	for _, c := range attacks(t) {
		if r := m.attack(t, c); r.Outcome != report.AsExpected {
			t.Errorf("%s: %s, %s (%s)", c.Name, r.Outcome, r.Says, r.Observed)
		}
	}
}

// TestAServerThatAnswersIsASurprise: against a server that believes everybody each
// attack must be a surprise, or it would prove nothing against one that does not.
func TestAServerThatAnswersIsASurprise(t *testing.T) {
	m := newMesh(t, func(src identity.Source) *tls.Config { return identity.ServerTLS(src, "server") })
	svid, err := m.keeper.SVID("server")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go believe(c, chainOf(svid))
		}
	}()
	m.to = netip.MustParseAddrPort(ln.Addr().String())
	for _, c := range attacks(t) {
		if c.AsProxy() {
			continue
		}
		if r := m.attack(t, c); r.Outcome != report.Surprise {
			t.Errorf("%s: %s, %s (%s)", c.Name, r.Outcome, r.Says, r.Observed)
		}
	}
}

// believe answers plaintext with plaintext, and TLS with an accepted stream.
func believe(c net.Conn, certificate *tls.Certificate) {
	defer c.Close()
	first := &peeked{Conn: c}
	var b [512]byte
	if n, err := c.Read(b[:]); err != nil {
		return
	} else if first.head = b[:n]; b[0] != 0x16 {
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		return
	}
	s := tls.Server(first, &tls.Config{Certificates: []tls.Certificate{*certificate}, ClientAuth: tls.RequestClientCert, NextProtos: []string{identity.Protocol}})
	if _, err := s.Read(b[:]); err == nil {
		_, _ = s.Write([]byte{2, 0, 0, 0}) // accept
	}
}

type peeked struct {
	net.Conn
	head []byte
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
