package identity

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// kernel attests whoever calls as what a test says, and counts.
type kernel struct {
	is    atomic.Pointer[string]
	asked atomic.Int64
}

func (k *kernel) Attest(conn *net.UnixConn) (string, error) {
	k.asked.Add(1)
	if conn == nil {
		return "", errors.New("no connection")
	}
	if is := k.is.Load(); is != nil {
		return *is, nil
	}
	return "", errors.New("the caller is no workload")
}

func as(workload string) *kernel {
	k := &kernel{}
	k.is.Store(&workload)
	return k
}

// serve runs a Workload API until the test ends and returns its address.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wl")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended: %v", err)
		}
		os.RemoveAll(dir)
	})
	return "unix://" + path
}

func newClient(t testing.TB, addr string) *workloadapi.Client {
	t.Helper()
	c, err := workloadapi.New(t.Context(), workloadapi.WithAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// go-spiffe's own source follows three rotations.
func TestX509SourceFollowsRotation(t *testing.T) {
	t.Parallel()
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{LeafLife: 3 * time.Second})}, map[string]string{"a": "z"})
	addr := serve(t, NewServer(ServerOptions{Provider: k, Attestor: as("a"), Log: quiet}))
	src, err := workloadapi.NewX509Source(limited(t), workloadapi.WithClientOptions(workloadapi.WithAddr(addr)))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	seen := map[string]bool{}
	for len(seen) < 4 {
		svid, err := src.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if svid.ID != mustID(t, domain, "z", "a") || svid.Hint != "a" {
			t.Fatalf("it is %s, hint %q", svid.ID, svid.Hint)
		}
		seen[svid.Certificates[0].SerialNumber.String()] = true
		if err := src.WaitUntilUpdated(limited(t)); err != nil {
			t.Fatalf("after %d rotations: %v", len(seen), err)
		}
	}
}

func TestJWTSourceAndValidation(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	k := keeping(t, KeeperOptions{Issuer: a}, map[string]string{"a": "z", "b": "z"})
	ready(t, k)
	attestor := as("a")
	addr := serve(t, NewServer(ServerOptions{Provider: k, Attestor: attestor, Log: quiet}))
	src, err := workloadapi.NewJWTSource(limited(t), workloadapi.WithClientOptions(workloadapi.WithAddr(addr)))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	svid, err := src.FetchJWTSVID(limited(t), jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"log"}})
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID != mustID(t, domain, "z", "a") {
		t.Errorf("the token is of %s", svid.ID)
	}
	if life := time.Until(svid.Expiry); life > jwtLife || life < jwtLife-time.Minute {
		t.Errorf("it lives %s", life)
	}
	if got, err := jwtsvid.ParseAndValidate(svid.Marshal(), src, []string{"log"}); err != nil || got.ID != svid.ID {
		t.Errorf("go-spiffe validates: %v", err)
	}
	c := newClient(t, addr)
	if got, err := c.ValidateJWTSVID(limited(t), svid.Marshal(), "db"); err != nil || got.ID != svid.ID {
		t.Errorf("the server validates: %v", err)
	}
	for name, bad := range map[string][2]string{
		"wrong audience": {svid.Marshal(), "other"},
		"no audience":    {svid.Marshal(), ""},
		"no token":       {"", "db"},
		"changed":        {svid.Marshal()[:len(svid.Marshal())-4] + "AAAA", "db"},
		"long":           {strings.Repeat("a", maxToken+1), "db"},
	} {
		if _, err := c.ValidateJWTSVID(limited(t), bad[0], bad[1]); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.FetchJWTSVID(limited(t), jwtsvid.Params{Audience: "db", Subject: mustID(t, domain, "z", "b")}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the identity of another: %v", err)
	}
	if _, err := c.FetchJWTSVID(limited(t), jwtsvid.Params{Audience: ""}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no audience: %v", err)
	}
	if _, err := c.FetchJWTSVID(limited(t), jwtsvid.Params{Audience: strings.Repeat("x", maxAudienceSize+1)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a long audience: %v", err)
	}
	k.Deny("a")
	if _, err := c.FetchJWTSVID(limited(t), jwtsvid.Params{Audience: "db"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("when denied: %v", err)
	}
	if attestor.asked.Load() != 2 {
		t.Errorf("two connections were attested %d times", attestor.asked.Load())
	}
}

func TestCallersWithoutIdentity(t *testing.T) {
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{})}, map[string]string{"a": "z"})
	ready(t, k)
	for name, attestor := range map[string]Attestor{"unknown": &kernel{}, "of another node": as("elsewhere"), "no name": as("")} {
		c := newClient(t, serve(t, NewServer(ServerOptions{Provider: k, Attestor: attestor, Log: quiet})))
		if _, err := c.FetchX509SVID(limited(t)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.FetchJWTSVID(limited(t), jwtsvid.Params{Audience: "x"}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: token: %v", name, err)
		}
		if name != "unknown" {
			continue
		}
		if _, err := c.FetchX509Bundles(limited(t)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: bundles: %v", name, err)
		}
		if _, err := c.FetchJWTBundles(limited(t)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: JWT bundles: %v", name, err)
		}
		if _, err := c.ValidateJWTSVID(limited(t), "x", "y"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: validation: %v", name, err)
		}
	}
}

