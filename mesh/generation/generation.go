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
// signature before it reads what was signed, and [Order.Follows] refuses an
// order that is older than one already seen. A plan is decoded only after its
// digest was found in a signed order. Neither is accepted if it says anything
// that this version does not know: a part that was skipped could be a limit.
package generation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"bulkhead/core/policy"
)

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

// maxOrder is the longest order that is read, with its signature.
const maxOrder = 4 << 20

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
	out, err := json.Marshal(sealed{text, ed25519.Sign(key, append([]byte(context), text...))})
	if err != nil {
		return nil, err
	}
	if len(out) > maxOrder {
		return nil, tooLong(out)
	}
	return out, nil
}

func tooLong(text []byte) error {
	return fmt.Errorf("an order of %d bytes is longer than %d", len(text), maxOrder)
}

// ErrForged is the error of an order that control did not sign.
var ErrForged = errors.New("the order is not signed by this platform's control")

// Open returns the order if control signed it. It accepts exactly the bytes that
// [Seal] returned: there is no second spelling of an order.
func Open(text []byte, control ed25519.PublicKey) (*Order, error) {
	if len(text) > maxOrder {
		return nil, tooLong(text)
	}
	var s sealed
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("an order cannot be read: %w", err)
	}
	if again, err := json.Marshal(s); err != nil || !bytes.Equal(again, text) {
		return nil, ErrForged
	}
	if len(control) != ed25519.PublicKeySize || !ed25519.Verify(control, append([]byte(context), s.Order...), s.Signature) {
		return nil, ErrForged
	}
	var o Order
	known := json.NewDecoder(bytes.NewReader(s.Order))
	known.DisallowUnknownFields()
	if err := known.Decode(&o); err != nil {
		return nil, fmt.Errorf("a signed order cannot be read, perhaps because it is of a newer version: %w", err)
	}
	if o.Number == 0 {
		return nil, errors.New("a signed order has no number: generations count from 1")
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
	case o.Number == last.Number && !o.equal(last):
		return fmt.Errorf("there are two generations %d; the first stays in force", o.Number)
	}
	return nil
}

// equal reports whether both order the same: they are signed as the same text.
func (o *Order) equal(p *Order) bool {
	a, err := json.Marshal(o)
	if err != nil {
		return false
	}
	b, err := json.Marshal(p)
	return err == nil && bytes.Equal(a, b)
}
