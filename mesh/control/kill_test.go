package control

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/mesh/identity"
)

// TestMain runs control alone where TestControlIsKilled starts this program
// again.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CONTROL_TEST_CHILD"); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child runs the bus and control, and changes the policy and the quarantines without
// end, until it is killed.
func child(dir string) error {
	p := &tester{dir: dir, log: slog.New(slog.DiscardHandler), listen: os.Getenv("CONTROL_TEST_LISTEN")}
	p.policy = filepath.Join(dir, "policy.yaml")
	if err := os.MkdirAll(p.sub("control"), 0o700); err != nil {
		return err
	}
	var err error
	if p.roster, err = OpenRoster(p.sub("control")); err != nil {
		return err
	}
	if p.auth, err = identity.OpenAuthority(p.sub("ca"), identity.AuthorityOptions{TrustDomain: testDomain}); err != nil {
		return err
	}
	if p.server, err = StartServer(ServerOptions{Dir: p.sub("bus"), Platform: testPlatform, Listen: p.listen,
		Roster: p.roster, Vault: Folder(p.sub("control")), Log: p.log}); err != nil {
		return err
	}
	bus, err := p.server.Connect()
	if err != nil {
		return err
	}
	if p.ctl, err = New(p.options(bus)); err != nil {
		return err
	}
	cred := p.sub("node.json")
	if _, err := os.Stat(cred); err != nil {
		c, err := p.ctl.NewCredential(context.Background(), "n1", netip.AddrPort{}, Access{})
		if err != nil {
			return err
		}
		if err := c.Write(cred); err != nil {
			return err
		}
	}
	go p.ctl.Run(context.Background())
	fmt.Println("ready", p.server.Addr())
	ctx := context.Background()
	for i := 0; ; i++ {
		if err := writeDurably(p.policy, []byte(change(i))); err != nil {
			return err
		}
		if p.ctl.current() != nil {
			if i%2 == 0 {
				_, err = p.ctl.Quarantine(ctx, trainer())
			} else {
				_, err = p.ctl.Release(ctx, "trainer", "x", "y")
			}
			if err != nil {
				return err
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestControlIsKilled: at any moment, again and again. Numbers never repeat with
// another content and never go back, and nodes never do.
func TestControlIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(testPolicy()), 0o600))
	p := &tester{t: t, dir: dir, log: quiet(t)}
	var n *node
	listen := "127.0.0.1:0"
	known := map[uint64]string{}
	last := uint64(0)
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CONTROL_TEST_CHILD="+dir, "CONTROL_TEST_LISTEN="+listen)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("round %d: control does not start: %v", round, err)
		}
		listen = strings.TrimSpace(strings.TrimPrefix(line, "ready "))
		go io.Copy(io.Discard, out)
		if n == nil {
			cred, err := ReadCredential(filepath.Join(dir, "node.json"))
			must(t, err)
			n = &node{t: t, p: p, name: "n1", cred: cred}
			n.start()
			defer func() { n.stop() }()
		}
		n.waitNumber(last + 1)
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		must(t, cmd.Process.Kill())
		cmd.Wait()
		// What is on control's disk is what it would go on from.
		key, err := openSigningKey(Folder(filepath.Join(dir, "control")))
		must(t, err)
		f, err := shelf{dir: filepath.Join(dir, "control")}.load(key.Public().(ed25519.PublicKey))
		must(t, err)
		o, _, _ := n.latest()
		if f.order.Number < o.Number {
			t.Errorf("round %d: the node has generation %d, control's disk only %d", round, o.Number, f.order.Number)
		}
		last = f.order.Number
	}
	n.mu.Lock()
	for _, o := range n.orders {
		// Quarantines of the next order may come early, under the old number.
		says := o.Plan + o.At.String()
		if before, ok := known[o.Number]; ok && before != says {
			t.Errorf("generation %d was two things", o.Number)
		}
		known[o.Number] = says
	}
	n.mu.Unlock()
	n.neverBack()
	if s := n.client.Status(); s.Refused != 0 {
		t.Errorf("the node refused %d orders: a number was used twice", s.Refused)
	}
	t.Logf("%d generations over 8 lives; the node took %d", last, len(known))
}
