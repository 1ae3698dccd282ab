package identity

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// several is a server whose caller has several identities, as an agent's that
// knows a node.
func several(t testing.TB, k *Keeper, names ...string) string {
	s := NewServer(ServerOptions{Provider: k, Attestor: as(""), Log: quiet})
	s.attest = func(*net.UnixConn) ([]string, error) { return names, nil }
	return serve(t, s)
}

func upstream(t testing.TB, addr string) *Upstream {
	t.Helper()
	u, err := NewUpstream(limited(t), addr, UpstreamOptions{TrustDomain: domain, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return u
}

func TestUpstreamTakesTheAuthoritysPlace(t *testing.T) {
	t.Parallel()
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	f := federated(t, Federated{TrustDomain: partner.td, URL: "https://127.0.0.1:1", Initial: bundleOf(t, partner)})
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{LeafLife: 3 * time.Second}), Federation: f},
		map[string]string{"a": "z", "b": "y"})
	ready(t, k)
	u := upstream(t, several(t, k, "a", "b"))
	seen := map[string]bool{}
	for deadline := time.Now().Add(20 * time.Second); len(seen) < 4; {
		svid, err := u.SVID("a")
		if err != nil {
			t.Fatal(err)
		}
		seen[svid.Certificates[0].SerialNumber.String()] = true
		if _, ce, se := shake(ClientTLS(u, "a", mustID(t, domain, "y", "b")), ServerTLS(u, "b")); ce != nil || se != nil {
			t.Fatal(ce, se)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d certificates in 20 seconds", len(seen))
		}
		time.Sleep(50 * time.Millisecond)
	}
	for len(u.Bundles()) != 2 || len(u.Bundles()[0].JWTAuthorities()) == 0 {
		<-u.Changed()
	}
	token, err := u.JWT(t.Context(), "b", []string{"db", "log"})
	if err != nil {
		t.Fatal(err)
	}
	if svid, err := ValidateJWT(token, "log", u.Bundles()[0], time.Now()); err != nil || svid.ID != mustID(t, domain, "y", "b") {
		t.Errorf("the token: %v", err)
	}
	if len(u.FederatedX509()) != 1 {
		t.Error("no federated bundle")
	}
	if _, err := u.SVID("c"); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a workload that is not offered: %v", err)
	}
	u.Deny("a")
	if _, err := u.SVID("a"); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a denied workload: %v", err)
	}
	if _, err := u.JWT(t.Context(), "a", []string{"db"}); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a token of a denied workload: %v", err)
	}
	u.Release("a")
	if _, err := u.SVID("a"); err != nil {
		t.Error(err)
	}
}

// When the agent is away certificates go on until they expire, and then stop;
// when it is back they follow again.
func TestUpstreamAway(t *testing.T) {
	t.Parallel()
	k := keeping(t, KeeperOptions{Issuer: newAuthority(t, AuthorityOptions{LeafLife: 3 * time.Second})}, map[string]string{"a": "z"})
	ready(t, k)
	s := NewServer(ServerOptions{Provider: k, Attestor: as("a"), Log: quiet})
	path := t.TempDir() + "/s"
	run := func() (stop func()) {
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, ln) }()
		return func() { cancel(); <-ended }
	}
	stop := run()
	u := upstream(t, "unix://"+path)
	stop()
	if _, err := u.SVID("a"); err != nil {
		t.Errorf("right after the agent left: %v", err)
	}
	time.Sleep(3500 * time.Millisecond)
	if _, err := u.SVID("a"); err == nil {
		t.Error("an expired certificate is served")
	}
	defer run()()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := u.SVID("a"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after the agent came back: %v", err)
		}
	}
}

func TestWhoseIdentitiesAre(t *testing.T) {
	u := &Upstream{td: spiffeid.RequireTrustDomainFromString(domain), log: quiet}
	svid := func(id, hint string) *x509svid.SVID {
		return &x509svid.SVID{ID: spiffeid.RequireFromString(id), Hint: hint}
	}
	for name, test := range map[string]struct {
		offered []*x509svid.SVID
		want    map[string]string
	}{
		"form":                  {[]*x509svid.SVID{svid("spiffe://ai.test/zone/z/workload/a", "x")}, map[string]string{"a": "spiffe://ai.test/zone/z/workload/a"}},
		"hint":                  {[]*x509svid.SVID{svid("spiffe://ai.test/ns/p/sa/w", "w")}, map[string]string{"w": "spiffe://ai.test/ns/p/sa/w"}},
		"hint claims another's": {[]*x509svid.SVID{svid("spiffe://ai.test/ns/p/sa/w", "a"), svid("spiffe://ai.test/zone/z/workload/a", "")}, map[string]string{"a": "spiffe://ai.test/zone/z/workload/a"}},
		"two zones":             {[]*x509svid.SVID{svid("spiffe://ai.test/zone/z/workload/a", ""), svid("spiffe://ai.test/zone/y/workload/a", "")}, nil},
		"two hints":             {[]*x509svid.SVID{svid("spiffe://ai.test/x", "a"), svid("spiffe://ai.test/y", "a")}, nil},
		"no hint":               {[]*x509svid.SVID{svid("spiffe://ai.test/x", "")}, nil},
		"other trust domain":    {[]*x509svid.SVID{svid("spiffe://evil.test/zone/z/workload/a", "a")}, nil},
	} {
		got := u.assign(test.offered)
		if len(got) != len(test.want) {
			t.Errorf("%s: %d workloads, not %d", name, len(got), len(test.want))
		}
		for w, id := range test.want {
			if got[w] == nil || got[w].ID.String() != id {
				t.Errorf("%s: %s is %v", name, w, got[w])
			}
		}
	}
}

func TestUpstreamNeedsAUnixSocket(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, addr := range []string{"", "tcp://127.0.0.1:1", "/run/s", "unix:///nowhere/s"} {
		if u, err := NewUpstream(ctx, addr, UpstreamOptions{TrustDomain: domain, Log: quiet}); err == nil || u != nil {
			t.Errorf("%q: %v", addr, err)
		}
	}
}
