// Package finding is the one form that results take: what every analysis
// returns and every renderer prints.
//
// A finding names its rule, its subject, a witness that can be replayed, and
// the remedy. Its ID is stable across runs as long as the same thing is wrong
// with the same subject, so that a finding can be tracked and accepted.
package finding

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"bulkhead/core/source"
)

// Severity orders findings by how soon they need a person.
type Severity uint8

const (
	// Info needs nobody.
	Info Severity = iota
	// Low is hygiene.
	Low
	// Medium weakens isolation.
	Medium
	// High breaks isolation.
	High
	// Critical breaks it from the outside.
	Critical
)

var severityNames = [...]string{"info", "low", "medium", "high", "critical"}

func (s Severity) String() string { return severityNames[s] }

// Verdict is the answer to whether something can pass.
type Verdict uint8

const (
	// Denied means that nothing passes.
	Denied Verdict = iota
	// Unknown means that the input does not tell. It is never allowed.
	Unknown
	// Allowed means that it passes.
	Allowed
)

func (v Verdict) String() string { return [...]string{"deny", "unknown", "allow"}[v] }

// Witness is one concrete connection with the path it takes.
type Witness struct {
	From, To string
	// Traffic is the connection: `TCP 8080`, or `TCP 8080 GET /x`.
	Traffic string
	Verdict Verdict
	Hops    []Hop
}

// Hop is one step of a witness, with the rules that decided there.
type Hop struct {
	// At names the step: `egress of shop/web (firewall)`, or the path: `from outside`.
	At      string
	Verdict Verdict
	// Why says in one sentence what decided.
	Why   string
	Rules []Rule
}

// Rule cites a rule of the configuration or of the policy.
type Rule struct {
	Name string
	Pos  source.Pos
}

// Finding is one result.
type Finding struct {
	// ID is Rule plus a digest of Subject and Key, e.g. `flat-network:3fa94c21`.
	ID       string
	Rule     string
	Severity Severity
	Title    string
	// Detail says why it matters, in a sentence or two.
	Detail string
	// Subject names the object; Pos is where it is declared.
	Subject string
	Pos     source.Pos
	// Key tells apart several findings of one rule about one subject.
	Key     string
	Witness *Witness
	Remedy  string
	Notes   []source.Note
	// Facts are further values for machines: workloads, ports, shares.
	Facts map[string]string
}

// New returns a finding with its ID.
func New(rule string, sev Severity, subject, key string) Finding {
	sum := sha256.Sum256([]byte(subject + "\x00" + key))
	return Finding{
		ID:       rule + ":" + hex.EncodeToString(sum[:4]),
		Rule:     rule,
		Severity: sev,
		Subject:  subject,
		Key:      key,
	}
}

// Sort orders findings by severity, rule, subject and key.
func Sort(fs []Finding) {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(b.Severity, a.Severity),
			strings.Compare(a.Rule, b.Rule),
			strings.Compare(a.Subject, b.Subject),
			strings.Compare(a.Key, b.Key),
		)
	})
}
