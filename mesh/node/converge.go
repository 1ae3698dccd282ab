package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead/core/policy"
	"bulkhead/mesh/host"
	"bulkhead/mesh/proxy"
)

// retryAfter is the pause before what could not be brought about is tried again.
const retryAfter = 2 * time.Second

// placement is what serves a workload of this node.
type placement struct {
	zone   string
	cancel context.CancelFunc
	done   chan struct{} // closed when its Workload API has ended
}

// door is a listener for something outside.
type door struct {
	listens netip.AddrPort
	cancel  context.CancelFunc
	done    chan struct{}
	problem string
}

// converge brings what runs on this machine in line with the newest layout,
// whenever there is one, and again after a failure. It alone adds and removes
// placements, processes and doors. What a generation takes away does not wait
// for it.
func (n *Node) converge(ctx context.Context) error {
	defer n.retireAll()
	retry := time.NewTimer(0)
	<-retry.C
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.kick:
		case <-retry.C:
			if err := n.again(); err != nil {
				n.o.Log.Error("the generation in force could not be applied again", "says", err)
			}
		}
		n.mu.Lock()
		l := n.layout
		n.mu.Unlock()
		err := n.settle(ctx, l)
		n.mu.Lock()
		n.problem("workloads", err)
		n.mu.Unlock()
		if (err != nil || l.unbound != nil) && ctx.Err() == nil {
			retry.Reset(retryAfter)
		}
	}
}

// settle makes one layout real. It goes on after a failure, so that one workload
// does not stop the others.
func (n *Node) settle(ctx context.Context, l *layout) error {
	here := map[string]member{}
	for _, m := range l.members {
		here[m.workload.Name.Value] = m
	}
	want := map[string]host.Binding{}
	for name, m := range here {
		if p := n.placed[name]; p == nil || p.zone == m.workload.Zone.Value {
			want[name] = m.binding
		}
	}
	n.sup.set(ctx, only(want, func(name string) bool { return n.placed[name] != nil })) // stops what leaves
	var errs []error
	for name, p := range n.placed {
		if m, ok := here[name]; !ok || m.workload.Zone.Value != p.zone {
			n.retire(name)
		}
	}
	if err := n.finishLeaving(l); err != nil {
		errs = append(errs, err)
	}
	for _, m := range l.members {
		if name := m.workload.Name.Value; n.placed[name] == nil {
			if err := n.settleMember(ctx, m); err != nil {
				errs = append(errs, fmt.Errorf("workload %s: %w", name, err))
			}
		}
	}
	for name, m := range here {
		want[name] = m.binding
	}
	n.sup.set(ctx, only(want, func(name string) bool { return n.placed[name] != nil }))
	errs = append(errs, n.openDoors(ctx, l))
	return errors.Join(errs...)
}

func only(m map[string]host.Binding, keep func(string) bool) map[string]host.Binding {
	out := map[string]host.Binding{}
	for name, b := range m {
		if keep(name) {
			out[name] = b
		}
	}
	return out
}

// finishLeaving takes the namespaces of leavers down, unless a newer generation
// has come in between.
func (n *Node) finishLeaving(l *layout) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.layout != l {
		return nil
	}
	return n.o.Host.Apply(l.plan)
}

