package outside

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/idna"
)

var errAny = errors.New("any error but the named ones")

// isRefusal reports whether an error is of the kind that a table names.
func isRefusal(err, want error) bool {
	if want == errAny {
		return err != nil && !errors.Is(err, ErrAddress) && !errors.Is(err, ErrSingleLabel) && !errors.Is(err, ErrScheme)
	}
	return errors.Is(err, want)
}

var names = []struct {
	text, want string
	err        error
}{
	{"api.allowed.test", "api.allowed.test", nil},
	{"API.Allowed.TEST", "api.allowed.test", nil},
	{"api.allowed.test.", "api.allowed.test", nil},
	{"EVIL.test.", "evil.test", nil},
	{"notallowed.test", "notallowed.test", nil},
	{"_dmarc.a_b.test", "_dmarc.a_b.test", nil},
	{"1.2.3.4.test", "1.2.3.4.test", nil},
	{"127.0.0.1.nip.io", "127.0.0.1.nip.io", nil},
	{"0x7f.com", "0x7f.com", nil},
	{"r3---sn-4g5e.allowed.test", "r3---sn-4g5e.allowed.test", nil}, // hyphens in the third and fourth place
	{"a.1a", "a.1a", nil},
	{"a.0xg", "a.0xg", nil},
	{"xn--bcher-kva.example", "xn--bcher-kva.example", nil},
	{"XN--BCHER-KVA.example", "xn--bcher-kva.example", nil},
	{"xn--fiqs8s", "", ErrSingleLabel},
	{strings.Repeat("a.", 126) + "b", strings.Repeat("a.", 126) + "b", nil},
	{strings.Repeat("a.", 126) + "b.", strings.Repeat("a.", 126) + "b", nil},
	{strings.Repeat("a", 63) + ".test", strings.Repeat("a", 63) + ".test", nil},

	{"", "", errAny},
	{".", "", errAny},
	{"..", "", errAny},
	{"localhost", "", ErrSingleLabel},
	{"db.", "", ErrSingleLabel},
	{"metadata", "", ErrSingleLabel},
	{"api.allowed.test..", "", errAny},
	{".api.allowed.test", "", errAny},
	{"api..allowed.test", "", errAny},
	{"-api.allowed.test", "", errAny},
	{"api-.allowed.test", "", errAny},
	{"api.allowed.-test", "", errAny},
	{"*.allowed.test", "", errAny},
	{strings.Repeat("a", 64) + ".test", "", errAny},
	{strings.Repeat("a.", 126) + "bc", "", errAny},
	{strings.Repeat("a.", 1<<20), "", errAny},

	// IPv4 in what inet_aton, browsers and resolvers read.
	{"169.254.169.254", "", ErrAddress},
	{"169.254.169.254.", "", ErrAddress},
	{"2852039166", "", ErrAddress},
	{"2852039166.", "", ErrAddress},
	{"0251.0376.0251.0376", "", ErrAddress},
	{"0xa9.0xfe.0xa9.0xfe", "", ErrAddress},
	{"0XA9.0xFE.0XA9.0xFE", "", ErrAddress},
	{"0xa9fea9fe", "", ErrAddress},
	{"025177524776", "", ErrAddress},
	{"169.0xfe.0251.254", "", ErrAddress},
	{"169.16689662", "", ErrAddress},
	{"169.254.43518", "", ErrAddress},
	{"127.1", "", ErrAddress},
	{"127.1.", "", ErrAddress},
	{"1.2.3", "", ErrAddress},
	{"0", "", ErrAddress},
	{"0x", "", ErrAddress},
	{"a.0x", "", ErrAddress},
	{"0.0x0.00.0", "", ErrAddress},
	{"000000169.254.169.254", "", ErrAddress},
	{"425.510.425.510", "", ErrAddress}, // 256 more in every part, as some libraries overflow
	{"4294967295.4294967295", "", ErrAddress},
	{"99999999999999999999999999", "", ErrAddress},
	{"1.2.3.4.5", "", ErrAddress},
	{"evil.test.08", "", ErrAddress},
	{"evil.test.0xAB", "", ErrAddress},

	// IPv6.
	{"::1", "", ErrAddress},
	{"[::1]", "", ErrAddress},
	{"fd00:ec2::254", "", ErrAddress},
	{"::ffff:169.254.169.254", "", ErrAddress},
	{"::ffff:1.2.3.4%eth0", "", ErrAddress},
	{"[::ffff:1.2.3.4%25eth0]", "", ErrAddress},
	{"[v1.fe80::a]", "", errAny},
	{"fe80--1.ipv6-literal.net", "fe80--1.ipv6-literal.net", nil}, // a name for everybody but Windows

	// What URL parsers and mappings of IDNA turn into another name.
	{"[evil.test]", "", errAny},
	{"[[evil.test]]", "", errAny},
	{"user@evil.test", "", errAny},
	{"user:pw@evil.test", "", errAny},
	{"evil.test:443", "", errAny},
	{"evil.test%00.allowed.test", "", errAny},
	{"evil.test\x00.allowed.test", "", errAny},
	{"evil%2etest", "", errAny},
	{"api%2eallowed.test", "", errAny},
	{"evil.test%20", "", errAny},
	{" evil.test", "", errAny},
	{"evil.test ", "", errAny},
	{"evil.test\t", "", errAny},
	{"evil.test\r", "", errAny},
	{"evil.test\n.allowed.test", "", errAny},
	{"evil.test/.allowed.test", "", errAny},
	{"evil.test#.allowed.test", "", errAny},
	{"evil.test?.allowed.test", "", errAny},
	{"evil.test\\.allowed.test", "", errAny},
	{"evil.test;.allowed.test", "", errAny},
	{"evil.test,.allowed.test", "", errAny},
	{"evil.test\x7f", "", errAny},
	{"\u24d4vil.test", "", errAny},
	{"evil\u3002test", "", errAny}, // U+3002
	{"evil\uff0etest", "", errAny},
	{"evil\uff61test", "", errAny}, // U+FF61
	{"ev\u00adil.test", "", errAny},
	{"ev\u200bil.test", "", errAny},
	{"ev\u200dil.test", "", errAny},
	{"\ufeffevil.test", "", errAny},
	{"\uff45\uff56\uff49\uff4c.test", "", errAny},
	{"\u017f3.allowed.test", "", errAny},  // folds to s
	{"\u212a8s.allowed.test", "", errAny}, // the Kelvin sign folds to k
	{"\u2460\u2461\u2466.\u2460", "", errAny},
	{"\uff11\uff12\uff17.\uff10.\uff10.\uff11", "", errAny},
	{"\u0661\u0662\u0667.\u0660.\u0660.\u0661", "", errAny},
	{"b\u00fccher.example", "", errAny},
	{"stra\u00dfe.example", "", errAny},
	{"evil.test\xff", "", errAny},
	{"\xc0\xaeevil.test", "", errAny},

	// Labels in xn-- form that are the twin of something else.
	{"xn--evil-.test", "", errAny},          // decodes to ASCII
	{"xn--evil.test", "xn--evil.test", nil}, // two symbols, which UTS 46 lets in
	{"xn--.test", "", errAny},
	{"xn---.test", "", errAny},
	{"xn--a-.test", "", errAny},
	{"xn--localhost-.test", "", errAny},
	{"api.xn--test-", "", errAny},
	{"xn--vil-i5s.test", "", errAny}, // circled letter
	{"xn--strae-oqa.example", "xn--strae-oqa.example", nil},
	{"xn--bcher-KVA.example", "xn--bcher-kva.example", nil},
	{"xn--xn--bcher-kva-.example", "", errAny},
	{"xn--99999999.test", "", errAny},
	{"a.xn--1-0000000000000000000000000000000000000000000000000000000000", "", errAny},
}

