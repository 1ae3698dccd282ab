package host

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// change is the way from one plan to the next.
type change struct {
	h      *Host
	plan   Plan
	tuples []tuple
	of     map[string][]tuple // by workload
	want   map[string]*Member
	fabric table
}

func newChange(h *Host, p Plan) *change {
	c := &change{h: h, plan: p, tuples: p.tuples(), of: map[string][]tuple{}, want: make(map[string]*Member, len(p.Members))}
	for _, t := range c.tuples {
		c.of[t.plain.From] = append(c.of[t.plain.From], t)
		c.of[t.plain.To] = append(c.of[t.plain.To], t)
	}
	for i := range p.Members {
		c.want[p.Members[i].Name] = &p.Members[i]
	}
	return c
}

// takeAway removes what the plan does not permit. It goes on after an error, so
// that as much as possible is closed.
func (c *change) takeAway() error {
	h := c.h
	before := h.current()
	var errs []error
	for name, m := range maps.Clone(h.members) {
		if want := c.want[name]; want == nil || !m.same(want) {
			errs = append(errs, h.remove(m))
		}
	}
	c.fabric = fabricFilter(&c.plan, c.tuples, h.fabric.link) // names new links
	errs = append(errs, h.fabric.filter.shrink(c.fabric))
	for name, m := range h.members {
		if want := c.want[name]; c.changes(m) {
			m.torn = true
			errs = append(errs, m.filter.shrink(memberFilter(want, c.of[name])), forgetCaptures(m.thread, m.UDP, want.UDP))
		}
	}
	errs = append(errs, c.cut(before.tuples()))
	return errors.Join(errs...)
}

// changes reports whether a member's own filter differs from what is applied.
func (c *change) changes(m *member) bool {
	return m.torn || !slices.Equal(m.tuples, c.of[m.Name]) || !slices.Equal(m.UDP, c.want[m.Name].UDP)
}

// cut ends the connections of plaintext flows that are gone.
func (c *change) cut(before []tuple) error {
	still := make(map[element]bool, len(c.tuples))
	for _, t := range c.tuples {
		still[t.element()] = true
	}
	gone := map[string][]tuple{} // by workload
	for _, t := range before {
		if !still[t.element()] {
			gone[t.plain.From] = append(gone[t.plain.From], t)
			gone[t.plain.To] = append(gone[t.plain.To], t)
		}
	}
	var errs []error
	for name, tuples := range gone {
		if m := c.h.members[name]; m != nil {
			errs = append(errs, cutFlows(m.thread, name, tuples))
		}
	}
	return errors.Join(errs...)
}

// give adds what the plan permits and the kernel does not yet.
func (c *change) give() error {
	h := c.h
	var errs []error
	for name, m := range h.members {
		if !c.changes(m) {
			continue
		}
		if err := m.filter.grow(memberFilter(c.want[name], c.of[name])); err != nil {
			errs = append(errs, err)
			continue
		}
		h.mu.Lock()
		m.UDP, m.Serves = c.want[name].UDP, c.want[name].Serves
		h.mu.Unlock()
		m.tuples, m.torn = c.of[name], false
	}
	errs = append(errs, c.create())
	if h.bound != nil {
		errs = append(errs, h.bound.apply(c.plan.Members))
	}
	errs = append(errs, h.fabric.filter.grow(c.fabric), h.syncHosts())
	return errors.Join(errs...)
}

// create makes the members that are new, some at a time.
func (c *change) create() error {
	var group errgroup.Group
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	var mu sync.Mutex // guards the following
	var made []*member
	var errs []error
	for name, want := range c.want {
		if c.h.members[name] != nil {
			continue
		}
		group.Go(func() error {
			m, err := c.h.create(want, c.of[name])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else {
				made = append(made, m)
			}
			return nil
		})
	}
	group.Wait() // no function returns an error
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	for _, m := range made {
		c.h.members[m.Name] = m
	}
	return errors.Join(errs...)
}
