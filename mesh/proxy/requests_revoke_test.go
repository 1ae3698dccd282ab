package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"bulkhead/mesh/flow"
)

// ticks answers with a line every millisecond until its client is gone, and says
// then that it ended.
func ticks(ended chan<- string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- r.URL.Path }()
		for n := 0; ; n++ {
			if _, err := fmt.Fprintf(w, "%d\n", n); err != nil || r.Context().Err() != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	}
}

// counting reads lines that count up without a gap until an error, and returns how
// many there were.
func counting(r io.Reader, read *atomic.Int64) error {
	lines := bufio.NewReader(r)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if line != fmt.Sprintf("%d\n", n) {
			return fmt.Errorf("line %d is %q", n, line)
		}
		read.Add(1)
	}
}

// TestRevokeRequest: what a new generation denies ends at once; the stream beside
// it, with HTTP/2 on the same connection, does not notice.
func TestRevokeRequest(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		ended := make(chan string, 10)
		server := newWebServer(t, ticks(ended))
		i := newInspection(t, server.addr(), "GET /a", "GET /b")
		c := i.client(version)
		var read [2]atomic.Int64
		var results [2]chan error
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for n, path := range []string{"/a", "/b"} {
			res, err := c.Do(request(t, "GET", i.url(path), nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			results[n] = make(chan error, 1)
			go func() { results[n] <- counting(res.Body, &read[n]) }()
		}
		for read[0].Load() < 10 || read[1].Load() < 10 {
			time.Sleep(time.Millisecond)
		}
		if e := i.allow("GET /b"); e.Closed != 1 || e.Kept != 1 {
			t.Fatalf("%+v", e)
		}
		select {
		case err := <-results[0]:
			if err == nil || err == io.EOF {
				t.Errorf("the denied answer looks complete: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the denied answer goes on")
		}
		if path := <-ended; path != "/a" {
			t.Errorf("%s ended", path)
		}
		before := read[1].Load()
		for end := time.Now().Add(5 * time.Second); read[1].Load() < before+50; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the allowed answer stands still")
			}
		}
		if conns := len(server.conns); version == 2 && conns != 1 {
			t.Errorf("%d connections", conns)
		}
		rec := i.records.until(t, "revocation", func(r flow.Record) bool { return r.Verdict == "deny" })
		if rec.Event != flow.Request || rec.Generation != 2 || rec.Why == "" || rec.BytesIn == 0 {
			t.Errorf("%+v", rec)
		}
	})
}

// TestRevokeSilent: it also ends what hangs: a server that says nothing, a client
// that reads nothing, a body that does not come.
func TestRevokeSilent(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		ended := make(chan bool, 1)
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
			defer func() { ended <- true }()
			switch r.URL.Path {
			case "/silent":
				<-r.Context().Done()
			case "/flood":
				for r.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 32<<10)); err != nil {
						return
					}
				}
			case "/upload":
				_, err := io.Copy(io.Discard, r.Body)
				if err == nil {
					t.Error("the upload looks complete")
				}
			}
		})
		for _, path := range []string{"/silent", "/flood", "/upload"} {
			i := newInspection(t, server.addr(), "PUT")
			body, w := io.Pipe()
			go w.Write([]byte("x"))
			r := request(t, "PUT", i.url(path), body)
			if path != "/upload" {
				r = request(t, "PUT", i.url(path), nil)
			}
			before := len(server.requests())
			result := make(chan error, 1)
			go func() {
				res, err := i.client(version).Do(r)
				if err == nil && path == "/flood" {
					<-ended
					ended <- true
					_, err = io.Copy(io.Discard, res.Body)
				}
				if err == nil {
					err = fmt.Errorf("status %d", res.StatusCode)
					if res.StatusCode == 200 {
						err = nil
					}
				}
				result <- err
			}()
			for len(server.requests()) == before {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(30 * time.Millisecond)
			if e := i.allow(); e.Closed != 1 {
				t.Errorf("%s: %+v", path, e)
			}
			w.CloseWithError(errors.New("enough")) // or the client waits for it
			if err := <-result; err == nil {
				t.Errorf("%s: no error", path)
			}
			<-ended
		}
	})
}

