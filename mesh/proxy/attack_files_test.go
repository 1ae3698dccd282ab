package proxy

import (
	"net"
	"strings"
	"testing"

	"bulkhead/mesh/flow"
)

// However much all workloads open, the process keeps descriptors for the socket
// over which an operator cuts them off.
func TestConnectionsLeaveDescriptors(t *testing.T) {
	for files, want := range map[uint64]int{0: 512, 1024: 512, 4096: 1536, 20000: 8750, 1 << 62: 1 << 29} {
		if got := newEnds(files).limit; got != want {
			t.Errorf("of %d files, connections may have %d ends; want %d", files, got, want)
		}
		if limit := newEnds(files).limit; files > 2*sparedFiles && uint64(limit)*endFiles > files-sparedFiles {
			t.Errorf("of %d files, %d ends of connections leave too few", files, limit)
		}
	}
	pf := newPlatform(t, basic, func(p *Proxy) { p.ends.limit = 4 })
	pf.server("b", 9000, echo)
	for _, w := range []string{"a", "b", "c"} {
		pf.p.member(w).opened.restrict(100)
		pf.p.member(w).arrived.restrict(100)
	}
	var held []net.Conn
	for _, who := range []string{"a", "c"} { // two ends each
		c := pf.dial(who, pf.at("b", 9000))
		if _, err := ask(c, "x"); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if err := pf.refused("a", pf.at("b", 9000)); err != nil {
		t.Error(err)
	}
	pf.sink.wait(t, "too many on the node", func(r flow.Record) bool {
		return r.Event == flow.Fail && strings.Contains(r.Why, "this node has 4 connections open")
	})
	for _, c := range held {
		c.Close()
	}
}
