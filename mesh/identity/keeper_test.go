package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
)

// bubble runs a test whose time is its own. Certificates are made before nothing
// else runs, so that real time does not matter.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func pipeShake(client, server *tls.Config) error {
	a, b := net.Pipe()
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
	}
	_, ce, se := shakeOver(a, b, client, server)
	return errors.Join(ce, se)
}

// A root is replaced while two workloads of two nodes connect all the time, in
// both directions. No connection fails, and at the end nothing of the old root
// is left.
func TestRootRotationWithoutAFailedConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newAuthority(t, AuthorityOptions{})
		one := keeping(t, KeeperOptions{Issuer: a}, map[string]string{"a": "z"})
		two := keeping(t, KeeperOptions{Issuer: a}, map[string]string{"b": "z"})
		ready(t, one)
		ready(t, two)
		aID, bID := mustID(t, domain, "z", "a"), mustID(t, domain, "z", "b")
		old := a.state.roots[0].cert
		connect := func(during time.Duration, every time.Duration) {
			t.Helper()
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(every) {
				if err := pipeShake(ClientTLS(one, "a", bID), ServerTLS(two, "b")); err != nil {
					t.Fatalf("a to b: %v", err)
				}
				if err := pipeShake(ClientTLS(two, "b", aID), ServerTLS(one, "a")); err != nil {
					t.Fatalf("b to a: %v", err)
				}
			}
		}
		connect(time.Minute, 10*time.Second)
		for _, step := range []func() error{a.PrepareRoot, a.ActivateRoot, a.RetireRoot} {
			for err := step(); err != nil; err = step() {
				connect(time.Minute, time.Minute)
			}
			connect(time.Minute, 3*time.Second)
		}
		connect(2*time.Hour, 10*time.Minute)
		for _, k := range []*Keeper{one, two} {
			b, err := k.GetX509BundleForTrustDomain(a.td)
			if err != nil || len(b.X509Authorities()) != 1 || b.HasX509Authority(old) {
				t.Errorf("the old root is still believed: %v", err)
			}
		}
	})
}

func TestIntermediateRotationWithoutAFailedConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var w wall
		a := newAuthority(t, AuthorityOptions{Now: w.now})
		first := a.state.intermediate.cert
		w.jump(intermediateLife/2 - 2*time.Hour)
		k := keeping(t, KeeperOptions{Issuer: a, Now: w.now}, map[string]string{"a": "z", "b": "z"})
		ready(t, k)
		for end := time.Now().Add(4 * time.Hour); time.Now().Before(end); time.Sleep(5 * time.Minute) {
			if err := pipeShake(ClientTLS(k, "a", mustID(t, domain, "z", "b")), ServerTLS(k, "b")); err != nil {
				t.Fatal(err)
			}
		}
		if a.state.intermediate.cert.Equal(first) {
			t.Error("it was not renewed")
		}
	})
}

func TestKeeperRenewsAtHalfOfTheLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		issuer := &local{Authority: newAuthority(t, AuthorityOptions{})}
		k := keeping(t, KeeperOptions{Issuer: issuer}, map[string]string{"a": "z"})
		ready(t, k)
		first, err := k.SVID("a")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		if svid, err := k.SVID("a"); err != nil || svid != first {
			t.Errorf("it is renewed after 20 minutes of 60: %v", err)
		}
		time.Sleep(15 * time.Minute)
		second, err := k.SVID("a")
		if err != nil || second == first {
			t.Fatalf("it is not renewed after 35 minutes of 60: %v", err)
		}
		if first.PrivateKey == second.PrivateKey {
			t.Error("the key was kept")
		}
		time.Sleep(10 * time.Hour)
		if _, err := k.SVID("a"); err != nil {
			t.Error(err)
		}
		if n := issuer.asked.Load(); n > 30 {
			t.Errorf("%d requests in 10 hours", n)
		}
	})
}

// While the issuer is away the certificate goes on until it expires, then there
// is none; when the issuer is back there is one within seconds.
func TestKeeperWithoutIssuer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		issuer := &local{Authority: newAuthority(t, AuthorityOptions{})}
		k := keeping(t, KeeperOptions{Issuer: issuer}, map[string]string{"a": "z", "b": "z"})
		ready(t, k)
		issuer.away.Store(true)
		time.Sleep(59 * time.Minute)
		if _, err := k.SVID("a"); err != nil {
			t.Errorf("after 59 minutes of 60: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := k.SVID("a"); err == nil {
			t.Error("an expired certificate is served")
		}
		if err := pipeShake(ClientTLS(k, "a", mustID(t, domain, "z", "b")), ServerTLS(k, "b")); err == nil {
			t.Error("expired certificates connect")
		}
		if n := issuer.asked.Load(); n > 2*31*60/7 {
			t.Errorf("%d requests of an issuer that is away", n)
		}
		issuer.away.Store(false)
		time.Sleep(maxBackoff + 2*look)
		if _, err := k.SVID("a"); err != nil {
			t.Errorf("after the issuer came back: %v", err)
		}
	})
}

// An issuer that never answers holds nothing up but what it was asked for.
func TestKeeperWithAnIssuerThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		issuer := &local{Authority: newAuthority(t, AuthorityOptions{})}
		zones := map[string]string{}
		for i := range 3 * askAtOnce {
			zones[fmt.Sprintf("w%d", i)] = "z"
		}
		k := keeping(t, KeeperOptions{Issuer: issuer}, zones)
		ready(t, k)
		issuer.hang.Store(true)
		time.Sleep(40 * time.Minute)
		k.Deny("w1")
		if _, err := k.SVID("w1"); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("a denied workload: %v", err)
		}
		issuer.hang.Store(false)
		time.Sleep(2 * time.Minute)
		ready(t, k)
	})
}