// TestGenerationsWhileRequestsRun: requests are made while two generations take
// turns. None is answered that was denied all the time, and none is left.
func TestGenerationsWhileRequestsRun(t *testing.T) {
	bothVersions(t, func(t *testing.T, version int) {
		server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		i := newInspection(t, server.addr(), "POST /always", "POST /sometimes")
		c := i.client(version)
		stop := make(chan bool)
		done := make(chan bool)
		go func() {
			defer close(done)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n%2 == 0 {
					i.allow("POST /always")
				} else {
					i.allow("POST /always", "POST /sometimes")
				}
			}
		}()
		errs := make(chan error, 8)
		for worker := range 8 {
			go func() {
				for n := range 200 {
					path, want := "/always", 200
					if worker%2 == 0 {
						path = "/sometimes"
					}
					if n%10 == 9 {
						path, want = "/never", 403
					}
					res, err := c.Post(i.url(path), "", strings.NewReader("hello"))
					if err != nil {
						if path != "/sometimes" && version == 2 {
							errs <- fmt.Errorf("%s: %w", path, err)
							return
						}
						continue
					}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if path != "/sometimes" && res.StatusCode != want {
						errs <- fmt.Errorf("%s: %d", path, res.StatusCode)
						return
					}
				}
				errs <- nil
			}()
		}
		for range 8 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		close(stop)
		<-done
	})
}

// TestWebSocket: after the upgrade the connection is that request, both ways and
// until it is denied.
func TestWebSocket(t *testing.T) {
	server := newWebServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, "no upgrade")
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
		rw.Flush()
		io.Copy(c, rw.Reader)
	})
	i := newInspection(t, server.addr(), "GET /ws", "GET /other")
	ask := func(path, headers, more string) (*bufio.Reader, *http.Response, io.Writer) {
		c := i.dial()
		io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: b\r\n"+headers+"\r\n"+more)
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(path, err)
		}
		return r, res, c
	}
	upgrade := "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
	if _, res, _ := ask("/denied", upgrade, ""); res.StatusCode != 403 {
		t.Error(res.StatusCode)
	}
	for _, headers := range []string{
		"Upgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
		"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n", "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n", upgrade + "Upgrade: x\r\n",
		upgrade + "Content-Length: 1\r\n",
	} {
		if _, res, _ := ask("/ws", headers, "x"); res.StatusCode != 200 {
			t.Errorf("%q: %d", headers, res.StatusCode)
		}
	}
	r, res, c := ask("/ws", upgrade, "early")
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-WebSocket-Accept") != "x" {
		t.Fatal(res.StatusCode, res.Header)
	}
	got := make([]byte, len("helloearly"))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "helloearly" {
		t.Fatalf("%q %v", got, err)
	}
	io.WriteString(c, "GET /secret HTTP/1.1\r\n\r\n") // opaque: it comes back
	if line, _ := r.ReadString('\n'); line != "GET /secret HTTP/1.1\r\n" {
		t.Errorf("%q", line)
	}
	r.ReadString('\n')
	other, res, oc := ask("/other", upgrade, "")
	other.Discard(5)
	if e := i.allow("GET /other"); e.Closed != 1 || e.Kept != 1 {
		t.Errorf("%+v", e)
	}
	if _, err := r.ReadByte(); err == nil || err == io.EOF {
		t.Errorf("the denied one: %v", err)
	}
	io.WriteString(oc, "still\n")
	if line, err := other.ReadString('\n'); line != "still\n" {
		t.Error(line, err, res.StatusCode)
	}
	i.records.until(t, "revocation", func(r flow.Record) bool { return r.Verdict == "deny" && r.Status == 101 && r.BytesIn > 0 })
	c2, _, w := ask("/other", upgrade, "")
	w.(interface{ CloseWrite() error }).CloseWrite()
	if rest, err := io.ReadAll(c2); err != nil || string(rest) != "hello" {
		t.Errorf("half-close: %q %v %+v", rest, err, i.records.all()[len(i.records.all())-1])
	}
}

