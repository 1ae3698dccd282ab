package outside

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// authorities are targets of CONNECT, with what they mean, which is empty for
// what is refused.
var authorities = []struct {
	text, want string
	err        error
}{
	{"api.allowed.test:443", "api.allowed.test:443", nil},
	{"API.Allowed.TEST:443", "api.allowed.test:443", nil},
	{"api.allowed.test.:443", "api.allowed.test:443", nil},
	{"EVIL.test.:443", "evil.test:443", nil},
	{"notallowed.test:443", "notallowed.test:443", nil},
	{"api.allowed.test:22", "api.allowed.test:22", nil},
	{"api.allowed.test:1", "api.allowed.test:1", nil},
	{"api.allowed.test:65535", "api.allowed.test:65535", nil},
	{strings.Repeat("a.", 126) + "b.:65535", strings.Repeat("a.", 126) + "b:65535", nil},
	{"203.0.113.66:443", "203.0.113.66:443", nil},
	{"169.254.169.254:443", "169.254.169.254:443", nil},
	{"[::ffff:169.254.169.254]:443", "[::ffff:169.254.169.254]:443", nil},
	{"[::ffff:a9fe:a9fe]:443", "[::ffff:169.254.169.254]:443", nil},
	{"[fd00:ec2::254]:443", "[fd00:ec2::254]:443", nil},
	{"[FD00:0EC2:0::254]:443", "[fd00:ec2::254]:443", nil},
	{"[::]:443", "[::]:443", nil},
	{"[64:ff9b::169.254.169.254]:443", "[64:ff9b::a9fe:a9fe]:443", nil},

	// Hosts.
	{"", "", errAny},
	{":443", "", errAny},
	{".:443", "", errAny},
	{"[]:443", "", errAny},
	{"[evil.test]:443", "", errAny},
	{"[[evil.test]]:443", "", errAny},
	{"[[::1]]:443", "", errAny},
	{"[::1]]:443", "", errAny},
	{"[::1:443", "", errAny},
	{"::1]:443", "", errAny},
	{"[::1]x:443", "", errAny},
	{"[::1].allowed.test:443", "", errAny},
	{"evil.test[::1]:443", "", errAny},
	{"[127.0.0.1]:443", "", errAny},
	{"[::1%lo]:443", "", errAny},
	{"[::ffff:1.2.3.4%25eth0]:443", "", errAny},
	{"[fe80::1%25.allowed.test]:443", "", errAny},
	{"[::1%00]:443", "", errAny},
	{"[v1.x]:443", "", errAny},
	{"[::ffff:0251.0376.0251.0376]:443", "", errAny},
	{"[::ffff:1.2.3]:443", "", errAny},
	{"[1:2:3:4:5:6:7:8:9]:443", "", errAny},
	{"[::12345]:443", "", errAny},
	{"[ ::1]:443", "", errAny},
	{"::1:443", "", ErrAddress},
	{"::ffff:169.254.169.254:443", "", ErrAddress},
	{"fe80::1:2:443", "", ErrAddress},
	{"2852039166:443", "", ErrAddress},
	{"0251.0376.0251.0376:443", "", ErrAddress},
	{"0xa9.0xfe.0xa9.0xfe:443", "", ErrAddress},
	{"0xa9fea9fe:443", "", ErrAddress},
	{"127.1:443", "", ErrAddress},
	{"127.0.0.1.:443", "", ErrAddress},
	{"127.0.0.01:443", "", ErrAddress},
	{"127.0.0.256:443", "", ErrAddress},
	{"localhost:443", "", ErrSingleLabel},
	{"api.allowed.test..:443", "", errAny},
	{".api.allowed.test:443", "", errAny},
	{"\u24d4vil.test:443", "", errAny},
	{"evil\u3002test:443", "", errAny},
	{"evil.test\uff1a443", "", errAny}, // a fullwidth colon
	{"evil.test%00.allowed.test:443", "", errAny},
	{"evil.test\x00.allowed.test:443", "", errAny},
	{"*.allowed.test:443", "", errAny},

	// Ports.
	{"api.allowed.test", "", errAny},
	{"api.allowed.test:", "", errAny},
	{"api.allowed.test:0", "", errAny},
	{"api.allowed.test:00", "", errAny},
	{"api.allowed.test:0443", "", errAny},
	{"api.allowed.test:65536", "", errAny},
	{"api.allowed.test:65979", "", errAny},
	{"api.allowed.test:4294967739", "", errAny},
	{"api.allowed.test:18446744073709552059", "", errAny},
	{"api.allowed.test:+443", "", errAny},
	{"api.allowed.test:-443", "", errAny},
	{"api.allowed.test: 443", "", errAny},
	{"api.allowed.test:443 ", "", errAny},
	{"api.allowed.test:\t443", "", errAny},
	{"api.allowed.test:0x1bb", "", errAny},
	{"api.allowed.test:4_43", "", errAny},
	{"api.allowed.test:443.0", "", errAny},
	{"api.allowed.test:4e2", "", errAny},
	{"api.allowed.test:https", "", errAny},
	{"api.allowed.test:\u0664\u0664\u0663", "", errAny},
	{"api.allowed.test:\uff14\uff14\uff13", "", errAny},
	{"api.allowed.test:443:80", "", errAny},
	{"api.allowed.test::443", "", errAny},
	{"evil.test:22,api.allowed.test:443", "", errAny},
	{"203.0.113.66", "", errAny},
	{"[::1]", "", errAny},
	{"[::1]443", "", errAny},
	{"[::1]:", "", errAny},
	{"[::1]:0443", "", errAny},

	// What else stands in URLs.
	{"user:pw@api.allowed.test:443", "", errAny},
	{"@api.allowed.test:443", "", errAny},
	{"api.allowed.test:443@evil.test:443", "", errAny},
	{"api.allowed.test@evil.test:443", "", errAny},
	{"api.allowed.test%40evil.test:443", "", errAny},
	{"api.allowed.test:443#x", "", errAny},
	{"api.allowed.test:443?x", "", errAny},
	{"api.allowed.test:443/", "", errAny},
	{"api.allowed.test:443\\", "", errAny},
	{"api.allowed.test:443;x", "", errAny},
	{"api.allowed.test#:443", "", errAny},
	{"evil.test/api.allowed.test:443", "", errAny},
	{"evil.test\\api.allowed.test:443", "", errAny},
	{"http://api.allowed.test:443", "", errAny},
	{"//api.allowed.test:443", "", errAny},
	{" api.allowed.test:443", "", errAny},
	{"api.allowed.test :443", "", errAny},
	{"api.allowed.test\t:443", "", errAny},
	{"api.allowed.test:443\r", "", errAny},
	{"api.allowed.test:443\r\nHost: evil.test", "", errAny},
	{"api.allowed.test:443\x00", "", errAny},
	{"api.allowed.test:443%00", "", errAny},
	{"api.allowed.test:44%33", "", errAny},
	{"api.allowed.test%3a443", "", errAny},
	{strings.Repeat("a", 1<<20) + ":443", "", errAny},
}

