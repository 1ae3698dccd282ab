package node

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is a platform with many workloads, of which the first few serve all
// others and the machine outside, and the streams between them.
type crowd struct {
	*platform
	*asker
	servers, clients, zones int
	streams                 []link
	pids                    map[string]int
	addrs                   map[string]netip.AddrPort
}

// link is a stream and whose it is. From outside it comes through a door.
type link struct {
	id             uint32
	from, zone, to string // from and zone are empty for outside
}

// doorsAt is an address of loopback that other tests do not use.
var doorsAt = fmt.Sprintf("127.88.%d.%d", os.Getpid()>>8&255, os.Getpid()&255)

func (c *crowd) text() string {
	var b strings.Builder
	b.WriteString("version: 1\nplatform: testing\ntrustDomain: testing.example\nzones:\n  serving: {role: custom}\n")
	for z := range c.zones {
		fmt.Fprintf(&b, "  z%d: {role: custom}\n", z)
	}
	b.WriteString("workloads:\n")
	for i := range c.servers {
		fmt.Fprintf(&b, "  s%d: {zone: serving, serves: {api: tcp/%d}, at: {host: {run: [sleep, infinity]}}}\n", i, crowdPort+i)
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
	b.WriteString("exposures:\n")
	for i := range c.servers {
		fmt.Fprintf(&b, "  - {to: s%d/api, from: internet, because: a test, owner: tests, until: 2099-01-01}\n", i)
	}
	return b.String()
}

// newCrowd starts the platform and opens streams, of which outside come from
// outside.
func newCrowd(t testing.TB, servers, clients, zones, streams, outside int) *crowd {
	t.Helper()
	c := &crowd{servers: servers, clients: clients, zones: zones, pids: map[string]int{}, addrs: map[string]netip.AddrPort{}}
	c.platform = newPlatform(t, c.text())
	c.publish = doorsAt
	c.start()
	c.ready()
	c.asker = startCrowd(t)
	for _, w := range c.node.Status().Workloads {
		c.pids[w.Name] = w.PID
		if number, ok := strings.CutPrefix(w.Name, "s"); ok {
			i, _ := strconv.Atoi(number)
			c.addrs[w.Name] = netip.AddrPortFrom(w.Addresses[0], uint16(crowdPort+i))
		}
	}
	for i := range servers {
		c.ask(crowdQuestion{Serve: &crowdServe{c.pids[fmt.Sprint("s", i)], crowdPort + i}})
	}
	const peers = 4 // of each client
	for i := range streams {
		client := i % clients
		l := link{uint32(i), fmt.Sprint("c", client), fmt.Sprint("z", client%zones), fmt.Sprint("s", (i/clients%peers+client)%servers)}
		if i >= streams-outside {
			l.from, l.zone = "", ""
		}
		c.streams = append(c.streams, l)
	}
	c.open(c.streams)
	return c
}

func (c *crowd) open(list []link) {
	c.platform.t.Helper()
	var q crowdQuestion
	for _, l := range list {
		o := crowdOpen{l.id, c.pids[l.from], c.addrs[l.to]}
		if l.from == "" {
			o = crowdOpen{l.id, 0, netip.AddrPortFrom(netip.MustParseAddr(doorsAt), o.To.Port())}
		}
		q.Open = append(q.Open, o)
	}
	c.ask(q)
}

// touched returns the streams of a target.
func (c *crowd) touched(target string) []link {
	zone, isZone := strings.CutPrefix(target, "zone/")
	return slices.DeleteFunc(slices.Clone(c.streams), func(l link) bool {
		return !(isZone && l.zone == zone || l.from == target || l.to == target)
	})
}

// cut quarantines a target and returns how long after the command its last byte
// arrived at either end, and when its last connection was seen closed. Everything
// else goes on.
func (c *crowd) cut(target string) (lastByte, lastClose time.Duration) {
	c.platform.t.Helper()
	var ids []uint32
	for _, l := range c.touched(target) {
		ids = append(ids, l.id)
	}
	// All of them together send some thousand frames a second: one arrives every
	// fraction of a millisecond.
	c.ask(crowdQuestion{Hurry: &crowdHurry{ids, time.Duration(len(ids)) * time.Second / 4000}})
	time.Sleep(300 * time.Millisecond)
	start := time.Now()
	e := c.quarantine(target)
	c.platform.t.Logf("%s: closed %d; the node took %s, and confirmed after %s", target, e.Nodes[0].Closed, e.Nodes[0].Took, e.Nodes[0].After)
	a := c.ask(crowdQuestion{Gone: &crowdTarget{ids}})
	return max(0, time.Unix(0, a.LastByte).Sub(start)), time.Unix(0, a.LastClose).Sub(start)
}

// restore releases a target and opens its streams again.
func (c *crowd) restore(target string) {
	c.platform.t.Helper()
	c.release(target)
	c.open(c.touched(target))
}

// TestQuarantine cuts a client, a server and a zone off while bytes flow.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 3, 9, 3, 90, 30)
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
	eventually(t, "the trainer reaches the store again", func() bool { return p.reaches("trainer", p.at("store", 8080)) })
}

// between returns how many of the streams can be between workloads. Such a one
// costs a node that is both of its ends four open files, one from outside two, and
// a workload about two dozen; the limit of this process cannot always be raised.
func between(t testing.TB, workloads, streams int) int {
	t.Helper()
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	need := func(between int) uint64 { return uint64(500 + 24*workloads + 2*streams + 2*between) }
	if limit.Max < need(streams) {
		limit.Max = need(streams)
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
			must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
		}
	}
	n := min(streams, (int(limit.Max)-int(need(0)))/2)
	if n < streams/4 {
		t.Skipf("SKIPPED: %d open files are needed and %d are allowed; run: ulimit -n %d && go test -bench Quarantine ./mesh/node", need(streams), limit.Max, need(streams))
	}
	return n
}

// BenchmarkQuarantine: 200 workloads, 5,000 open connections. It reports when the
// last byte of what is cut off arrived after the command, over all rounds.
func BenchmarkQuarantine(b *testing.B) {
	servers, clients, streams := 20, 180, 5000
	if testing.Short() {
		servers, clients, streams = 4, 16, 200
	}
	outside := streams - between(b, servers+clients, streams)
	c := newCrowd(b, servers, clients, 6, streams, outside)
	var lastBytes, lastCloses []time.Duration
	for i := 0; b.Loop(); i++ {
		// One client's connections, all of a server, and those of a zone.
		target := []string{fmt.Sprint("c", i%clients), fmt.Sprint("s", i%servers), fmt.Sprint("zone/z", i%6)}[i%3]
		lastByte, lastClose := c.cut(target)
		b.Logf("%s: %d connections, the last byte after %s, the last closed after %s", target, len(c.touched(target)), lastByte, lastClose)
		lastBytes, lastCloses = append(lastBytes, lastByte), append(lastCloses, lastClose)
		c.restore(target)
	}
	report := func(list []time.Duration, name string) {
		slices.Sort(list)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		b.ReportMetric(ms(list[len(list)/2]), "ms/"+name+"-p50")
		b.ReportMetric(ms(list[(len(list)*99+99)/100-1]), "ms/"+name+"-p99")
	}
	report(lastBytes, "last-byte")
	report(lastCloses, "last-close")
	b.ReportMetric(float64(streams), "connections")
	b.ReportMetric(float64(outside), "of-them-from-outside")
	b.ReportMetric(0, "ns/op")
}
