package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
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
	Now         func() time.Time // dates records that have no time; time.Now if nil

	// through and toDisk stand for the disk in tests of its faults.
	through func(io.Writer) io.Writer
	toDisk  func(*os.File) error
}

// File is a Sink that keeps records on disk, one JSON document a line. It numbers
// them; the numbers go on from what the file holds. A record is written within
// some milliseconds; a crash of this process loses what was not, a crash of the
// machine what was not synced. One goroutine owns the file; two processes must not
// have the same.
type File struct {
	o       FileOptions
	wake    chan struct{} // there is something to write
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the writer has ended
	flush   chan chan error

	mu        sync.Mutex // guards the following
	queue     []Record
	taken     int    // how many the writer took and has not encoded
	next      uint64 // the number of the next record
	lost      uint64 // since the last record that was kept
	total     uint64 // of all that were lost
	unwritten error  // why the last write failed, nil if it did not
	unsynced  error  // the same of the last sync
	closed    bool

	// The rest belongs to the writer.
	place place
	batch []Record // taken from the queue; those from at on are not encoded
	at    int
	buf   []byte // encoded and not written yet, in whole lines
	begun int    // how much of the first of them is written
}

const (
	// maxQueue is how many records wait for the disk.
	maxQueue = 1 << 16
	// maxWrite is how much is written at once, but for the end of a line; gather is
	// about as much, in records.
	maxWrite   = 64 << 10
	gather     = 128
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
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
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &File{o: o, wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}), flush: make(chan chan error), next: 1,
		place: place{o: o, to: o.To}}
	if o.To == nil {
		last, err := f.place.open()
		if err != nil {
			return nil, fmt.Errorf("records cannot be kept: %w", err)
		}
		f.next = last + 1
	}
	go f.write()
	return f, nil
}

// Record numbers a record and keeps it. It does not wait for the disk.
func (f *File) Record(r Record) {
	if r.Time.IsZero() {
		r.Time = f.o.Now()
	}
	f.mu.Lock()
	if f.closed || len(f.queue)+f.taken >= maxQueue {
		f.lost++
		f.total++
		f.mu.Unlock()
		return
	}
	r.Seq, r.Lost = f.next, r.Lost+f.lost
	f.next++
	f.lost = 0
	f.queue = append(f.queue, r)
	n := len(f.queue)
	f.mu.Unlock()
	if n == 1 || n == gather {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// Ready says why records cannot be kept now, nil if they can or if the log may be
// done without. It says so while there is still room for those of what is open.
func (f *File) Ready() error {
	if f.o.Drop {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return errors.New("the log is closed")
	case f.unwritten != nil:
		return f.unwritten
	case f.unsynced != nil:
		return f.unsynced
	case len(f.queue)+f.taken >= maxQueue/2:
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

// Flush returns when everything recorded before is written and synced, or cannot
// be.
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

// Close writes what there is and closes the file. What cannot be written is lost,
// and it says so.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		<-f.done
		return nil
	}
	f.closed = true
	close(f.closing)
	f.mu.Unlock()
	<-f.done
	err := f.place.close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.queue) + f.taken + bytes.Count(f.buf, newline); n > 0 {
		f.total += uint64(n)
		err = errors.Join(err, fmt.Errorf("%d records are lost: %w", n, f.unwritten))
	}
	return err
}

var newline = []byte{'\n'}

// write owns the file until it is closed.
func (f *File) write() {
	defer close(f.done)
	var due, retry, syncing <-chan time.Time
	pause := firstRetry
	for open := true; open; {
		var answer chan error
		select {
		case <-f.closing:
			open = false
		case answer = <-f.flush:
		case <-f.wake:
			if due == nil {
				due = time.After(f.o.Flush) // more comes in a moment
			}
			if retry != nil || !f.plenty() {
				continue
			}
		case <-due:
			due = nil
			if retry != nil {
				continue
			}
		case <-retry:
		case <-syncing:
			syncing = nil
			if f.sync() != nil {
				syncing = time.After(f.o.Sync)
			}
			continue
		}
		err := f.drain()
		f.note(&f.unwritten, err)
		retry = nil
		if err != nil {
			retry = time.After(pause)
			pause = min(2*pause, lastRetry)
		} else {
			pause = firstRetry
		}
		if err == nil && answer != nil {
			err = f.sync()
		}
		if answer != nil {
			answer <- err
		}
		if f.place.dirty && syncing == nil {
			syncing = time.After(f.o.Sync)
		}
	}
}

// plenty reports whether enough waits for a write of its own.
func (f *File) plenty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue) >= gather
}

func (f *File) sync() error {
	err := f.place.sync()
	f.note(&f.unsynced, err)
	return err
}

// note keeps why records cannot be kept, as one of the two reasons there can be.
func (f *File) note(reason *error, err error) {
	if err != nil {
		err = fmt.Errorf("records cannot be kept: %w: make room, or mend it; nothing needs to be restarted", err)
	}
	f.mu.Lock()
	before := errors.Join(f.unwritten, f.unsynced)
	*reason = err
	now := errors.Join(f.unwritten, f.unsynced)
	f.mu.Unlock()
	switch {
	case now != nil && before == nil:
		f.o.Log.Error("records cannot be kept", "says", now)
	case now == nil && before != nil:
		f.o.Log.Warn("records are kept again")
	}
}

// drain encodes and writes everything that waits.
func (f *File) drain() error {
	for {
		if err := f.put(); err != nil {
			return err
		}
		if f.at == len(f.batch) && !f.take() {
			return nil
		}
		f.encode()
	}
}

// take takes what is in the queue. It reports whether there was anything.
func (f *File) take() bool {
	clear(f.batch)
	free := f.batch[:0]
	if cap(free) > 8*gather && len(f.batch) < cap(free)/4 {
		free = nil // a burst is over
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batch, f.queue, f.at = f.queue, free, 0
	f.taken = len(f.batch)
	return f.taken > 0
}

// encode encodes as much as is written at once.
func (f *File) encode() {
	for f.at < len(f.batch) && len(f.buf) < maxWrite {
		f.buf = append(AppendJSON(f.buf, &f.batch[f.at]), '\n')
		f.at++
	}
	f.mu.Lock()
	f.taken = len(f.batch) - f.at
	f.mu.Unlock()
}

// put writes what is encoded. Of a line that was written in part the rest is
// written next, unless the file is another by then: that gets the whole line.
func (f *File) put() error {
	if len(f.buf) == 0 {
		return nil
	}
	another, last, err := f.place.ready(int64(f.begun))
	if another {
		f.begun = 0
		f.mu.Lock()
		f.next = max(f.next, last+1)
		f.mu.Unlock()
	}
	if err != nil {
		return err
	}
	n, err := f.place.write(f.buf[f.begun:])
	written := f.begun + min(max(n, 0), len(f.buf)-f.begun)
	whole := bytes.LastIndexByte(f.buf[:written], '\n') + 1
	f.begun = written - whole
	f.buf = f.buf[:copy(f.buf, f.buf[whole:])]
	if err == nil && len(f.buf) > 0 {
		err = io.ErrShortWrite
	}
	if len(f.buf) == 0 && cap(f.buf) > 4*maxWrite {
		f.buf = nil
	}
	return err
}

// Tee returns a Sink that gives each record to all of sinks.
func Tee(sinks ...Sink) Sink { return tee(sinks) }

type tee []Sink

func (t tee) Record(r Record) {
	for _, s := range t {
		s.Record(r)
	}
}
