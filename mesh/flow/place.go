package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// place is where a File writes: a file that is rotated and mended, or a writer.
type place struct {
	o      FileOptions
	to     io.Writer
	file   *os.File // nil for a writer
	dirty  bool     // something is written and not synced
	unable bool     // the last rotation failed
}

// open opens the file at its end, and returns the number of the last record.
func (p *place) open() (last uint64, err error) {
	file, err := os.OpenFile(p.o.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	if last, err = mend(file); err != nil {
		return 0, errors.Join(fmt.Errorf("%s: %w", p.o.Path, err), file.Close())
	}
	if last == 0 {
		last = lastNumber(p.name(1)) // rotated just before the end
	}
	p.file, p.to = file, file
	if p.o.through != nil {
		p.to = p.o.through(file)
	}
	p.syncFolder()
	return last, nil
}

// ready sees to a file that is where it should be and has room. The one at hand ends
// with the beginning of a line, of so many bytes. It reports whether it is another
// file now, which gets the whole line, and the number of its last record.
func (p *place) ready(begun int64) (another bool, last uint64, err error) {
	if p.file == nil {
		return false, 0, nil
	}
	own, err := p.file.Stat()
	if err != nil {
		return false, 0, err
	}
	at, err := os.Stat(p.o.Path)
	if moved := err != nil || !os.SameFile(at, own); !moved {
		if own.Size() < p.o.MaxBytes || !p.rotated() {
			return false, 0, nil
		}
	}
	old, dirty := p.file, p.dirty
	if last, err = p.open(); err != nil {
		return false, 0, err
	}
	p.dirty = false
	if begun > 0 {
		err = old.Truncate(own.Size() - begun)
	}
	if err := errors.Join(err, p.leave(old, dirty)); err != nil {
		p.o.Log.Error("the end of an old file of records may not be on the disk, or not whole", "path", p.o.Path, "says", err)
	}
	return true, last, nil
}

// leave closes a file that another has replaced. That it may not be on the disk must
// not keep the new one away.
func (p *place) leave(old *os.File, dirty bool) (err error) {
	if dirty {
		err = p.syncFile(old)
	}
	return errors.Join(err, old.Close())
}

// rotated makes room for a new file. Where that is not possible the one at hand
// grows: a record is worth more than a limit.
func (p *place) rotated() bool {
	err := p.rotate()
	if err != nil && !p.unable {
		p.o.Log.Error("the file of records is not rotated, and grows", "path", p.o.Path, "says", err)
	}
	p.unable = err != nil
	return err == nil
}

// rotate moves the older files on as far as the first gap, so that trying again
// pushes none over the end.
func (p *place) rotate() error {
	gap := 1
	for ; gap < p.o.Keep; gap++ {
		if _, err := os.Lstat(p.name(gap)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	for i := gap; i > 1; i-- {
		if err := os.Rename(p.name(i-1), p.name(i)); err != nil {
			return err
		}
	}
	return os.Rename(p.o.Path, p.name(1))
}

func (p *place) name(i int) string { return p.o.Path + "." + strconv.Itoa(i) }

func (p *place) write(b []byte) (int, error) {
	n, err := p.to.Write(b)
	p.dirty = p.dirty || n > 0 && p.file != nil
	return n, err
}

// sync brings what is written to the disk.
func (p *place) sync() error {
	if p.file == nil || !p.dirty {
		return nil
	}
	if err := p.syncFile(p.file); err != nil {
		return err
	}
	p.dirty = false
	return nil
}

// syncFile syncs a file. A system may forget what it could not bring to the disk, so
// that success after a failure is about what came later.
func (p *place) syncFile(file *os.File) error {
	do := syncData
	if p.o.toDisk != nil {
		do = p.o.toDisk
	}
	if err := do(file); err != nil {
		return fmt.Errorf("%s: what was written may not be on the disk: %w", p.o.Path, err)
	}
	return nil
}

// syncFolder keeps the name of a new file over a crash of the machine, where the
// file system can.
func (p *place) syncFolder() {
	if folder, err := os.Open(filepath.Dir(p.o.Path)); err == nil {
		_ = folder.Sync()
		_ = folder.Close()
	}
}

func (p *place) close() error {
	if p.file == nil {
		return nil
	}
	return errors.Join(p.sync(), p.file.Close())
}

// maxTail is how much of a file's end is searched for the last number.
const maxTail = 1 << 20

// mend cuts a line off that has no end, and returns the number of the last record.
// What does not look like records is left alone.
func mend(file *os.File) (last uint64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("it is no regular file: name another")
	}
	size := info.Size()
	if size == 0 {
		return 0, nil
	}
	first := []byte{0}
	if _, err := file.ReadAt(first, 0); err != nil {
		return 0, err
	}
	if first[0] != '{' && first[0] != 0 { // a crash of the machine can leave zeros
		return 0, errors.New("it holds something else than records: name another")
	}
	end, err := lineEnd(file, size)
	if err != nil {
		return 0, err
	}
	if end < size {
		if err := file.Truncate(end); err != nil {
			return 0, err
		}
	}
	tail, err := readTail(file, end)
	return numberOf(tail), err
}

// lineEnd returns where the last line of a file ends that has an end.
func lineEnd(file io.ReaderAt, size int64) (int64, error) {
	for size > 0 {
		tail, err := readTail(file, size)
		if err != nil {
			return 0, err
		}
		from := size - int64(len(tail))
		if i := bytes.LastIndexByte(tail, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		size = from
	}
	return 0, nil
}

// readTail reads what is before end.
func readTail(file io.ReaderAt, end int64) ([]byte, error) {
	tail := make([]byte, min(end, maxTail))
	n, err := file.ReadAt(tail, end-int64(len(tail)))
	if err == io.EOF {
		err = nil
	}
	return tail[:n], err
}

// numberOf returns the number of the last record in lines that has one.
func numberOf(lines []byte) uint64 {
	for len(lines) > 0 {
		lines = lines[:len(lines)-1] // the end of the last line
		i := bytes.LastIndexByte(lines, '\n') + 1
		var r struct{ Seq uint64 }
		if json.Unmarshal(lines[i:], &r) == nil && r.Seq > 0 {
			return r.Seq
		}
		lines = lines[:i]
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
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	end, err := lineEnd(file, info.Size())
	if err != nil {
		return 0
	}
	tail, err := readTail(file, end)
	if err != nil {
		return 0
	}
	return numberOf(tail)
}
