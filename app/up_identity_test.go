package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/control"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/host"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/node"
)

// twoWorkloads is a platform of a trainer here and a store on machine gpu-2.
const twoWorkloads = `version: 1
platform: pair
trustDomain: here.test
zones: {data: {role: data}, training: {role: training}}
workloads:
  store:
    zone: data
    serves: {api: http/8080}
    at: {host: {node: gpu-2, run: [sleep, "1000"]}}
  trainer:
    zone: training
    at: {host: {run: [sh, -c, "env; exec sleep 1000"]}}
flows:
  - {from: trainer, to: store/api, may: read, because: reads, owner: ml}
`

// shared is a buffer for several writers.
type shared struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until is holds.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about: %s", what)
		}
	}
}

// bringing is a platform with folders of its own, of which nothing runs yet.
func bringing(t *testing.T, domain string, o Up) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "app") // short: the paths of sockets are limited
	must(t, err)
	must(t, os.Chmod(dir, 0o711)) // workloads start there
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, PolicyFile)
	must(t, os.WriteFile(path, []byte(strings.Replace(twoWorkloads, "here.test", domain, 1)), 0o644))
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Warn = func(source.Diagnostics, Lines) error { return nil }
	e := &Env{Dir: dir, Now: time.Now(), Getenv: os.Getenv}
	must(t, e.checkIdentityFlags(o))
	d, err := e.policyToRun(path)
	must(t, err)
	p := &platform{declared: d, name: "pair", domain: domain, dir: dir,
		folders: folders{state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"), bin: filepath.Join(dir, "bin")}}
	p.federated, err = e.federatedWith(o.Federate, domain)
	must(t, err)
	for _, folder := range []string{p.folders.state, p.folders.run} {
		must(t, os.Mkdir(folder, 0o700))
	}
	r := &running{Env: e, o: o, p: p, mode: host.Root}
	if host.InUserNamespace() {
		r.mode = host.User
	}
	t.Cleanup(r.close)
	return r
}

// start runs everything that was built until the test ends.
func (r *running) start(t *testing.T, more ...func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range append(r.run, more...) {
		g.Go(func() error { return run(ctx) })
	}
	t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// named is an attestor whose every caller is one workload.
type named string

func (n named) Attest(*net.UnixConn) (string, error) { return string(n), nil }

// callers serves the Workload API to a workload, and returns a client of it.
func callers(t *testing.T, p identity.Provider, workload string) *workloadapi.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	must(t, err)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := identity.NewServer(identity.ServerOptions{Provider: p, Attestor: named(workload), Log: slog.New(slog.DiscardHandler)})
	go func() { ended <- server.Serve(ctx, ln) }()
	client, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+ln.Addr().String()))
	must(t, err)
	t.Cleanup(func() {
		client.Close()
		stop()
		must(t, <-ended)
		must(t, os.RemoveAll(dir))
	})
	return client
}

// free returns an address of this machine at which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// firstBundle writes what a partner was given by hand: authorities of
// certificates, and nothing else.
func firstBundle(t *testing.T, a *identity.Authority) string {
	t.Helper()
	full, err := a.Bundle(t.Context())
	must(t, err)
	text, err := spiffebundle.FromX509Bundle(x509bundle.FromX509Authorities(a.TrustDomain(), full.X509Authorities())).Marshal()
	must(t, err)
	path := filepath.Join(t.TempDir(), "bundle.json")
	must(t, os.WriteFile(path, text, 0o644))
	return path
}

// Two platforms federate over loopback: a workload of one proves itself to a
// workload of the other, and is none of the other's workloads.
func TestTrustDomainsFederate(t *testing.T) {
	at := map[string]string{"here.test": free(t), "there.test": free(t)}
	here, there := bringing(t, "here.test", Up{BundleEndpoint: at["here.test"]}), bringing(t, "there.test", Up{BundleEndpoint: at["there.test"]})
	must(t, here.openKeys())
	must(t, there.openKeys())
	sides := map[*running]*running{here: there, there: here}
	keepers := map[*running]*identity.Keeper{}
	for side, other := range sides {
		id, err := identity.EndpointID(other.p.domain)
		must(t, err)
		side.p.federated, err = side.federatedWith([]string{fmt.Sprintf("%s=https://%s,%s,%s", other.p.domain, at[other.p.domain], id, firstBundle(t, other.keys.authority))}, side.p.domain)
		must(t, err)
		// What a bundle held when it was given by hand is not all that it holds.
		must(t, other.keys.authority.PrepareRoot())
	}
	for side := range sides {
		var o node.Options
		must(t, side.identities(t.Context(), &o, side.keys.authority))
		keepers[side] = o.Identities.(*identity.Keeper)
		keepers[side].Keep(map[string]string{"trainer": "training"})
		if o.Authority == nil {
			t.Error("the node has no authority whose root it can rotate")
		}
		side.start(t, keepers[side].Run)
	}

	prover, checker := callers(t, keepers[here], "trainer"), callers(t, keepers[there], "trainer")
	var svid *jwtsvid.SVID
	eventually(t, "a token", func() (ok bool) {
		var err error
		svid, err = prover.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "there"})
		return err == nil
	})
	eventually(t, "the token is believed", func() bool {
		bundles, err := checker.FetchJWTBundles(t.Context())
		if err != nil {
			return false
		}
		got, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{"there"})
		return err == nil && got.ID.String() == "spiffe://here.test/zone/training/workload/trainer"
	})
	if got, err := checker.ValidateJWTSVID(t.Context(), svid.Marshal(), "there"); err != nil || got.ID != svid.ID {
		t.Errorf("the Workload API: %v", err)
	}
	if _, err := checker.ValidateJWTSVID(t.Context(), svid.Marshal(), "elsewhere"); err == nil {
		t.Error("a token for another audience is believed")
	}
	x, err := checker.FetchX509Context(t.Context())
	must(t, err)
	if b, err := x.Bundles.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("here.test")); err != nil || len(b.X509Authorities()) != 2 {
		t.Errorf("the federated bundle has not come: %v", err)
	}
	if zone, name, err := identity.Workload(svid.ID, "there.test"); err == nil {
		t.Errorf("a federated peer is %s in %s here", name, zone)
	}
}

