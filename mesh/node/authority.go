package node

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"bulkhead/mesh/identity"
	"bulkhead/mesh/report"
)

// AuthorityQuestion asks for a step of the rotation of the root.
type AuthorityQuestion struct {
	Step string `json:"step"`
}

func (n *Node) adminAuthority(w http.ResponseWriter, _ *http.Request) {
	if n.hasAuthority(w) {
		answer(w, n.authority())
	}
}

func (n *Node) adminRotate(w http.ResponseWriter, r *http.Request) {
	var q AuthorityQuestion
	if !read(w, r, &q) || !n.hasAuthority(w) {
		return
	}
	a := n.o.Authority
	step, ok := map[string]func() error{
		identity.StepPrepare: a.PrepareRoot, identity.StepActivate: a.ActivateRoot, identity.StepRetire: a.RetireRoot,
	}[q.Step]
	if !ok {
		refuse(w, http.StatusBadRequest, "the steps are prepare, activate and retire", "%q is no step", q.Step)
		return
	}
	if err := step(); err != nil {
		refuse(w, http.StatusConflict, "bulkhead authority says what can be done, and when", "%v", err)
		return
	}
	n.o.Log.Info("a step of the rotation of the root", "step", q.Step, "operator", r.Context().Value(operatorKey{}))
	answer(w, n.authority())
}

func (n *Node) adminBundle(w http.ResponseWriter, r *http.Request) {
	if !n.hasAuthority(w) {
		return
	}
	bundle, err := n.o.Authority.Bundle(r.Context())
	if err == nil {
		var text []byte
		if text, err = bundle.Marshal(); err == nil {
			answer(w, json.RawMessage(text))
			return
		}
	}
	refuse(w, http.StatusInternalServerError, "", "the bundle cannot be written: %v", err)
}

// authority says how the authority is doing.
func (n *Node) authority() *report.Authority {
	s := n.o.Authority.Status()
	out := &report.Authority{TrustDomain: s.TrustDomain, Encrypted: s.Encrypted, Intermediate: report.Certificate(s.Intermediate),
		Unaware: []string{}}
	prepared := time.Time{}
	for _, r := range s.Roots {
		out.Roots = append(out.Roots, report.AuthorityRoot{Certificate: report.Certificate(r.CertificateStatus), Stage: r.Stage, Since: r.Since})
		if r.Stage == "prepared" {
			prepared = r.Since
		}
	}
	for _, step := range s.Steps {
		out.Steps = append(out.Steps, report.AuthorityStep{Step: step.Step, From: step.From})
	}
	if prepared.IsZero() {
		return out
	}
	for _, p := range n.o.Control.Status().Nodes {
		if !p.Live && p.Heard.Before(prepared) {
			out.Unaware = append(out.Unaware, p.Name)
		}
	}
	slices.Sort(out.Unaware)
	return out
}

// hasAuthority refuses what only the node that runs control can say.
func (n *Node) hasAuthority(w http.ResponseWriter) bool {
	if !n.hasControl(w) {
		return false
	}
	if n.o.Authority == nil {
		refuse(w, http.StatusConflict, "rotate its root there", "the identities of this platform come from an existing Workload API")
		return false
	}
	return true
}

// Authority returns what the certificate authority has.
func (a *Admin) Authority(ctx context.Context) (*report.Authority, error) {
	var s report.Authority
	return &s, a.call(ctx, "/v1/authority", nil, &s)
}

// Rotate does a step of the rotation of the root.
func (a *Admin) Rotate(ctx context.Context, q AuthorityQuestion) (*report.Authority, error) {
	var s report.Authority
	return &s, a.call(ctx, "/v1/authority", q, &s)
}

// Bundle returns the trust bundle of the platform.
func (a *Admin) Bundle(ctx context.Context) (json.RawMessage, error) {
	var b json.RawMessage
	return b, a.call(ctx, "/v1/authority/bundle", nil, &b)
}
