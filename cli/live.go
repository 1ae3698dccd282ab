package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"bulkhead/app"
	"bulkhead/core/source"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
	"bulkhead/render"
	"bulkhead/render/json"
	"bulkhead/render/text"
)

// liveOptions are the flags of the verbs about something that runs.
type liveOptions struct {
	platform    string
	mode        string
	bus         string
	join        string
	listen      string
	publish     string
	workloadAPI string
	node        string
	keyFile     string
	endpoint    string
	federate    repeated
	workloads   commands
	verbose     bool
	follow      bool
	because     string
	evidence    bool
	preview     bool
	reach       string
}

// commands is a flag NAME=COMMAND that can be given several times.
type commands map[string]string

func (c *commands) String() string { return "" }

func (c *commands) Set(text string) error {
	name, command, ok := strings.Cut(text, "=")
	if !ok || name == "" || command == "" {
		return errors.New(`want NAME=COMMAND, such as trainer="python train.py"`)
	}
	if *c == nil {
		*c = commands{}
	}
	(*c)[name] = command
	return nil
}

// repeated is a flag that can be given several times.
type repeated []string

func (r *repeated) String() string { return "" }

func (r *repeated) Set(text string) error {
	*r = append(*r, text)
	return nil
}

func platformFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.live.platform, "platform", "", "which platform, by `NAME`, where several run")
}

func upFlags(fs *flag.FlagSet, o *options) {
	l := &o.live
	fs.StringVar(&l.mode, "mode", "", "`MODE`: root, user or cooperative; by default what this user can")
	fs.Var(&l.workloads, "workload", "run `NAME=COMMAND` instead of a workload's own command; may be given several times")
	fs.StringVar(&l.publish, "publish", "127.0.0.1", "the `ADDRESS` at which exposed services listen")
	fs.StringVar(&l.keyFile, "key-file", "", "encrypt keys at rest with the age identity in `FILE`; or with a passphrase in BULKHEAD_PASSPHRASE")
	fs.StringVar(&l.workloadAPI, "workload-api", "", "take identities from the SPIFFE Workload API at unix://`PATH` instead of the embedded authority")
	fs.StringVar(&l.endpoint, "bundle-endpoint", "", "serve the trust bundle at `ADDRESS:PORT`, for trust domains that federate with this one")
	fs.Var(&l.federate, "federate", "let workloads verify those of another trust domain: `TRUSTDOMAIN=URL` of its bundle endpoint, or with ,SPIFFE-ID,BUNDLE-FILE where a SPIFFE ID proves it; may be given several times")
	fs.StringVar(&l.node, "node", "", "the `NAME` of this machine; by default its host name")
	fs.StringVar(&l.listen, "listen", "", "the `ADDRESS` at which other machines reach this one: the bus at port 15010, tunnels at 15009")
	fs.StringVar(&l.bus, "bus", "", "use the NATS cluster at nats://`URL` instead of the embedded bus")
	fs.StringVar(&l.join, "join", "", "be a node of the platform that made the credential in `FILE`")
	fs.BoolVar(&l.verbose, "verbose", false, "log what happens, not only what needs a person")
}

func followFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.live.follow, "follow", false, "go on with what happens, until Ctrl-C")
}

func becauseFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.live.because, "because", "", "the reason, as `TEXT`: it is recorded")
}

func quarantineFlags(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.live.evidence, "keep-evidence", false, "leave open what the policy marks as evidence: true")
	fs.BoolVar(&o.live.preview, "preview", false, "change nothing; say what would be cut off")
}

func reachFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.live.reach, "reach", "", "the `ADDRESS` at which other machines reach this one; without it none can")
}

func upVerb() *verb {
	return &verb{
		name: "up", args: "[PATH]", short: "run a platform under isolation, on this machine",
		long: `PATH is a policy, or a folder with a bulkhead.yaml. Each workload that is bound to
a host gets a network namespace of its own, an identity, and a proxy that carries
what is permitted over mutual TLS; everything else is refused. It works as root
and, in a user namespace, as anybody else. The policy is watched: a change is in
force as soon as it is saved, unless it has errors.

Ctrl-C stops the workloads and removes everything.`,
		examples: []example{
			{"bulkhead up examples/ai-platform", "a small AI platform, with programs that talk"},
			{`bulkhead up --workload trainer="python train.py"`, "the policy of this folder, with a command of your own"},
			{"bulkhead up --publish 0.0.0.0", "exposed services on every address of the machine"},
			{"bulkhead up --join gpu-2.json", "as one more machine of a platform that runs elsewhere"},
		},
		flags: []flagAdder{upFlags}, max: 1, run: (*call).up,
	}
}