func TestFlagsOfIdentity(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{}
	e := &Env{Dir: dir, Getenv: func(name string) string { return env[name] }}
	for name, o := range map[string]Up{
		"endpoint without a port":  {BundleEndpoint: "127.0.0.1"},
		"endpoint with a word":     {BundleEndpoint: "127.0.0.1:https"},
		"endpoint without control": {Join: "c.json", BundleEndpoint: "127.0.0.1:1"},
		"key without control":      {Join: "c.json", KeyFile: "k"},
		"API over TCP":             {WorkloadAPI: "tcp://127.0.0.1:1"},
		"API without a scheme":     {WorkloadAPI: "/run/agent.sock"},
		"endpoint of another's":    {WorkloadAPI: "unix:///run/agent.sock", BundleEndpoint: "127.0.0.1:1"},
		"federation of another's":  {WorkloadAPI: "unix:///run/agent.sock", Federate: []string{"a.test=https://a.test"}},
	} {
		wantInputError(t, name, e.checkIdentityFlags(o), "")
	}
	for name, specs := range map[string][]string{
		"form": {"a.test"}, "twice": {"a.test=https://x", "a.test=https://y"}, "own": {"own.test=https://x"}, "plain": {"a.test=http://x"},
	} {
		_, err := e.federatedWith(specs, "own.test")
		wantInputError(t, name, err, "")
	}
	// A platform is not prepared before they are read.
	must(t, os.WriteFile(filepath.Join(dir, PolicyFile), []byte(twoWorkloads), 0o644))
	_, err := e.preparePlatform(Up{Federate: []string{"here.test=https://x"}, Warn: func(source.Diagnostics, Lines) error { return nil }})
	wantInputError(t, "own, of a platform", err, "own trust domain")
	must(t, e.checkIdentityFlags(Up{Join: "c.json", Federate: []string{"a.test=https://a.test"}}))
	env[passphraseVariable] = "x"
	wantInputError(t, "both", e.checkIdentityFlags(Up{KeyFile: "k"}), "not with both")
	must(t, e.checkIdentityFlags(Up{Join: "c.json"}))
}

func wantInputError(t *testing.T, name string, err error, says string) {
	t.Helper()
	var in *InputError
	if !errors.As(err, &in) || in.Hint == "" || !strings.Contains(in.Says, says) {
		t.Errorf("%s: %v", name, err)
	}
}

