package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"bulkhead/mesh/socket"
)

// boundHost is the rules for bound workloads, in the machine's own network
// namespace. There is a table only while there is such a workload.
//
// A control group that is made again, as when a unit restarts, is another one
// to the kernel. It is looked for several times a second, so for a moment after
// a restart the workload's processes are not filtered: what must never happen,
// even then, needs a workload that the mesh starts itself.
type boundHost struct {
	host *Host
	name string
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // guards the following
	applied bool       // until then a table of a run that died stays
	wanted  []wanted
	all     []bound // what the rules are made of
	filter  *filter // nil while there is no table
	watcher *watcher
	ports   map[string]*capturePort
	next    uint32
}

// wanted is a bound workload of the plan, whether its control group exists or
// not.
type wanted struct {
	member *Member
	dir    string
	level  uint32
	port   *capturePort
}

// capturePort keeps the port that the rules name, with listeners that nobody
// took yet.
type capturePort struct {
	port  uint16
	index uint32
	spare []net.Listener
}

// recheck is how often the control groups of bound workloads are looked for.
const recheck = 100 * time.Millisecond

// newBoundHost leaves a table of a run that died as it is, closed, until the
// first plan says what takes its place.
func newBoundHost(h *Host) (*boundHost, error) {
	b := &boundHost{host: h, name: "bulkhead_" + h.options.Platform, ports: map[string]*capturePort{}}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("nftables cannot be reached: %w", err)
	}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == b.name }) {
		b.filter = &filter{table: &nftables.Table{Name: b.name, Family: nftables.TableFamilyINet}}
		if err := b.filter.dial(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	b.done.Go(func() { b.follow(ctx) })
	return b, nil
}

// apply puts rules for the bound ones of the members in force, in one
// transaction, or removes the table if there are none. A member without a
// control group is an error, and is bound as soon as it has one.
func (b *boundHost) apply(members []Member) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applied = true
	b.wanted = nil
	var errs []error
	for _, m := range members {
		if m.CgroupPath == "" {
			continue
		}
		w, err := b.want(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("workload %q: %w", m.Name, err))
			continue
		}
		b.wanted = append(b.wanted, w)
	}
	b.forgetPorts()
	missing, err := b.refresh()
	return errors.Join(append(errs, missing, err)...)
}

// want finds where a member's control group is and gives it a capture port.
func (b *boundHost) want(m Member) (wanted, error) {
	mount, err := cgroupMount()
	if err != nil {
		return wanted{}, err
	}
	name, err := cgroupName(m.CgroupPath)
	if err != nil {
		return wanted{}, err
	}
	p := b.ports[m.Name]
	if p == nil {
		if p, err = newCapturePort(); err != nil {
			return wanted{}, err
		}
		b.next++
		p.index = b.next
		b.ports[m.Name] = p
	}
	return wanted{&m, filepath.Join(mount, name), uint32(strings.Count(name, "/")), p}, nil
}

// refresh loads the rules again if they are not those of the control groups
// that exist now. missing names the wanted ones that do not; one that was bound
// keeps its rule, which matches no process. err says that the kernel holds the
// rules from before.
func (b *boundHost) refresh() (missing, err error) {
	var all []bound
	var gone []error
	for _, w := range b.wanted {
		var st unix.Stat_t
		if err := unix.Stat(w.dir, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			all = append(all, bound{w.member, cgroup{w.level, st.Ino}, w.port.port, w.port.index})
			continue
		}
		gone = append(gone, fmt.Errorf("workload %q: control group %s does not exist: start what it is for", w.member.Name, w.dir))
		for _, before := range b.all {
			if before.index == w.port.index {
				before.member = w.member
				all = append(all, before)
			}
		}
	}
	missing = errors.Join(gone...)
	if slices.EqualFunc(all, b.all, sameBound) && (len(all) > 0) == (b.filter != nil) {
		return missing, nil
	}
	if err := b.load(all); err != nil {
		return missing, err
	}
	b.all = all
	return missing, nil
}

// sameBound reports whether the rules for both are the same.
func sameBound(a, b bound) bool {
	return a.member.same(b.member) && slices.Equal(a.member.UDP, b.member.UDP) &&
		a.cgroup == b.cgroup && a.capture == b.capture && a.index == b.index
}

