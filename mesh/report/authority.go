package report

import "time"

// Authority is what the certificate authority of a platform has, and how its
// root can be replaced.
type Authority struct {
	TrustDomain string `json:"trust_domain"`
	// Encrypted says that the keys are encrypted at rest.
	Encrypted    bool            `json:"encrypted"`
	Roots        []AuthorityRoot `json:"roots"`
	Intermediate Certificate     `json:"intermediate"`
	// Steps are what can be done next with the roots, and from when on.
	Steps []AuthorityStep `json:"steps"`
	// Unaware are the nodes that are away since before a root was prepared: they do
	// not believe what it signs until they are back.
	Unaware []string `json:"unaware"`
}

// Certificate is one of an authority's own.
type Certificate struct {
	Fingerprint string    `json:"fingerprint"` // SHA-256, in hexadecimal digits
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
}

// AuthorityRoot is a root: prepared, active or retiring, and since when.
type AuthorityRoot struct {
	Certificate
	Stage string    `json:"stage"`
	Since time.Time `json:"since"`
}

// AuthorityStep is prepare, activate or retire.
type AuthorityStep struct {
	Step string    `json:"step"`
	From time.Time `json:"from,omitzero"` // zero: at any time
}
