package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// faulty is a disk between a File and its file that takes what it is told to.
type faulty struct {
	to io.Writer
	// take says how much of a write succeeds; less than all is an error, or is not,
	// as polite says.
	take   func(n int) int
	polite bool
}

func (d *faulty) Write(b []byte) (int, error) {
	n := d.take(len(b))
	if _, err := d.to.Write(b[:n]); err != nil {
		return 0, err
	}
	if n < len(b) && !d.polite {
		return n, errFull
	}
	return n, nil
}

// all returns the records of a log and what was rotated away, oldest first. Every
// line must be whole.
func all(t interface{ Fatalf(string, ...any) }, path string) (out []Record) {
	names, _ := filepath.Glob(path + ".*")
	slices.SortFunc(names, func(a, b string) int { return len(a) - len(b) })
	slices.SortStableFunc(names, func(a, b string) int { return number(a) - number(b) })
	slices.Reverse(names)
	for _, name := range append(names, path) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		lines := strings.SplitAfter(string(text), "\n")
		for i, line := range lines {
			if i == len(lines)-1 && line == "" {
				continue
			}
			var r Record
			if err := json.Unmarshal([]byte(line), &r); err != nil || !strings.HasSuffix(line, "\n") {
				t.Fatalf("%s: line %d of %d is torn: %q, %v", filepath.Base(name), i+1, len(lines), line, err)
			}
			out = append(out, r)
		}
	}
	return out
}

func number(name string) (n int) {
	fmt.Sscan(name[strings.LastIndexByte(name, '.')+1:], &n)
	return n
}

