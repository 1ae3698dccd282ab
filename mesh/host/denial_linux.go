package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink_log.h.
const (
	ulogPacket = 0
	ulogConfig = 1

	configCmd   = 1
	configMode  = 2
	configQueue = 5
	configFlags = 6

	cmdBind    = 1
	copyPacket = 2
	flagSeq    = 1

	attrMark    = 2
	attrIn      = 4
	attrPayload = 9
	attrSeq     = 12
)

// denialsAtOnce is how many denials wait for a reader before they are counted
// as lost.
const denialsAtOnce = 1024

// watcher reads what the filter of one namespace refuses. Its goroutine ends
// when it is closed.
type watcher struct {
	conn   *netlink.Conn
	filter *filter
	fill   func(*Denial, origin) // says whose it is
	out    chan<- Denial
	ended  sync.WaitGroup

	// Of the goroutine alone.
	next    uint32 // expected sequence number
	skipped uint64 // lost on the way from the kernel
	told    uint64 // lost according to what was reported
	asked   time.Time
	limited uint64 // lost by the limit, when it was asked for last
}

// watch starts to read the denials of a namespace, or of the machine's own for
// nil.
func watch(in *thread, f *filter, out chan<- Denial, fill func(*Denial, origin)) (*watcher, error) {
	w := &watcher{filter: f, fill: fill, out: out}
	open := func() (err error) {
		w.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}
	var err error
	if in != nil {
		err = in.do(open)
	} else {
		err = open()
	}
	if err != nil {
		return nil, fmt.Errorf("NFLOG cannot be reached: %w", err)
	}
	if err := w.bind(); err != nil {
		w.conn.Close()
		return nil, fmt.Errorf("NFLOG group %d cannot be read: %w", denialGroup, err)
	}
	w.ended.Go(w.run)
	return w, nil
}

func (w *watcher) bind() error {
	mode := binary.BigEndian.AppendUint32(nil, denialSnap)
	attributes := []netlink.Attribute{
		{Type: configCmd, Data: []byte{cmdBind}},
		{Type: configMode, Data: append(mode, copyPacket, 0)},
		{Type: configQueue, Data: binary.BigEndian.AppendUint32(nil, 1)}, // at once
		{Type: configFlags, Data: binary.BigEndian.AppendUint16(nil, flagSeq)},
	}
	// The kernel reads one command per message.
	for _, group := range [][]netlink.Attribute{attributes[:1], attributes[1:]} {
		data, err := netlink.MarshalAttributes(group)
		if err != nil {
			return err
		}
		head := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, denialGroup)
		_, err = w.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_ULOG<<8 | ulogConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append(head, data...),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) run() {
	for {
		messages, err := w.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			continue // the sequence numbers say how many were lost
		}
		if err != nil {
			return
		}
		for _, m := range messages {
			if m.Header.Type == unix.NFNL_SUBSYS_ULOG<<8|ulogPacket {
				w.packet(m.Data)
			}
		}
	}
}

func (w *watcher) packet(data []byte) {
	d, from, seq, ok := parseDenial(data)
	if !ok {
		return
	}
	w.skipped += uint64(seq - w.next)
	w.next = seq + 1
	w.fill(&d, from)
	lost := w.skipped + w.overLimit()
	d.Lost = lost - min(w.told, lost)
	select {
	case w.out <- d:
		w.told = lost
	default:
		w.skipped++
	}
}

// overLimit asks the kernel what it did not report, at most every 50 ms.
func (w *watcher) overLimit() uint64 {
	if time.Since(w.asked) > 50*time.Millisecond {
		w.asked = time.Now()
		if n, err := w.filter.lost(); err == nil {
			w.limited = n
		}
	}
	return w.limited
}

func (w *watcher) close() {
	w.conn.SetReadDeadline(time.Unix(1, 0)) // ends run, which may be waiting
	w.ended.Wait()
	w.conn.Close()
}

// origin is what tells whose a packet was: the interface by which it came, and
// its mark.
type origin struct{ link, mark uint32 }

// parseDenial reads a message of NFLOG.
func parseDenial(data []byte) (d Denial, from origin, seq uint32, ok bool) {
	if len(data) < 4 {
		return d, from, 0, false
	}
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return d, from, 0, false
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case attrIn:
			from.link = ad.Uint32()
		case attrMark:
			from.mark = ad.Uint32()
		case attrSeq:
			seq = ad.Uint32()
		case attrPayload:
			d.Network, d.From, d.To, ok = parsePacket(ad.Bytes())
		}
	}
	return d, from, seq, ok && ad.Err() == nil
}

// Denials calls each for what the filters refused, one at a time, until ctx
// ends. What nobody reads is counted in the next.
func (h *Host) Denials(ctx context.Context, each func(Denial)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-h.denials:
			each(d)
		}
	}
}

// ofMember fills in denials of a workload's own filter.
func ofMember(name string) func(*Denial, origin) {
	return func(d *Denial, _ origin) { d.Workload = name }
}

// links resolves interface numbers of the fabric.
type links struct {
	f *fabric
	h *Host
	// cache is of the watcher's goroutine alone.
	cache map[uint32]string
}

// fill says which workload's interface a packet came from.
func (l *links) fill(d *Denial, from origin) {
	name, ok := l.cache[from.link]
	if !ok {
		if at, err := l.f.netlink.LinkByIndex(int(from.link)); err == nil {
			name = at.Attrs().Name
			l.cache[from.link] = name // numbers are not used again before they wrap
		}
	}
	d.Workload = l.f.workload(name)
	m, _ := l.h.member(d.Workload)
	d.Spoofed = d.Workload != "" && !m.has(d.From.Addr())
}

func (m *Member) has(a netip.Addr) bool { return a == m.V4 || a == m.V6 }
