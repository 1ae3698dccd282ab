package control

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/generation"
)

// large is a policy of n workloads with a flow each.
func large(n int, because string) string {
	var b strings.Builder
	b.WriteString("version: 1\nplatform: acme.ai\ntrustDomain: acme.test\nzones:\n")
	for i := range 50 {
		fmt.Fprintf(&b, "  z%d: {role: custom}\n", i)
	}
	b.WriteString("workloads:\n")
	for i := range n {
		fmt.Fprintf(&b, "  w%d: {zone: z%d, serves: {api: http/8080}}\n", i, i%50)
	}
	b.WriteString("flows:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {from: w%d, to: w%d/api, may: read, because: %q, owner: x}\n", i, (i*7+1)%n, because)
	}
	return b.String()
}

// largePlatform runs control and a node that resolves what it gets, as a real one
// does, with a policy of 10,000 workloads.
func largePlatform(b *testing.B) (p *tester, applied chan *generation.Order) {
	b.Helper()
	p = newTester(b, false)
	p.setPolicy(large(10_000, "first"))
	n := &node{t: b, p: p, name: "n1", cred: p.credential("n1")}
	var err error
	n.bus, err = p.server.ConnectNode(n.cred)
	must(b, err)
	n.client, err = NewClient(ClientOptions{Bus: n.bus, Credential: n.cred, Dir: p.sub("node"), Now: p.now, Log: p.log})
	must(b, err)
	applied = make(chan *generation.Order, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.client.Run(ctx, func(o *generation.Order, pl *generation.Plan) (Applied, error) {
			_, ds := generation.Intent(o, pl, p.now())
			applied <- o
			return Applied{}, ds.Err()
		})
	}()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		n.bus.Close()
	})
	wait(b, "the large policy", func() bool {
		f := p.ctl.current()
		return f != nil && len(f.plan.Policy.Workloads) == 10_000 && n.client.Status().Generation == f.order.Number
	})
	for len(applied) > 0 {
		<-applied
	}
	return p, applied
}

// BenchmarkChange10k is the time from the change of a file to the generation being
// in force on a node of this machine.
func BenchmarkChange10k(b *testing.B) {
	p, applied := largePlatform(b)
	text := [2]string{large(10_000, "one"), large(10_000, "two")}
	i := 0
	for b.Loop() {
		must(b, os.WriteFile(filepath.Join(p.dir, "next"), []byte(text[i%2]), 0o600))
		must(b, os.Rename(filepath.Join(p.dir, "next"), p.policy))
		<-applied
		i++
	}
}

// BenchmarkQuarantine10k is the time of a quarantine and a release, confirmed by
// the node, beside the same policy.
func BenchmarkQuarantine10k(b *testing.B) {
	p, applied := largePlatform(b)
	q := trainer()
	q.Target = "w17"
	for b.Loop() {
		began := time.Now()
		if e, err := p.ctl.Quarantine(context.Background(), q); err != nil || len(e.Nodes) != 1 {
			b.Fatal(e, err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/quarantine")
		if _, err := p.ctl.Release(context.Background(), q.Target, "x", "y"); err != nil {
			b.Fatal(err)
		}
		for len(applied) > 0 {
			<-applied
		}
	}
}
