package egress

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/budget"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
	"bulkhead/mesh/registry"
)

// Options are what a Gateway needs. Dial, Now, Log, Random and the times have
// defaults.
type Options struct {
	Node     string
	Registry *registry.Registry
	Resolver *dns.Recall
	// Sink takes the records; Ready says why they cannot be kept now, nil if
	// they can.
	Sink  flow.Sink
	Ready func() error
	// Budgets counts what is used; nil means that no budget is kept, and that what
	// has one is refused.
	Budgets *budget.Ledger
	// Dial connects to an address that was decided about.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Here reports whether an address is one that stands for every name: what is
	// captured there is decided by name alone.
	Here func(netip.Addr) bool
	// Self reports whether an address is the gateway's own.
	Self func(netip.AddrPort) bool
	// Authority signs for destinations that are inspected; nil refuses them.
	Authority *Authority
	// Roots are whom inspected destinations must be certified by, the system's if
	// nil.
	Roots *x509.CertPool
	// Via returns the workload that the gateway is in the policy in force, empty
	// for none.
	Via    func() string
	Now    func() time.Time
	Log    *slog.Logger
	Random io.Reader
	// HelloTime bounds how long the first bytes of a tunnel may take, HeadTime the
	// head of a request, IdleTime how long a client may keep a connection without
	// a request.
	HelloTime, HeadTime, IdleTime time.Duration
}

// The bounds of what opens. Nothing bounds how long it stays.
const (
	dialTime = 15 * time.Second
	// answerTime is how long an answer's head may take. Models think for long.
	answerTime = 15 * time.Minute
	// maxClient is how many connections one client may have.
	maxClient = 1 << 14
	// triedAddrs is how many addresses of a name are tried.
	triedAddrs = 4
)

// KeepAlive finds out that an end of a tunnel is gone. It asks seldom, and costs
// two system calls instead of four.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: -1, Count: -1}

// Client is who asks. The gateway believes it.
type Client struct {
	// Party is whom the policy knows it as; its Peer stands in records.
	Party policy.Party
	Peer  flow.Peer
	// Wire says how it travelled here: mtls, or plaintext.
	Wire  string
	Probe string
}

// Gateway lets requests out. Its methods may be called from any goroutine.
type Gateway struct {
	o        Options
	counters counters
	http2    *http.Server // parses; it listens nowhere

	draining atomic.Bool // changed under mu

	mu      sync.Mutex // guards the following
	open    map[*session]struct{}
	clients map[policy.Party]int
	idle    chan struct{} // closed when draining and nothing is open
}

// New returns a gateway that serves nobody yet.
func New(o Options) *Gateway {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Here == nil {
		o.Here = func(netip.Addr) bool { return false }
	}
	if o.Via == nil {
		o.Via = func() string { return "" }
	}
	if o.Self == nil {
		o.Self = func(netip.AddrPort) bool { return false }
	}
	if o.Dial == nil {
		d := net.Dialer{KeepAliveConfig: KeepAlive}
		o.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			// DialTCP would bind first: one port for each, whatever they connect to.
			return d.DialContext(ctx, "tcp", to.String())
		}
	}
	orDefault := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	orDefault(&o.HelloTime, 10*time.Second)
	orDefault(&o.HeadTime, 20*time.Second)
	orDefault(&o.IdleTime, 5*time.Minute)
	g := &Gateway{o: o, open: map[*session]struct{}{}, clients: map[policy.Party]int{}, idle: make(chan struct{})}
	g.http2 = g.http2Server()
	return g
}

// session is one connection of a client, or one stream of HTTP/2. Its goroutine
// owns it; life may be used by others.
type session struct {
	g    *Gateway
	c    Client
	ctx  context.Context // ends when it is severed
	stop context.CancelFunc
	life registry.Lifeline
	// busy is how much is going on in it; with nothing it only waits for requests.
	busy atomic.Int32
}

// begin admits a connection of a client, which is reset when the session is
// severed. It returns nil if the client may have no more.
func (g *Gateway) begin(ctx context.Context, c Client, reset func()) *session {
	s := &session{g: g, c: c}
	s.busy.Store(1)
	g.mu.Lock()
	if g.draining.Load() || g.clients[c.Party] >= maxClient {
		g.mu.Unlock()
		return nil
	}
	g.clients[c.Party]++
	g.open[s] = struct{}{}
	g.mu.Unlock()
	s.ctx, s.stop = context.WithCancel(ctx)
	s.life.Hold(s.stop)
	s.life.Hold(reset)
	return s
}

