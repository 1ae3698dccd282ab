package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sys/unix"
)

// identityOnce asks the Workload API once for all tasks.
type identityOnce struct {
	once sync.Once
	svid *x509svid.SVID
	err  error
}

func (i *identityOnce) get() (*x509svid.SVID, error) {
	i.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		i.svid, i.err = workloadapi.FetchX509SVID(ctx) // SPIFFE_ENDPOINT_SOCKET says where
	})
	return i.svid, i.err
}

func (a *agent) do(t *Task) Observation {
	limit := patience + t.Hold
	if t.Free {
		limit = time.Second // an answer would go to somebody else
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	switch t.Do {
	case DialTCP:
		return a.dialTCP(ctx, t)
	case SendUDP:
		return a.sendUDP(ctx, t)
	case AskHTTP:
		return a.askHTTP(ctx, t)
	case AskProxy:
		return a.askProxy(ctx, t)
	case OpenTunnel, SpeakPlain:
		var own *x509svid.SVID
		if t.Credential == Own || t.Credential == Forged || t.Credential == OldTLS {
			var err error
			if own, err = a.identity.get(); err != nil {
				return Observation{Untried: errNoCertificate.Error()}
			}
		}
		return Tunnel(ctx, t, own, nil, func(ctx context.Context) (net.Conn, error) { return a.dial(ctx, t, "tcp") })
	case OpenSocket:
		return a.openSocket(ctx, t)
	case FetchSVID:
		return a.fetchSVID()
	}
	return reachFor(t)
}

// dial connects after it has bound an address and announced it.
func (a *agent) dial(ctx context.Context, t *Task, network string) (net.Conn, error) {
	version := "4"
	if t.To.Addr().Is6() {
		version = "6"
	}
	again := false
	d := net.Dialer{ControlContext: func(ctx context.Context, _, _ string, c syscall.RawConn) error {
		var local netip.AddrPort
		var err error
		if again { // package net tries some errors again; an address is announced once
			return errors.New("no address is left to dial from")
		}
		again = true
		if e := c.Control(func(fd uintptr) { local, err = bind(int(fd), t) }); e != nil || err != nil {
			return errors.Join(e, err)
		}
		return a.announce(ctx, t.ID, local)
	}}
	return d.DialContext(ctx, network+version, t.To.String())
}

// bind gives a socket a port at the task's address, and returns both.
func bind(fd int, t *Task) (netip.AddrPort, error) {
	if !t.Bind.IsValid() {
		t.Bind = netip.IPv4Unspecified()
		if t.To.Addr().Is6() {
			t.Bind = netip.IPv6Unspecified()
		}
	}
	if t.Free {
		level, option := unix.SOL_IP, unix.IP_FREEBIND
		if t.Bind.Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return netip.AddrPort{}, os.NewSyscallError("setsockopt", err)
		}
	}
	err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(t.Bind, t.From)))
	if err == unix.EADDRINUSE { // a server of the workload has it
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(t.Bind, 0)))
	}
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("bind", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("a socket has the name %T", name)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func (a *agent) dialTCP(ctx context.Context, t *Task) Observation {
	o := Observation{Stage: AtConnect}
	conn, err := a.dial(ctx, t, "tcp")
	if err != nil {
		o.fail(err)
		return o
	}
	defer conn.Close()
	o.Connected = true
	o.watch(conn, t.Hold)
	return o
}

func (a *agent) sendUDP(ctx context.Context, t *Task) Observation {
	o := Observation{Stage: AtConnect}
	conn, err := a.dial(ctx, t, "udp")
	if err != nil {
		o.fail(err)
		return o
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "bulkhead probe\n"); err != nil {
		o.fail(err)
		return o
	}
	o.watch(conn, t.Hold)
	return o
}

// askHTTP sends one request and reads the answer's status. A refusal of a proxy
// is told by its body: `{"error":"denied",…}`.
func (a *agent) askHTTP(ctx context.Context, t *Task) Observation {
	o := Observation{Stage: AtConnect}
	conn, err := a.dial(ctx, t, "tcp")
	if err != nil {
		o.fail(err)
		return o
	}
	defer conn.Close()
	o.Connected, o.Stage = true, AtAnswer
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		o.fail(err)
		return o
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bulkhead-probe\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", t.Method, t.Path, t.Host); err != nil {
		o.fail(err)
		return o
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: t.Method})
	if err != nil {
		o.fail(err)
		return o
	}
	defer resp.Body.Close()
	o.Status = resp.StatusCode
	var body struct{ Error string }
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	o.Bytes = len(text)
	o.Refused = err == nil && json.Unmarshal(text, &body) == nil && body.Error == "denied"
	return o
}

// askProxy asks a forward proxy, and says something inside the tunnel that it gives.
func (a *agent) askProxy(ctx context.Context, t *Task) Observation {
	o := Observation{Stage: AtConnect}
	conn, err := a.dial(ctx, t, "tcp")
	if err != nil {
		o.fail(err)
		return o
	}
	defer conn.Close()
	o.Connected, o.Stage = true, AtAnswer
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		o.fail(err)
		return o
	}
	if len(t.Raw) > 0 && !o.asked(conn, t) {
		return o
	}
	switch t.ServerName {
	case "":
		if _, err := conn.Write(t.Inside); err != nil {
			o.fail(err)
			return o
		}
		o.watch(conn, t.Hold)
	default:
		o.Stage = AtHandshake
		name := t.ServerName
		if name == noServerName {
			name = ""
		}
		// Whoever answers is not believed, only noticed.
		if err := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(ctx); err != nil {
			o.fail(err)
			return o
		}
		o.Done = true
	}
	return o
}

// asked sends a request to a proxy, and reports whether it gave a tunnel.
func (o *Observation) asked(conn net.Conn, t *Task) bool {
	if _, err := conn.Write(t.Raw); err != nil {
		o.fail(err)
		return false
	}
	answers := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answers, &http.Request{Method: http.MethodConnect})
	if err != nil {
		o.fail(err)
		return false
	}
	o.Status = resp.StatusCode
	if resp.StatusCode == http.StatusOK && bytes.HasPrefix(t.Raw, []byte(http.MethodConnect)) {
		return true
	}
	var body struct{ Error string }
	text, err := io.ReadAll(io.LimitReader(answers, min(max(resp.ContentLength, 0), 4096)))
	o.Refused = err == nil && json.Unmarshal(text, &body) == nil && (body.Error == "denied" || body.Error == "malformed")
	return false
}

func (a *agent) fetchSVID() Observation {
	o := Observation{Stage: AtUse}
	svid, err := a.identity.get()
	if err != nil {
		o.Error, o.Says = otherErr, err.Error()[:min(len(err.Error()), maxText)]
		return o
	}
	o.Identity = svid.ID.String()
	return o
}