func TestAuthorities(t *testing.T) {
	for _, c := range authorities {
		got, err := ParseAuthority(c.text)
		checkTarget(t, c.text, c.want, got, err, c.err)
	}
}

func checkTarget(t *testing.T, text, want string, got Target, err, kind error) {
	t.Helper()
	checkMessage(t, err)
	if kind != nil {
		if !isRefusal(err, kind) || got != (Target{}) {
			t.Errorf("%.90q is %v, %v; want %v", text, got, err, kind)
		}
	} else if err != nil || got.String() != want || (got.Host == "") != got.Addr.IsValid() {
		t.Errorf("%.90q is %v, %v; want %s", text, got, err, want)
	}
}

func TestHostsMayHaveNoPort(t *testing.T) {
	for text, want := range map[string]string{
		"api.allowed.test": "api.allowed.test:80", "API.allowed.test.": "api.allowed.test:80", "api.allowed.test:8080": "api.allowed.test:8080",
		"203.0.113.66": "203.0.113.66:80", "[2001:db8::1]": "[2001:db8::1]:80", "[2001:db8::1]:443": "[2001:db8::1]:443",
		"": "", "api.allowed.test:": "", "[2001:db8::1]:": "", "2001:db8::1": "", "user@api.allowed.test": "", "127.1": "", "api.allowed.test, evil.test": "",
		"api.allowed.test evil.test": "", "api.allowed.test\r\n evil.test": "",
	} {
		got, err := ParseHost(text, 80)
		if (want == "") != (err != nil) || err == nil && got.String() != want {
			t.Errorf("%q is %v, %v; want %q", text, got, err, want)
		}
	}
}

