package policyfile

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"bulkhead/core/source"
)

// quoted shows a text of the input in a message: short, on one line, and with
// what does not show written out.
func quoted(text string) string {
	const limit = 60
	if utf8.RuneCountInString(text) > limit {
		return strconv.Quote(string([]rune(text)[:limit])) + "…"
	}
	return strconv.Quote(text)
}

// shown makes a message safe to print wherever its parts came from: what does
// not show is written out, so that a policy cannot steer a terminal, and a text
// of megabytes is cut.
func shown(message string) string {
	const limit = 1000
	if len(message) > limit {
		message = strings.ToValidUTF8(message[:limit], "") + "…"
	}
	if !strings.ContainsFunc(message, isHidden) {
		return message
	}
	var b strings.Builder
	for _, r := range message {
		if isHidden(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unquoted is quoted without the quotes, for a text that is a name or number.
func unquoted(text string) string {
	q := quoted(text)
	if end := strings.LastIndexByte(q, '"'); end > 1 {
		return q[1:end] + q[end+1:]
	}
	return q
}

// suggestion says which of the valid words was probably meant, and all of them.
func suggestion(text string, valid []string) string {
	all := "one of " + strings.Join(valid, ", ")
	if len(valid) == 1 {
		all = valid[0]
	}
	if near := source.Nearest(strings.ToLower(text), valid); near != "" && len(valid) > 1 {
		return "write " + near + "? It must be " + all
	}
	return "write " + all
}
