package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/budget"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/egress"
	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/socket"
	"bulkhead/render"
)

// Gateway says how to run the egress gateway alone.
type Gateway struct {
	Path   string // of the policy; empty for that of the working directory
	Listen string
	// Captured is where connections arrive that the machine's firewall redirects.
	Captured string
	// Cert, Key and ClientCA are files: the gateway's certificate, and whom its
	// clients' must be from.
	Cert, Key, ClientCA string
	// Clients are CIDR=WORKLOAD.
	Clients []string
	// Balancers are CIDRs from which the PROXY protocol is believed.
	Balancers []string
	// DNS is where the resolver of clients listens; empty for nowhere.
	DNS string
	// Resolvers are asked for names outside; the system's by default. Hosts is a
	// file in the form of /etc/hosts that is looked at first.
	Resolvers []string
	Hosts     string
	State     string // folder; the user's by default
	LogFile   string // of records; - is standard output
	Admin     string // health and metrics; empty for nowhere
	Drain     time.Duration
	Output    io.Writer
	Log       *slog.Logger
	Warn      func(source.Diagnostics, Lines) error
	// Reload ends when the policy is to be read again at once.
	Reload <-chan os.Signal
	// Ready is called when it serves.
	Ready func(render.Gateway) error
}

// Gateway runs the egress gateway until ctx ends, and then drains it.
func (e *Env) Gateway(ctx context.Context, o Gateway) error {
	files, at, found, err := e.policyFiles(o.Path)
	if err == nil && !found {
		err = noPolicy()
	}
	if err != nil {
		return err
	}
	if info, serr := os.Stat(filepath.Join(e.abs(at), PolicyFile)); serr == nil && !info.IsDir() {
		at = filepath.Join(at, PolicyFile)
		if files, err = e.policyTexts(at); err != nil {
			return err
		}
	}
	r := &gatewayRun{Env: e, o: o, at: at, registry: registry.New()}
	defer r.close()
	in, ds := e.resolve(files)
	if ds.HasErrors() {
		return &BadInput{ds, textLines(files)}
	}
	if err := o.Warn(ds, textLines(files)); err != nil {
		return err
	}
	r.texts = textsOf(files)
	r.enforce(in, digestOf(files))
	if err := r.build(in); err != nil {
		return err
	}
	return r.serve(ctx)
}

// gatewayRun is a gateway that stands alone.
type gatewayRun struct {
	*Env
	o        Gateway
	at       string
	registry *registry.Registry
	gateway  *egress.Gateway
	names    *endpoint.Names
	client   *dns.Client
	resolver *dns.Recall
	server   *dns.Server
	budgets  *budget.Ledger
	records  *flow.File
	status   render.Gateway
	closers  []func() error

	proxy, captured, admin net.Listener
	dnsTCP                 net.Listener
	dnsUDP                 net.PacketConn
	door                   egress.Door
	original               func(net.Conn) (netip.AddrPort, error) // of captured

	mu       sync.Mutex // guards the following
	number   uint64
	digest   string
	texts    string // of the policy in force or refused last
	plan     *policy.Policy
	rejected string // why a newer policy is not in force, empty if it is
}

func (r *gatewayRun) close() {
	for i := len(r.closers) - 1; i >= 0; i-- {
		if err := r.closers[i](); err != nil {
			r.o.Log.Error("not everything could be closed", "says", err)
		}
	}
}

func (r *gatewayRun) enforce(in *policy.Intent, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if digest != r.digest {
		r.number++
	}
	r.digest, r.plan, r.rejected = digest, in.Policy, ""
	r.registry.Enforce(&registry.Force{Number: r.number, Digest: digest, Intent: in, Since: time.Now()})
	r.status.Generation = r.number
	r.status.Mode = policy.Enforce
	if g := in.Policy.Gateway; g != nil && g.Mode.Value != "" && !g.Until.Expired(in.At) {
		r.status.Mode = g.Mode.Value
	}
}

// build opens everything and serves nothing yet.
func (r *gatewayRun) build(in *policy.Intent) error {
	var err error
	if r.o.State == "" {
		f, err := r.folders(cmpOr(in.Policy.Platform.Value, "platform"))
		if err != nil {
			return err
		}
		r.o.State = filepath.Join(f.state, "gateway")
	}
	r.o.State = r.abs(r.o.State)
	if err := privateFolder(r.o.State); err != nil {
		return err
	}
	if r.client, err = r.newResolver(r.o.Resolvers, r.o.Hosts, r.o.Log); err != nil {
		return err
	}
	r.resolver = dns.NewRecall(r.client, time.Now)
	if err := r.openLog(); err != nil {
		return err
	}
	if r.budgets, err = budget.Open(budget.Options{Path: filepath.Join(r.o.State, "budgets.json"), Now: time.Now}); err != nil {
		return err
	}
	options := egress.Options{Node: "gateway", Registry: r.registry, Resolver: r.resolver, Sink: flow.NewFolder(r.records), Ready: r.ready, Budgets: r.budgets,
		Self: r.isSelf, Via: r.through, Log: r.o.Log, Now: time.Now}
	if inspects(in) {
		path := filepath.Join(r.o.State, "inspection.pem")
		if options.Authority, err = egress.OpenAuthority(path, time.Now()); err != nil {
			return err
		}
		r.status.Inspected = filepath.Join(r.o.State, "inspection-ca.pem")
		if err := os.WriteFile(r.status.Inspected, options.Authority.Certificate(), 0o644); err != nil {
			return err
		}
	}
	r.gateway = egress.New(options)
	r.names = endpoint.NewNames(r.registry)
	return r.listen(in)
}

