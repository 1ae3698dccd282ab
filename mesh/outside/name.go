package outside

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

const (
	maxName  = 253 // RFC 1035 section 2.3.4, without the trailing dot
	maxLabel = 63
	// maxShown is how much of a text an error shows.
	maxShown = 80
)

var (
	// ErrAddress says that a text is an IP address for some resolver, and not a
	// name.
	ErrAddress = errors.New("an IP address is no name, and as an address it is written as four plain decimal numbers, or in brackets")
	// ErrSingleLabel says that a name has no dot. What it means depends on the
	// search list of whoever resolves it.
	ErrSingleLabel = errors.New("a name without a dot means nothing outside: write it in full")
)

// Canonical returns the one form of a host name: lower case, without a trailing
// dot. Labels hold letters, digits, hyphens and underscores; those of IDNA must
// be valid and the only spelling of what they decode to. Errors are
// [ErrAddress], [ErrSingleLabel], or say what is wrong with the text.
func Canonical(name string) (string, error) {
	host := strings.TrimSuffix(name, ".")
	if host == "" {
		return "", errors.New("no host: write a name such as api.example.com")
	}
	if isIP(host) {
		return "", refused(name, ErrAddress)
	}
	if len(host) > maxName {
		return "", refused(name, fmt.Errorf("a name has at most %d bytes", maxName))
	}
	for i := 0; i < len(host); i++ {
		if !isNameByte(host[i]) {
			return "", refused(name, badByte(host[i]))
		}
	}
	host = strings.ToLower(host)
	last := host
	for label := range strings.SplitSeq(host, ".") {
		if err := checkLabel(label); err != nil {
			return "", refused(name, err)
		}
		last = label
	}
	switch {
	case isNumber(last):
		return "", refused(name, ErrAddress)
	case last == host:
		return "", refused(name, ErrSingleLabel)
	}
	return host, nil
}

// isIP reports whether a text is an IPv6 address, with or without brackets and
// zone. An IPv4 address is found by its last label.
func isIP(text string) bool {
	if len(text) > maxName || !strings.Contains(text, ":") {
		return false
	}
	text, bracket := strings.CutPrefix(text, "[")
	if bracket {
		text = strings.TrimSuffix(text, "]")
	}
	_, err := netip.ParseAddr(text)
	return err == nil
}

func isNameByte(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

func badByte(c byte) error {
	switch {
	case c >= 0x80:
		return errors.New("a name is ASCII: write an internationalised one in its xn-- form")
	case c == '%':
		return errors.New("a name has no percent encoding: write it plainly")
	case c == '[', c == ']':
		return errors.New("only an IPv6 address stands in brackets")
	case c == '@':
		return errors.New("no user name or password stands before a name")
	case c == ':':
		return errors.New("a name has no colon, and an IPv6 address stands in brackets")
	case c == '*':
		return errors.New("a wildcard is a pattern and no name")
	}
	return fmt.Errorf("%s cannot be in a name", strconv.QuoteRuneToASCII(rune(c)))
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("a label is empty: dots stand between labels, and one may stand at the end")
	case len(label) > maxLabel:
		return fmt.Errorf("a label has at most %d bytes", maxLabel)
	case label[0] == '-', label[len(label)-1] == '-':
		return errors.New("a label neither begins nor ends with a hyphen")
	case strings.HasPrefix(label, "xn--"):
		return checkInternational(label)
	}
	return nil
}

// checkInternational makes sure that a label in xn-- form means what only this
// form can mean: valid by UTS 46, which lets in symbols that IDNA2008 does not, and
// needing no mapping. One that decodes to ASCII is the twin of a plain name
// (CVE-2026-39821).
func checkInternational(label string) error {
	text, err := idna.Registration.ToUnicode(label)
	if err == nil && !isASCII(text) {
		if again, err := idna.Registration.ToASCII(text); err == nil && again == label {
			return nil
		}
	}
	return fmt.Errorf("label %q is no valid internationalised one", label)
}

func isASCII(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] >= 0x80 {
			return false
		}
	}
	return true
}

// isNumber reports whether a name that ends in this label is an IPv4 address to
// inet_aton or to browsers ("ends in a number" of the URL standard): decimal,
// octal or hexadecimal, of one to four parts.
func isNumber(label string) bool {
	digits, hex := strings.CutPrefix(label, "0x")
	for i := 0; i < len(digits); i++ {
		if c := digits[i]; (c < '0' || c > '9') && !(hex && c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func refused(host string, err error) error { return fmt.Errorf("host %s: %w", shown(host), err) }

// shown returns a text for an error.
func shown(text string) string {
	if strings.Contains(text, "@") {
		return "of a request" // a password may stand before it
	}
	if len(text) > maxShown {
		return strconv.QuoteToASCII(text[:maxShown]) + "..."
	}
	return strconv.QuoteToASCII(text)
}
