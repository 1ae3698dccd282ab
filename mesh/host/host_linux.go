package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// Host enforces a plan on this machine. Its methods may be called from any
// goroutine.
type Host struct {
	options Options
	lock    *os.File
	denials chan Denial
	sites   sites // of the processes it starts

	applying sync.Mutex // one Apply or Close at a time; guards the following
	closed   bool
	fabric   *fabric
	watcher  *watcher // of the fabric
	bound    *boundHost

	cooperative *cooperative // in that mode only

	mu      sync.RWMutex // guards the following
	plan    Plan
	members map[string]*member
}

// member is a workload of this machine as it runs. Of its Member, UDP and
// Serves may change, and Host.mu guards them; everything else stays.
type member struct {
	Member
	thread  *thread
	filter  *filter
	pool    *pool
	watcher *watcher

	// Guarded by Host.applying.
	tuples []tuple // its plaintext flows
	torn   bool    // the filter may hold less than UDP and tuples say
}

// Open makes a Host that lets nothing pass. It fails if another process runs
// this platform here, and removes what one that died left.
func Open(ctx context.Context, o Options) (*Host, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{options: o, members: map[string]*member{}, denials: make(chan Denial, denialsAtOnce)}
	var err error
	if h.lock, err = takeLock(o); err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.Err(), h.prepare()); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) prepare() error {
	if err := h.clearLive(); err != nil {
		return err
	}
	if h.options.Mode == Cooperative {
		h.cooperative = newCooperative(h.options.Platform)
		return nil
	}
	var err error
	if h.options.Mode == Root {
		if h.bound, err = newBoundHost(h); err != nil {
			return err
		}
	}
	if h.fabric, err = newFabric(); err != nil {
		return err
	}
	of := &links{f: h.fabric, h: h, cache: map[uint32]string{}}
	h.watcher, err = watch(h.fabric.thread, h.fabric.filter, h.denials, of.fill)
	return err
}

// Apply puts a plan in force. First everything that it does not permit is taken
// away everywhere, then what it permits is added, so that no state in between
// permits what neither plan does. If it fails, less is permitted than the plan
// says, never more, and calling it again goes on.
func (h *Host) Apply(p Plan) error {
	h.applying.Lock()
	defer h.applying.Unlock()
	if h.closed {
		return errors.New("the host is closed")
	}
	if p.Platform != h.options.Platform {
		return fmt.Errorf("a plan of platform %q cannot be applied to platform %q", p.Platform, h.options.Platform)
	}
	err := p.check()
	if h.cooperative != nil {
		if err != nil {
			return err
		}
		return h.applyCooperative(p)
	}
	if !hasIPv6 {
		p = p.onlyIPv4()
	}
	if err != nil {
		return errors.Join(err, h.withdraw(p))
	}
	c := newChange(h, p)
	if err := c.takeAway(); err != nil {
		return err
	}
	h.mu.Lock()
	h.plan = p
	h.mu.Unlock()
	return c.give()
}

// withdraw takes away what p does not permit, though p as a whole cannot be
// enforced: a mistake in one place must not keep open what was closed in another.
func (h *Host) withdraw(p Plan) error {
	rest := h.current().within(p)
	err := newChange(h, rest).takeAway()
	if err == nil {
		h.mu.Lock()
		h.plan = rest
		h.mu.Unlock()
	}
	return err
}

// create makes a namespace with its filter, and connects it last.
func (h *Host) create(want *Member, tuples []tuple) (*member, error) {
	t, err := newThread()
	if err != nil {
		return nil, err
	}
	m := &member{Member: *want, thread: t, pool: newPool(t), tuples: tuples}
	if err := h.equip(m); err != nil {
		return nil, errors.Join(fmt.Errorf("workload %q: %w", m.Name, err), m.close())
	}
	return m, nil
}

func (h *Host) equip(m *member) error {
	var err error
	if m.filter, err = loadFilter(m.thread, memberFilter(&m.Member, m.tuples)); err != nil {
		return err
	}
	if err := m.thread.do(func() error { return configure(commonSettings, memberSettings) }); err != nil {
		return err
	}
	if m.watcher, err = watch(m.thread, m.filter, h.denials, ofMember(m.Name)); err != nil {
		return err
	}
	return h.fabric.attach(&m.Member, m.thread)
}

// remove disconnects a member and then takes its namespace away, and with the
// namespace's thread the processes in it.
func (h *Host) remove(m *member) error {
	h.mu.Lock()
	delete(h.members, m.Name)
	h.mu.Unlock()
	return errors.Join(h.fabric.detach(m.Name), m.close())
}

func (m *member) close() error {
	m.pool.close()
	if m.watcher != nil {
		m.watcher.close()
	}
	if m.filter != nil {
		m.filter.close()
	}
	m.thread.close()
	return nil
}

// Close removes everything: workloads and their processes, links, rules, files.
func (h *Host) Close() error {
	h.applying.Lock()
	defer h.applying.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	var errs []error
	if h.cooperative != nil {
		h.cooperative.close()
	} else {
		for _, m := range maps.Clone(h.members) {
			errs = append(errs, h.remove(m))
		}
	}
	if h.watcher != nil {
		h.watcher.close()
	}
	if h.fabric != nil {
		h.fabric.close()
	}
	if h.bound != nil {
		errs = append(errs, h.bound.close())
	}
	errs = append(errs, h.removeFiles(), releaseLock(h.lock))
	return errors.Join(errs...)
}

// thread returns the thread in a workload's namespace, and an error if the
// workload is not of this machine or is bound to processes that already run.
func (h *Host) thread(workload string) (*thread, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	m := h.members[workload]
	switch {
	case m == nil:
		return nil, fmt.Errorf("workload %q is not of this machine", workload)
	case m.thread == nil || m.CgroupPath != "":
		return nil, fmt.Errorf("workload %q has no namespace of its own", workload)
	}
	return m.thread, nil
}

// member returns what the plan says of a workload of this machine.
func (h *Host) member(workload string) (Member, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if m := h.members[workload]; m != nil {
		return m.Member, true
	}
	return Member{}, false
}

// current returns the plan in force.
func (h *Host) current() Plan {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.plan
}

// names returns the addresses of every workload of the platform.
func (h *Host) names() map[string][]netip.Addr {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return maps.Clone(h.plan.Names)
}

func (h *Host) resolvers() []netip.Addr {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.plan.Resolvers
}

// liveDir is where the files of this run belong: it is emptied when a Host
// opens and removed when it closes.
func (h *Host) liveDir() string { return filepath.Join(h.options.RunDir, "live") }

// Address returns the address by which from reaches to: the mesh address, or in
// cooperative mode the one on which from's proxy listens. It is invalid if the
// plan knows no such workload.
func (h *Host) Address(from, to string) netip.Addr {
	if h.cooperative != nil {
		return h.cooperative.address(from, to)
	}
	for _, a := range h.current().Names[to] {
		return a
	}
	m, _ := h.member(to)
	if m.V4.IsValid() {
		return m.V4
	}
	return m.V6
}

// Own returns the address on which a workload's servers are reached.
func (h *Host) Own(workload string) netip.Addr {
	if h.cooperative != nil {
		return h.cooperative.own(workload)
	}
	return h.Address(workload, workload)
}
