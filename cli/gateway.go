package cli

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"bulkhead/app"
	"bulkhead/core/source"
	"bulkhead/render"
	"bulkhead/render/text"
)

// gatewayOptions are the flags of the gateway that stands alone.
type gatewayOptions struct {
	listen, captured, dns, admin string
	cert, key, clientCA          string
	clients, balancers           values
	resolvers                    values
	hosts, state, log            string
	drain                        time.Duration
}

func gatewayFlags(fs *flag.FlagSet, o *options) {
	g := &o.gateway
	fs.StringVar(&g.listen, "listen", "127.0.0.1:3128", "take requests to the proxy at `ADDRESS:PORT`")
	fs.StringVar(&g.captured, "captured", "", "take connections that the machine's firewall redirects at `ADDRESS:PORT`")
	fs.StringVar(&g.dns, "dns", "", "resolve names for clients at `ADDRESS:PORT`")
	fs.StringVar(&g.admin, "admin", "127.0.0.1:9128", "answer /healthz, /readyz and /metrics at `ADDRESS:PORT`; empty for nowhere")
	fs.Var(&g.clients, "client", "`CIDR=WORKLOAD`: who is at these addresses; may be given several times")
	fs.StringVar(&g.cert, "tls-cert", "", "the gateway's certificate, a PEM `FILE`")
	fs.StringVar(&g.key, "tls-key", "", "its key, a PEM `FILE`")
	fs.StringVar(&g.clientCA, "client-ca", "", "the authorities of clients' certificates, a PEM `FILE`: a SPIFFE ID of the trust domain or the name of a workload says who it is")
	fs.Var(&g.balancers, "balancer", "believe the PROXY protocol from `CIDR`; may be given several times")
	fs.Var(&g.resolvers, "resolver", "ask `ADDRESS` for names outside instead of the system's resolvers; may be given several times")
	fs.StringVar(&g.hosts, "hosts", "", "a `FILE` of names that are known, in the form of /etc/hosts, instead of that one")
	fs.StringVar(&g.state, "state", "", "keep records, budgets and keys in the folder `DIR`; by default that of the user")
	fs.StringVar(&g.log, "log", "", "write records to `FILE`, one JSON document a line; - is standard output")
	fs.DurationVar(&g.drain, "drain", 30*time.Second, "how long what is open may go on after a signal to end, as `TIME`")
}

func gatewayVerb() *verb {
	return &verb{
		name: "gateway", args: "[PATH]", short: "run the egress gateway alone: in a container, on a machine, in front of a cluster",
		long: `PATH is a policy, or a folder with a bulkhead.yaml. The gateway is a forward proxy
(CONNECT and http:// over HTTP/1.1, CONNECT over HTTP/2) for HTTPS_PROXY and
HTTP_PROXY. It lets out what the policy's egress permits, by identity, name and
port, and by method and path where requests are read; everything else is refused
and recorded. Clients are known by a certificate or by their network.

A policy that is saved is in force within a second, for open connections too; one
with errors is not, and says so. SIGHUP reads it at once. SIGTERM takes no more,
lets what is open end, and exits.`,
		examples: []example{
			{"bulkhead gateway --client 10.1.0.0/16=trainer --listen 0.0.0.0:3128", "workloads by their network"},
			{"bulkhead gateway --tls-cert gw.pem --tls-key gw.key --client-ca ca.pem --listen 0.0.0.0:3128", "workloads by their certificates"},
			{"bulkhead gateway --client 10.1.0.0/16=trainer --log - | jq 'select(.verdict == \"deny\")'", "what is refused, as it happens"},
			{"bulkhead gateway --client 127.0.0.0/8=notebook & HTTPS_PROXY=http://127.0.0.1:3128 pip download torch", "to try it on one machine"},
		},
		flags: []flagAdder{gatewayFlags, verboseFlag}, max: 1, run: (*call).gateway,
	}
}

func verboseFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.live.verbose, "verbose", false, "log what happens, not only what needs a person")
}

func (k *call) gateway() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	level := slog.LevelWarn
	if k.opts.live.verbose {
		level = slog.LevelInfo
	}
	g := &k.opts.gateway
	path := ""
	if len(k.args) == 1 {
		path = k.args[0]
	}
	err := k.env.Gateway(ctx, app.Gateway{Path: path, Listen: g.listen, Captured: g.captured, DNS: g.dns, Admin: g.admin,
		Cert: g.cert, Key: g.key, ClientCA: g.clientCA, Clients: g.clients, Balancers: g.balancers, Resolvers: g.resolvers,
		Hosts: g.hosts, State: g.state, LogFile: g.log, Drain: g.drain, Output: k.Stdout, Reload: reload,
		Log:   slog.New(slog.NewTextHandler(k.Stderr, &slog.HandlerOptions{Level: level})),
		Warn:  func(ds source.Diagnostics, lines app.Lines) error { return k.warn(ds, lines) },
		Ready: func(s render.Gateway) error { return text.Gateway(k.Stderr, &s, k.text()) },
	})
	if err != nil {
		return Incomplete, err
	}
	fmt.Fprintln(k.Stderr, "the gateway has ended")
	return Clean, nil
}