func statusVerb() *verb {
	return &verb{
		name: "status", short: "say how what runs is doing",
		long: "It asks the node that runs on this machine.",
		examples: []example{
			{"bulkhead status", "workloads, identities, quarantines, problems"},
			{"bulkhead status --format json | jq .generation", "for scripts"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{platformFlag}, max: 0,
		exits: "something is not as declared", run: (*call).status,
	}
}

func flowsVerb() *verb {
	return &verb{
		name: "flows", short: "list who talked to whom, and what was refused",
		long: `One line for each connection or request that opened, ended or was refused, with
the rule that decided. Both proxies of a connection record it; the text shows one
of the two. Paths, headers and contents are never recorded.`,
		examples: []example{
			{"bulkhead flows", "the last ones"},
			{"bulkhead flows --follow", "as they happen"},
			{`bulkhead flows --format json | jq 'select(.verdict == "deny")'`, "what was refused, one document a line"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{platformFlag, followFlag, allFlag}, max: 0, run: (*call).flows,
	}
}

func quarantineVerb() *verb {
	return &verb{
		name: "quarantine", args: "TARGET", names: []string{"what to cut off: a workload, or zone/NAME"},
		short: "cut a workload or a zone off at once, open connections included",
		long: `Every permission from and to it is taken away on every node, and what is open is
closed. It stays so, over restarts, until it is released.`,
		examples: []example{
			{"bulkhead quarantine trainer --preview", "what would be cut off"},
			{`bulkhead quarantine trainer --because "calls home (INC-42)"`, "at once"},
			{`bulkhead quarantine zone/training --keep-evidence --because "INC-42"`, "a zone, with its logs still arriving"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{platformFlag, becauseFlag, quarantineFlags}, min: 1, max: 1,
		exits: "a node has not confirmed in time", run: (*call).quarantine,
	}
}

func releaseVerb() *verb {
	return &verb{
		name: "release", args: "TARGET", names: []string{"what to release: the target of a quarantine"},
		short: "end a quarantine",
		examples: []example{
			{`bulkhead release trainer --because "image rebuilt (INC-42)"`, "what the policy permits is permitted again"},
			{"bulkhead release zone/training --because INC-42", "a zone, as it was quarantined"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{platformFlag, becauseFlag}, min: 1, max: 1,
		exits: "a node has not confirmed in time", run: (*call).release,
	}
}

func execVerb() *verb {
	return &verb{
		name: "exec", args: "WORKLOAD COMMAND…", names: []string{"a workload", "a command"},
		short: "run a command as a workload: in its namespace, with its identity",
		long:  "It may do what the workload may do, and its exit code is that of the command.",
		examples: []example{
			{"bulkhead exec notebook -- curl -sS http://feature-store:8080/features/1", "what a notebook may read"},
			{"bulkhead exec trainer -- sh", "to look around"},
		},
		flags: []flagAdder{platformFlag}, min: 2, max: -1, run: (*call).exec,
	}
}

func credentialVerb() *verb {
	return &verb{
		name: "credential", args: "NODE", names: []string{"the name of a machine"},
		short: "print what another machine needs to join",
		long:  "It holds secrets: whoever has it can speak as this machine.",
		examples: []example{
			{"bulkhead credential gpu-2 --reach 10.0.0.2 > gpu-2.json", "then, on that machine: bulkhead up --join gpu-2.json --listen 10.0.0.2"},
			{"bulkhead credential laptop > laptop.json", "a machine that only dials others"},
		},
		flags: []flagAdder{platformFlag, reachFlag}, min: 1, max: 1, run: (*call).credential,
	}
}

// interruptible returns a context that ends when the user wants the program to.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

func (k *call) up() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	l := &k.opts.live
	level := slog.LevelWarn
	if l.verbose {
		level = slog.LevelInfo
	}
	path := ""
	if len(k.args) == 1 {
		path = k.args[0]
	}
	err := k.env.Up(ctx, app.Up{
		Path: path, Mode: l.mode, Bus: l.bus, Join: l.join, Listen: l.listen, Publish: l.publish, WorkloadAPI: l.workloadAPI,
		Node: l.node, KeyFile: l.keyFile, BundleEndpoint: l.endpoint, Federate: l.federate, Commands: l.workloads, Output: text.Cleaned(k.Stdout),
		Log:  slog.New(slog.NewTextHandler(k.Stderr, &slog.HandlerOptions{Level: level})),
		Warn: func(ds source.Diagnostics, lines app.Lines) error { return k.warn(ds, lines) },
		Ready: func(u *render.Up) error {
			k.bar.clear()
			if err := text.Up(k.out, u, k.text()); err != nil {
				return err
			}
			return k.out.Flush()
		},
	})
	if err != nil {
		return Incomplete, err
	}
	return Clean, nil
}

func (k *call) status() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	s, err := k.env.Status(ctx, k.opts.live.platform)
	if err != nil {
		return Incomplete, err
	}
	if k.opts.format == "json" {
		err = json.Document(k.out, json.StatusSchema, s)
	} else {
		err = text.Status(k.out, s, time.Now(), k.text())
	}
	if !s.Ready() {
		return Findings, err
	}
	return Clean, err
}

func (k *call) flows() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	twice, err := k.reportedTwice(ctx)
	if err != nil {
		return Incomplete, err
	}
	for r, err := range k.env.Flows(ctx, k.opts.live.platform, k.opts.live.follow) {
		if err != nil {
			return Incomplete, err
		}
		if twice(&r) {
			continue
		}
		if err := k.flow(&r); err != nil {
			return Incomplete, err
		}
	}
	return Clean, nil
}

// reportedTwice says which records a person need not see, because the proxy at
// the other end reports the same: both are of this node, or of one that control
// hears from.
func (k *call) reportedTwice(ctx context.Context) (func(*flow.Record) bool, error) {
	if k.opts.format == "json" || k.opts.all {
		return func(*flow.Record) bool { return false }, nil
	}
	s, err := k.env.Status(ctx, k.opts.live.platform)
	if err != nil {
		return nil, err
	}
	here := map[string]bool{}
	for _, w := range s.Workloads {
		here[w.Name] = true
	}
	return func(r *flow.Record) bool {
		return r.Side == flow.Destination && (r.Event == flow.Open || r.Event == flow.Close) && (here[r.From.Workload] || r.From.Workload != "" && len(s.Nodes) > 1)
	}, nil
}

func (k *call) flow(r *flow.Record) error {
	var err error
	if k.opts.format == "json" {
		err = json.Line(k.out, r)
	} else {
		err = text.Flow(k.out, r, k.text())
	}
	if err != nil {
		return err
	}
	return k.out.Flush()
}

func (k *call) quarantine() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	l := &k.opts.live
	if l.preview {
		s, err := k.env.PreviewQuarantine(ctx, l.platform, k.args[0], l.evidence)
		if err != nil {
			return Incomplete, err
		}
		if k.opts.format == "json" {
			return Clean, json.Document(k.out, json.ScopeSchema, s)
		}
		return Clean, text.Scope(k.out, s, k.text())
	}
	e, err := k.env.Quarantine(ctx, l.platform, k.args[0], l.because, l.evidence)
	if err != nil {
		return Incomplete, err
	}
	return k.effect("is quarantined", e)
}

func (k *call) release() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	e, err := k.env.Release(ctx, k.opts.live.platform, k.args[0], k.opts.live.because)
	if err != nil {
		return Incomplete, err
	}
	return k.effect("is released", e)
}

func (k *call) effect(done string, e *report.Effect) (int, error) {
	var err error
	if k.opts.format == "json" {
		err = json.Document(k.out, json.EffectSchema, e)
	} else {
		err = text.Effect(k.out, done, k.args[0], e, k.text())
	}
	if len(e.Missing) > 0 {
		return Findings, err
	}
	return Clean, err
}

func (k *call) exec() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	return k.env.Exec(ctx, k.opts.live.platform, k.args[0], k.args[1:])
}

func (k *call) credential() (int, error) {
	text, err := k.env.Credential(context.Background(), k.opts.live.platform, k.args[0], k.opts.live.reach)
	if err != nil {
		return Incomplete, err
	}
	_, err = fmt.Fprintf(k.out, "%s\n", text)
	return Clean, err
}
