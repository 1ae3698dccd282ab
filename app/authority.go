package app

import (
	"context"
	"slices"
	"strings"

	"bulkhead/mesh/identity"
	"bulkhead/mesh/node"
	"bulkhead/mesh/report"
)

// AuthoritySteps are the steps by which the root of an authority is replaced.
func AuthoritySteps() []string {
	return []string{identity.StepPrepare, identity.StepActivate, identity.StepRetire}
}

// Authority says what the certificate authority of the platform that runs here
// has. With a step it does that first.
func (e *Env) Authority(ctx context.Context, platform, step string) (*report.Authority, error) {
	if step != "" && !slices.Contains(AuthoritySteps(), step) {
		return nil, wrongInput("it has status, "+strings.Join(AuthoritySteps(), ", ")+" and bundle", "authority has no %q", step)
	}
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	if step == "" {
		s, err := admin.Authority(ctx)
		return s, asked(err)
	}
	s, err := admin.Rotate(ctx, node.AuthorityQuestion{Step: step})
	return s, asked(err)
}

// TrustBundle returns the bundle that other trust domains need to believe this
// platform's workloads.
func (e *Env) TrustBundle(ctx context.Context, platform string) ([]byte, error) {
	admin, err := e.running(ctx, platform)
	if err != nil {
		return nil, err
	}
	text, err := admin.Bundle(ctx)
	return text, asked(err)
}
