package control

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"bulkhead/mesh/flow"
)

// ship starts to ship a log of a node.
func (n *node) ship(t *testing.T, size int) *flow.Log {
	t.Helper()
	log := flow.NewLog(size)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.client.Ship(ctx, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return log
}

func TestFlowsOfAllNodesArrive(t *testing.T) {
	t.Parallel()
	p := newTester(t, true)
	a, b := p.join("n1"), p.join("n2")
	a.waitNumber(1)
	logs := []*flow.Log{a.ship(t, 1<<12), b.ship(t, 1<<12)}
	const each = 1000
	var wg sync.WaitGroup
	for i, log := range logs {
		wg.Go(func() {
			for r := range each {
				log.Record(flow.Record{ID: fmt.Sprint(i, "-", r), Node: "whatever", Event: flow.Open})
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	seqs, total := map[string]uint64{}, 0
	for r, err := range p.ctl.o.Bus.Flows(ctx, time.Time{}, true) {
		must(t, err)
		if r.Seq != seqs[r.Node]+1 || r.Lost != 0 {
			t.Fatalf("record %d of %s follows %d, with %d lost", r.Seq, r.Node, seqs[r.Node], r.Lost)
		}
		seqs[r.Node] = r.Seq
		if total++; total == 2*each {
			break
		}
	}
	wg.Wait()
	if len(seqs) != 2 || seqs["n1"] != each || seqs["n2"] != each {
		t.Errorf("%v arrived", seqs)
	}
	again := 0
	for _, err := range p.ctl.o.Bus.Flows(ctx, time.Time{}, false) {
		must(t, err)
		again++
	}
	if again != 2*each {
		t.Errorf("without following there are %d records", again)
	}
	for r := range p.ctl.o.Bus.Flows(ctx, time.Now().Add(time.Hour), false) {
		t.Errorf("record %s is from the future", r.ID)
	}
	began := time.Now()
	next, stop := context.WithCancel(ctx)
	defer stop()
	time.AfterFunc(50*time.Millisecond, func() { logs[0].Record(flow.Record{ID: "late"}) })
	for r, err := range p.ctl.o.Bus.Flows(next, began, true) {
		must(t, err)
		if r.ID == "late" {
			t.Logf("a record was there after %s", time.Since(began)-50*time.Millisecond)
			break
		}
	}
}

// TestFlowsWaitForTheBusAndCountWhatIsLost: nothing blocks, and gaps are told.
func TestFlowsWaitForTheBusAndCountWhatIsLost(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	log := n.ship(t, 64)
	p.server.shutdown()
	began := time.Now()
	const made = 5000
	for i := range made {
		log.Record(flow.Record{ID: fmt.Sprint(i)})
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("to record took %s without a bus", took)
	}
	must(t, p.server.start())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	wait(t, "the bus", func() bool { _, err := p.ctl.o.Bus.get(ctx, p.ctl.n.orderKey); return err == nil })
	got, lost := uint64(0), uint64(0)
	for r, err := range p.ctl.o.Bus.Flows(ctx, time.Time{}, true) {
		must(t, err)
		got, lost = got+1, lost+r.Lost
		if got+lost == made {
			break
		}
	}
	if got+lost != made || lost == 0 {
		t.Errorf("%d records arrived and %d are said to be lost, of %d", got, lost, made)
	}
}

// TestFlowsInTheNameOfAnother do not count.
func TestFlowsInTheNameOfAnother(t *testing.T) {
	t.Parallel()
	p := newTester(t, false)
	n := p.join("n1")
	n.waitNumber(1)
	wait(t, "the stream", func() bool { _, err := p.ctl.o.Bus.js.Stream(t.Context(), p.ctl.n.flows); return err == nil })
	for _, r := range []flow.Record{{ID: "false", Node: "n2"}, {ID: "true", Node: "n1"}} {
		line, err := json.Marshal(r)
		must(t, err)
		must(t, n.client.send(t.Context(), r.ID, append([]byte("not json\n"), append(line, '\n')...)))
		must(t, n.client.send(t.Context(), r.ID, append(line, '\n'))) // the same id: kept once
	}
	var got []string
	for r, err := range p.ctl.o.Bus.Flows(t.Context(), time.Time{}, false) {
		must(t, err)
		got = append(got, r.ID)
	}
	if len(got) != 1 || got[0] != "true" {
		t.Errorf("%v arrived", got)
	}
}
