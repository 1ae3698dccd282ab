package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/generation"
)

// box holds the newest order that is to be put in force.
type box struct {
	arrived chan struct{} // has a value when there is one

	mu    sync.Mutex // guards the following
	f     *force
	newer chan struct{} // closed at the next put, and replaced
}

func (b *box) init() { b.arrived, b.newer = make(chan struct{}, 1), make(chan struct{}) }

// put keeps f unless there is a newer one.
func (b *box) put(f *force) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.f != nil && f.order.Number <= b.f.order.Number {
		return
	}
	b.f = f
	close(b.newer)
	b.newer = make(chan struct{})
	select {
	case b.arrived <- struct{}{}:
	default:
	}
}

// get takes what is there, nil for nothing, and returns a channel that is closed
// when something newer comes.
func (b *box) get() (*force, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.f
	b.f = nil
	return f, b.newer
}

// upcoming returns the channel that is closed at the next put.
func (b *box) upcoming() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newer
}

// enforcer puts orders in force. It is of one goroutine.
type enforcer struct {
	c     *Client
	apply func(*generation.Order, *generation.Plan) (Applied, error)

	// want is what could not be put in force yet, for want of its plan or because
	// apply failed.
	want *force
	// pause is when to try again.
	pause time.Duration
	// unsaved says that what is in force is not on disk.
	unsaved bool
	// expiry is when a permission of what is in force ends; zero for never.
	expiry time.Time
}

// restore puts the last good generation in force.
func (e *enforcer) restore(ctx context.Context) {
	c := e.c
	f, err := c.shelf.load(c.o.Credential.Control)
	if err != nil {
		c.problem(aboutOrder, fmt.Errorf("the last good generation cannot be used: %w", err))
	}
	if f == nil {
		return
	}
	if _, err := c.open(f.sealed); err != nil {
		c.refuse(err) // of another platform; nothing is in force
		return
	}
	c.mu.Lock()
	c.last = f.order
	c.mu.Unlock()
	e.enforce(ctx, f, nil)
}

const (
	// retryPlan is when to ask for a plan again that nobody had, retryApply when to
	// try again what could not be put in force.
	retryPlan  = 200 * time.Millisecond
	retryApply = time.Second
	tidyEvery  = time.Second
)

func (e *enforcer) run(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		var retry <-chan time.Time
		if e.want != nil {
			retry = time.After(e.pause)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.c.box.arrived:
			if f, newer := e.c.box.get(); f != nil {
				e.enforce(ctx, f, newer)
			}
		case <-retry:
			e.enforce(ctx, e.want, e.c.box.upcoming())
		case <-tick.C:
			e.tidy()
		}
	}
}

// enforce puts f in force. What is in force stays so when that fails, and f is
// tried again unless something newer comes.
func (e *enforcer) enforce(ctx context.Context, f *force, newer <-chan struct{}) {
	c := e.c
	if err := c.follows(f.order); err != nil {
		e.want = nil
		c.refuse(err)
		return
	}
	if c.inForce(f.order) {
		e.want = nil
		return
	}
	e.want, e.pause = f, retryPlan
	if err := e.needPlan(ctx, f, newer); err != nil {
		if ctx.Err() == nil {
			c.problem(aboutOrder, fmt.Errorf("generation %d cannot be put in force yet: %w", f.order.Number, err))
		}
		return
	}
	// It is on disk first, so that a node which starts again never goes back.
	e.keep(f)
	if !e.put(f) {
		e.pause = retryApply
		return
	}
	e.want = nil
	c.problem(aboutOrder, nil)
	c.tell()
}

// inForce reports whether an order is in force.
func (c *Client) inForce(o *generation.Order) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.force != nil && c.force.order.Number == o.Number
}

// needPlan finds the plan of an order: in force already, on disk, on the bus, or
// at control. Who is quarantined does not wait for what is not here.
func (e *enforcer) needPlan(ctx context.Context, f *force, newer <-chan struct{}) (err error) {
	if f.plan != nil {
		return nil
	}
	e.c.mu.Lock()
	now := e.c.force
	e.c.mu.Unlock()
	if now != nil && now.order.Plan == f.order.Plan {
		f.plan, f.packed = now.plan, now.packed
		return nil
	}
	if f.packed, f.plan, err = e.c.shelf.plan(f.order.Plan); err == nil {
		return nil
	}
	if now != nil {
		e.hold(now, f.order.Quarantines)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-newer: // an order that needs no plan must not wait for one that does
			cancel()
		case <-ctx.Done():
		}
	}()
	if f.packed, f.plan, err = e.c.o.Bus.getPlan(ctx, f.order.Plan); err == nil {
		return nil
	}
	var asked error
	f.packed, f.plan, asked = joinPlan(f.order.Plan, func(part int) ([]byte, error) {
		return e.c.ask(ctx, kindPlan, planBody{Digest: f.order.Plan, Part: part})
	})
	if asked == nil {
		return nil
	}
	return fmt.Errorf("the bus: %w; control: %w", err, asked)
}

// hold adds quarantines to what is in force, under its number: it confirms nothing
// else of the order that they are from.
func (e *enforcer) hold(now *force, quarantines []policy.Quarantine) {
	more := slices.DeleteFunc(slices.Clone(quarantines), func(q policy.Quarantine) bool {
		return slices.ContainsFunc(now.order.Quarantines, func(o policy.Quarantine) bool { return o.Target == q.Target && o.KeepEvidence == q.KeepEvidence })
	})
	if len(more) == 0 {
		return
	}
	order, f := *now.order, *now
	order.Quarantines = slices.Concat(order.Quarantines, more)
	f.order = &order
	e.put(&f)
}

// keep writes f to disk. Where that fails it is enforced all the same: to stay
// with the older one would be worse.
func (e *enforcer) keep(f *force) {
	c := e.c
	c.mu.Lock()
	c.last = f.order
	c.mu.Unlock()
	err := c.shelf.save(f)
	e.unsaved = err != nil
	if err != nil {
		err = fmt.Errorf("generation %d is in force but not on disk: %w; after a restart the node begins with an older one", f.order.Number, err)
	}
	c.problem(aboutDisk, err)
}

// put calls apply, and reports what it did.
func (e *enforcer) put(f *force) bool {
	c := e.c
	began := time.Now()
	applied, err := e.apply(f.order, f.plan)
	if err != nil {
		err = fmt.Errorf("generation %d cannot be put in force: %w", f.order.Number, err)
		c.problem(aboutOrder, err)
		c.mu.Lock()
		c.report.Stuck = f.order.Number
		c.mu.Unlock()
		c.tell()
		return false
	}
	c.mu.Lock()
	c.force = f
	c.report.Number, c.report.Stuck = f.order.Number, 0
	c.report.Closed, c.report.Kept, c.report.Took = applied.Closed, applied.Kept, time.Since(began)
	c.mu.Unlock()
	e.expiry = nextExpiry(f, c.o.Now())
	return true
}

// tidy does what time asks for: a permission that ended ends here also while
// control is away, and what could not be written is written.
func (e *enforcer) tidy() {
	c := e.c
	c.mu.Lock()
	f := c.force
	c.mu.Unlock()
	if f == nil {
		return
	}
	if e.unsaved {
		e.keep(f)
	}
	if !e.expiry.IsZero() && !c.o.Now().Before(e.expiry) && e.put(f) {
		c.tell()
	}
}
