package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"
)

// FileOptions say where records are kept, and how well.
type FileOptions struct {
	Path string
	// To takes the records instead of a file; nothing is rotated or synced then.
	To io.Writer
	// MaxBytes is when the file is rotated, to Path.1 and so on, of which Keep stay:
	// 256 MiB and 8 if they are 0.
	MaxBytes int64
	Keep     int
	// Drop goes on without the log and counts what is lost. Otherwise Ready says
	// why nothing more should happen.
	Drop bool
	// Flush is how long records gather before they are written together, Sync how
	// long before what is written is on the disk: 5 ms and 1 s if they are 0.
	Flush, Sync time.Duration
	Log         *slog.Logger
	Now         func() time.Time
}

// File is a Sink that keeps records on disk, one JSON document a line. It numbers
// them; the numbers go on from what the file holds. A record is written within
// some milliseconds; a crash of this process loses what was not, a crash of the
// machine what was not synced. One goroutine owns the file.
type File struct {
	o     FileOptions
	wake  chan struct{} // there is something to write
	stop  chan struct{} // closed when it is to end
	done  chan struct{} // closed when the writer has ended
	flush chan chan error

	mu      sync.Mutex // guards the following
	queue   []Record
	next    uint64 // the number of the next record
	lost    uint64 // since the last record that was kept
	total   uint64 // of all that were lost
	failing error  // why the last write failed, nil if it did not
	closed  bool

	// The rest belongs to the writer.
	to    io.Writer
	file  *os.File
	size  int64
	buf   []byte // encoded and not written yet
	spare []Record
	dirty bool
}

const (
	// maxQueue is how many records wait for the disk.
	maxQueue = 1 << 16
	// maxUnwritten is how much encoded text waits while the disk fails.
	maxUnwritten = 8 << 20
	firstRetry   = 50 * time.Millisecond
	lastRetry    = 2 * time.Second
)

// OpenFile opens a file of records and mends its end: a line that a crash cut
// off is removed.
func OpenFile(o FileOptions) (*File, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Keep == 0 {
		o.Keep = 8
	}
	if o.Flush == 0 {
		o.Flush = 5 * time.Millisecond
	}
	if o.Sync == 0 {
		o.Sync = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &File{o: o, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), flush: make(chan chan error), next: 1}
	if o.To != nil {
		f.to = o.To
	} else if err := f.open(); err != nil {
		return nil, err
	}
	go f.write()
	return f, nil
}

// open opens the file at its end.
func (f *File) open() error {
	file, err := os.OpenFile(f.o.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("records cannot be kept: %w", err)
	}
	last, size, err := mend(file)
	if err == nil {
		_, err = file.Seek(size, io.SeekStart)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("records cannot be kept in %s: %w", f.o.Path, err), file.Close())
	}
	f.file, f.to, f.size = file, file, size
	if last == 0 {
		last = lastNumber(f.o.Path + ".1") // rotated just before the end
	}
	f.mu.Lock()
	f.next = max(f.next, last+1)
	f.mu.Unlock()
	return nil
}

// maxTail is how much of a file's end is read to find its last line: more than
// any record has.
const maxTail = 1 << 20

// mend cuts a line off that has no end, and returns the number of the last record
// and the size of what stays.
func mend(file *os.File) (last uint64, size int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	size = info.Size()
	tail := make([]byte, min(size, maxTail))
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return 0, 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if cut := len(tail) - end; cut > 0 {
		size -= int64(cut)
		if err := file.Truncate(size); err != nil {
			return 0, 0, err
		}
	}
	return numberOf(tail[:end]), size, nil
}

// numberOf returns the number of the last record in text that has one.
func numberOf(text []byte) uint64 {
	for len(text) > 0 {
		text = text[:len(text)-1] // the end of the last line
		i := bytes.LastIndexByte(text, '\n') + 1
		var r struct{ Seq uint64 }
		if json.Unmarshal(text[i:], &r) == nil && r.Seq > 0 {
			return r.Seq
		}
		text = text[:i]
	}
	return 0
}

// lastNumber returns the number of the last record of a file, 0 if there is none.
func lastNumber(path string) uint64 {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	tail := make([]byte, min(info.Size(), maxTail))
	if _, err := file.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && err != io.EOF {
		return 0
	}
	return numberOf(tail[:bytes.LastIndexByte(tail, '\n')+1])
}

