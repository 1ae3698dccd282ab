package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestAuthorityComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "authority")
	o := AuthorityOptions{TrustDomain: domain, Log: quiet}
	a, err := OpenAuthority(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, a.path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	b, err := OpenAuthority(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if !bundleOf(t, a).Equal(bundleOf(t, b)) {
		t.Error("the bundle changed")
	}
	src := sourceOf(t, []string{"x"}, a)
	src.svids["y"] = issue(t, b, "z", "y")
	if _, ce, se := shake(ClientTLS(src, "x", src.svids["y"].ID), ServerTLS(src, "y")); ce != nil || se != nil {
		t.Errorf("certificates of before and after do not meet: %v, %v", ce, se)
	}
	if _, err := OpenAuthority(dir, AuthorityOptions{TrustDomain: "other.test", Log: quiet}); err == nil || !strings.Contains(err.Error(), `"other.test"`) {
		t.Errorf("it opens for another trust domain: %v", err)
	}
}

func TestAuthorityThatOthersMayReadIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"folder": func(dir string) error { return os.Chmod(dir, 0o750) },
		"file":   func(dir string) error { return os.Chmod(filepath.Join(dir, "authority"), 0o604) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a")
			o := AuthorityOptions{TrustDomain: domain, Log: quiet}
			if _, err := OpenAuthority(dir, o); err != nil {
				t.Fatal(err)
			}
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenAuthority(dir, o); err == nil || !strings.Contains(err.Error(), "chmod go=") {
				t.Errorf("it opens: %v", err)
			}
		})
	}
}

func TestAuthorityIsEncryptedAtRest(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile, otherFile := write("key", "# a key\n"+key.String()+"\n"), write("other", hybrid.String())
	plain := AuthorityOptions{TrustDomain: domain, Log: quiet}
	for name, secret := range map[string]AuthorityOptions{
		"passphrase": {TrustDomain: domain, Passphrase: []byte("correct horse"), Log: quiet},
		"key file":   {TrustDomain: domain, KeyFile: keyFile, Log: quiet},
		"hybrid":     {TrustDomain: domain, KeyFile: otherFile, Log: quiet},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a")
			before, err := OpenAuthority(dir, plain)
			if err != nil {
				t.Fatal(err)
			}
			after, err := OpenAuthority(dir, secret) // becomes encrypted
			if err != nil {
				t.Fatal(err)
			}
			if !bundleOf(t, before).Equal(bundleOf(t, after)) {
				t.Error("encrypting made another authority")
			}
			text, err := os.ReadFile(after.path)
			if err != nil || !bytes.HasPrefix(text, []byte(sealedPrefix)) || bytes.Contains(text, []byte("trustDomain")) {
				t.Errorf("the file is not encrypted: %q, %v", text[:20], err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("%d files are left", len(entries))
			}
			if _, err := OpenAuthority(dir, secret); err != nil {
				t.Errorf("it does not come back: %v", err)
			}
			if _, err := OpenAuthority(dir, plain); err == nil || !strings.Contains(err.Error(), "give its passphrase or key file") {
				t.Errorf("without: %v", err)
			}
			wrong := secret
			wrong.KeyFile, wrong.Passphrase = "", []byte("wrong")
			if _, err := OpenAuthority(dir, wrong); err == nil || !strings.Contains(err.Error(), "does not open") {
				t.Errorf("with another: %v", err)
			}
			text[len(text)-1] ^= 1
			if err := os.WriteFile(after.path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenAuthority(dir, secret); err == nil {
				t.Error("a damaged file opens")
			}
		})
	}
	dir := filepath.Join(t.TempDir(), "a")
	for name, o := range map[string]AuthorityOptions{
		"both":           {TrustDomain: domain, KeyFile: keyFile, Passphrase: []byte("x")},
		"missing file":   {TrustDomain: domain, KeyFile: filepath.Join(files, "nothing")},
		"no key":         {TrustDomain: domain, KeyFile: write("empty", "# nothing\n")},
		"two keys":       {TrustDomain: domain, KeyFile: write("two", key.String()+"\n"+hybrid.String()+"\n")},
		"no domain":      {},
		"invalid domain": {TrustDomain: "AI test"},
	} {
		if _, err := OpenAuthority(dir, o); err == nil {
			t.Errorf("%s: it opens", name)
		}
	}
	if err := os.Chmod(keyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, AuthorityOptions{TrustDomain: domain, KeyFile: keyFile}); err == nil {
		t.Error("a key file that others may read is used")
	}
}

