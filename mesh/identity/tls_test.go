package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestHandshakeProvesBothEnds(t *testing.T) {
	src := sourceOf(t, []string{"a", "b"}, newAuthority(t, AuthorityOptions{}))
	a, b := mustID(t, domain, "z", "a"), mustID(t, domain, "z", "b")
	state, ce, se := shake(ClientTLS(src, "a", b), ServerTLS(src, "b"))
	if ce != nil || se != nil {
		t.Fatalf("client: %v, server: %v", ce, se)
	}
	if id, err := Peer(state); err != nil || id != a {
		t.Errorf("the peer is %v, %v", id, err)
	}
	if state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("the key exchange is %v", state.CurveID)
	}
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != Protocol {
		t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
	}
	if _, err := Peer(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: state.PeerCertificates}); err == nil {
		t.Error("a certificate that nobody verified gives an identity")
	}
}

// forge signs what a test wants, with an authority's real key.
type forge struct {
	t    testing.TB
	a    *Authority
	by   signer
	via  []*x509.Certificate // presented after the leaf
	when time.Time
}

func newForge(t testing.TB, a *Authority) *forge {
	by := a.state.intermediate
	return &forge{t: t, a: a, by: by, via: []*x509.Certificate{by.cert}, when: a.now()}
}

func (f *forge) leaf(change func(*x509.Certificate)) *x509svid.SVID {
	f.t.Helper()
	key := mustKey(f.t)
	id := mustID(f.t, f.a.td.Name(), "z", "a")
	template := &x509.Certificate{
		URIs: []*url.URL{id.URL()}, NotBefore: f.when.Add(-time.Minute), NotAfter: f.when.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(template)
	return &x509svid.SVID{ID: id, PrivateKey: key, Certificates: append([]*x509.Certificate{f.sign(template, f.by, key)}, f.via...)}
}

func (f *forge) sign(template *x509.Certificate, by signer, key *ecdsa.PrivateKey) *x509.Certificate {
	f.t.Helper()
	parent := by.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by.key)
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return cert
}

