package policyfile

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// reserved are the names that stand for parties other than workloads.
var reserved = []string{"all", "any", "zone", policy.Internet, policy.Hosts, policy.ControlPlane}

func checkName(text string) *fault {
	if zone, ok := strings.CutPrefix(text, "zone/"); ok && checkName(zone) == nil {
		return wrong(ruleName, "write "+zone, "%s names a zone as a party, where only its name is meant", quoted(text))
	}
	return checkCharacters(text, "._-", false, "lower-case letters, digits, '.', '_' and '-'")
}

func checkWorkloadName(text string) *fault {
	if slices.Contains(reserved, text) {
		return wrong(ruleName, "choose another name", "a workload cannot be called %s, which stands for a party", text)
	}
	return checkName(text)
}

func checkIdentifier(text string) *fault {
	return checkCharacters(text, "._-", true, "letters, digits, '.', '_' and '-'")
}

func checkWord(text string) *fault {
	return checkCharacters(text, "._-/", true, "letters, digits, '.', '_', '-' and '/'")
}

// checkCharacters checks a name: of letters, digits and marks, beginning and
// ending with a letter or digit. Only ASCII is accepted, since names that look
// alike must be alike.
func checkCharacters(text, marks string, upper bool, of string) *fault {
	if text == "" {
		return wrong(ruleEmpty, "write a name", "the name is empty")
	}
	if len(text) > maxName {
		return wrong(ruleTooLong, "shorten it", "%s has %d characters, more than %d", quoted(text), len(text), maxName)
	}
	fix := "use " + of
	if better := asName(text); better != "" && better != text {
		fix += ", for example " + better
	}
	for _, r := range text {
		switch {
		case isAlnum(r, upper) || r < utf8.RuneSelf && strings.ContainsRune(marks, r):
		case r >= utf8.RuneSelf || isHidden(r):
			return wrong(ruleName, fix, "%s has the character %q (%U)", quoted(text), r, r)
		default:
			return wrong(ruleName, fix, "%s has the character %q", quoted(text), r)
		}
	}
	if !isAlnum(rune(text[0]), upper) || !isAlnum(rune(text[len(text)-1]), upper) {
		return wrong(ruleName, fix, "%s does not begin and end with a letter or digit", quoted(text))
	}
	return nil
}

func isAlnum(r rune, upper bool) bool {
	return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || upper && r >= 'A' && r <= 'Z'
}

// asName proposes a name for a text, empty if there is none that is close.
func asName(text string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		switch {
		case r >= utf8.RuneSelf: // which ASCII letter it looks like is not ours to guess
			return ""
		case isAlnum(r, false), r == '.', r == '_':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String()[:min(b.Len(), maxName)], "._-")
}

func checkTrustDomain(text string) *fault {
	const fix = "write a name such as ai.acme.internal, without spiffe:// and path"
	if text == "" || len(text) > 255 {
		return wrong(ruleTrustDomain, fix, "a trust domain has 1 to 255 characters, not %d", len(text))
	}
	for _, r := range text {
		if !isAlnum(r, false) && r != '.' && r != '_' && r != '-' {
			return wrong(ruleTrustDomain, fix, "trust domain %s has the character %q", quoted(text), r)
		}
	}
	return nil
}

func checkParty(text string) *fault {
	if n, ok := strings.CutPrefix(text, "zone/"); ok {
		return checkPart(n, text)
	}
	if before, _, ok := strings.Cut(text, "/"); ok {
		return wrong(ruleReference, "write the workload without its service, or zone/NAME",
			"%s names %s and something in it, where a party is a whole workload", quoted(text), quoted(before))
	}
	return checkName(text)
}

func checkServed(text string) *fault {
	before, after, ok := strings.Cut(text, "/")
	if !ok {
		return checkName(text)
	}
	if f := checkPart(before, text); f != nil {
		return f
	}
	return checkPart(after, text)
}

func checkReference(text string) *fault {
	if !strings.Contains(text, "/") {
		return wrong(ruleReference, "write two names with a slash between, such as WORKLOAD/SERVICE",
			"%s is only one name", quoted(text))
	}
	return checkServed(text)
}

// checkPart checks a name within a reference and shows the whole of it.
func checkPart(part, whole string) *fault {
	if strings.Contains(part, "/") {
		return wrong(ruleReference, "write two names with one slash between", "%s has more than one slash", quoted(whole))
	}
	f := checkName(part)
	if f != nil && f.rule != ruleTooLong {
		f.rule = ruleReference
		f.says = "in " + quoted(whole) + ", " + f.says
	}
	return f
}

// looksLikeAddress reports whether a text can only have been meant as an
// address or CIDR: names have no colon, and no name is all digits and dots.
func looksLikeAddress(text string) bool {
	addr, _, _ := strings.Cut(text, "/")
	return strings.Contains(text, ":") && !strings.Contains(text, "//") ||
		strings.Contains(addr, ".") && strings.Trim(addr, "0123456789.") == ""
}

func checkTestTarget(text string) *fault {
	if strings.HasPrefix(text, "*.") {
		return checkHost(text)
	}
	return checkServed(text)
}