func TestNamesHaveOneForm(t *testing.T) {
	for _, c := range names {
		got, err := Canonical(c.text)
		if got != c.want || (c.err == nil) != (err == nil) || c.err != nil && !isRefusal(err, c.err) {
			t.Errorf("Canonical(%+.90q) = %q, %v; want %q, %v", c.text, got, err, c.want, c.err)
		}
		checkMessage(t, err)
	}
}

// checkMessage: an error can be written to a log and a terminal as it is.
func checkMessage(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if text := err.Error(); len(text) > 700 || strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		t.Errorf("message %.800q", text)
	}
}

// Whatever punycode makes of a mapped, disallowed or plain text is refused, for
// every code point that IDNA maps to a letter, a digit or a dot.
func TestNoTwinsInPunycode(t *testing.T) {
	mapped := 0
	for r := rune(0x80); r <= 0x2ffff; r++ {
		text := "ev" + string(r) + "l"
		plain, err := idna.Lookup.ToASCII(text)
		if err != nil || strings.HasPrefix(plain, "xn--") {
			continue
		}
		coded, err := idna.Punycode.ToASCII(text)
		if err != nil || !strings.HasPrefix(coded, "xn--") {
			continue
		}
		mapped++
		if got, err := Canonical(coded + ".test"); err == nil {
			t.Errorf("Canonical(%q) = %q, of %+q, which is %q elsewhere", coded+".test", got, text, plain)
		}
	}
	if mapped < 500 {
		t.Errorf("only %d code points were tried", mapped)
	}
}

