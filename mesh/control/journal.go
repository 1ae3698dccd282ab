package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The events of the history.
const (
	EventStart      = "start" // of control: Generation is what it went on from
	EventQuarantine = "quarantine"
	EventRelease    = "release"
	EventFailed     = "failed" // the event before it did not take effect
)

// Event is a line of the history of quarantines. A quarantine or release is
// written before it takes effect; one after which a start or failure names an
// older generation did not.
type Event struct {
	At           time.Time `json:"at"`
	Event        string    `json:"event"`
	Generation   uint64    `json:"generation"`
	Target       string    `json:"target,omitempty"`
	Because      string    `json:"because,omitempty"`
	Operator     string    `json:"operator,omitempty"`
	KeepEvidence bool      `json:"keepEvidence,omitempty"`
	Error        string    `json:"error,omitempty"`
}

// journal is a file of events, to which lines are added and nothing else.
type journal struct{ dir string }

func (j journal) path() string { return filepath.Join(j.dir, "history.jsonl") }

// add writes a line and makes it durable.
func (j journal) add(e Event) (err error) {
	e.At = e.At.UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if cut, err := endsInside(f); err != nil {
		return err
	} else if cut {
		line = append([]byte("\n"), line...)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	return f.Sync()
}

// endsInside reports whether the last line has no end.
func endsInside(f *os.File) (bool, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return false, err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, end-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// History returns the events of quarantines, oldest first. Lines that a crash cut
// short are left out.
func (c *Control) History() ([]Event, error) {
	text, err := os.ReadFile(c.history.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Event
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event != "" {
			out = append(out, e)
		}
	}
	return out, lines.Err()
}