func uri(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// attacks are certificates that must not be believed, with what the refusal
// says. Each is tried as a client and as a server.
func attacks(t *testing.T, a, other *Authority) map[string]struct {
	svid *x509svid.SVID
	says string
} {
	f := newForge(t, a)
	out := map[string]struct {
		svid *x509svid.SVID
		says string
	}{}
	add := func(name, says string, svid *x509svid.SVID) {
		out[name] = struct {
			svid *x509svid.SVID
			says string
		}{svid, says}
	}
	add("expired", "expired", f.leaf(func(c *x509.Certificate) { c.NotAfter = f.when.Add(-time.Second) }))
	add("not yet valid", "not yet valid", f.leaf(func(c *x509.Certificate) { c.NotBefore = f.when.Add(time.Minute) }))
	add("two URIs", "exactly one", f.leaf(func(c *x509.Certificate) {
		c.URIs = append(c.URIs, mustID(t, domain, "z", "b").URL())
	}))
	add("no URI", "exactly one", f.leaf(func(c *x509.Certificate) { c.URIs = nil; c.Subject.CommonName = "a" }))
	add("DNS only", "exactly one", f.leaf(func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"a.z"} }))
	add("not spiffe", "exactly one", f.leaf(func(c *x509.Certificate) { c.URIs = []*url.URL{uri("https://ai.test/zone/z/workload/a")} }))
	add("no path", "no path", f.leaf(func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://ai.test")} }))
	add("authority as leaf", "authority", f.leaf(func(c *x509.Certificate) { c.IsCA = true }))
	add("leaf may sign", "authority", f.leaf(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }))
	add("leaf may not sign", "digitalSignature", f.leaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }))
	add("for code signing", "", f.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }))
	add("other trust domain's ID", "not trusted", f.leaf(func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://evil.test/zone/z/workload/a")} }))

	// A federated authority that signs for our trust domain.
	fo := newForge(t, other)
	add("federated authority signs for us", "", fo.leaf(func(c *x509.Certificate) { c.URIs = []*url.URL{mustID(t, domain, "z", "a").URL()} }))

	self := &forge{t: t, a: a, when: f.when}
	self.by.key = mustKey(t)
	svid := self.leaf(func(*x509.Certificate) {})
	svid.PrivateKey = self.by.key
	add("self-signed", "", svid)

	// A leaf that signs another leaf.
	leaf := f.leaf(func(*x509.Certificate) {})
	below := &forge{t: t, a: a, when: f.when, by: signer{leaf.Certificates[0], leaf.PrivateKey.(*ecdsa.PrivateKey)}, via: leaf.Certificates}
	add("signed by a leaf", "", below.leaf(func(c *x509.Certificate) { c.URIs = []*url.URL{mustID(t, domain, "z", "b").URL()} }))

	// The own leaf first, another's believed one behind it: GHSA-mrpr-756c-xm47.
	evil := self.leaf(func(*x509.Certificate) {})
	evil.PrivateKey = self.by.key
	evil.Certificates = append(evil.Certificates, leaf.Certificates...)
	add("another's certificate behind", "", evil)

	// An intermediate that names a workload.
	key := mustKey(t)
	template := authorityTemplate(a.td, "intermediate", 0, f.when.Add(time.Hour), f.when)
	template.URIs = []*url.URL{mustID(t, domain, "z", "x").URL()}
	named := f.sign(template, a.state.roots[0].signer, key)
	path := &forge{t: t, a: a, when: f.when, by: signer{named, key}, via: []*x509.Certificate{named}}
	add("intermediate with a path", "names a workload", path.leaf(func(*x509.Certificate) {}))

	template = authorityTemplate(other.td, "intermediate", 0, f.when.Add(time.Hour), f.when)
	foreign := f.sign(template, a.state.roots[0].signer, key)
	td := &forge{t: t, a: a, when: f.when, by: signer{foreign, key}, via: []*x509.Certificate{foreign}}
	add("intermediate of another trust domain", "the signing certificate is of", td.leaf(func(*x509.Certificate) {}))

	long := f.leaf(func(*x509.Certificate) {})
	for range maxChain {
		long.Certificates = append(long.Certificates, a.state.roots[0].cert)
	}
	add("endless chain", "more than", long)
	return out
}

func TestAttacksAreRefused(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	other := newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	honest := sourceOf(t, []string{"a", "b"}, a, other)
	aID, bID := mustID(t, domain, "z", "a"), mustID(t, domain, "z", "b")
	for name, attack := range attacks(t, a, other) {
		t.Run(name, func(t *testing.T) {
			evil := sourceOf(t, nil, a, other)
			evil.svids["a"] = attack.svid
			_, ce, se := shake(ClientTLS(evil, "a", bID), ServerTLS(honest, "b"))
			if ce == nil || se == nil {
				t.Errorf("as a client: client %v, server %v", ce, se)
			} else if !strings.Contains(se.Error(), attack.says) {
				t.Errorf("as a client: %q does not say %q", se, attack.says)
			}
			// As a server the attacker uses no rules of its own.
			_, ce, _ = shake(ClientTLS(honest, "b", aID), careless(attack.svid))
			if ce == nil {
				t.Error("as a server it is believed")
			} else if !strings.Contains(ce.Error(), attack.says) {
				t.Errorf("as a server: %q does not say %q", ce, attack.says)
			}
		})
	}
}

// careless is a server that presents a certificate and believes everybody.
func careless(svid *x509svid.SVID) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{Protocol},
		Certificates: []tls.Certificate{chainOf(svid)}, ClientAuth: tls.RequireAnyClientCert}
}

func TestOneKeyUsageIsForOneDirection(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	src := sourceOf(t, []string{"b"}, a)
	f := newForge(t, a)
	src.svids["a"] = f.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }) // server only
	if _, ce, se := shake(ClientTLS(src, "a", mustID(t, domain, "z", "b")), ServerTLS(src, "b")); ce == nil || se == nil {
		t.Errorf("a server's certificate is a client: %v, %v", ce, se)
	}
	if _, ce, se := shake(ClientTLS(src, "b", mustID(t, domain, "z", "a")), ServerTLS(src, "a")); ce != nil || se != nil {
		t.Errorf("a server's certificate is no server: %v, %v", ce, se)
	}
}

func TestClientsThatDoNotPlayByTheRules(t *testing.T) {
	src := sourceOf(t, []string{"a", "b", "c"}, newAuthority(t, AuthorityOptions{}))
	b := mustID(t, domain, "z", "b")
	for name, change := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		},
		"TLS 1.2":          func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"unknown protocol": func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		"no protocol": func(c *tls.Config) {
			c.NextProtos = nil
			c.VerifyConnection = nil
		},
		"SNI of another": func(c *tls.Config) { c.ServerName = ServerName("z", "c") },
		"no SNI":         func(c *tls.Config) { c.ServerName = "" },
		"SNI is an ID":   func(c *tls.Config) { c.ServerName = "spiffe://ai.test/zone/z/workload/b" },
	} {
		t.Run(name, func(t *testing.T) {
			config := ClientTLS(src, "a", b)
			change(config)
			if _, ce, se := shake(config, ServerTLS(src, "b")); ce == nil || se == nil {
				t.Errorf("client %v, server %v", ce, se)
			}
		})
	}
}

