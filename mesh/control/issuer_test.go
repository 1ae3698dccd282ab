package control

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bulkhead/core/policy"
	"bulkhead/mesh/identity"
)

func TestANodeGetsWhatIsItsOwn(t *testing.T) {
	t.Parallel()
	p := newTester(t, true) // over TCP and TLS
	n, second := p.join("n1"), p.join("n2")
	n.waitNumber(1)
	second.waitNumber(1)
	key := newKey(t)
	chain, err := n.client.X509(t.Context(), identity.X509Request{Zone: "training", Workload: "trainer", PublicKey: key.Public()})
	must(t, err)
	bundle, err := n.client.Bundle(t.Context())
	must(t, err)
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range bundle.X509Authorities() {
		roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	token, err := n.client.JWT(t.Context(), identity.JWTRequest{Zone: "training", Workload: "trainer", Audience: []string{"vault"}})
	if err != nil || strings.Count(token, ".") != 2 {
		t.Errorf("the token is %q, %v", token, err)
	}
	first, err := n.client.FirstBundle()
	if err != nil || len(first.X509Authorities()) == 0 {
		t.Errorf("the credential's bundle: %v", err)
	}
	for name, r := range map[string]identity.X509Request{
		"not of this node": {Zone: "training", Workload: "trainer"},
		"another zone":     {Zone: "data", Workload: "trainer"},
		"nobody":           {Zone: "training", Workload: "nobody"},
		"a path":           {Zone: "training", Workload: "../zone/data/workload/store"},
		"no name":          {},
	} {
		r.PublicKey = key.Public()
		if _, err := second.client.X509(t.Context(), r); !errors.Is(err, identity.ErrNoIdentity) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := second.client.JWT(t.Context(), identity.JWTRequest{Zone: r.Zone, Workload: r.Workload, Audience: []string{"x"}}); !errors.Is(err, identity.ErrNoIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhoIsCutOffGetsNothing(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	ask := func() error {
		_, err := n.client.X509(t.Context(), identity.X509Request{Zone: "training", Workload: "trainer", PublicKey: newKey(t).Public()})
		return err
	}
	zone := policy.Quarantine{Target: "zone/training", Because: "x", Operator: "y", KeepEvidence: true}
	_, err := p.ctl.Quarantine(t.Context(), zone)
	must(t, err)
	if err := ask(); err != nil {
		t.Errorf("evidence needs an identity: %v", err)
	}
	zone.KeepEvidence = false
	_, err = p.ctl.Quarantine(t.Context(), zone)
	must(t, err)
	if err := ask(); !errors.Is(err, identity.ErrNoIdentity) || !strings.Contains(err.Error(), "quarantined") {
		t.Errorf("the error is %v", err)
	}
	_, err = p.ctl.Release(t.Context(), "zone/training", "x", "y")
	must(t, err)
	if err := ask(); err != nil {
		t.Error(err)
	}
}

// TestRequestsOfOthers: what a hostile bus can make of requests and answers.
func TestRequestsOfOthers(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	bus := p.stranger(t)
	seen, err := bus.nc.SubscribeSync(p.ctl.n.requests + ">")
	must(t, err)
	must(t, bus.nc.Flush())
	_, err = n.client.JWT(t.Context(), identity.JWTRequest{Zone: "training", Workload: "trainer", Audience: []string{"vault"}})
	must(t, err)
	heard, err := seen.NextMsg(time.Second)
	must(t, err)

	// Said again, it is refused; and what was answered to it is not readable.
	again := p.ctl.answer(t.Context(), heard.Data)
	r, err := openReply(again, p.ctl.public())
	if err != nil || r.Error == "" || r.Sealed != nil {
		t.Errorf("the same request again gets %+v, %v", r, err)
	}
	// With another key for the answer the signature is wrong.
	var s signed
	must(t, json.Unmarshal(heard.Data, &s))
	var m message
	must(t, json.Unmarshal(s.Text, &m))
	mine, err := kem().GenerateKey()
	must(t, err)
	m.Reply, m.Nonce = mine.PublicKey().Bytes(), newNonce()
	s.Text, err = json.Marshal(m)
	must(t, err)
	text, err := json.Marshal(s)
	must(t, err)
	if p.ctl.answer(t.Context(), text) != nil {
		t.Error("a changed request was answered")
	}
	// A clock that is an hour off is named.
	late := m
	late.At = p.now().Add(-time.Hour)
	text, err = sign(messageContext, late, n.cred.key())
	must(t, err)
	r, err = openReply(p.ctl.answer(t.Context(), text), p.ctl.public())
	if err != nil || !strings.Contains(r.Error, "clock") {
		t.Errorf("an old request gets %+v, %v", r, err)
	}
	// A key for the answer that is none.
	bad := m
	bad.Reply, bad.Nonce = []byte("short"), newNonce()
	text, err = sign(messageContext, bad, n.cred.key())
	must(t, err)
	r, err = openReply(p.ctl.answer(t.Context(), text), p.ctl.public())
	if err != nil || r.Error == "" || r.Sealed != nil {
		t.Errorf("a bad key gets %+v, %v", r, err)
	}
}

// TestAnswersOfOthers: an answer that control did not give to this question.
func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	p.stop() // only the false control answers
	bus := p.stranger(t)
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	answers := map[string]func(m message) []byte{
		"another key": func(m message) []byte {
			text, _ := sign(replyContext, reply{Nonce: m.Nonce}, other)
			return text
		},
		"another nonce": func(message) []byte {
			text, _ := sign(replyContext, reply{Nonce: newNonce()}, p.ctl.key)
			return text
		},
		"signed as something else": func(m message) []byte {
			text, _ := sign("bulkhead/order/v1\n", reply{Nonce: m.Nonce}, p.ctl.key)
			return text
		},
		"not encrypted": func(m message) []byte {
			text, _ := sign(replyContext, reply{Nonce: m.Nonce, Sealed: []byte("{}")}, p.ctl.key)
			return text
		},
		"nothing": func(message) []byte { return nil },
		"text":    func(message) []byte { return []byte("yes") },
	}
	for name, answer := range answers {
		sub, err := bus.nc.Subscribe(p.ctl.n.requests+">", func(msg *nats.Msg) {
			var s signed
			var m message
			if json.Unmarshal(msg.Data, &s) == nil && json.Unmarshal(s.Text, &m) == nil {
				msg.Respond(answer(m))
			}
		})
		must(t, err)
		must(t, bus.nc.Flush())
		if _, err := n.client.Bundle(t.Context()); err == nil {
			t.Errorf("%s was believed", name)
		}
		must(t, sub.Unsubscribe())
	}
}

// TestACertificateForAnotherKeyIsRefused: control answers, with something else.
func TestACertificateForAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	key := newKey(t)
	r := identity.X509Request{Zone: "training", Workload: "trainer", PublicKey: key.Public()}
	chain, err := p.auth.X509(t.Context(), r)
	must(t, err)
	if err := n.client.checkLeaf(chain, r); err != nil {
		t.Error(err)
	}
	wrong := r
	wrong.PublicKey = newKey(t).Public()
	if n.client.checkLeaf(chain, wrong) == nil {
		t.Error("a certificate with another key was taken")
	}
	wrong = r
	wrong.Workload = "store"
	if n.client.checkLeaf(chain, wrong) == nil {
		t.Error("a certificate of another workload was taken")
	}
	if n.client.checkLeaf(nil, r) == nil {
		t.Error("no certificate was taken for one")
	}
}

func TestReplayedNoncesAreForgottenOnlyWhenOld(t *testing.T) {
	var r replays
	now := time.Now()
	m := &message{Node: "a", At: now, Nonce: bytes.Repeat([]byte{1}, nonceSize)}
	must(t, r.fresh(m, now))
	for d := time.Duration(0); d <= window; d += time.Second {
		other := &message{Node: "a", At: now.Add(d), Nonce: newNonce()}
		must(t, r.fresh(other, now.Add(d)))
		if r.fresh(m, now.Add(d)) == nil {
			t.Fatalf("it was taken again after %s", d)
		}
	}
	if r.fresh(m, now.Add(window+time.Second)) == nil {
		t.Error("an old message was taken")
	}
}

// silent is a control with a generation and without a bus.
func silent(f *testing.F) *tester {
	f.Helper()
	p := &tester{t: f, dir: f.TempDir(), log: quiet(f)}
	p.policy = p.sub("policy.yaml")
	p.setPolicy(testPolicy())
	must(f, os.MkdirAll(p.sub("control"), 0o700))
	var err error
	p.roster, err = OpenRoster(p.sub("control"))
	must(f, err)
	p.auth, err = identity.OpenAuthority(p.sub("ca"), identity.AuthorityOptions{TrustDomain: testDomain, Log: p.log})
	must(f, err)
	p.ctl, err = New(p.options(&Bus{}))
	must(f, err)
	must(f, p.ctl.load(f.Context()))
	return p
}

func FuzzSignRequest(f *testing.F) {
	p := silent(f)
	cred := p.credential("n1")
	key, err := kem().GenerateKey()
	must(f, err)
	f.Add("x509", "n1", []byte(`{"zone":"training","workload":"trainer","publicKey":"AA=="}`), key.PublicKey().Bytes(), true)
	f.Add("jwt", "n1", []byte(`{"zone":"data","workload":"store","audience":["x"]}`), []byte("k"), true)
	f.Add("bundle", "n1", []byte(`{}`), []byte(nil), false)
	f.Add("report", "n2", []byte(`{"number":1}`), []byte(nil), true)
	f.Fuzz(func(t *testing.T, kind, node string, body, replyKey []byte, ours bool) {
		m := message{Platform: testPlatform, Node: node, Kind: kind, At: p.now(), Nonce: newNonce(), Reply: replyKey, Body: body}
		if !json.Valid(body) {
			m.Body = nil
			p.ctl.answer(t.Context(), body) // nothing of it is signed
			p.ctl.report(body)
		}
		signer := cred.key()
		if !ours {
			_, signer, _ = ed25519.GenerateKey(nil)
		}
		text, err := sign(messageContext, m, signer)
		if err != nil {
			return
		}
		answer := p.ctl.answer(t.Context(), text)
		if answer != nil && (!ours || node != "n1") {
			t.Fatal("a stranger got an answer")
		}
		p.ctl.report(text)
	})
}

func FuzzCredential(f *testing.F) {
	text, err := json.Marshal(silent(f).credential("n1"))
	must(f, err)
	f.Add(text)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"version":1,"platform":"a","trustDomain":"b","node":"c","control":"","seed":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCredential(text)
		if err != nil {
			return
		}
		c.key() // does not panic
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseCredential(again); err != nil {
			t.Fatalf("%s is no credential any more: %v", again, err)
		}
	})
}
