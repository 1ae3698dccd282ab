package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"

	"bulkhead/core/netset"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/registry"
)

// exchange is a request and its answer. Its handler owns it.
type exchange struct {
	s     *requestServer
	w     http.ResponseWriter
	r     *http.Request
	began time.Time

	path, query string // of the target, as decided
	verdict     registry.Verdict
	entry       *registry.Entry
	cancel      context.CancelFunc

	out, in atomic.Int64 // bytes of the bodies, to the server and back
	started bool         // an answer has begun
	status  int

	mu        sync.Mutex // guards the following
	answering bool       // w is the handler's alone
	done      bool       // w is no longer ours
}

func (s *requestServer) handle(w http.ResponseWriter, r *http.Request) {
	x := &exchange{s: s, w: w, r: r, began: s.now()}
	if why := x.target(); why != "" {
		x.refuseMalformed(why)
		return
	}
	host, ok := hostName(r.Host)
	if !ok || host == "" && r.ProtoAtLeast(1, 1) {
		x.refuseMalformed("its host is no plain name or address")
		return
	}
	x.entry, x.verdict = s.open(netset.Request{Method: r.Method, Host: host, Path: x.path})
	defer x.entry.Done()
	if !x.verdict.Allowed {
		x.entry.Done()
		x.refuse(x.verdict)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	x.cancel = cancel
	x.entry.OnRevoke(x.revoke)
	defer x.release()
	if err := x.forward(ctx); err != nil {
		x.fail(err)
		return
	}
	x.record(nil)
}

// target splits the target of the request. It says why not, if what it is has
// no one reading.
func (x *exchange) target() (why string) {
	r := x.r
	switch {
	case r.Method == http.MethodConnect:
		return "CONNECT asks for a tunnel, in which nothing could be decided"
	case r.Method == "" || !httpguts.ValidHeaderFieldName(r.Method):
		return "its method is no token"
	case !strings.HasPrefix(r.RequestURI, "/") || strings.HasPrefix(r.RequestURI, "//"):
		return "its target is no path"
	}
	for i := range len(r.RequestURI) {
		if b := r.RequestURI[i]; b <= ' ' || b == 0x7f || b == '#' {
			return "its target has a character that no target has"
		}
	}
	x.path, x.query, _ = strings.Cut(r.RequestURI, "?")
	return ""
}

func (x *exchange) forward(ctx context.Context) error {
	if x.r.ProtoMajor == 2 {
		return x.forward2(ctx)
	}
	return x.forward1(ctx)
}

// The errors of an exchange that are not of the network.
var (
	errTakenBack = errors.New("the policy took it back")
	errGone      = errors.New("the client went away")
	errNoAnswer  = errors.New("its server gave no valid HTTP answer")
	errBody      = errors.New("its body does not end as its framing says")
)

// revoke ends the request, wherever it hangs. With HTTP/2 it is one stream; with
// HTTP/1 the connection has nothing else.
func (x *exchange) revoke(registry.Reason) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done {
		return
	}
	x.cancel()
	if x.r.ProtoMajor != 2 {
		x.s.in.reset()
		return
	}
	now := http.NewResponseController(x.w)
	_ = now.SetWriteDeadline(time.Unix(1, 0)) // resets the stream
	_ = now.SetReadDeadline(time.Unix(1, 0))
}

// release says that w is no longer ours: the parser takes it back.
func (x *exchange) release() {
	x.mu.Lock()
	x.done = true
	x.mu.Unlock()
}

// fail ends an exchange that was allowed and broke. The client gets an answer if
// none has begun, otherwise the connection or stream is reset, so that it does
// not take a part for the whole. It may not return.
func (x *exchange) fail(err error) {
	gone := x.r.Context().Err() != nil
	if gone && !x.entry.Revoked() {
		err = errGone
	}
	silent := x.started || gone || x.entry.Revoked() || errors.Is(err, errAbandoned)
	if !silent {
		x.status = x.failure(err)
	}
	x.record(err)
	if silent {
		x.abort()
	}
	said := refusal{Error: "unavailable", Why: plain(err)}
	switch {
	case x.status == grpcUnavailable:
		x.answerGRPC(x.status, said.Why)
		return
	case x.status == http.StatusBadRequest:
		said.Error = "malformed"
	}
	if x.r.ProtoMajor != 2 && x.r.ContentLength != 0 {
		x.w.Header()["Connection"] = []string{"close"} // nobody knows where the body ends
	}
	x.answerJSON(x.status, said)
}

// failure is the status of an answer that is ours.
func (x *exchange) failure(err error) int {
	switch {
	case x.grpc():
		return grpcUnavailable
	case errors.Is(err, errBody):
		return http.StatusBadRequest
	}
	return http.StatusBadGateway
}

