package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bulkhead/core/policy"
	"bulkhead/mesh/generation"
)

// hostile publishes an order as whoever owns the bus can.
func (p *tester) hostile(t *testing.T, bus *Bus, key ed25519.PrivateKey, change func(*generation.Order)) {
	t.Helper()
	o := *p.ctl.current().order
	change(&o)
	text, err := generation.Seal(&o, key)
	must(t, err)
	must(t, bus.nc.Publish(p.ctl.n.orderSubject(), text))
	must(t, bus.nc.Flush())
}

// stranger returns a connection that may do everything on the bus.
func (p *tester) stranger(t *testing.T) *Bus {
	t.Helper()
	bus, err := p.server.Connect()
	must(t, err)
	t.Cleanup(bus.Close)
	wait(t, "the bus", bus.Connected)
	return bus
}

func TestOrdersOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	first := bytes.Clone(p.ctl.current().sealed)
	_, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	before, _, times := n.latest()
	bus := p.stranger(t)
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	ours := p.ctl.key
	attacks := []struct {
		name string
		do   func()
	}{
		{"another key", func() { p.hostile(t, bus, other, func(o *generation.Order) { o.Number++; o.Quarantines = nil }) }},
		{"older", func() { must(t, bus.nc.Publish(p.ctl.n.orderSubject(), first)) }},
		{"same number", func() { p.hostile(t, bus, ours, func(o *generation.Order) { o.Quarantines = nil }) }},
		{"other platform", func() { p.hostile(t, bus, ours, func(o *generation.Order) { o.Number++; o.Platform = "other" }) }},
		{"other trust domain", func() {
			p.hostile(t, bus, ours, func(o *generation.Order) { o.Number++; o.TrustDomain = "other.test" })
		}},
		{"a path for a plan", func() { p.hostile(t, bus, ours, func(o *generation.Order) { o.Number++; o.Plan = "../../etc/passwd" }) }},
		{"nothing", func() { must(t, bus.nc.Publish(p.ctl.n.orderSubject(), nil)) }},
		{"long", func() { must(t, bus.nc.Publish(p.ctl.n.orderSubject(), make([]byte, 1<<20))) }},
		{"a changed byte", func() {
			text := bytes.Replace(p.ctl.current().sealed, []byte(`"trainer"`), []byte(`"trainee"`), 1)
			must(t, bus.nc.Publish(p.ctl.n.orderSubject(), text))
		}},
	}
	for i, a := range attacks {
		a.do()
		wait(t, a.name+" to be refused", func() bool { return n.client.Status().Refused == uint64(i+1) })
	}
	after, _, again := n.latest()
	if after.Number != before.Number || again != times || len(after.Quarantines) != 1 {
		t.Errorf("generation %d is in force, applied %d times, not %d", after.Number, again, times)
	}
}

// TestControlTakesTheBusBack: an order that was put over ours in the bucket does
// not stay there.
func TestControlTakesTheBusBack(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	bus := p.stranger(t)
	must(t, bus.nc.Publish(p.ctl.n.orderSubject(), []byte("mine now")))
	wait(t, "our order to be there again", func() bool {
		text, err := bus.get(t.Context(), p.ctl.n.orderKey)
		return err == nil && bytes.Equal(text, p.ctl.current().sealed)
	})
}

// TestATamperedPlanIsNotEnforced: the order is ours, the plan on the bus is not.
func TestATamperedPlanIsNotEnforced(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	before := n.waitNumber(1)
	bus := p.stranger(t)
	evil := &generation.Plan{Policy: &policy.Policy{}}
	packed, _, err := evil.Pack()
	must(t, err)
	digest := strings.Repeat("ab", 32)
	kv, err := bus.openBucket(t.Context())
	must(t, err)
	must(t, bus.putPlan(t.Context(), kv, digest, packed))
	p.hostile(t, bus, p.ctl.key, func(o *generation.Order) { o.Number++; o.Plan = digest })
	wait(t, "a problem", func() bool { return len(n.client.Status().Problems) > 0 })
	if after, _, _ := n.latest(); after.Number != before.Number {
		t.Errorf("generation %d is in force with a plan that nobody signed", after.Number)
	}
	// A newer order that needs no new plan does not wait for it.
	p.ctl.mu.Lock()
	p.ctl.last = &generation.Order{Number: before.Number + 1, At: before.At}
	p.ctl.mu.Unlock()
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	n.waitNumber(e.Generation)
}