func checkOutside(text string) *fault {
	switch {
	case looksLikeAddress(text):
		return checkAddress(text)
	case strings.Contains(text, "://"):
		host, _, _ := strings.Cut(text[strings.Index(text, "://")+3:], "/")
		return wrong(ruleHost, "write only the host name, "+asName(host), "%s is a URL", quoted(text))
	case strings.Contains(text, ".") && checkName(text) != nil:
		return checkHost(text)
	}
	return checkName(text)
}

func checkOrigin(text string) *fault {
	if slices.Contains(origins, text) {
		return nil
	}
	if looksLikeAddress(text) {
		return checkAddress(text)
	}
	return wrong(ruleValue, suggestion(text, origins)+", or a CIDR", "%s is not a place outside", quoted(text))
}

func checkAddress(text string) *fault {
	const fix = "write an address such as 10.0.0.5 or a CIDR such as 10.0.0.0/8 or 2001:db8::/32"
	_, err := netset.ParseCIDR(text)
	var bits *netset.HostBitsError
	if errors.As(err, &bits) {
		return wrong(ruleAddress, "write "+bits.Prefix.Masked().String()+" or a single address",
			"%s has bits set behind its mask", text)
	}
	if err != nil {
		return wrong(ruleAddress, fix, "%s is not an address or CIDR", quoted(text))
	}
	before, _, _ := strings.Cut(text, "/")
	if a, err := netip.ParseAddr(before); err == nil && a.Is4In6() {
		return wrong(ruleAddress, "write the IPv4 form", "%s is an IPv4 address in IPv6 form", text)
	}
	return nil
}

func checkHost(text string) *fault { return checkHostWith(text, "") }

// checkHostPattern checks a host of a destination, which can hold {region}.
func checkHostPattern(text string) *fault { return checkHostWith(text, "{region}") }

func checkHostWith(text, placeholder string) *fault {
	const fix = "write a lower-case DNS name such as pypi.org, or *.pypi.org for any name below"
	plain := strings.TrimPrefix(text, "*.")
	if placeholder != "" {
		plain = strings.ReplaceAll(plain, placeholder, "region")
	}
	switch {
	case strings.ToLower(plain) != plain:
		return wrong(ruleHost, "write "+quoted(strings.ToLower(text)), "host name %s has upper-case letters", quoted(text))
	case len(plain) > maxHost:
		return wrong(ruleTooLong, "shorten it", "host name %s has %d characters, more than %d", quoted(text), len(plain),
			maxHost)
	case strings.HasSuffix(plain, "."):
		return wrong(ruleHost, "remove the last dot", "host name %s ends with a dot", quoted(text))
	case strings.Contains(plain, "*"):
		return wrong(ruleHost, fix, "host name %s has a * other than in front", quoted(text))
	case !strings.Contains(plain, "."):
		return wrong(ruleHost, fix, "host name %s has no dot, so that it names no place on the internet", quoted(text))
	}
	if endsInNumber(plain) {
		return wrong(ruleHost, "name the host; an address stands in `to` of an egress, or in `address` of an endpoint",
			"%s is an address, not a host name", quoted(text))
	}
	for label := range strings.SplitSeq(plain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return wrong(ruleHost, fix, "host name %s has the part %s", quoted(text), quoted(label))
		}
		for _, r := range label {
			if r >= utf8.RuneSelf {
				return wrong(ruleHost, "write its punycode form, which begins with xn--", "host name %s has the character %q (%U)",
					quoted(text), r, r)
			}
			if !isAlnum(r, false) && r != '-' && r != '_' {
				return wrong(ruleHost, fix, "host name %s has the character %q", quoted(text), r)
			}
		}
	}
	return nil
}

// endsInNumber reports whether the last label of a host name is a number, so that
// every reader of URLs takes the whole for an IPv4 address.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	hex, isHex := strings.CutPrefix(last, "0x")
	return last != "" && strings.Trim(last, "0123456789") == "" || isHex && strings.Trim(hex, "0123456789abcdef") == ""
}

// checkProxyURL checks the address of a proxy. What it is called is not limited to
// names with a dot: a proxy often is in the same network.
func checkProxyURL(text string) *fault {
	const fix = "write http://HOST:PORT, such as http://proxy.example.com:3128"
	rest, ok := strings.CutPrefix(text, "http://")
	switch {
	case !ok:
		return wrong(ruleProxy, fix, "%s does not begin with http://", quoted(text))
	case strings.Contains(rest, "@"):
		return wrong(ruleProxy, fix+"; who the gateway is to the proxy is no part of a policy", "the proxy is given with a name or password")
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 {
		return wrong(ruleProxy, fix, "%s has no port", quoted(text))
	}
	if _, ok := parsePort(rest[colon+1:]); !ok {
		return wrong(ruleProxy, fix, "%s has no port from 1 to 65535 at its end", quoted(text))
	}
	if !isProxyHost(rest[:colon]) {
		return wrong(ruleProxy, fix, "%s has no host name or address", quoted(text))
	}
	return nil
}

func isProxyHost(host string) bool {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && a.Is6() && a.Zone() == "" && strings.HasSuffix(inner, "]")
	}
	if endsInNumber(host) {
		a, err := netip.ParseAddr(host)
		return err == nil && a.Is4()
	}
	if name := host; !strings.Contains(host, ".") {
		name += ".internal" // only to be checked
		return !strings.HasPrefix(host, "*") && checkHost(name) == nil
	}
	return !strings.HasPrefix(host, "*") && checkHost(host) == nil
}