func TestHeaderIsDemanded(t *testing.T) {
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{})}, map[string]string{"a": "z"})
	ready(t, k)
	addr := serve(t, NewServer(ServerOptions{Provider: k, Attestor: as("a"), Log: quiet}))
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := workload.NewSpiffeWorkloadAPIClient(conn)
	for name, ctx := range map[string]context.Context{
		"none":  limited(t),
		"false": metadata.AppendToOutgoingContext(limited(t), "workload.spiffe.io", "false"),
		"twice": metadata.AppendToOutgoingContext(limited(t), "workload.spiffe.io", "true", "workload.spiffe.io", "true"),
	} {
		if _, err := api.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"x"}}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		stream, err := api.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: stream: %v", name, err)
		}
	}
	big := &workload.JWTSVIDRequest{Audience: []string{strings.Repeat("x", maxRequest)}}
	if _, err := api.FetchJWTSVID(metadata.AppendToOutgoingContext(limited(t), "workload.spiffe.io", "true"), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large request: %v", err)
	}
}

// watching collects what a watcher is told.
type watching struct {
	updates chan *workloadapi.X509Context
	errors  chan error
}

func (w *watching) OnX509ContextUpdate(c *workloadapi.X509Context) { w.updates <- c }
func (w *watching) OnX509ContextWatchError(err error) {
	select {
	case w.errors <- err:
	default:
	}
}

// A stream of a workload that is denied ends with a reason; when it is released
// there is a new certificate. One that has none yet waits.
func TestStreamFollowsDenyAndRelease(t *testing.T) {
	t.Parallel()
	issuer := &local{Authority: newAuthority(t, AuthorityOptions{})}
	issuer.away.Store(true)
	k := keeping(t, KeeperOptions{Issuer: issuer}, map[string]string{"a": "z"})
	c := newClient(t, serve(t, NewServer(ServerOptions{Provider: k, Attestor: as("a"), Log: quiet})))
	ctx, stop := context.WithCancel(context.Background())
	w := &watching{make(chan *workloadapi.X509Context, 16), make(chan error, 16)}
	ended := make(chan error, 1)
	go func() { ended <- c.WatchX509Context(ctx, w) }()
	defer func() { stop(); <-ended }()
	next := func() *workloadapi.X509Context {
		t.Helper()
		select {
		case u := <-w.updates:
			return u
		case <-time.After(20 * time.Second):
			t.Fatal("no update came")
			return nil
		}
	}
	select {
	case u := <-w.updates:
		t.Fatalf("an update before there was a certificate: %v", u.SVIDs[0].ID)
	case err := <-w.errors:
		t.Fatalf("waiting is refused: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	issuer.away.Store(false)
	first := next()
	k.Deny("a")
	select {
	case err := <-w.errors:
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("denied with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the stream of a denied workload goes on")
	}
	k.Release("a")
	if second := next(); second.SVIDs[0].Certificates[0].Equal(first.SVIDs[0].Certificates[0]) {
		t.Error("the old certificate is back")
	}
}

func TestFederatedBundlesAreHandedOut(t *testing.T) {
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	f := federated(t, Federated{TrustDomain: partner.td, URL: "https://127.0.0.1:1", Initial: bundleOf(t, partner)})
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{}), Federation: f}, map[string]string{"a": "z"})
	ready(t, k)
	c := newClient(t, serve(t, NewServer(ServerOptions{Provider: k, Attestor: as("a"), Log: quiet})))
	x, err := c.FetchX509Context(limited(t))
	if err != nil || x.Bundles.Len() != 2 || !x.Bundles.Has(partner.td) {
		t.Errorf("certificates: %v, %v", x, err)
	}
	if set, err := c.FetchX509Bundles(limited(t)); err != nil || set.Len() != 2 {
		t.Errorf("bundles: %v", err)
	}
	set, err := c.FetchJWTBundles(limited(t))
	if err != nil || set.Len() != 2 {
		t.Fatalf("JWT bundles: %v", err)
	}
	token, err := partner.JWT(t.Context(), JWTRequest{"z", "x", []string{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	if svid, err := c.ValidateJWTSVID(limited(t), token, "db"); err != nil || svid.ID.TrustDomain() != partner.td {
		t.Errorf("a token of a federated trust domain: %v", err)
	}
}

// A workload that opens too many connections keeps only itself waiting.
func TestConnectionsAreCounted(t *testing.T) {
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{})}, map[string]string{"a": "z"})
	ready(t, k)
	attestor := as("a")
	addr := serve(t, NewServer(ServerOptions{Provider: k, Attestor: attestor, Log: quiet}))
	var open []net.Conn
	for range maxCallers + 20 {
		conn, err := net.Dial("unix", strings.TrimPrefix(addr, "unix://"))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	time.Sleep(200 * time.Millisecond)
	if n := attestor.asked.Load(); n > maxCallers {
		t.Errorf("%d connections are served at a time", n)
	}
	for _, conn := range open {
		conn.Close()
	}
	if _, err := newClient(t, addr).FetchX509SVID(limited(t)); err != nil {
		t.Errorf("after they closed: %v", err)
	}
}

