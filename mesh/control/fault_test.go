package control

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/policyfile"
)

func change(n int) string {
	return testPolicy(fmt.Sprintf("  - {from: store, to: store/api, because: change %d, owner: y}", n))
}

// hasChange reports whether a node enforces the n-th change.
func (n *node) hasChange(i int) bool {
	_, plan, _ := n.latest()
	return plan != nil && len(plan.Policy.Flows) == 2 && plan.Policy.Flows[1].Because.Value == fmt.Sprint("change ", i)
}

func TestTheBusGoesAndComesBack(t *testing.T) {
	t.Parallel()
	for _, listen := range []bool{false, true} {
		t.Run(fmt.Sprintf("port=%t", listen), func(t *testing.T) {
			p := newTester(t, listen)
			n := p.join("n1")
			before := n.waitNumber(1)
			p.server.shutdown()
			p.setPolicy(change(1))
			wait(t, "control to go on", func() bool { return p.ctl.Number() > before.Number })
			if after, _, _ := n.latest(); after.Number != before.Number {
				t.Error("the node went on without a bus")
			}
			e, err := p.ctl.Quarantine(t.Context(), trainer())
			must(t, err)
			if len(e.Missing) != 1 {
				t.Errorf("without a bus the effect is %+v", e)
			}
			must(t, p.server.start())
			o := n.waitNumber(e.Generation)
			if !n.hasChange(1) || len(o.Quarantines) != 1 {
				t.Error("something was lost")
			}
			n.neverBack()
		})
	}
}

// TestTheBusLosesEverything: its store is gone, control fills it again.
func TestTheBusLosesEverything(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	p.server.shutdown()
	must(t, os.RemoveAll(p.sub("bus")))
	must(t, p.server.start())
	second := p.join("n2")
	second.waitNumber(1)
	p.setPolicy(change(1))
	wait(t, "the change on both", func() bool { return n.hasChange(1) && second.hasChange(1) })
	n.neverBack()
}

func TestANodeStartsWithTheBusAway(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	n := p.join("n1")
	n.waitNumber(1)
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	n.stop()
	p.server.shutdown()
	_, _, times := n.latest()
	n.start()
	wait(t, "the last good generation", func() bool { _, _, again := n.latest(); return again > times })
	if o, plan, _ := n.latest(); o.Number != e.Generation || len(o.Quarantines) != 1 || plan == nil {
		t.Errorf("generation %d is in force, not %d", o.Number, e.Generation)
	}
	must(t, p.server.start())
	p.setPolicy(change(1))
	wait(t, "the change", func() bool { return n.hasChange(1) })
	n.neverBack()
}

// cable is a TCP connection between machines that can be cut.
type cable struct {
	net.Listener
	to string

	mu    sync.Mutex // guards the following
	cut   bool
	conns []net.Conn
}

func newCable(t *testing.T, to string) *cable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &cable{Listener: l, to: to}
	t.Cleanup(func() { c.set(true); l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go c.carry(in)
		}
	}()
	return c
}

func (c *cable) carry(in net.Conn) {
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		in.Close()
		return
	}
	c.mu.Lock()
	c.conns = append(c.conns, in, out)
	if c.cut {
		in.Close()
		out.Close()
	}
	c.mu.Unlock()
	go func() { io.Copy(out, in); out.Close() }()
	io.Copy(in, out)
	in.Close()
}

func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	if cut {
		for _, conn := range c.conns {
			conn.Close()
		}
		c.conns = nil
	}
}

func TestTwoNodesCutApartAndHealed(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	near, far := p.join("n1"), &node{t: t, p: p, name: "n2"}
	wire := newCable(t, p.server.Addr())
	far.cred = p.credential("n2")
	far.cred.Bus.URLs = []string{"tls://" + wire.Addr().String()}
	far.start()
	t.Cleanup(func() { far.stop() })
	near.waitNumber(1)
	before := far.waitNumber(p.ctl.Number())
	for round := range 2 {
		wire.set(true)
		p.setPolicy(change(round))
		wait(t, "the change near", func() bool { return near.hasChange(round) })
		e, err := p.ctl.Quarantine(t.Context(), trainer())
		must(t, err)
		if o, _, _ := far.latest(); o.Number != before.Number {
			t.Errorf("generation %d came over a wire that was cut", o.Number)
		}
		wire.set(false)
		if o := far.waitNumber(e.Generation); len(o.Quarantines) != 1 || !far.hasChange(round) {
			t.Errorf("after healing generation %d is in force", o.Number)
		}
		r, err := p.ctl.Release(t.Context(), "trainer", "x", "y")
		must(t, err)
		before = far.waitNumber(r.Generation)
	}
	near.neverBack()
	far.neverBack()
}