func (b *boundHost) load(all []bound) error {
	if len(all) == 0 {
		return b.removeTable()
	}
	t := boundFilter(b.name, all)
	var err error
	if b.filter == nil {
		b.filter, err = loadFilter(nil, t)
	} else {
		err = b.filter.load(t)
	}
	if err != nil || b.watcher != nil {
		return err
	}
	b.watcher, err = watch(nil, b.filter, b.host.denials, b.whose)
	return err
}

// whose tells bound workloads apart by the mark that their rules set.
func (b *boundHost) whose(d *Denial, from origin) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.all {
		if b.all[i].selfMark() == from.mark {
			d.Workload = b.all[i].member.Name
		}
	}
}

func (b *boundHost) removeTable() error {
	if b.filter == nil {
		return nil
	}
	if err := b.filter.remove(); err != nil {
		return err
	}
	f, w := b.filter, b.watcher
	b.filter, b.watcher = nil, nil
	if w != nil {
		b.mu.Unlock() // the watcher may be in whose
		w.close()
		b.mu.Lock()
	}
	f.close()
	return nil
}

// forgetPorts gives back the ports of members that are not wanted any more.
func (b *boundHost) forgetPorts() {
	for name, p := range b.ports {
		if !slices.ContainsFunc(b.wanted, func(w wanted) bool { return w.port == p }) {
			p.close()
			delete(b.ports, name)
		}
	}
}

// follow notices control groups that were made, or made again.
func (b *boundHost) follow(ctx context.Context) {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.mu.Lock()
		var err error
		if b.applied {
			_, err = b.refresh()
		}
		b.mu.Unlock()
		if err != nil {
			b.host.options.Log.Error("the rules of bound workloads cannot be renewed", "error", err)
		}
	}
}

func (b *boundHost) close() error {
	b.stop()
	b.done.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.removeTable()
	for _, p := range b.ports {
		p.close()
	}
	return err
}

// newCapturePort takes a port that is free for IPv4 and for IPv6.
func newCapturePort() (*capturePort, error) {
	var errs error
	for range 20 {
		l4, err := listenConfig(false).Listen(context.Background(), "tcp", netip.AddrPortFrom(loopback4, 0).String())
		if err != nil {
			return nil, err
		}
		p := &capturePort{port: l4.Addr().(*net.TCPAddr).AddrPort().Port(), spare: []net.Listener{l4}}
		if !hasIPv6 {
			return p, nil
		}
		l6, err := listenConfig(false).Listen(context.Background(), "tcp", netip.AddrPortFrom(loopback6, p.port).String())
		if err == nil {
			p.spare = append(p.spare, l6)
			return p, nil
		}
		errs = err
		p.close()
	}
	return nil, errs
}

// take returns the listeners: the first that were made, or new ones.
func (p *capturePort) take() ([]net.Listener, error) {
	if out := p.spare; out != nil {
		p.spare = nil
		return out, nil
	}
	var out []net.Listener
	for _, a := range []netip.Addr{loopback4, loopback6} {
		if a.Is6() && !hasIPv6 {
			continue
		}
		l, err := listenConfig(false).Listen(context.Background(), "tcp", netip.AddrPortFrom(a, p.port).String())
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func (p *capturePort) close() {
	for _, l := range p.spare {
		l.Close()
	}
	p.spare = nil
}

// boundSockets is the sockets of a bound workload: tunnels from its namespace
// on the fabric, everything else where its processes are.
type boundSockets struct{ inside }

func (s boundSockets) Capture() ([]socket.Capture, error) {
	b := s.host.bound
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.ports[s.m.Name]
	if p == nil {
		return nil, fmt.Errorf("the control group of workload %q is not bound", s.m.Name)
	}
	ls, err := p.take()
	if err != nil {
		return nil, fmt.Errorf("workload %q: %w", s.m.Name, err)
	}
	return captures(ls), nil
}

func (s boundSockets) DialOwn(ctx context.Context, port uint16) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1, Control: mark}
	return dialOwn(port, []netip.Addr{loopback4, loopback6}, func(to netip.AddrPort) (*net.TCPConn, error) {
		return d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	})
}

func (s boundSockets) CaptureUDP(local uint16) (*net.UDPConn, error) {
	at, err := s.host.captureAddress(s.m.Name, local)
	if err != nil {
		return nil, err
	}
	c, err := listenConfig(false).ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, fmt.Errorf("workload %q: %w", s.m.Name, err)
	}
	return c.(*net.UDPConn), nil
}

func (s boundSockets) DialOwnUDP(ctx context.Context, port uint16) (*net.UDPConn, error) {
	d := net.Dialer{Control: mark}
	return d.DialUDP(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(loopback4, port))
}
