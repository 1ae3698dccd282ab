package probe

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"bulkhead/mesh/identity"
	"bulkhead/mesh/tunnel"
)

// Dialer connects to the target of a task.
type Dialer func(context.Context) (net.Conn, error)

// Tunnel tries a task at a tunnel's port: own is the attacker's certificate, nil
// if it has none. An attacker does not verify whom it talks to.
func Tunnel(ctx context.Context, t *Task, own *x509svid.SVID, src identity.Source, dial Dialer) Observation {
	switch {
	case t.Do == SpeakPlain:
		return speakPlain(ctx, t, dial)
	case src != nil:
		return openStream(ctx, t, src, dial)
	}
	return intrude(ctx, t, own, dial)
}

// openStream asks for a stream as a proxy does, with the certificate that the
// claimed workload really has.
func openStream(ctx context.Context, t *Task, src identity.Source, dial Dialer) Observation {
	o := Observation{Task: t.ID, Stage: AtConnect}
	peer, err := spiffeid.FromString(t.Peer)
	if err != nil {
		o.Untried = err.Error()
		return o
	}
	if _, err := src.SVID(t.Claim); err != nil {
		o.Untried = err.Error()
		return o
	}
	pool := tunnel.NewPool(tunnel.PoolOptions{
		TLS:  func(peer spiffeid.ID) *tls.Config { return identity.ClientTLS(src, t.Claim, peer) },
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { return dial(ctx) },
	})
	defer pool.Close()
	stream, err := pool.Open(ctx, t.To, peer, tunnel.Request{Workload: t.Workload, Network: "tcp", Port: t.Port, ID: t.ID, Probe: t.ID})
	var refused *tunnel.RefusedError
	switch {
	case err == nil:
		o.Stage, o.Done = AtStream, true
		stream.Reset()
	case errors.As(err, &refused):
		o.Stage, o.Error, o.Says = AtStream, refused.Code, refused.Says
	default:
		o.fail(err)
	}
	return o
}

// intrude shakes hands and asks for a stream. Whatever it is answered, other than
// an alert or the end, says that it was believed.
func intrude(ctx context.Context, t *Task, own *x509svid.SVID, dial Dialer) Observation {
	o := Observation{Task: t.ID, Stage: AtConnect}
	certificate, err := t.Credential.make(own, t.Claim)
	if err != nil {
		o.Untried = err.Error()
		return o
	}
	conn, err := dial(ctx)
	if err != nil {
		o.fail(err)
		return o
	}
	defer conn.Close()
	o.Connected, o.Stage = true, AtHandshake
	c := tls.Client(conn, attackerTLS(t, certificate))
	_ = c.SetDeadline(time.Now().Add(patience)) // a socket that is open takes it
	if err := c.HandshakeContext(ctx); err != nil {
		o.fail(err)
		return o
	}
	if t.Credential == OldTLS {
		o.Done, o.Says = true, "TLS 1.2 was negotiated"
		return o
	}
	// With TLS 1.3 the client is done before the server has seen its certificate.
	if _, err := c.Write(openFrame(t)); err != nil {
		o.fail(err)
		return o
	}
	var answer [4]byte
	if o.Bytes, err = c.Read(answer[:]); o.Bytes > 0 {
		o.Stage, o.Done, o.Says = AtStream, true, fmt.Sprintf("the other side answered with a frame of kind %d", answer[0])
		return o
	}
	o.fail(err)
	return o
}

func attackerTLS(t *Task, certificate *tls.Certificate) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: t.ServerName, NextProtos: []string{identity.Protocol},
		InsecureSkipVerify: true, // an attacker takes any server
	}
	if t.Credential == OldTLS {
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	}
	if certificate != nil {
		// Sent whatever authorities the server names.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return cfg
}

// openFrame is the first frame of a tunnel's client, written by hand: an attacker
// does not depend on what the library refuses to send.
func openFrame(t *Task) []byte {
	const frameOpen, tcp = 1, 1
	b := binary.BigEndian.AppendUint16([]byte{frameOpen, 0, 0, 0, tcp}, t.Port)
	for _, s := range []string{t.Workload, t.ID, t.ID} {
		s = s[:min(len(s), 255)]
		b = append(append(b, byte(len(s))), s...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
	return b
}

// speakPlain sends an HTTP request to a port that speaks TLS.
func speakPlain(ctx context.Context, t *Task, dial Dialer) Observation {
	o := Observation{Task: t.ID, Stage: AtConnect}
	conn, err := dial(ctx)
	if err != nil {
		o.fail(err)
		return o
	}
	defer conn.Close()
	o.Connected, o.Stage = true, AtReceive
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", t.Workload); err != nil {
		o.fail(err)
		return o
	}
	b := make([]byte, 512)
	n, err := conn.Read(b)
	const alert = 0x15
	if n > 0 && b[0] != alert {
		o.Bytes, o.Done = n, true
		return o
	}
	if n > 0 {
		o.Error, o.Says = "alert", "it answered with a TLS alert"
		return o
	}
	o.fail(err)
	return o
}