func (s *session) end() {
	s.stop()
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, s)
	if g.clients[s.c.Party]--; g.clients[s.c.Party] <= 0 {
		delete(g.clients, s.c.Party)
	}
	if g.draining.Load() && len(g.open) == 0 {
		select {
		case <-g.idle:
		default:
			close(g.idle)
		}
	}
}

// Drain takes no more connections and no more requests, and returns when what is
// open has ended. What only waits for requests ends at once. At the end of ctx it
// resets the rest.
func (g *Gateway) Drain(ctx context.Context) {
	g.mu.Lock()
	if !g.draining.Swap(true) && len(g.open) == 0 {
		close(g.idle)
	}
	for s := range g.open {
		if s.busy.Load() == 0 {
			go s.life.Sever(errDraining.Error())
		}
	}
	g.mu.Unlock()
	select {
	case <-g.idle:
		return
	case <-ctx.Done():
	}
	g.mu.Lock()
	for s := range g.open {
		go s.life.Sever(errDraining.Error())
	}
	g.mu.Unlock()
	<-g.idle
}

// Draining reports whether the gateway takes no more.
func (g *Gateway) Draining() bool { return g.draining.Load() }

// refusal is why something does not pass. It says what the client is told.
type refusal struct {
	status  int
	code    string // of the error in the answer: denied, malformed, unavailable
	says    string
	rule    string
	number  uint64 // of the generation
	denied  bool   // by the policy, or by a rule that is in no policy
	unasked bool   // not even a decision: it is counted and not recorded
}

func (r *refusal) Error() string { return r.says }

func (g *Gateway) generation() uint64 {
	if f := g.o.Registry.Force(); f != nil {
		return f.Number
	}
	return 0
}

// refuse is a refusal for a reason that is in no policy.
func (g *Gateway) refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, code: "denied", says: fmt.Sprintf(format, args...), denied: true, number: g.generation()}
}

// refused is a refusal by the policy.
func refused(v registry.Verdict) *refusal {
	return &refusal{status: 403, code: "denied", says: v.Why(), rule: registry.RuleOf(v.Nearest), number: v.Generation, denied: true}
}

// unavailable is something that the policy allows and that did not come about.
func (g *Gateway) unavailable(status int, err error) *refusal {
	return &refusal{status: status, code: "unavailable", says: err.Error(), number: g.generation()}
}

// ask is one request for something outside, from the moment it is known until
// its last record.
type ask struct {
	s      *session
	id     string
	began  time.Time
	target outside.Target
	// request is set where the request is read; otherwise the whole connection is
	// meant.
	request *netset.Request
	// endpoint is set where it leads to a private endpoint and not outside.
	endpoint *policy.Endpoint

	question policy.Question
	verdict  registry.Verdict
	entry    *registry.Entry
	use      *budget.Use
	charged  *policy.Permission // the one whose budget it counts in
	answer   dns.Answer
	addr     netip.AddrPort // where it led
	marks    []string       // what enforcing would have refused, in report mode
}

// newAsk begins a request.
func (s *session) newAsk(t outside.Target) *ask {
	return &ask{s: s, began: s.g.o.Now(), target: t}
}

func newID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// decide is the first step: whether the policy lets the source go there at all.
// It returns nil if it does.
func (a *ask) decide(inspectable bool) *refusal {
	g := a.s.g
	var err error
	if a.id, err = newID(g.o.Random); err != nil {
		return g.unavailable(500, fmt.Errorf("it has no id: %w", err))
	}
	if err := g.o.Ready(); err != nil {
		r := g.unavailable(503, fmt.Errorf("nothing passes while it cannot be recorded: %w", err))
		r.unasked = true
		return r
	}
	if g.Draining() {
		return g.unavailable(503, errDraining)
	}
	a.question = policy.Question{From: a.s.c.Party, To: policy.Outside, Protocol: netset.TCP, Port: a.target.Port,
		Host: a.target.Host, Addr: a.target.Addr, Via: g.o.Via(), Request: a.request, Whole: a.request == nil}
	if a.endpoint != nil {
		a.question.To, a.question.Host, a.question.Addr = partyOf(a.endpoint), "", netip.Addr{}
	}
	a.verdict = g.o.Registry.Decide(a.question)
	if a.permission() == nil && a.request == nil && inspectable {
		// Perhaps some of its requests are allowed, and somebody reads them.
		some := a.question
		some.Whole = false
		switch v := g.o.Registry.Decide(some); {
		case !v.Allowed || v.Permission == nil:
		case v.Permission.Inspect:
			a.question, a.verdict = some, v
		case !a.verdict.Allowed:
			return unread(v)
		}
	}
	if !a.verdict.Allowed {
		return refused(a.verdict)
	}
	return nil
}