// With a passphrase or a key file nothing secret lies on disk as it is, whatever
// lay there before; and without it nothing opens.
func TestKeysAreEncryptedAtRest(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(keyFile, []byte("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n"), 0o600))
	const passphrase = "hush-hush-never-shown"
	for name, set := range map[string]func(*testing.T, *running){
		"passphrase": func(t *testing.T, _ *running) { t.Setenv(passphraseVariable, passphrase) },
		"key file":   func(_ *testing.T, r *running) { r.o.KeyFile = keyFile },
	} {
		t.Run(name, func(t *testing.T) {
			log := &shared{}
			r := bringing(t, "here.test", Up{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			secrets := r.makeSecrets(t)
			if name == "passphrase" { // which takes its time
				must(t, os.RemoveAll(filepath.Dir(secrets[1])))
				secrets = secrets[:1]
			}
			for _, path := range secrets {
				if isEncrypted(t, path) {
					t.Fatalf("%s is encrypted without a key", path)
				}
			}
			set(t, r)
			must(t, r.openKeys())
			for _, path := range secrets {
				if !isEncrypted(t, path) {
					t.Errorf("%s is not encrypted", path)
				}
			}
			keyGiven := r.o.KeyFile
			r.o.KeyFile = ""
			t.Setenv(passphraseVariable, "")
			wantKeyError(t, r, secrets[0])
			if keyGiven != "" {
				t.Setenv(passphraseVariable, "wrong")
				wantKeyError(t, r, secrets[0])
				t.Setenv(passphraseVariable, "")
				must(t, os.Remove(secrets[0])) // what is not there hides nothing
				wantKeyError(t, r, secrets[1])
				for _, path := range bringing(t, "here.test", Up{KeyFile: keyGiven}).makeSecrets(t) {
					if !isEncrypted(t, path) {
						t.Errorf("%s is written as it is", path)
					}
				}
			}
			if strings.Contains(log.String(), passphrase) || strings.Contains(log.String(), "AGE-SECRET") {
				t.Errorf("the log: %s", log)
			}
		})
	}
}

// makeSecrets makes all secrets of a platform, and returns their files.
func (r *running) makeSecrets(t *testing.T) []string {
	t.Helper()
	must(t, r.openKeys())
	_, err := r.startControl(t.Context(), &node.Options{Name: "n1"})
	must(t, err)
	roster, err := control.OpenRoster(t.TempDir())
	must(t, err)
	bus, err := control.StartServer(control.ServerOptions{Dir: t.TempDir(), Platform: "pair", Listen: "127.0.0.1:0", Roster: roster, Vault: r.keys.vault, Log: r.o.Log})
	must(t, err)
	bus.Close()
	out := []string{filepath.Join(r.p.folders.state, "authority", "authority")}
	for _, name := range control.Secrets() {
		out = append(out, filepath.Join(r.p.folders.state, "control", name))
	}
	if len(out) != 3 {
		t.Errorf("secrets %v", out)
	}
	return out
}

func isEncrypted(t *testing.T, path string) bool {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %o", path, info.Mode().Perm())
	}
	return bytes.HasPrefix(text, []byte("age-encryption.org/v1\n"))
}

// wantKeyError tries to open the keys, which must name the file and both ways.
func wantKeyError(t *testing.T, r *running, path string) {
	t.Helper()
	err := r.openKeys()
	var in *InputError
	if !errors.As(err, &in) || !strings.Contains(in.Says, path) || !strings.Contains(in.Hint, passphraseVariable) || !strings.Contains(in.Hint, "--key-file") {
		t.Errorf("the error is %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "hush") || strings.Contains(fmt.Sprint(err), "wrong") {
		t.Errorf("the error shows the passphrase: %v", err)
	}
}

func TestOtherProgramsDoNotGetThePassphrase(t *testing.T) {
	t.Setenv(passphraseVariable, "hush")
	if env := withoutPassphrase(os.Environ()); slices.ContainsFunc(env, func(v string) bool { return strings.Contains(v, "hush") }) || len(env) != len(os.Environ())-1 {
		t.Errorf("%v", env)
	}
	r := bringing(t, "here.test", Up{})
	must(t, r.prepareOne(t.Context(), []string{"sh", "-c", "test -z \"$" + passphraseVariable + "\" && test -n \"$PATH\""}))
}

// What a node is not assigned, and what is cut off, control refuses to sign: the
// wiring asks the same question as the node's layout.
func TestControlSignsWhatIsAssigned(t *testing.T) {
	r := bringing(t, "here.test", Up{})
	must(t, r.openKeys())
	o := node.Options{Name: "n1"}
	_, err := r.startControl(t.Context(), &o)
	must(t, err)
	r.start(t, func(ctx context.Context) error {
		r.node = node.New(node.Options{Now: time.Now, Log: r.o.Log})
		return o.Client.Run(ctx, func(*generation.Order, *generation.Plan) (control.Applied, error) { return control.Applied{}, nil })
	})
	ask := func(zone, workload string) error {
		_, err := o.Client.JWT(t.Context(), identity.JWTRequest{Zone: zone, Workload: workload, Audience: []string{"x"}})
		return err
	}
	eventually(t, "a token", func() bool { return ask("training", "trainer") == nil })
	for name, w := range map[string][2]string{"another machine's": {"data", "store"}, "another zone": {"data", "trainer"},
		"the bundle endpoint": {"-", "bundle-endpoint"}, "nobody": {"training", "nobody"}} {
		if err := ask(w[0], w[1]); !errors.Is(err, identity.ErrNoIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = o.Control.Quarantine(t.Context(), policy.Quarantine{Target: "trainer", Because: "x", Operator: "y"})
	must(t, err)
	if err := ask("training", "trainer"); !errors.Is(err, identity.ErrNoIdentity) || !strings.Contains(err.Error(), "quarantined") {
		t.Errorf("a quarantined workload: %v", err)
	}
	_, err = o.Control.Release(t.Context(), "trainer", "x", "y")
	must(t, err)
	if err := ask("training", "trainer"); err != nil {
		t.Error(err)
	}
}
