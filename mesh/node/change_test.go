package node

import (
	"net"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

// smallPolicy is a trainer, a notebook and a store; extra are further lines, of
// the list of flows first.
func smallPolicy(extra ...string) string {
	return `version: 1
platform: testing
trustDomain: testing.example
zones: {data: {role: custom}, training: {role: custom}}
workloads:
  store: {zone: data, serves: {api: tcp/8080, more: tcp/8081}, at: {host: {run: [sleep, infinity]}}}
  trainer: {zone: training, serves: {own: tcp/9000}, at: {host: {run: [sleep, infinity]}}}
  notebook: {zone: training, at: {host: {run: [sleep, infinity]}}}
flows:
` + strings.Join(extra, "\n") + "\n"
}

const (
	trainerReads  = "  - {from: trainer, to: store/api, because: a test, owner: tests}"
	notebookReads = "  - {from: notebook, to: store/api, because: a test, owner: tests}"
	trainerMore   = "  - {from: trainer, to: store/more, because: a test, owner: tests}"
)

// closesWithin reports whether a connection that is idle is reset.
func closesWithin(c net.Conn, d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	_, err := c.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return err != nil && !(ok && timeout.Timeout())
}

// TestAChangeOfThePolicy: what is saved is in force, what it takes away is
// closed and recorded with rule and generation, what it leaves is not touched.
func TestAChangeOfThePolicy(t *testing.T) {
	t.Parallel()
	p := run(t, smallPolicy(trainerReads))
	go echo(p.listen("store", 8080))
	api := p.at("store", 8080)
	if p.reaches("notebook", api) || !p.reaches("trainer", api) {
		t.Fatal("the first policy is not enforced")
	}
	stays, err := p.dial("trainer", api)
	must(t, err)
	must(t, exchange(stays))

	p.change(smallPolicy(trainerReads, notebookReads))
	eventually(t, "the notebook reads", func() bool { return p.reaches("notebook", api) })
	goes, err := p.dial("notebook", api)
	must(t, err)
	must(t, exchange(goes))

	p.change(smallPolicy(trainerReads))
	if !closesWithin(goes, 5*time.Second) {
		t.Error("the connection whose flow was removed stays open")
	}
	if p.reaches("notebook", api) {
		t.Error("the flow was removed, and the notebook still reads")
	}
	must(t, exchange(stays))
	generation := p.node.Status().Generation
	eventually(t, "the end is recorded with its generation", func() bool {
		return len(p.records(func(r *flow.Record) bool {
			return r.Event == flow.Close && r.From.Workload == "notebook" && r.Verdict == "deny" && r.Generation == generation &&
				r.Why != "" && r.BytesOut > 0
		})) > 0
	})
}

// TestAPolicyThatIsRefused: with an error, with a test that fails, of another
// platform. The old one stays in force, and the status says so.
func TestAPolicyThatIsRefused(t *testing.T) {
	t.Parallel()
	good := smallPolicy(trainerReads)
	p := run(t, good)
	go echo(p.listen("store", 8080))
	api := p.at("store", 8080)
	held, err := p.dial("trainer", api)
	must(t, err)
	must(t, exchange(held))
	for _, bad := range []struct{ name, text, says string }{
		{"no policy at all", "version: 1\nflows: [", "the policy has errors"},
		{"an unknown workload", smallPolicy(trainerReads, "  - {from: nobody, to: store/api, because: x, owner: y}"), "the policy has errors"},
		{"a failing test", smallPolicy(trainerReads, notebookReads, "tests:", "  - {from: notebook, to: store/api, deny: any}"), "fails 1 of its tests"},
		{"another platform", strings.Replace(smallPolicy(trainerReads, notebookReads), "platform: testing", "platform: another", 1), "is of platform"},
		{"another trust domain", strings.Replace(smallPolicy(trainerReads, notebookReads), testDomain, "other.example", 1), "is of trust domain"},
	} {
		generation := p.node.Status().Generation
		p.setPolicy(bad.text)
		eventually(t, bad.name+": the status says "+bad.says, func() bool { return p.problem(bad.says) != "" })
		if p.node.Status().Generation != generation {
			t.Errorf("%s: it came into force", bad.name)
		}
		if p.reaches("notebook", api) || !p.reaches("trainer", api) {
			t.Errorf("%s: the old policy is not in force any more", bad.name)
		}
		must(t, exchange(held))
		p.setPolicy(good)
		p.ready()
	}
}

// TestTheWorkloadsOfAPolicy come and go while others are not touched.
func TestTheWorkloadsOfAPolicy(t *testing.T) {
	t.Parallel()
	small := smallPolicy(trainerReads)
	p := run(t, small)
	go echo(p.listen("store", 8080))
	held, err := p.dial("trainer", p.at("store", 8080))
	must(t, err)
	must(t, exchange(held))
	gone := p.workload("notebook").PID

	more := strings.Replace(small, "  notebook:", "  worker: {zone: data, at: {host: {run: [sleep, infinity]}}}\n  notebook2:", 1)
	p.change(more)
	p.ready()
	if p.workload("worker").PID == 0 || p.workload("notebook2").PID == 0 {
		t.Error("a new workload does not run")
	}
	if alive(gone) {
		t.Error("a workload that the policy does not have any more still runs")
	}
	must(t, exchange(held))

	// In another zone it has another address, and starts anew there.
	before := p.workload("worker")
	p.change(strings.Replace(more, "worker: {zone: data", "worker: {zone: training", 1))
	eventually(t, "the worker runs in its new zone", func() bool {
		w := p.workload("worker")
		return w.Ready() && w.PID != before.PID && w.Addresses[0] != before.Addresses[0]
	})
	must(t, exchange(held))
}
