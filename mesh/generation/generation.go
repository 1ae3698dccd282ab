// Package generation is the numbered, digested, signed version of a policy that
// control makes and nodes enforce.
//
// A generation has two parts. The plan is everything that changes with the
// policy: the declaration itself and the addresses. It is named by its digest,
// so that it travels once. The order is small, signed, and changes with every
// generation: the number, the plan's digest, who is quarantined, which nodes
// there are. A quarantine therefore moves some hundred bytes, however large the
// platform is.
//
// What is dangerous: an order that is accepted is enforced. [Open] checks the
// signature before it reads anything, and [Order.Follows] refuses an order that
// is older than one already seen. A plan is decoded only after its digest was
// found in a signed order.
package generation

import (
	"bytes"
	"compress/flate"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// Plan is what a policy means for the mesh.
type Plan struct {
	Policy *policy.Policy
	// Addresses are where workloads are inside the mesh, the same on every node.
	Addresses Addresses
}

// Order puts a plan in force.
type Order struct {
	Number      uint64              `json:"number"`
	Platform    string              `json:"platform"`
	TrustDomain string              `json:"trustDomain"`
	At          time.Time           `json:"at"`
	Plan        string              `json:"plan"` // digest, hex
	Quarantines []policy.Quarantine `json:"quarantines,omitempty"`
	Nodes       []Node              `json:"nodes,omitempty"`
}

// Node is a machine that enforces.
type Node struct {
	Name string `json:"name"`
	// Tunnel is where other nodes reach its proxies; zero if nothing else does.
	Tunnel netip.AddrPort `json:"tunnel,omitzero"`
}

// Limits of what is decoded.
const (
	maxOrder = 4 << 20
	maxPlan  = 1 << 30
)

// context keeps a signature of an order from meaning anything else.
const context = "bulkhead/order/v1\n"

// sealed is an order with its signature, as it travels and lies on disk.
type sealed struct {
	Order     json.RawMessage `json:"order"`
	Signature []byte          `json:"signature"`
}

// Seal signs an order.
func Seal(o *Order, key ed25519.PrivateKey) ([]byte, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealed{text, ed25519.Sign(key, append([]byte(context), text...))})
}

// ErrForged is the error of an order that control did not sign.
var ErrForged = errors.New("the order is not signed by this platform's control")

// Open returns the order if control signed it.
func Open(text []byte, control ed25519.PublicKey) (*Order, error) {
	if len(text) > maxOrder {
		return nil, fmt.Errorf("an order of %d bytes is longer than %d", len(text), maxOrder)
	}
	var s sealed
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("an order cannot be read: %w", err)
	}
	if len(control) != ed25519.PublicKeySize || !ed25519.Verify(control, append([]byte(context), s.Order...), s.Signature) {
		return nil, ErrForged
	}
	var o Order
	if err := json.Unmarshal(s.Order, &o); err != nil {
		return nil, fmt.Errorf("a signed order cannot be read: %w", err)
	}
	return &o, nil
}

// Follows returns an error if o must not replace last. Last may be nil.
func (o *Order) Follows(last *Order) error {
	switch {
	case last == nil:
		return nil
	case o.Platform != last.Platform:
		return fmt.Errorf("generation %d is of platform %q, not %q", o.Number, o.Platform, last.Platform)
	case o.Number < last.Number:
		return fmt.Errorf("generation %d is older than %d, which is in force", o.Number, last.Number)
	case o.Number == last.Number && (o.Plan != last.Plan || !o.At.Equal(last.At)):
		return fmt.Errorf("there are two generations %d; the first stays in force", o.Number)
	}
	return nil
}

// Pack encodes a plan and returns its digest.
func (p *Plan) Pack() (data []byte, digest string, err error) {
	var buf bytes.Buffer
	z, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err != nil {
		return nil, "", err
	}
	if err := gob.NewEncoder(z).Encode(p); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return buf.Bytes(), Digest(buf.Bytes()), nil
}

// Digest names data.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Unpack decodes the plan that a signed order names.
func Unpack(data []byte, digest string) (*Plan, error) {
	if Digest(data) != digest {
		return nil, fmt.Errorf("the plan is not the one that the order names: its digest is not %s", digest)
	}
	var p Plan
	limited := &io.LimitedReader{R: flate.NewReader(bytes.NewReader(data)), N: maxPlan}
	if err := gob.NewDecoder(limited).Decode(&p); err != nil {
		return nil, fmt.Errorf("a plan cannot be read: %w", err)
	}
	if p.Policy == nil {
		return nil, errors.New("a plan holds no policy")
	}
	return &p, nil
}

// Intent returns what a generation allows at now. A clock that was set back
// does not bring back what expired: time never runs before the order's own.
func Intent(o *Order, p *Plan, now time.Time) (*policy.Intent, source.Diagnostics) {
	if now.Before(o.At) {
		now = o.At
	}
	in, ds := policy.Resolve(p.Policy, now)
	return in.Quarantined(o.Quarantines), ds
}
