package app

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/mesh/node"
)

// becomeWorkload is a workload that serves at the given ports, attacks the given
// targets, or streams to one of them.
func becomeWorkload(role string, args []string) {
	switch role {
	case "serve":
		for _, port := range args {
			l, err := net.Listen("tcp", ":"+port)
			if err != nil {
				fmt.Println("BROKEN", err)
				os.Exit(1)
			}
			go echo(l)
		}
	case "attack":
		for _, target := range args {
			go func() {
				for tries := 0; ; tries++ {
					if reaches(0, target) {
						fmt.Println("BREACH", target)
					}
					if tries%100 == 0 {
						fmt.Println("TRIED", target)
					}
					time.Sleep(2 * time.Millisecond)
				}
			}()
		}
	}
	select {}
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 4096)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// reaches reports whether bytes get to a server and back, from the network of a
// process, 0 for this one's own.
func reaches(pid int, to string) bool {
	c, err := dialFrom(pid, to)
	if err != nil {
		return false
	}
	defer c.Close()
	return exchange(c)
}

func dialFrom(pid int, to string) (c net.Conn, err error) {
	err = inNetworkOf(pid, func() error {
		c, err = net.DialTimeout("tcp", to, 500*time.Millisecond)
		return err
	})
	return c, err
}

// exchange reports whether a byte came back.
func exchange(c net.Conn) bool {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	n, _ := c.Read(make([]byte, 1))
	return n > 0
}

// closes reports whether a connection that is idle ends.
func closes(c net.Conn, within time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(within))
	_, err := c.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return err != nil && !(ok && timeout.Timeout())
}

// thiefPolicy: a client that may read, and a thief that tries what is never
// permitted. The workloads of the last three are on the given nodes.
func thiefPolicy(exe, storeNode, clientNode string) string {
	on := func(node string) string {
		if node == "" {
			return ""
		}
		return ", node: " + node
	}
	return fmt.Sprintf(`version: 1
platform: testing
trustDomain: testing.example
zones: {data: {role: custom}, training: {role: custom}}
workloads:
  store: {zone: data, serves: {api: tcp/8080, more: tcp/8081}, at: {host: {run: [%[1]s, %[2]s, serve, "8080", "8081"]%[3]s}}}
  client: {zone: training, serves: {own: tcp/8080}, at: {host: {run: [%[1]s, %[2]s, serve, "8080"]%[4]s}}}
  suspect: {zone: training, at: {host: {run: [sleep, infinity]%[4]s}}}
  thief: {zone: training, at: {host: {run: [%[1]s, %[2]s, attack, "100.64.0.1:8080", "100.64.0.1:8081", "100.64.64.1:8080"]%[4]s}}}
flows:
  - {from: client, to: store/api, because: a test, owner: tests}
  - {from: suspect, to: store/api, because: a test, owner: tests}
exposures:
  - {to: store/more, from: internet, because: a test, owner: tests, until: 2099-01-01}
`, exe, asWorkload, on(storeNode), on(clientNode))
}

const (
	storeAPI  = "100.64.0.1:8080"
	storeMore = "100.64.0.1:8081"
)

// held fails the test if an attack succeeded.
func (u *upTest) held() {
	u.t.Helper()
	for line := range strings.Lines(u.output.String()) {
		if strings.Contains(line, "BREACH") || strings.Contains(line, "BROKEN") {
			u.t.Error(line)
		}
	}
}

// TestKill9 at any moment of its life: the workloads are gone, nothing passes,
// nothing is left, and the next start works and keeps what was quarantined.
func TestKill9(t *testing.T) {
	for _, user := range []bool{false, true} {
		name := "root"
		if user {
			name = "user"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUp(t, user)
			u.Publish = ownLoopback(map[bool]int{false: 3, true: 4}[user])
			must(t, os.WriteFile(filepath.Join(u.Dir, PolicyFile), []byte(thiefPolicy(program(t, u.Dir), "", "")), 0o644))
			before := interfaces(t)
			u.start()
			u.ready()
			if got := u.workload("store").Addresses[0]; got.String()+":8080" != storeAPI {
				t.Fatalf("the store is at %s", got)
			}
			u.eventually("the suspect reaches the store", func() bool { return reaches(u.workload("suspect").PID, storeAPI) })
			if _, err := u.admin().Quarantine(t.Context(), node.QuarantineQuestion{Target: "suspect", Because: "a test"}); err != nil {
				t.Fatal(err)
			}
			lives := 4
			if heavy {
				lives = 40
			}
			for life := range lives {
				u.kill()
				if reaches(0, u.Publish+":8081") {
					t.Error("it was killed, and its door is open")
				}
				u.gone()
				if !t.Failed() && interfaces(t) > before {
					eventually(t, "the interfaces are gone", func() bool { return interfaces(t) <= before })
				}
				u.start()
				if life < lives-1 {
					time.Sleep(time.Duration(rand.IntN(1200)) * time.Millisecond)
				}
			}
			u.ready()
			if reaches(u.workload("suspect").PID, storeAPI) {
				t.Error("the quarantine is forgotten")
			}
			u.eventually("everything works after the last start", func() bool {
				return reaches(u.workload("client").PID, storeAPI) && reaches(0, u.Publish+":8081")
			})
			eventually(t, "the thief attacks", func() bool { return strings.Contains(u.output.String(), "TRIED "+storeMore) })
			u.stop()
			u.gone()
			u.held()
		})
	}
}