// TestRollbackOverARestart: a node that starts again does not take what is older
// than what it had.
func TestRollbackOverARestart(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	first := bytes.Clone(p.ctl.current().sealed)
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	n.stop()
	p.stop() // so that nobody repairs the bus
	bus := p.stranger(t)
	kv, err := bus.openBucket(t.Context())
	must(t, err)
	_, err = kv.Put(t.Context(), p.ctl.n.orderKey, first)
	must(t, err)
	// Also when the plan on its disk is lost.
	must(t, os.Remove(filepath.Join(p.sub("node-n1"), planPrefix+p.ctl.current().order.Plan)))
	n.start()
	n.waitNumber(e.Generation) // the plan comes from the bus
	wait(t, "a refusal", func() bool { return n.client.Status().Refused > 0 })
	n.neverBack()
}

// TestAForgedDiskIsNotEnforced: what lies on the disk of a node is checked again.
func TestAForgedDiskIsNotEnforced(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	n.stop()
	p.stop()
	p.server.Close()
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	o := *p.ctl.current().order
	o.Number = 99
	text, err := generation.Seal(&o, other)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.sub("node-n1"), orderFile), text, 0o600))
	_, _, times := n.latest()
	n.start()
	time.Sleep(200 * time.Millisecond)
	if o, _, again := n.latest(); again != times {
		t.Errorf("generation %d of a forged disk is in force", o.Number)
	}
	if s := n.client.Status(); s.Generation != 0 || len(s.Problems) == 0 {
		t.Errorf("the status is %+v", s)
	}
}

// TestWhatANodeMayDoOnTheBus holds a node to its own corner.
func TestWhatANodeMayDoOnTheBus(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	n, other := p.join("n1"), p.join("n2")
	n.waitNumber(1)
	refused := make(chan string, 16)
	n.bus.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err.Error() })
	expect := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			return
		}
		must(t, n.bus.nc.Flush())
		select {
		case says := <-refused:
			if !strings.Contains(says, "ermissions") {
				t.Errorf("%s: %s", what, says)
			}
		case <-time.After(2 * time.Second):
			t.Errorf("%s: it may", what)
		}
	}
	for what, subject := range map[string]string{
		"publish orders":                p.ctl.n.orderSubject(),
		"speak for another":             p.ctl.n.reports + "n2",
		"ask for another":               p.ctl.n.requests + "n2",
		"write flows of another":        p.ctl.n.flowSubject + "n2",
		"delete the bucket":             "$JS.API.STREAM.DELETE.KV_" + p.ctl.n.bucket,
		"make a stream":                 "$JS.API.STREAM.CREATE.mine",
		"read the flows of others":      "$JS.API.CONSUMER.CREATE." + p.ctl.n.flows,
		"write into an inbox of others": p.ctl.n.inbox("n2") + ".x",
	} {
		expect(what, func() error { return n.bus.nc.Publish(subject, []byte("x")) })
	}
	for what, subject := range map[string]string{
		"listen to everything":       ">",
		"listen to requests":         p.ctl.n.requests + "*",
		"listen to another's inbox":  p.ctl.n.inbox("n2") + ".>",
		"listen to flows":            p.ctl.n.flowSubject + ">",
		"listen to the whole bucket": "$KV." + p.ctl.n.bucket + ".>",
	} {
		expect(what, func() error { _, err := n.bus.nc.SubscribeSync(subject); return err })
	}
	other.waitNumber(1)
}

// TestStrangersDoNotComeIn: over the port, without a key or with a wrong one.
func TestStrangersDoNotComeIn(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	n := p.join("n1")
	n.waitNumber(1)
	tries := map[string]func(a *Access){
		"no key":      func(a *Access) { a.Seed = "" },
		"unknown key": func(a *Access) { a.Seed = p.freshSeed(t) },
		"without TLS": func(a *Access) { a.Roots, a.URLs = "", []string{"nats://" + p.server.Addr()} },
		"password":    func(a *Access) { a.Seed, a.URLs = "", []string{"tls://control:control@" + p.server.Addr()} },
		"another's root": func(a *Access) {
			text, err := newBusIdentity()
			must(t, err)
			a.Roots = string(text)
		},
	}
	for name, change := range tries {
		a := n.cred.Bus
		change(&a)
		bus, err := dial(a, testPlatform, "n1", p.log)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if err := bus.nc.FlushWithContext(ctx); err == nil {
			t.Errorf("%s: it came in", name)
		}
		cancel()
		bus.Close()
	}
}

func (p *tester) freshSeed(t *testing.T) string {
	t.Helper()
	a, _, err := p.server.admit(Access{})
	must(t, err)
	return a.Seed
}