// Record numbers a record and keeps it. It does not wait for the disk.
func (f *File) Record(r Record) {
	f.mu.Lock()
	if f.closed || len(f.queue) >= maxQueue {
		f.lost++
		f.total++
		f.mu.Unlock()
		return
	}
	r.Seq, r.Lost = f.next, r.Lost+f.lost
	f.next++
	f.lost = 0
	f.queue = append(f.queue, r)
	first := len(f.queue) == 1
	f.mu.Unlock()
	if first {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// Ready says why records cannot be kept now, nil if they can or if the log may be
// done without.
func (f *File) Ready() error {
	if f.o.Drop {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return errors.New("the log is closed")
	case f.failing != nil:
		return f.failing
	case len(f.queue) >= maxQueue/2:
		return errors.New("the disk is too slow for the log")
	}
	return nil
}

// Lost returns how many records could not be kept.
func (f *File) Lost() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// Flush returns when everything recorded before is written and synced.
func (f *File) Flush(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case f.flush <- answer:
	case <-f.done:
		return errors.New("the log is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close writes what there is and closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		<-f.done
		return nil
	}
	f.closed = true
	f.mu.Unlock()
	close(f.stop)
	<-f.done
	err := f.sync()
	if f.file != nil {
		err = errors.Join(err, f.file.Close())
	}
	if n := len(f.buf); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d bytes of records could not be written", n))
	}
	return err
}

// write owns the file until it is closed.
func (f *File) write() {
	defer close(f.done)
	var syncing <-chan time.Time
	var retry <-chan time.Time
	pause := firstRetry
	for {
		var answer chan error
		open := true
		select {
		case <-f.wake:
			if retry == nil {
				time.Sleep(f.o.Flush) // more comes in a moment
			}
		case <-f.stop:
			open = false
		case answer = <-f.flush:
		case <-retry:
			retry = nil
		case <-syncing:
			syncing = nil
			f.note(f.sync())
		}
		if retry == nil || answer != nil || !open {
			err := f.drain()
			f.note(err)
			switch {
			case err != nil:
				retry = time.After(pause)
				pause = min(2*pause, lastRetry)
			default:
				pause = firstRetry
				if f.dirty && syncing == nil {
					syncing = time.After(f.o.Sync)
				}
			}
			if answer != nil {
				if err == nil {
					err = f.sync()
				}
				answer <- err
			}
		}
		if !open {
			return
		}
	}
}

// note keeps why records cannot be kept.
func (f *File) note(err error) {
	f.mu.Lock()
	before := f.failing
	f.failing = err
	f.mu.Unlock()
	switch {
	case err != nil && before == nil:
		f.o.Log.Error("records cannot be kept", "says", err)
	case err == nil && before != nil:
		f.o.Log.Warn("records are kept again")
	}
}

// drain encodes and writes everything that waits.
func (f *File) drain() error {
	for {
		if err := f.put(); err != nil {
			return err
		}
		f.mu.Lock()
		batch := f.queue
		f.queue = f.spare[:0]
		f.mu.Unlock()
		if len(batch) == 0 {
			f.spare = batch
			return nil
		}
		for i := range batch {
			f.buf = AppendJSON(f.buf, &batch[i])
			f.buf = append(f.buf, '\n')
			if len(f.buf) >= maxUnwritten/2 {
				if err := f.put(); err != nil {
					f.keep(batch[i+1:])
					return err
				}
			}
		}
		clear(batch)
		f.spare = batch
	}
}

// keep puts records back that were taken and not encoded.
func (f *File) keep(rest []Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(append(make([]Record, 0, len(rest)+len(f.queue)), rest...), f.queue...)
}

// put writes what is encoded. What was written in part stays whole: the rest is
// written next.
func (f *File) put() error {
	if len(f.buf) == 0 {
		return nil
	}
	if f.file != nil {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	n, err := f.to.Write(f.buf)
	f.size += int64(n)
	f.buf = f.buf[:copy(f.buf, f.buf[n:])]
	f.dirty = f.dirty || n > 0
	if err == nil && len(f.buf) > 0 {
		err = io.ErrShortWrite
	}
	if cap(f.buf) > maxUnwritten {
		f.buf = bytes.Clone(f.buf)
	}
	return err
}

// rotate begins a new file if this one is full, or is not where it was.
func (f *File) rotate() error {
	at, err := os.Stat(f.o.Path)
	own, ownErr := f.file.Stat()
	moved := err != nil || ownErr != nil || !os.SameFile(at, own)
	if !moved && f.size < f.o.MaxBytes {
		return nil
	}
	if err := f.sync(); err != nil {
		return err
	}
	if !moved {
		for i := f.o.Keep; i > 1; i-- {
			if err := os.Rename(f.name(i-1), f.name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if err := os.Rename(f.o.Path, f.name(1)); err != nil {
			return err
		}
	}
	old := f.file
	if err := f.open(); err != nil {
		return err
	}
	return old.Close()
}

func (f *File) name(i int) string { return f.o.Path + "." + strconv.Itoa(i) }

// sync brings what is written to the disk.
func (f *File) sync() error {
	if f.file == nil || !f.dirty {
		return nil
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	f.dirty = false
	return nil
}

// Tee returns a Sink that gives each record to all of sinks.
func Tee(sinks ...Sink) Sink { return tee(sinks) }

type tee []Sink

func (t tee) Record(r Record) {
	for _, s := range t {
		s.Record(r)
	}
}