func FuzzAuthority(f *testing.F) {
	for _, c := range authorities {
		if len(c.text) < 1000 {
			f.Add(c.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, port := range []uint16{0, 80} {
			got, err := ParseHost(text, port)
			checkMessage(t, err)
			if err != nil {
				if got != (Target{}) {
					t.Errorf("%q is %v with %v", text, got, err)
				}
				continue
			}
			if again, err := ParseAuthority(got.String()); err != nil || again != got {
				t.Errorf("%q is %v, and that is %v, %v", text, got, again, err)
			}
			checkAgainstURL(t, "http://"+text+"/", got, "/")
		}
	})
}

// checkAgainstURL compares with what net/url reads.
func checkAgainstURL(t *testing.T, text string, got Target, path string) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Errorf("%q is %v here, and to net/url %v", text, got, err)
		return
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if got.Addr.IsValid() {
		if a, err := netip.ParseAddr(host); err != nil || a != got.Addr || got.Host != "" || got.Addr.Zone() != "" {
			t.Errorf("%q is %v here, and %q to net/url", text, got, host)
		}
	} else if host != got.Host {
		t.Errorf("%q is %v here, and %q to net/url", text, got, host)
	}
	if port := u.Port(); u.Opaque != "" || u.User != nil || u.Fragment != "" || port != strconv.Itoa(int(got.Port)) && !(port == "" && got.Port == 80) {
		t.Errorf("%q is %v here, and %#v to net/url", text, got, u)
	}
	plain, query, _ := strings.Cut(path, "?")
	if decoded, err := url.PathUnescape(plain); err != nil || decoded != u.Path && !(plain == "/" && u.Path == "") || query != u.RawQuery {
		t.Errorf("%q has path %q here, and %q with %q to net/url", text, path, u.Path, u.RawQuery)
	}
}