// through is the workload that the gateway is in the policy, empty for none.
func (r *gatewayRun) through() string {
	f := r.registry.Force()
	if f == nil || f.Intent.Policy.Gateway == nil {
		return ""
	}
	workload, _, _ := strings.Cut(f.Intent.Policy.Gateway.Through.Value, "/")
	return workload
}

// inspects reports whether a policy has any TLS ended at the gateway.
func inspects(in *policy.Intent) bool {
	for i := range in.Permissions {
		if in.Permissions[i].Inspect {
			return true
		}
	}
	return false
}

// newResolver returns what asks for names outside: the servers that are given or
// else those of the system, after a hosts file.
func (e *Env) newResolver(given []string, hostsFile string, log *slog.Logger) (*dns.Client, error) {
	var servers []netip.AddrPort
	for _, text := range given {
		at, err := netip.ParseAddrPort(text)
		if addr, aerr := netip.ParseAddr(text); aerr == nil {
			at, err = netip.AddrPortFrom(addr, 53), nil
		}
		if err != nil {
			return nil, wrongInput("write an address, such as 10.0.0.2 or 10.0.0.2:53", "--resolver %s is no address", text)
		}
		servers = append(servers, at)
	}
	var err error
	if len(servers) == 0 {
		if servers, err = dns.SystemServers("/etc/resolv.conf"); err != nil {
			log.Warn("there is no resolver: only names in the hosts file have an address", "says", err)
		}
	}
	hosts := "/etc/hosts"
	if hostsFile != "" {
		hosts = e.abs(hostsFile)
	}
	known, err := dns.ReadHosts(hosts)
	if err != nil && hostsFile != "" {
		return nil, wrongInput("give a file in the form of /etc/hosts", "--hosts %s: %v", hostsFile, err)
	}
	return dns.NewClient(dns.ClientOptions{Servers: servers, Hosts: known}), nil
}

// openLog opens where records go.
func (r *gatewayRun) openLog() error {
	o := flow.FileOptions{Log: r.o.Log, Now: time.Now}
	switch r.o.LogFile {
	case "-":
		o.To, r.status.LogFile = r.o.Output, "standard output"
	case "":
		o.Path = filepath.Join(r.o.State, "egress.log")
		r.status.LogFile = o.Path
	default:
		o.Path = r.abs(r.o.LogFile)
		r.status.LogFile = o.Path
	}
	var err error
	if r.records, err = flow.OpenFile(o); err != nil {
		return wrongInput("name a file that can be written, with --log", "%v", err)
	}
	r.closers = append(r.closers, r.records.Close)
	return nil
}

// ready says why nothing new may pass: records cannot be kept, and the policy does
// not say that this is accepted.
func (r *gatewayRun) ready() error {
	if g := r.registry.Force().Intent.Policy.Gateway; g != nil && g.WithoutLog.Value == policy.LogDrop {
		return nil
	}
	return r.records.Ready()
}

// isSelf reports whether an address is one at which the gateway itself listens.
func (r *gatewayRun) isSelf(addr netip.AddrPort) bool {
	for _, own := range []netip.AddrPort{r.status.Listen, r.status.Captured, r.status.Admin, r.status.DNS} {
		if own.IsValid() && own.Port() == addr.Port() && (own.Addr() == addr.Addr() || own.Addr().IsUnspecified() && isLocal(addr.Addr())) {
			return true
		}
	}
	return false
}

// isLocal reports whether an address is one of this machine.
func isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr.Unmap() {
				return true
			}
		}
	}
	return false
}

