package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const domain = "ai.test"

func TestMain(m *testing.M) {
	scryptWork = 10
	m.Run()
}

var quiet = slog.New(slog.DiscardHandler)

// wall is a clock that tests set.
type wall struct{ offset atomic.Int64 }

func (w *wall) now() time.Time       { return time.Now().Add(time.Duration(w.offset.Load())) }
func (w *wall) jump(d time.Duration) { w.offset.Add(int64(d)) }

func newAuthority(t testing.TB, o AuthorityOptions) *Authority {
	t.Helper()
	if o.TrustDomain == "" {
		o.TrustDomain = domain
	}
	if o.Log == nil {
		o.Log = quiet
	}
	a, err := OpenAuthority(filepath.Join(t.TempDir(), "authority"), o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// fixed is a source of certificates that a test made.
type fixed struct {
	svids   map[string]*x509svid.SVID
	bundles map[spiffeid.TrustDomain]*x509bundle.Bundle
	clock   func() time.Time
}

func (f *fixed) SVID(workload string) (*x509svid.SVID, error) {
	if s := f.svids[workload]; s != nil {
		return s, nil
	}
	return nil, errors.New("none")
}

func (f *fixed) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if b := f.bundles[td]; b != nil {
		return b, nil
	}
	return nil, errors.New("not trusted")
}

func (f *fixed) FederatedX509() []*x509bundle.Bundle {
	var out []*x509bundle.Bundle
	for _, b := range f.bundles {
		out = append(out, b)
	}
	return out
}

func (f *fixed) Now() time.Time {
	if f.clock != nil {
		return f.clock()
	}
	return time.Now()
}

// sourceOf is a source that trusts authorities and has a certificate of the
// first for each workload, whose zone is z.
func sourceOf(t testing.TB, workloads []string, authorities ...*Authority) *fixed {
	t.Helper()
	f := &fixed{svids: map[string]*x509svid.SVID{}, bundles: map[spiffeid.TrustDomain]*x509bundle.Bundle{}, clock: authorities[0].now}
	for _, a := range authorities {
		f.bundles[a.td] = bundleOf(t, a).X509Bundle()
	}
	for _, w := range workloads {
		f.svids[w] = issue(t, authorities[0], "z", w)
	}
	return f
}

func bundleOf(t testing.TB, a *Authority) *spiffebundle.Bundle {
	t.Helper()
	b, err := a.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func issue(t testing.TB, a *Authority, zone, workload string) *x509svid.SVID {
	t.Helper()
	key := mustKey(t)
	certs, err := a.X509(t.Context(), X509Request{zone, workload, &key.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: mustID(t, a.td.Name(), zone, workload), Certificates: certs, PrivateKey: key}
}

func mustKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustID(t testing.TB, td, zone, workload string) spiffeid.ID {
	t.Helper()
	id, err := ID(td, zone, workload)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// shake connects a client and a server, moves a byte each way and returns the
// server's state and both errors.
func shake(client, server *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return state, err, err
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return state, err, err
	}
	b, err := ln.Accept()
	if err != nil {
		return state, err, err
	}
	return shakeOver(a, b, client, server)
}

func shakeOver(a, b net.Conn, client, server *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	defer a.Close()
	defer b.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		s := tls.Server(b, server)
		if serverErr = s.Handshake(); serverErr != nil {
			return
		}
		state = s.ConnectionState()
		one := make([]byte, 1)
		if _, serverErr = io.ReadFull(s, one); serverErr != nil {
			return
		}
		_, serverErr = s.Write(one)
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		one := []byte{1}
		if _, clientErr = c.Write(one); clientErr == nil {
			_, clientErr = io.ReadFull(c, one)
		}
	}
	a.Close()
	<-done
	return state, clientErr, serverErr
}

// local is an issuer in this process that can be made to fail and hang.
type local struct {
	*Authority
	away  atomic.Bool
	hang  atomic.Bool
	asked atomic.Int64
}

func (l *local) wait(ctx context.Context) error {
	if l.hang.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if l.away.Load() {
		return errors.New("control is away")
	}
	return nil
}

func (l *local) X509(ctx context.Context, r X509Request) ([]*x509.Certificate, error) {
	l.asked.Add(1)
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	return l.Authority.X509(ctx, r)
}

func (l *local) Bundle(ctx context.Context) (*spiffebundle.Bundle, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	return l.Authority.Bundle(ctx)
}

// keeping returns a keeper that runs until the test ends.
func keeping(t testing.TB, o KeeperOptions, zones map[string]string) *Keeper {
	t.Helper()
	if o.TrustDomain == "" {
		o.TrustDomain = domain
	}
	o.Log = quiet
	k, err := NewKeeper(o)
	if err != nil {
		t.Fatal(err)
	}
	k.Keep(zones)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := k.Run(ctx); err != nil {
			t.Errorf("the keeper ended: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	return k
}

func ready(t testing.TB, k *Keeper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := k.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}
