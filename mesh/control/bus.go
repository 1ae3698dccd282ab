package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

// Bus is a connection to the bus. It reconnects for ever; what is asked while it
// is away fails.
type Bus struct {
	nc *nats.Conn
	js jetstream.JetStream
	n  names
	// embedded is the server in this process, if it is one.
	embedded *Server
}

const (
	// A bus that does not answer for two pings is taken for lost.
	pingInterval = 3 * time.Second
	// askTimeout bounds one question to the bus.
	askTimeout = 3 * time.Second
	// Between attempts to reconnect there is a pause that doubles up to maxPause.
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// Connect connects control to a bus that listens somewhere. It returns at once; the
// connection comes about when the bus is there.
func Connect(a Access, platform string, log *slog.Logger) (*Bus, error) {
	return dial(a, platform, "", log)
}

// ConnectNode is Connect for a node.
func ConnectNode(c *Credential, log *slog.Logger) (*Bus, error) {
	return dial(c.Bus, c.Platform, c.Node, log)
}

func dial(a Access, platform, node string, log *slog.Logger) (*Bus, error) {
	if len(a.URLs) == 0 {
		return nil, errors.New("there is no address of a bus: name one such as nats://bus.example:4222")
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	opts := []nats.Option{func(o *nats.Options) error { o.Servers = a.URLs; return nil }}
	if a.Roots != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(a.Roots)) {
			return nil, errors.New("the root certificates of the bus hold no certificate")
		}
		opts = append(opts, nats.Secure(&tls.Config{RootCAs: roots, ServerName: a.Name, MinVersion: tls.VersionTLS13}))
	}
	if a.Credentials != "" {
		opts = append(opts, nats.UserCredentialBytes([]byte(a.Credentials)))
	}
	return connect(a, platform, node, log, opts...)
}

// connect makes a Bus for a node, or for control if node is empty.
func connect(a Access, platform, node string, log *slog.Logger, opts ...nats.Option) (*Bus, error) {
	n, err := platformNames(platform)
	if err != nil {
		return nil, err
	}
	t := ""
	if node != "" {
		if t, err = token(node); err != nil {
			return nil, fmt.Errorf("node %w", err)
		}
	}
	if a.Seed != "" && a.Credentials == "" {
		pair, err := nkeys.FromSeed([]byte(a.Seed))
		if err != nil {
			return nil, err
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Nkey(public, pair.Sign))
	}
	opts = append(opts,
		nats.Name("bulkhead "+cmp.Or(node, "control")),
		nats.CustomInboxPrefix(n.inbox(t)),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), // nothing is kept to be sent later: it would be old
		nats.CustomReconnectDelay(pause),
		nats.IgnoreAuthErrorAbort(), // a node may be let in again
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(askTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the bus is away; what is in force stays in force", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("the bus is back", "server", nc.ConnectedServerName()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("bus", "error", err) }),
	)
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("the bus: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(askTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &Bus{nc: nc, js: js, n: n}, nil
}

// pause is the back-off after a number of failed attempts, with jitter so that
// nodes do not all come at once.
func pause(attempts int) time.Duration {
	d := maxPause
	if attempts < 6 {
		d = minPause << max(attempts, 0)
	}
	return d/2 + rand.N(d/2+1)
}

// Close ends the connection.
func (b *Bus) Close() { b.nc.Close() }

// Connected reports whether the bus is there.
func (b *Bus) Connected() bool { return b.nc.IsConnected() }

// connections returns a channel that gets a value whenever a connection comes
// about, until ctx ends.
func (b *Bus) connections(ctx context.Context) <-chan nats.Status {
	ch := b.nc.StatusChanged(nats.CONNECTED)
	context.AfterFunc(ctx, func() { b.nc.RemoveStatusListener(ch) })
	return ch
}
