package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pair is something that is never permitted.
type pair struct {
	from, to string
	port     uint16
}

// watch tries what is never permitted, over both families, until it is ended.
type watch struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	tried   atomic.Int64
	mu      sync.Mutex // guards passed
	passed  []string
}

// watchPause is the pause of a watch: a proxy that refuses as fast as it can would
// leave the processor to nothing else.
const watchPause = 5 * time.Millisecond

func startWatch(p *platform, never []pair) *watch {
	w := &watch{}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	p.t.Cleanup(w.stop)
	for _, n := range never {
		pid := p.workload(n.from).PID
		for _, addr := range p.workload(n.to).Addresses {
			to := netip.AddrPortFrom(addr, n.port)
			w.running.Go(func() {
				for ctx.Err() == nil {
					w.try(n, pid, to)
					time.Sleep(watchPause)
				}
			})
		}
	}
	return w
}

func (w *watch) try(n pair, pid int, to netip.AddrPort) {
	w.tried.Add(1)
	if reaches(pid, to) {
		w.mu.Lock()
		w.passed = append(w.passed, fmt.Sprintf("%s reached %s at %s", n.from, n.to, to))
		w.mu.Unlock()
	}
}

func (w *watch) end(t testing.TB) {
	t.Helper()
	w.stop()
	w.running.Wait()
	for _, says := range w.passed {
		t.Error("undeclared bytes passed:", says)
	}
	if w.tried.Load() == 0 {
		t.Error("nothing was tried")
	}
	t.Logf("%d attempts that are never permitted", w.tried.Load())
}

// usage is what this process holds.
type usage struct {
	goroutines, files, namespaces, children int
	memory                                  uint64
}

func inUse(t testing.TB) usage {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return usage{runtime.NumGoroutine(), len(files), len(namespaces(t)), len(children(t)), m.HeapAlloc}
}

// above reports whether u is more than before, beyond what idle connections and
// pools account for.
func (u usage) above(before usage) bool {
	return u.goroutines > before.goroutines+10 || u.files > before.files+10 || u.namespaces > before.namespaces ||
		u.children > before.children || u.memory > before.memory+32<<20
}

// namespaces returns the networks that threads of this process are in.
func namespaces(t testing.TB) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	must(t, err)
	for _, path := range tasks {
		if name, err := os.Readlink(path); err == nil { // else the thread has ended
			found[name] = true
		}
	}
	return found
}

// children returns the processes that this one started and that are there.
func children(t testing.TB) []string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	must(t, err)
	var out []string
	for _, path := range lists {
		text, err := os.ReadFile(path)
		if err == nil && len(text) > 0 {
			out = append(out, string(text))
		}
	}
	return out
}

// links returns the interfaces of the machine.
func links(t testing.TB) int {
	t.Helper()
	list, err := net.Interfaces()
	must(t, err)
	return len(list)
}

// TestNothingIsLeft after a platform was up, in use, changed, and stopped. It
// does not run beside others: it counts what the whole process holds.
func TestNothingIsLeft(t *testing.T) {
	warm := run(t, smallPolicy(trainerReads)) // what is made once
	l := warm.listen("store", 8080)
	go echo(l)
	if !warm.reaches("trainer", warm.at("store", 8080)) {
		t.Fatal("the platform does not work")
	}
	warm.stop()
	l.Close()
	before, beforeLinks := inUse(t), links(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	p := run(t, smallPolicy(trainerReads, notebookReads))
	l = p.listen("store", 8080)
	go echo(l)
	var pids []int
	for _, w := range p.node.Status().Workloads {
		pids = append(pids, w.PID)
	}
	var conns []net.Conn
	for range 20 {
		c, err := p.dial("trainer", p.at("store", 8080))
		must(t, err)
		must(t, exchange(c))
		conns = append(conns, c)
	}
	p.quarantine("notebook")
	p.change(smallPolicy(trainerReads))
	p.release("notebook")
	p.stop()
	for _, c := range conns {
		if !closesWithin(c, time.Second) {
			t.Error("a connection survives the end of the platform")
		}
		c.Close()
	}
	l.Close()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d of a workload is still there", pid)
		}
	}
	var now usage
	defer func() {
		if t.Failed() {
			stacks := make([]byte, 1<<20)
			t.Logf("before %+v, after %+v\n%s", before, now, stacks[:runtime.Stack(stacks, true)])
		}
	}()
	eventually(t, "everything is given back", func() bool {
		now = inUse(t)
		return now.goroutines <= before.goroutines && now.files <= before.files && now.namespaces <= before.namespaces && now.children <= before.children && links(t) == beforeLinks
	})
	after, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if string(after) != string(mounts) {
		t.Errorf("the mounts were\n%s\nand are\n%s", mounts, after)
	}
	entries, err := os.ReadDir(filepath.Join(p.dir, "run"))
	must(t, err)
	for _, e := range entries {
		if e.Name() != "lock" {
			t.Errorf("%s is left in the run-time folder", e.Name())
		}
	}
}
