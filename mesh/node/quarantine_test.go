package node

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is a platform with many workloads, of which the first few serve all
// others, and the streams between them.
type crowd struct {
	*platform
	servers, clients, zones int
	streams                 []*stream
	byID                    sync.Map // *stream by its number
	pids                    map[string]int
}

// stream is one open connection on which numbered frames travel to a server and
// back. Whoever reads checks that no number is missing.
type stream struct {
	id           uint32
	from, to     string // workloads
	zone         string // of from
	conn         net.Conn
	every        atomic.Int64 // pause between two frames
	last         atomic.Int64 // when a byte arrived, at either end; Unix nanoseconds
	frames       atomic.Int64 // that came back
	ended        atomic.Bool
	broken       atomic.Pointer[string]
	done         chan struct{}
	kick         chan struct{}
	serverExpect uint32 // of the goroutine at the server
}

const frameSize = 64

func (c *crowd) text() string {
	var b strings.Builder
	b.WriteString("version: 1\nplatform: testing\ntrustDomain: testing.example\nzones:\n  serving: {role: custom}\n")
	for z := range c.zones {
		fmt.Fprintf(&b, "  z%d: {role: custom}\n", z)
	}
	b.WriteString("workloads:\n")
	for i := range c.servers {
		fmt.Fprintf(&b, "  s%d: {zone: serving, serves: {api: tcp/8080}, at: {host: {run: [sleep, infinity]}}}\n", i)
	}
	for i := range c.clients {
		fmt.Fprintf(&b, "  c%d: {zone: z%d, at: {host: {run: [sleep, infinity]}}}\n", i, i%c.zones)
	}
	b.WriteString("flows:\n")
	for z := range c.zones {
		for i := range c.servers {
			fmt.Fprintf(&b, "  - {from: zone/z%d, to: s%d/api, because: a test, owner: tests}\n", z, i)
		}
	}
	return b.String()
}

// newCrowd starts the platform and opens streams.
func newCrowd(t testing.TB, servers, clients, zones, streams int) *crowd {
	t.Helper()
	c := &crowd{servers: servers, clients: clients, zones: zones, pids: map[string]int{}}
	c.platform = newPlatform(t, c.text())
	// Each stream has four ends in this process.
	need := uint64(4*streams + 4096)
	limit := unix.Rlimit{Cur: need, Max: need}
	var has unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &has))
	if has.Cur < need {
		limit.Max = max(has.Max, need)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Skipf("SKIPPED: %d open files are needed and %d are allowed; run: sudo go test ./mesh/node", need, has.Max)
		}
	}
	c.start()
	c.ready()
	addrs := map[string]netip.AddrPort{}
	for _, w := range c.node.Status().Workloads {
		c.pids[w.Name] = w.PID
		addrs[w.Name] = netip.AddrPortFrom(w.Addresses[0], 8080)
	}
	for i := range servers {
		l := c.listen(fmt.Sprint("s", i), 8080)
		go c.serve(l)
	}
	for i := range streams {
		client := i % clients
		c.streams = append(c.streams, &stream{id: uint32(i), from: fmt.Sprint("c", client), zone: fmt.Sprint("z", client%zones),
			to: fmt.Sprint("s", (i/clients+client)%servers)})
	}
	c.open(c.streams, addrs)
	t.Cleanup(func() {
		for _, s := range c.streams {
			s.conn.Close()
			<-s.done
		}
	})
	return c
}