// A laptop sleeps for a day: everything has expired at once, and all of it is
// renewed as soon as the clock is read again.
func TestKeeperAfterASleep(t *testing.T) {
	for name, jump := range map[string]time.Duration{"ahead": 26 * time.Hour, "back": -30 * time.Minute, "far back": -26 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var w wall
				w.jump(48 * time.Hour)
				a := newAuthority(t, AuthorityOptions{Now: w.now})
				w.jump(48 * time.Hour)
				issuer := &local{Authority: a}
				zones := map[string]string{}
				for i := range 100 {
					zones[fmt.Sprintf("w%d", i)] = "z"
				}
				k := keeping(t, KeeperOptions{Issuer: issuer, Now: w.now}, zones)
				ready(t, k)
				issuer.away.Store(true)
				time.Sleep(time.Minute)
				w.jump(jump)
				if _, err := k.SVID("w0"); err == nil {
					t.Error("a certificate of another time is served")
				}
				issuer.away.Store(false)
				time.Sleep(maxBackoff + 2*look)
				for name := range zones {
					if _, err := k.SVID(name); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func TestDenyDuringARequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		issuer := &slow{local: &local{Authority: newAuthority(t, AuthorityOptions{})}}
		k := keeping(t, KeeperOptions{Issuer: issuer}, map[string]string{"a": "z"})
		time.Sleep(500 * time.Millisecond) // the request is on its way
		k.Deny("a")
		time.Sleep(10 * time.Second)
		if _, err := k.SVID("a"); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("the answer to a request from before counts: %v", err)
		}
		if n := issuer.asked.Load(); n != 1 {
			t.Errorf("%d requests", n)
		}
		if _, err := k.JWT(t.Context(), "a", []string{"x"}); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("a token for a denied workload: %v", err)
		}
		k.Release("a")
		time.Sleep(5 * time.Second)
		if _, err := k.SVID("a"); err != nil {
			t.Error(err)
		}
		k.Keep(map[string]string{"a": "other"})
		if svid, err := k.SVID("a"); err == nil {
			t.Errorf("after the zone changed it is still %s", svid.ID)
		}
		time.Sleep(5 * time.Second)
		if svid, err := k.SVID("a"); err != nil || svid.ID != mustID(t, domain, "other", "a") {
			t.Errorf("in the new zone: %v", err)
		}
		k.Keep(nil)
		if _, err := k.SVID("a"); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("a workload that left: %v", err)
		}
	})
}

// slow answers after a second.
type slow struct{ *local }

func (s *slow) X509(ctx context.Context, r X509Request) ([]*x509.Certificate, error) {
	certs, err := s.local.X509(ctx, r)
	time.Sleep(time.Second)
	return certs, err
}

// An issuer that answers for somebody else is not believed.
func TestKeeperChecksItsIssuer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, other := newAuthority(t, AuthorityOptions{}), newAuthority(t, AuthorityOptions{})
		rootless := &lying{Authority: other}
		rootless.bundle.Store(bundleOf(t, a))
		for name, issuer := range map[string]Issuer{
			"another workload's": &lying{Authority: a, as: "b"},
			"another key's":      &lying{Authority: a, key: true},
			"another root's":     rootless,
			"another domain's":   newAuthority(t, AuthorityOptions{TrustDomain: "other.test"}),
			"nothing":            &lying{Authority: a, empty: true},
		} {
			k := keeping(t, KeeperOptions{Issuer: issuer}, map[string]string{"a": "z"})
			time.Sleep(time.Minute)
			if svid, err := k.SVID("a"); err == nil {
				t.Errorf("%s certificate is kept: %s", name, svid.ID)
			}
		}
	})
}

type lying struct {
	*Authority
	as     string
	key    bool
	empty  bool
	bundle atomic.Pointer[spiffebundle.Bundle]
}

func (l *lying) X509(ctx context.Context, r X509Request) ([]*x509.Certificate, error) {
	if l.empty {
		return nil, nil
	}
	if l.as != "" {
		r.Workload = l.as
	}
	if l.key {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		r.PublicKey = &key.PublicKey
	}
	return l.Authority.X509(ctx, r)
}

func (l *lying) Bundle(ctx context.Context) (*spiffebundle.Bundle, error) {
	if b := l.bundle.Load(); b != nil {
		return b, nil
	}
	return l.Authority.Bundle(ctx)
}

func TestOlderBundleIsNotTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newAuthority(t, AuthorityOptions{})
		issuer := &lying{Authority: a}
		old := bundleOf(t, a)
		if err := a.PrepareRoot(); err != nil {
			t.Fatal(err)
		}
		issuer.bundle.Store(bundleOf(t, a))
		k := keeping(t, KeeperOptions{Issuer: issuer}, map[string]string{"a": "z"})
		ready(t, k)
		issuer.bundle.Store(old)
		time.Sleep(time.Minute)
		if b, err := k.GetX509BundleForTrustDomain(a.td); err != nil || len(b.X509Authorities()) != 2 {
			t.Errorf("an older bundle took the place of a newer one: %v", err)
		}
	})
}

func TestKeeperStarts(t *testing.T) {
	if _, err := NewKeeper(KeeperOptions{TrustDomain: "", Issuer: newAuthority(t, AuthorityOptions{})}); err == nil {
		t.Error("without a trust domain")
	}
	if _, err := NewKeeper(KeeperOptions{TrustDomain: domain}); err == nil {
		t.Error("without an issuer")
	}
	k, err := NewKeeper(KeeperOptions{TrustDomain: domain, Issuer: newAuthority(t, AuthorityOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	k.Keep(map[string]string{"a": "z"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ready before it runs: %v", err)
	}
	if k.Bundles() != nil {
		t.Error("there are bundles before the first")
	}
}
