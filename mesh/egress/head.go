package egress

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	// maxHead is the longest head of a message that is read.
	maxHead = 64 << 10
	// maxFields is how many header fields it may have.
	maxFields = 256
)

// badMessage is a message that has no one reading, and the status that says so.
type badMessage struct {
	status int
	says   string
}

func (e *badMessage) Error() string { return e.says }

func bad(format string, args ...any) error {
	return &badMessage{400, fmt.Sprintf(format, args...)}
}

// field is a header field as it came.
type field struct{ name, value string }

// head is the head of a request or an answer of HTTP/1, read strictly (RFC 9112).
type head struct {
	method, target string // of a request
	status         int    // of an answer
	reason         string
	minor          int // of HTTP/1.minor
	fields         []field

	host    string
	hosts   int
	length  int64 // of the body; -1 if it is not said
	chunked bool
	closes  bool // Connection: close, or HTTP/1.0 without keep-alive
	upgrade string
	expects bool
	// hop are the names that Connection lists.
	hop []string
}

// parseRequest reads the head of a request. Text ends with the empty line.
func parseRequest(text string, h *head) error {
	line, rest, err := cutLine(text)
	if err != nil {
		return err
	}
	method, line, ok1 := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(line, " ")
	if !ok1 || !ok2 || !httpguts.ValidHeaderFieldName(method) || len(method) > 64 {
		return bad("its first line is no request line")
	}
	*h = head{method: method, target: target, length: -1, fields: h.fields[:0], hop: h.hop[:0]}
	if target == "" {
		return bad("it has no target")
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f {
			return bad("its target has a character that no target has")
		}
	}
	switch version {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
		h.closes = true
	default:
		return &badMessage{505, "it is not HTTP/1.1"}
	}
	return h.parseFields(rest, true)
}

// parseAnswer reads the head of an answer.
func parseAnswer(text string, h *head) error {
	line, rest, err := cutLine(text)
	if err != nil {
		return err
	}
	*h = head{length: -1, fields: h.fields[:0], hop: h.hop[:0]}
	switch {
	case strings.HasPrefix(line, "HTTP/1.1 "):
		h.minor = 1
	case strings.HasPrefix(line, "HTTP/1.0 "):
		h.closes = true
	default:
		return errNoAnswer
	}
	code, reason, _ := strings.Cut(line[len("HTTP/1.1 "):], " ")
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != 3 || n < 100 || n > 599 || !httpguts.ValidHeaderFieldValue(reason) {
		return errNoAnswer
	}
	h.status, h.reason = int(n), reason
	return h.parseFields(rest, false)
}

// cutLine takes a line that ends with CRLF off; a bare CR or LF is an error.
func cutLine(text string) (line, rest string, err error) {
	i := strings.IndexByte(text, '\n')
	if i < 1 || text[i-1] != '\r' {
		return "", "", bad("a line does not end with CRLF")
	}
	line = text[:i-1]
	if strings.IndexByte(line, '\r') >= 0 {
		return "", "", bad("a line holds a bare CR")
	}
	return line, text[i+1:], nil
}

func (h *head) parseFields(text string, request bool) error {
	for {
		line, rest, err := cutLine(text)
		if err != nil {
			return err
		}
		text = rest
		if line == "" {
			break
		}
		if len(h.fields) == maxFields {
			return &badMessage{431, "it has too many header fields"}
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		switch {
		case line[0] == ' ' || line[0] == '\t':
			return bad("a header field is folded over lines")
		case !ok || !httpguts.ValidHeaderFieldName(name):
			return bad("a header field has no valid name")
		case !httpguts.ValidHeaderFieldValue(value):
			return bad("a header field has a character that no value has")
		}
		h.fields = append(h.fields, field{name, value})
		if err := h.note(name, value, request); err != nil {
			return err
		}
	}
	switch {
	case h.chunked && h.length >= 0:
		return bad("it has both Content-Length and Transfer-Encoding")
	case h.chunked && h.minor == 0:
		return bad("it has a Transfer-Encoding in HTTP/1.0")
	}
	return nil
}

// note keeps what a field says about the message.
func (h *head) note(name, value string, request bool) error {
	switch len(name) {
	case 4:
		if strings.EqualFold(name, "host") {
			h.host = value
			h.hosts++
		}
	case 6:
		if strings.EqualFold(name, "expect") {
			if !strings.EqualFold(value, "100-continue") {
				return &badMessage{417, "it expects what nobody can promise"}
			}
			h.expects = true
		}
	case 7:
		if strings.EqualFold(name, "upgrade") {
			if h.upgrade != "" {
				return bad("it has two Upgrade fields")
			}
			h.upgrade = value
		}
	case 10:
		if strings.EqualFold(name, "connection") {
			h.noteConnection(value)
		}
	case 14:
		if strings.EqualFold(name, "content-length") {
			return h.noteLength(value, request)
		}
	case 17:
		if strings.EqualFold(name, "transfer-encoding") {
			if h.chunked || !strings.EqualFold(value, "chunked") {
				return &badMessage{501, "it has a Transfer-Encoding other than chunked"}
			}
			h.chunked = true
		}
	}
	return nil
}

func (h *head) noteConnection(value string) {
	for token := range strings.SplitSeq(value, ",") {
		token = strings.Trim(token, " \t")
		switch {
		case token == "":
		case strings.EqualFold(token, "close"):
			h.closes = true
		case strings.EqualFold(token, "keep-alive"):
			if h.minor == 0 {
				h.closes = false
			}
		default:
			h.hop = append(h.hop, token)
		}
	}
}

func (h *head) noteLength(value string, request bool) error {
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return bad("its Content-Length is no number")
	}
	n, err := strconv.ParseInt(value, 10, 63)
	if err != nil {
		return bad("its Content-Length is no number")
	}
	if h.length >= 0 && (request || n != h.length) {
		return bad("it has two Content-Lengths")
	}
	h.length = n
	return nil
}

// upgrades reports whether the head asks for another protocol on its connection.
func (h *head) upgrades() bool {
	for _, t := range h.hop {
		if strings.EqualFold(t, "upgrade") {
			return h.upgrade != ""
		}
	}
	return false
}

var errNoAnswer = errors.New("its server gave no valid HTTP answer")

// hopByHop are the fields between two neighbours, and no part of a message.
var hopByHop = []string{
	"connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
	"te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "content-length", "host",
}

// passes reports whether a field is for the other side. Content-Length and Host
// are written anew.
func (h *head) passes(f *field) bool {
	for _, name := range hopByHop {
		if len(name) == len(f.name) && strings.EqualFold(name, f.name) {
			return false
		}
	}
	for _, name := range h.hop {
		if strings.EqualFold(name, f.name) {
			return false
		}
	}
	return true
}