func (r *gatewayRun) listen(in *policy.Intent) error {
	var err error
	single := net.ListenConfig{KeepAliveConfig: egress.KeepAlive}
	single.SetMultipathTCP(false) // the kernel moves bytes between plain sockets only
	open := func(flag, at string, to *netip.AddrPort) net.Listener {
		if at == "" || err != nil {
			return nil
		}
		var l net.Listener
		if flag == "captured" {
			var c socket.Capture
			c, err = host.ListenCaptured(at)
			l, r.original = c.Listener, c.Original
		} else {
			l, err = single.Listen(context.Background(), "tcp", at)
		}
		if err != nil {
			err = wrongInput("write ADDRESS:PORT with a free port", "--%s %s: %v", flag, at, err)
			return nil
		}
		r.closers = append(r.closers, func() error { _ = l.Close(); return nil })
		ap := l.Addr().(*net.TCPAddr).AddrPort()
		*to = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		return l
	}
	r.proxy = open("listen", r.o.Listen, &r.status.Listen)
	r.captured = open("captured", r.o.Captured, &r.status.Captured)
	r.admin = open("admin", r.o.Admin, &r.status.Admin)
	r.dnsTCP = open("dns", r.o.DNS, &r.status.DNS)
	if err != nil {
		return err
	}
	if r.dnsTCP != nil {
		if r.dnsUDP, err = net.ListenPacket("udp", r.status.DNS.String()); err != nil {
			return wrongInput("write ADDRESS:PORT with a free port", "--dns %s: %v", r.o.DNS, err)
		}
		r.closers = append(r.closers, func() error { _ = r.dnsUDP.Close(); return nil })
		r.server = dns.NewServer(dns.ServerOptions{View: r.names, Resolver: r.resolver, Now: time.Now})
	}
	return r.clients(in)
}

// clients reads who may ask.
func (r *gatewayRun) clients(in *policy.Intent) error {
	d := &r.door
	for _, text := range r.o.Clients {
		cidr, name, ok := strings.Cut(text, "=")
		prefix, err := netip.ParsePrefix(cidr)
		if addr, aerr := netip.ParseAddr(cidr); aerr == nil {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if !ok || err != nil {
			return wrongInput("write CIDR=WORKLOAD, such as 10.1.0.0/16=trainer", "--client %s names no network and workload", text)
		}
		c, err := egress.Known(in, name)
		if err != nil {
			return wrongInput("name a workload of the policy", "--client %s: %v", text, err)
		}
		d.Networks = append(d.Networks, egress.Network{Prefix: prefix.Masked(), Client: c})
		r.status.Clients = append(r.status.Clients, fmt.Sprintf("%s is %s", prefix.Masked(), name))
	}
	for _, text := range r.o.Balancers {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return wrongInput("write a CIDR, such as 10.0.0.0/24", "--balancer %s is no network", text)
		}
		d.Balancers = append(d.Balancers, prefix)
	}
	if r.o.Cert == "" && r.o.Key == "" && r.o.ClientCA == "" {
		if len(d.Networks) == 0 {
			return wrongInput("give --client CIDR=WORKLOAD, or --tls-cert, --tls-key and --client-ca", "nobody could be known as a client")
		}
		return nil
	}
	return r.tls(in)
}

// tls reads the certificates.
func (r *gatewayRun) tls(in *policy.Intent) error {
	if r.o.Cert == "" || r.o.Key == "" {
		return wrongInput("give both --tls-cert and --tls-key", "a certificate needs its key")
	}
	if _, err := tls.LoadX509KeyPair(r.abs(r.o.Cert), r.abs(r.o.Key)); err != nil {
		return wrongInput("give PEM files", "--tls-cert and --tls-key: %v", err)
	}
	r.status.TLS = true
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	// The files are read anew for each handshake, so that they can be replaced.
	var mu sync.Mutex
	var pair *tls.Certificate
	var stamp time.Time
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(r.abs(r.o.Cert))
		if pair != nil && (err != nil || info.ModTime().Equal(stamp)) {
			return pair, nil
		}
		fresh, ferr := tls.LoadX509KeyPair(r.abs(r.o.Cert), r.abs(r.o.Key))
		if ferr != nil {
			if pair != nil {
				return pair, nil // half of a replacement
			}
			return nil, ferr
		}
		pair = &fresh
		if err == nil {
			stamp = info.ModTime()
		}
		return pair, nil
	}
	if r.o.ClientCA != "" {
		text, err := os.ReadFile(r.abs(r.o.ClientCA))
		if err != nil {
			return wrongInput("give a PEM file", "--client-ca: %v", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(text) {
			return wrongInput("give a PEM file with the authorities of clients", "--client-ca %s holds no certificate", r.o.ClientCA)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		if len(r.door.Networks) > 0 {
			cfg.ClientAuth = tls.VerifyClientCertIfGiven
		}
		r.door.Certified = r.certified
	}
	r.door.TLS = cfg
	return nil
}

// certified says whom a client's certificate stands for: a SPIFFE ID of the
// platform's trust domain, otherwise a name that is that of one workload.
func (r *gatewayRun) certified(cert *x509.Certificate) (egress.Client, error) {
	in := r.registry.Force().Intent
	if len(cert.URIs) > 0 {
		zone, name, err := identity.WorkloadOf(cert, generation.TrustDomain(in.Policy))
		if err != nil {
			return egress.Client{}, err
		}
		c, err := egress.Known(in, name)
		if err != nil {
			return egress.Client{}, err
		}
		if c.Peer.Zone != zone {
			return egress.Client{}, fmt.Errorf("its identity is %s, and the policy has %s in zone %s", cert.URIs[0], name, c.Peer.Zone)
		}
		c.Peer.ID = cert.URIs[0].String()
		return c, nil
	}
	for _, name := range append(cert.DNSNames, cert.Subject.CommonName) {
		if c, err := egress.Known(in, name); err == nil {
			return c, nil
		}
	}
	return egress.Client{}, errors.New("its certificate names no workload of the policy")
}

// smallHeap is up to how much memory the garbage collector leaves alone: with a
// small heap it would run for every few tunnels, and empty the pools of buffers
// each time.
const smallHeap = 64 << 20

// paceCollector keeps the collector from running before there is smallHeap of
// garbage, as long as little is in use. With more in use it is as always.
func paceCollector(ctx context.Context) error {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			metrics.Read(live)
			debug.SetGCPercent(int(min(max(100, smallHeap*100/max(live[0].Value.Uint64(), 1<<20)), 6400)))
		}
	}
}

