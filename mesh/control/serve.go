package control

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"bulkhead/core/policy"
	"bulkhead/mesh/identity"
)

// The kinds of message.
const (
	kindReport = "report"
	kindX509   = "x509"
	kindJWT    = "jwt"
	kindBundle = "bundle"
	kindPlan   = "plan"
)

// planBody asks for a part of a plan that the bus does not have: it may have no
// room.
type planBody struct {
	Digest string `json:"digest"`
	Part   int    `json:"part"`
}

type x509Body struct {
	Zone      string `json:"zone"`
	Workload  string `json:"workload"`
	PublicKey []byte `json:"publicKey"` // PKIX
}

type x509Answer struct {
	Chain [][]byte `json:"chain"`
}

type jwtBody struct {
	Zone     string   `json:"zone"`
	Workload string   `json:"workload"`
	Audience []string `json:"audience"`
}

type jwtAnswer struct {
	Token string `json:"token"`
}

// workers bounds how many requests are answered at once.
const workers = 4

// serve hears reports and answers requests until ctx ends.
func (c *Control) serve(ctx context.Context) error {
	reports, err := c.o.Bus.nc.Subscribe(c.n.reports+"*", func(m *nats.Msg) { c.report(m.Data) })
	if err != nil {
		return err
	}
	defer reports.Unsubscribe()
	var g errgroup.Group
	g.SetLimit(workers)
	requests, err := c.o.Bus.nc.Subscribe(c.n.requests+"*", func(m *nats.Msg) {
		g.Go(func() error {
			if answer := c.answer(ctx, m.Data); answer != nil && m.Reply != "" {
				_ = m.Respond(answer) // who asked asks again
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	err = requests.Unsubscribe()
	return errors.Join(ctx.Err(), err, g.Wait())
}

// report hears what a node says of itself.
func (c *Control) report(data []byte) {
	m, err := openMessage(data, c.o.Platform, c.o.Roster.key)
	now := c.o.Now()
	if err == nil && m.Kind != kindReport {
		err = fmt.Errorf("a message of node %s is a %.40q, not a report", m.Node, m.Kind)
	}
	if err == nil {
		err = c.replays.fresh(m, now)
	}
	var r report
	if err == nil {
		err = json.Unmarshal(m.Body, &r)
	}
	if err != nil {
		c.o.Log.Warn("a report is not believed", "error", err)
		return
	}
	c.nodes.hear(m.Node, r, now)
}

// answer answers a request, with nil if it is not worth one.
func (c *Control) answer(ctx context.Context, data []byte) []byte {
	m, err := openMessage(data, c.o.Platform, c.o.Roster.key)
	if err != nil {
		c.o.Log.Warn("a request is not believed", "error", err)
		return nil
	}
	r := reply{Nonce: m.Nonce}
	plain, err := c.grant(ctx, m)
	if err == nil {
		r.Sealed, err = sealTo(m.Reply, m.Nonce, plain)
	}
	if err != nil {
		r.Error, r.Denied = err.Error(), errors.Is(err, identity.ErrNoIdentity)
		c.o.Log.Warn("a request is refused", "node", m.Node, "kind", m.Kind, "error", err)
	}
	text, err := sign(replyContext, r, c.key)
	if err != nil {
		return nil
	}
	return text
}

// grant gives a node what it may have.
func (c *Control) grant(ctx context.Context, m *message) ([]byte, error) {
	if err := c.replays.fresh(m, c.o.Now()); err != nil {
		return nil, err
	}
	switch m.Kind {
	case kindX509:
		var b x509Body
		if err := json.Unmarshal(m.Body, &b); err != nil {
			return nil, fmt.Errorf("the request cannot be read: %w", err)
		}
		return c.grantX509(ctx, m.Node, b)
	case kindJWT:
		var b jwtBody
		if err := json.Unmarshal(m.Body, &b); err != nil {
			return nil, fmt.Errorf("the request cannot be read: %w", err)
		}
		if err := c.mayHave(m.Node, b.Zone, b.Workload); err != nil {
			return nil, err
		}
		token, err := c.o.Authority.JWT(ctx, identity.JWTRequest{Zone: b.Zone, Workload: b.Workload, Audience: b.Audience})
		if err != nil {
			return nil, err
		}
		return json.Marshal(jwtAnswer{token})
	case kindBundle:
		bundle, err := c.o.Authority.Bundle(ctx)
		if err != nil {
			return nil, err
		}
		return bundle.Marshal()
	case kindPlan:
		var b planBody
		if err := json.Unmarshal(m.Body, &b); err != nil {
			return nil, fmt.Errorf("the request cannot be read: %w", err)
		}
		f := c.current()
		if f == nil || f.order.Plan != b.Digest {
			return nil, fmt.Errorf("plan %.12q is not that of the newest generation", b.Digest)
		}
		return planPart(f.packed, b.Part, askedPartSize)
	}
	return nil, fmt.Errorf("%.40q is no kind of request", m.Kind)
}

func (c *Control) grantX509(ctx context.Context, node string, b x509Body) ([]byte, error) {
	if err := c.mayHave(node, b.Zone, b.Workload); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(b.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be read: %w", err)
	}
	chain, err := c.o.Authority.X509(ctx, identity.X509Request{Zone: b.Zone, Workload: b.Workload, PublicKey: key})
	if err != nil {
		return nil, err
	}
	var a x509Answer
	for _, cert := range chain {
		a.Chain = append(a.Chain, cert.Raw)
	}
	return json.Marshal(a)
}

// mayHave returns an error unless the policy in force places the workload, in
// this zone, on the node that asks, and it is not cut off. A quarantine that keeps
// evidence leaves the identity with which evidence is sent.
func (c *Control) mayHave(node, zone, workload string) error {
	f := c.current()
	if f == nil {
		return errors.New("no generation is in force yet")
	}
	p := f.plan.Policy
	i := slices.IndexFunc(p.Workloads, func(w policy.Workload) bool { return w.Name.Value == workload })
	if i < 0 || p.Workloads[i].Zone.Value != zone {
		return fmt.Errorf("workload %.80q in zone %.80q: %w: the policy in force has none", workload, zone, identity.ErrNoIdentity)
	}
	if !c.o.Assigned(f.order, f.plan, node, workload) {
		return fmt.Errorf("workload %s: %w: the policy in force does not place it on node %s", workload, identity.ErrNoIdentity, node)
	}
	return c.cutOff(workload)
}

// cutOff returns an error if a workload is quarantined.
func (c *Control) cutOff(workload string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.force.order.Quarantines) == 0 {
		return nil
	}
	if err := c.needIntent(); err != nil {
		return err
	}
	for i := range c.force.order.Quarantines {
		q := &c.force.order.Quarantines[i]
		if q.KeepEvidence {
			continue
		}
		held, err := c.intent.QuarantineTarget(q.Target)
		if err == nil && slices.Contains(held, policy.Party{Kind: policy.WorkloadParty, Name: workload}) {
			return fmt.Errorf("workload %s: %w: %s", workload, identity.ErrNoIdentity, q)
		}
	}
	return nil
}
