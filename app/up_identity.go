package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"bulkhead/mesh/control"
	"bulkhead/mesh/identity"
	"bulkhead/mesh/node"
)

// passphraseVariable holds the passphrase that encrypts keys at rest. No other
// program gets it from this one.
const passphraseVariable = "BULKHEAD_PASSPHRASE"

const howKeys = "give the passphrase in " + passphraseVariable + ", or the age key file with --key-file"

// checkIdentityFlags refuses flags that would do nothing.
func (e *Env) checkIdentityFlags(o Up) error {
	switch {
	case o.KeyFile != "" && e.getenv(passphraseVariable) != "":
		return wrongInput("unset "+passphraseVariable+", or leave --key-file away", "keys are encrypted with a passphrase or with a key file, not with both")
	case o.KeyFile != "" && o.Join != "":
		return wrongInput("give --key-file where control runs", "a machine that joins keeps no keys")
	case o.BundleEndpoint != "" && o.Join != "":
		return wrongInput("give --bundle-endpoint where control runs", "a machine that joins has no authority whose bundle it could serve")
	case o.WorkloadAPI != "" && (o.BundleEndpoint != "" || len(o.Federate) > 0):
		return wrongInput("federate there", "with --workload-api the trust domain and those federated with it are what the Workload API offers")
	}
	if o.WorkloadAPI != "" && !strings.HasPrefix(o.WorkloadAPI, "unix:///") {
		return wrongInput("give the socket of the agent, such as unix:///run/spire/agent.sock", "--workload-api %s is no unix socket", o.WorkloadAPI)
	}
	if o.BundleEndpoint == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(o.BundleEndpoint)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return wrongInput("give an address and a port such as 10.0.0.1:8443", "--bundle-endpoint %s is no address with a port", o.BundleEndpoint)
	}
	return nil
}

// federatedWith reads what --federate says.
func (e *Env) federatedWith(specs []string, own string) ([]identity.Federated, error) {
	var out []identity.Federated
	seen := map[string]bool{own: true}
	for _, spec := range specs {
		d, err := identity.ParseFederated(spec, e.abs)
		if err != nil {
			return nil, wrongInput("for example --federate partner.example=https://partner.example/bundle", "--federate: %v", err)
		}
		name := d.TrustDomain.Name()
		switch {
		case name == own:
			return nil, wrongInput("leave it away: it is trusted as it is", "--federate: %s is this platform's own trust domain", name)
		case seen[name]:
			return nil, wrongInput("keep one", "--federate: %s is given twice", name)
		}
		seen[name] = true
		out = append(out, d)
	}
	return out, nil
}

// keys are the secrets of the machine where control runs.
type keys struct {
	authority *identity.Authority
	vault     *identity.Vault
}

// openKeys opens the secrets, and encrypts those that should be and are not.
func (r *running) openKeys() error {
	passphrase, keyFile := []byte(r.getenv(passphraseVariable)), r.o.KeyFile
	if keyFile != "" {
		keyFile = r.abs(keyFile)
	}
	var err error
	r.keys.authority, err = identity.OpenAuthority(filepath.Join(r.p.folders.state, "authority"),
		identity.AuthorityOptions{TrustDomain: r.p.domain, Passphrase: passphrase, KeyFile: keyFile, Log: r.o.Log})
	if err != nil {
		return keyProblem(err)
	}
	r.keys.vault, err = identity.OpenVault(filepath.Join(r.p.folders.state, "control"), passphrase, keyFile)
	if err != nil {
		return keyProblem(err)
	}
	for _, name := range control.Secrets() {
		if _, err := r.keys.vault.Read(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return keyProblem(err)
		}
	}
	return nil
}

func keyProblem(err error) error {
	var k *identity.KeyError
	if errors.As(err, &k) {
		return wrongInput(howKeys, "%v", err)
	}
	return err
}

// identities makes what keeps the workloads' certificates.
func (r *running) identities(ctx context.Context, o *node.Options, issuer identity.Issuer) error {
	if r.o.WorkloadAPI != "" {
		return r.upstream(ctx, o)
	}
	federation, err := r.federation()
	if err != nil {
		return err
	}
	k, err := identity.NewKeeper(identity.KeeperOptions{TrustDomain: r.p.domain, Issuer: issuer, Federation: federation, Log: r.o.Log})
	if err != nil {
		return err
	}
	o.Identities, o.Authority = k, r.keys.authority
	return r.serveBundle()
}

const upstreamPatience = 10 * time.Second

// upstream takes identities from an existing Workload API.
func (r *running) upstream(ctx context.Context, o *node.Options) error {
	ctx, cancel := context.WithTimeout(ctx, upstreamPatience)
	defer cancel()
	u, err := identity.NewUpstream(ctx, r.o.WorkloadAPI, identity.UpstreamOptions{TrustDomain: r.p.domain, Log: r.o.Log})
	if err != nil {
		return wrongInput("is the agent running, and does it offer this process an identity for each workload?", "--workload-api: %v", err)
	}
	r.closers = append(r.closers, u.Close)
	o.Identities = u
	return nil
}

// federation keeps the bundles of the federated trust domains, nil without any.
func (r *running) federation() (*identity.Federation, error) {
	if len(r.p.federated) == 0 {
		return nil, nil
	}
	f, err := identity.NewFederation(filepath.Join(r.p.folders.state, "federation"), r.p.federated, identity.FederationOptions{Log: r.o.Log})
	if err == nil {
		r.run = append(r.run, f.Run)
	}
	return f, err
}

// serveBundle serves the bundle of this platform to those federated with it.
func (r *running) serveBundle() error {
	if r.o.BundleEndpoint == "" {
		return nil
	}
	listener, err := net.Listen("tcp", r.o.BundleEndpoint)
	if err != nil {
		return fmt.Errorf("--bundle-endpoint: %w", err)
	}
	r.closers = append(r.closers, func() error { listener.Close(); return nil })
	r.run = append(r.run, func(ctx context.Context) error {
		return identity.ServeBundle(ctx, listener, r.keys.authority, r.o.Log)
	})
	return nil
}

// withoutPassphrase is an environment for another program.
func withoutPassphrase(environ []string) []string {
	var out []string
	for _, v := range environ {
		if !strings.HasPrefix(v, passphraseVariable+"=") {
			out = append(out, v)
		}
	}
	return out
}
