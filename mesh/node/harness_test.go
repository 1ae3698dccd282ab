package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/control"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/report"
	"bulkhead/policyfile"
)

const (
	testPlatform = "testing"
	testDomain   = "testing.example"
	testNode     = "n1"
)

// heavy makes tests repeat what they do until it takes minutes.
var heavy = os.Getenv("BULKHEAD_HEAVY") != ""

func init() {
	// The main thread must stay in the machine's network: other threads change
	// theirs and end.
	runtime.LockOSThread()
}

// TestMain makes the tests run for everybody whose kernel allows it: who is not
// root is root of a user namespace.
func TestMain(m *testing.M) {
	host.Child(os.Args)
	becomeWorkload()
	if !host.Privileged() && host.CanUserNamespace() == nil {
		if err := host.EnterUserNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until is holds.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about: %s", what)
		}
	}
}

// clock is a clock that tests set.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// platform is a whole platform in this process: control, bus, and one node with
// real namespaces.
type platform struct {
	t      testing.TB
	dir    string
	policy string // path
	clock  clock
	output locked

	// Before start.
	publish string
	state   string                                // a folder for state; dir/state if empty
	issuer  func(identity.Issuer) identity.Issuer // what stands between the node and the authority

	node    *Node
	control *control.Control
	server  *control.Server
	admin   *Admin
	log     *locked
	stop    func() // and wait
}

// locked is a buffer for several writers.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newPlatform returns a platform that has not started. Whoever cannot make
// namespaces skips the test.
func newPlatform(t testing.TB, text string) *platform {
	t.Helper()
	if !host.Privileged() {
		t.Skip("SKIPPED: the kernel gives this user no namespaces; run: sudo go test ./mesh/node")
	}
	dir, err := os.MkdirTemp("", "node") // short: the paths of sockets are limited
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o711)) // workloads start there
	p := &platform{t: t, dir: dir, policy: filepath.Join(dir, "policy.yaml"), log: &locked{}, stop: func() {}}
	p.state = filepath.Join(dir, "state")
	p.setPolicy(text)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the log:\n%s\nthe workloads:\n%s\nthe last refusals:\n%s", p.log, &p.output, p.refusals())
		}
	})
	return p
}

// run starts a platform with a policy and waits until it is ready.
func run(t testing.TB, text string) *platform {
	t.Helper()
	p := newPlatform(t, text)
	p.start()
	p.ready()
	return p
}

func (p *platform) setPolicy(text string) {
	p.t.Helper()
	next := p.policy + ".next"
	must(p.t, os.WriteFile(next, []byte(text), 0o600))
	must(p.t, os.Rename(next, p.policy))
}

func (p *platform) sub(name string) string { return filepath.Join(p.state, name) }

// start wires what app.Up wires, with the clock and the lifetimes of the test.
func (p *platform) start() {
	p.t.Helper()
	for _, dir := range []string{p.state, filepath.Join(p.dir, "run")} {
		must(p.t, os.MkdirAll(dir, 0o700))
	}
	log := slog.New(slog.NewTextHandler(p.log, nil))
	var closers []func()
	down := func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}
	defer func() {
		if p.t.Failed() {
			down()
		}
	}()
	o := Options{Name: testNode, Platform: testPlatform, RunDir: filepath.Join(p.dir, "run"), PolicyDir: p.dir, Publish: cmp.Or(p.publish, "127.0.0.1"),
		Mode: host.Root, Output: &p.output, Log: log, Now: p.clock.now, UserName: func(uid int) string { return fmt.Sprint("uid ", uid) }}
	if host.InUserNamespace() {
		o.Mode = host.User
	}
	var err error
	o.Host, err = host.Open(p.t.Context(), host.Options{Platform: testPlatform, StateDir: p.state, RunDir: o.RunDir, Mode: o.Mode, Log: log})
	must(p.t, err)
	closers = append(closers, func() {
		if err := o.Host.Close(); err != nil {
			p.t.Error(err)
		}
	})
	authority, err := identity.OpenAuthority(p.sub("authority"), identity.AuthorityOptions{TrustDomain: testDomain, Now: p.clock.now, Log: log})
	must(p.t, err)
	roster, err := control.OpenRoster(p.sub("control"))
	must(p.t, err)
	p.server, err = control.StartServer(control.ServerOptions{Dir: p.sub("bus"), Platform: testPlatform, Roster: roster, Vault: control.Folder(p.sub("control")), Log: log})
	must(p.t, err)
	closers = append(closers, p.server.Close)
	bus, err := p.server.Connect()
	must(p.t, err)
	closers = append(closers, bus.Close)
	o.Platform = testPlatform
	o.Control, err = control.New(control.Options{Dir: p.sub("control"), Platform: testPlatform, TrustDomain: testDomain, Bus: bus, Roster: roster,
		Authority: authority, Assigned: Assigned, Load: p.load, Changed: p.changed, Now: p.clock.now, Log: log})
	must(p.t, err)
	credit, err := o.Control.NewCredential(p.t.Context(), testNode, netip.AddrPort{}, control.Access{})
	must(p.t, err)
	nodeBus, err := p.server.ConnectNode(credit)
	must(p.t, err)
	closers = append(closers, nodeBus.Close)
	o.Client, err = control.NewClient(control.ClientOptions{Bus: nodeBus, Credential: credit, Dir: p.sub("node"),
		Open: func() int { return p.node.Open() }, Now: p.clock.now, Log: log})
	must(p.t, err)
	var issuer identity.Issuer = authority
	if p.issuer != nil {
		issuer = p.issuer(issuer)
	}
	keeper, err := identity.NewKeeper(identity.KeeperOptions{TrustDomain: testDomain, Issuer: issuer, Now: p.clock.now, Log: log})
	must(p.t, err)
	o.Identities = keeper
	o.API = identity.NewServer(identity.ServerOptions{Provider: keeper, Attestor: o.Host, Log: log})
	p.control, p.node, p.admin = o.Control, New(o), Dial(o.RunDir)

	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.Control.Run(ctx) })
	g.Go(func() error { return p.node.Run(ctx) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			p.t.Errorf("the node: %v", err)
		}
		down()
		p.admin.http.CloseIdleConnections()
	})
}

