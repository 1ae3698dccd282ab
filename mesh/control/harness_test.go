package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/identity"
	"bulkhead/policyfile"
)

const (
	testPlatform = "acme.ai"
	testDomain   = "acme.test"
)

// testPolicy is a policy with a trainer, a store, and a flow for each extra.
func testPolicy(extra ...string) string {
	text := `version: 1
platform: acme.ai
trustDomain: acme.test
zones: {data: {role: data}, training: {role: training}}
workloads:
  store: {zone: data, serves: {api: tcp/8080}}
  trainer: {zone: training}
flows:
  - {from: trainer, to: store/api, because: reads, owner: ml}
`
	for _, e := range extra {
		text += e + "\n"
	}
	return text
}

// tester is a platform: the bus, control, and nodes.
type tester struct {
	t      testing.TB
	dir    string
	policy string // path
	roster *Roster
	server *Server
	ctl    *Control
	auth   *identity.Authority
	stop   func() // of control
	clock  atomic.Int64
	log    *slog.Logger
	listen string
}

func (p *tester) now() time.Time { return time.Now().Add(time.Duration(p.clock.Load())) }

func quiet(testing.TB) *slog.Logger {
	if os.Getenv("CONTROL_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

// newTester starts a bus and control. With listen the bus has a port.
func newTester(t testing.TB, listen bool) *tester {
	t.Helper()
	p := &tester{t: t, dir: t.TempDir(), log: quiet(t)}
	p.policy = filepath.Join(p.dir, "policy.yaml")
	p.setPolicy(testPolicy())
	if listen {
		p.listen = "127.0.0.1:0"
	}
	must(t, os.MkdirAll(p.sub("control"), 0o700))
	var err error
	p.roster, err = OpenRoster(p.sub("control"))
	must(t, err)
	p.auth, err = identity.OpenAuthority(p.sub("ca"), identity.AuthorityOptions{TrustDomain: testDomain, Now: p.now, Log: p.log})
	must(t, err)
	p.startServer()
	t.Cleanup(func() { p.server.Close() })
	p.startControl()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *tester) sub(name string) string { return filepath.Join(p.dir, name) }

func (p *tester) startServer() {
	p.t.Helper()
	var err error
	p.server, err = StartServer(ServerOptions{Dir: p.sub("bus"), Platform: testPlatform, Listen: p.listen,
		Roster: p.roster, Vault: Folder(p.sub("control")), Log: p.log})
	must(p.t, err)
}

func (p *tester) options(bus *Bus) Options {
	return Options{Dir: p.sub("control"), Platform: testPlatform, TrustDomain: testDomain, Bus: bus, Roster: p.roster,
		Authority: p.auth, Now: p.now, Log: p.log, Load: p.load, Changed: p.changed,
		Assigned: func(_ *generation.Order, _ *generation.Plan, node, workload string) bool {
			return node == "n1" || workload == "store"
		}}
}

func (p *tester) startControl() {
	p.t.Helper()
	bus, err := p.server.Connect()
	must(p.t, err)
	p.ctl, err = New(p.options(bus))
	must(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.ctl.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("control: %v", err)
		}
		bus.Close()
	})
}

func (p *tester) load(context.Context) (*policy.Policy, []byte, source.Diagnostics, error) {
	text, err := os.ReadFile(p.policy)
	if err != nil {
		return nil, nil, nil, err
	}
	pol, ds := policyfile.Parse([]policyfile.File{{Name: "policy.yaml", Text: text}})
	return pol, text, ds, nil
}

func (p *tester) changed() (string, error) {
	info, err := os.Stat(p.policy)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size()), nil
}

func (p *tester) setPolicy(text string) {
	p.t.Helper()
	must(p.t, writeDurably(p.policy, []byte(text)))
}

// node is a node that enforces nothing but remembers.
type node struct {
	t      testing.TB
	p      *tester
	name   string
	cred   *Credential
	bus    *Bus
	client *Client
	stop   func()

	mu     sync.Mutex // guards the following
	orders []*generation.Order
	plans  []*generation.Plan
	refuse error
}

func (p *tester) credential(name string) *Credential {
	p.t.Helper()
	c, err := p.ctl.NewCredential(p.t.Context(), name, netip.AddrPort{}, Access{})
	must(p.t, err)
	return c
}

// join starts a node in this process.
func (p *tester) join(name string) *node {
	p.t.Helper()
	n := &node{t: p.t, p: p, name: name, cred: p.credential(name)}
	n.start()
	p.t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start() {
	n.t.Helper()
	var err error
	if len(n.cred.Bus.URLs) > 0 {
		n.bus, err = ConnectNode(n.cred, n.p.log)
	} else {
		n.bus, err = n.p.server.ConnectNode(n.cred)
	}
	must(n.t, err)
	n.client, err = NewClient(ClientOptions{Bus: n.bus, Credential: n.cred, Dir: n.p.sub("node-" + n.name),
		Open: func() int { return 7 }, Now: n.p.now, Log: n.p.log})
	must(n.t, err)
	n.run()
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	client, bus := n.client, n.bus
	go func() { done <- client.Run(ctx, n.apply) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("node %s: %v", n.name, err)
		}
		bus.Close()
	})
}

func (n *node) apply(o *generation.Order, p *generation.Plan) (Applied, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuse != nil {
		return Applied{}, n.refuse
	}
	n.orders, n.plans = append(n.orders, o), append(n.plans, p)
	return Applied{Closed: len(o.Quarantines)}, nil
}

// latest returns what is in force, and how often something was put there.
func (n *node) latest() (*generation.Order, *generation.Plan, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.orders) == 0 {
		return &generation.Order{}, nil, 0
	}
	return n.orders[len(n.orders)-1], n.plans[len(n.plans)-1], len(n.orders)
}

// waitNumber waits until a generation at least that new is in force.
func (n *node) waitNumber(number uint64) *generation.Order {
	n.t.Helper()
	wait(n.t, fmt.Sprintf("generation %d on %s", number, n.name), func() bool { o, _, _ := n.latest(); return o.Number >= number })
	o, _, _ := n.latest()
	return o
}

// neverBack fails if a node ever went back.
func (n *node) neverBack() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := 1; i < len(n.orders); i++ {
		if n.orders[i].Number < n.orders[i-1].Number {
			n.t.Errorf("node %s went from generation %d to %d", n.name, n.orders[i-1].Number, n.orders[i].Number)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wait(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("in vain waited for: %s", what)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

var errTest = errors.New("made by the test")