func TestServersThatDoNotPlayByTheRules(t *testing.T) {
	src := sourceOf(t, []string{"a", "b", "c"}, newAuthority(t, AuthorityOptions{}))
	svid := src.svids["c"]
	for name, change := range map[string]func(*tls.Config){
		"another's identity": func(*tls.Config) {},
		"no protocol":        func(c *tls.Config) { c.NextProtos = nil; c.Certificates = []tls.Certificate{chainOf(src.svids["b"])} },
		"TLS 1.2": func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			c.Certificates = []tls.Certificate{chainOf(src.svids["b"])}
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := careless(svid)
			change(config)
			if _, ce, _ := shake(ClientTLS(src, "a", mustID(t, domain, "z", "b")), config); ce == nil {
				t.Error("the client believes it")
			}
		})
	}
	if _, ce, _ := shake(ClientTLS(src, "a", spiffeid.ID{}), careless(svid)); ce == nil {
		t.Error("a client that asks for nobody believes anybody")
	}
}

// One listener for several workloads shows each only to who asks for it by name,
// and never believes what pick says against the certificate.
func TestServerForSeveral(t *testing.T) {
	src := sourceOf(t, []string{"a", "b", "c"}, newAuthority(t, AuthorityOptions{}))
	names := map[string]string{"b.z": "b", "c.z": "c", "wrong.z": "b"}
	server := ServerTLSFor(src, func(name string) (string, bool) {
		if name == "c.y" {
			return "c", false
		}
		w, ok := names[name]
		return w, ok
	})
	src.svids["c"].ID = mustID(t, domain, "y", "c") // what its certificate does not say
	if err := serverRefuses(server, "c.y"); err == nil {
		t.Error("a workload that pick does not name answers")
	}
	src.svids["c"].ID = mustID(t, domain, "z", "c")
	for _, w := range []string{"b", "c"} {
		if _, ce, se := shake(ClientTLS(src, "a", mustID(t, domain, "z", w)), server); ce != nil || se != nil {
			t.Errorf("%s: %v, %v", w, ce, se)
		}
	}
	for _, w := range []string{"wrong", "unknown"} {
		if _, ce, se := shake(ClientTLS(src, "a", mustID(t, domain, "z", w)), server); ce == nil || se == nil {
			t.Errorf("%s: a connection stands", w)
		}
	}
}

// serverRefuses returns the error with which a server meets a server name.
func serverRefuses(server *tls.Config, name string) error {
	_, err := server.GetConfigForClient(&tls.ClientHelloInfo{ServerName: name})
	return err
}

// A client that keeps sessions gets none, so that a denied workload cannot
// come back on one.
func TestNothingIsResumed(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	k := keeping(t, KeeperOptions{Issuer: a}, map[string]string{"a": "z", "b": "z"})
	ready(t, k)
	config := ClientTLS(k, "a", mustID(t, domain, "z", "b"))
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	server := ServerTLS(k, "b")
	for range 2 {
		state, ce, se := shake(config, server)
		if ce != nil || se != nil || state.DidResume {
			t.Fatalf("resumed %v, client %v, server %v", state.DidResume, ce, se)
		}
	}
	k.Deny("a")
	if _, ce, se := shake(config, server); ce == nil || se == nil {
		t.Errorf("a denied client connects: %v, %v", ce, se)
	}
	k.Release("a")
	k.Deny("b")
	if _, ce, se := shake(config, server); ce == nil || se == nil {
		t.Errorf("a denied server answers: %v, %v", ce, se)
	}
}

// Even where a server gives sessions away, each use of one is verified.
func TestResumedSessionsAreVerified(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	src := sourceOf(t, []string{"a", "b"}, a)
	config := ClientTLS(src, "a", mustID(t, domain, "z", "b"))
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	server := careless(src.svids["b"])
	resumed := false
	for range 3 {
		state, ce, se := shake(config, server)
		if ce != nil || se != nil {
			t.Fatal(ce, se)
		}
		resumed = resumed || state.DidResume
	}
	if !resumed {
		t.Fatal("no session was resumed: this test tests nothing")
	}
	delete(src.bundles, a.td)
	if _, ce, _ := shake(config, server); ce == nil {
		t.Error("a resumed session is believed after its trust domain is not trusted any more")
	}
}

