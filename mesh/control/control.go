package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/identity"
)

// Options are what control works with. All but Vault are needed.
type Options struct {
	Dir      string // of its state; nobody else uses it
	Platform string
	// TrustDomain is that of the platform's identities. A policy for another one is
	// refused: it would change every identity.
	TrustDomain string
	Bus         *Bus
	Roster      *Roster
	Vault       Vault // of the signing key; a Folder of Dir if nil
	// Authority signs certificates and tokens for nodes elsewhere.
	Authority identity.Issuer
	// Assigned reports whether the policy places a workload on a node.
	Assigned func(o *generation.Order, p *generation.Plan, node, workload string) bool
	// Load reads the policy: what was declared, the text that it was read from,
	// and what is wrong with it.
	Load func(context.Context) (*policy.Policy, []byte, source.Diagnostics, error)
	// Changed returns something that differs when the policy's files differ. It
	// is asked often.
	Changed func() (string, error)
	Now     func() time.Time
	Log     *slog.Logger
}

// Control makes the generations of a platform. There is one for each platform.
type Control struct {
	o       Options
	n       names
	key     ed25519.PrivateKey
	shelf   shelf
	history journal
	nodes   tracker
	replays replays
	started time.Time

	kick       chan struct{} // there is something to publish
	reconciled chan struct{} // closed when the bus was asked what it has

	mu sync.Mutex // guards the following
	// force is the newest generation, nil before the first. last is the newest
	// order known, which is that of force except after its plan was lost, or
	// where the bus has a newer one.
	force  *force
	last   *generation.Order
	intent *policy.Intent // of force, as declared
	// problems says what needs a person, by what it is about.
	problems problems

	watched watched // of the watching goroutine alone
}

// New opens control's state. What it finds there and cannot use is an error:
// beginning anew would make numbers that were used before.
func New(o Options) (*Control, error) {
	n, err := platformNames(o.Platform)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if o.Vault == nil {
		o.Vault = Folder(o.Dir)
	}
	key, err := openSigningKey(o.Vault)
	if err != nil {
		return nil, err
	}
	c := &Control{o: o, n: n, key: key, shelf: shelf{o.Dir, writeDurably}, history: journal{dir: o.Dir},
		started: o.Now(), kick: make(chan struct{}, 1), reconciled: make(chan struct{}), problems: problems{}}
	c.nodes.init()
	f, err := c.shelf.load(c.public())
	switch {
	case err != nil && f == nil:
		return nil, fmt.Errorf("control cannot go on from what it kept: %w", err)
	case err != nil:
		o.Log.Error("control goes on without the addresses of the last plan", "error", err)
		c.last = f.order
	case f != nil && f.order.Platform != o.Platform:
		return nil, fmt.Errorf("%s holds the state of platform %q, not %q: use another folder", o.Dir, f.order.Platform, o.Platform)
	case f != nil:
		c.force, c.last = f, f.order
	}
	if err := c.history.add(Event{At: o.Now(), Event: EventStart, Generation: c.Number()}); err != nil {
		// What is in force goes on also where there is no room for a line.
		c.noteProblem(aboutDisk, fmt.Errorf("the history of quarantines: %w", err))
	}
	c.keepReserve()
	return c, nil
}

func (c *Control) public() ed25519.PublicKey { return c.key.Public().(ed25519.PublicKey) }

// Number is that of the newest generation, 0 before the first.
func (c *Control) Number() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return 0
	}
	return c.last.Number
}

// current returns the newest generation, nil before the first.
func (c *Control) current() *force {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.force
}

// Run watches, publishes and answers until ctx ends.
func (c *Control) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.serve(ctx) })
	g.Go(func() error { return c.publish(ctx) })
	g.Go(func() error { return c.watch(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Status is how control is doing.
type Status struct {
	Generation  uint64              `json:"generation"`
	At          time.Time           `json:"at,omitzero"`
	Plan        string              `json:"plan,omitempty"`
	Problems    []string            `json:"problems,omitempty"`
	Nodes       []NodeStatus        `json:"nodes,omitempty"`
	Quarantines []policy.Quarantine `json:"quarantines,omitempty"`
}

// Status returns how control is doing.
func (c *Control) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.o.Now()
	s := Status{Nodes: c.nodes.status(c.o.Roster.Nodes(), now)}
	for _, about := range []string{aboutPolicy, aboutDisk, aboutBus} {
		if p := c.problems[about]; p != "" {
			s.Problems = append(s.Problems, p)
		}
	}
	if c.force == nil {
		return s
	}
	o := c.force.order
	s.Generation, s.At, s.Plan, s.Quarantines = o.Number, o.At, o.Plan, slices.Clone(o.Quarantines)
	if ahead := o.At.Sub(now); ahead > time.Minute {
		s.Problems = append(s.Problems, fmt.Sprintf("the clock is %s before generation %d was made: what expired until then stays expired; set the clock", ahead.Round(time.Second), o.Number))
	}
	return s
}

// What a problem is about.
const (
	aboutPolicy = "policy"
	aboutDisk   = "disk"
	aboutBus    = "bus"
)

// problem notes what needs a person, and nil that it does not any more.
func (c *Control) problem(about string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteProblem(about, err)
}

// noteProblem is problem for who holds c.mu.
func (c *Control) noteProblem(about string, err error) {
	if !c.problems.note(about, err) {
		return
	}
	if err != nil {
		c.o.Log.Error("control", "about", about, "error", err)
	} else {
		c.o.Log.Info("control", "about", about, "solved", true)
	}
}

// problems is what needs a person, by what it is about.
type problems map[string]string

// note keeps what is wrong about something, nil for nothing any more, and reports
// whether that is news.
func (p problems) note(about string, err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if p[about] == text {
		return false
	}
	p[about] = text
	return true
}
