// Package calls reads who called what outside from the logs of proxies, meshes and
// networks, whatever wrote them, into one form.
//
// It promises that nothing is ignored silently: what is no call, and what is not
// understood, is counted, with the first examples. A log is never believed about
// what is allowed; it says what was tried.
package calls

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Call is one connection or request to somewhere outside.
type Call struct {
	// Source is who called, as the log has it: a workload, a service account, or an
	// address.
	Source string
	// Host is the name that was asked for, lower case, empty where only an address
	// is known. Addr may be unknown.
	Host string
	Addr netip.Addr
	Port uint16
	// Out and In are bytes, from the source and back; 0 where they are not known.
	Out, In int64
	Time    time.Time // zero where it is not known
	Denied  bool      // whoever wrote the log refused it
	// More says that it adds bytes to a call that was read before.
	More bool
	Line int
}

// Coverage says how much of a log was understood.
type Coverage struct {
	Format string // of the first line that was understood
	Lines  int
	Calls  int
	// Other are lines that are understood and no calls outside, such as comments,
	// inner traffic, or the beginning of what has an end.
	Other int
	// Unknown are lines that are not understood, Examples the first of them.
	Unknown  int
	Examples []Example
}

// Example is a line that is not understood.
type Example struct {
	Line int
	Text string
}

const (
	maxLine     = 1 << 20
	maxExamples = 5
	maxExample  = 120
)

// outcome is what became of a line.
type outcome uint8

const (
	unknown outcome = iota
	other
	call
)

// Read reads a log and calls each for every call. The format of each line is
// recognised by what it holds; gzip is read through.
func Read(r io.Reader, each func(Call)) (Coverage, error) {
	var c Coverage
	in := bufio.NewReaderSize(r, 64<<10)
	if head, _ := in.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return c, err
		}
		in = bufio.NewReaderSize(z, 64<<10)
	}
	p := parser{fds: map[string]string{}}
	for {
		line, err := readLine(in)
		if len(line) > 0 {
			c.Lines++
			found, what, format := p.line(string(line))
			switch {
			case what == call:
				found.Line = c.Lines
				if found.valid() {
					c.Calls++
					each(found)
					break
				}
				c.Other++
			case what == other:
				c.Other++
			default:
				c.Unknown++
				if len(c.Examples) < maxExamples {
					c.Examples = append(c.Examples, Example{c.Lines, string(line[:min(len(line), maxExample)])})
				}
			}
			if what != unknown && c.Format == "" {
				c.Format = format
			}
		}
		if err == io.EOF {
			return c, nil
		}
		if err != nil {
			return c, fmt.Errorf("line %d: %w", c.Lines+1, err)
		}
	}
}

// valid reports whether a call leads anywhere.
func (c *Call) valid() bool { return c.Source != "" && (c.Host != "" || c.Addr.IsValid()) }

var errLongLine = errors.New("a line has more than 1 MiB: it is no log")

// readLine returns a line without its end. The last one may come with io.EOF.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, errLongLine
		case err == bufio.ErrBufferFull:
			continue
		}
		return bytes.TrimRight(line, "\r\n"), err
	}
}