// inetAton is the classic parser, and says whether it takes a text.
func inetAton(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return false
	}
	for _, p := range parts {
		base, digits := 10, p
		switch {
		case strings.HasPrefix(p, "0x"), strings.HasPrefix(p, "0X"):
			base, digits = 16, p[2:]
		case strings.HasPrefix(p, "0"):
			base = 8
		}
		for _, c := range strings.ToLower(digits) {
			if at := strings.IndexRune("0123456789abcdef", c); at < 0 || at >= base {
				return false
			}
		}
		if p == "" {
			return false
		}
	}
	return true
}

func FuzzCanonicalName(f *testing.F) {
	for _, c := range names {
		if len(c.text) < 1000 {
			f.Add(c.text)
		}
	}
	f.Fuzz(func(t *testing.T, name string) {
		host, err := Canonical(name)
		if err != nil {
			if host != "" {
				t.Errorf("Canonical(%q) = %q with %v", name, host, err)
			}
			checkMessage(t, err)
			return
		}
		if again, err := Canonical(host); err != nil || again != host {
			t.Errorf("Canonical(%q) = %q, and of that %q, %v", name, host, again, err)
		}
		if strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || len(host) > 253 || !strings.Contains(host, ".") {
			t.Errorf("%q is not canonical", host)
		}
		if !strings.EqualFold(strings.TrimSuffix(name, "."), host) {
			t.Errorf("Canonical(%q) = %q", name, host)
		}
		if net.ParseIP(host) != nil || inetAton(host) {
			t.Errorf("%q is an address", host)
		}
		if u, err := url.Parse("http://" + name + "/"); err != nil || strings.TrimSuffix(strings.ToLower(u.Hostname()), ".") != host || u.Port() != "" || u.User != nil {
			t.Errorf("%q is %q here, and a URL has %v, %v", name, host, u, err)
		}
		if other, err := idna.Lookup.ToASCII(strings.TrimSuffix(name, ".")); err == nil && other != host {
			t.Errorf("%q is %q here and %q for lookup", name, host, other)
		}
		if text, err := idna.Lookup.ToUnicode(host); err == nil {
			if back, err := idna.Lookup.ToASCII(text); err != nil || back != host {
				t.Errorf("%q is shown as %q, which is %q, %v", host, text, back, err)
			}
		}
	})
}

func BenchmarkCanonical(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Canonical("files.cdn.example.com"); err != nil {
			b.Fatal(err)
		}
	}
}