var urls = []struct {
	text, target, path string
	err                error
}{
	{"http://api.allowed.test/", "api.allowed.test:80", "/", nil},
	{"http://api.allowed.test", "api.allowed.test:80", "/", nil},
	{"HTTP://EVIL.test/", "evil.test:80", "/", nil},
	{"hTTp://api.allowed.test.:8080/a/b?c=d", "api.allowed.test:8080", "/a/b?c=d", nil},
	{"http://api.allowed.test?c=100%", "api.allowed.test:80", "/?c=100%", nil},
	{"http://api.allowed.test/?", "api.allowed.test:80", "/?", nil},
	{"http://evil.test?@api.allowed.test/", "evil.test:80", "/?@api.allowed.test/", nil},
	{"http://evil.test/@api.allowed.test/", "evil.test:80", "/@api.allowed.test/", nil},
	{"http://api.allowed.test//evil.test/", "api.allowed.test:80", "//evil.test/", nil},
	{"http://api.allowed.test/http://evil.test/", "api.allowed.test:80", "/http://evil.test/", nil},
	{"http://api.allowed.test/../%2e%2E/", "api.allowed.test:80", "/../%2e%2E/", nil},
	{"http://169.254.169.254/latest/meta-data/", "169.254.169.254:80", "/latest/meta-data/", nil},
	{"http://[::ffff:169.254.169.254]/", "[::ffff:169.254.169.254]:80", "/", nil},
	{"http://203.0.113.66:8080", "203.0.113.66:8080", "/", nil},

	{"https://api.allowed.test/", "", "", ErrScheme},
	{"ftp://api.allowed.test/", "", "", ErrScheme},
	{"urn:api.allowed.test", "", "", ErrScheme},
	{"file:///etc/passwd", "", "", ErrScheme},
	{"gopher://evil.test/", "", "", ErrScheme},
	{"ws://api.allowed.test/", "", "", ErrScheme},
	{"httpx://api.allowed.test/", "", "", ErrScheme},
	{"cache_object://localhost/info", "", "", errAny},
	{"api.allowed.test:443", "", "", ErrScheme},
	{"", "", "", errAny},
	{"/", "", "", errAny},
	{"*", "", "", errAny},
	{"//api.allowed.test/", "", "", errAny},
	{"api.allowed.test", "", "", errAny},
	{"://api.allowed.test/", "", "", errAny},
	{"1http://api.allowed.test/", "", "", errAny},
	{" http://api.allowed.test/", "", "", errAny},
	{"ht\ttp://api.allowed.test/", "", "", errAny},
	{"http:", "", "", errAny},
	{"http:/", "", "", errAny},
	{"http://", "", "", errAny},
	{"http:///", "", "", errAny},
	{"http:///api.allowed.test/", "", "", errAny},
	{"http:/api.allowed.test/", "", "", errAny},
	{"http:api.allowed.test/", "", "", errAny},
	{"http:\\\\api.allowed.test\\", "", "", errAny},
	{"http://evil.test\\@api.allowed.test/", "", "", errAny},
	{"http://api.allowed.test@evil.test/", "", "", errAny},
	{"http://api.allowed.test:80@evil.test/", "", "", errAny},
	{"http://@api.allowed.test/", "", "", errAny},
	{"http://user:secret@api.allowed.test/", "", "", errAny},
	{"http://api.allowed.test:/", "", "", errAny},
	{"http://api.allowed.test:080/", "", "", errAny},
	{"http://api.allowed.test:+80/", "", "", errAny},
	{"http://api.allowed.test:65616/", "", "", errAny},
	{"http://api.allowed.test#@evil.test/", "", "", errAny},
	{"http://api.allowed.test/#x", "", "", errAny},
	{"http://api.allowed.test%2fevil.test/", "", "", errAny},
	{"http://evil.test%00.allowed.test/", "", "", errAny},
	{"http://api.allowed.test/a b", "", "", errAny},
	{"http://api.allowed.test/\x00", "", "", errAny},
	{"http://api.allowed.test/\r\nHost: evil.test", "", "", errAny},
	{"http://api.allowed.test/\u00e9", "", "", errAny},
	{"http://api.allowed.test/%", "", "", errAny},
	{"http://api.allowed.test/%0", "", "", errAny},
	{"http://api.allowed.test/%zz", "", "", errAny},
	{"http://[evil.test]/", "", "", errAny},
	{"http://[::1%25lo]/", "", "", errAny},
	{"http://\u24d4vil.test/", "", "", errAny},
	{"http://localhost/", "", "", ErrSingleLabel},
	{"http://2852039166/", "", "", ErrAddress},
	{"http://0251.0376.0251.0376/", "", "", ErrAddress},
	{"http://127.1/", "", "", ErrAddress},
	{"http://api.allowed.test/" + strings.Repeat("a", MaxURL), "", "", errAny},
}

func TestURLs(t *testing.T) {
	for _, c := range urls {
		scheme, got, path, err := ParseURL(c.text)
		checkTarget(t, c.text, c.target, got, err, c.err)
		if path != c.path || (err == nil) != (scheme == "http") {
			t.Errorf("%.90q has scheme %q and path %q; want %q", c.text, scheme, path, c.path)
		}
	}
}

// Errors end in logs, where what a client wrote in the wrong place must not.
func TestErrorsShowNoSecrets(t *testing.T) {
	for _, text := range []string{
		"http://user:secret@api.allowed.test/", "http://secret@api.allowed.test/", "http://127.1/secret?secret=secret", "http://localhost?secret",
		"http://api.allowed.test:0/secret", "http://api.allowed.test/secret%zz", "http://api.allowed.test/secret#", "https://api.allowed.test/secret",
	} {
		if _, _, _, err := ParseURL(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ParseAuthority("user:secret@api.allowed.test:443"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func FuzzURL(f *testing.F) {
	for _, c := range urls {
		if len(c.text) < 1000 {
			f.Add(c.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		scheme, got, path, err := ParseURL(text)
		checkMessage(t, err)
		if err != nil {
			if got != (Target{}) || path != "" {
				t.Errorf("%q is %v, %q with %v", text, got, path, err)
			}
			return
		}
		if scheme != "http" || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \r\n\x00\\#") {
			t.Errorf("%q has scheme %q and path %q", text, scheme, path)
		}
		checkAgainstURL(t, text, got, path)
		s, again, p, err := ParseURL(scheme + "://" + got.String() + path)
		if err != nil || s != scheme || again != got || p != path {
			t.Errorf("%q is %v and %q, and that is %v and %q, %v", text, got, path, again, p, err)
		}
	})
}
