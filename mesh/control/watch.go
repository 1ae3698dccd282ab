package control

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/generation"
)

const (
	// pollEvery is how often the policy's files are looked at.
	pollEvery = 100 * time.Millisecond
	// What failed for lack of a file or of room is tried again after retryAfter.
	retryAfter = 2 * time.Second
	// At the start control waits this long for the bus, to learn whether its own
	// disk is older.
	reconcileWait = 2 * time.Second
)

// watched is what the watching goroutine knows.
type watched struct {
	fingerprint string
	loaded      bool      // the fingerprint's policy was looked at
	text        string    // digest of the text in force
	retry       time.Time // when to try again what failed; zero for never
	expiryOf    uint64    // the generation that expiry is of
	expiry      time.Time
}

// watch makes a generation when the policy changed or a permission ended.
func (c *Control) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.reconciled:
	case <-time.After(reconcileWait):
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		c.look(ctx)
		if n%100 == 0 {
			c.keepReserve()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look looks once.
func (c *Control) look(ctx context.Context) {
	w, now := &c.watched, c.o.Now()
	again := !w.retry.IsZero() && !now.Before(w.retry)
	fingerprint, err := c.o.Changed()
	switch {
	case err != nil:
		c.problem(aboutPolicy, fmt.Errorf("the policy cannot be looked at: %w; the last one stays in force", err))
		w.loaded = false
	case w.loaded && fingerprint == w.fingerprint && !again:
	default:
		w.fingerprint, w.loaded, w.retry = fingerprint, true, time.Time{}
		err := c.load(ctx)
		var bad *badPolicy
		if err != nil && !errors.As(err, &bad) {
			w.retry = now.Add(retryAfter)
		}
		if ctx.Err() == nil {
			c.problem(aboutPolicy, err)
		}
	}
	c.expire(now)
}

// expire makes a generation when a permission ended.
func (c *Control) expire(now time.Time) {
	f := c.current()
	if f == nil {
		return
	}
	w := &c.watched
	if w.expiryOf != f.order.Number {
		w.expiryOf, w.expiry = f.order.Number, nextExpiry(f, now)
	}
	if w.expiry.IsZero() || now.Before(w.expiry) {
		return
	}
	c.mu.Lock()
	_, err := c.issue(nil, c.quarantines())
	c.mu.Unlock()
	if err != nil {
		w.expiry = now.Add(retryAfter)
	}
}

// badPolicy is a policy that is refused until it changes.
type badPolicy struct{ says string }

func (b *badPolicy) Error() string {
	return b.says + "; the last good policy stays in force"
}

func refused(format string, args ...any) error { return &badPolicy{fmt.Sprintf(format, args...)} }

// load reads the policy and puts it in force unless something is wrong with it.
func (c *Control) load(ctx context.Context) error {
	p, text, ds, err := c.o.Load(ctx)
	if err != nil {
		return fmt.Errorf("the policy cannot be read: %w; the last good one stays in force", err)
	}
	if ds.HasErrors() || p == nil {
		return refused("the policy has errors: %s", brief(ds))
	}
	w, f := &c.watched, c.current()
	digest := generation.Digest(text)
	if f != nil && digest == w.text {
		return nil
	}
	if p.Platform.Value != c.o.Platform {
		return refused("the policy is of platform %q, but this is %q: start another one for it", p.Platform.Value, c.o.Platform)
	}
	if t := generation.TrustDomain(p); t != c.o.TrustDomain {
		return refused("the policy is of trust domain %s, but this platform's identities are of %s: remove the platform's state before it is started again", t, c.o.TrustDomain)
	}
	if f != nil && w.text == "" && samePolicy(f.plan.Policy, p) {
		w.text = digest
		return c.nodesChanged()
	}
	next, err := c.prepare(p, f)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.issue(next, c.quarantines()); err != nil {
		return err
	}
	w.text = digest
	return nil
}

// prepare checks a policy and packs it, both at once since both take long.
func (c *Control) prepare(p *policy.Policy, before *force) (*planned, error) {
	var known generation.Addresses
	if before != nil {
		known = before.plan.Addresses
	}
	addresses, err := generation.Allocate(p, known)
	if err != nil {
		return nil, refused("the policy does not fit: %v", err)
	}
	next := &planned{plan: &generation.Plan{Policy: p, Addresses: addresses}}
	var g errgroup.Group
	g.Go(func() error {
		in, ds := policy.Resolve(p, c.o.Now())
		if ds.HasErrors() {
			return refused("the policy has errors: %s", brief(ds))
		}
		if failures := in.RunTests(); len(failures) > 0 {
			return refused("the policy fails %d of its tests: %s: %s", len(failures), failures[0].Pos, failures[0].Says)
		}
		next.intent = in
		return nil
	})
	g.Go(func() (err error) {
		next.packed, next.digest, err = next.plan.Pack()
		return err
	})
	return next, g.Wait()
}

// brief shows the first errors of many.
func brief(ds source.Diagnostics) string {
	const most = 5
	var lines []string
	n := 0
	for _, d := range ds {
		if d.Severity != source.Error {
			continue
		}
		if n++; n <= most {
			lines = append(lines, d.String())
		}
	}
	if n > most {
		lines = append(lines, fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(lines, "; ")
}

// samePolicy reports whether two policies are equal, as they are written down:
// what travelled does not tell an empty list from none.
func samePolicy(a, b *policy.Policy) bool {
	var x, y bytes.Buffer
	return gob.NewEncoder(&x).Encode(a) == nil && gob.NewEncoder(&y).Encode(b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// nodesChanged makes a generation if the roster is not that of the newest.
func (c *Control) nodesChanged() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.force == nil || slices.Equal(c.force.order.Nodes, c.o.Roster.Nodes()) {
		return nil
	}
	_, err := c.issue(nil, c.quarantines())
	return err
}