// What the X509-SVID standard demands of certificates.
func TestProfileOfCertificates(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	svid := issue(t, a, "data", "feature-store")
	leaf, intermediate, root := svid.Certificates[0], svid.Certificates[1], a.state.roots[0].cert
	if id, _, err := x509svid.Verify(svid.Certificates, bundleOf(t, a)); err != nil || id.String() != "spiffe://ai.test/zone/data/workload/feature-store" {
		t.Errorf("go-spiffe reads %v, %v", id, err)
	}
	if len(leaf.URIs) != 1 || leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.Subject.Names) != 0 {
		t.Errorf("leaf: %v", leaf)
	}
	critical := map[string]bool{}
	for _, e := range leaf.Extensions {
		critical[e.Id.String()] = e.Critical
	}
	for _, oid := range []asn1.ObjectIdentifier{{2, 5, 29, 15}, {2, 5, 29, 17}} {
		if !critical[oid.String()] {
			t.Errorf("extension %s is not critical", oid)
		}
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != leafLife+skew {
		t.Errorf("leaf lives %s", life)
	}
	for _, c := range []*x509.Certificate{intermediate, root} {
		if !c.IsCA || len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://ai.test" || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("authority: %v %v", c.Subject, c.URIs)
		}
	}
	if intermediate.MaxPathLen != 0 || !intermediate.MaxPathLenZero || root.MaxPathLen != 1 {
		t.Errorf("path lengths %d, %d", intermediate.MaxPathLen, root.MaxPathLen)
	}
}

func TestAuthorityRefusesWhatItMustNotSign(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	key := mustKey(t)
	big, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]X509Request{
		"no workload":     {"z", "", &key.PublicKey},
		"no zone":         {"", "a", &key.PublicKey},
		"climbing":        {"z", "..", &key.PublicKey},
		"path in name":    {"z", "a/workload/b", &key.PublicKey},
		"other curve":     {"z", "a", &big.PublicKey},
		"no key":          {"z", "a", nil},
		"not a key":       {"z", "a", "key"},
		"private key":     {"z", "a", key},
		"name with space": {"z", "a b", &key.PublicKey},
	} {
		if _, err := a.X509(t.Context(), r); err == nil {
			t.Errorf("%s: it signs", name)
		}
	}
}

func TestIntermediateIsRenewedAtHalfOfItsLife(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now})
	first := issue(t, a, "z", "a")
	w.jump(intermediateLife/2 - time.Hour)
	if !issue(t, a, "z", "a").Certificates[1].Equal(first.Certificates[1]) {
		t.Error("it is renewed too early")
	}
	w.jump(2 * time.Hour)
	second := issue(t, a, "z", "a")
	if second.Certificates[1].Equal(first.Certificates[1]) {
		t.Error("it is not renewed")
	}
	b, err := OpenAuthority(filepath.Dir(a.path), AuthorityOptions{TrustDomain: domain, Now: w.now, Log: quiet})
	if err != nil || !b.state.intermediate.cert.Equal(second.Certificates[1]) {
		t.Errorf("the new one is not on disk: %v", err)
	}
}

func TestAuthorityGoesOnWhenTheDiskDoesNot(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now})
	dir := filepath.Dir(a.path)
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	w.jump(intermediateLife/2 + time.Hour)
	issue(t, a, "z", "a")
	if err := a.PrepareRoot(); err == nil || len(a.state.roots) != 1 {
		t.Errorf("a root that is not on disk counts: %v", err)
	}
	w.jump(intermediateLife / 2)
	key := mustKey(t)
	if _, err := a.X509(t.Context(), X509Request{"z", "a", &key.PublicKey}); err == nil {
		t.Error("an expired intermediate signs")
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	w.jump(time.Minute)
	issue(t, a, "z", "a")
}

func TestAuthorityAndTheClock(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now})
	w.jump(60 * 24 * time.Hour)
	issue(t, a, "z", "a") // makes an intermediate that begins here
	w.jump(-59 * 24 * time.Hour)
	svid := issue(t, a, "z", "a")
	for _, c := range svid.Certificates {
		if !valid(c, w.now()) {
			t.Errorf("after the clock was set back, %q is valid from %s", c.Subject, c.NotBefore)
		}
	}
	key := mustKey(t)
	w.jump(-30 * 24 * time.Hour) // before the root
	if _, err := a.X509(t.Context(), X509Request{"z", "a", &key.PublicKey}); err == nil || !strings.Contains(err.Error(), "correct the clock") {
		t.Errorf("before the root began: %v", err)
	}
	w.jump(20 * 365 * 24 * time.Hour) // after it ended
	if _, err := a.X509(t.Context(), X509Request{"z", "a", &key.PublicKey}); err == nil || !strings.Contains(err.Error(), "correct the clock") {
		t.Errorf("after the root ended: %v", err)
	}
}