// unread is a refusal of a connection of which only some requests are allowed.
func unread(v registry.Verdict) *refusal {
	r := refused(v)
	r.rule = registry.RuleOf(v.Permission)
	r.says = fmt.Sprintf("%s allows only %s, and nobody can read the requests of this connection", v.Permission.Name, v.Permission.Traffic)
	return r
}

var errDraining = errors.New("the gateway is going down")

// permission is the one that allows, nil in a relaxed mode.
func (a *ask) permission() *policy.Permission { return a.verdict.Permission }

// inspects reports whether the gateway ends TLS for it.
func (a *ask) inspects() bool { return a.permission() != nil && a.permission().Inspect }

// resolve is the second step: it resolves the name, and has each address decided.
// What it returns may be dialled, in order.
func (a *ask) resolve(ctx context.Context) ([]netip.AddrPort, *refusal) {
	g := a.s.g
	if list := a.declaredAt(); len(list) > 0 {
		return a.own(list)
	}
	if a.target.Host == "" && a.endpoint != nil {
		return nil, g.unavailable(502, fmt.Errorf("endpoint %s declares neither hosts nor an address", a.endpoint.Name.Value))
	}
	if a.target.Host == "" {
		// By an address: it was decided already.
		return a.own([]netip.AddrPort{netip.AddrPortFrom(a.target.Addr, a.target.Port)})
	}
	var err error
	if p := a.permission(); p != nil && len(p.Fixed) > 0 {
		a.answer = dns.Answer{Name: a.target.Host, Addrs: p.Fixed}
	} else {
		a.answer, err = g.o.Resolver.Lookup(ctx, a.target.Host)
	}
	switch {
	case errors.Is(err, dns.ErrNoSuchName), errors.Is(err, dns.ErrNoAddress):
		return nil, g.unavailable(502, fmt.Errorf("%s has no address: there is no such server", a.target.Host))
	case err != nil:
		return nil, g.unavailable(504, fmt.Errorf("%s cannot be resolved: %w", a.target.Host, err))
	}
	if r := a.checkAliases(); r != nil {
		return nil, r
	}
	var usable []netip.AddrPort
	var why *refusal
	for _, addr := range a.answer.Addrs {
		q := a.question
		q.Addr = addr
		v := g.o.Registry.Decide(q)
		if !v.Allowed {
			why = refused(v)
			if v.Relaxed == "" && a.verdict.Relaxed != "" {
				why.says = fmt.Sprintf("%s is at %s (%s), which nothing declares", a.target.Host, addr, netset.Special(addr))
			}
			a.addr = netip.AddrPortFrom(addr, a.target.Port)
			continue
		}
		usable = append(usable, netip.AddrPortFrom(addr, a.target.Port))
	}
	if len(usable) == 0 {
		if why == nil {
			why = g.unavailable(502, fmt.Errorf("%s has no address", a.target.Host))
		}
		return nil, why
	}
	a.addr = netip.AddrPort{}
	return a.own(usable)
}

// own refuses the gateway's own addresses, which would lead in a circle.
func (a *ask) own(list []netip.AddrPort) ([]netip.AddrPort, *refusal) {
	for _, addr := range list {
		if a.s.g.o.Self(addr) {
			a.addr = addr
			return nil, a.s.g.refuse(403, "%s is the gateway itself", addr)
		}
	}
	return list, nil
}

// checkAliases refuses a name that is an alias of one which no permission names,
// where the policy wants it.
func (a *ask) checkAliases() *refusal {
	g := a.s.g
	f := g.o.Registry.Force()
	if f == nil || f.Intent.Policy.Gateway == nil || f.Intent.Policy.Gateway.Aliases.Value != policy.AliasesRefuse {
		return nil
	}
	for _, alias := range a.answer.Aliases {
		q := a.question
		q.Host = alias
		if v := g.o.Registry.Decide(q); !v.Allowed {
			return g.refuse(403, "%s is an alias of %s, which no permission names", a.target.Host, alias)
		}
	}
	return nil
}

