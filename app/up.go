package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/control"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/node"
	"bulkhead/mesh/report"
	"bulkhead/render"
)

// Up says how to run a platform.
type Up struct {
	Path        string // of the policy; empty for that of the working directory
	Mode        string // empty for what this user can
	Join        string // a credential: then this is a node of a platform elsewhere
	Bus         string // a NATS cluster to use
	Listen      string // the host at which other nodes reach this one
	Publish     string
	WorkloadAPI string
	Node        string
	KeyFile     string
	// BundleEndpoint is where other trust domains fetch this one's bundle;
	// Federate are those that are believed here, TRUSTDOMAIN=URL[,SPIFFE-ID,FILE].
	BundleEndpoint string
	Federate       []string
	Commands       map[string]string
	Output         io.Writer // of workloads
	Log            *slog.Logger
	Warn           func(source.Diagnostics, Lines) error
	// Ready is called once, when everything runs as declared or after a while
	// when it does not.
	Ready func(*render.Up) error
}

// The ports at which a node that others may reach listens.
const (
	tunnelPort = 15009
	busPort    = 15010
)

// Up runs a platform on this machine until ctx ends, and takes everything down.
func (e *Env) Up(ctx context.Context, o Up) error {
	if err := e.checkIdentityFlags(o); err != nil {
		return err
	}
	mode, err := chooseMode(o.Mode)
	if err != nil {
		return err
	}
	if addr, err := netip.ParseAddr(o.Listen); o.Listen != "" && (err != nil || addr.IsUnspecified()) {
		return wrongInput("name one address of this machine, such as 10.0.0.1: other machines are told to dial it",
			"--listen %s is no address that others can reach", o.Listen)
	}
	if mode == host.User {
		if err := host.EnterUserNamespace(); err != nil {
			return err
		}
	}
	p, err := e.preparePlatform(o)
	if err != nil {
		return err
	}
	r := &running{Env: e, o: o, p: p, mode: mode}
	defer r.close()
	if err := r.build(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range r.run {
		g.Go(func() error { return run(ctx) })
	}
	g.Go(func() error { return r.announce(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// chooseMode returns the mode that was asked for, or the strongest one that this
// user can have.
func chooseMode(mode string) (host.Mode, error) {
	switch m := host.Mode(mode); m {
	case host.Root, host.User, host.Cooperative:
		if m == host.Root && !isRoot() {
			return "", wrongInput("run it with sudo, or without --mode", "mode root needs root")
		}
		return m, nil
	case "":
		if host.Privileged() && !host.InUserNamespace() {
			return host.Root, nil
		}
		return host.User, nil
	}
	return "", wrongInput("the modes are root, user and cooperative", "there is no mode %q", mode)
}

// platform is what is known before anything runs.
type platform struct {
	declared *Declared // nil on a node that joins
	name     string
	domain   string
	dir      string // of the policy
	folders  folders
	credit   *control.Credential // of a node that joins
	// federated are the trust domains that are believed besides the own.
	federated []identity.Federated
}

func (e *Env) preparePlatform(o Up) (*platform, error) {
	p := &platform{dir: e.abs(".")}
	if o.Join != "" {
		c, err := control.ReadCredential(e.abs(o.Join))
		if err != nil {
			return nil, wrongInput("make it with bulkhead credential, on the machine where control runs", "%v", err)
		}
		p.credit, p.name, p.domain = c, c.Platform, c.TrustDomain
	} else {
		d, err := e.policyToRun(o.Path)
		if err != nil {
			return nil, err
		}
		if err := o.Warn(d.Warnings, d.Lines); err != nil {
			return nil, err
		}
		p.declared = d
		p.name, p.domain = cmpOr(d.Intent.Policy.Platform.Value, "platform"), generation.TrustDomain(d.Intent.Policy)
		if p.dir, err = e.folderOf(d.Path); err != nil {
			return nil, err
		}
		if d.Path, err = e.settled(d.Path); err != nil {
			return nil, err
		}
	}
	var err error
	if p.dir, err = filepath.Abs(p.dir); err != nil {
		return nil, err
	}
	if p.dir, err = filepath.EvalSymlinks(p.dir); err != nil {
		return nil, err
	}
	if p.federated, err = e.federatedWith(o.Federate, p.domain); err != nil {
		return nil, err
	}
	if p.folders, err = e.folders(p.name); err != nil {
		return nil, err
	}
	if isRoot() {
		// Processes of other users that are bound find their API sockets beside
		// the folder of the platform.
		if err := os.MkdirAll(filepath.Dir(p.folders.run), 0o755); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{p.folders.state, p.folders.run} {
		if err := privateFolder(dir); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// guarded are the folders that no workload may change: that of the policy, and
// that of the file if it is a link to another.
func (e *Env) guarded(p *platform) ([]string, error) {
	if p.declared == nil {
		return nil, nil
	}
	at, err := e.folderOf(p.declared.Path)
	if err == nil {
		at, err = filepath.Abs(at)
	}
	return []string{p.dir, at}, err
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// policyToRun reads the policy at a path: a file, a folder with a bulkhead.yaml,
// or a folder of policy files.
func (e *Env) policyToRun(path string) (*Declared, error) {
	if path != "" {
		if info, err := os.Stat(filepath.Join(e.abs(path), PolicyFile)); err == nil && !info.IsDir() {
			path = filepath.Join(path, PolicyFile)
		}
	}
	d, err := e.readPolicy(path)
	if err == nil && d == nil {
		err = noPolicy()
	}
	return d, err
}

// folderOf returns the folder of a policy: it may be one itself.
func (e *Env) folderOf(path string) (string, error) {
	at := e.abs(path)
	info, err := os.Stat(at)
	if err == nil && !info.IsDir() {
		at = filepath.Dir(at)
	}
	return at, err
}

// settled returns a path to the same file without symbolic links: a workload of
// the same user could lead them to a policy of its own, which is watched.
func (e *Env) settled(path string) (string, error) {
	given := e.abs(path)
	real, err := filepath.EvalSymlinks(given)
	if err != nil || real == filepath.Clean(given) {
		return path, err
	}
	return filepath.Abs(real)
}

// running is a platform that is being brought up.
type running struct {
	*Env
	o    Up
	p    *platform
	mode host.Mode

	keys    keys // none on a node that joins
	node    *node.Node
	run     []func(context.Context) error
	closers []func() error // called in reverse
}

func (r *running) close() {
	for _, c := range slices.Backward(r.closers) {
		if err := c(); err != nil {
			r.o.Log.Error("not everything could be removed", "says", err)
		}
	}
}

// build makes all parts and starts none of them.
func (r *running) build(ctx context.Context) error {
	guarded, err := r.guarded(r.p)
	if err != nil {
		return err
	}
	h, err := host.Open(ctx, host.Options{Platform: r.p.name, StateDir: r.p.folders.state, RunDir: r.p.folders.run, Guarded: guarded, Mode: r.mode, Log: r.o.Log})
	if err != nil {
		return err
	}
	r.closers = append(r.closers, h.Close)
	if r.p.declared != nil { // after host.Open, which keeps a second process out
		if err := r.openKeys(); err != nil {
			return err
		}
		if err := r.prepare(ctx); err != nil {
			return err
		}
	}
	name, err := r.nodeName()
	if err != nil {
		return err
	}
	o := node.Options{Name: name, Platform: r.p.name, RunDir: r.p.folders.run, StateDir: r.p.folders.state, PolicyDir: r.p.dir, BinDir: r.p.folders.bin, Host: h, Mode: r.mode,
		Publish: r.o.Publish, Commands: shellCommands(r.o.Commands), Output: r.o.Output, Log: r.o.Log, Now: time.Now, UserName: userName}
	var issuer identity.Issuer
	if r.p.credit != nil {
		issuer, err = r.joinControl(&o)
	} else {
		issuer, err = r.startControl(ctx, &o)
	}
	if err != nil {
		return err
	}
	if err := r.identities(ctx, &o, issuer); err != nil {
		return err
	}
	if o.Outside, err = r.outside(name); err != nil {
		return err
	}
	r.closers = append(r.closers, o.Outside.Close)
	o.API = identity.NewServer(identity.ServerOptions{Provider: o.Identities, Attestor: h, Log: r.o.Log})
	r.node = node.New(o)
	r.run = append(r.run, r.node.Run)
	return r.listenForNodes()
}

// outside makes the way out of this node.
func (r *running) outside(name string) (*node.Outside, error) {
	dir := filepath.Join(r.p.folders.state, "egress")
	if err := privateFolder(dir); err != nil {
		return nil, err
	}
	client, err := r.newResolver(nil, "", r.o.Log)
	if err != nil {
		return nil, err
	}
	return node.OpenOutside(node.OutsideOptions{Node: name, Dir: dir, Shown: r.p.folders.bin, Resolver: dns.NewRecall(client, time.Now), Now: time.Now, Log: r.o.Log})
}

// shellCommands turns the commands that a user types into what is run.
func shellCommands(typed map[string]string) map[string][]string {
	out := map[string][]string{}
	for name, command := range typed {
		out[name] = []string{"/bin/sh", "-c", command}
	}
	return out
}

// startControl makes control, the bus unless there is one, and this node's client.
func (r *running) startControl(ctx context.Context, o *node.Options) (identity.Issuer, error) {
	state := r.p.folders.state
	roster, err := control.OpenRoster(filepath.Join(state, "control"))
	if err != nil {
		return nil, err
	}
	var bus *control.Bus
	var server *control.Server
	if r.o.Bus != "" {
		o.Bus = control.Access{URLs: []string{r.o.Bus}}
		bus, err = control.Connect(o.Bus, r.p.name, r.o.Log)
	} else {
		options := control.ServerOptions{Dir: filepath.Join(state, "bus"), Platform: r.p.name, Roster: roster, Vault: r.keys.vault, Log: r.o.Log}
		if r.o.Listen != "" {
			options.Listen = net.JoinHostPort(r.o.Listen, strconv.Itoa(busPort))
		}
		if server, err = control.StartServer(options); err != nil {
			return nil, err
		}
		r.closers = append(r.closers, func() error { server.Close(); return nil })
		bus, err = server.Connect()
	}
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() error { bus.Close(); return nil })
	o.Control, err = control.New(control.Options{Dir: filepath.Join(state, "control"), Platform: r.p.name, TrustDomain: r.p.domain, Bus: bus,
		Roster: roster, Vault: r.keys.vault, Authority: r.keys.authority, Assigned: node.Assigned, Load: r.load, Changed: r.changed, Now: time.Now, Log: r.o.Log})
	if err != nil {
		return nil, err
	}
	o.Everywhere = bus.Flows
	r.run = append(r.run, o.Control.Run)
	credit, err := o.Control.NewCredential(ctx, o.Name, r.tunnel(), o.Bus)
	if err != nil {
		return nil, err
	}
	nodeBus := bus
	if server != nil {
		if nodeBus, err = server.ConnectNode(credit); err != nil {
			return nil, err
		}
		r.closers = append(r.closers, func() error { nodeBus.Close(); return nil })
	}
	return r.keys.authority, r.client(o, credit, nodeBus)
}

// joinControl makes the client of a node whose control runs elsewhere.
func (r *running) joinControl(o *node.Options) (identity.Issuer, error) {
	access := r.p.credit.Bus
	if r.o.Bus != "" {
		access.URLs = []string{r.o.Bus}
	}
	c := *r.p.credit
	c.Bus = access
	bus, err := control.ConnectNode(&c, r.o.Log)
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() error { bus.Close(); return nil })
	err = r.client(o, r.p.credit, bus)
	return o.Client, err
}

func (r *running) client(o *node.Options, c *control.Credential, bus *control.Bus) error {
	var err error
	o.Client, err = control.NewClient(control.ClientOptions{Bus: bus, Credential: c, Dir: filepath.Join(r.p.folders.state, "node"),
		Open: func() int { return r.node.Open() }, Now: time.Now, Log: r.o.Log})
	return err
}

// tunnel is where other nodes reach the proxies of this one.
func (r *running) tunnel() netip.AddrPort {
	addr, err := netip.ParseAddr(r.o.Listen)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, tunnelPort)
}

// listenForNodes takes tunnels from other nodes, where this one is reached.
func (r *running) listenForNodes() error {
	at := r.tunnel()
	if !at.IsValid() {
		return nil
	}
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { listener.Close(); return nil })
	r.run = append(r.run, func(ctx context.Context) error { return r.node.ServeNodes(ctx, listener) })
	return nil
}

// load reads the policy for control.
func (r *running) load(context.Context) (*policy.Policy, []byte, source.Diagnostics, error) {
	files, err := r.policyTexts(r.p.declared.Path)
	if err != nil {
		return nil, nil, nil, err
	}
	e := *r.Env
	e.Now = time.Now()
	in, ds := e.resolve(files)
	var text []byte
	for _, f := range files {
		text = append(text, f.Text...)
	}
	if in == nil {
		return nil, text, ds, nil
	}
	return in.Policy, text, ds, nil
}

// changed returns something that differs when the files of the policy differ.
func (r *running) changed() (string, error) {
	var b strings.Builder
	at := r.abs(r.p.declared.Path)
	paths := []string{at}
	if names, err := policyNames(at); err == nil {
		for _, name := range names {
			paths = append(paths, filepath.Join(at, name))
		}
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}

// prepare runs the commands that build what the workloads run, outside of any
// isolation, each once.
func (r *running) prepare(ctx context.Context) error {
	if err := os.MkdirAll(r.p.folders.bin, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(r.p.folders.bin, 0o755); err != nil { // whatever the umask is
		return err
	}
	var done [][]string
	in := r.p.declared.Intent
	for i := range in.Policy.Workloads {
		w := &in.Policy.Workloads[i]
		for _, b := range w.Bindings {
			if b.Target.Value != host.BindingName || r.o.Commands[w.Name.Value] != "" {
				continue
			}
			parsed, _ := host.ParseBinding(b) // what is wrong with it was reported
			command := make([]string, len(parsed.Prepare))
			for j, word := range parsed.Prepare {
				command[j] = strings.ReplaceAll(word, "{bin}", r.p.folders.bin)
			}
			if len(command) == 0 || slices.ContainsFunc(done, func(c []string) bool { return slices.Equal(c, command) }) {
				continue
			}
			done = append(done, command)
			r.progress("preparing "+w.Name.Value, int64(len(done)), 0)
			if err := r.prepareOne(ctx, command); err != nil {
				return wrongInput("run it by hand in "+r.p.dir+" to see what is wrong", "workload %s cannot be prepared: %v", w.Name.Value, err)
			}
		}
	}
	return nil
}

func (r *running) prepareOne(ctx context.Context, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = r.p.dir, withoutPassphrase(os.Environ())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// nodeName is the name of this machine, in the letters that names have.
func (r *running) nodeName() (string, error) {
	if r.p.credit != nil {
		return r.p.credit.Node, nil
	}
	if r.o.Node != "" {
		return r.o.Node, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '-'
	}, cmpOr(name, "host")), nil
}

// userName says who has a user id. In a user namespace root is the user who made
// it (user_namespaces(7): the second field of the map is the id outside).
func userName(uid int) string {
	if host.InUserNamespace() && uid == 0 {
		var inside, outside int
		text, err := os.ReadFile("/proc/self/uid_map")
		if err == nil {
			_, err = fmt.Sscan(string(text), &inside, &outside)
		}
		if err != nil {
			return "unknown" // and not root, to whom a record would then give what another did
		}
		uid = outside
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return "uid " + strconv.Itoa(uid)
	}
	return u.Username
}

// readyWithin is how long everything may take to come up before it is shown as
// it is.
const readyWithin = 20 * time.Second

// announce says what runs as soon as it does.
func (r *running) announce(ctx context.Context) error {
	deadline := time.After(readyWithin)
	for s := r.node.Status(); !s.Ready(); s = r.node.Status() {
		r.progress("starting", 0, 0)
		select {
		case <-ctx.Done():
			return nil
		case <-deadline:
			return r.o.Ready(r.report(s))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return r.o.Ready(r.report(r.node.Status()))
}

func (r *running) report(s *report.Status) *render.Up {
	return &render.Up{Status: s, Grants: r.node.Grants(), Next: next(s)}
}

// next are the commands that make sense once a platform runs.
func next(s *report.Status) []render.Next {
	out := []render.Next{{Command: "bulkhead probe", Says: "attack it: everything that is prohibited is tried, and everything that is permitted"},
		{Command: "bulkhead flows --follow", Says: "who talks to whom, and what is refused"}}
	for _, d := range s.Doors {
		if d.Listens.IsValid() {
			out = append(out, render.Next{Command: fmt.Sprintf("curl http://%s/", d.Listens), Says: "the door to " + d.Workload + " from outside"})
		}
	}
	if len(s.Workloads) > 0 {
		w := s.Workloads[0].Name
		out = append(out,
			render.Next{Command: fmt.Sprintf("bulkhead exec %s -- sh", w), Says: "look around as " + w},
			render.Next{Command: fmt.Sprintf(`bulkhead quarantine %s --because "it looks compromised"`, w), Says: "cut it off, open connections included; bulkhead release undoes it"})
	}
	return out
}
