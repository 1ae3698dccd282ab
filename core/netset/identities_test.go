package netset

import (
	"testing"

	"pgregory.net/rapid"
)

// TestIdentitiesAreSetsOfPeers holds the operations against plain sets over
// the peers that the drawn sets can tell apart.
func TestIdentitiesAreSetsOfPeers(t *testing.T) {
	peers := []string{"", "spiffe://a/x", "spiffe://a/y", "spiffe://b/x", "other"}
	draw := func(t *rapid.T) Identities {
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			return Identities{}
		case 1:
			return AnyIdentity()
		case 2:
			return Proven()
		case 3:
			return Identities{Names: Prefix("spiffe://a/"), Unproven: rapid.Bool().Draw(t, "unproven")}
		}
		return Identity(rapid.SampledFrom(peers[1:]).Draw(t, "name"))
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t), draw(t)
		same := a.Subtract(b).IsEmpty() && b.Subtract(a).IsEmpty()
		if a.Equal(b) != same || (a.Key() == b.Key()) != same {
			t.Fatalf("Equal %v, Key %v, want %v", a.Equal(b), a.Key() == b.Key(), same)
		}
		for _, p := range peers {
			x, y := a.Contains(p), b.Contains(p)
			if got := a.Union(b).Contains(p); got != (x || y) {
				t.Fatalf("%q in the union: %v", p, got)
			}
			if got := a.Intersect(b).Contains(p); got != (x && y) {
				t.Fatalf("%q in the intersection: %v", p, got)
			}
			if got := a.Subtract(b).Contains(p); got != (x && !y) {
				t.Fatalf("%q in the difference: %v", p, got)
			}
		}
	})
	if Proven().Contains("") || !AnyIdentity().Contains("") {
		t.Error("a peer that proves nothing is not one that proves something")
	}
}
