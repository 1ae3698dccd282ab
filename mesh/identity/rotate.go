package identity

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// renewed returns s, or a state in which everything is replaced that is due: the
// intermediate at half of its life, JWT keys after a week. Certificates carry
// their intermediate, so the one before needs no keeping.
func (s *state) renewed(td spiffeid.TrustDomain, now time.Time) (*state, error) {
	next := s.clone()
	changed, err := next.renewIntermediate(td, now)
	if err != nil {
		return nil, err
	}
	keys, err := next.renewJWTKeys(now)
	if err != nil {
		return nil, err
	}
	if keys {
		next.sequence++
	}
	if !changed && !keys {
		return s, nil
	}
	return next, nil
}

func (s *state) renewIntermediate(td spiffeid.TrustDomain, now time.Time) (bool, error) {
	c := s.intermediate.cert
	half := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
	if valid(c, now) && now.Before(half) {
		return false, nil
	}
	r := s.roots[s.at(active)]
	if !valid(r.cert, now) {
		return false, fmt.Errorf("the root of %s is valid from %s to %s; correct the clock, or rotate the root in time",
			td, r.cert.NotBefore.Format(time.RFC3339), r.cert.NotAfter.Format(time.RFC3339))
	}
	if valid(c, now) && c.NotAfter.Equal(r.cert.NotAfter) {
		return false, nil // the root ends first: a new one would end no later
	}
	i, err := newIntermediate(td, r.signer, now)
	if err != nil {
		return false, err
	}
	s.intermediate = i
	return true, nil
}

// renewJWTKeys publishes a new key when the newest has served its time, and
// forgets those whose tokens have expired. The keys are in order of age.
func (s *state) renewJWTKeys(now time.Time) (bool, error) {
	changed := false
	newest := s.jwtKeys[len(s.jwtKeys)-1]
	if age := now.Sub(newest.made); age > jwtKeyLife {
		k, err := newJWTKey(now)
		if err != nil {
			return false, err
		}
		s.jwtKeys = append(s.jwtKeys, k)
		changed = true
	}
	for len(s.jwtKeys) > 1 && now.After(s.jwtKeys[1].made.Add(propagation+jwtLife+skew)) {
		s.jwtKeys = s.jwtKeys[1:]
		changed = true
	}
	return changed, nil
}

// jwtSigner returns the newest key that everybody knows by now, else the oldest.
func (s *state) jwtSigner(now time.Time) jwtKey {
	for _, k := range slices.Backward(s.jwtKeys) {
		if !now.Before(k.made.Add(propagation)) {
			return k
		}
	}
	return s.jwtKeys[0]
}

// PrepareRoot makes a new root and publishes it beside the one that signs: the
// first of three steps that replace a root without a failed connection.
func (a *Authority) PrepareRoot() error {
	return a.rotate(func(s *state, now time.Time) error {
		if s.at(prepared) >= 0 {
			return errors.New("a new root is prepared already; activate it")
		}
		r, err := newRoot(a.td, now)
		if err != nil {
			return err
		}
		s.roots = append(s.roots, root{r, prepared, now})
		return nil
	})
}

// ActivateRoot signs with the prepared root from now on. It refuses while
// somebody may not have heard of it.
func (a *Authority) ActivateRoot() error {
	return a.rotate(func(s *state, now time.Time) error {
		i, old := s.at(prepared), s.at(active)
		if i < 0 {
			return errors.New("no root is prepared; prepare one first")
		}
		if ready := s.roots[i].activateFrom(); now.Before(ready) {
			return fmt.Errorf("the new root is not known everywhere before %s; activate it then", ready.Format(time.RFC3339))
		}
		intermediate, err := newIntermediate(a.td, s.roots[i].signer, now)
		if err != nil {
			return err
		}
		s.intermediate = intermediate
		s.roots[i].stage, s.roots[i].since = active, now
		s.roots[old].stage, s.roots[old].since = retiring, now
		return nil
	})
}

// RetireRoot takes roots that no longer sign out of the bundles. It refuses
// while something they signed is in use.
func (a *Authority) RetireRoot() error {
	return a.rotate(func(s *state, now time.Time) error {
		kept := s.roots[:0:0]
		for _, r := range s.roots {
			if r.stage != retiring {
				kept = append(kept, r)
				continue
			}
			if end := a.retireFrom(r); !now.After(end) {
				return fmt.Errorf("certificates of the old root are in use until %s; retire it then", end.Format(time.RFC3339))
			}
		}
		if len(kept) == len(s.roots) {
			return errors.New("no root is to be retired; activate a new one first")
		}
		s.roots = kept
		return nil
	})
}

// activateFrom is when everybody has heard of a prepared root.
func (r root) activateFrom() time.Time { return r.since.Add(propagation) }

// retireFrom is when the last certificate of a retiring root has expired.
func (a *Authority) retireFrom(r root) time.Time { return r.since.Add(a.leafLife + skew) }

func (a *Authority) rotate(step func(*state, time.Time) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.state.clone()
	if err := step(next, a.now()); err != nil {
		return err
	}
	next.sequence++
	return a.save(next)
}
