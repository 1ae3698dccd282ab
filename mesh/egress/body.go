package egress

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

var errFraming = errors.New("its body does not end as its framing says")

// chunkReader reads a chunked body (RFC 9112 section 7.1), strictly. Extensions
// and trailers are read and dropped.
type chunkReader struct {
	r    *reader
	left int64 // of the chunk
	end  bool
	some bool // a chunk was read
}

// maxChunkLine bounds the line of a chunk's size, and a trailer.
const maxChunkLine = 4 << 10

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
		if c.end {
			return 0, io.EOF
		}
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if err == io.EOF && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the line of the next chunk.
func (c *chunkReader) next() error {
	if c.some {
		if line, err := c.r.line(2); err != nil || line != "" {
			return orFraming(err)
		}
	}
	line, err := c.r.line(maxChunkLine)
	if err != nil {
		return orFraming(err)
	}
	size, extension, extended := strings.Cut(line, ";")
	if !extended {
		size = strings.TrimRight(size, " \t") // some servers pad it
	}
	if extended && !httpguts.ValidHeaderFieldValue(extension) {
		return errFraming
	}
	n, err := strconv.ParseUint(size, 16, 62)
	if err != nil || size == "" || len(size) > 16 || size[0] == '+' || strings.ContainsRune(size, '_') {
		return errFraming
	}
	c.left, c.some = int64(n), true
	if n > 0 {
		return nil
	}
	for range maxFields {
		line, err := c.r.line(maxChunkLine)
		if err != nil {
			return orFraming(err)
		}
		if line == "" {
			c.end = true
			return nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return errFraming
		}
	}
	return errFraming
}

func orFraming(err error) error {
	if err == nil {
		return errFraming
	}
	return err
}