func TestFederatedPeerIsVerifiedAndNobodyOfOurs(t *testing.T) {
	a, partner := newAuthority(t, AuthorityOptions{}), newAuthority(t, AuthorityOptions{TrustDomain: "partner.test"})
	ours, theirs := sourceOf(t, []string{"b"}, a, partner), sourceOf(t, []string{"a"}, partner, a)
	state, ce, se := shake(ClientTLS(theirs, "a", mustID(t, domain, "z", "b")), ServerTLS(ours, "b"))
	if ce != nil || se != nil {
		t.Fatal(ce, se)
	}
	id, err := Peer(state)
	if err != nil || id != mustID(t, "partner.test", "z", "a") {
		t.Fatalf("the peer is %v, %v", id, err)
	}
	if _, _, err := Workload(id, domain); err == nil {
		t.Error("a workload of another trust domain is one of ours")
	}
	delete(ours.bundles, partner.td)
	if _, ce, se := shake(ClientTLS(theirs, "a", mustID(t, domain, "z", "b")), ServerTLS(ours, "b")); ce == nil || se == nil {
		t.Error("a trust domain that is not federated is believed")
	}
}

// A bundle that names a workload's certificate as an authority makes it none.
func TestLeafInABundleIsNoProof(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	src := sourceOf(t, []string{"a", "b"}, a)
	leaf := src.svids["a"].Certificates[0]
	src.bundles[a.td].AddX509Authority(leaf)
	src.svids["a"].Certificates = src.svids["a"].Certificates[:1]
	if _, ce, se := shake(ClientTLS(src, "a", mustID(t, domain, "z", "b")), ServerTLS(src, "b")); ce == nil || se == nil {
		t.Errorf("it connects: %v, %v", ce, se)
	}
	if _, err := verify([]*x509.Certificate{leaf}, src, x509.ExtKeyUsageServerAuth, a.now()); err == nil {
		t.Error("it is believed")
	}
}

// A federated authority whose certificate names no trust domain, as that of an
// organisation's own root, signs for its own trust domain and for no other.
func TestFederatedAuthorityWithoutAName(t *testing.T) {
	a := newAuthority(t, AuthorityOptions{})
	key := mustKey(t)
	template := authorityTemplate(a.td, "root", 1, time.Now().Add(time.Hour), time.Now())
	template.URIs = nil
	foreign, err := sign(template, signer{key: key}, key)
	if err != nil {
		t.Fatal(err)
	}
	partner := spiffeid.RequireTrustDomainFromString("partner.test")
	src := sourceOf(t, []string{"b"}, a)
	src.bundles[partner] = x509bundle.FromX509Authorities(partner, []*x509.Certificate{foreign.cert})
	f := &forge{t: t, a: a, by: foreign, when: time.Now()}
	for id, believed := range map[string]bool{"spiffe://partner.test/x": true, "spiffe://ai.test/zone/z/workload/a": false} {
		src.svids["a"] = f.leaf(func(c *x509.Certificate) { c.URIs = []*url.URL{uri(id)} })
		_, ce, se := shake(ClientTLS(src, "a", mustID(t, domain, "z", "b")), ServerTLS(src, "b"))
		if (ce == nil && se == nil) != believed {
			t.Errorf("%s: client %v, server %v", id, ce, se)
		}
		_, ce, _ = shake(ClientTLS(src, "b", spiffeid.RequireFromString(id)), careless(src.svids["a"]))
		if (ce == nil) != believed {
			t.Errorf("%s as a server: %v", id, ce)
		}
	}
}

func TestNameOfForeignForm(t *testing.T) {
	for id, want := range map[string]string{
		"spiffe://ai.test/zone/z/workload/a": "a.z",
		"spiffe://ai.test/ns/prod/sa/web":    "web.sa.prod.ns",
	} {
		if got := nameOf(spiffeid.RequireFromString(id)); got != want {
			t.Errorf("%s is named %q, not %q", id, got, want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	a := newAuthority(f, AuthorityOptions{})
	src := sourceOf(f, []string{"a"}, a)
	svid := src.svids["a"]
	f.Add(svid.Certificates[0].Raw, svid.Certificates[1].Raw)
	f.Add(a.state.roots[0].cert.Raw, []byte{})
	f.Fuzz(func(t *testing.T, leaf, above []byte) {
		var certs []*x509.Certificate
		for _, der := range [][]byte{leaf, above} {
			if c, err := x509.ParseCertificate(der); err == nil {
				certs = append(certs, c)
			}
		}
		id, err := verify(certs, src, x509.ExtKeyUsageClientAuth, a.now())
		if err == nil && (id != svid.ID || !certs[0].Equal(svid.Certificates[0])) {
			t.Errorf("a certificate that nobody issued proves %s", id)
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	src := sourceOf(b, []string{"a", "b"}, newAuthority(b, AuthorityOptions{}))
	client, server := ClientTLS(src, "a", mustID(b, domain, "z", "b")), ServerTLS(src, "b")
	b.ReportAllocs()
	for b.Loop() {
		if _, ce, se := shake(client, server); ce != nil || se != nil {
			b.Fatal(ce, se)
		}
	}
}