// settleMember lets the proxy serve a workload, and opens its Workload API.
func (n *Node) settleMember(ctx context.Context, m member) error {
	name, zone := m.workload.Name.Value, m.workload.Zone.Value
	sockets, err := n.o.Host.Sockets(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	if err := n.proxy.Add(ctx, proxy.Workload{Name: name, Zone: zone, Sockets: sockets}); err != nil {
		cancel()
		return err
	}
	p := &placement{zone: zone, cancel: cancel, done: make(chan struct{})}
	listener, _, err := n.o.Host.WorkloadAPI(name)
	if err != nil {
		cancel()
		n.proxy.Remove(name)
		return err
	}
	go func() {
		defer close(p.done)
		if err := n.o.API.Serve(ctx, listener); err != nil && ctx.Err() == nil {
			n.o.Log.Error("the Workload API ended", "workload", name, "says", err)
		}
	}()
	n.mu.Lock()
	n.placed[name] = p
	n.mu.Unlock()
	return nil
}

// retire stops serving a workload.
func (n *Node) retire(name string) {
	for d := range n.doors {
		if d.workload == name {
			n.closeDoor(d)
		}
	}
	p := n.placed[name]
	p.cancel()
	n.proxy.Remove(name)
	<-p.done
	n.mu.Lock()
	delete(n.placed, name)
	n.mu.Unlock()
}

func (n *Node) retireAll() {
	n.sup.stop()
	for d := range n.doors {
		n.closeDoor(d)
	}
	for name := range n.placed {
		n.retire(name)
	}
}

// openDoors opens a listener for each exposed service and closes the others.
func (n *Node) openDoors(ctx context.Context, l *layout) error {
	for d := range n.doors {
		if !slices.Contains(l.doors, d) || n.doors[d].problem != "" {
			n.closeDoor(d)
		}
	}
	var errs []error
	for _, d := range l.doors {
		if n.doors[d] == nil && n.placed[d.workload] != nil {
			errs = append(errs, n.openDoor(ctx, d))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) openDoor(ctx context.Context, d outerDoor) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(n.o.Publish, strconv.Itoa(int(d.port))))
	if err != nil {
		n.mu.Lock()
		n.doors[d] = &door{problem: err.Error(), cancel: func() {}, done: closed}
		n.mu.Unlock()
		return fmt.Errorf("workload %s cannot be published at port %d: %w", d.workload, d.port, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &door{listens: listener.Addr().(*net.TCPAddr).AddrPort(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		if err := n.proxy.Publish(ctx, listener, d.workload, d.port); err != nil && ctx.Err() == nil {
			n.o.Log.Error("a published service ended", "workload", d.workload, "port", d.port, "says", err)
		}
	}()
	n.mu.Lock()
	n.doors[d] = o
	n.mu.Unlock()
	return nil
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (n *Node) closeDoor(d outerDoor) {
	o := n.doors[d]
	o.cancel()
	<-o.done
	n.mu.Lock()
	delete(n.doors, d)
	n.mu.Unlock()
}

// gatewayURL is where a workload finds the egress gateway. In cooperative mode only
// a workload that is the gateway has an address.
func (n *Node) gatewayURL(workload string) (string, error) {
	if n.o.Outside == nil {
		return "", errors.New("{egress}: this node has no egress gateway")
	}
	if n.o.Mode != host.Cooperative {
		return "http://" + net.JoinHostPort(GatewayName, strconv.Itoa(proxy.ProxyPort)), nil
	}
	n.mu.Lock()
	in := n.layout.world.Intent
	n.mu.Unlock()
	if w := in.Workload(played(in.Policy)); w != nil {
		if ports := tcpPorts(w); len(ports) > 0 {
			return "http://" + net.JoinHostPort(n.o.Host.Address(workload, w.Name.Value).String(), strconv.Itoa(int(ports[0]))), nil
		}
	}
	return "", errors.New("{egress}: in cooperative mode the gateway must be a workload: declare gateway: through, and bind it with host: {gateway: true}")
}

// resolve gives what a placeholder in a command stands for: {bin}, {own/SERVICE}
// and {WORKLOAD/SERVICE}.
func (n *Node) resolve(workload, ref string) (string, error) {
	switch ref {
	case "bin":
		return n.o.BinDir, nil
	case "egress":
		return n.gatewayURL(workload)
	}
	peer, service, _ := strings.Cut(ref, "/")
	own := peer == "own"
	if own {
		peer = workload
	}
	n.mu.Lock()
	in := n.layout.world.Intent
	n.mu.Unlock()
	w := in.Workload(peer)
	if w == nil {
		return "", fmt.Errorf("{%s} names workload %q, which the policy does not have", ref, peer)
	}
	i := slices.IndexFunc(w.Serves, func(s policy.Service) bool { return s.Name.Value == service })
	if i < 0 {
		return "", fmt.Errorf("{%s}: workload %s serves no %q", ref, peer, service)
	}
	port := strconv.Itoa(int(w.Serves[i].Lo))
	if own {
		return net.JoinHostPort(n.o.Host.Own(workload).String(), port), nil
	}
	if n.o.Mode == host.Cooperative {
		return net.JoinHostPort(n.o.Host.Address(workload, peer).String(), port), nil
	}
	return net.JoinHostPort(peer, port), nil
}
