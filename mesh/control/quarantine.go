package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"bulkhead/core/policy"
)

// Effect is what a quarantine or release did, as each node confirmed it.
type Effect struct {
	Generation uint64 `json:"generation"`
	// Unchanged says that it was so before.
	Unchanged bool         `json:"unchanged,omitempty"`
	Nodes     []NodeEffect `json:"nodes"`
	// Missing are the nodes that did not confirm.
	Missing []MissingNode `json:"missing,omitempty"`
	Took    time.Duration `json:"took_ns"`
	// Problems is what else the operator must know.
	Problems []string `json:"problems,omitempty"`
}

// NodeEffect is what a node confirmed.
type NodeEffect struct {
	Node       string        `json:"node"`
	Generation uint64        `json:"generation"` // in force there
	Closed     int           `json:"closed"`     // connections, streams and requests
	Took       time.Duration `json:"took_ns"`    // on the node
	After      time.Duration `json:"after_ns"`   // since the command
}

// MissingNode did not confirm. What it lets pass is not known.
type MissingNode struct {
	Node  string    `json:"node"`
	Heard time.Time `json:"heard,omitzero"`
	Why   string    `json:"why"`
}

const (
	// confirmWait bounds how long the effect is waited for.
	confirmWait = 5 * time.Second
	maxBecause  = 1024
	maxOperator = 256
)

// Quarantine takes every permission of a workload or zone away, and waits until
// the nodes that are there confirmed it. To do it again changes nothing.
func (c *Control) Quarantine(ctx context.Context, q policy.Quarantine) (Effect, error) {
	began := time.Now()
	if err := checkWords(q.Because, q.Operator); err != nil {
		return Effect{}, err
	}
	e := Event{Event: EventQuarantine, Target: q.Target, Because: q.Because, Operator: q.Operator, KeepEvidence: q.KeepEvidence}
	effect, err := c.overlay(e, func(list []policy.Quarantine) ([]policy.Quarantine, error) {
		if _, err := c.intent.QuarantineTarget(q.Target); err != nil {
			return nil, err
		}
		same := func(o policy.Quarantine) bool { return o.Target == q.Target }
		if i := slices.IndexFunc(list, same); i >= 0 && list[i].KeepEvidence == q.KeepEvidence {
			return list, nil
		}
		q.At = c.o.Now().UTC().Round(0)
		return append(slices.DeleteFunc(list, same), q), nil
	})
	if err != nil {
		return Effect{}, fmt.Errorf("%s is not quarantined: %w", q.Target, err)
	}
	c.confirm(ctx, &effect, began)
	return effect, nil
}

// Release ends a quarantine, and waits until the nodes that are there confirmed
// it. To release what is not quarantined changes nothing.
func (c *Control) Release(ctx context.Context, target, because, operator string) (Effect, error) {
	began := time.Now()
	if err := checkWords(because, operator); err != nil {
		return Effect{}, err
	}
	e := Event{Event: EventRelease, Target: target, Because: because, Operator: operator}
	effect, err := c.overlay(e, func(list []policy.Quarantine) ([]policy.Quarantine, error) {
		without := slices.DeleteFunc(slices.Clone(list), func(o policy.Quarantine) bool { return o.Target == target })
		if len(without) == len(list) {
			// A name that never was one is a mistake; what the policy dropped is not.
			if _, err := c.intent.QuarantineTarget(target); err != nil {
				return nil, err
			}
		}
		return without, nil
	})
	if err != nil {
		return Effect{}, fmt.Errorf("%s is not released: %w", target, err)
	}
	effect.Problems = append(effect.Problems, c.stillHeld(target)...)
	c.confirm(ctx, &effect, began)
	return effect, nil
}

func checkWords(because, operator string) error {
	switch {
	case because == "":
		return errors.New("a quarantine or release needs a reason: say why")
	case len(because) > maxBecause:
		return fmt.Errorf("the reason has %d bytes, more than %d: shorten it", len(because), maxBecause)
	case operator == "":
		return errors.New("a quarantine or release needs the operator's name")
	case len(operator) > maxOperator:
		return fmt.Errorf("the operator's name has %d bytes, more than %d", len(operator), maxOperator)
	}
	return nil
}