// bytesCodec sends messages of gRPC as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                       { return "bytes" }
func (bytesCodec) Marshal(v any) ([]byte, error)      { return []byte(*v.(*string)), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*string) = string(data); return nil }
func echoStream(_ any, s grpc.ServerStream) error {
	_ = s.SetHeader(metadata.Pairs("x-head", "yes"))
	s.SetTrailer(metadata.Pairs("x-tail", "yes"))
	for {
		var m string
		if err := s.RecvMsg(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if m == "fail" {
			return status.Error(codes.DataLoss, "lost: ü%")
		}
		if err := s.SendMsg(&m); err != nil {
			return err
		}
	}
}

func grpcPair(t *testing.T, may ...string) (*inspection, *grpc.ClientConn) {
	s := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(echoStream))
	front := newListener(t)
	go s.Serve(front)
	t.Cleanup(s.Stop)
	i := newInspection(t, front.Addr().String(), may...)
	c, err := grpc.NewClient("passthrough:///"+i.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return i, c
}

var bidi = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

func TestGRPC(t *testing.T) {
	i, c := grpcPair(t, "POST /p.S/Unary", "POST /p.S/Stream", "POST /p.S/Other")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	in, out := "hello", ""
	var head, tail metadata.MD
	if err := c.Invoke(ctx, "/p.S/Unary", &in, &out, grpc.Header(&head), grpc.Trailer(&tail)); err != nil || out != in {
		t.Fatal(out, err)
	}
	if fmt.Sprint(head["x-head"], tail["x-tail"]) != "[yes] [yes]" {
		t.Error(head, tail)
	}
	in = "fail"
	if err := c.Invoke(ctx, "/p.S/Unary", &in, &out); status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), "lost: ü%") {
		t.Error(err)
	}
	err := c.Invoke(ctx, "/p.S/Denied", &in, &out)
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "the nearest is flow a → b/api") {
		t.Error(err)
	}
	denied, err := c.NewStream(ctx, bidi, "/p.S/Denied")
	if err != nil {
		t.Fatal(err)
	}
	if err := denied.RecvMsg(&out); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	revoked, err := c.NewStream(ctx, bidi, "/p.S/Stream")
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := c.NewStream(ctx, bidi, "/p.S/Other")
	talk := func(s grpc.ClientStream, n int) error {
		m := fmt.Sprint("message ", n, strings.Repeat("x", n*1000))
		if err := s.SendMsg(&m); err != nil {
			return err
		}
		if err := s.RecvMsg(&out); err != nil {
			return err
		}
		if out != m {
			return errors.New("not the same message")
		}
		return nil
	}
	for n := range 50 {
		if err := errors.Join(talk(revoked, n), talk(kept, n)); err != nil {
			t.Fatal(err)
		}
	}
	if e := i.allow("POST /p.S/Other"); e.Closed != 1 {
		t.Errorf("%+v", e)
	}
	if err := revoked.RecvMsg(&out); err == nil || err == io.EOF {
		t.Error("the revoked stream goes on: ", err)
	}
	for n := range 50 {
		if err := talk(kept, n); err != nil {
			t.Fatal(err)
		}
	}
	_ = kept.CloseSend()
	if err := kept.RecvMsg(&out); err != io.EOF {
		t.Error(err)
	}
	i.records.until(t, "failed call", func(r flow.Record) bool { return r.Status == int(codes.DataLoss) && r.Verdict == "allow" })
	i.records.until(t, "denied call", func(r flow.Record) bool { return r.Status == grpcDenied && r.Event == flow.Deny })
	i.records.until(t, "revoked call", func(r flow.Record) bool { return r.Event == flow.Request && r.Verdict == "deny" && r.Generation == 2 })
}

func TestGRPCServerIsNotThere(t *testing.T) {
	ln := newListener(t)
	ln.Close()
	i := newInspection(t, ln.Addr().String(), "POST")
	c, err := grpc.NewClient("passthrough:///"+i.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, out := "x", ""
	if err := c.Invoke(context.Background(), "/p.S/M", &in, &out); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "does not listen") {
		t.Error(err)
	}
}
