package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"bulkhead/mesh/generation"
)

// ClientOptions are what a node's end of control works with.
type ClientOptions struct {
	Bus        *Bus
	Credential *Credential
	Dir        string     // of the last good generation; nobody else uses it
	Open       func() int // how many connections are open here
	Now        func() time.Time
	Log        *slog.Logger
}

// Applied is what putting a generation in force did.
type Applied struct{ Closed, Kept int }

// Client takes orders for a node, and asks control to sign for its workloads. It
// implements identity.Issuer.
type Client struct {
	o     ClientOptions
	n     names
	node  string // as part of a subject
	key   ed25519.PrivateKey
	shelf shelf
	box   box

	mu sync.Mutex // guards the following
	// last is the newest order that was taken; nothing older is taken any more.
	last *generation.Order
	// force is what is in force, nil if nothing is.
	force    *force
	report   report
	problems problems
	logged   map[string]time.Time // when a refusal was logged last
}

// Client problems are about aboutBus, aboutDisk or aboutOrder.
const aboutOrder = "order"

// NewClient returns a client. It enforces nothing until Run.
func NewClient(o ClientOptions) (*Client, error) {
	n, err := platformNames(o.Credential.Platform)
	if err != nil {
		return nil, err
	}
	node, err := token(o.Credential.Node)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	c := &Client{o: o, n: n, node: node, key: o.Credential.key(), shelf: shelf{o.Dir, writeDurably},
		problems: problems{}, logged: map[string]time.Time{}}
	c.box.init()
	return c, nil
}

// Run puts the last good generation in force, and then each newer one, until ctx
// ends. Apply is called by one goroutine. It may be called again with what is in
// force, when a permission ended.
func (c *Client) Run(ctx context.Context, apply func(*generation.Order, *generation.Plan) (Applied, error)) error {
	e := &enforcer{c: c, apply: apply}
	e.restore(ctx)
	g, ctx := errgroup.WithContext(ctx)
	sub, err := c.o.Bus.nc.Subscribe(c.n.orderSubject(), func(m *nats.Msg) { c.take(m.Data) })
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	g.Go(func() error { return e.run(ctx) })
	g.Go(func() error { return c.fetch(ctx) })
	g.Go(func() error { return c.beat(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// take looks at an order that arrived, from wherever, and keeps it to be put in
// force if it is by control, for this platform and newer.
func (c *Client) take(text []byte) {
	c.mu.Lock()
	same := c.force != nil && bytes.Equal(text, c.force.sealed)
	c.mu.Unlock()
	if same {
		return
	}
	order, err := c.open(text)
	if err == nil {
		err = c.follows(order)
	}
	if err != nil {
		c.refuse(err)
		return
	}
	c.box.put(&force{sealed: bytes.Clone(text), order: order})
}

// open returns an order if control signed it for this platform.
func (c *Client) open(text []byte) (*generation.Order, error) {
	order, err := generation.Open(text, c.o.Credential.Control)
	switch cred := c.o.Credential; {
	case err != nil:
		return nil, err
	case order.Platform != cred.Platform:
		return nil, fmt.Errorf("generation %d is of platform %q, not %q", order.Number, order.Platform, cred.Platform)
	case order.TrustDomain != cred.TrustDomain:
		return nil, fmt.Errorf("generation %d is of trust domain %q, not %q", order.Number, order.TrustDomain, cred.TrustDomain)
	case order.Number < cred.After:
		return nil, fmt.Errorf("generation %d is older than %d, which was in force when this node was let in", order.Number, cred.After)
	case !isDigest(order.Plan):
		return nil, fmt.Errorf("generation %d names the plan %.80q, which is no digest", order.Number, order.Plan)
	}
	return order, nil
}

// follows returns an error if an order must not replace the newest that was taken.
func (c *Client) follows(o *generation.Order) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return o.Follows(c.last)
}

// refuse counts an order that is not taken. The same reason is logged once a
// minute.
func (c *Client) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Refused++
	now := c.o.Now()
	text := err.Error()
	if last, ok := c.logged[text]; ok && now.Sub(last).Abs() < time.Minute {
		return
	}
	if len(c.logged) > 1000 {
		clear(c.logged)
	}
	c.logged[text] = now
	c.o.Log.Error("an order is refused", "error", err, "refused", c.report.Refused)
}

// fetch reads the order from the bus when it comes back, and now and then: what
// was said while nobody listened is heard too.
func (c *Client) fetch(ctx context.Context) error {
	connected := c.o.Bus.connections(ctx)
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		text, err := c.o.Bus.get(ctx, c.n.orderKey)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			c.problem(aboutBus, nil)
			c.take(text)
		case errors.Is(err, errNothing) && first: // control may be starting beside it
		case errors.Is(err, errNothing):
			c.problem(aboutBus, errors.New("control has not published a generation"))
		default:
			c.problem(aboutBus, fmt.Errorf("the bus is away: %w; what is in force stays in force", err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-connected:
		case <-tick.C:
		}
	}
}

// beat tells control every second how the node is.
func (c *Client) beat(ctx context.Context) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		c.tell()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// tell reports now. What does not arrive is told again a second later.
func (c *Client) tell() {
	if !c.o.Bus.Connected() {
		return
	}
	c.mu.Lock()
	r := c.report
	for _, about := range []string{aboutOrder, aboutDisk} {
		if p := c.problems[about]; p != "" {
			r.Problem = p
			break
		}
	}
	c.mu.Unlock()
	if c.o.Open != nil {
		r.Open = c.o.Open()
	}
	body, err := json.Marshal(r)
	if err != nil {
		return
	}
	m := c.message(kindReport, body)
	text, err := sign(messageContext, m, c.key)
	if err != nil {
		return
	}
	_ = c.o.Bus.nc.Publish(c.n.reports+c.node, text)
}

func (c *Client) message(kind string, body []byte) message {
	return message{Platform: c.o.Credential.Platform, Node: c.o.Credential.Node, Kind: kind,
		At: c.o.Now().UTC(), Nonce: newNonce(), Body: body}
}

// ClientStatus is how a node's end of control is doing.
type ClientStatus struct {
	Generation uint64   `json:"generation"` // in force
	Refused    uint64   `json:"refused,omitempty"`
	Problems   []string `json:"problems,omitempty"`
}

// Status returns how the client is doing.
func (c *Client) Status() ClientStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := ClientStatus{Generation: c.report.Number, Refused: c.report.Refused}
	for _, about := range []string{aboutOrder, aboutDisk, aboutBus} {
		if p := c.problems[about]; p != "" {
			s.Problems = append(s.Problems, p)
		}
	}
	return s
}

// problem notes what needs a person, and nil that it does not any more.
func (c *Client) problem(about string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.problems.note(about, err) && err != nil {
		c.o.Log.Warn("node", "about", about, "error", err)
	}
}