// overlay changes the quarantines and makes a generation of it. Change runs under
// the lock; what returns the list that it got changes nothing.
func (c *Control) overlay(e Event, change func([]policy.Quarantine) ([]policy.Quarantine, error)) (Effect, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.force == nil {
		return Effect{}, fmt.Errorf("platform %q has no generation yet: its policy was not accepted so far", c.o.Platform)
	}
	if err := c.needIntent(); err != nil {
		return Effect{}, err
	}
	before := c.quarantines()
	after, err := change(slices.Clone(before))
	if err != nil {
		return Effect{}, err
	}
	if slices.Equal(before, after) {
		return Effect{Generation: c.force.order.Number, Unchanged: true}, nil
	}
	var effect Effect
	e.At, e.Generation = c.o.Now(), c.last.Number+1
	if err := c.history.add(e); err != nil {
		if e.Event == EventRelease {
			return Effect{}, fmt.Errorf("the history cannot be written: %w", err)
		}
		// To cut something off does not wait for the record of it.
		effect.Problems = append(effect.Problems, fmt.Sprintf("the history cannot be written: %v", err))
	}
	f, err := c.urgent(after)
	if err != nil {
		failed := Event{At: c.o.Now(), Event: EventFailed, Generation: c.last.Number, Target: e.Target, Error: err.Error()}
		return Effect{}, errors.Join(err, c.history.add(failed))
	}
	c.shout(f)
	effect.Generation = f.order.Number
	c.o.Log.Warn(e.Event, "target", e.Target, "because", e.Because, "operator", e.Operator, "generation", f.order.Number)
	return effect, nil
}

// needIntent resolves the policy in force if that was not done yet. The caller
// holds c.mu.
func (c *Control) needIntent() error {
	if c.intent == nil {
		in, ds := policy.Resolve(c.force.plan.Policy, c.o.Now())
		if err := ds.Err(); err != nil {
			return err
		}
		c.intent = in
	}
	return nil
}

// stillHeld names the other quarantines that hold what was released.
func (c *Control) stillHeld(target string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	parties, err := c.intent.QuarantineTarget(target)
	if err != nil {
		return nil
	}
	var out []string
	for i := range c.force.order.Quarantines {
		q := &c.force.order.Quarantines[i]
		held, err := c.intent.QuarantineTarget(q.Target)
		if err == nil && slices.ContainsFunc(held, func(p policy.Party) bool { return slices.Contains(parties, p) }) {
			out = append(out, "still cut off: "+q.String())
		}
	}
	return out
}

// confirm waits until each node that is there has the generation in force.
func (c *Control) confirm(ctx context.Context, e *Effect, began time.Time) {
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	done := map[string]NodeEffect{}
	for {
		nodes := c.o.Roster.Nodes()
		heard, changed := c.nodes.get(nodes)
		e.Nodes, e.Missing = nil, nil
		waiting := false
		for _, n := range nodes {
			h, ok := heard[n.Name]
			if !ok || h.Number < e.Generation {
				why, wait := c.missing(e.Generation, h, ok)
				waiting = waiting || wait
				e.Missing = append(e.Missing, MissingNode{Node: n.Name, Heard: h.at, Why: why})
				continue
			}
			if _, known := done[n.Name]; !known {
				done[n.Name] = confirmed(n.Name, h, e, time.Since(began))
			}
			e.Nodes = append(e.Nodes, done[n.Name])
		}
		e.Took = time.Since(began)
		if !waiting || ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(heartbeat): // so that a node which went away is noticed
		}
	}
}

// confirmed is what a node's report says of an effect. What it closed is known
// only if this generation was not followed by another before the report.
func confirmed(node string, h heardReport, e *Effect, after time.Duration) NodeEffect {
	n := NodeEffect{Node: node, Generation: h.Number, After: after}
	if h.Number == e.Generation && !e.Unchanged {
		n.Closed, n.Took = h.Closed, h.Took
	}
	return n
}

// missing says why a node did not confirm, and whether to wait for it.
func (c *Control) missing(number uint64, h heardReport, ok bool) (why string, wait bool) {
	now := c.o.Now()
	switch {
	case ok && h.Stuck == number:
		return "it could not put it in force: " + h.Problem, false
	case ok && h.live(now):
		return fmt.Sprintf("it is there and still enforces generation %d", h.Number), true
	}
	// A control that has just started listens first for who is there.
	return "it was not heard of; it takes the generation when it is back", !ok && now.Sub(c.started).Abs() < liveWithin
}