// connect is the third step: it registers what was decided with the very address,
// and dials it. The connection is cut when the permission ends.
func (a *ask) connect(ctx context.Context, addrs []netip.AddrPort) (net.Conn, *refusal) {
	g := a.s.g
	var last *refusal
	for _, addr := range addrs[:min(len(addrs), triedAddrs)] {
		if r := a.register(addr); r != nil {
			last = r
			continue
		}
		conn, err := a.dial(ctx, addr)
		if err == nil {
			return conn, nil
		}
		last = g.unavailable(502, fmt.Errorf("%s does not answer at %s: %w", a.place(), addr, plainDial(err)))
		if a.entry.Revoked() {
			return nil, a.revoked()
		}
		a.entry.Done()
	}
	return nil, last
}

// register registers the question with its address, decides it again and counts it:
// with its address another permission may hold it than by its name alone.
func (a *ask) register(addr netip.AddrPort) *refusal {
	q := a.question
	q.Addr = addr.Addr()
	a.entry, a.addr = a.s.g.o.Registry.Open(q), addr
	v := a.entry.Decide()
	if !v.Allowed {
		a.entry.Done()
		return refused(v)
	}
	if p := v.Permission; p != nil && !p.Inspect && q.Request == nil && !q.Whole {
		a.entry.Done()
		return unread(v)
	}
	a.question, a.verdict = q, v
	r := a.charge()
	if r != nil {
		a.entry.Done()
	}
	return r
}

func (a *ask) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	a.entry.OnRevoke(func(registry.Reason) { cancel() })
	return a.s.g.reach(ctx, addr)
}

// reach connects to an address, through the upstream proxy if there is one.
func (g *Gateway) reach(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if up := g.upstream(); up.Port != 0 {
		return g.throughUpstream(ctx, up, addr)
	}
	return g.o.Dial(ctx, addr)
}

// plainDial says what an error of dialling is, without the address.
func plainDial(err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("there was no answer in time")
	case errors.As(err, &op):
		return op.Err
	}
	return err
}

// place names where it leads, for people.
func (a *ask) place() string {
	if a.endpoint != nil && a.target.Host == "" {
		return "endpoint " + a.endpoint.Name.Value
	}
	if a.target.Host != "" {
		return a.target.Host
	}
	return a.target.Addr.String()
}

// revoked is why the policy took it back.
func (a *ask) revoked() *refusal {
	r := a.entry.Reason()
	return &refusal{status: 403, code: "denied", says: r.Says, rule: r.Rule, number: r.Generation, denied: true}
}

// charge counts it in the budget of its permission. It returns why there is none
// left. Of a connection that is inspected the requests count, and not itself.
func (a *ask) charge() *refusal {
	g, p := a.s.g, a.permission()
	if a.use != nil && a.charged == p {
		return nil
	}
	if a.use != nil {
		a.use.End()
		a.use = nil
	}
	if p == nil || p.Budget.IsZero() || a.request == nil && p.Inspect {
		return nil
	}
	if g.o.Budgets == nil {
		return g.refuse(503, "%s has a budget, and nothing counts here", p.Name)
	}
	use, err := g.o.Budgets.Begin(a.budgetOf(p), p.Budget)
	if err != nil {
		r := g.refuse(429, "%v", err)
		r.rule = registry.RuleOf(p)
		return r
	}
	a.use, a.charged = use, p
	return nil
}

// budgetOf names the budget of a permission.
func (a *ask) budgetOf(p *policy.Permission) budget.Key {
	return budget.Key{From: a.s.c.Party.Name, To: p.To.Name}
}

// done forgets it.
func (a *ask) done() {
	if a.use != nil {
		a.use.End()
	}
	if a.entry != nil {
		a.entry.Done()
	}
}

// mark notes what enforcing would refuse. It reports whether it may pass all the
// same, as in a relaxed mode.
func (a *ask) mark(format string, args ...any) bool {
	if a.verdict.Relaxed == "" {
		return false
	}
	a.marks = append(a.marks, fmt.Sprintf(format, args...))
	return true
}
