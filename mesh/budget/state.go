package budget

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"time"

	"bulkhead/internal/atomicfile"
)

const (
	// maxState is the longest state that is written and read.
	maxState = 256 << 20
	// saveEvery is how much time a crash can forget.
	saveEvery    = 5 * time.Second
	stateVersion = 1
	// maxWindows is how many lengths of time a counter can have been limited for:
	// more than the policy has.
	maxWindows = 8
)

// state is what lies on disk.
type state struct {
	Version int      `json:"version"`
	Time    int64    `json:"time_ns"` // by the ledger's clock
	Used    []stated `json:"used"`
}

type stated struct {
	Key
	Bytes    []windowState `json:"bytes,omitempty"`
	Requests []windowState `json:"requests,omitempty"`
}

type windowState struct {
	Per  time.Duration `json:"per_ns"`
	Last int64         `json:"last"`
	// Parts end with the one that is Last.
	Parts []uint64 `json:"parts"`
}

// Open reads what was used before. A file that cannot be read is an error: a ledger
// that begins anew gives every budget back.
func Open(o Options) (*Ledger, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	l := &Ledger{o: o, open: map[Key]*account{}}
	text, err := read(o.Path)
	if err != nil {
		return nil, err
	}
	saved := int64(0)
	if text != nil {
		if saved, err = l.restore(text); err != nil {
			return nil, fmt.Errorf("%s does not hold what was used of budgets: %w; restore it from a backup, or remove it to give every budget back", o.Path, err)
		}
		l.onDisk = true
	}
	l.clock.start(o.Now, saved)
	return l, nil
}

// read returns the content of a file, nil if there is none.
func read(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what was used of budgets cannot be read: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("what was used of budgets cannot be read: %w", err)
	}
	if len(text) > maxState {
		return nil, fmt.Errorf("%s is longer than %d bytes, which what was used of budgets never is: restore it from a backup, or remove it to give every budget back", path, maxState)
	}
	return text, nil
}

// restore reads a state, and returns its time.
func (l *Ledger) restore(text []byte) (int64, error) {
	var s state
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return 0, err
	}
	if _, err := d.Token(); err != io.EOF {
		return 0, errors.New("something follows its end")
	}
	if s.Version != stateVersion {
		return 0, fmt.Errorf("its version is %d and not %d", s.Version, stateVersion)
	}
	if s.Time < 0 || s.Time > endOfTime {
		return 0, fmt.Errorf("its time %d is none", s.Time)
	}
	if len(s.Used) > maxAccounts {
		return 0, fmt.Errorf("it has %d pairs of source and destination, more than %d", len(s.Used), maxAccounts)
	}
	for _, u := range s.Used {
		if l.open[u.Key] != nil {
			return 0, fmt.Errorf("%s → %s is there twice", u.From, u.To)
		}
		a := &account{}
		if err := errors.Join(a.bytes.restore(u.Bytes, s.Time), a.requests.restore(u.Requests, s.Time)); err != nil {
			return 0, fmt.Errorf("%s → %s: %w", u.From, u.To, err)
		}
		l.open[u.Key] = a
	}
	return s.Time, nil
}

func (c *counter) restore(list []windowState, now int64) error {
	if len(list) > maxWindows {
		return fmt.Errorf("it has %d windows, more than %d", len(list), maxWindows)
	}
	for _, s := range list {
		if s.Per <= 0 || s.Per > maxPer {
			return fmt.Errorf("a window of %s is none", s.Per)
		}
		w := newWindow(s.Per)
		w.last, w.until = s.Last, (s.Last+1)*w.step
		switch {
		case len(*c) > 0 && c.longest().per >= s.Per:
			return errors.New("its windows are not in order")
		case s.Last < 0 || s.Last > now/w.step:
			return errors.New("a window ends in the future")
		case len(s.Parts) > len(w.parts):
			return fmt.Errorf("a window has %d parts, more than %d", len(s.Parts), len(w.parts))
		}
		for i, n := range s.Parts {
			if n > math.MaxUint64-w.sum {
				return errors.New("a window has more than can be counted")
			}
			*w.at(s.Last - int64(len(s.Parts)-1-i)) = n
			w.sum += n
		}
		*c = append(*c, w)
	}
	return nil
}

// Save writes what was used. What is granted counts as used.
func (l *Ledger) Save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	s := l.state()
	if l.o.Path == "" || len(s.Used) == 0 && !l.onDisk {
		return nil
	}
	text, err := json.Marshal(s)
	if err == nil && len(text) >= maxState {
		err = fmt.Errorf("it would have %d bytes, more than %d", len(text), maxState)
	}
	if err == nil {
		err = atomicfile.Write(l.o.Path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("what was used of budgets cannot be kept in %s, and a restart would give it back: %w", l.o.Path, err)
	}
	l.onDisk = len(s.Used) > 0
	return nil
}

func (l *Ledger) state() state {
	s := state{Version: stateVersion, Time: l.clock.now()}
	l.each(s.Time, func(k Key, a *account) {
		s.Used = append(s.Used, stated{k, a.bytes.state(s.Time, a.granted), a.requests.state(s.Time, 0)})
	})
	slices.SortFunc(s.Used, func(a, b stated) int { return compareKeys(a.Key, b.Key) })
	return s
}

func (c counter) state(now int64, granted uint64) (out []windowState) {
	for _, w := range c {
		w.advance(now)
		copied := *w
		copied.addAt(now, granted)
		if copied.sum == 0 {
			continue
		}
		s := windowState{Per: w.per, Last: copied.last}
		for p := copied.last - slots; p <= copied.last; p++ {
			if n := *copied.at(p); n > 0 || len(s.Parts) > 0 {
				s.Parts = append(s.Parts, n)
			}
		}
		out = append(out, s)
	}
	return out
}

// Run saves what is used until ctx ends, and then once more.
func (l *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return l.Save()
		case <-tick.C:
		}
		err := l.Save()
		if err != nil && !failing {
			l.o.Log.Error("budgets cannot be saved", "says", err)
		}
		if err == nil && failing {
			l.o.Log.Info("budgets are saved again")
		}
		failing = err != nil
	}
}
