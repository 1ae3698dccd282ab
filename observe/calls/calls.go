// Package calls reads who called what outside from the logs of proxies, meshes and
// networks, whatever wrote them, into one form.
//
// It promises that nothing is ignored silently: what is no call, and what is not
// understood, is counted, with the first examples and why. A log is never believed
// about what is allowed: it says what was tried, and its hosts are whatever a client
// asked for.
package calls

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Call is one connection or request to somewhere outside.
type Call struct {
	// Source is who called, as the log has it: a workload, a service account, or an
	// address.
	Source string
	// Host is the name that was asked for, lower case, empty where only an address
	// is known. It need not be one that a server can have. Addr is where it led, if
	// the log says so.
	Host string
	Addr netip.Addr
	// Others are further names that the log has for the same place: it does not say
	// which was meant.
	Others []string
	// Protocol is tcp, udp, icmp or another in lower case; tcp where the log says
	// nothing. Port is 0 where it is not known.
	Protocol string
	Port     uint16
	// From is the port it came from, 0 where it is not known.
	From uint16
	// Method is of a request that was seen in the clear, empty for tunnels.
	Method string
	// Endpoint is the private endpoint of bulkhead that was used, by name.
	Endpoint string
	// Asked says that a proxy was asked for the place, so that it is meant to be
	// outside whatever address it is.
	Asked bool
	// Out and In are bytes, from the source and back; 0 where they are not known.
	Out, In int64
	// Count is how many calls the line stands for.
	Count  int
	Time   time.Time // zero where it is not known
	Denied bool      // whoever wrote the log refused it
	// More says that it adds to a call that was read before, if that is in the log.
	More bool
	Line int
}

// Coverage says how much of a log was understood.
type Coverage struct {
	Format string // of the first line that was understood
	Lines  int    // that are not empty
	Calls  int
	// Other are lines that are understood and no calls outside, such as comments,
	// inner traffic, or the end of what was counted when it began.
	Other int
	// Unknown are lines that are not understood, Examples the first of them.
	Unknown  int
	Examples []Example
}

// Example is a line that is not understood.
type Example struct {
	Line int
	Text string // its beginning
	Why  string
}

const (
	maxLine     = 1 << 20
	maxSource   = 256
	maxHost     = 253
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
			return c, fmt.Errorf("it begins like gzip and is not: %w", err)
		}
		in = bufio.NewReaderSize(z, 64<<10)
	}
	p := parser{clients: map[string]string{}, requests: map[string]Call{}}
	for number := 1; ; number++ {
		line, err := readLine(in)
		if err != nil && err != io.EOF && err != errLongLine {
			return c, fmt.Errorf("line %d: %w", number, err)
		}
		if len(line) > 0 {
			c.Lines++
			p.format, p.why = "", "it has the form of no log that is known"
			var found Call
			var what outcome
			if err == errLongLine {
				p.why = err.Error()
			} else {
				found, what = p.line(string(line))
			}
			if what == call {
				what, p.why = found.check()
			}
			switch what {
			case call:
				c.Calls++
				found.Line = number
				each(found)
			case other:
				c.Other++
			default:
				c.Unknown++
				if len(c.Examples) < maxExamples {
					c.Examples = append(c.Examples, Example{number, strings.ToValidUTF8(string(line[:min(len(line), maxExample)]), "\ufffd"), p.why})
				}
			}
			if what != unknown && c.Format == "" {
				c.Format = p.format
			}
		}
		if err == io.EOF {
			return c, nil
		}
	}
}

// check completes a call, and says what it lacks.
func (c *Call) check() (outcome, string) {
	switch {
	case c.Source == "":
		return unknown, "it does not say who called"
	case len(c.Source) > maxSource || !utf8.ValidString(c.Source) || strings.ContainsFunc(c.Source, unicode.IsControl):
		return unknown, "who called is no name or address"
	case c.Host == "" && !c.Addr.IsValid():
		return unknown, "where it leads is no host or address"
	}
	if c.Protocol == "" {
		c.Protocol = "tcp"
	}
	if c.Method == "CONNECT" || len(c.Method) > 20 || strings.Trim(c.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" {
		c.Method = ""
	}
	c.Count = max(c.Count, 1)
	return call, ""
}

var errLongLine = errors.New("it has more than 1 MiB")

// readLine returns a line without its end. The last one may come with io.EOF. Of one
// that is too long it returns the beginning, with errLongLine.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := in.ReadSlice('\n')
		if long = long || len(line)+len(part) > maxLine; long {
			line = append(line, part[:max(0, min(len(part), maxExample-len(line)))]...)
		} else {
			line = append(line, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && long:
			return line, errLongLine // the end comes again
		case err == nil && long:
			return line, errLongLine
		}
		return bytes.TrimRight(line, "\r\n"), err
	}
}
