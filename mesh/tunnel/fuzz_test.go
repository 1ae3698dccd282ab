package tunnel

import (
	"bytes"
	"context"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// script is a connection whose other side says in and listens to out.
type script struct {
	in io.Reader

	mu     sync.Mutex // guards the following
	out    bytes.Buffer
	closed bool
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.in.Read(p)
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.out.Write(p)
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// scripted returns a link without TLS whose peer says in, at most chunk bytes at
// a time.
func scripted(in []byte, chunk int) (*link, *script) {
	s := &script{in: &slow{bytes.NewReader(in), chunk}}
	return &link{wire: &wire{socket: socket{conn: s}}, tls: s, peer: id("a"), expires: time.Now().Add(time.Hour)}, s
}

type slow struct {
	r     io.Reader
	chunk int
}

func (s *slow) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.chunk)]) }

func frame(k frameKind, payload []byte) []byte {
	b := make([]byte, headerLen)
	putHeader(b, k, len(payload))
	return append(b, payload...)
}

// FuzzServer lets a peer with an identity say anything. The server accepts only
// what its handler accepted, answers nothing else, and ends.
func FuzzServer(f *testing.F) {
	open, _ := request.encode()
	forbidden := request
	forbidden.Workload = "forbidden"
	denied, _ := forbidden.encode()
	udp := request
	udp.Network = "udp"
	packets, _ := udp.encode()
	fin := frame(frameFin, nil)
	data := frame(frameData, []byte("data"))
	f.Add(bytes.Join([][]byte{open, data, fin, denied, open, fin}, nil), byte(255))
	f.Add(bytes.Join([][]byte{denied, data, open}, nil), byte(3))
	f.Add(bytes.Join([][]byte{packets, frame(framePacket, nil), frame(framePacket, []byte("p")), fin, open, data, data}, nil), byte(1))
	f.Add(bytes.Join([][]byte{open, open}, nil), byte(7))
	f.Add(frame(frameRefuse, Refusal{Code: "x"}.encode()), byte(9))
	f.Fuzz(func(t *testing.T, in []byte, chunk byte) {
		l, peer := scripted(in, 1+int(chunk))
		var accepted, refused int
		s := server{now: time.Now, links: map[*wire]struct{}{}, handle: func(_ context.Context, in *Incoming) {
			if in.Request.valid() != nil || in.Peer != id("a") {
				t.Fatalf("handled %+v", in.Request)
			}
			if in.Request.Workload != "b" {
				refused++
				in.Refuse(Refusal{Code: "denied", Says: "no", Generation: 1})
				if s, err := in.Accept(); s != nil || err == nil {
					t.Fatal("a refused request became a stream")
				}
				return
			}
			s, err := in.Accept()
			if err != nil {
				return
			}
			accepted++
			b := make([]byte, maxDatagram)
			for err == nil {
				if in.Request.Network == "udp" {
					_, err = s.ReadDatagram(b)
				} else {
					_, err = s.Read(b)
				}
			}
			if err == io.EOF {
				s.Close()
			}
		}}
		s.serve(t.Context(), l, "b.z")
		out := peer.out.Bytes()
		for len(out) > 0 {
			k, n, err := parseHeader([headerLen]byte(out))
			if err != nil {
				t.Fatal(err)
			}
			switch k {
			case frameAccept:
				accepted--
			case frameRefuse:
				refused--
				if _, err := decodeRefusal(out[headerLen : headerLen+n]); err != nil {
					t.Fatal(err)
				}
			case frameFin:
			default:
				t.Fatalf("the server said %d", k)
			}
			out = out[headerLen+n:]
		}
		if accepted != 0 || refused > 0 {
			t.Fatalf("%d accepted and %d refused in excess", accepted, refused)
		}
	})
}

// FuzzFrames reads what a peer says in both ways that a stream is read, in which
// the same bytes must arrive; and whatever decodes is encoded back.
func FuzzFrames(f *testing.F) {
	open, _ := request.encode()
	f.Add(open[headerLen:], byte(1))
	f.Add(Refusal{Code: "denied", Says: "why", Rule: "x:1", Generation: 1 << 40}.encode()[headerLen:], byte(1))
	f.Add(bytes.Join([][]byte{frame(frameData, []byte("a")), frame(frameData, make([]byte, 300)), frame(frameFin, nil)}, nil), byte(7))
	f.Add(append(frame(frameData, []byte("a")), 4, 0, 0, 0), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, chunk byte) {
		if r, err := decodeRequest(in); err == nil {
			if b, err := r.encode(); err != nil || !bytes.Equal(b[headerLen:], in) {
				t.Fatalf("%+v is encoded as %q, %v", r, b, err)
			}
		}
		if r, err := decodeRefusal(in); err == nil {
			if again, err := decodeRefusal(r.encode()[headerLen:]); err != nil || again != r {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
		plain, perr := readAll(in, 1+int(chunk), func(s *Stream, _ *link, b []byte) (int, error) { return s.Read(b) })
		relayed, rerr := readAll(in, 1+int(chunk), func(s *Stream, l *link, b []byte) (int, error) {
			n, err := s.gather(l, b)
			if err == nil && s.ended {
				err = io.EOF
			}
			return n, err
		})
		if !bytes.Equal(plain, relayed) || (perr == io.EOF) != (rerr == io.EOF) {
			t.Fatalf("read %q and %v, relayed %q and %v", plain, perr, relayed, rerr)
		}
	})
}

func readAll(in []byte, chunk int, read func(*Stream, *link, []byte) (int, error)) ([]byte, error) {
	l, _ := scripted(in, chunk)
	s := newStream(l, request, func(*link, bool) {})
	var all []byte
	b := make([]byte, 100)
	for {
		n, err := read(s, l, b)
		all = append(all, b[:n]...)
		if err != nil {
			return all, err
		}
	}
}

func TestRequestsAndRefusalsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Request{
			Workload: rapid.StringMatching(`[!-~]{1,255}`).Draw(t, "workload"),
			Network:  rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "network"),
			Port:     rapid.Uint16Min(1).Draw(t, "port"),
			ID:       rapid.StringMatching(`[!-~]{0,255}`).Draw(t, "id"),
			Probe:    rapid.StringMatching(`[!-~]{0,255}`).Draw(t, "probe"),
		}
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeRequest(b[headerLen:]); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v became %+v, %v", r, got, err)
		}
		says := Refusal{rapid.String().Draw(t, "code"), rapid.StringN(-1, -1, 5000).Draw(t, "says"), "", rapid.Uint64().Draw(t, "generation")}
		got, err := decodeRefusal(says.encode()[headerLen:])
		if err != nil || got.Generation != says.Generation || got.Says != printable(says.Says) {
			t.Fatalf("%+v became %+v, %v", says, got, err)
		}
	})
}

func TestInvalidRequestsAreNotSent(t *testing.T) {
	for _, r := range []Request{
		{},
		{Workload: "b", Network: "tcp"},
		{Network: "tcp", Port: 1},
		{Workload: "b", Network: "sctp", Port: 1},
		{Workload: "b\n", Network: "tcp", Port: 1},
		{Workload: "b", Network: "tcp", Port: 1, ID: "a b"},
		{Workload: "b", Network: "tcp", Port: 1, Probe: string(make([]byte, 256))},
	} {
		if _, err := r.encode(); err == nil {
			t.Errorf("%+v is sent", r)
		}
	}
}
