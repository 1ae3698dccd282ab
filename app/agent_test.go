package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/node"
)

// agent is a Workload API with an authority of its own, as an existing SPIRE
// agent is. It offers its caller several identities.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authority *identity.Authority
	addr      string

	mu      sync.Mutex // guards the following
	offers  map[string]string
	changed chan struct{} // closed and made anew when certificates are replaced
}

// runAgent runs an agent that offers identities to workloads, given with their
// zones, until the test ends.
func runAgent(t *testing.T, offers map[string]string) *agent {
	t.Helper()
	authority, err := identity.OpenAuthority(filepath.Join(t.TempDir(), "a"), identity.AuthorityOptions{TrustDomain: "here.test"})
	must(t, err)
	dir, err := os.MkdirTemp("", "agent")
	must(t, err)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	must(t, err)
	a := &agent{authority: authority, addr: "unix://" + ln.Addr().String(), offers: offers, changed: make(chan struct{})}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		must(t, <-ended)
		must(t, os.RemoveAll(dir))
	})
	return a
}

// rotate replaces the certificates.
func (a *agent) rotate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) next() (map[string]string, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.offers, a.changed
}

// known refuses what the standard says to refuse.
func known(ctx context.Context) error {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	return nil
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, st grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := known(st.Context()); err != nil {
		return err
	}
	for {
		offers, changed := a.next()
		if len(offers) == 0 {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		response, err := a.certificates(st.Context(), offers)
		if err != nil {
			return err
		}
		if err := st.Send(response); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-st.Context().Done():
			return nil
		}
	}
}

func (a *agent) certificates(ctx context.Context, offers map[string]string) (*workload.X509SVIDResponse, error) {
	bundle, err := a.authority.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	out := &workload.X509SVIDResponse{}
	for name, zone := range offers {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		chain, err := a.authority.X509(ctx, identity.X509Request{Zone: zone, Workload: name, PublicKey: &key.PublicKey})
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		out.Svids = append(out.Svids, &workload.X509SVID{SpiffeId: chain[0].URIs[0].String(), X509Svid: raw(chain), X509SvidKey: der, Bundle: raw(bundle.X509Authorities())})
	}
	return out, nil
}

func raw(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, c.Raw...)
	}
	return out
}

func (a *agent) FetchJWTBundles(_ *workload.JWTBundlesRequest, st grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	bundle, err := a.authority.Bundle(st.Context())
	if err != nil {
		return err
	}
	text, err := bundle.JWTBundle().Marshal()
	if err != nil {
		return err
	}
	if err := st.Send(&workload.JWTBundlesResponse{Bundles: map[string][]byte{bundle.TrustDomain().IDString(): text}}); err != nil {
		return err
	}
	<-st.Context().Done()
	return nil
}

func (a *agent) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	id, err := spiffeid.FromString(r.SpiffeId)
	if err != nil {
		return nil, err
	}
	zone, name, err := identity.Workload(id, "here.test")
	if err != nil {
		return nil, err
	}
	token, err := a.authority.JWT(ctx, identity.JWTRequest{Zone: zone, Workload: name, Audience: r.Audience})
	if err != nil {
		return nil, err
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: r.SpiffeId, Svid: token}}}, nil
}

// believes reports whether a bundle has the root of a chain.
func believes(b *spiffebundle.Bundle, chain []*x509.Certificate) bool {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range b.X509Authorities() {
		roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

func TestIdentitiesOfAnExistingWorkloadAPI(t *testing.T) {
	a := runAgent(t, map[string]string{"trainer": "training", "store": "data"})
	r := bringing(t, "here.test", Up{WorkloadAPI: a.addr})
	must(t, r.openKeys())
	var o node.Options
	must(t, r.identities(t.Context(), &o, r.keys.authority))
	if o.Authority != nil {
		t.Error("the node offers to rotate a root that nobody uses")
	}
	own, err := r.keys.authority.Bundle(t.Context())
	must(t, err)
	agents, err := a.authority.Bundle(t.Context())
	must(t, err)
	for name, zone := range map[string]string{"trainer": "training", "store": "data"} {
		client := callers(t, o.Identities, name)
		x, err := client.FetchX509Context(t.Context())
		must(t, err)
		svid := x.DefaultSVID()
		if id, err := identity.ID("here.test", zone, name); err != nil || svid.ID != id || !believes(agents, svid.Certificates) || believes(own, svid.Certificates) {
			t.Errorf("%s has %s of another authority", name, svid.ID)
		}
		var token *jwtsvid.SVID
		eventually(t, "a token of "+name, func() bool {
			token, err = client.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "x"})
			return err == nil
		})
		if got, err := jwtsvid.ParseAndValidate(token.Marshal(), agents, []string{"x"}); err != nil || got.ID != svid.ID {
			t.Errorf("the token of %s: %v", name, err)
		}
	}
	if _, err := o.Identities.SVID("nobody"); !errors.Is(err, identity.ErrNoIdentity) {
		t.Errorf("who is not offered: %v", err)
	}
	before, err := o.Identities.SVID("trainer")
	must(t, err)
	a.rotate()
	eventually(t, "the new certificate", func() bool {
		now, err := o.Identities.SVID("trainer")
		return err == nil && now.Certificates[0].SerialNumber.Cmp(before.Certificates[0].SerialNumber) != 0
	})
}

// An agent that does not know this process is an error that says so, and no
// reason to take another authority.
func TestAnAgentThatOffersNothing(t *testing.T) {
	for name, c := range map[string]struct{ addr, says string }{
		"unknown": {runAgent(t, nil).addr, "no identity issued"},
		"away":    {"unix:///nowhere/agent.sock", "no such file"},
	} {
		r := bringing(t, "here.test", Up{WorkloadAPI: c.addr})
		must(t, r.openKeys())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var o node.Options
		wantInputError(t, name, r.identities(ctx, &o, r.keys.authority), c.says)
		if o.Identities != nil {
			t.Errorf("%s: there are identities", name)
		}
	}
}

// A platform runs on the identities of an agent, in namespaces, and its workload
// does not see this program's environment.
func TestUpOnAnExistingWorkloadAPI(t *testing.T) {
	if !host.Privileged() {
		t.Skip("SKIPPED: the kernel gives this user no namespaces; run: sudo go test -run TestUpOnAnExistingWorkloadAPI ./app")
	}
	t.Setenv(passphraseVariable, "hush-hush")
	a := runAgent(t, map[string]string{"trainer": "training"})
	output := &shared{}
	r := bringing(t, "here.test", Up{WorkloadAPI: a.addr, Output: output, Node: "n1", Log: slog.New(slog.NewTextHandler(output, nil))})
	r.Getenv = func(string) string { return "" } // keys as they are: this is about who else sees it
	must(t, r.build(t.Context()))
	r.start(t)
	eventually(t, "everything runs", func() bool { return r.node.Status().Ready() })
	s := r.node.Status()
	if len(s.Workloads) != 1 || s.Workloads[0].Name != "trainer" || s.Workloads[0].IdentityUntil.IsZero() {
		t.Errorf("%+v", s.Workloads)
	}
	eventually(t, "the workload says what it sees", func() bool { return strings.Contains(output.String(), "SPIFFE_ENDPOINT_SOCKET=") })
	if strings.Contains(output.String(), "hush") {
		t.Errorf("a workload or the log shows the passphrase: %s", output)
	}
	var refused *node.Refused
	if _, err := node.Dial(r.p.folders.run).Authority(t.Context()); !errors.As(err, &refused) {
		t.Errorf("the authority's state: %v", err)
	}
}