func TestAThousandChanges(t *testing.T) {
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	goroutines := runtime.NumGoroutine()
	began, changes := time.Now(), 1000
	if raced {
		changes = 100
	}
	for i := range changes {
		// What the watcher does, without its pause.
		pol, ds := policyfile.Parse([]policyfile.File{{Name: "policy.yaml", Text: []byte(change(i))}})
		must(t, ds.Err())
		next, err := p.ctl.prepare(pol, p.ctl.current())
		must(t, err)
		p.ctl.mu.Lock()
		_, err = p.ctl.issue(next, p.ctl.quarantines())
		p.ctl.mu.Unlock()
		must(t, err)
	}
	wait(t, "the last change", func() bool { return n.hasChange(changes - 1) })
	o, _, times := n.latest()
	t.Logf("%d changes in %s; the node applied %d of them", changes, time.Since(began), times)
	wait(t, "the confirmation", func() bool { return p.ctl.Status().Nodes[0].Generation >= o.Number })
	n.neverBack()
	for _, dir := range []string{"control", "node-n1"} {
		files, err := filepath.Glob(filepath.Join(p.sub(dir), "*plan-*"))
		if err != nil || len(files) != 1 {
			t.Errorf("%s holds %v", dir, files)
		}
	}
	wait(t, "one plan on the bus", func() bool {
		pub := &publisher{c: p.ctl}
		pub.kv, _ = p.ctl.o.Bus.openBucket(t.Context())
		plans, err := pub.plans(t.Context())
		return err == nil && len(plans) == 1
	})
	if now := runtime.NumGoroutine(); now > goroutines+5 {
		t.Errorf("%d goroutines became %d", goroutines, now)
	}
}

// TestANodeWithAFullDisk enforces all the same, and says so.
func TestANodeWithAFullDisk(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	n.stop()
	n.bus, _ = p.server.ConnectNode(n.cred)
	n.client, _ = NewClient(ClientOptions{Bus: n.bus, Credential: n.cred, Dir: p.sub("node-n1"), Now: p.now, Log: p.log})
	n.client.shelf.write = func(string, []byte) error { return syscall.ENOSPC }
	n.run()
	wait(t, "a heartbeat", func() bool { return p.ctl.Status().Nodes[0].Live })
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	if len(e.Nodes) != 1 {
		t.Fatalf("the effect is %+v", e)
	}
	wait(t, "the report", func() bool { return strings.Contains(p.ctl.Status().Nodes[0].Problem, "not on disk") })
}

// TestTheBusOnAFullDisk: a quarantine gets through, and the bus recovers when
// there is room again.
func TestTheBusOnAFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a small file system needs root; run: sudo go test -run TestTheBusOnAFullDisk ./mesh/control")
	}
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	p.server.shutdown()
	must(t, os.RemoveAll(p.sub("bus")))
	must(t, os.MkdirAll(p.sub("bus"), 0o700))
	if err := syscall.Mount("tmpfs", p.sub("bus"), "tmpfs", 0, "size=12m"); err != nil {
		t.Skip("SKIPPED: a file system cannot be mounted here (" + err.Error() + "); run: sudo go test -run TestTheBusOnAFullDisk ./mesh/control")
	}
	t.Cleanup(func() {
		p.server.Close()
		if err := syscall.Unmount(p.sub("bus"), 0); err != nil {
			fds, _ := filepath.Glob("/proc/self/fd/*")
			for _, fd := range fds {
				if to, _ := os.Readlink(fd); strings.HasPrefix(to, p.sub("bus")) {
					t.Log("open: ", to)
				}
			}
			t.Error(err)
		}
	})
	must(t, p.server.start())
	wait(t, "the bus to be filled again", func() bool { _, err := n.bus.get(t.Context(), p.ctl.n.orderKey); return err == nil })
	ballast := filepath.Join(p.sub("bus"), "ballast")
	f, err := os.Create(ballast)
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	changes := 0
	wait(t, "a problem", func() bool {
		p.setPolicy(change(changes))
		changes++
		time.Sleep(2 * pollEvery)
		return len(p.ctl.Status().Problems) > 0
	})
	t.Log(p.ctl.Status().Problems)
	wait(t, "a heartbeat", func() bool { return p.ctl.Status().Nodes[0].Live })
	// The plan of the last change did not get onto the bus: the node asks control.
	e, err := p.ctl.Quarantine(t.Context(), trainer())
	must(t, err)
	t.Logf("%+v", e)
	must(t, os.Remove(ballast))
	wait(t, "the bus to recover", func() bool { return len(p.ctl.Status().Problems) == 0 })
	p.setPolicy(change(1))
	wait(t, "the next change", func() bool { return n.hasChange(1) })
	n.neverBack()
}

func TestNothingIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		p := newTester(t, true)
		n := p.join("n1")
		n.waitNumber(1)
		_, err := p.ctl.Quarantine(t.Context(), policy.Quarantine{Target: "trainer", Because: "x", Operator: "y"})
		must(t, err)
		n.stop()
		p.stop()
		p.server.Close()
	}()
	wait(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 })
}
