package node

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asWorkload marks this program's run as a workload of a test, by its first
// argument.
const asWorkload = "as-workload"

// workloads are what this program can be as a workload.
var workloads = map[string]func(args []string){
	"serve":  serveEverything,
	"attack": attack,
	"crowd":  serveCrowd,
}

// becomeWorkload returns if this process is none.
func becomeWorkload() {
	if len(os.Args) > 2 && os.Args[1] == asWorkload {
		workloads[os.Args[2]](os.Args[3:])
		os.Exit(0)
	}
}

// program returns this program where every user can execute it.
func program(p *platform) string {
	p.t.Helper()
	dir := filepath.Join(p.dir, "program")
	must(p.t, os.Mkdir(dir, 0o755))
	must(p.t, os.Chmod(dir, 0o755))
	from, err := os.Open("/proc/self/exe")
	must(p.t, err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "workload"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(p.t, err)
	_, err = io.Copy(to, from)
	must(p.t, err)
	must(p.t, to.Close())
	must(p.t, os.Chmod(to.Name(), 0o755))
	return to.Name()
}

// serveEverything answers on TCP and UDP at the given ports, on every address.
func serveEverything(ports []string) {
	for _, port := range ports {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			fmt.Println("BROKEN", err)
			os.Exit(1)
		}
		go echo(l)
		u, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			fmt.Println("BROKEN", err)
			os.Exit(1)
		}
		go echoDatagrams(u)
	}
	fmt.Println("SERVES")
	select {}
}

func echoDatagrams(u net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		u.WriteTo(b[:n], from) // whoever is refused the answer does not get it
	}
}

// attack tries the targets, NETWORK/ADDRESS:PORT, from its first moment until it
// is killed; it does not end when it is told to. A target after `never` must not be
// reached ever, and the one after `now` says with each try whether it was.
func attack(args []string) {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("ATTACKS")
	var running sync.WaitGroup
	for _, arg := range args {
		word, target, _ := strings.Cut(arg, "=")
		network, to, _ := strings.Cut(target, "/")
		running.Go(func() {
			for tries := 0; ; tries++ {
				reached := attempt(network, to)
				switch {
				case word == "never" && reached:
					fmt.Println("BREACH", target)
				case word == "now":
					fmt.Println("NOW", target, reached, time.Now().UnixNano())
				}
				if tries%50 == 0 {
					fmt.Println("TRIED", target, tries)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	running.Wait()
}

// attempt reports whether bytes came back.
func attempt(network, to string) bool {
	c, err := net.DialTimeout(network, to, 300*time.Millisecond)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	n, _ := c.Read(make([]byte, 1))
	return n > 0
}

// attackPolicy is a thief that may use one port of the store, until it does
// not. run is what the thief and the store run.
func attackPolicy(store, thief, flows string) string {
	return `version: 1
platform: testing
trustDomain: testing.example
zones: {data: {role: custom}, training: {role: custom}}
workloads:
  store: {zone: data, serves: {api: tcp/8080, more: tcp/8081, datagrams: udp/8082}, at: {host: {run: [` + store + `]}}}
  victim: {zone: training, serves: {api: tcp/8080}, at: {host: {run: [` + store + `]}}}
  thief: {zone: training, at: {host: {run: [` + thief + `]}}}
flows:
  - {from: victim, to: store/api, because: a test, owner: tests}
` + flows
}

const thiefReads = "  - {from: thief, to: store/api, because: a test, owner: tests}\n"

// listenOnMachine returns the addresses of the machine at which this test listens.
func listenOnMachine(t *testing.T) []string {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go echo(l)
	port := l.Addr().(*net.TCPAddr).Port
	out := []string{fmt.Sprintf("tcp/127.0.0.1:%d", port), fmt.Sprintf("tcp/[::1]:%d", port)}
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && !prefix.Addr().IsLoopback() && !prefix.Addr().IsLinkLocalUnicast() {
			out = append(out, "tcp/"+netip.AddrPortFrom(prefix.Addr(), uint16(port)).String())
		}
	}
	return out
}

// TestAWorkloadThatAttacks from its first moment to its last: while the platform
// starts, while the policy changes, while it is removed, and while everything is
// taken down, it reaches nothing that is not permitted at that moment.
func TestAWorkloadThatAttacks(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, "")
	exe := program(p)
	targets := listenOnMachine(t)
	// The addresses are known before the start: they are a function of the policy.
	const store, victim = "100.64.0.1", "100.64.64.1"
	for _, port := range []string{"tcp/%s:8081", "udp/%s:8082", "udp/%s:8081", "tcp/%s:15008", "tcp/%s:15001"} {
		targets = append(targets, fmt.Sprintf(port, store))
	}
	for _, port := range []string{"tcp/%s:8080", "udp/%s:8082", "tcp/%s:15008"} {
		targets = append(targets, fmt.Sprintf(port, victim))
	}
	serves := fmt.Sprintf("%s, %s, serve, %q, %q, %q", exe, asWorkload, "8080", "8081", "8082")
	thief := fmt.Sprintf("%s, %s, attack", exe, asWorkload)
	for _, target := range targets {
		thief += fmt.Sprintf(", %q", "never="+target)
	}
	thief += fmt.Sprintf(", %q", "now=tcp/100.64.0.1:8080")
	with, without := attackPolicy(serves, thief, thiefReads), attackPolicy(serves, thief, "")
	lives := 1
	if heavy {
		lives = 20
	}
	for life := range lives {
		p.setPolicy(with)
		p.start()
		p.ready()
		if got := p.workload("store").Addresses[0].String(); got != store {
			t.Fatalf("the store is at %s", got)
		}
		if got := p.workload("victim").Addresses[0].String(); got != victim {
			t.Fatalf("the victim is at %s", got)
		}
		eventually(t, "the thief reaches what it may", func() bool { return strings.Contains(p.output.String(), "NOW tcp/100.64.0.1:8080 true") })

		// The flow goes away: from when the change is in force on nothing gets through.
		p.change(without)
		p.mustNotReach(time.Now())
		p.change(with)
		p.quarantine("thief")
		p.mustNotReach(time.Now())
		p.release("thief")
		if life%2 == 0 {
			// The workload goes away. It ignores that it is told to end, and is
			// killed some seconds later.
			p.change(strings.Replace(without, "thief:", "other:", 1))
			p.mustNotReach(time.Now())
		}
		p.stop()
	}
	for line := range strings.Lines(p.output.String()) {
		if strings.Contains(line, "BREACH") || strings.Contains(line, "BROKEN") {
			t.Error(line)
		}
	}
	for _, target := range targets {
		if !strings.Contains(p.output.String(), "TRIED "+target) {
			t.Errorf("%s was not tried", target)
		}
	}
}

// mustNotReach fails the test if the thief reached something after a time.
func (p *platform) mustNotReach(after time.Time) {
	p.t.Helper()
	time.Sleep(max(time.Until(after), 0) + 300*time.Millisecond)
	for line := range strings.Lines(p.output.String()) {
		var target string
		var reached bool
		var at int64
		_, said, _ := strings.Cut(line, " | ")
		if n, _ := fmt.Sscanf(said, "NOW %s %v %d", &target, &reached, &at); n == 3 && reached && at > after.UnixNano() && at < time.Now().UnixNano() {
			// It was read at the end of the attempt, which may have got its byte before.
			if time.Unix(0, at).Sub(after) > 20*time.Millisecond {
				p.t.Errorf("%s after it was taken away, %s was reached", time.Unix(0, at).Sub(after), target)
			}
		}
	}
}
