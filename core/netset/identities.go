package netset

// Identities is a set of what a peer may prove to be: cryptographic names such
// as spiffe://ai.acme.internal/ns/training/sa/trainer, and separately the peer
// that proves nothing. A connection without proven identity is a different
// source than one with it: a rule that only names identities never matches it.
type Identities struct {
	// Unproven says that a peer without proven identity is in the set.
	Unproven bool
	// Names are the proven names in the set.
	Names Language
}

// AnyIdentity returns every peer, proven or not.
func AnyIdentity() Identities { return Identities{Unproven: true, Names: AnyString()} }

// Proven returns every peer that proves some name.
func Proven() Identities { return Identities{Names: AnyString()} }

// Identity returns the peer that proves exactly name.
func Identity(name string) Identities { return Identities{Names: Exact(name)} }

// Contains reports whether a peer that proves name is in s; the empty name
// stands for a peer that proves nothing.
func (s Identities) Contains(name string) bool {
	if name == "" {
		return s.Unproven
	}
	return s.Names.Contains(name)
}

// IsEmpty reports whether no peer is in s.
func (s Identities) IsEmpty() bool { return !s.Unproven && s.Names.IsEmpty() }

// Equal reports whether s and t are the same set.
func (s Identities) Equal(t Identities) bool {
	return s.Unproven == t.Unproven && s.Names.Equal(t.Names)
}

// Union returns what is in s or t.
func (s Identities) Union(t Identities) Identities {
	return Identities{Unproven: s.Unproven || t.Unproven, Names: s.Names.Union(t.Names)}
}

// Intersect returns what is in both.
func (s Identities) Intersect(t Identities) Identities {
	return Identities{Unproven: s.Unproven && t.Unproven, Names: s.Names.Intersect(t.Names)}
}

// Subtract returns what is in s and not in t.
func (s Identities) Subtract(t Identities) Identities {
	return Identities{Unproven: s.Unproven && !t.Unproven, Names: s.Names.Subtract(t.Names)}
}

// Key returns a string that is equal for equal sets and for no others.
func (s Identities) Key() string {
	if s.Unproven {
		return "?" + s.Names.Key()
	}
	return "=" + s.Names.Key()
}
