package identity

import (
	"testing"
	"time"
)

// Somebody who is no workload must not be able to fill the log, nor to keep
// another one out of it for long, whatever the clock does.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	var s strangers
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	told := 0
	for range 1000 {
		if _, tell := s.refused(now); tell {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d lines for 1000 calls at once", told)
	}
	for _, ahead := range []time.Duration{tellEvery, -time.Hour, time.Hour} {
		if before, tell := s.refused(now.Add(ahead)); !tell || ahead == tellEvery && before != 999 {
			t.Errorf("%v later: %v, %d untold", ahead, tell, before)
		}
	}
}
