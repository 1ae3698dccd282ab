package identity

import (
	"slices"
	"testing"
	"time"
)

// What the status says can be done is what can be done, at each moment of a
// rotation and not a moment before.
func TestTheStatusSaysWhatCanBeDone(t *testing.T) {
	var w wall
	start := time.Now().Truncate(time.Second)
	now := func() time.Time { return start.Add(time.Duration(w.offset.Load())) }
	a := newAuthority(t, AuthorityOptions{Now: now})
	do := map[string]func() error{StepPrepare: a.PrepareRoot, StepActivate: a.ActivateRoot, StepRetire: a.RetireRoot}
	for _, next := range [][]string{{StepPrepare}, {StepActivate}, {StepPrepare, StepRetire}, {StepActivate, StepRetire}, {StepPrepare, StepRetire}} {
		steps := a.Status().Steps
		if len(steps) != len(next) {
			t.Fatalf("steps %v, not %v", steps, next)
		}
		for i, s := range steps {
			if s.Step != next[i] {
				t.Fatalf("steps %v, not %v", steps, next)
			}
			if early := s.From.Sub(now()); early > 0 {
				w.jump(early - time.Second)
				if do[s.Step]() == nil {
					t.Fatalf("%s is done before %s", s.Step, s.From)
				}
				w.jump(1 - early + time.Second)
			}
		}
		for name, step := range do {
			if !slices.Contains(next, name) && step() == nil {
				t.Fatalf("%s is done, and %v was possible", name, next)
			}
		}
		if from := steps[0].From; now().Before(from) {
			w.jump(from.Sub(now()))
		}
		if err := do[next[0]](); err != nil {
			t.Fatal(err)
		}
	}
	s := a.Status()
	if n := len(s.Roots); n != 4 || s.Roots[n-1].Stage != "prepared" || s.Roots[n-2].Stage != "active" || s.Roots[0].Stage != "retiring" {
		t.Errorf("roots %+v", s.Roots)
	}
	if s.Encrypted || s.TrustDomain != domain || len(s.Intermediate.Fingerprint) != 64 || !s.Intermediate.Until.After(now()) {
		t.Errorf("%+v", s)
	}
}

func TestTheStatusSaysWhetherKeysAreEncrypted(t *testing.T) {
	if !newAuthority(t, AuthorityOptions{Passphrase: []byte("x")}).Status().Encrypted {
		t.Error("it says no")
	}
}
