package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/core/policy"
	"bulkhead/mesh/control"
	"bulkhead/mesh/report"
)

// The admin socket is HTTP over a unix socket that only its owner and root can
// open; who asks is what the kernel says of the caller.

// maxQuestion bounds what the admin socket reads.
const maxQuestion = 1 << 20

// QuarantineQuestion asks for a quarantine, or with Preview what it would do.
type QuarantineQuestion struct {
	Target       string `json:"target"`
	Because      string `json:"because"`
	KeepEvidence bool   `json:"keepEvidence,omitempty"`
	Preview      bool   `json:"preview,omitempty"`
}

// ReleaseQuestion asks for the end of a quarantine.
type ReleaseQuestion struct {
	Target  string `json:"target"`
	Because string `json:"because"`
}

type operatorKey struct{}

// serveAdmin serves the admin socket until ctx ends.
func (n *Node) serveAdmin(ctx context.Context) error {
	listener, err := listenPrivately(filepath.Join(n.o.RunDir, SocketName))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", n.adminStatus)
	mux.HandleFunc("GET /v1/flows", n.adminFlows)
	mux.HandleFunc("POST /v1/quarantine", n.adminQuarantine)
	mux.HandleFunc("POST /v1/release", n.adminRelease)
	mux.HandleFunc("POST /v1/probe", n.adminProbe)
	mux.HandleFunc("POST /v1/credential", n.adminCredential)
	mux.HandleFunc("GET /v1/authority", n.adminAuthority)
	mux.HandleFunc("POST /v1/authority", n.adminRotate)
	mux.HandleFunc("GET /v1/authority/bundle", n.adminBundle)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, operatorKey{}, n.operator(c))
		}}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenPrivately listens on a unix socket that only its owner can open.
func listenPrivately(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The folder is private, so that nobody can come in before this.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// operator names who is at the other end, by the kernel's word.
func (n *Node) operator(c net.Conn) string {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return "unknown"
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return "unknown"
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return "unknown"
	}
	return n.o.UserName(int(cred.Uid))
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // whoever hung up does not need it
}

func refuse(w http.ResponseWriter, status int, hint, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(Refused{Says: fmt.Sprintf(format, args...), Hint: hint})
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "use the same version of bulkhead on both ends", "the question cannot be read: %v", err)
		return false
	}
	return true
}

func (n *Node) adminStatus(w http.ResponseWriter, _ *http.Request) { answer(w, n.Status()) }

func (n *Node) adminFlows(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if r.URL.Query().Get("follow") == "" {
		done, cancel := context.WithCancel(ctx)
		cancel()
		ctx = done // what is there, and no more
	}
	from := uint64(1)
	if text := r.URL.Query().Get("from"); text != "" {
		parsed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			refuse(w, http.StatusBadRequest, "", "from=%q is no number", text)
			return
		}
		from = parsed
	}
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	if err := flush.Flush(); err != nil {
		return
	}
	if n.o.Everywhere != nil && n.hasPeers() {
		for rec, err := range n.o.Everywhere(r.Context(), n.started, r.URL.Query().Get("follow") != "") {
			if err != nil {
				n.o.Log.Error("flows of other nodes", "says", err)
				return
			}
			if enc.Encode(rec) != nil || flush.Flush() != nil {
				return
			}
		}
		return
	}
	for rec := range n.flows.Follow(ctx, from) {
		if enc.Encode(rec) != nil || flush.Flush() != nil {
			return
		}
	}
}

// hasPeers reports whether the platform has other nodes.
func (n *Node) hasPeers() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.order != nil && len(n.order.Nodes) > 1
}

func (n *Node) adminQuarantine(w http.ResponseWriter, r *http.Request) {
	var q QuarantineQuestion
	if !read(w, r, &q) || !n.hasControl(w) {
		return
	}
	if q.Preview {
		p, err := n.o.Control.Preview(q.Target)
		if err != nil {
			refuse(w, http.StatusBadRequest, "", "%v", err)
			return
		}
		answer(w, n.scope(p))
		return
	}
	if q.Because == "" {
		refuse(w, http.StatusBadRequest, `say why: --because "…"`, "a quarantine needs a reason")
		return
	}
	effect, err := n.o.Control.Quarantine(r.Context(), policy.Quarantine{Target: q.Target, Because: q.Because,
		Operator: r.Context().Value(operatorKey{}).(string), KeepEvidence: q.KeepEvidence})
	n.effect(w, effect, err)
}

func (n *Node) adminRelease(w http.ResponseWriter, r *http.Request) {
	var q ReleaseQuestion
	if !read(w, r, &q) || !n.hasControl(w) {
		return
	}
	effect, err := n.o.Control.Release(r.Context(), q.Target, q.Because, r.Context().Value(operatorKey{}).(string))
	n.effect(w, effect, err)
}

func (n *Node) effect(w http.ResponseWriter, effect control.Effect, err error) {
	if err != nil {
		refuse(w, http.StatusBadRequest, "", "%v", err)
		return
	}
	out := report.Effect{Generation: effect.Generation, Unchanged: effect.Unchanged, Problems: effect.Problems}
	for _, e := range effect.Nodes {
		out.Nodes = append(out.Nodes, report.NodeEffect{Node: e.Node, Closed: e.Closed, Took: e.Took, After: e.After})
	}
	for _, m := range effect.Missing {
		out.Missing = append(out.Missing, report.MissingNode(m))
	}
	answer(w, out)
}

// CredentialQuestion asks for what another machine needs to join.
type CredentialQuestion struct {
	Node   string         `json:"node"`
	Tunnel netip.AddrPort `json:"tunnel,omitzero"` // where others reach its proxies
}

func (n *Node) adminCredential(w http.ResponseWriter, r *http.Request) {
	var q CredentialQuestion
	if !read(w, r, &q) || !n.hasControl(w) {
		return
	}
	if q.Node == n.o.Name {
		refuse(w, http.StatusBadRequest, "give each machine a name of its own", "%s is the name of this machine", q.Node)
		return
	}
	c, err := n.o.Control.NewCredential(r.Context(), q.Node, q.Tunnel, n.o.Bus)
	if err != nil {
		refuse(w, http.StatusBadRequest, "let other machines in with bulkhead up --listen HOST, or use --bus", "%v", err)
		return
	}
	answer(w, c)
}

// hasControl refuses what only the node that runs control can do.
func (n *Node) hasControl(w http.ResponseWriter) bool {
	if n.o.Control == nil {
		refuse(w, http.StatusConflict, "run it on the machine where control runs", "this node follows a control that runs elsewhere")
		return false
	}
	return true
}
