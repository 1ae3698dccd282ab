package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/budget"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/tunnel"
)

// both allows two names on one port.
const both = `
egress:
  - {from: client, to: [a.test, b.test], ports: [80, 9000], accept: any-protocol, because: x, owner: y}
`

const onlyA = `
egress:
  - {from: client, to: [a.test], ports: [80, 9000], accept: any-protocol, because: x, owner: y}
`

// TestReload: a new generation cuts what it denies, at once, and nothing else.
func TestReload(t *testing.T) {
	r := newRig(t, both)
	r.names.set("a.test", apiAddr)
	r.names.set("b.test", "93.184.216.35")
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
	r.serve(80, func(conn net.Conn, in *bufio.Reader) {
		_, _ = http.ReadRequest(in)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
		_, _ = in.ReadByte()
	})
	door, secure := r.listen(r.plain()), r.listen(r.mutual())
	type open struct {
		name string
		conn net.Conn
		in   io.Reader
	}
	var list []open
	for _, name := range []string{"a.test", "b.test"} {
		conn := dialProxy(t, door)
		in, status, err := connect(conn, name+":9000")
		if status != 200 {
			t.Fatal(status, err)
		}
		list = append(list, open{name, conn, in})
		over := r.overTLS(dialProxy(t, secure), "client", "h2")
		s, err := openStream(over, [][2]string{{":method", "CONNECT"}, {":authority", name + ":9000"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.answer(); err != nil || s.status != 200 {
			t.Fatal(s.status, err)
		}
		list = append(list, open{name, s, s})
	}
	echo := func(o open) error {
		if _, err := io.WriteString(o.conn, "0123456789"); err != nil {
			return err
		}
		b := make([]byte, 10)
		_, err := io.ReadFull(o.in, b)
		if err == nil && string(b) != "0123456789" {
			err = errors.New("other bytes come back")
		}
		return err
	}
	for _, o := range list {
		if err := echo(o); err != nil {
			t.Fatal(o.name, err)
		}
	}
	request := dialProxy(t, door)
	fmt.Fprint(request, "GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n")
	in := bufio.NewReader(request)
	begun, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.enforce(onlyA)
	for _, o := range list {
		if err := echo(o); (err == nil) != (o.name == "a.test") {
			t.Errorf("a tunnel to %s: %v", o.name, err)
		}
	}
	if b, err := io.ReadAll(begun.Body); err == nil {
		t.Errorf("a request that is denied now ends in order: %q", b)
	}
	for _, o := range list {
		o.conn.Close()
	}
	request.Close()
	denied := 0
	for _, rec := range r.log() {
		if rec.Event != flow.Open && rec.To.Name == "b.test" {
			if rec.Verdict != "deny" || rec.Generation != 2 || !strings.Contains(rec.Why, "b.test") {
				t.Errorf("%+v", rec)
			}
			denied++
		}
	}
	if denied != 3 || r.reg.Len() != 0 {
		t.Errorf("%d ends of what was cut, %d entries left\n%s", denied, r.reg.Len(), r.explain())
	}
}

// TestReloadUnderLoad flips generations while many ask. After Enforce has returned,
// nothing is dialled that the generation denies, no allowed request fails, and none
// is answered by anybody else.
func TestReloadUnderLoad(t *testing.T) {
	r := newRig(t, both)
	r.names.set("a.test", apiAddr)
	r.names.set("b.test", "93.184.216.35")
	const bAddr = "93.184.216.35"
	var forbidden atomic.Bool // from the return of Enforce until before the next
	var wrong, passed atomic.Int32
	r.dialing = func(ctx context.Context, to netip.AddrPort) error {
		// Forbidden is read before the context: who was decided earlier is cancelled.
		if forbidden.Load() && to.Addr().String() == bAddr && ctx.Err() == nil {
			wrong.Add(1)
		}
		return nil
	}
	ins := []*policy.Intent{intent(t, onlyA), intent(t, both)}
	door := r.listen(r.plain())
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range 6 {
		running.Go(func() {
			host := []string{"a.test", "b.test"}[i%2]
			var conn net.Conn
			var in *bufio.Reader
			defer func() {
				if conn != nil {
					conn.Close()
				}
			}()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if conn == nil {
					c, err := net.Dial("tcp", door)
					if err != nil {
						t.Error(err)
						return
					}
					conn, in = c, bufio.NewReader(c)
				}
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				status, body, err := get(conn, in, "http://"+host+"/", host)
				switch {
				case host == "a.test" && (err != nil || status != 200 || body != "origin"):
					t.Errorf("an allowed request fails: %d %q %v", status, body, err)
					return
				case err == nil && status == 200 && body != "origin":
					t.Errorf("answered by somebody else: %q", body)
				case err == nil && status == 200:
					passed.Add(1)
				}
				if err != nil || i%3 == 0 {
					conn.Close()
					conn = nil
				}
			}
		})
	}
	for i := range 60 {
		forbidden.Store(false)
		r.number++
		r.reg.Enforce(&registry.Force{Number: r.number, Digest: fmt.Sprint(r.number), Intent: ins[i%2], Since: time.Now()})
		forbidden.Store(i%2 == 0)
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	running.Wait()
	if wrong.Load() > 0 || passed.Load() == 0 {
		t.Errorf("%d dials after they were denied, %d requests passed", wrong.Load(), passed.Load())
	}
	for _, rec := range r.log() {
		if rec.To.Name == "a.test" && rec.Verdict != "allow" {
			t.Fatalf("%+v", rec)
		}
	}
	if n := r.reg.Len(); n != 0 {
		t.Errorf("%d entries stay", n)
	}
}

// TestQuarantine cuts the client, in every mode.
func TestQuarantine(t *testing.T) {
	for _, mode := range []string{"enforce", "report", "observe"} {
		text := allowed
		if mode != "enforce" {
			text = "gateway: {mode: " + mode + ", because: x, owner: y, until: 2099-01-01}\n" + allowed
		}
		r := newRig(t, text)
		in := intent(t, text)
		held := in.Quarantined([]policy.Quarantine{{Target: "client", Because: "x", Operator: "o", At: time.Now()}})
		r.number++
		r.reg.Enforce(&registry.Force{Number: r.number, Digest: "q", Intent: held, Since: time.Now()})
		conn := r.proxy()
		for _, host := range []string{api, "evil.test"} {
			_, status, _ := connect(conn, host+":443")
			conn = r.proxy()
			if status != 403 || len(r.dials()) > 0 {
				t.Errorf("%s, %s: %d\n%s", mode, host, status, r.explain())
			}
		}
	}
}

// TestModes: what is not enforced passes and is marked; what is special never
// passes.
func TestModes(t *testing.T) {
	for _, mode := range []string{"report", "observe"} {
		r := newRig(t, "gateway: {mode: "+mode+", because: x, owner: y, until: 2099-01-01}\n"+allowed)
		r.names.set("inside.test", "10.0.0.1")
		r.names.set("meta.test", "169.254.169.254")
		r.names.set("mixed.test", "10.0.0.1", evilAddr)
		door := r.listen(r.plain())
		for _, c := range []struct {
			host string
			pass bool
		}{{"evil.test", true}, {api, true}, {"inside.test", false}, {"meta.test", false}, {"mixed.test", true}} {
			conn := dialProxy(t, door)
			over, status, err := r.tunnelTo(conn, c.host+":443", c.host)
			if (err == nil && over != nil) != c.pass {
				t.Errorf("%s, %s: %d %v", mode, c.host, status, err)
			}
			conn.Close()
			conn = dialProxy(t, door)
			status, body, err := get(conn, bufio.NewReader(conn), "http://"+c.host+"/", c.host)
			if (status == 200 && body == "origin") != c.pass {
				t.Errorf("%s, %s: %d %s %v", mode, c.host, status, body, err)
			}
			conn.Close()
		}
		for _, to := range []string{"169.254.169.254:443", "10.0.0.1:443", "[::ffff:10.0.0.1]:443", "2852039166:443", "0x7f.1:443"} {
			conn := dialProxy(t, door)
			if _, status, _ := connect(conn, to); status == 200 {
				t.Errorf("%s: %s passes", mode, to)
			}
			conn.Close()
		}
		// Inside a tunnel to what no permission names, anything is marked.
		for _, sni := range []string{"other.test", ""} {
			conn := dialProxy(t, door)
			if _, status, err := r.tunnelTo(conn, "evil.test:443", sni); err != nil {
				t.Errorf("%s: %d %v", mode, status, err)
			}
			conn.Close()
		}
		for _, rec := range r.log() {
			relaxed := rec.To.Name != api && rec.Verdict == "allow"
			if rec.WouldDeny != (relaxed && mode == "report") || (rec.Mode == mode) != relaxed {
				t.Errorf("%s: %+v", mode, rec)
			}
			if rec.WouldDeny && rec.Why == "" {
				t.Errorf("%s: a mark without a reason: %+v", mode, rec)
			}
		}
		if s := r.special(); len(s) > 0 {
			t.Error(s)
		}
	}
}

// TestModeOfOthers: a mode for one workload is no mode for another.
func TestModeOfOthers(t *testing.T) {
	r := newRig(t, "gateway: {mode: observe, for: other, because: x, owner: y, until: 2099-01-01}\n"+allowed)
	conn := r.proxy()
	if _, status, _ := connect(conn, "evil.test:443"); status != 403 {
		t.Error(status)
	}
}

// TestDrain: what is open ends in its time, what is new is refused, what waits is
// closed, and at the end the rest is reset.
func TestDrain(t *testing.T) {
	r := newRig(t, byAddress+"  - {from: client, to: \"*.allowed.test\", ports: [80], because: x, owner: y}\n")
	release := make(chan struct{})
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
	r.serve(80, func(conn net.Conn, in *bufio.Reader) {
		_, _ = http.ReadRequest(in)
		<-release
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = in.ReadByte()
	})
	door, secure := r.listen(r.plain()), r.listen(r.mutual())
	tunnel := dialProxy(t, door)
	in, status, err := connect(tunnel, apiAddr+":9000")
	if status != 200 {
		t.Fatal(status, err)
	}
	request := dialProxy(t, door)
	fmt.Fprintf(request, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", api, api)
	idle := dialProxy(t, door)
	over := r.overTLS(dialProxy(t, secure), "client", "h2")
	s, err := openStream(over, [][2]string{{":method", "CONNECT"}, {":authority", "evil.test:443"}})
	if err != nil || s.answer() != nil || s.status != 403 {
		t.Fatal(err, s.status)
	}
	for r.g.Stats().Open < 4 || len(r.dials()) < 2 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over2 := make(chan struct{})
	go func() { r.g.Drain(ctx); close(over2) }()
	for !r.g.Draining() {
		time.Sleep(time.Millisecond)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("an idle connection stays")
	}
	for {
		if err := s.next(); err != nil {
			break // the idle connection of HTTP/2 is closed
		}
	}
	if late, err := net.Dial("tcp", door); err == nil {
		if _, _, err := get(late, bufio.NewReader(late), "http://"+api+"/", api); err == nil {
			t.Error("a new connection is served")
		}
		late.Close()
	}
	close(release)
	a, err := http.ReadResponse(bufio.NewReader(request), nil)
	if err != nil || a.StatusCode != 200 || !a.Close {
		t.Errorf("an open request: %v %v", a, err)
	}
	if _, err := io.WriteString(tunnel, "still"); err != nil {
		t.Error(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(in, b); err != nil {
		t.Errorf("an open tunnel: %v", err)
	}
	select {
	case <-over2:
		t.Error("Drain does not wait for what is open")
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	<-over2
	if _, err := in.ReadByte(); err == nil || err == io.EOF {
		t.Errorf("the rest is not reset: %v", err)
	}
	if log := r.log(); r.g.Stats().Open != 0 {
		t.Error(log)
	}
}

func ledger(t testing.TB) *budget.Ledger {
	l, err := budget.Open(budget.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func limited(limits string) string {
	return "egress:\n  - {from: client, to: 93.184.216.0/24, ports: [80, 9000], budget: {" + limits + "}, because: x, owner: y}\n" +
		"  - {from: client, to: \"*.allowed.test\", ports: [80], budget: {" + limits + "}, because: x, owner: y}\n"
}

// TestBudgets: a transfer is cut when its bytes are used up, at most one grant
// later, and what comes next is refused.
func TestBudgets(t *testing.T) {
	const most = 4 << 20
	for _, up := range []bool{true, false} {
		l := ledger(t)
		r := newRig(t, limited("bytes: 4MiB/day"), func(o *Options) { o.Budgets = l })
		var got atomic.Int64
		r.serve(9000, func(conn net.Conn, in *bufio.Reader) {
			if up {
				n, _ := io.Copy(io.Discard, in)
				got.Store(n)
				return
			}
			for b := make([]byte, 64<<10); ; {
				if _, err := conn.Write(b); err != nil {
					return
				}
			}
		})
		conn := r.proxy()
		in, status, err := connect(conn, apiAddr+":9000")
		if status != 200 {
			t.Fatal(status, err)
		}
		if up {
			for b := make([]byte, 64<<10); ; {
				if _, err := conn.Write(b); err != nil {
					break
				}
			}
		} else {
			n, err := io.Copy(io.Discard, in)
			if got.Store(n); err == nil {
				t.Error("it ends as if that were all")
			}
		}
		conn.Close()
		log := r.log()
		last := log[len(log)-1]
		moved := last.BytesOut + last.BytesIn
		if last.Verdict != "deny" || !strings.Contains(last.Why, "budget") || moved < most-grantSize || moved > most+grantSize || got.Load() > most+grantSize {
			t.Errorf("up %v: the server or client got %d, the record is %+v", up, got.Load(), last)
		}
		conn = r.proxy()
		if _, status, _ := connect(conn, apiAddr+":9000"); status != 429 {
			t.Errorf("the next tunnel: %d", status)
		}
	}
}

// TestRequestBudgets: requests and tunnels count, one by one, and what is open.
func TestRequestBudgets(t *testing.T) {
	l := ledger(t)
	r := newRig(t, limited("requests: 3/day"), func(o *Options) { o.Budgets = l })
	conn := r.proxy()
	in := bufio.NewReader(conn)
	for i := range 5 {
		status, body, err := get(conn, in, "http://"+api+"/", api)
		if want := map[bool]int{true: 200, false: 429}[i < 3]; status != want {
			t.Errorf("request %d: %d %s %v", i, status, body, err)
		}
	}
	r = newRig(t, limited("concurrent: 2"), func(o *Options) { o.Budgets = ledger(t) })
	r.serve(9000, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
	door := r.listen(r.plain())
	var open []net.Conn
	for i := range 3 {
		conn := dialProxy(t, door)
		_, status, err := connect(conn, apiAddr+":9000")
		if want := map[bool]int{true: 200, false: 429}[i < 2]; status != want {
			t.Errorf("tunnel %d: %d %v", i, status, err)
		}
		open = append(open, conn)
	}
	open[0].Close()
	open[2].Close()
	for range 1000 {
		if r.g.Stats().Open == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	conn = dialProxy(t, door)
	if _, status, err := connect(conn, apiAddr+":9000"); status != 200 {
		t.Error("after one has ended:", status, err)
	}
}

// TestBudgetsKeptNowhere: what has a budget does not pass where nobody counts.
func TestBudgetsKeptNowhere(t *testing.T) {
	r := newRig(t, limited("bytes: 1GiB/day"))
	conn := r.proxy()
	if status, body, _ := get(conn, bufio.NewReader(conn), "http://"+api+"/", api); status != 503 || len(r.reached()) > 0 {
		t.Error(status, body)
	}
}

// TestBudgetOfTheAddress: the permission that holds a name with its address counts,
// and not the one that holds the name alone.
func TestBudgetOfTheAddress(t *testing.T) {
	const text = `
destinations:
  inside: {hosts: api.allowed.test, addresses: 10.0.0.0/8, ports: [80]}
egress:
  - {from: client, to: "*.allowed.test", ports: [80], because: x, owner: y}
  - {from: client, to: inside, budget: {requests: 1/day}, because: x, owner: y}
`
	r := newRig(t, text, func(o *Options) { o.Budgets = ledger(t) })
	r.names.set(api, "10.0.0.7")
	conn := r.proxy()
	in := bufio.NewReader(conn)
	for i, want := range []int{200, 429} {
		if status, body, err := get(conn, in, "http://"+api+"/", api); status != want {
			t.Errorf("request %d: %d %s %v", i, status, body, err)
		}
	}
}

// TestInspectionOfTheAddress: where the permission that holds the address allows
// some requests only and is not inspected, no tunnel passes, though another
// permission of the name is.
func TestInspectionOfTheAddress(t *testing.T) {
	const text = `
destinations:
  inside: {hosts: api.allowed.test, addresses: 10.0.0.0/8}
egress:
  - {from: client, to: "*.allowed.test", may: read, inspect: true, because: x, owner: y}
  - {from: client, to: inside, may: write, because: x, owner: y}
`
	r := newRig(t, text)
	r.names.set(api, "10.0.0.7")
	conn := r.proxy()
	if _, status, err := r.tunnelTo(conn, api+":443", api); status == 200 {
		t.Error("an unread tunnel passes:", status, err)
	}
	conn.Close()
	r.log()
	if len(r.reached()) > 0 {
		t.Error(r.explain())
	}
}

// TestFixed: a destination with single addresses is there, and nobody is
// asked.
func TestFixed(t *testing.T) {
	const text = `
destinations:
  inside: {hosts: model.internal.test, addresses: [10.0.0.7], ports: [80]}
egress:
  - {from: client, to: inside, because: x, owner: y}
`
	r := newRig(t, text)
	r.names.answers["model.internal.test"] = []dns.Answer{at(evilAddr)}
	conn := r.proxy()
	if status, body, err := get(conn, bufio.NewReader(conn), "http://model.internal.test/", "model.internal.test"); status != 200 {
		t.Fatal(status, body, err)
	}
	if d := r.dials(); len(d) != 1 || d[0].String() != "10.0.0.7:80" || len(r.names.asked) != 0 {
		t.Error(d, r.names.asked)
	}
}

// TestReloadBringsBudgetsToWhatIsOpen: a tunnel that was opened without a budget has
// one when the policy does, and a wider one lets it go on.
func TestReloadBringsBudgetsToWhatIsOpen(t *testing.T) {
	r := registry.New()
	now := time.Now()
	force := func(n uint64, budget string) {
		in := intent(t, `
egress:
  - {from: client, to: "*.allowed.test", ports: [443], accept: any-protocol, because: x, owner: y`+budget+`}
`)
		r.Enforce(&registry.Force{Number: n, Digest: budget, Intent: in, Since: now})
	}
	force(1, "")
	l, err := budget.Open(budget.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := New(Options{Registry: r, Budgets: l, Sink: flow.NewLog(16)})
	s := &session{g: g, c: Client{Party: policy.Party{Kind: policy.WorkloadParty, Name: "client"}}}
	a := s.newAsk(outside.Target{Host: "api.allowed.test", Port: 443})
	if r := a.decide(true); r != nil {
		t.Fatal(r)
	}
	if r := a.register(netip.MustParseAddrPort("93.184.216.34:443")); r != nil {
		t.Fatal(r)
	}
	defer a.done()
	var m tunnel.Meter
	gate := newGate(a, &m)
	m.In.Add(1 << 20)
	if gate.Revoked() {
		t.Fatal("there is no budget, and it is over")
	}
	force(2, ", budget: {bytes: 300KiB/hour}")
	if gate.Revoked() {
		t.Error("what passed before counts in the new budget")
	}
	m.In.Add(300 << 10)
	if !gate.Revoked() {
		t.Error("the budget is used up, and it goes on")
	}
	if err := gate.end(tunnel.ErrRevoked); err != errBudget {
		t.Errorf("it ends with %v", err)
	}
}
