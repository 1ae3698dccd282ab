package flow

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func openTest(t *testing.T, o FileOptions) *File {
	t.Helper()
	f, err := OpenFile(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// read returns the records of a file; each line must be one.
func read(t *testing.T, path string) []Record {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func parse(t *testing.T, text []byte) []Record {
	t.Helper()
	var out []Record
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var r Record
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatalf("line %d: %v: %s", len(out)+1, err, s.Text())
		}
		out = append(out, r)
	}
	return out
}

func flush(t *testing.T, f *File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := f.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestFileKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f := openTest(t, FileOptions{Path: path})
	const each, writers = 2000, 8
	var g sync.WaitGroup
	for range writers {
		g.Go(func() {
			for range each {
				f.Record(Record{Event: Open, Verdict: "allow"})
			}
		})
	}
	g.Wait()
	flush(t, f)
	all := read(t, path)
	if len(all) != each*writers {
		t.Fatalf("%d records, want %d", len(all), each*writers)
	}
	for i, r := range all {
		if r.Seq != uint64(i+1) || r.Lost != 0 {
			t.Fatalf("record %d has number %d, lost %d", i, r.Seq, r.Lost)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestFileGoesOnAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f := openTest(t, FileOptions{Path: path})
	f.Record(Record{})
	f.Record(Record{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	torn, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	torn.WriteString(`{"id":"","seq":3,"ti`)
	torn.Close()
	f = openTest(t, FileOptions{Path: path})
	f.Record(Record{})
	flush(t, f)
	if all := read(t, path); len(all) != 3 || all[2].Seq != 3 {
		t.Errorf("%+v", all)
	}
}

func TestFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f := openTest(t, FileOptions{Path: path, MaxBytes: 1000, Keep: 2})
	for range 40 {
		f.Record(Record{})
		flush(t, f)
	}
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 3 {
		t.Errorf("%v %v", names, err)
	}
	next := uint64(0)
	for _, name := range []string{path + ".2", path + ".1", path} {
		for _, r := range read(t, name) {
			if next != 0 && r.Seq != next {
				t.Errorf("%s: record %d after %d", name, r.Seq, next-1)
			}
			next = r.Seq + 1
		}
	}
	if next != 41 {
		t.Errorf("the last is %d", next-1)
	}
	// Somebody else moves it away.
	if err := os.Rename(path, path+".gone"); err != nil {
		t.Fatal(err)
	}
	f.Record(Record{})
	flush(t, f)
	if all := read(t, path); len(all) != 1 || all[0].Seq != 41 {
		t.Errorf("%+v", all)
	}
}

// failing is a disk that is full while it is told so.
type failing struct {
	full atomic.Bool
	mu   sync.Mutex
	has  bytes.Buffer
}

var errFull = errors.New("no space left on device")

func (f *failing) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full.Load() {
		n, _ := f.has.Write(b[:min(len(b), 7)]) // some of it fits
		return n, errFull
	}
	return f.has.Write(b)
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it did not come to: " + what)
}

func TestFullDiskStops(t *testing.T) {
	disk := &failing{}
	f := openTest(t, FileOptions{To: disk})
	f.Record(Record{})
	flush(t, f)
	disk.full.Store(true)
	f.Record(Record{})
	waitFor(t, "not ready", func() bool { return f.Ready() != nil })
	if !errors.Is(f.Ready(), errFull) {
		t.Error(f.Ready())
	}
	f.Record(Record{}) // of what is still open
	disk.full.Store(false)
	waitFor(t, "ready again", func() bool { return f.Ready() == nil })
	flush(t, f)
	disk.mu.Lock()
	all := parse(t, disk.has.Bytes())
	disk.mu.Unlock()
	if len(all) != 3 || all[2].Seq != 3 || f.Lost() != 0 {
		t.Errorf("%d records, %d lost", len(all), f.Lost())
	}
}

func TestFullDiskDropsIfToldSo(t *testing.T) {
	disk := &failing{}
	disk.full.Store(true)
	f := openTest(t, FileOptions{To: disk, Drop: true})
	for range maxQueue + maxQueue/2 {
		f.Record(Record{})
	}
	waitFor(t, "lost", func() bool { f.Record(Record{}); return f.Lost() > 0 })
	if err := f.Ready(); err != nil {
		t.Error(err)
	}
	disk.full.Store(false)
	waitFor(t, "room", func() bool { before := f.Lost(); f.Record(Record{}); return f.Lost() == before })
	f.Record(Record{})
	flush(t, f)
	disk.mu.Lock()
	all := parse(t, disk.has.Bytes())
	disk.mu.Unlock()
	lost, last := uint64(0), uint64(0)
	for _, r := range all {
		if r.Seq != last+1 {
			t.Fatalf("record %d after %d", r.Seq, last)
		}
		last, lost = r.Seq, lost+r.Lost
	}
	if lost != f.Lost() {
		t.Errorf("the records say that %d were lost, the file %d", lost, f.Lost())
	}
}

func TestFullTmpfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: it mounts a small disk; run: sudo go test ./mesh/flow")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIPPED: a small disk cannot be mounted: %v; run: sudo go test ./mesh/flow", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	f := openTest(t, FileOptions{Path: filepath.Join(dir, "log")})
	defer f.Close()
	for range 1000 {
		f.Record(Record{Why: "a line that takes some room on the disk, as lines do"})
	}
	waitFor(t, "not ready", func() bool { return errors.Is(f.Ready(), syscall.ENOSPC) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "ready again", func() bool { return f.Ready() == nil })
	flush(t, f)
	if all := read(t, filepath.Join(dir, "log")); len(all) != 1000 {
		t.Errorf("%d records", len(all))
	}
}

// TestKilled: a process that is killed leaves whole lines without a gap, and at
// least what was flushed.
func TestKilled(t *testing.T) {
	if path := os.Getenv("BULKHEAD_TEST_LOG"); path != "" {
		f, err := OpenFile(FileOptions{Path: path})
		if err != nil {
			os.Exit(1)
		}
		for i := 0; ; i++ {
			f.Record(Record{Event: Open})
			if i == 5000 {
				if f.Flush(context.Background()) != nil {
					os.Exit(1)
				}
				os.Stdout.WriteString("flushed\n")
			}
			if i > 5000 {
				time.Sleep(10 * time.Microsecond)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "log")
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
		cmd.Env = append(os.Environ(), "BULKHEAD_TEST_LOG="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(round*7) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		f := openTest(t, FileOptions{Path: path})
		f.Close()
		all := read(t, path)
		for i, r := range all {
			if r.Seq != uint64(i+1) {
				t.Fatalf("round %d: record %d has number %d", round, i, r.Seq)
			}
		}
		if len(all) < 5000*(round+1) {
			t.Errorf("round %d: %d records", round, len(all))
		}
	}
}

func BenchmarkFile(b *testing.B) {
	f, err := OpenFile(FileOptions{Path: filepath.Join(b.TempDir(), "log"), Drop: true})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for b.Loop() {
		f.Record(Record{ID: "1590f87f04d74557239e6a97102146f7", Event: Open, Verdict: "allow", Rule: "bulkhead.yaml:10:5 egress trainer → pypi"})
	}
}