// TestAnExpelledNodeIsOut: its connections end, and it is not let in again.
func TestAnExpelledNodeIsOut(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	n := p.join("n1")
	n.waitNumber(1)
	wait(t, "the bus", n.bus.Connected)
	must(t, p.ctl.Expel("n1"))
	wait(t, "to be out", func() bool { return !n.bus.Connected() })
	time.Sleep(300 * time.Millisecond)
	if n.bus.Connected() {
		t.Error("it came in again")
	}
	if len(p.ctl.Status().Nodes) != 0 {
		t.Error("it is still a node")
	}
	if err := p.ctl.Expel("n1"); err == nil {
		t.Error("it was expelled twice")
	}
}

// TestReportsOfOthersAreNotBelieved: a confirmation is only what the node signed.
func TestReportsOfOthersAreNotBelieved(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	cred := p.credential("n1")
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	body, err := json.Marshal(report{Number: 1 << 60})
	must(t, err)
	m := message{Platform: testPlatform, Node: "n1", Kind: kindReport, At: p.now(), Nonce: newNonce(), Body: body}
	say := func(m message, key ed25519.PrivateKey) {
		text, err := sign(messageContext, m, key)
		must(t, err)
		p.ctl.report(text)
	}
	heard := func() bool { return p.ctl.Status().Nodes[0].Generation != 0 }
	say(m, other)
	late := m
	late.At = p.now().Add(-time.Hour)
	say(late, cred.key())
	elsewhere := m
	elsewhere.Platform = "other"
	say(elsewhere, cred.key())
	wrong := m
	wrong.Kind = kindBundle
	say(wrong, cred.key())
	if heard() {
		t.Fatal("a false report was believed")
	}
	m.Nonce = newNonce()
	say(m, cred.key())
	if !heard() {
		t.Error("a true report was not believed")
	}
	p.ctl.nodes.forget("n1")
	say(m, cred.key())
	if heard() {
		t.Error("a report was believed twice")
	}
}

// TestADiskThatIsOlderThanTheBus: control's folder was restored from a backup.
func TestADiskThatIsOlderThanTheBus(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	backup, err := os.ReadFile(filepath.Join(p.sub("control"), orderFile))
	must(t, err)
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	p.stop()
	must(t, os.WriteFile(filepath.Join(p.sub("control"), orderFile), backup, 0o600))
	p.startControl()
	o := n.waitNumber(e.Generation + 1)
	if len(o.Quarantines) != 1 {
		t.Error("the quarantine was lost with the backup")
	}
	n.neverBack()
	if s := n.client.Status(); s.Refused != 0 {
		t.Errorf("%d orders were refused", s.Refused)
	}
}

func TestALostKeyIsNoFreshStart(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	p.join("n1").waitNumber(1)
	p.stop()
	must(t, os.Remove(filepath.Join(p.sub("control"), signingKey)))
	bus := p.stranger(t)
	if _, err := New(p.options(bus)); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("the error is %v", err)
	}
}

func TestCredentialFiles(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	c, err := p.ctl.NewCredential(t.Context(), "gpu-1.rack_2", netip.MustParseAddrPort("192.0.2.1:15009"), Access{})
	must(t, err)
	path := filepath.Join(t.TempDir(), "node.json")
	must(t, c.Write(path))
	back, err := ReadCredential(path)
	must(t, err)
	a, _ := json.Marshal(c)
	b, _ := json.Marshal(back)
	if !bytes.Equal(a, b) {
		t.Errorf("%s became %s", a, b)
	}
	must(t, os.Chmod(path, 0o644))
	if _, err := ReadCredential(path); err == nil {
		t.Error("a credential that others can read was taken")
	}
	if err := c.Write(path); err == nil {
		t.Error("a credential was written where others can read it")
	}
	for _, name := range []string{"", "a b", "a.*", ">", "A", strings.Repeat("a", 64)} {
		if _, err := p.ctl.NewCredential(t.Context(), name, netip.AddrPort{}, Access{}); err == nil {
			t.Errorf("node %q was let in", name)
		}
	}
}

func TestNamesDoNotMeet(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"", "a.b", "a_b", "a-b", "a_db", "a__b", "a.d", "_", "a_.b", "a._b"} {
		n, err := platformNames(name)
		must(t, err)
		if other, dup := seen[n.bucket]; dup {
			t.Errorf("%q and %q are both %s", name, other, n.bucket)
		}
		seen[n.bucket] = name
	}
}