// twoNodes are a node with control and one that joined, on machines of their own
// that a cable connects.
type twoNodes struct {
	a, b  *upTest
	cable *cable
}

const addrA, addrB = "10.88.0.1", "10.88.0.2"

func startTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	n := &twoNodes{a: newUp(t, false), b: newUp(t, false), cable: newCable(t)}
	exe := program(t, shortDir(t))
	policy := filepath.Join(n.a.Dir, PolicyFile)
	must(t, os.WriteFile(policy, []byte(thiefPolicy(exe, "a", "b")), 0o644))
	n.a.Node, n.a.Listen, n.a.Publish, n.a.inNetworkOf = "a", addrA, addrA, n.cable.a
	n.a.start()
	eventually(t, "the first node runs", func() bool { return n.a.status().Generation > 0 })
	credential, err := n.a.admin().Credential(t.Context(), node.CredentialQuestion{Node: "b", Tunnel: netip.MustParseAddrPort(addrB + ":15009")})
	must(t, err)
	n.b.Node, n.b.Listen, n.b.Publish, n.b.inNetworkOf = "b", addrB, addrB, n.cable.b
	n.b.Join = filepath.Join(n.b.Dir, "b.json")
	must(t, os.WriteFile(n.b.Join, credential, 0o600))
	n.b.start()
	n.b.ready()
	n.a.ready()
	eventually(t, "the client reaches the store on the other machine", func() bool { return reaches(n.b.workload("client").PID, storeAPI) })
	return n
}

// watch tries what is never permitted until the returned function is called.
func (n *twoNodes) watch(t *testing.T) (end func()) {
	t.Helper()
	client := n.b.workload("client").PID
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				if reaches(client, storeMore) {
					t.Error("undeclared bytes passed")
				}
			}
		}
	})
	return func() {
		close(stop)
		running.Wait()
		n.a.held()
		n.b.held()
	}
}

// TestTwoNodesCutApartAndHealed: each side goes on to enforce what it has, a
// quarantine that was ordered meanwhile is in force as soon as they hear of each
// other, and nothing undeclared ever passes.
func TestTwoNodesCutApartAndHealed(t *testing.T) {
	t.Parallel()
	n := startTwoNodes(t)
	end := n.watch(t)
	suspect, client := n.b.workload("suspect").PID, n.b.workload("client").PID
	eventually(t, "the suspect reaches the store", func() bool { return reaches(suspect, storeAPI) })
	held, err := dialFrom(suspect, storeAPI)
	must(t, err)
	if !exchange(held) {
		t.Fatal("the suspect does not reach the store again")
	}
	n.cable.cut()
	effect, err := n.a.admin().Quarantine(t.Context(), node.QuarantineQuestion{Target: "suspect", Because: "a test"})
	must(t, err)
	if len(effect.Missing) != 1 || effect.Missing[0].Node != "b" {
		t.Errorf("node b is cut off, and the effect is %+v", effect)
	}
	if reaches(client, storeAPI) {
		t.Error("the nodes are cut apart, and something reached the other one")
	}
	if s := n.b.status(); s.Generation == 0 {
		t.Error("the node that is cut off has nothing in force any more")
	}
	n.cable.heal()
	eventually(t, "the quarantine is in force on the other node", func() bool {
		s := n.b.status()
		return len(s.Quarantines) == 1 && s.Generation == effect.Generation
	})
	if !closes(held, 2*time.Second) {
		t.Error("the connection of the suspect is still open")
	}
	if reaches(suspect, storeAPI) {
		t.Error("the suspect is quarantined and reaches the store")
	}
	eventually(t, "the client reaches the store again", func() bool { return reaches(client, storeAPI) })
	end()
}

// TestControlDies with its node and its bus: the other node enforces what it has,
// also after a restart of its own, and hears of control when that is back.
func TestControlDies(t *testing.T) {
	t.Parallel()
	n := startTwoNodes(t)
	end := n.watch(t)
	generation := n.b.status().Generation
	n.a.kill()
	n.a.gone()
	client := n.b.workload("client").PID
	for range 10 {
		if reaches(client, storeAPI) {
			t.Error("the store's node is dead, and it answers")
		}
	}
	if got := n.b.status(); got.Generation != generation || len(got.Workloads) != 3 {
		t.Errorf("without control the node has %+v", got)
	}
	end()
	n.b.kill()
	n.b.gone()
	n.b.start()
	eventually(t, "the node starts without control, with the generation it had", func() bool {
		s := n.b.status()
		return s.Generation == generation && len(s.Workloads) == 3
	})
	n.a.start()
	n.a.ready()
	n.b.ready()
	end = n.watch(t)
	eventually(t, "the client reaches the store again", func() bool { return reaches(n.b.workload("client").PID, storeAPI) })
	effect, err := n.a.admin().Quarantine(t.Context(), node.QuarantineQuestion{Target: "client", Because: "a test"})
	must(t, err)
	if len(effect.Missing) > 0 || len(effect.Nodes) != 2 {
		t.Errorf("the effect of a quarantine is %+v", effect)
	}
	if reaches(n.b.workload("client").PID, storeAPI) {
		t.Error("the client is quarantined and reaches the store")
	}
	end()
}
