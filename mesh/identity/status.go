package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"
)

// The steps that replace a root, in their order.
const (
	StepPrepare  = "prepare"
	StepActivate = "activate"
	StepRetire   = "retire"
)

// AuthorityStatus is what an authority has, and how its root can be replaced.
type AuthorityStatus struct {
	TrustDomain  string
	Encrypted    bool // the keys at rest
	Roots        []RootStatus
	Intermediate CertificateStatus
	// Steps are what can be done next with the roots.
	Steps []RotationStep
}

// CertificateStatus describes a certificate of an authority.
type CertificateStatus struct {
	Fingerprint string // SHA-256, in hexadecimal digits
	From, Until time.Time
}

// RootStatus describes a root: prepared, active or retiring, and since when.
type RootStatus struct {
	CertificateStatus
	Stage string
	Since time.Time
}

// RotationStep can be done from a time on; zero means always.
type RotationStep struct {
	Step string
	From time.Time
}

// Status says what the authority has, with what is due at this time replaced.
func (a *Authority) Status() AuthorityStatus {
	s := a.current(a.now())
	out := AuthorityStatus{TrustDomain: a.td.Name(), Encrypted: a.seal.recipient != nil, Intermediate: statusOf(s.intermediate.cert)}
	var retire time.Time
	for _, r := range s.roots {
		out.Roots = append(out.Roots, RootStatus{statusOf(r.cert), string(r.stage), r.since})
		if from := a.retireFrom(r); r.stage == retiring && from.After(retire) {
			retire = from
		}
	}
	if i := s.at(prepared); i >= 0 {
		out.Steps = append(out.Steps, RotationStep{StepActivate, s.roots[i].activateFrom()})
	} else {
		out.Steps = append(out.Steps, RotationStep{Step: StepPrepare})
	}
	if !retire.IsZero() {
		out.Steps = append(out.Steps, RotationStep{StepRetire, retire})
	}
	return out
}

func statusOf(c *x509.Certificate) CertificateStatus {
	sum := sha256.Sum256(c.Raw)
	return CertificateStatus{hex.EncodeToString(sum[:]), c.NotBefore, c.NotAfter}
}