func TestNothingOutlivesItsSigner(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now, LeafLife: 24 * time.Hour})
	w.jump(rootLife - 2*time.Hour)
	svid := issue(t, a, "z", "a")
	end := a.state.roots[0].cert.NotAfter
	for _, c := range svid.Certificates {
		if c.NotAfter.After(end) {
			t.Errorf("%q ends at %s, the root at %s", c.Subject, c.NotAfter, end)
		}
	}
}

func TestJWTKeysAreRenewed(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now})
	first := a.state.jwtKeys[0].id
	sequence := a.state.sequence
	signer := func() string {
		t.Helper()
		if _, err := a.JWT(t.Context(), JWTRequest{"z", "a", []string{"x"}}); err != nil {
			t.Fatal(err)
		}
		return a.state.jwtSigner(w.now()).id
	}
	w.jump(jwtKeyLife + time.Minute)
	if got := signer(); got != first || len(a.state.jwtKeys) != 2 {
		t.Errorf("a key signs before it is known, or is not published: %d keys", len(a.state.jwtKeys))
	}
	w.jump(propagation)
	second := signer()
	if second == first || len(bundleOf(t, a).JWTAuthorities()) != 2 {
		t.Error("the new key does not sign, or the old one is forgotten too early")
	}
	w.jump(jwtLife + 2*skew)
	if signer() != second || len(bundleOf(t, a).JWTAuthorities()) != 1 {
		t.Error("the old key is still in the bundle")
	}
	if a.state.sequence != sequence+2 {
		t.Errorf("the sequence went from %d to %d", sequence, a.state.sequence)
	}
	w.jump(-30 * 24 * time.Hour)
	signer() // a key of the future still signs
}

func TestRootRotationIsGuarded(t *testing.T) {
	var w wall
	a := newAuthority(t, AuthorityOptions{Now: w.now})
	step := func(name string, f func() error, says string) {
		t.Helper()
		err := f()
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Fatalf("%s: %v, not %q", name, err, says)
		}
	}
	step("activate", a.ActivateRoot, "prepare one first")
	step("retire", a.RetireRoot, "activate a new one first")
	step("prepare", a.PrepareRoot, "")
	step("prepare", a.PrepareRoot, "already")
	step("activate", a.ActivateRoot, "not known everywhere")
	w.jump(propagation)
	step("activate", a.ActivateRoot, "")
	step("retire", a.RetireRoot, "in use until")
	b, err := OpenAuthority(filepath.Dir(a.path), AuthorityOptions{TrustDomain: domain, Now: w.now, Log: quiet})
	if err != nil || !bundleOf(t, a).Equal(bundleOf(t, b)) {
		t.Fatalf("a restart in the middle: %v", err)
	}
	w.jump(leafLife + skew + time.Second)
	step("retire", b.RetireRoot, "")
	if n := len(bundleOf(t, b).X509Authorities()); n != 1 {
		t.Errorf("%d roots are left", n)
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	a, b := newAuthority(t, AuthorityOptions{}), newAuthority(t, AuthorityOptions{})
	own, err := a.state.encode(a.td)
	if err != nil {
		t.Fatal(err)
	}
	others, err := b.state.encode(b.td)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(s, other *storedState){
		"version":                 func(s, _ *storedState) { s.Version++ },
		"no root":                 func(s, _ *storedState) { s.Roots = nil },
		"two active roots":        func(s, o *storedState) { s.Roots = append(s.Roots, o.Roots...) },
		"unknown stage":           func(s, _ *storedState) { s.Roots[0].Stage = "wise" },
		"another's root":          func(s, o *storedState) { s.Roots = o.Roots },
		"another's root key":      func(s, o *storedState) { s.Roots[0].Key = o.Roots[0].Key },
		"another's intermediate":  func(s, o *storedState) { s.Intermediate = o.Intermediate },
		"no key":                  func(s, _ *storedState) { s.Intermediate.Key = nil },
		"no JWT key":              func(s, _ *storedState) { s.JWTKeys = nil },
		"a JWT key that is empty": func(s, _ *storedState) { s.JWTKeys[0].Key = nil },
	} {
		var s, o storedState
		if err := errors.Join(json.Unmarshal(own, &s), json.Unmarshal(others, &o)); err != nil {
			t.Fatal(err)
		}
		damage(&s, &o)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(text, a.td); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	a := newAuthority(f, AuthorityOptions{})
	text, err := a.state.encode(a.td)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"trustDomain":"ai.test","jwtKeys":[{"key":""}],"roots":[{}]}`))
	f.Add([]byte(`{"version":1,"trustDomain":"ai.test"}`))
	td := spiffeid.RequireTrustDomainFromString(domain)
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeState(text, td)
		if err != nil {
			return
		}
		if s.at(active) < 0 || len(s.jwtKeys) == 0 {
			t.Error("a state without a signer was read")
		}
		if _, err := s.renewed(td, time.Now()); err != nil {
			t.Log(err)
		}
	})
}
