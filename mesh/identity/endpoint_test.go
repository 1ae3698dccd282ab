package identity

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/federation"
)

// bundleServer serves an authority's bundle until the test ends.
func bundleServer(t testing.TB, a *Authority) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeBundle(ctx, ln, a, quiet) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the endpoint ended: %v", err)
		}
	})
	return ln.Addr().String()
}

func TestServeBundle(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, AuthorityOptions{})
	addr := bundleServer(t, a)
	id, err := EndpointID(domain)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		// An independent client, which proves nothing of itself.
		b, err := federation.FetchBundle(t.Context(), a.td, "https://"+addr, federation.WithSPIFFEAuth(bundleOf(t, a), id))
		if err == nil {
			if !b.Equal(bundleOf(t, a)) {
				t.Error("another bundle is served")
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	_, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	// Slow readers do not keep others out for longer than their time.
	for range maxReaders {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one reader too many: %v", err)
	}
}

// The endpoint's certificate is nobody's in a tunnel.
func TestTheEndpointIsNoWorkload(t *testing.T) {
	id, err := EndpointID(domain)
	if err != nil {
		t.Fatal(err)
	}
	if id.String() != "spiffe://ai.test/zone/-/workload/bundle-endpoint" {
		t.Errorf("%s: documentation and partners name another", id)
	}
	if zone, _, err := Workload(id, domain); err != nil || zone != "-" {
		t.Errorf("zone %q, %v", zone, err)
	}
}

func bundleFile(t testing.TB, a *Authority) string {
	t.Helper()
	text, err := bundleOf(t, a).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bundle.json")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseFederated(t *testing.T) {
	partner := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	file := bundleFile(t, partner)
	abs := func(path string) string { return filepath.Join(filepath.Dir(file), path) }
	d, err := ParseFederated("partner.test=https://partner.test:8443/b", abs)
	if err != nil || d.TrustDomain != partner.td || d.URL != "https://partner.test:8443/b" || !d.Endpoint.IsZero() || d.Initial != nil {
		t.Errorf("%+v, %v", d, err)
	}
	d, err = ParseFederated("partner.test=https://10.0.0.1,spiffe://partner.test/e,bundle.json", abs)
	if err != nil || d.Endpoint.Path() != "/e" || d.Initial == nil || !d.Initial.X509Bundle().Equal(x509bundle.FromX509Authorities(partner.td, bundleOf(t, partner).X509Authorities())) {
		t.Errorf("%+v, %v", d, err)
	}
	for text, want := range map[string]string{
		"":                         "form",
		"partner.test":             "form",
		"=https://x":               "trust domain",
		"Partner!=https://x":       "trust domain",
		"partner.test=":            "https",
		"partner.test=http://x":    "https",
		"partner.test=https://a@x": "user information",
		"partner.test=https://x,spiffe://partner.test/e":               "form",
		"partner.test=https://x,spiffe://partner.test/e,bundle.json,x": "form",
		"partner.test=https://x,,bundle.json":                          "identity",
		"partner.test=https://x,partner.test/e,bundle.json":            "identity",
		"partner.test=https://x,spiffe://partner.test/e,none":          "first bundle",
		"partner.test=https://x,spiffe://partner.test/e,..":            "first bundle",
	} {
		if _, err := ParseFederated(text, abs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseFederated(f *testing.F) {
	f.Add("partner.test=https://partner.test:8443/b", "{}")
	f.Add("partner.test=https://x,spiffe://partner.test/e,bundle.json", `{"keys":[{"use":"x509-svid","kty":"EC"}]}`)
	path := filepath.Join(f.TempDir(), "bundle.json")
	f.Fuzz(func(t *testing.T, text, bundle string) {
		if err := os.WriteFile(path, []byte(bundle), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := ParseFederated(text, func(string) string { return path })
		if err != nil {
			return
		}
		if d.TrustDomain.IsZero() || !strings.HasPrefix(strings.ToLower(d.URL), "https:") || d.Endpoint.IsZero() != (d.Initial == nil) {
			t.Errorf("%q is %+v", text, d)
		}
	})
}
