package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// manyPlan is n workloads in ten zones, with a door between all zones.
func manyPlan(h *Host, n int) Plan {
	p := Plan{Platform: h.options.Platform}
	for i := range 10 {
		p.Zones = append(p.Zones, Zone{fmt.Sprint("z", i), netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + byte(i), 0, 0}), 18),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 0, byte(i)}), 64)})
		for j := range 10 {
			p.Doors = append(p.Doors, Door{fmt.Sprint("z", i), fmt.Sprint("z", j)})
		}
	}
	for i := range n {
		p.Members = append(p.Members, member10(i))
	}
	return p
}

func member10(i int) Member {
	return Member{Name: fmt.Sprint("w", i), Zone: fmt.Sprint("z", i%10),
		V4: netip.AddrFrom4([4]byte{100, 64 + byte(i%10), byte(i / 250), byte(i%250 + 1)}),
		V6: netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 0, byte(i % 10), 0, 0, 0, 0, 0, 0, byte(i / 250), byte(i%250 + 1)})}
}

func BenchmarkApplyFromScratch200(b *testing.B) {
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		dir := filepath.Join(b.TempDir(), fmt.Sprint(i))
		h, err := Open(context.Background(), Options{Platform: fmt.Sprint("bench", os.Getpid()), StateDir: dir, RunDir: dir, Mode: Root})
		if err != nil {
			b.Fatal(err)
		}
		p := manyPlan(h, 200)
		b.StartTimer()
		if err := h.Apply(p); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		h.Close()
		b.StartTimer()
	}
}

func BenchmarkApplyOneOf200(b *testing.B) {
	h := openHost(b)
	p := manyPlan(h, 200)
	apply(b, h, p)
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			apply(b, h, p)
		}
	})
	b.Run("door", func(b *testing.B) {
		less := p
		less.Doors = p.Doors[1:]
		for i := 0; b.Loop(); i++ {
			apply(b, h, []Plan{less, p}[i%2])
		}
	})
	b.Run("plaintext", func(b *testing.B) {
		more := p
		more.Plain = []Plain{{"w1", "w2", "tcp", 29500, 29600, ""}}
		for i := 0; b.Loop(); i++ {
			apply(b, h, []Plan{more, p}[i%2])
		}
	})
	b.Run("workload", func(b *testing.B) {
		more := p
		more.Members = append(more.Members[:len(more.Members):len(more.Members)], member10(200))
		for i := 0; b.Loop(); i++ {
			apply(b, h, []Plan{more, p}[i%2])
		}
	})
}

func BenchmarkDialOwn(b *testing.B) {
	h := openHost(b)
	p := testPlan(h)
	apply(b, h, p)
	l := listenAs(b, h, "a", netip.AddrPortFrom(p.addr("a", false), 8080))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // the client closes first
				c.Read(make([]byte, 1))
				c.Close()
			}()
		}
	}()
	s := socketsOf(b, h, "a")
	b.Run("pool", func(b *testing.B) {
		for b.Loop() {
			c, err := s.DialOwn(context.Background(), 8080)
			if err != nil {
				b.Fatal(err)
			}
			c.SetLinger(0)
			c.Close()
		}
	})
	b.Run("on the thread", func(b *testing.B) {
		th, _ := h.thread("a")
		to := netip.AddrPortFrom(p.addr("a", false), 8080)
		for b.Loop() {
			var c net.Conn
			err := th.do(func() (err error) { c, err = net.Dial("tcp", to.String()); return err })
			if err != nil {
				b.Fatal(err)
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	})
}
