package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"bulkhead/mesh/control"
	"bulkhead/mesh/identity"
)

// administered serves the admin socket of a node that does nothing else.
func administered(t *testing.T, o Options) *Admin {
	t.Helper()
	o.RunDir, o.Now, o.UserName = t.TempDir(), time.Now, func(int) string { return "tester" }
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{o: o}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.serveAdmin(ctx) }()
	t.Cleanup(func() { stop(); must(t, <-ended) })
	admin := Dial(o.RunDir)
	eventually(t, "the admin socket answers", func() bool {
		_, err := admin.Authority(t.Context())
		var away *net.OpError
		return !errors.As(err, &away)
	})
	return admin
}

func TestTheRootIsRotatedOverTheAdminSocket(t *testing.T) {
	dir, start := t.TempDir(), time.Now()
	var c clock
	authority, err := identity.OpenAuthority(filepath.Join(dir, "authority"), identity.AuthorityOptions{TrustDomain: testDomain, Now: c.now})
	must(t, err)
	roster, err := control.OpenRoster(dir)
	must(t, err)
	ctl, err := control.New(control.Options{Dir: dir, Platform: testPlatform, TrustDomain: testDomain, Roster: roster, Authority: authority, Bus: &control.Bus{},
		Now: c.now, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	_, err = ctl.NewCredential(t.Context(), "gpu-2", netip.AddrPort{}, control.Access{URLs: []string{"nats://bus.example"}})
	must(t, err)
	log := &locked{}
	admin := administered(t, Options{Control: ctl, Authority: authority, Log: slog.New(slog.NewTextHandler(log, nil))})

	s, err := admin.Authority(t.Context())
	if err != nil || len(s.Roots) != 1 || s.Roots[0].Stage != "active" || len(s.Steps) != 1 || s.Steps[0].Step != "prepare" || len(s.Unaware) != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	refused := func(step, says string) {
		t.Helper()
		var r *Refused
		if _, err := admin.Rotate(t.Context(), AuthorityQuestion{step}); !errors.As(err, &r) || !strings.Contains(r.Says, says) || r.Hint == "" {
			t.Errorf("%s: %v", step, err)
		}
	}
	for _, step := range []string{"activate", "retire", "", "status"} {
		refused(step, map[string]string{"activate": "prepare", "retire": "activate"}[step])
	}
	s, err = admin.Rotate(t.Context(), AuthorityQuestion{"prepare"})
	if err != nil || len(s.Roots) != 2 || len(s.Unaware) != 1 || s.Unaware[0] != "gpu-2" {
		t.Fatalf("%+v, %v", s, err)
	}
	refused("activate", "not known everywhere")
	c.set(s.Steps[0].From.Sub(start))
	s, err = admin.Rotate(t.Context(), AuthorityQuestion{"activate"})
	must(t, err)
	refused("retire", "in use")
	c.set(s.Steps[1].From.Sub(start) + time.Second)
	s, err = admin.Rotate(t.Context(), AuthorityQuestion{"retire"})
	if err != nil || len(s.Roots) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	text, err := admin.Bundle(t.Context())
	must(t, err)
	bundle, err := spiffebundle.Parse(authority.TrustDomain(), text)
	if err != nil || len(bundle.X509Authorities()) != 1 || len(bundle.JWTAuthorities()) != 1 {
		t.Errorf("the bundle: %v", err)
	}
	if n := strings.Count(log.String(), "operator=tester"); n != 3 {
		t.Errorf("%d steps were logged with who asked: %s", n, log)
	}
	if strings.Contains(string(text), `"d":`) {
		t.Error("the bundle holds a private key")
	}
}

// A node without the authority says where it is.
func TestWhoHasNoAuthoritySaysSo(t *testing.T) {
	for name, o := range map[string]Options{"joined": {}, "upstream": {Control: &control.Control{}}} {
		admin := administered(t, o)
		_, status := admin.Authority(t.Context())
		_, rotate := admin.Rotate(t.Context(), AuthorityQuestion{"prepare"})
		_, bundle := admin.Bundle(t.Context())
		for _, err := range []error{status, rotate, bundle} {
			var r *Refused
			if !errors.As(err, &r) || r.Hint == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
