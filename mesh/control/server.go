package control

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// ServerOptions say how the embedded bus runs.
type ServerOptions struct {
	Dir      string // of the store
	Platform string
	// Listen is the address for nodes elsewhere, over TLS; empty for none: then
	// there is no port, and only this process has the bus.
	Listen string
	Roster *Roster // who may come in
	Vault  Vault   // keeps the key of the server's certificate
	Log    *slog.Logger
}

// Server is the embedded bus. A node comes in by its nkey and may do what a node
// needs and no more.
type Server struct {
	o      ServerOptions
	n      names
	tls    *busIdentity // nil without a port
	secret string       // of control's own connection

	stop context.CancelFunc
	done chan struct{}
	sick chan struct{} // a store says that it cannot write

	mu     sync.Mutex // guards the following
	inner  *server.Server
	closed bool
}

const (
	busReady = 10 * time.Second
	// A store that could not write stays broken; it is opened again when a
	// trial writes, at most this often.
	healPause = 5 * time.Second
	trialSize = 1 << 20
	// maxStore bounds what the bus keeps on disk.
	maxStore = 4 << 30
)

// StartServer starts the bus.
func StartServer(o ServerOptions) (*Server, error) {
	n, err := platformNames(o.Platform)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{o: o, n: n, secret: hex.EncodeToString(secret), stop: stop, done: make(chan struct{}), sick: make(chan struct{}, 1)}
	if o.Listen != "" {
		if s.tls, err = openBusIdentity(o.Vault, o.Platform); err != nil {
			stop()
			return nil, err
		}
	}
	if err := s.start(); err != nil {
		stop()
		return nil, err
	}
	go s.heal(ctx)
	return s, nil
}

func (s *Server) options() (*server.Options, error) {
	o := &server.Options{
		ServerName: "bulkhead", DontListen: true, NoSigs: true, DisableJetStreamBanner: true,
		JetStream: true, StoreDir: s.o.Dir, SyncAlways: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: maxStore,
		CustomClientAuthentication: s, AlwaysEnableNonce: true,
		PingInterval: pingInterval, MaxPingsOut: 2, AuthTimeout: 5, TLSTimeout: 5,
	}
	if s.tls == nil {
		return o, nil
	}
	host, text, err := net.SplitHostPort(s.o.Listen)
	if err != nil {
		return nil, fmt.Errorf("the bus cannot listen on %q: %w", s.o.Listen, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("the bus cannot listen on port %q", text)
	}
	o.DontListen, o.Host, o.Port, o.TLSConfig = false, host, int(port), s.tls.config()
	if port == 0 {
		o.Port = server.RANDOM_PORT
	}
	return o, nil
}

func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return server.ErrServerNotRunning
	}
	if err := os.MkdirAll(s.o.Dir, 0o700); err != nil {
		return err
	}
	o, err := s.options()
	if err != nil {
		return err
	}
	inner, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("the bus cannot start: %w", err)
	}
	log := &busLog{log: s.o.Log, sick: s.sick}
	inner.SetLoggerV2(log, false, false, false)
	inner.Start()
	if !inner.ReadyForConnections(busReady) || !inner.JetStreamEnabled() {
		inner.Shutdown()
		inner.WaitForShutdown()
		return fmt.Errorf("the bus cannot start: %s", log.last())
	}
	if s.tls != nil && s.o.Listen != inner.Addr().String() {
		s.o.Listen = inner.Addr().String() // the port that was free stays ours over a restart
	}
	s.inner = inner
	return nil
}

// heal opens the store again after a disk was full: a stream that once could not
// write refuses everything until then.
func (s *Server) heal(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sick:
		}
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(healPause):
			}
			if err := s.trial(); err != nil {
				s.o.Log.Error("the bus cannot keep anything; what is in force stays in force", "error", err)
				continue
			}
			if err := s.Restart(); err != nil {
				s.o.Log.Error("the bus", "error", err)
				continue
			}
			select { // what was said before it started again is settled
			case <-s.sick:
			default:
			}
			s.o.Log.Info("the bus can write again")
			break
		}
	}
}

// trial writes a little, to see whether that is possible.
func (s *Server) trial() error {
	f, err := os.CreateTemp(s.o.Dir, "trial-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, trialSize))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// Restart stops the bus and starts it again. Connections come back by themselves.
func (s *Server) Restart() error {
	s.shutdown()
	return s.start()
}

func (s *Server) shutdown() {
	s.mu.Lock()
	inner := s.inner
	s.inner = nil
	s.mu.Unlock()
	if inner != nil {
		inner.Shutdown()
		inner.WaitForShutdown()
	}
}

// Close stops the bus.
func (s *Server) Close() {
	s.stop()
	<-s.done
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.shutdown()
}

// InProcessConn gives a connection to the bus that runs now.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	inner := s.inner
	s.mu.Unlock()
	if inner == nil {
		return nil, server.ErrServerNotRunning
	}
	return inner.InProcessConn()
}

// Addr is where the bus listens, empty if it does not.
func (s *Server) Addr() string {
	if s.tls == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.o.Listen
}

// controlUser is the name of control's own connection.
const controlUser = "control"

// Connect returns control's own connection.
func (s *Server) Connect() (*Bus, error) {
	b, err := connect(Access{}, s.o.Platform, "", s.o.Log, nats.InProcessServer(s), nats.UserInfo(controlUser, s.secret))
	if b != nil {
		b.embedded = s
	}
	return b, err
}

// ConnectNode returns the connection of a node in this process.
func (s *Server) ConnectNode(c *Credential) (*Bus, error) {
	return connect(c.Bus, c.Platform, c.Node, s.o.Log, nats.InProcessServer(s))
}

// Check lets a client in. It implements server.Authentication.
func (s *Server) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	o := c.GetOpts()
	if o.Username == controlUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(s.secret)) == 1 {
		c.RegisterUser(&server.User{Username: controlUser})
		return true
	}
	node, ok := s.o.Roster.byBusKey(o.Nkey)
	if !ok || o.Nkey == "" || !signedNonce(o.Nkey, o.Sig, c.GetNonce()) {
		return false
	}
	c.RegisterUser(&server.User{Username: node, Permissions: s.n.permissions(node)})
	return true
}

// expel ends the connections of an nkey that may not come in any more.
func (s *Server) expel(busKey string) error {
	s.mu.Lock()
	inner := s.inner
	s.mu.Unlock()
	if inner == nil {
		return nil
	}
	z, err := inner.Connz(&server.ConnzOptions{Username: true, User: busKey, Limit: 1024})
	if err != nil {
		return err
	}
	for _, c := range z.Conns {
		err = errors.Join(err, inner.DisconnectClientByID(c.Cid))
	}
	return err
}

// signedNonce reports whether a client has the key that it names.
func signedNonce(public, signature string, nonce []byte) bool {
	key, err := nkeys.FromPublicKey(public)
	if err != nil || len(nonce) == 0 {
		return false
	}
	sig, err := decodeSignature(signature)
	return err == nil && key.Verify(nonce, sig) == nil
}

// permissions are what a node may do on the bus: read orders and plans, speak
// under its own name, publish its own records, and read its own inbox. On a
// cluster of your own, give each node these.
func (n names) permissions(node string) *server.Permissions {
	t, err := token(node)
	if err != nil {
		return &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: []string{">"}},
			Subscribe: &server.SubjectPermission{Deny: []string{">"}},
		}
	}
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			n.requests + t, n.reports + t, n.flowSubject + t,
			"$JS.API.DIRECT.GET.KV_" + n.bucket + ".>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{
			n.orderSubject(), n.inbox(t) + ".>",
		}},
	}
}
