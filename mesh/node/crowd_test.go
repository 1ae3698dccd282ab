package node

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A crowd is the two ends of many streams, in a process of its own: an open file
// is an end, and the number of open files of a process is limited. The test asks
// one question at a time, as a line of JSON, and reads one answer.

// crowdQuestion is one of its fields.
type crowdQuestion struct {
	Serve *crowdServe  `json:",omitempty"`
	Open  []crowdOpen  `json:",omitempty"`
	Hurry *crowdHurry  `json:",omitempty"`
	Gone  *crowdTarget `json:",omitempty"`
}

// crowdServe asks for a server in the network of a process.
type crowdServe struct{ PID, Port int }

type crowdOpen struct {
	ID  uint32
	PID int // in whose network the client is, 0 for this one's own
	To  netip.AddrPort
}

type crowdHurry struct {
	IDs   []uint32
	Every time.Duration // between two frames of a stream
}

// crowdTarget asks about the end of streams: it waits until they have ended, and
// until all others have carried another frame.
type crowdTarget struct{ IDs []uint32 }

type crowdAnswer struct {
	Error               string `json:",omitempty"`
	LastByte, LastClose int64  // Unix nanoseconds
}

const (
	crowdPort = 21000 // of the first server
	frameSize = 64
)

// stream is one open connection on which numbered frames travel to a server and
// back. Whoever reads checks that no number is missing.
type stream struct {
	id     uint32
	conn   net.Conn
	every  atomic.Int64  // pause between two frames
	kick   chan struct{} // the pause has changed
	last   atomic.Int64  // when a byte arrived, at either end
	frames atomic.Int64  // that came back
	done   chan struct{} // closed when it has ended, at
	ended  atomic.Int64
	broken atomic.Pointer[string]
}

type crowdMembers struct{ streams sync.Map } // by number

// serveCrowd is the process of a crowd.
func serveCrowd([]string) {
	c := &crowdMembers{}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var q crowdQuestion
		if in.Decode(&q) != nil {
			return
		}
		var a crowdAnswer
		var err error
		switch {
		case q.Serve != nil:
			err = c.serve(q.Serve)
		case q.Open != nil:
			err = c.open(q.Open)
		case q.Hurry != nil:
			for _, id := range q.Hurry.IDs {
				c.stream(id).hurry(q.Hurry.Every)
			}
		case q.Gone != nil:
			a, err = c.gone(q.Gone.IDs)
		}
		if err != nil {
			a.Error = err.Error()
		}
		out.Encode(a)
	}
}

func (c *crowdMembers) stream(id uint32) *stream {
	s, _ := c.streams.Load(id)
	return s.(*stream)
}

func (c *crowdMembers) serve(q *crowdServe) error {
	return inside(q.PID, func() error {
		l, err := net.Listen("tcp", fmt.Sprint(":", q.Port))
		if err == nil {
			go c.accept(l)
		}
		return err
	})
}