// TestDiskThatFailsAtRandom: writes that succeed in part, files that are rotated,
// taken away and opened again: once the disk is well every record is there once, in
// order, in whole lines.
func TestDiskThatFailsAtRandom(t *testing.T) {
	for seed := range uint64(150) {
		path := filepath.Join(t.TempDir(), "log")
		synctest.Test(t, func(t *testing.T) { failAtRandom(t, path, rand.New(rand.NewPCG(seed, 1))) })
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func failAtRandom(t *testing.T, path string, random *rand.Rand) {
	var well atomic.Bool
	chance := rand.New(rand.NewPCG(random.Uint64(), 2)) // of the writer
	polite := random.IntN(2) == 0
	o := FileOptions{Path: path, MaxBytes: 200 + random.Int64N(3000), Keep: 1000,
		toDisk: func(*os.File) error { return nil },
		through: func(w io.Writer) io.Writer {
			return &faulty{w, func(n int) int {
				if well.Load() || chance.IntN(3) == 0 {
					return n
				}
				return chance.IntN(n + 1)
			}, polite}
		}}
	f, err := OpenFile(o)
	if err != nil {
		t.Fatal(err)
	}
	sent, moved := uint64(0), 0
	send := func() {
		f.Record(Record{Why: strings.Repeat("x", random.IntN(300))})
		sent++
	}
	for range 1 + random.IntN(40) {
		switch random.IntN(9) {
		case 0: // somebody moves the file away
			synctest.Wait()
			if os.Rename(path, fmt.Sprintf("%s.moved.%d", path, moved)) == nil {
				moved++
			}
		case 1: // a restart, when the disk is well; the numbers go on from the file
			well.Store(true)
			send()
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			well.Store(false)
			if f, err = OpenFile(o); err != nil {
				t.Fatal(err)
			}
		case 2:
			time.Sleep(time.Duration(random.Int64N(int64(3 * time.Second))))
		case 3: // and in its place there is something that cannot be written to
			synctest.Wait()
			if os.Rename(path, fmt.Sprintf("%s.moved.%d", path, moved)) == nil {
				moved++
			}
			if os.Mkdir(path, 0o700) == nil {
				for range random.IntN(5) {
					send()
					time.Sleep(time.Duration(random.Int64N(int64(100 * time.Millisecond))))
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		default:
			for range random.IntN(20) {
				send()
			}
			time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
		}
	}
	well.Store(true)
	if err := f.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Ready(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	var seqs []uint64
	for i := range moved {
		name := fmt.Sprintf("%s.moved.%d", path, i)
		for _, r := range all(t, name) {
			seqs = append(seqs, r.Seq)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range all(t, path) {
		seqs = append(seqs, r.Seq)
	}
	slices.Sort(seqs)
	for i, s := range seqs {
		if s != uint64(i+1) {
			t.Fatalf("record %d has number %d", i+1, s)
		}
	}
	if uint64(len(seqs)) != sent || f.Lost() != 0 {
		t.Fatalf("%d records are there, %d were sent, %d lost", len(seqs), sent, f.Lost())
	}
}

// TestNotReadyUntilAWriteSucceeds: nothing but that makes a log ready again, not a
// sync with nothing to do either.
func TestNotReadyUntilAWriteSucceeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		f, err := OpenFile(FileOptions{Path: path, through: func(w io.Writer) io.Writer {
			return &faulty{to: w, take: func(n int) int {
				if full.Load() {
					return 0
				}
				return n
			}}
		}})
		if err != nil {
			t.Fatal(err)
		}
		f.Record(Record{})
		time.Sleep(10 * time.Millisecond) // written, and not synced
		full.Store(true)
		f.Record(Record{})
		time.Sleep(10 * time.Millisecond)
		for range 1000 {
			if !errors.Is(f.Ready(), errFull) {
				t.Fatalf("the disk is full, and it says %v", f.Ready())
			}
			time.Sleep(17 * time.Millisecond)
		}
		if err := f.Flush(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("flushing says %v", err)
		}
		full.Store(false)
		time.Sleep(lastRetry)
		synctest.Wait()
		if err := f.Ready(); err != nil {
			t.Errorf("there is room again, and it says %v", err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if n := len(all(t, path)); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

// TestSyncThatFails is a log that is not kept, until one succeeds.
func TestSyncThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		f, err := OpenFile(FileOptions{Path: path, toDisk: func(*os.File) error {
			if broken.Load() {
				return io.ErrNoProgress
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		f.Record(Record{})
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		f.Record(Record{}) // that it can be written changes nothing
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if !errors.Is(f.Ready(), io.ErrNoProgress) {
			t.Errorf("it says %v", f.Ready())
		}
		if err := f.Flush(t.Context()); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("flushing says %v", err)
		}
		broken.Store(false)
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if err := f.Ready(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseWhileRecording does not panic, and what came too late is counted.
func TestCloseWhileRecording(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "log")
		f, err := OpenFile(FileOptions{Path: path, Flush: time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		var sent atomic.Uint64
		for range 4 {
			g.Go(func() {
				for range 200 {
					f.Record(Record{})
					sent.Add(1)
				}
			})
		}
		for range 2 {
			g.Go(func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		g.Wait()
		if n := uint64(len(all(t, path))); n+f.Lost() != sent.Load() {
			t.Fatalf("%d records are there and %d lost, of %d", n, f.Lost(), sent.Load())
		}
		if f.Ready() == nil || f.Flush(t.Context()) == nil {
			t.Error("a closed log is ready")
		}
	}
}

// TestCloseSaysWhatIsLost.
func TestCloseSaysWhatIsLost(t *testing.T) {
	f, err := OpenFile(FileOptions{To: &faulty{to: io.Discard, take: func(int) int { return 0 }}})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		f.Record(Record{})
	}
	if err := f.Close(); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "1000 records are lost") {
		t.Errorf("it says %v", err)
	}
	if f.Lost() != 1000 {
		t.Errorf("%d are lost, want 1000", f.Lost())
	}
}

// TestBacklogIsBounded, and gives notice before it is full.
func TestBacklogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		f, err := OpenFile(FileOptions{To: &faulty{to: io.Discard, take: func(n int) int { <-hold; return n }}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 * maxQueue {
			f.Record(Record{})
			if i%1000 == 0 {
				time.Sleep(time.Millisecond)
			}
			if f.Lost() == 0 && i > maxQueue/2+2000 && f.Ready() == nil {
				t.Fatalf("%d wait, and it is ready", i)
			}
		}
		f.mu.Lock()
		if n := len(f.queue) + f.taken; n != maxQueue {
			t.Errorf("%d wait, want %d", n, maxQueue)
		}
		f.mu.Unlock()
		if size := unsafe.Sizeof(Record{}); size > 1024 {
			t.Errorf("a record that waits has %d bytes", size)
		}
		close(hold)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestRotationThatFails keeps every record and pushes none over the end.
func TestRotationThatFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	for i := range 3 {
		if err := os.WriteFile(fmt.Sprintf("%s.%d", path, i+1), []byte(fmt.Sprintf(`{"seq":%d}`+"\n", 3-i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing can be renamed to a folder that is not empty.
	if err := os.MkdirAll(path+".4/full", 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(FileOptions{Path: path, MaxBytes: 100, Keep: 4})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		f.Record(Record{})
		flush(t, f)
	}
	if err := f.Ready(); err != nil {
		t.Errorf("it says %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(path + ".4"); err != nil {
		t.Fatal(err)
	}
	got := all(t, path)
	for i, r := range got {
		if r.Seq != uint64(i+1) {
			t.Fatalf("record %d has number %d", i+1, r.Seq)
		}
	}
	if len(got) != 13 {
		t.Errorf("%d records, want 13", len(got))
	}
}

// TestFilesThatAreNoLogs are left alone.
func TestFilesThatAreNoLogs(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("root:x:0:0\nno end"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{other, dir, os.DevNull, "", filepath.Join(dir, "missing", "log")} {
		if f, err := OpenFile(FileOptions{Path: path}); err == nil {
			f.Close()
			t.Errorf("%s: opened", path)
		}
	}
	if text, err := os.ReadFile(other); err != nil || !strings.HasSuffix(string(text), "no end") {
		t.Errorf("it was changed: %q, %v", text, err)
	}
}

// TestTornEnds: whatever is after the last whole line is cut off, however long it
// is, and the numbers go on.
func TestTornEnds(t *testing.T) {
	whole := `{"seq":41}` + "\n" + `{"seq":42}` + "\n"
	for name, c := range map[string]struct {
		text, old string
		next      uint64
	}{
		"nothing":             {"", "", 1},
		"whole":               {whole, "", 43},
		"half a line":         {whole + `{"seq":43,"wh`, "", 43},
		"zeros":               {whole + strings.Repeat("\x00", 4096), "", 43},
		"zeros alone":         {strings.Repeat("\x00", 4096), "", 1},
		"long":                {whole + `{"seq":43,"why":"` + strings.Repeat("x", 3*maxTail), "", 43},
		"one long line":       {`{"seq":43,"why":"` + strings.Repeat("x", 3*maxTail), "", 1},
		"a whole line is bad": {whole + "\x00\x00}\n", "", 43},
		"rotated":             {"", whole, 43},
		"rotated, torn":       {`{"se`, whole + `{"seq":43`, 43},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.old != "" {
			if err := os.WriteFile(path+".1", []byte(c.old), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := OpenFile(FileOptions{Path: path})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Record(Record{ID: "new"})
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"id":"new","seq":%d,`, c.next)
		if i := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1; !strings.HasPrefix(string(text[i:]), want) {
			t.Errorf("%s: the last line is %.100q, want %s", name, text[i:], want)
		}
	}
}

// FuzzMend: whatever a file holds, what stays is whole lines of it.
func FuzzMend(f *testing.F) {
	f.Add([]byte(`{"seq":41}` + "\n" + `{"seq":`))
	f.Add([]byte("\x00\x00\n{}"))
	f.Add([]byte(`{"seq":18446744073709551615}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenFile(FileOptions{Path: path})
		if err == nil {
			err = l.Close()
		}
		got, readErr := os.ReadFile(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if !bytes.Equal(got, text) {
				t.Fatalf("%v, and the file is changed", err)
			}
			return
		}
		if want := text[:bytes.LastIndexByte(text, '\n')+1]; !bytes.Equal(got, want) {
			t.Fatalf("%q is left of %q", got, text)
		}
	})
}

// FuzzAppendJSON: what is written by hand is what encoding/json writes.
func FuzzAppendJSON(f *testing.F) {
	f.Add("a → b", "<&>\"\\\x00\x1f\x7f\b\f\n\r\t", "\xff\xc0\xaf\xed\xa0\x80\xe2\x80\xa8\u2029", []byte{1, 2, 3, 4}, uint16(443), int64(1_800_000_000), int64(5), uint64(7), true)
	f.Add("", "", "%\"<", make([]byte, 16), uint16(0), int64(253402300800), int64(-1), uint64(0), false)
	f.Add("", "", "", []byte(nil), uint16(0), int64(253402300800), int64(15), uint64(0), false)
	f.Add("UTC+25", "", "", []byte(nil), uint16(0), int64(0), int64(90000), uint64(0), true)
	f.Fuzz(func(t *testing.T, a, b, zone string, ip []byte, port uint16, sec, n int64, u uint64, yes bool) {
		addr, _ := netip.AddrFromSlice(ip)
		if yes {
			addr = addr.WithZone(zone)
		}
		at := time.Unix(sec, n%1e9).UTC()
		if yes {
			at = at.In(time.FixedZone(a, int(n%200000)))
		}
		r := Record{ID: a, Seq: u, Time: at, Event: Event(b), Node: zone, Side: Side(a), From: Peer{Workload: a, Zone: b, Addr: netip.AddrPortFrom(addr, port)},
			To: Peer{Service: zone, Name: b, Port: port, ID: a}, Transport: b, Wire: a, Verdict: zone, Rule: a, Generation: u, Why: b, BytesOut: n, BytesIn: sec,
			Duration: time.Duration(n), Method: b, Status: int(n), Mode: a, WouldDeny: yes, Aliases: zone, Count: u, Probe: b, Lost: u}
		got := AppendJSON(nil, &r)
		want, err := json.Marshal(&r)
		if err != nil { // a time that cannot be said: it is left out, and the line is one
			r.Time = time.Time{}
			if want, err = json.Marshal(&r); err != nil {
				t.Fatal(err)
			}
			want = bytes.Replace(want, []byte(`"time":"0001-01-01T00:00:00Z"`), []byte(`"time":null`), 1)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

// TestRecordHasNoFieldThatIsNotWritten: who adds a field adds it to AppendJSON.
func TestRecordHasNoFieldThatIsNotWritten(t *testing.T) {
	r := Record{ID: "a", Seq: 1, Time: time.Unix(1, 0), Event: "a", Node: "a", Side: "a", Transport: "a", Wire: "a", Verdict: "a", Rule: "a", Generation: 1,
		Why: "a", BytesOut: 1, BytesIn: 1, Duration: 1, Method: "a", Status: 1, Mode: "a", WouldDeny: true, Aliases: "a", Count: 1, Probe: "a", Lost: 1}
	r.From = Peer{"a", "a", "a", "a", 1, "a", netip.MustParseAddrPort("1.2.3.4:5")}
	r.To = r.From
	allSet(t, r)
	want, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := AppendJSON(nil, &r); !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// allSet fails where a field has its zero value, as one would that was added.
func allSet(t *testing.T, r Record) {
	t.Helper()
	for _, v := range []reflect.Value{reflect.ValueOf(r), reflect.ValueOf(r.From)} {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s is not set here", v.Type().Field(i).Name)
			}
		}
	}
}
