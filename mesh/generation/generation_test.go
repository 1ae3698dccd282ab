package generation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func order() *Order {
	return &Order{Number: 7, Platform: "acme", TrustDomain: "acme.bulkhead.internal", At: now, Plan: Digest([]byte("plan")),
		Quarantines: []policy.Quarantine{{Target: "trainer", Because: "<it beacons> & \u2028", Operator: "ann", At: now, KeepEvidence: true}},
		Nodes:       []Node{{Name: "a", Tunnel: netip.MustParseAddrPort("192.0.2.1:15009")}, {Name: "b"}}}
}

func seal(tb testing.TB, o *Order, key ed25519.PrivateKey) []byte {
	tb.Helper()
	text, err := Seal(o, key)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func TestSealedOrderOpens(t *testing.T) {
	key := keyOf(1)
	for _, o := range []*Order{order(), {Number: 1}} {
		got, err := Open(seal(t, o, key), public(key))
		if err != nil || !got.equal(o) {
			t.Errorf("%+v, %v, want %+v", got, err, o)
		}
	}
}

// TestChangedOrderIsRefused changes each byte of an order in every way, and its
// spelling in ways that mean the same.
func TestChangedOrderIsRefused(t *testing.T) {
	key := keyOf(1)
	text := seal(t, order(), key)
	for i := range text {
		for bit := range 8 {
			changed := bytes.Clone(text)
			changed[i] ^= 1 << bit
			if o, err := Open(changed, public(key)); err == nil {
				t.Fatalf("byte %d as %q opens: %+v", i, changed[i], o)
			}
		}
		if o, err := Open(text[:i], public(key)); err == nil {
			t.Fatalf("the first %d bytes open: %+v", i, o)
		}
	}
	var s sealed
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	indented, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string][]byte{
		"white space":    append(bytes.Clone(text), '\n'),
		"something else": append(bytes.Clone(text), "{}"...),
		"indented":       indented,
		"a key twice":    bytes.Replace(text, []byte("{"), []byte(`{"order":{"number":9},`), 1),
		"a further key":  bytes.Replace(text, []byte("{"), []byte(`{"number":9,`), 1),
		"empty":          nil,
		"null":           []byte("null"),
		"no signature":   []byte(`{"order":{"number":9},"signature":null}`),
		"too long":       append(bytes.Clone(text), bytes.Repeat([]byte(" "), maxOrder)...),
		"deep":           bytes.Repeat([]byte("["), maxOrder),
	} {
		if o, err := Open(again, public(key)); err == nil {
			t.Errorf("%s: opens as %+v", name, o)
		}
	}
}

func TestOrderOfAnotherKeyIsForged(t *testing.T) {
	key, other := keyOf(1), keyOf(2)
	text := seal(t, order(), other)
	for name, k := range map[string]ed25519.PublicKey{"another": public(key), "none": nil, "half of it": public(other)[:16], "zero": make(ed25519.PublicKey, 32)} {
		if _, err := Open(text, k); !errors.Is(err, ErrForged) {
			t.Errorf("%s key: %v", name, err)
		}
	}
	// The key signs other things too; none of them is an order.
	plain, err := json.Marshal(order())
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", "bulkhead/order/v2\n", "bulkhead/confirmation/v1\n"} {
		text, err := json.Marshal(sealed{plain, ed25519.Sign(other, append([]byte(prefix), plain...))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(text, public(other)); !errors.Is(err, ErrForged) {
			t.Errorf("signed with %q in front: %v", prefix, err)
		}
	}
}

// TestSignedOrderMustBeUnderstood: a part that this version would skip could be
// what an order is about.
func TestSignedOrderMustBeUnderstood(t *testing.T) {
	key := keyOf(1)
	for _, o := range []string{`{"number":8,"frozen":true}`, `{"number":8,"quarantines":[{"target":"a","allZones":true}]}`,
		`{"number":0}`, `{}`, `null`, `[]`, `{"number":-1}`, `{"number":18446744073709551616}`, `{"number":1,"at":"soon"}`} {
		text, err := json.Marshal(sealed{json.RawMessage(o), ed25519.Sign(key, []byte(context+o))})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Open(text, public(key)); err == nil {
			t.Errorf("%s opens as %+v", o, got)
		}
	}
}

func TestTooLongOrderIsNotSealed(t *testing.T) {
	o := order()
	o.Quarantines[0].Because = strings.Repeat("x", maxOrder)
	if _, err := Seal(o, keyOf(1)); err == nil {
		t.Error("sealed what cannot be opened")
	}
}

func TestFollows(t *testing.T) {
	if err := order().Follows(nil); err != nil {
		t.Error(err)
	}
	if err := order().Follows(order()); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		change func(*Order)
		says   string
	}{
		"newer":                     {func(o *Order) { o.Number++ }, ""},
		"newer, without quarantine": {func(o *Order) { o.Number++; o.Quarantines = nil }, ""},
		"older":                     {func(o *Order) { o.Number-- }, "older than 7"},
		"another platform":          {func(o *Order) { o.Platform, o.Number = "other", 9 }, `of platform "other"`},
		"another plan":              {func(o *Order) { o.Plan = Digest(nil) }, "two generations 7"},
		"another time":              {func(o *Order) { o.At = now.Add(1) }, "two generations 7"},
		"a quarantine less":         {func(o *Order) { o.Quarantines = nil }, "two generations 7"},
		"evidence less":             {func(o *Order) { o.Quarantines[0].KeepEvidence = false }, "two generations 7"},
		"another node":              {func(o *Order) { o.Nodes[1].Name = "c" }, "two generations 7"},
		"another trust domain":      {func(o *Order) { o.TrustDomain = "x" }, "two generations 7"},
	} {
		o := order()
		c.change(o)
		err := o.Follows(order())
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzOpen: nothing opens but what the key signed.
func FuzzOpen(f *testing.F) {
	key := keyOf(1)
	text := seal(f, order(), key)
	f.Add(text)
	f.Add([]byte(`{"order":{"number":9},"signature":"AAAA"}`))
	f.Add([]byte(strings.Replace(string(text), `"number":7`, `"number":8`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o, err := Open(data, public(key)); err == nil && !bytes.Equal(data, text) {
			t.Errorf("%q opens as %+v", data, o)
		}
		// Signed by another key, the inner text reaches the decoder.
		s, err := json.Marshal(string(data))
		if err != nil {
			return
		}
		for _, inner := range [][]byte{data, s} {
			text, err := json.Marshal(sealed{inner, ed25519.Sign(key, append([]byte(context), inner...))})
			if err != nil {
				continue
			}
			if o, err := Open(text, public(key)); err == nil {
				if again := seal(t, o, key); len(again) == 0 {
					t.Error("an order that opened cannot be sealed")
				}
			}
		}
	})
}
