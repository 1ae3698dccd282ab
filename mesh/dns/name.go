package dns

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxName  = 253 // without the trailing dot
	maxLabel = 63
)

// checkHost says what keeps a name from being a canonical host name. Characters
// are those that names in use have, underscores included. A name that ends in a
// number would be an address to some who read it, and is none.
func checkHost(host string) error {
	if host == "" || len(host) > maxName {
		return fmt.Errorf("is %d bytes long: it must have 1 to %d", len(host), maxName)
	}
	begin := 0
	for i := 0; i <= len(host); i++ {
		if i < len(host) && host[i] != '.' {
			if !hostByte(host[i]) {
				return fmt.Errorf("has the character %q: write it in lower case, with letters, digits, hyphens and underscores only", host[i])
			}
			continue
		}
		if i == begin {
			return errors.New("has an empty label: write it with single dots, none at the ends")
		}
		if i-begin > maxLabel {
			return fmt.Errorf("has a label of more than %d bytes", maxLabel)
		}
		if i == len(host) && isNumber(host[begin:]) {
			return errors.New("ends in a number, like an address: use the name, or the address itself")
		}
		begin = i + 1
	}
	return nil
}

func hostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// isNumber reports whether the last label of a name makes it an address to
// readers that take parts in decimal, octal and hexadecimal.
func isNumber(label string) bool {
	if len(label) >= 2 && label[:2] == "0x" {
		for i := 2; i < len(label); i++ {
			if c := label[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
				return false
			}
		}
		return true
	}
	for i := range len(label) {
		if label[i] < '0' || label[i] > '9' {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// canonical returns a name of a message as a canonical host name, false if it is
// not the name of a host.
func canonical(n *dnsmessage.Name) (string, bool) {
	var b [255]byte
	size := max(int(n.Length)-1, 0) // without the dot
	for i := range size {
		b[i] = lower(n.Data[i])
	}
	host := string(b[:size])
	return host, checkHost(host) == nil
}

// sameName compares as DNS does: without regard to the case of ASCII letters.
func sameName(a, b *dnsmessage.Name) bool {
	if a.Length != b.Length {
		return false
	}
	for i := range int(a.Length) {
		if lower(a.Data[i]) != lower(b.Data[i]) {
			return false
		}
	}
	return true
}

// shown is a name that is not one of a host, for records: printable and bounded.
func shown(n *dnsmessage.Name) string {
	var b []byte
	for _, c := range n.Data[:n.Length] {
		switch {
		case c > ' ' && c < 0x7f && c != '\\' && c != '"':
			b = append(b, lower(c))
		default:
			b = fmt.Appendf(b, "\\%03d", c)
		}
	}
	if len(b) > 1 && b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	if len(b) > maxName {
		b = append(b[:maxName-3], "..."...)
	}
	return string(b)
}

// appendName appends the wire form of a name that was read from a message.
func appendName(b []byte, n *dnsmessage.Name) []byte {
	begin := 0
	for i, c := range n.Data[:n.Length] {
		if c == '.' && i > begin {
			b = append(b, byte(i-begin))
			b = append(b, n.Data[begin:i]...)
		}
		if c == '.' {
			begin = i + 1
		}
	}
	return append(b, 0)
}

// typeText is a type as zone files write it.
func typeText(t dnsmessage.Type) string {
	if t == dnsmessage.TypeALL {
		return "ANY"
	}
	text := t.String()
	if _, err := strconv.Atoi(text); err == nil {
		return "TYPE" + text
	}
	return text[len("Type"):]
}
