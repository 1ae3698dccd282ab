package proxy

import (
	"io"
	"net/http"
	"sync"
)

// copyBuffers hold what is between a read and a write.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// answerHead sends the head of the server's answer on. It is not flushed.
func (x *exchange) answerHead(res *http.Response) {
	h := x.w.Header()
	removeHopByHop(res.Header)
	for name, values := range res.Header {
		h[name] = values
	}
	// What the server did not say is not said for it.
	for _, name := range [...]string{"Date", "Content-Type"} {
		if _, ok := h[name]; !ok {
			h[name] = nil
		}
	}
	for name := range res.Trailer {
		h.Add("Trailer", name)
	}
	x.started, x.status = true, res.StatusCode
	x.w.WriteHeader(res.StatusCode)
}

// answerBody sends the body of the server's answer on. Nothing waits for more:
// what was written is flushed before a read that may block. ready reports
// whether the next read does not.
func (x *exchange) answerBody(res *http.Response, ready func() bool) error {
	announced := len(res.Trailer)
	if res.Body != http.NoBody && res.ContentLength != 0 {
		if err := x.copyAnswer(res.Body, ready); err != nil {
			return err
		}
	}
	return x.answerTrailers(res, announced)
}

func (x *exchange) copyAnswer(body io.Reader, ready func() bool) error {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	flusher := http.NewResponseController(x.w)
	for unsent := true; ; {
		if unsent && !ready() {
			if x.entry.Revoked() {
				return errTakenBack
			}
			if err := flusher.Flush(); err != nil {
				return errGone
			}
			unsent = false
		}
		n, err := body.Read(buf[:])
		if n > 0 {
			if x.entry.Revoked() {
				return errTakenBack
			}
			if _, err := x.w.Write(buf[:n]); err != nil {
				return errGone
			}
			x.in.Add(int64(n))
			unsent = true
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) answerTrailers(res *http.Response, announced int) error {
	if len(res.Trailer) == 0 {
		return nil
	}
	if x.entry.Revoked() {
		return errTakenBack
	}
	if err := http.NewResponseController(x.w).Flush(); err != nil { // a body with trailers has no length
		return errGone
	}
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	h := x.w.Header()
	for name, values := range res.Trailer {
		h[prefix+name] = values
	}
	return nil
}