// open connects streams, a few workloads at a time.
func (c *crowd) open(streams []*stream, addrs map[string]netip.AddrPort) {
	c.t.Helper()
	byClient := map[string][]*stream{}
	for _, s := range streams {
		byClient[s.from] = append(byClient[s.from], s)
	}
	var wait sync.WaitGroup
	turn := make(chan struct{}, 8)
	for from, list := range byClient {
		turn <- struct{}{}
		wait.Go(func() {
			defer func() { <-turn }()
			err := inside(c.pids[from], func() error {
				for _, s := range list {
					conn, err := (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp", addrs[s.to].String())
					if err != nil {
						return err
					}
					s.conn = conn
				}
				return nil
			})
			if err != nil {
				c.t.Errorf("%s cannot connect: %v", from, err)
			}
		})
	}
	wait.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
	for _, s := range streams {
		s.done, s.kick = make(chan struct{}), make(chan struct{}, 1)
		s.serverExpect = 0
		s.ended.Store(false)
		s.frames.Store(0)
		s.every.Store(int64(time.Second))
		c.byID.Store(s.id, s)
		go s.run()
	}
	eventually(c.t, "every stream carries bytes", func() bool {
		return !slices.ContainsFunc(streams, func(s *stream) bool { return s.frames.Load() == 0 })
	})
}

func (s *stream) fail(format string, args ...any) {
	says := fmt.Sprintf(format, args...)
	s.broken.CompareAndSwap(nil, &says)
}

func frame(b []byte, id, n uint32) {
	binary.BigEndian.PutUint32(b, id)
	binary.BigEndian.PutUint32(b[4:], n)
	for i := 8; i < frameSize; i++ {
		b[i] = byte(n) + byte(i)
	}
}

// right reports whether b is frame n of a stream.
func right(b []byte, id, n uint32) bool {
	var want [frameSize]byte
	frame(want[:], id, n)
	return string(want[:]) == string(b)
}

// run is the client: it sends a frame, and reads it back.
func (s *stream) run() {
	defer close(s.done)
	defer s.ended.Store(true)
	var out, in [frameSize]byte
	for n := uint32(0); ; n++ {
		frame(out[:], s.id, n)
		if _, err := s.conn.Write(out[:]); err != nil {
			return
		}
		got, err := io.ReadFull(s.conn, in[:])
		if got > 0 {
			s.last.Store(time.Now().UnixNano())
		}
		if err != nil {
			return
		}
		if !right(in[:], s.id, n) {
			s.fail("frame %d came back as %x", n, in)
			return
		}
		s.frames.Add(1)
		select {
		case <-time.After(time.Duration(s.every.Load())):
		case <-s.kick:
		}
	}
}

// hurry changes the pause between frames from now on.
func (s *stream) hurry(every time.Duration) {
	s.every.Store(int64(every))
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// serve is a server: it checks each frame and sends it back.
func (c *crowd) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var b [frameSize]byte
			var s *stream
			for n := uint32(0); ; n++ {
				got, err := io.ReadFull(conn, b[:])
				if s != nil && got > 0 {
					s.last.Store(time.Now().UnixNano())
				}
				if err != nil {
					return
				}
				if s == nil {
					found, ok := c.byID.Load(binary.BigEndian.Uint32(b[:]))
					if !ok {
						return
					}
					s = found.(*stream)
				}
				if !right(b[:], s.id, n) {
					s.fail("frame %d arrived as %x", n, b)
				}
				if _, err := conn.Write(b[:]); err != nil {
					return
				}
			}
		}()
	}
}

// touched returns the streams of a target and the others.
func (c *crowd) touched(target string) (mine, others []*stream) {
	zone, isZone := strings.CutPrefix(target, "zone/")
	for _, s := range c.streams {
		if isZone && s.zone == zone || s.from == target || s.to == target {
			mine = append(mine, s)
		} else {
			others = append(others, s)
		}
	}
	return mine, others
}

