package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bulkhead/mesh/generation"
)

// checkEvery is how often control looks whether the bus still has what it should.
const checkEvery = 2 * time.Second

// publisher carries the newest generation to the bus. It is of one goroutine.
type publisher struct {
	c  *Control
	kv jetstream.KeyValue // nil if not known
	// stored are the digests of the plans that the bus has; nil if not known.
	stored map[string]bool
}

// publish keeps the bus at the newest generation.
func (c *Control) publish(ctx context.Context) error {
	p := &publisher{c: c}
	connected := c.o.Bus.connections(ctx)
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	asked := sync.OnceFunc(func() { close(c.reconciled) })
	for {
		err := p.reconcile(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			asked()
		} else {
			err = fmt.Errorf("the bus does not have the newest generation: %w; nodes keep what they have", err)
			p.kv, p.stored = nil, nil
			c.shout(c.current())
		}
		c.problem(aboutBus, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.kick:
		case <-connected:
			p.kv, p.stored = nil, nil
		case <-tick.C:
		}
	}
}

// shout tells an order to the nodes that listen, without waiting for the bus to
// keep it: a quarantine gets through to them on a bus whose disk is full.
func (c *Control) shout(f *force) {
	if f != nil {
		// An error says that the bus is away, which is being reported.
		_ = c.o.Bus.nc.Publish(c.n.orderSubject(), f.sealed)
	}
}

// reconcile looks at what the bus has and puts there what it should have.
func (p *publisher) reconcile(ctx context.Context) error {
	if p.kv == nil {
		kv, err := p.c.o.Bus.openBucket(ctx)
		if err == nil {
			err = p.c.o.Bus.openFlows(ctx)
		}
		if err != nil {
			return err
		}
		p.kv = kv
	}
	text, err := p.c.o.Bus.get(ctx, p.c.n.orderKey)
	if err != nil && !errors.Is(err, errNothing) {
		return err
	}
	f := p.c.current()
	if f != nil && bytes.Equal(text, f.sealed) && p.stored != nil {
		return nil
	}
	// Whatever is there and is not signed by us is overwritten.
	if remote, err := generation.Open(text, p.c.public()); err == nil && (f == nil || remote.Number >= f.order.Number && !bytes.Equal(text, f.sealed)) {
		if err := p.c.overtaken(remote); err != nil {
			return err
		}
		f = p.c.current()
	}
	return p.put(ctx, f)
}

// put stores a generation: the plan first, so that whoever hears of the order
// finds it.
func (p *publisher) put(ctx context.Context, f *force) error {
	if f == nil {
		return nil
	}
	digest := f.order.Plan
	if p.stored == nil {
		stored, err := p.plans(ctx)
		if err != nil {
			return err
		}
		delete(stored, digest) // it may be there in part
		p.stored = stored
	}
	if !p.stored[digest] {
		if err := p.c.o.Bus.putPlan(ctx, p.kv, digest, f.packed); err != nil {
			return err
		}
		p.stored[digest] = true
	}
	if _, err := p.kv.Put(ctx, p.c.n.orderKey, f.sealed); err != nil {
		return fmt.Errorf("generation %d: %w", f.order.Number, err)
	}
	var old []string
	for d := range p.stored {
		if d != digest {
			old = append(old, d)
		}
	}
	if err := p.c.o.Bus.dropPlans(ctx, old); err != nil {
		p.c.o.Log.Warn("old plans stay on the bus", "error", err)
	}
	p.stored = map[string]bool{digest: true}
	return nil
}

// plans returns which plans the bus has.
func (p *publisher) plans(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	list, err := p.kv.ListKeysFiltered(ctx, "plan.>")
	if err != nil {
		return nil, err
	}
	for key := range list.Keys() {
		if parts := strings.Split(key, "."); len(parts) == 3 {
			found[parts[1]] = true
		}
	}
	return found, nil
}