func TestOneServerServesSeveralListeners(t *testing.T) {
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{})}, map[string]string{"a": "z"})
	ready(t, k)
	s := NewServer(ServerOptions{Provider: k, Attestor: as("a"), Log: quiet})
	for range 3 {
		if _, err := newClient(t, serve(t, s)).FetchX509SVID(limited(t)); err != nil {
			t.Error(err)
		}
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.Serve(t.Context(), ln); err == nil {
		t.Error("a listener that is closed is served")
	}
}

func TestValidateJWT(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now})
	bundles := jwtbundle.NewSet(bundleOf(t, a).JWTBundle())
	token, err := a.JWT(t.Context(), JWTRequest{"z", "a", []string{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ValidateJWT(token, "db", bundles, time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := ValidateJWT(token, "db", bundles, time.Now().Add(jwtLife+time.Second)); err == nil {
		t.Error("an expired token is valid")
	}
	if _, err := ValidateJWT(token, "db", jwtbundle.NewSet(), time.Now()); err == nil {
		t.Error("a token of an unknown trust domain is valid")
	}
	other := newAuthority(t, AuthorityOptions{})
	id := mustID(t, domain, "z", "a")
	for name, k := range map[string]jwtKey{
		"another key":            other.state.jwtKeys[0],
		"another key, same name": {a.state.jwtKeys[0].id, other.state.jwtKeys[0].key, time.Now()},
		"no name":                {"", a.state.jwtKeys[0].key, time.Now()},
	} {
		token, err := signJWT(k, id, []string{"db"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ValidateJWT(token, "db", bundles, time.Now()); err == nil {
			t.Errorf("%s: it is valid", name)
		}
	}
	token, err = signJWT(a.state.jwtKeys[0], spiffeid.RequireFromString("spiffe://ai.test"), []string{"db"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ValidateJWT(token, "db", bundles, time.Now()); err == nil {
		t.Error("a trust domain is a subject")
	}
	parts := strings.Split(token, ".")
	if _, err := ValidateJWT("eyJhbGciOiJub25lIn0."+parts[1]+".", "db", bundles, time.Now()); err == nil {
		t.Error("an unsigned token is valid")
	}
}

func FuzzValidateJWT(f *testing.F) {
	a := newAuthority(f, AuthorityOptions{})
	bundles := jwtbundle.NewSet(bundleOf(f, a).JWTBundle())
	token, err := a.JWT(f.Context(), JWTRequest{"z", "a", []string{"db"}})
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	f.Add(token)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(strings.Replace(token, ".", "..", 1))
	f.Fuzz(func(t *testing.T, text string) {
		// Signatures of ECDSA are not unique, texts of base64 neither: the
		// subject is what must not change.
		if svid, err := ValidateJWT(text, "db", bundles, now); err == nil && svid.ID.String() != "spiffe://ai.test/zone/z/workload/a" {
			t.Errorf("a token that nobody issued proves %s", svid.ID)
		}
	})
}
