package tunnel

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loop waits for the sockets of relays, and moves what little there is at once,
// without waking anybody. It exists because waking a goroutine for each message
// costs more than the message: the runtime's poller wakes a second thread that
// looks for more work, for every packet of a quiet connection. What turns out to
// be much is handed to a goroutine.
type loop struct {
	epoll int
	buf   []byte // of the goroutine that runs it

	mu      sync.Mutex // guards the following
	next    uint64
	watched map[uint64]*sock
}

// loops live as long as the process, like the runtime's own poller.
var loops = sync.OnceValues(func() ([]*loop, error) {
	var all []*loop
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("epoll: %w", err)
		}
		l := &loop{epoll: fd, buf: takeBuffer(), watched: map[uint64]*sock{}}
		go l.run()
		all = append(all, l)
	}
	return all, nil
})

var turn atomic.Uint32

func pickLoop() (*loop, error) {
	all, err := loops()
	if err != nil {
		return nil, err
	}
	return all[int(turn.Add(1)%uint32(len(all)))], nil
}

const yieldEvery = 5 * time.Millisecond

func (l *loop) run() {
	events := make([]unix.EpollEvent, 256)
	yielded := time.Now()
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil {
			continue // EINTR is the only one that a valid descriptor can give
		}
		woke := false
		for _, e := range events[:n] {
			if s := l.find(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); s != nil {
				woke = s.event(e.Events, l.buf) || woke
			}
		}
		// What was made ready would wait for this thread to leave the next
		// wait. And a goroutine that has not yielded for 10 ms loses its
		// processor at each wait, at the cost of waking the runtime's monitor.
		if woke || time.Since(yielded) > yieldEvery {
			runtime.Gosched()
			yielded = time.Now()
		}
	}
}

func (l *loop) find(id uint64) *sock {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watched[id]
}

// heard is what a loop is told of, each thing once. Room to write is told only
// where somebody waits for it: there is room in a new socket, and each would wake
// the loop for nothing.
const heard = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff

// watch tells s.event of what happens.
func (l *loop) watch(s *sock) error {
	l.mu.Lock()
	l.next++
	s.id, s.loop = l.next, l
	l.watched[s.id] = s
	l.mu.Unlock()
	if err := l.control(unix.EPOLL_CTL_ADD, s, heard); err != nil {
		l.forget(s)
		return err
	}
	return nil
}

func (l *loop) control(op int, s *sock, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(uint32(s.id)), Pad: int32(uint32(s.id >> 32))}
	if err := unix.EpollCtl(l.epoll, op, s.fd, &e); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (l *loop) forget(s *sock) {
	l.mu.Lock()
	delete(l.watched, s.id)
	l.mu.Unlock()
}

// sock is a socket outside of the runtime's poller.
type sock struct {
	in, out *direction // that reads it, that writes it
	loop    *loop
	id      uint64
	hup     atomic.Bool
	awaits  bool // of the runner of out: room is told of

	mu sync.RWMutex // guards fd against being closed, and its number taken by another, while it is in use
	fd int          // -1 when closed
}

// event reports whether it made goroutines ready.
func (s *sock) event(e uint32, buf []byte) bool {
	if e&unix.EPOLLERR != 0 {
		s.in.m.fail(unix.ECONNRESET)
		return true
	}
	woke := false
	if e&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLPRI) != 0 {
		s.hup.Store(true)
	}
	if e&(unix.EPOLLIN|unix.EPOLLPRI|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		woke = s.in.wake(buf)
	}
	if e&(unix.EPOLLOUT|unix.EPOLLHUP) != 0 && s.out.blocked.Load() {
		woke = s.out.wake(buf) || woke
	}
	return woke
}

func (s *sock) read(p []byte) (int, error)  { return s.try(unix.SYS_READ, p) }
func (s *sock) write(p []byte) (int, error) { return s.try(unix.SYS_WRITE, p) }

// try does a call that cannot block, and so need not tell the scheduler.
func (s *sock) try(call uintptr, p []byte) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return 0, net.ErrClosed
	}
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, errno
		}
	}
}

func (s *sock) closeWrite() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return unix.Shutdown(s.fd, unix.SHUT_WR)
}

func (s *sock) torn() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fd < 0 || stateClosed(s.fd)
}

// awaitRoom has the loop run out when more can be written. What came free
// meanwhile is told at once.
func (s *sock) awaitRoom() error {
	if s.awaits {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	s.awaits = true
	return s.loop.control(unix.EPOLL_CTL_MOD, s, heard|unix.EPOLLOUT)
}

func (s *sock) hungUp() bool { return s.hup.Load() }

func (s *sock) close() { s.end(false) }
func (s *sock) reset() { s.end(true) }
func (s *sock) abort() { s.in.m.fail(errReset) }

func (s *sock) end(reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	s.loop.forget(s)
	if reset {
		unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(s.fd)
	s.fd = -1
}

// detach takes the socket out of the runtime's poller: in both, each message
// would wake threads of the runtime for nobody.
func (s *socket) detach(l *loop, in, out *direction) (*sock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tcp, ok := s.conn.(*net.TCPConn)
	if s.aborted || !ok {
		return nil, net.ErrClosed
	}
	rc, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	k := &sock{in: in, out: out}
	var dup error
	if err := rc.Control(func(fd uintptr) { k.fd, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, fmt.Errorf("taking over a socket: %w", dup)
	}
	if err := l.watch(k); err != nil {
		unix.Close(k.fd)
		return nil, err
	}
	tcp.Close()
	s.raw = k
	return k, nil
}

// attach gives the socket back to the runtime's poller.
func (s *socket) attach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.raw.(*sock)
	if !ok {
		return net.ErrClosed
	}
	if s.aborted {
		k.reset()
		return net.ErrClosed
	}
	k.mu.Lock()
	fd := k.fd
	k.fd = -1
	k.mu.Unlock()
	unix.EpollCtl(k.loop.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	k.loop.forget(k)
	s.raw = nil
	f := os.NewFile(uintptr(fd), "tunnel")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("giving back a socket: %w", err)
	}
	s.conn = c
	return nil
}
