package control

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/generation"
)

// planned is a plan that is ready to go into force.
type planned struct {
	plan   *generation.Plan
	packed []byte
	digest string
	intent *policy.Intent // as declared
}

// maxSealed bounds an order, so that it fits into one message of any bus.
const maxSealed = 512 << 10

// issue makes the next generation: with another plan, or with the same if next is
// nil. It is on disk, and in force as far as control is concerned, when issue
// returns; nobody heard of it before. The caller holds c.mu.
func (c *Control) issue(next *planned, quarantines []policy.Quarantine) (*force, error) {
	if next == nil {
		if c.force == nil {
			return nil, fmt.Errorf("platform %q has no generation yet: its policy was not accepted so far", c.o.Platform)
		}
		f := c.force
		next = &planned{plan: f.plan, packed: f.packed, digest: f.order.Plan, intent: c.intent}
	}
	o := &generation.Order{Number: 1, Platform: c.o.Platform, TrustDomain: c.o.TrustDomain,
		At: c.o.Now().UTC().Round(0), Plan: next.digest, Quarantines: quarantines, Nodes: c.o.Roster.Nodes()}
	if c.last != nil {
		o.Number = c.last.Number + 1
		if o.At.Before(c.last.At) {
			o.At = c.last.At
		}
	}
	sealed, err := generation.Seal(o, c.key)
	if err != nil {
		return nil, err
	}
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("generation %d has %d nodes and %d quarantines, which is too long: quarantine whole zones", o.Number, len(o.Nodes), len(quarantines))
	}
	f := &force{sealed: sealed, order: o, plan: next.plan, packed: next.packed}
	if err := c.shelf.save(f); err != nil {
		c.noteProblem(aboutDisk, err)
		return nil, err
	}
	c.noteProblem(aboutDisk, nil)
	c.force, c.last, c.intent = f, o, next.intent
	select {
	case c.kick <- struct{}{}:
	default:
	}
	return f, nil
}

// quarantines returns the quarantines in force. The caller holds c.mu.
func (c *Control) quarantines() []policy.Quarantine {
	if c.last == nil {
		return nil
	}
	return slices.Clone(c.last.Quarantines)
}

// overtaken goes on after an order of ours that is newer than what is on our
// disk: the disk is older than the bus, for example after it was restored.
func (c *Control) overtaken(remote *generation.Order) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && remote.Number < c.last.Number {
		return nil
	}
	c.o.Log.Error("the bus has a newer generation than control's disk; control goes on after it", "generation", remote.Number)
	if c.last == nil || remote.Number > c.last.Number {
		c.last = remote
	}
	if c.force == nil {
		return nil // the policy is about to be read
	}
	_, err := c.issue(nil, c.quarantines())
	return err
}

// A quarantine must not wait for room on a disk that something filled: a file of
// reserveSize is given up for it.
const (
	reserveFile = "reserve"
	reserveSize = 256 << 10
)

// keepReserve makes the reserve if it is not there.
func (c *Control) keepReserve() {
	path := filepath.Join(c.o.Dir, reserveFile)
	if _, err := os.Stat(path); err == nil {
		return
	}
	if err := writeDurably(path, bytes.Repeat([]byte("reserve\n"), reserveSize/8)); err != nil {
		c.o.Log.Warn("there is no reserve on the disk for a quarantine", "error", err)
	}
}

// urgent is issue, with the reserve given up if that is what it takes.
func (c *Control) urgent(quarantines []policy.Quarantine) (*force, error) {
	f, err := c.issue(nil, quarantines)
	if err == nil || c.force == nil {
		return f, err
	}
	if os.Remove(filepath.Join(c.o.Dir, reserveFile)) != nil {
		return nil, err
	}
	return c.issue(nil, quarantines)
}

// nextExpiry returns when a permission of f ends next, zero if none does.
func nextExpiry(f *force, now time.Time) time.Time {
	if f == nil {
		return time.Time{}
	}
	return generation.Next(f.order, f.plan, now)
}
