package app

import (
	"context"
	"errors"
	"iter"
	"net/netip"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/node"
	"bulkhead/mesh/report"
)

// Status says how the platform that runs here is doing.
func (e *Env) Status(ctx context.Context, platform string) (*report.Status, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	s, err := admin.Status(ctx)
	return s, asked(err)
}

// Flows yields what was recorded; with follow it goes on until ctx ends.
func (e *Env) Flows(ctx context.Context, platform string, follow bool) iter.Seq2[flow.Record, error] {
	return func(yield func(flow.Record, error) bool) {
		admin, err := e.running(ctx, platform)
		if err != nil {
			yield(flow.Record{}, err)
			return
		}
		for r, err := range admin.Flows(ctx, follow) {
			if !yield(r, asked(err)) || err != nil {
				return
			}
		}
	}
}

// PreviewQuarantine says what a quarantine would take away.
func (e *Env) PreviewQuarantine(ctx context.Context, platform, target string, evidence bool) (*report.Scope, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	s, err := admin.Preview(ctx, node.QuarantineQuestion{Target: target, KeepEvidence: evidence})
	return s, asked(err)
}

// Quarantine cuts a workload or a zone off.
func (e *Env) Quarantine(ctx context.Context, platform, target, because string, evidence bool) (*report.Effect, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	effect, err := admin.Quarantine(ctx, node.QuarantineQuestion{Target: target, Because: because, KeepEvidence: evidence})
	return effect, asked(err)
}

// Release ends a quarantine.
func (e *Env) Release(ctx context.Context, platform, target, because string) (*report.Effect, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	effect, err := admin.Release(ctx, node.ReleaseQuestion{Target: target, Because: because})
	return effect, asked(err)
}

// Exec runs a command as a workload, with the files of this process as its own,
// and returns its exit code.
func (e *Env) Exec(ctx context.Context, platform, workload string, command []string) (int, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return 0, err
	}
	code, err := admin.Exec(ctx, node.ExecQuestion{Workload: workload, Command: command, Term: e.getenv("TERM")})
	return code, asked(err)
}

// Credential returns what another machine needs to join.
// Tunnel is the address at which other machines reach it, empty if none do.
func (e *Env) Credential(ctx context.Context, platform, name, tunnel string) ([]byte, error) {
	q := node.CredentialQuestion{Node: name}
	if tunnel != "" {
		addr, err := netip.ParseAddr(tunnel)
		if err != nil {
			return nil, wrongInput("give an address such as 10.0.0.2", "--reach %s is no address", tunnel)
		}
		q.Tunnel = netip.AddrPortFrom(addr, tunnelPort)
	}
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	text, err := admin.Credential(ctx, q)
	return text, asked(err)
}

// asked turns the refusal of a node into an error about the question.
func asked(err error) error {
	var r *node.Refused
	if errors.As(err, &r) {
		return wrongInput(r.Hint, "%s", r.Says)
	}
	return err
}