// abort does not return.
func (x *exchange) abort() {
	if x.r.ProtoMajor != 2 {
		x.s.in.reset()
	}
	panic(http.ErrAbortHandler)
}

// plain says what an error is without anything that came from a peer.
func plain(err error) string {
	var network *net.OpError
	switch {
	case errors.Is(err, errTakenBack), errors.Is(err, errGone), errors.Is(err, errNoAnswer), errors.Is(err, errBody):
		return err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errAbandoned):
		return "its server closed the connection"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "its server does not listen"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "its server did not answer in time"
	case errors.As(err, &network):
		return "its server: " + network.Op + " failed"
	}
	return errNoAnswer.Error()
}

// refusal is the body of an answer that is ours and not the server's.
type refusal struct {
	Error      string `json:"error"` // denied, malformed or unavailable
	Why        string `json:"why"`
	Rule       string `json:"rule,omitempty"`
	Generation uint64 `json:"generation,omitempty"`
}

// refuse answers a request that the policy denies. The connection stays usable.
func (x *exchange) refuse(v registry.Verdict) {
	why := v.Why()
	x.status = http.StatusForbidden
	if x.grpc() {
		x.status = grpcDenied
	}
	x.s.record(flow.Record{
		Event: flow.Deny, Verdict: "deny", Rule: registry.RuleOf(v.Nearest), Generation: v.Generation,
		Why: why, Method: methodName(x.r.Method), Status: x.status,
	})
	if x.grpc() {
		x.answerGRPC(grpcDenied, why)
		return
	}
	x.answerJSON(http.StatusForbidden, refusal{Error: "denied", Why: why, Rule: registry.RuleOf(v.Nearest), Generation: v.Generation})
}

// refuseMalformed answers a request about which nobody can decide.
func (x *exchange) refuseMalformed(why string) {
	x.s.record(flow.Record{
		Event: flow.Deny, Verdict: "deny", Why: why, Method: methodName(x.r.Method), Status: http.StatusBadRequest,
	})
	x.answerJSON(http.StatusBadRequest, refusal{Error: "malformed", Why: why})
}

func (x *exchange) answerJSON(status int, body refusal) {
	client := http.NewResponseController(x.w)
	text, _ := json.Marshal(body) // of strings and a number: it cannot fail
	h := x.w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(text) + 1)}
	unread := x.r.ProtoMajor != 2 && x.r.ContentLength != 0
	if unread {
		_ = client.EnableFullDuplex() // otherwise the answer would wait for the body
		if x.r.ContentLength > maxUnread {
			h["Connection"] = []string{"close"}
		}
	}
	x.w.WriteHeader(status)
	_, _ = x.w.Write(append(text, '\n')) // a client that went away needs no answer
	if unread && h["Connection"] == nil && x.r.Header["Expect"] == nil && client.Flush() == nil {
		// The next request begins where this body ends.
		_, _ = io.CopyN(io.Discard, x.r.Body, maxUnread+1)
	}
}

// maxUnread is how much of a body that nobody wants is read away to keep a
// connection.
const maxUnread = 256 << 10

// The codes of gRPC that we answer ourselves.
const (
	grpcDenied      = 7
	grpcUnavailable = 14
)

func (x *exchange) grpc() bool {
	return x.r.ProtoMajor == 2 && strings.HasPrefix(x.r.Header.Get("Content-Type"), "application/grpc")
}

// answerGRPC answers with a status and nothing else.
func (x *exchange) answerGRPC(code int, message string) {
	h := x.w.Header()
	h["Content-Type"] = []string{"application/grpc"}
	h["Content-Length"] = nil
	h["Grpc-Status"] = []string{strconv.Itoa(code)}
	h["Grpc-Message"] = []string{grpcMessage(message)}
	x.w.WriteHeader(http.StatusOK)
}

// grpcMessage encodes a message as gRPC has it in a header.
func grpcMessage(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// record records the end of an allowed request, once.
func (x *exchange) record(err error) {
	rec := flow.Record{
		Event: flow.Request, Verdict: "allow", Rule: registry.RuleOf(x.verdict.Permission), Generation: x.verdict.Generation,
		BytesOut: x.out.Load(), BytesIn: x.in.Load(), Duration: x.s.now().Sub(x.began),
		Method: methodName(x.r.Method), Status: x.status,
	}
	switch {
	case x.entry.Revoked():
		reason := x.entry.Reason()
		rec.Verdict, rec.Rule, rec.Generation, rec.Why = "deny", reason.Rule, reason.Generation, reason.Says
	case err != nil:
		rec.Why = plain(err)
		if !x.started {
			rec.Event = flow.Fail
		}
	}
	x.s.record(rec)
}

// methodName bounds what a client can write into a record.
func methodName(m string) string { return m[:min(len(m), 20)] }