// watchEvery is how often the files of the policy are looked at.
const watchEvery = time.Second

// serve serves until ctx ends, and drains.
func (r *gatewayRun) serve(ctx context.Context) error {
	// Records and budgets are kept until the last request has ended.
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var keep errgroup.Group
	keep.Go(func() error { return r.budgets.Run(keeping) })
	g, serving := errgroup.WithContext(ctx)
	g.Go(func() error { return r.watch(serving) })
	g.Go(func() error { return paceCollector(serving) })
	if r.proxy != nil {
		g.Go(func() error {
			d := r.door
			d.Listener = r.proxy
			return r.gateway.Serve(serving, d)
		})
	}
	if r.captured != nil {
		g.Go(func() error {
			d := r.door
			d.Listener, d.TLS, d.Captured = r.captured, nil, r.original
			return r.gateway.Serve(serving, d)
		})
	}
	if r.server != nil {
		g.Go(func() error {
			return r.server.ServeUDP(serving, r.dnsUDP, func(a netip.AddrPort) string { return r.door.Name(a.Addr()) })
		})
		g.Go(func() error {
			return r.server.ServeTCP(serving, r.dnsTCP, func(c net.Conn) string {
				return r.door.Name(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			})
		})
	}
	var adminDone errgroup.Group
	if r.admin != nil {
		server := &http.Server{Handler: r.adminHandler(), ReadHeaderTimeout: 10 * time.Second}
		adminDone.Go(func() error { return server.Serve(r.admin) })
		defer server.Close()
	}
	if err := r.o.Ready(r.status); err != nil {
		return err
	}
	g.Go(func() error {
		<-serving.Done()
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.Drain)
		defer cancel()
		r.gateway.Drain(ending)
		return nil
	})
	err := g.Wait()
	stop()
	if kerr := keep.Wait(); err == nil && kerr != nil && !errors.Is(kerr, context.Canceled) {
		err = kerr
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// watch puts a changed policy in force, and takes away what expires.
func (r *gatewayRun) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		forced := false
		select {
		case <-ctx.Done():
			return nil
		case <-r.o.Reload:
			forced = true
		case <-tick.C:
		}
		r.reload(forced)
	}
}

// reload reads the policy again. One that is wrong changes nothing.
func (r *gatewayRun) reload(forced bool) {
	files, err := r.policyTexts(r.at)
	if err != nil {
		r.reject(err.Error())
		return
	}
	e := *r.Env
	e.Now = time.Now()
	r.mu.Lock()
	same := textsOf(files) == r.texts
	plan := r.plan
	last := r.registry.Force().Intent.At
	r.mu.Unlock()
	if same && !forced {
		o := &generation.Order{}
		if next := generation.Next(o, &generation.Plan{Policy: plan}, last); next.IsZero() || e.Now.Before(next) {
			return
		}
	}
	r.mu.Lock()
	r.texts = textsOf(files)
	r.mu.Unlock()
	in, ds := e.resolve(files)
	if ds.HasErrors() {
		r.reject((&BadInput{ds, textLines(files)}).Error())
		return
	}
	r.enforce(in, digestOf(files))
	r.o.Log.Info("policy in force", "generation", r.number)
}

func (r *gatewayRun) reject(why string) {
	r.mu.Lock()
	said := r.rejected == why
	r.rejected = why
	r.mu.Unlock()
	if !said {
		r.o.Log.Error("the changed policy is not in force, the one before is", "says", why)
	}
}