// cut quarantines a target and returns how long after the command its last byte
// arrived, and when its last connection was seen closed. Then it releases the
// target and connects it again.
func (c *crowd) cut(target string) (lastByte, lastClose time.Duration) {
	c.t.Helper()
	mine, others := c.touched(target)
	// All of them together send some thousand frames a second: one arrives every
	// fraction of a millisecond.
	for _, s := range mine {
		s.hurry(time.Duration(len(mine)) * time.Second / 4000)
	}
	time.Sleep(200 * time.Millisecond)
	framesBefore := map[*stream]int64{}
	for _, s := range others {
		framesBefore[s] = s.frames.Load()
	}
	start := time.Now()
	c.quarantine(target)
	for _, s := range mine {
		select {
		case <-s.done:
		case <-time.After(5 * time.Second):
			c.t.Fatalf("stream %d from %s to %s is open 5 s after the quarantine of %s", s.id, s.from, s.to, target)
		}
	}
	lastClose = time.Since(start)
	time.Sleep(50 * time.Millisecond) // a byte that is late would be counted
	for _, s := range mine {
		lastByte = max(lastByte, time.Unix(0, s.last.Load()).Sub(start))
	}
	eventually(c.t, "what is permitted goes on", func() bool {
		return !slices.ContainsFunc(others, func(s *stream) bool { return s.frames.Load() == framesBefore[s] })
	})
	for _, s := range c.streams {
		if says := s.broken.Load(); says != nil {
			c.t.Fatalf("stream %d from %s to %s: %s", s.id, s.from, s.to, *says)
		}
	}
	for _, s := range others {
		if s.ended.Load() {
			c.t.Fatalf("stream %d from %s to %s was closed by the quarantine of %s", s.id, s.from, s.to, target)
		}
	}
	return lastByte, lastClose
}

// restore releases a target and opens its streams again.
func (c *crowd) restore(target string) {
	c.t.Helper()
	c.release(target)
	mine, _ := c.touched(target)
	addrs := map[string]netip.AddrPort{}
	for _, s := range mine {
		s.conn.Close()
		addrs[s.to] = c.at(s.to, 8080)
	}
	c.open(mine, addrs)
}

// TestQuarantine cuts a client, a server and a zone off while bytes flow.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 3, 9, 3, 90)
	for _, target := range []string{"c4", "s1", "zone/z2"} {
		lastByte, lastClose := c.cut(target)
		t.Logf("%s: the last byte %s after the command, the last connection closed after %s", target, lastByte, lastClose)
		c.restore(target)
	}
}

// TestAQuarantineSurvivesARestart of the node, and of control with it.
func TestAQuarantineSurvivesARestart(t *testing.T) {
	t.Parallel()
	p := run(t, smallPolicy(trainerReads, notebookReads))
	p.quarantine("trainer")
	for range 2 {
		p.stop()
		p.start()
		p.ready()
		go echo(p.listen("store", 8080))
		if p.reaches("trainer", p.at("store", 8080)) {
			t.Error("the trainer is quarantined and reaches the store")
		}
		if !p.reaches("notebook", p.at("store", 8080)) {
			t.Error("the notebook does not reach the store")
		}
		if q := p.node.Status().Quarantines; len(q) != 1 || q[0].Because != "a test" {
			t.Errorf("the quarantines are %+v", q)
		}
	}
	p.release("trainer")
	if !p.reaches("trainer", p.at("store", 8080)) {
		t.Error("the trainer is released and does not reach the store")
	}
}

// BenchmarkQuarantine: 200 workloads, 5,000 open connections. It reports when the
// last byte of what is cut off arrived after the command, over all rounds.
func BenchmarkQuarantine(b *testing.B) {
	servers, clients, streams := 20, 180, 5000
	if testing.Short() {
		servers, clients, streams = 4, 16, 200
	}
	c := newCrowd(b, servers, clients, 6, streams)
	var lastBytes, lastCloses []time.Duration
	for i := 0; b.Loop(); i++ {
		// One client's connections, all of a server, and those of a zone.
		target := []string{fmt.Sprint("c", i%clients), fmt.Sprint("s", i%servers), fmt.Sprint("zone/z", i%6)}[i%3]
		lastByte, lastClose := c.cut(target)
		lastBytes, lastCloses = append(lastBytes, lastByte), append(lastCloses, lastClose)
		b.StopTimer()
		c.restore(target)
		b.StartTimer()
	}
	report := func(list []time.Duration, name string) {
		slices.Sort(list)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		b.ReportMetric(ms(list[len(list)/2]), "ms/"+name+"-p50")
		b.ReportMetric(ms(list[(len(list)*99+99)/100-1]), "ms/"+name+"-p99")
	}
	report(lastBytes, "last-byte")
	report(lastCloses, "last-close")
	b.ReportMetric(0, "ns/op")
}
