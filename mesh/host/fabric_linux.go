package host

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// fabric is the namespace between the workloads. It has no addresses and
// belongs to nobody: it forwards, and its filter says what.
type fabric struct {
	thread  *thread
	netlink *netlink.Handle
	filter  *filter

	mu    sync.Mutex // guards the following
	next  int
	names map[string]string // the interface of each workload
}

// newFabric makes a fabric that forwards nothing.
func newFabric() (*fabric, error) {
	t, err := newThread()
	if err != nil {
		return nil, err
	}
	f := &fabric{thread: t, names: map[string]string{}}
	if f.filter, err = loadFilter(t, fabricFilter(&Plan{}, nil, f.link)); err != nil {
		f.close()
		return nil, err
	}
	if f.netlink, err = netlinkOf(t); err != nil {
		f.close()
		return nil, err
	}
	if err := errors.Join(t.do(func() error { return configure(commonSettings, fabricSettings) }), loopback(f.netlink)); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// link returns the name of a workload's interface, always the same for as long
// as the workload is there.
func (f *fabric) link(workload string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, ok := f.names[workload]
	if !ok {
		f.next++
		name = "w" + strconv.Itoa(f.next)
		f.names[workload] = name
	}
	return name
}

// workload returns whose interface that is, empty if nobody's.
func (f *fabric) workload(link string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w, l := range f.names {
		if l == link {
			return w
		}
	}
	return ""
}

// attach makes the link between the fabric and a workload's namespace, whose
// filter must be loaded.
func (f *fabric) attach(m *Member, t *thread) error {
	name := f.link(m.Name)
	pair := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: name, MTU: linkMTU, HardwareAddr: linkAddr},
		PeerName:         meshLink,
		PeerMTU:          linkMTU,
		PeerHardwareAddr: linkAddr,
		PeerNamespace:    netlink.NsFd(t.ns.Fd()),
	}
	if err := f.netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("workload %q gets no link: %w", m.Name, err)
	}
	err := errors.Join(f.netlink.LinkSetARPOff(pair), f.netlink.LinkSetUp(pair), setUp(t, m))
	for _, a := range m.addresses() {
		err = errors.Join(err, f.netlink.RouteAdd(routeTo(host(a), pair)))
	}
	if err = errors.Join(err, f.waitFor(pair.Index)); err != nil {
		return errors.Join(fmt.Errorf("workload %q cannot be connected: %w", m.Name, err), f.detach(m.Name))
	}
	return nil
}

// waitFor waits until the kernel sends over a link: a link that was set up
// before its other end loses packets until a work queue has run.
func (f *fabric) waitFor(link int) error {
	for range 1000 {
		l, err := f.netlink.LinkByIndex(link) // also makes newer kernels do it now
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("the link does not come up")
}

// detach removes a workload's link, and with it its routes.
func (f *fabric) detach(workload string) error {
	name := f.link(workload)
	f.mu.Lock()
	delete(f.names, workload)
	f.mu.Unlock()
	link, err := f.netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = f.netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("the link of workload %q cannot be removed: %w", workload, err)
	}
	return nil
}

func (f *fabric) close() {
	if f.filter != nil {
		f.filter.close()
	}
	if f.netlink != nil {
		f.netlink.Close()
	}
	f.thread.close()
}