// open connects streams, a few workloads at a time.
func (c *crowdMembers) open(list []crowdOpen) error {
	byPID := map[int][]crowdOpen{}
	for _, o := range list {
		byPID[o.PID] = append(byPID[o.PID], o)
	}
	var wait sync.WaitGroup
	errs := make(chan error, len(byPID))
	turn := make(chan struct{}, 8)
	var opened []*stream
	var mu sync.Mutex // guards opened
	for pid, list := range byPID {
		turn <- struct{}{}
		wait.Go(func() {
			defer func() { <-turn }()
			errs <- insideOr(pid, func() error {
				for _, o := range list {
					conn, err := patientDial(o.To)
					if err != nil {
						return err
					}
					s := &stream{id: o.ID, conn: conn, kick: make(chan struct{}, 1), done: make(chan struct{})}
					s.every.Store(int64(time.Second))
					c.streams.Store(o.ID, s)
					mu.Lock()
					opened = append(opened, s)
					mu.Unlock()
					go s.run()
				}
				return nil
			})
		})
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return c.progress(opened, map[*stream]int64{})
}

func insideOr(pid int, f func() error) error {
	if pid == 0 {
		return f()
	}
	return inside(pid, f)
}

// patientDial tries until a connection carries bytes: after a release it takes a
// moment until there are certificates again. Frames begin after it, at number 0.
func patientDial(to netip.AddrPort) (conn net.Conn, err error) {
	for range 50 {
		if conn, err = (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp", to.String()); err == nil {
			hello := make([]byte, 1)
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err = conn.Write(hello); err == nil {
				_, err = io.ReadFull(conn, hello)
			}
			if err == nil {
				return conn, conn.SetDeadline(time.Time{})
			}
			conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s: %w", to, err)
}

// progress waits until each stream has carried more than it had.
func (c *crowdMembers) progress(list []*stream, had map[*stream]int64) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		i := slices.IndexFunc(list, func(s *stream) bool { return s.frames.Load() <= had[s] })
		if i < 0 {
			return nil
		}
		s := list[i]
		if says := s.broken.Load(); says != nil {
			return fmt.Errorf("stream %d: %s", s.id, *says)
		}
		if s.ended.Load() != 0 {
			return fmt.Errorf("stream %d ended after %d frames", s.id, s.frames.Load())
		}
		if time.Now().After(end) {
			return fmt.Errorf("stream %d has carried nothing after frame %d for 20 s", s.id, s.frames.Load())
		}
	}
}

func (c *crowdMembers) gone(ids []uint32) (a crowdAnswer, err error) {
	for _, id := range ids {
		select {
		case <-c.stream(id).done:
		case <-time.After(5 * time.Second):
			return a, fmt.Errorf("stream %d is still open", id)
		}
	}
	time.Sleep(50 * time.Millisecond) // a byte that is late is counted
	var others []*stream
	had := map[*stream]int64{}
	c.streams.Range(func(_, v any) bool {
		s := v.(*stream)
		if says := s.broken.Load(); says != nil {
			err = fmt.Errorf("stream %d: %s", s.id, *says)
		}
		if slices.Contains(ids, s.id) {
			a.LastByte, a.LastClose = max(a.LastByte, s.last.Load()), max(a.LastClose, s.ended.Load())
		} else {
			others = append(others, s)
			had[s] = s.frames.Load()
		}
		return true
	})
	if err != nil {
		return a, err
	}
	return a, c.progress(others, had)
}

func (s *stream) fail(format string, args ...any) {
	says := fmt.Sprintf(format, args...)
	s.broken.CompareAndSwap(nil, &says)
}

func frame(b []byte, id, n uint32) {
	binary.BigEndian.PutUint32(b, id)
	binary.BigEndian.PutUint32(b[4:], n)
	for i := 8; i < frameSize; i++ {
		b[i] = byte(n) + byte(i)
	}
}

// right reports whether b is frame n of a stream.
func right(b []byte, id, n uint32) bool {
	var want [frameSize]byte
	frame(want[:], id, n)
	return string(want[:]) == string(b)
}

// run is the client: it sends a frame, and reads it back.
func (s *stream) run() {
	defer close(s.done)
	defer func() { s.ended.Store(time.Now().UnixNano()) }()
	defer s.conn.Close()
	var out, in [frameSize]byte
	for n := uint32(0); ; n++ {
		frame(out[:], s.id, n)
		if _, err := s.conn.Write(out[:]); err != nil {
			return
		}
		got, err := io.ReadFull(s.conn, in[:])
		if got > 0 {
			s.last.Store(time.Now().UnixNano())
		}
		if err != nil {
			return
		}
		if !right(in[:], s.id, n) {
			s.fail("frame %d came back as %x", n, in)
			return
		}
		s.frames.Add(1)
		select {
		case <-time.After(time.Duration(s.every.Load())):
		case <-s.kick:
			// Not all at the same time: bytes must be on their way at any moment.
			time.Sleep(rand.N(time.Duration(s.every.Load())))
		}
	}
}

// hurry changes the pause between frames from now on.
func (s *stream) hurry(every time.Duration) {
	s.every.Store(int64(every))
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (c *crowdMembers) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go c.answer(conn)
	}
}

// answer is the server: it checks each frame and sends it back.
func (c *crowdMembers) answer(conn net.Conn) {
	defer conn.Close()
	var b [frameSize]byte
	var s *stream
	if _, err := io.CopyN(conn, conn, 1); err != nil {
		return
	}
	for n := uint32(0); ; n++ {
		got, err := io.ReadFull(conn, b[:])
		if s != nil && got > 0 {
			s.last.Store(time.Now().UnixNano())
		}
		if err != nil {
			return
		}
		if s == nil {
			s = c.stream(binary.BigEndian.Uint32(b[:]))
		}
		if !right(b[:], s.id, n) {
			s.fail("frame %d arrived as %x", n, b)
		}
		if _, err := conn.Write(b[:]); err != nil {
			return
		}
	}
}

// asker is the test's end.
type asker struct {
	t   testing.TB
	in  *json.Encoder
	out *json.Decoder
}

// startCrowd starts the process, which ends with the test.
func startCrowd(t testing.TB) *asker {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", asWorkload, "crowd")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &asker{t, json.NewEncoder(in), json.NewDecoder(out)}
}

func (a *asker) ask(q crowdQuestion) crowdAnswer {
	a.t.Helper()
	must(a.t, a.in.Encode(q))
	return a.answer()
}

func (a *asker) answer() (answer crowdAnswer) {
	a.t.Helper()
	must(a.t, a.out.Decode(&answer))
	if answer.Error != "" {
		a.t.Fatal(answer.Error)
	}
	return answer
}
