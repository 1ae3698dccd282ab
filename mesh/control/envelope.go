package control

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// message is what a node says to control, signed with the node's key.
type message struct {
	Platform string    `json:"platform"`
	Node     string    `json:"node"`
	Kind     string    `json:"kind"`
	At       time.Time `json:"at"`
	Nonce    []byte    `json:"nonce"`
	// Reply is the HPKE key that the answer is encrypted to.
	Reply []byte          `json:"reply,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// reply is what control answers to a message, signed with control's key.
type reply struct {
	Nonce  []byte `json:"nonce"` // of the message
	Error  string `json:"error,omitempty"`
	Denied bool   `json:"denied,omitempty"` // the error is final: asking again does not help
	Sealed []byte `json:"sealed,omitempty"` // encapsulated key and ciphertext
}

// signed is either of them, as it travels.
type signed struct {
	Text      json.RawMessage `json:"text"`
	Signature []byte          `json:"signature"`
}

// The contexts keep a signature from meaning anything else.
const (
	messageContext = "bulkhead/message/v1\n"
	replyContext   = "bulkhead/reply/v1\n"
	sealInfo       = "bulkhead/reply/v1"
)

const (
	maxMessage = 64 << 10
	maxReply   = 1 << 20
	nonceSize  = 16
)

func sign(context string, v any, key ed25519.PrivateKey) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(signed{text, ed25519.Sign(key, append([]byte(context), text...))})
}

var errSignature = errors.New("the signature is not by the key that it should be by")

func verify(context string, s signed, key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, append([]byte(context), s.Text...), s.Signature) {
		return errSignature
	}
	return nil
}

// openMessage returns a message if the node that it names signed it. It reads
// the name before it can check it, and nothing is done with the rest until then.
func openMessage(data []byte, platform string, key func(node string) ed25519.PublicKey) (*message, error) {
	if len(data) > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes is longer than %d", len(data), maxMessage)
	}
	var s signed
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("a message cannot be read: %w", err)
	}
	var m message
	if err := json.Unmarshal(s.Text, &m); err != nil {
		return nil, fmt.Errorf("a message cannot be read: %w", err)
	}
	k := key(m.Node)
	if k == nil {
		return nil, fmt.Errorf("%.80q is no node of this platform", m.Node)
	}
	if err := verify(messageContext, s, k); err != nil {
		return nil, fmt.Errorf("a message that names node %s: %w", m.Node, err)
	}
	if m.Platform != platform {
		return nil, fmt.Errorf("a message of node %s is for platform %.80q", m.Node, m.Platform)
	}
	if len(m.Nonce) != nonceSize {
		return nil, fmt.Errorf("a message of node %s has a nonce of %d bytes, not %d", m.Node, len(m.Nonce), nonceSize)
	}
	return &m, nil
}

func openReply(data []byte, control ed25519.PublicKey) (*reply, error) {
	if len(data) > maxReply {
		return nil, fmt.Errorf("an answer of %d bytes is longer than %d", len(data), maxReply)
	}
	var s signed
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("an answer cannot be read: %w", err)
	}
	if err := verify(replyContext, s, control); err != nil {
		return nil, fmt.Errorf("an answer: %w", err)
	}
	var r reply
	if err := json.Unmarshal(s.Text, &r); err != nil {
		return nil, fmt.Errorf("an answer cannot be read: %w", err)
	}
	return &r, nil
}

func newNonce() []byte {
	n := make([]byte, nonceSize)
	rand.Read(n) // never fails
	return n
}

func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// sealTo encrypts an answer to the key of who asked, bound to the nonce.
func sealTo(recipient, nonce, plain []byte) ([]byte, error) {
	key, err := kem().NewPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("the key for the answer cannot be used: %w", err)
	}
	return hpke.Seal(key, hpke.HKDFSHA256(), hpke.AES256GCM(), append([]byte(sealInfo), nonce...), plain)
}

func openSealed(key hpke.PrivateKey, nonce, sealed []byte) ([]byte, error) {
	plain, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), append([]byte(sealInfo), nonce...), sealed)
	if err != nil {
		return nil, fmt.Errorf("an answer cannot be decrypted: %w", err)
	}
	return plain, nil
}