// load reads the policy for control.
func (p *platform) load(context.Context) (*policy.Policy, []byte, source.Diagnostics, error) {
	text, err := os.ReadFile(p.policy)
	if err != nil {
		return nil, nil, nil, err
	}
	pol, ds := policyfile.Parse([]policyfile.File{{Name: "policy.yaml", Text: text}})
	return pol, text, ds, nil
}

func (p *platform) changed() (string, error) {
	info, err := os.Stat(p.policy)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Sys()), nil
}

// ready waits until everything runs as declared.
func (p *platform) ready() {
	p.t.Helper()
	var s *report.Status
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if s = p.node.Status(); s.Ready() {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("the platform does not become ready: %+v", s)
		}
	}
}

// change saves a policy and waits until it is in force.
func (p *platform) change(text string) {
	p.t.Helper()
	before := p.node.Status().Generation
	p.setPolicy(text)
	eventually(p.t, "the new policy is in force", func() bool { return p.node.Status().Generation > before })
}

func (p *platform) workload(name string) report.WorkloadStatus {
	p.t.Helper()
	for _, w := range p.node.Status().Workloads {
		if w.Name == name {
			return w
		}
	}
	p.t.Fatalf("the platform has no workload %s", name)
	return report.WorkloadStatus{}
}

// at is where a workload serves a port.
func (p *platform) at(workload string, port uint16) netip.AddrPort {
	p.t.Helper()
	return netip.AddrPortFrom(p.workload(workload).Addresses[0], port)
}

// inside runs f in the network of a process, on a thread that ends with it.
func inside(pid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		done <- func() error {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// dialLimit bounds what a refusal may take.
const dialLimit = 2 * time.Second

// dial connects as a process of a workload would.
func (p *platform) dial(workload string, to netip.AddrPort) (net.Conn, error) {
	p.t.Helper()
	return dialIn(p.workload(workload).PID, "tcp", to)
}

func dialIn(pid int, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = inside(pid, func() error {
		d := net.Dialer{Timeout: dialLimit}
		conn, err = d.Dial(network, to.String())
		return err
	})
	return conn, err
}

// listen serves at a port of a workload, until the test ends.
func (p *platform) listen(workload string, port uint16) net.Listener {
	p.t.Helper()
	var l net.Listener
	must(p.t, inside(p.workload(workload).PID, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	p.t.Cleanup(func() { l.Close() })
	return l
}

// echo answers each connection with what it got.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c) // ends with the client
		}()
	}
}

var errSilence = errors.New("connected, and nothing came back")

// exchange sends a text to an echo server and reads it back: a connection that a
// proxy took and then reset was refused.
func exchange(c net.Conn) error {
	c.SetDeadline(time.Now().Add(dialLimit))
	const text = "some bytes"
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if n, err := io.ReadFull(c, b); err != nil {
		if n > 0 {
			return nil // undeclared bytes came back
		}
		return fmt.Errorf("%w: %w", errSilence, err)
	}
	if string(b) != text {
		return fmt.Errorf("%q came back", b)
	}
	return c.SetDeadline(time.Time{})
}

// reaches reports whether a workload gets bytes to a server and back.
func (p *platform) reaches(workload string, to netip.AddrPort) bool {
	p.t.Helper()
	return reaches(p.workload(workload).PID, to)
}

func reaches(pid int, to netip.AddrPort) bool {
	c, err := dialIn(pid, "tcp", to)
	if err != nil {
		return false
	}
	defer c.Close()
	return exchange(c) == nil
}

// records returns what was recorded and fits.
func (p *platform) records(fits func(*flow.Record) bool) []flow.Record {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out []flow.Record
	for r := range p.node.Flows().Follow(ctx, 1) {
		if fits(&r) {
			out = append(out, r)
		}
	}
	return out
}

// refusals returns the last ones, for whoever looks for what went wrong.
func (p *platform) refusals() string {
	if p.node == nil {
		return ""
	}
	all := p.records(func(r *flow.Record) bool { return r.Event == flow.Deny || r.Event == flow.Fail })
	var b strings.Builder
	for _, r := range all[max(0, len(all)-20):] {
		fmt.Fprintln(&b, r.Time.Format(time.StampMicro), r.Event, r.Side, r.From.Workload, r.To.Workload, r.To.Addr, r.Why)
	}
	return b.String()
}

// quarantine goes the way of the command line.
func (p *platform) quarantine(target string) *report.Effect {
	p.t.Helper()
	e, err := p.admin.Quarantine(p.t.Context(), QuarantineQuestion{Target: target, Because: "a test"})
	must(p.t, err)
	if len(e.Missing) > 0 {
		p.t.Fatalf("the quarantine of %s is not confirmed: %+v", target, e)
	}
	return e
}

func (p *platform) release(target string) {
	p.t.Helper()
	if _, err := p.admin.Release(p.t.Context(), ReleaseQuestion{Target: target, Because: "a test"}); err != nil {
		p.t.Fatal(err)
	}
}

// problems of the platform that mention a text.
func (p *platform) problem(text string) string {
	for _, s := range p.node.Status().Problems {
		if strings.Contains(s, text) {
			return s
		}
	}
	return ""
}
