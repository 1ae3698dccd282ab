package budget

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead/core/policy"
)

// TestBadStateIsAnError that names the file and the fix: it is never a fresh budget.
func TestBadStateIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budgets.json")
	h := newHand()
	l := open(t, path, h)
	u := begin(t, l, bytesPer(1000, time.Hour))
	u.Grant(500)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	text := string(bytes.TrimSpace(good))
	used := func(s string) string { return `{"version":1,"time_ns":1000000000000,"used":[` + s + `]}` }
	for name, bad := range map[string]string{
		"empty":           "",
		"null":            "null",
		"zeros":           strings.Repeat("\x00", 100),
		"twice":           text + text,
		"other version":   `{"version":2}`,
		"no time":         `{"version":1,"time_ns":-1}`,
		"unknown key":     `{"version":1,"time_ns":1,"user":[]}`,
		"same pair":       used(`{"from":"a","to":"b"},{"from":"a","to":"b"}`),
		"negative":        used(`{"from":"a","to":"b","bytes":[{"per_ns":60000000000,"last":900,"parts":[-1]}]}`),
		"overflow":        used(`{"from":"a","to":"b","bytes":[{"per_ns":60000000000,"last":900,"parts":[18446744073709551615,1]}]}`),
		"no length":       used(`{"from":"a","to":"b","bytes":[{"per_ns":0,"last":900,"parts":[1]}]}`),
		"long":            used(`{"from":"a","to":"b","bytes":[{"per_ns":9223372036854775807,"last":0,"parts":[1]}]}`),
		"future":          used(`{"from":"a","to":"b","bytes":[{"per_ns":60000000000,"last":1001,"parts":[1]}]}`),
		"past":            used(`{"from":"a","to":"b","bytes":[{"per_ns":60000000000,"last":-1,"parts":[1]}]}`),
		"too many parts":  used(`{"from":"a","to":"b","bytes":[{"per_ns":60000000000,"last":900,"parts":[` + strings.Repeat("1,", 61) + `1]}]}`),
		"out of order":    used(`{"from":"a","to":"b","bytes":[{"per_ns":2,"last":1,"parts":[1]},{"per_ns":1,"last":1,"parts":[1]}]}`),
		"too many":        used(`{"from":"a","to":"b","bytes":[` + strings.Repeat(`{"per_ns":1},`, 8) + `{"per_ns":1}]}`),
		"too deep":        strings.Repeat("[", 100000),
		"a folder of its": "dir",
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if bad == "dir" {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, []byte(bad), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Path: path, Now: h.now}); err == nil {
			t.Errorf("%s: opened", name)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error does not name the file: %v", name, err)
		}
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	for n := range len(text) {
		if err := os.WriteFile(path, []byte(text[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Path: path, Now: h.now}); err == nil {
			t.Errorf("the first %d bytes of a state are one", n)
		}
	}
}

func TestStateThatIsTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budgets.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Skip(err)
	}
	if _, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("got %v", err)
	}
}

// TestRunSaves in between and at the end, and goes on where it cannot.
func TestRunSaves(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(dir, "budgets.json")
	synctest.Test(t, func(t *testing.T) {
		var log lines
		l, err := Open(Options{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		limits := bytesPer(1000, 24*time.Hour)
		begin(t, l, limits).Grant(100)
		time.Sleep(3 * saveEvery)
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot be saved"); n != 1 {
			t.Errorf("it was said %d times that budgets cannot be saved: %s", n, &log)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(saveEvery)
		synctest.Wait()
		if !strings.Contains(log.String(), "saved again") || usedOnDisk(t, path) != 100 {
			t.Errorf("after a moment %d bytes are on disk; %s", usedOnDisk(t, path), &log)
		}
		begin(t, l, limits).Grant(200)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := usedOnDisk(t, path); n != 300 {
			t.Errorf("at the end %d bytes are on disk, want 300", n)
		}
	})
}

func usedOnDisk(t *testing.T, path string) uint64 {
	t.Helper()
	l, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return l.Usage()[0].Bytes
}

// FuzzRestoredState: whatever a file holds, it is refused or counts the same after it was
// saved, and no clock makes it count more than before or panic.
func FuzzRestoredState(f *testing.F) {
	now := time.Unix(1<<31, 0).UnixNano()
	f.Add([]byte(fmt.Sprintf(`{"version":1,"time_ns":%d,"used":[{"from":"a","to":"b","bytes":[{"per_ns":60000000000,"last":%d,"parts":[5,0,7]}]}]}`, now, now/1e9)), int64(1))
	f.Add([]byte(`{"version":1,"time_ns":4611686018427387904,"used":[{"from":"a","to":"b","requests":[{"per_ns":1,"last":4611686018427387904,"parts":[1]}]}]}`), int64(-1))
	f.Add([]byte(`{"version":1,"time_ns":0,"used":[{"from":"a","to":"b","requests":[{"per_ns":7,"last":0,"parts":[1,2,3]}]}]}`), int64(1<<40))
	f.Fuzz(func(t *testing.T, text []byte, by int64) {
		path := filepath.Join(t.TempDir(), "budgets.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		h := newHand()
		h.at = time.Unix(0, 0) // the state's own time counts
		l, err := Open(Options{Path: path, Now: h.now})
		if err != nil {
			return
		}
		before, _ := json.Marshal(l.Usage())
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
		again := open(t, path, h)
		if after, _ := json.Marshal(again.Usage()); !bytes.Equal(before, after) {
			t.Fatalf("saved and read again it counts\n%s and not\n%s", after, before)
		}
		sum := func() (n uint64) {
			for _, u := range again.Usage() {
				n = plus(n, plus(u.Bytes, u.Requests))
			}
			return n
		}
		start := sum()
		h.at = h.at.Add(time.Duration(by))
		if n := sum(); n > start || by <= 0 && n != start {
			t.Fatalf("after %s it counts %d and not %d", time.Duration(by), n, start)
		}
		for k := range again.open {
			if u, err := again.Begin(k, policy.Limits{Bytes: policy.Amount{Most: 10, Per: time.Hour}}); err == nil {
				u.Grant(100)
				u.End()
			}
		}
	})
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
