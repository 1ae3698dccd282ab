package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"bulkhead/core/netset"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/outside"
)

// attack is one case of the battery: what a client sends, and what must come of it.
type attack struct {
	id string
	// connect is the target of a CONNECT, host its Host field if that is another.
	connect, host string
	// url is the target of a plain request, method its method (GET), host its Host.
	url, method string
	// raw is sent as it is, in place of both.
	raw string
	// inside is what is done in the tunnel.
	inside inside
	// early sends the first bytes of inside together with the CONNECT.
	early bool
	want  string
	// to is the address at which an allowed request must arrive, apiAddr by default.
	to string
	// says is a part of the reason that the record must give.
	says string
	// policy is another policy than the usual one.
	policy string
	// captured is whether it is sent, inside alone, without asking a proxy too.
	captured bool
	what     string
}

// What an attack must come to.
const (
	allow     = "allow"
	deny      = "deny"      // no server gets a byte, and one record says why
	noprivate = "noprivate" // nothing special is dialled
	noevil    = "noevil"    // nothing reaches the other server
)

// inside is what a client does in a tunnel. It returns whether it was answered by
// the server.
type inside func(conn net.Conn) (bool, error)

// hello speaks TLS for a name, and HTTP in it.
func hello(sni, host string) inside {
	return func(conn net.Conn) (bool, error) {
		over := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := over.Handshake(); err != nil {
			return false, err
		}
		status, body, err := get(over, bufio.NewReader(over), "/", host)
		return status == 200 && body == "origin", err
	}
}

func named(name string) inside { return hello(name, name) }

// says sends bytes, and waits for any answer.
func says(b string) inside {
	return func(conn net.Conn) (bool, error) {
		if _, err := io.WriteString(conn, b); err != nil {
			return false, err
		}
		n, err := conn.Read(make([]byte, 1))
		return n > 0, err
	}
}

var nothing inside = func(conn net.Conn) (bool, error) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	n, err := conn.Read(make([]byte, 1))
	return n > 0, err
}

// shaped sends the first write of another inside in pieces.
func shaped(cut func(b []byte) [][]byte, pause time.Duration, then inside) inside {
	return func(conn net.Conn) (bool, error) { return then(&shapedConn{Conn: conn, cut: cut, pause: pause}) }
}

type shapedConn struct {
	net.Conn
	cut   func([]byte) [][]byte
	pause time.Duration
	once  sync.Once
}

func (c *shapedConn) Write(p []byte) (n int, err error) {
	first := false
	c.once.Do(func() { first = true })
	if !first {
		return c.Conn.Write(p)
	}
	for i, piece := range c.cut(p) {
		if i > 0 {
			time.Sleep(c.pause)
		}
		if _, err := c.Conn.Write(piece); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *shapedConn) NetConn() net.Conn { return c.Conn }

// records cuts the message of one TLS record into records of at most size bytes.
func records(size int) func([]byte) [][]byte {
	return func(b []byte) (out [][]byte) {
		for message := b[5:]; len(message) > 0; {
			n := min(size, len(message))
			piece := binary.BigEndian.AppendUint16([]byte{b[0], b[1], b[2]}, uint16(n))
			out = append(out, append(piece, message[:n]...))
			message = message[n:]
		}
		return out
	}
}

// joined puts pieces into one write.
func joined(cut func([]byte) [][]byte) func([]byte) [][]byte {
	return func(b []byte) [][]byte { return [][]byte{bytes.Join(cut(b), nil)} }
}

// segments cuts bytes into writes.
func segments(size int) func([]byte) [][]byte {
	return func(b []byte) (out [][]byte) {
		for len(b) > 0 {
			n := min(size, len(b))
			out = append(out, b[:n])
			b = b[n:]
		}
		return out
	}
}

// extension is one of a client hello that is made by hand.
func extension(kind uint16, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

func serverNames(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(list, 0)
		list = binary.BigEndian.AppendUint16(list, uint16(len(n)))
		list = append(list, n...)
	}
	return extension(0, append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)...)
}

// greeting is a client hello with these extensions.
func greeting(extensions ...[]byte) string {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 0x01, 1, 0)
	all := bytes.Join(extensions, nil)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(all))), all...)
	message := append([]byte{1, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(body)))...)
	message = append(message, body...)
	return string(append(binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(len(message))), message...))
}

const acceptAll = `
egress:
  - {from: client, to: "*.allowed.test", ports: [80, 443], accept: [encrypted-hello, no-server-name], because: x, owner: y}
`

const refuseAliases = "gateway: {aliases: refuse}\n" + allowed

const readOnly = `
egress:
  - {from: client, to: "*.allowed.test", ports: [80, 443], may: read, because: x, owner: y}
`

// answers are what names under allowed.test lead to, in the cases of class R.
var answers = map[string][]dns.Answer{
	"meta": {at("169.254.169.254")}, "gkemeta": {at("169.254.169.252")}, "ecs": {at("169.254.170.2")}, "alibaba": {at("100.100.100.200")},
	"azurewire": {at("168.63.129.16")}, "oracle": {at("192.0.0.192")}, "priv10": {at("10.0.0.5")}, "priv172": {at("172.31.255.1")},
	"priv192": {at("192.168.1.1")}, "cgnat": {at("100.64.0.1")}, "linklocal": {at("169.254.1.1")}, "bench": {at("198.18.0.1")},
	"testnet": {at("192.0.2.1")}, "zero": {at("0.0.0.0")}, "thisnet": {at("0.1.2.3")}, "loop": {at("127.0.0.1")}, "loop2": {at("127.8.9.10")},
	"multicast": {at("224.0.0.1")}, "reserved": {at("240.0.0.1")}, "broadcast": {at("255.255.255.255")}, "ietf": {at("192.0.0.1")},
	"imds6": {at("fd00:ec2::254")}, "gcp6": {at("fd20:ce::254")}, "mapped": {at("::ffff:169.254.169.254")}, "mappedpublic": {at("::ffff:" + evilAddr)},
	"compat": {at("::169.254.169.254")}, "nat64": {at("64:ff9b::a9fe:a9fe")}, "nat64local": {at("64:ff9b:1::a9fe:a9fe")},
	"translated": {at("::ffff:0:169.254.169.254")}, "sixtofour": {at("2002:a9fe:a9fe::1")}, "teredo": {at("2001:0:a9fe:a9fe::1")},
	"isatap": {at("2606:2800:220:1:0:5efe:a9fe:a9fe")}, "loop6": {at("::1")}, "unspecified6": {at("::")}, "link6": {at("fe80::1")},
	"zone6": {at("fe80::1%lo")}, "site6": {at("fec0::1")}, "unique6": {at("fd12:3456::1")}, "multicast6": {at("ff02::1")}, "doc6": {at("2001:db8::1")},
	"discard6": {at("100::1")}, "routing6": {at("5f00::1")}, "orchid6": {at("2001:20::1")},

	"multi1": {at(apiAddr, "10.0.0.5")}, "multi2": {at("10.0.0.5", apiAddr)}, "multi3": {at(apiAddr, "::ffff:10.0.0.5")}, "multi4": {at("fd00:ec2::254", "169.254.169.254")},
	"many": {func() dns.Answer {
		var all []string
		for i := range 199 {
			all = append(all, fmt.Sprintf("10.0.0.%d", i+1))
		}
		return at(append(all, apiAddr)...)
	}()},
	"rebind":     {at(apiAddr), at("169.254.169.254")},
	"rebound":    {at("169.254.169.254"), at(apiAddr)},
	"cname":      {alias(at(apiAddr), "edge.unlisted.test")},
	"cnamechain": {alias(at("169.254.169.254"), "a.allowed.test", "b.unlisted.test")},
	"cnamein":    {alias(at(apiAddr), "edge.allowed.test")},
}

// answered makes cases of class R: a tunnel to each name that has these answers.
func answered(want string, names ...string) (out []attack) {
	for _, n := range names {
		name := n + ".allowed.test"
		out = append(out, attack{id: "R " + n, connect: name + ":443", inside: named(name), want: want, what: "an allowed name that leads to " + fmt.Sprint(answers[n][0].Addrs[0])})
	}
	return out
}

// spelled makes cases of one class: a tunnel to each target, in which TLS is for
// sni.
func spelled(class, want, sni string, targets ...string) (out []attack) {
	for _, t := range targets {
		out = append(out, attack{id: class + " " + t, connect: t, inside: named(sni), want: want, what: "the target as it is written"})
	}
	return out
}

// battery is every case.
func battery() []attack {
	const api = "api.allowed.test"
	list := []attack{
		{id: "A01", connect: api + ":443", inside: named(api), want: allow, captured: true, what: "an allowed name"},
		{id: "A02", url: "http://" + api + "/", host: api, want: allow, what: "a plain request"},
		{id: "A03", connect: "API.Allowed.TEST:443", inside: named(api), want: allow, what: "other letter case"},
		{id: "A04", connect: api + ".:443", inside: named(api), want: allow, what: "a final dot"},
		{id: "A05", connect: "api6.allowed.test:443", inside: named("api6.allowed.test"), want: allow, to: api6Addr, what: "IPv6"},
		{id: "A06", url: "http://API.allowed.test.:80/x?y=http://evil.test/", host: "api.ALLOWED.test", want: allow, what: "a plain request in other letter case, with a port"},
		{id: "A07", raw: "GET http://api.allowed.test/ HTTP/1.0\r\n\r\n", want: allow, what: "HTTP/1.0 without Host"},
		{id: "A08", connect: "a.b.c.allowed.test:443", inside: named("a.b.c.allowed.test"), want: allow, what: "deeper below the pattern"},
		{id: "A09", url: "http://" + api, host: api, want: allow, what: "no path"},
		{id: "A10", raw: "\r\nGET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nProxy-Connection: keep-alive\r\n\r\n", want: allow, what: "an empty line before the request"},
		{id: "A11", raw: "CONNECT api.allowed.test:443 HTTP/1.0\r\n\r\n", inside: named(api), want: allow, what: "CONNECT of HTTP/1.0 without Host"},
	}
	// The other destination, written differently.
	list = append(list, spelled("D", deny, "evil.test", "evil.test:443", "EVIL.test.:443", "[evil.test]:443", "[[evil.test]]:443", "evil.test..:443",
		".evil.test:443", "api.allowed.test.evil.test:443", "xapi.notallowed.test:443", "[api.allowed.test]:443", "evil%2etest:443", "%65vil.test:443",
		"xn--evil-.test:443", "xn--vil-9la.test:443", "evil.test:443:443")...)
	list = append(list, spelled("D", deny, "notallowed.test", "notallowed.test:443", "allowed.test:443", "allowed.test.:443", "api-allowed.test:443", "*.allowed.test:443",
		".allowed.test:443", "api..allowed.test:443", "-api.allowed.test:443", "api.allowed.test..:443", "xn--allowed-.test:443")...)
	list = append(list, spelled("D", deny, api, evilAddr+":443", "203.0.113.66:443", "169.254.169.254:443", "169.254.169.254.:443", "2852039166:443", "0xa9fea9fe:443", "0xA9FEA9FE:443",
		"025177524776:443", "0251.0376.0251.0376:443", "0xa9.0xfe.0xa9.0xfe:443", "169.254.43518:443", "169.16689662:443", "169.254.169.0376:443", "169.0xfe.169.254:443",
		"[::ffff:169.254.169.254]:443", "[::ffff:a9fe:a9fe]:443", "[0:0:0:0:0:ffff:a9fe:a9fe]:443", "[::169.254.169.254]:443", "[64:ff9b::a9fe:a9fe]:443", "[64:ff9b::169.254.169.254]:443",
		"[2002:a9fe:a9fe::]:443", "[fd00:ec2::254]:443", "[FD00:EC2:0:0::254]:443", "[fe80::1%25lo]:443", "[fe80::1%lo]:443", "[::1]:443", "[::]:443", "fd00:ec2::254:443", "::1:443",
		"127.0.0.1:443", "127.1:443", "127.0.1:443", "2130706433:443", "0x7f.1:443", "0177.0.0.1:443", "0:443", "0.0.0.0:443", "0x0:443", "1.1:443", "255.255.255.255:443",
		"169.254.169.254%00.allowed.test:443", "[169.254.169.254]:443", "[v1.a9fea9fe]:443", "localhost:443", "metadata:443", "metadata.google.internal:443", "instance-data:443",
		"[2606:2800:220:1::66]:443", "256.256.256.256:443", "169.254.169.254.allowed:443", "1e3.1:443", "0x.allowed.0x1:443")...)
	list = append(list, spelled("D", deny, api, "１６９.２５４.１６９.２５４:443", "169。254。169。254:443", "①⑥⑨.254.169.254:443")...)

	list = append(list, answered(deny, "meta", "gkemeta", "ecs", "alibaba", "azurewire", "oracle", "priv10", "priv172", "priv192", "cgnat", "linklocal", "bench", "testnet", "zero", "thisnet",
		"loop", "loop2", "multicast", "reserved", "broadcast", "ietf", "imds6", "gcp6", "mapped", "mappedpublic", "compat", "nat64", "nat64local", "translated", "sixtofour", "teredo", "isatap",
		"loop6", "unspecified6", "link6", "zone6", "site6", "unique6", "multicast6", "doc6", "discard6", "routing6", "orchid6", "multi4", "cnamechain")...)
	list = append(list, answered(noprivate, "multi1", "multi2", "multi3", "many", "rebind", "rebound")...)
	list = append(list,
		attack{id: "R plain meta", url: "http://meta.allowed.test/latest/meta-data/", host: "meta.allowed.test", want: deny, what: "a plain request to a name that leads to metadata"},
		attack{id: "R plain mapped", url: "http://mapped.allowed.test/", host: "mapped.allowed.test", want: deny, what: "the same, mapped"},
		attack{id: "R plain rebind", raw: strings.Repeat("GET http://rebind.allowed.test/ HTTP/1.1\r\nHost: rebind.allowed.test\r\n\r\n", 4), want: noprivate, what: "rebinding between requests of one connection"},
		attack{id: "R29", connect: "cname.allowed.test:443", inside: named("cname.allowed.test"), want: allow, what: "a CNAME to an unlisted name, recorded"},
		attack{id: "R29 refuse", connect: "cname.allowed.test:443", inside: named("cname.allowed.test"), want: deny, says: "alias", policy: refuseAliases, what: "the same where aliases are refused"},
		attack{id: "R30", connect: "cnamein.allowed.test:443", inside: named("cnamein.allowed.test"), want: allow, policy: refuseAliases, what: "a CNAME to a name that is permitted"},
	)
	ports(&list)
	hosts(&list)
	tunnels(&list)
	framing(&list)
	return list
}

// ports is class P: the grammar of ports and authorities.
func ports(list *[]attack) {
	const api = "api.allowed.test"
	plain := says("GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n")
	for _, p := range []string{"22", "25", "8443", "8080", "444", "65979", "65536", "4294967739", "18446744073709552059", "0"} {
		*list = append(*list, attack{id: "P clear :" + p, connect: api + ":" + p, inside: plain, want: deny, what: "a port that is not permitted, or none"})
	}
	*list = append(*list, spelled("P", deny, api, api+":+443", api+":-443", api+":0443", api+":00443", api+":443a", api+":0x1bb", api+":4_43", api+":", api, ":443", api+":443:22", api+":22:443",
		"user:pw@"+api+":443", "@"+api+":443", "user@"+api+":443", api+"%3a443", api+":%34%34%33", api+":４４３", api+":443/", api+":443?", api+":443#", api+":443\\", api+"/:443",
		api+"?:443", "http://"+api+":443", "//"+api+":443", "https://"+api+":443/", api+",evil.test:443", api+";evil.test:443", api+":443,evil.test:443", api+"%20:443", api+"%0d%0a:443",
		"api_allowed.test:443", "api.allowed.test%:443", api+"%2e:443")...)
	*list = append(*list, spelled("P", deny, "evil.test", "evil.test%00.allowed.test:443", "evil.test%23.allowed.test:443", "evil.test#.allowed.test:443", "evil.test/.allowed.test:443",
		"evil.test?.allowed.test:443", "evil.test\\.allowed.test:443", "evil.test;.allowed.test:443", "evil.test@.allowed.test:443", "evil.test:443@api.allowed.test:443", "evil.test:443#@api.allowed.test:443",
		"ⓔvil.test:443", "evil。test:443", "evil\u00ad.test:443", "ｅvil.test:443", "evil.test\u200b:443", "evıl.test:443")...)
	for id, target := range map[string]string{"NUL": "evil.test\x00.allowed.test:443", "space": "evil.test .allowed.test:443", "tab": "evil.test\t.allowed.test:443", "CR": "evil.test\r.allowed.test:443",
		"LF": "evil.test\n.allowed.test:443", "DEL": "evil.test\x7f.allowed.test:443", "VT": "evil.test\v.allowed.test:443"} {
		*list = append(*list, attack{id: "P raw " + id, raw: "CONNECT " + target + " HTTP/1.1\r\nHost: api.allowed.test:443\r\n\r\n", inside: named("evil.test"), want: deny, what: "a control character in the authority"})
	}
}

// hosts is class H: what the target says against what other parts say.
func hosts(list *[]attack) {
	const api = "api.allowed.test"
	*list = append(*list,
		attack{id: "H01", connect: "evil.test:443", host: api + ":443", inside: named("evil.test"), want: deny, what: "CONNECT to a denied name, Host allowed"},
		attack{id: "H02", connect: api + ":443", host: "evil.test:443", inside: named(api), want: deny, says: "Host", what: "CONNECT to an allowed name, Host denied"},
		attack{id: "H03", url: "http://evil.test/", host: api, want: deny, what: "absolute form denied, Host allowed"},
		attack{id: "H04", url: "http://" + api + "/", host: "evil.test", want: deny, what: "absolute form allowed, Host denied"},
		attack{id: "H05", raw: "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nHost: api.allowed.test\r\n\r\n", want: deny, what: "two Hosts"},
		attack{id: "H06", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nhost: evil.test\r\n\r\n", want: deny, what: "two Hosts, the first right"},
		attack{id: "H07", url: "http://api.allowed.test@evil.test/", host: api, want: deny, what: "an allowed name as user of a denied one"},
		attack{id: "H08", url: "http://evil.test@api.allowed.test/", host: api, want: deny, what: "any user name"},
		attack{id: "H09", url: "ftp://api.allowed.test/", host: api, want: deny, what: "another scheme"},
		attack{id: "H09 https", url: "https://api.allowed.test/", host: api, want: deny, what: "https in absolute form"},
		attack{id: "H09 urn", url: "urn:api.allowed.test", host: api, want: deny, what: "a URN"},
		attack{id: "H09 file", url: "file:///etc/passwd", host: api, want: deny, what: "a file"},
		attack{id: "H09 ws", url: "ws://api.allowed.test/", host: api, want: deny, what: "ws"},
		attack{id: "H10", url: "/", host: api, want: deny, what: "origin form at a proxy"},
		attack{id: "H10 star", method: "OPTIONS", url: "*", host: api, want: deny, what: "asterisk form at a proxy"},
		attack{id: "H11", raw: "GET http://api.allowed.test/ HTTP/1.1\r\n\r\n", want: deny, what: "HTTP/1.1 without Host"},
		attack{id: "H12", url: "http://169.254.169.254/latest/meta-data/", host: api, want: deny, what: "metadata, Host allowed"},
		attack{id: "H12 decimal", url: "http://2852039166/", host: api, want: deny, what: "metadata as a number"},
		attack{id: "H12 mapped", url: "http://[::ffff:169.254.169.254]/", host: api, want: deny, what: "metadata mapped"},
		attack{id: "H13", raw: "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: api.allowed.test\r\nForwarded: host=api.allowed.test\r\n\r\n", want: deny, what: "routing headers"},
		attack{id: "H14", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nX-Upstream-Https-Proxy: http://" + evilAddr + ":80\r\n\r\n", want: allow, what: "a proxy that the client names"},
		attack{id: "H15", url: "http://api.allowed.test#@evil.test/", host: api, want: deny, what: "a fragment in front"},
		attack{id: "H15 backslash", url: "http://api.allowed.test\\@evil.test/", host: api, want: deny, what: "a backslash in front"},
		attack{id: "H15 slash", url: "http:/evil.test/", host: api, want: deny, what: "one slash"},
		attack{id: "H15 slashes", url: "http:///evil.test/", host: api, want: deny, what: "three slashes"},
		attack{id: "H15 none", url: "http:evil.test", host: api, want: deny, what: "no slash"},
		attack{id: "H15 query", url: "http://evil.test?api.allowed.test/", host: api, want: deny, what: "a query behind the host"},
		attack{id: "H16", url: "HTTP://EVIL.test/", host: api, want: deny, what: "capitals"},
		attack{id: "H17", raw: "GET http://evil.test/ HTTP/1.1\r\nHost: api.allowed.test, evil.test\r\n\r\n", want: deny, what: "a list of Hosts"},
		attack{id: "H17 allowed", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test, evil.test\r\n\r\n", want: deny, what: "a list of Hosts, target allowed"},
		attack{id: "H17 empty", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost:\r\n\r\n", want: deny, what: "an empty Host"},
		attack{id: "H17 user", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: evil.test@api.allowed.test\r\n\r\n", want: deny, what: "a user in Host"},
		attack{id: "H17 port", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test:8080\r\n\r\n", want: deny, what: "another port in Host"},
		attack{id: "H18", connect: "api.allowed.test:443@evil.test:443", inside: named("evil.test"), want: deny, what: "an allowed authority as user of a denied one"},
		attack{id: "H19", raw: "connect evil.test:443 HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n", inside: named("evil.test"), want: deny, what: "CONNECT in lower case"},
		attack{id: "H19 prefix", raw: "CONNECT http://evil.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n", inside: named("evil.test"), want: deny, what: "CONNECT with a URL"},
		attack{id: "H20", method: "TRACE", url: "http://api.allowed.test/", host: api, want: allow, what: "TRACE, as any method where none is named"},
		attack{id: "H20 read", method: "TRACE", url: "http://api.allowed.test/", host: api, want: deny, policy: readOnly, what: "TRACE where reading is allowed"},
		attack{id: "H21 read", method: "POST", url: "http://api.allowed.test/", host: api, want: deny, policy: readOnly, what: "POST where reading is allowed"},
		attack{id: "H22 read", method: "GET", url: "http://api.allowed.test/a/../b", host: api, want: deny, policy: readOnly, what: "a path with a second spelling"},
		attack{id: "H23 read", connect: api + ":443", inside: named(api), want: deny, says: "read", policy: readOnly, what: "a tunnel where reading is allowed and nobody reads"},
		attack{id: "H24 override", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nX-Original-URL: http://evil.test/\r\nX-Rewrite-URL: /admin\r\n\r\n", want: allow, what: "headers that some servers take for a target"},
		attack{id: "H25 ports", url: "http://api.allowed.test:8080/", host: api, want: deny, what: "a port that is not permitted"},
		attack{id: "H25 port 0", url: "http://api.allowed.test:0/", host: api, want: deny, what: "port 0"},
		attack{id: "H25 no port", url: "http://api.allowed.test:/", host: api, want: deny, what: "an empty port"},
		attack{id: "H26", url: "http://api.allowed.test%2f@evil.test/", host: api, want: deny, what: "an encoded slash in front"},
		attack{id: "H27", url: "http://evil.test/", host: "evil.test", want: deny, what: "a denied name"},
	)
}

// tunnels is class S, and some of X: what is said inside a tunnel to an allowed
// name.
func tunnels(list *[]attack) {
	const api = "api.allowed.test"
	in := func(id, want, what string, i inside) {
		*list = append(*list, attack{id: id, connect: api + ":443", inside: i, want: want, captured: true, what: what})
	}
	in("S01", deny, "SNI of another server", named("evil.test"))
	in("S01 sub", deny, "SNI of another allowed name", named("api6.allowed.test"))
	in("S02", deny, "no SNI", hello("", api))
	in("S03", deny, "SNI of another server, Host allowed", hello("evil.test", api))
	in("S05", deny, "a banner of SSH", says("SSH-2.0-OpenSSH_9.9\r\n"))
	in("S06", deny, "the preface of HTTP/2", says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	in("S06 alert", deny, "an alert of TLS first", says("\x15\x03\x01\x00\x02\x01\x00"+greeting(serverNames(api))))
	in("S06 appdata", deny, "data of TLS first", says("\x17\x03\x03\x00\x05hello"))
	in("S06 sslv2", deny, "a hello of SSLv2", says("\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"+strings.Repeat("a", 40)))
	in("S06 junk", deny, "anything", says("\x00\x01\x02\x03\x04\x05\x06\x07"))
	in("S06 postgres", deny, "PostgreSQL asks for TLS", says("\x00\x00\x00\x08\x04\xd2\x16\x2f"))
	in("S06 socks", deny, "SOCKS", says("\x05\x01\x00"))
	in("S08", allow, "a hello in two records, with time between", shaped(records(900), 80*time.Millisecond, named(api)))
	in("S08 joined", allow, "a hello in many records of one write", shaped(joined(records(7)), 0, named(api)))
	in("S08 bytes", allow, "a hello in records of one byte", shaped(joined(records(1)), 0, named(api)))
	in("S09", allow, "a hello in segments of one byte", shaped(segments(1), 0, named(api)))
	in("S09 delayed", allow, "a hello after a while", func(conn net.Conn) (bool, error) { time.Sleep(100 * time.Millisecond); return named(api)(conn) })
	in("S11", deny, "a hello in records of one byte, of another server", shaped(joined(records(1)), 0, named("evil.test")))
	in("S12", deny, "two server names", says(greeting(serverNames(api, "evil.test"))))
	in("S12 evil", deny, "two server names, the other first", says(greeting(serverNames("evil.test", api))))
	in("S12 twice", deny, "the extension twice", says(greeting(serverNames(api), serverNames("evil.test"))))
	in("S12 empty", deny, "an empty name", says(greeting(serverNames(""))))
	in("S12 none", deny, "no names in the extension", says(greeting(serverNames())))
	in("S12 NUL", deny, "a NUL in the name", says(greeting(serverNames(api+"\x00.evil.test"))))
	in("S12 upper", allow, "other letter case", says(greeting(serverNames("API.allowed.TEST"))))
	in("S12 between", deny, "another record between", says(greeting(serverNames(api))[:30]+"\x15\x03\x01\x00\x02\x01\x00"))
	in("S12 long", deny, "a hello that never ends", says("\x16\x03\x01\x40\x00\x01\xff\xff\xff"+strings.Repeat("a", 20000)))
	in("S12 cut", deny, "half a hello, and nothing more", says(greeting(serverNames(api))[:20]))
	in("S13", deny, "the start of TLS, and then clear text", says("\x16\x03\x01\x00\x10GET / HTTP/1.1\r\n\r\n"))
	in("X01", deny, "an encrypted hello behind an allowed name", says(greeting(serverNames(api), extension(0xfe0d, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0))))
	in("X01 draft", deny, "the same of a draft", says(greeting(serverNames(api), extension(0xffce, 1, 2, 3))))
	in("X01 no name", deny, "an encrypted hello without a name", says(greeting(extension(0xfe0d, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0))))
	in("X05 IP", deny, "SNI is an address", says(greeting(serverNames(apiAddr))))
	in("X05 IPv6", deny, "SNI is an IPv6 address", says(greeting(serverNames("["+api6Addr+"]"))))
	*list = append(*list,
		attack{id: "S02 accept", connect: api + ":443", inside: hello("", api), want: allow, policy: acceptAll, what: "no SNI where it is accepted"},
		attack{id: "S01 accept", connect: api + ":443", inside: named("evil.test"), want: deny, policy: acceptAll, what: "SNI of another server there"},
		attack{id: "S04", connect: api + ":443", inside: says("GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"), want: deny, what: "clear text"},
		attack{id: "S04 80", connect: api + ":80", inside: says("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"), want: deny, what: "clear text to port 80"},
		attack{id: "S07", connect: api + ":443", inside: named("evil.test"), early: true, want: deny, what: "SNI of another server, before the answer"},
		attack{id: "S07 clear", connect: api + ":443", inside: says("GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"), early: true, want: deny, what: "clear text before the answer"},
		attack{id: "S10", connect: api + ":443", inside: named(api), early: true, want: allow, what: "SNI before the answer"},
		attack{id: "S14", connect: api + ":443", inside: nothing, want: noevil, what: "nothing at all"},
		attack{id: "X01 accept", connect: api + ":443", inside: says(greeting(serverNames(api), extension(0xfe0d, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0))), want: allow, policy: acceptAll, what: "an encrypted hello where it is accepted"},
		attack{id: "X05 dot", connect: api + ":443", inside: says(greeting(serverNames(api + "."))), want: allow, what: "SNI with a final dot is the same name"},
		attack{id: "X13", raw: "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", want: allow, what: "an upgrade to HTTP/2, which is not passed on"},
	)
}

// framing is class M: where one message ends.
func framing(list *[]attack) {
	const second = "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"
	const post = "POST http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n"
	m := func(id, want, what, raw string) {
		*list = append(*list, attack{id: id, raw: raw, want: want, what: what})
	}
	m("M01", noevil, "Content-Length and Transfer-Encoding", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+second)
	m("M01 reversed", noevil, "Transfer-Encoding and Content-Length", post+"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"+second)
	m("M02", noevil, "two Content-Lengths", post+"Content-Length: 0\r\nContent-Length: "+strconv.Itoa(len(second))+"\r\n\r\n"+second)
	m("M02 same", deny, "two equal Content-Lengths", post+"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
	m("M02 list", deny, "a list of Content-Lengths", post+"Content-Length: 5, 5\r\n\r\nhello")
	m("M02 plus", deny, "a signed Content-Length", post+"Content-Length: +5\r\n\r\nhello")
	m("M02 hex", deny, "a hexadecimal Content-Length", post+"Content-Length: 0x5\r\n\r\nhello")
	m("M02 minus", deny, "a negative Content-Length", post+"Content-Length: -1\r\n\r\n")
	m("M02 huge", deny, "a Content-Length that overflows", post+"Content-Length: 18446744073709551621\r\n\r\nhello")
	m("M02 space", deny, "a space in Content-Length", post+"Content-Length: 1 0\r\n\r\nhello")
	m("M03", noevil, "a space before the colon", post+"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"+second)
	m("M03 tab", noevil, "a tab before the colon", post+"Content-Length\t: 5\r\n\r\nhello"+second)
	m("M04", deny, "Transfer-Encoding that is not chunked", post+"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")
	m("M04 list", deny, "a list of encodings", post+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
	m("M04 identity", deny, "identity", post+"Transfer-Encoding: identity\r\n\r\n")
	m("M04 twice", deny, "Transfer-Encoding twice", post+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	m("M04 VT", deny, "a control character", post+"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n")
	m("M04 1.0", deny, "Transfer-Encoding in HTTP/1.0", "POST http://api.allowed.test/ HTTP/1.0\r\nHost: api.allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	m("M04 quoted", deny, "quoted", post+"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n")
	*list = append(*list, attack{id: "M05", raw: "CONNECT\tevil.test:443\tHTTP/1.1\r\nHost: api.allowed.test\r\n\r\n", inside: named("evil.test"), want: deny, what: "tabs"})
	m("M06", noevil, "pipelining", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"+second)
	m("M06 body", noevil, "a request inside a body", post+"Content-Length: "+strconv.Itoa(len(second))+"\r\n\r\n"+second)
	*list = append(*list,
		attack{id: "M07", raw: "CONNECT evil.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\nContent-Length: 0\r\nX-Forwarded-Host: api.allowed.test\r\n\r\n", inside: named("evil.test"), want: deny, what: "X-Forwarded-Host"},
		attack{id: "M09", raw: "CONNECT evil.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\nContent-Length: 10\r\n\r\n0123456789", inside: named("evil.test"), want: deny, what: "CONNECT with a body"},
		attack{id: "M09 allowed", raw: "CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\nContent-Length: 10\r\n\r\n0123456789", inside: named("api.allowed.test"), want: deny, what: "the same, allowed"},
		attack{id: "M09 chunked", raw: "CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", inside: named("api.allowed.test"), want: deny, what: "the same, chunked"},
	)
	m("M08", deny, "a bare LF", "GET http://api.allowed.test/ HTTP/1.1\nHost: api.allowed.test\n\nX: y\r\n\r\n")
	m("M08 mixed", deny, "a bare LF in a field", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\nX: y\r\n\r\n")
	m("M08 CR", deny, "a bare CR", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\rHost: evil.test\r\n\r\n")
	m("M08 NUL", deny, "a NUL in a field", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\x00b\r\n\r\n")
	m("M10", deny, "HTTP/2.0 in HTTP/1", "GET http://api.allowed.test/ HTTP/2.0\r\nHost: api.allowed.test\r\n\r\n")
	m("M10 0.9", deny, "HTTP/0.9", "GET http://api.allowed.test/\r\n\r\n")
	m("M10 1.2", deny, "HTTP/1.2", "GET http://api.allowed.test/ HTTP/1.2\r\nHost: api.allowed.test\r\n\r\n")
	m("M10 lower", deny, "http/1.1", "GET http://api.allowed.test/ http/1.1\r\nHost: api.allowed.test\r\n\r\n")
	m("M10 01.1", deny, "HTTP/01.1", "GET http://api.allowed.test/ HTTP/01.1\r\nHost: api.allowed.test\r\n\r\n")
	m("M10 spaces", deny, "two spaces", "GET  http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n")
	m("M10 lead", deny, "a space in front", " GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n")
	m("M10 four", deny, "four words", "GET http://evil.test/ http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n")
	m("M11", deny, "a folded Host", "GET http://evil.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n evil.test\r\n\r\n")
	m("M11 first", deny, "a fold before the first field", "GET http://api.allowed.test/ HTTP/1.1\r\n Host: evil.test\r\nHost: api.allowed.test\r\n\r\n")
	m("M11 te", noevil, "a folded Transfer-Encoding", post+"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"+second)
	m("M12", allow, "headers between neighbours", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nConnection: x-forwarded-for, close\r\nX-Forwarded-For: 10.0.0.1\r\nProxy-Authorization: Basic c2VjcmV0\r\nTE: trailers\r\n\r\n")
	m("M12 chunk", noevil, "a chunk that is longer than it says", post+"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"+second)
	m("M12 size", noevil, "a chunk size with a sign", post+"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n"+second)
	m("M12 0x", noevil, "a chunk size with 0x", post+"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n"+second)
	m("M12 overflow", noevil, "a chunk size that overflows", post+"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n"+second)
	m("M12 LF", noevil, "a chunk size that ends with LF", post+"Transfer-Encoding: chunked\r\n\r\n0\n\r\n"+second)
	m("M12 trailer", noevil, "a Host in the trailer", post+"Transfer-Encoding: chunked\r\n\r\n0\r\nHost: evil.test\r\n\r\n"+second)
	m("M12 extension", noevil, "a bare CR in an extension", post+"Transfer-Encoding: chunked\r\n\r\n0;\rx\r\n\r\n"+second)
	m("M13 no name", deny, "a field without a name", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n: x\r\n\r\n")
	m("M13 no colon", deny, "a field without a colon", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nX\r\n\r\n")
	m("M13 underscore", noevil, "Content_Length", post+"Content_Length: 5\r\n\r\n"+second)
	m("M13 expect", deny, "an unknown expectation", post+"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello")
	m("M13 upgrade", noevil, "TLS by upgrade", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n"+second)
	m("M13 fields", deny, "too many fields", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n"+strings.Repeat("X: y\r\n", 300)+"\r\n")
	m("M13 long", deny, "a head that is too long", "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nX: "+strings.Repeat("y", 70000)+"\r\n\r\n")
}

// head is what an attack sends first.
func (a *attack) headText() string {
	switch {
	case a.raw != "":
		return a.raw
	case a.connect != "":
		return fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", a.connect, orElse(a.host, a.connect))
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", orElse(a.method, "GET"), a.url, a.host)
}

func orElse(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// outcome is what a client got.
type outcome struct {
	status   int // of the first answer, 0 for none
	answered bool
	err      error
}

// play sends an attack over a connection to the proxy.
func (a *attack) play(conn net.Conn) (o outcome) {
	asks := strings.HasPrefix(a.headText(), "CONNECT")
	method := orElse(a.method, "GET")
	if asks {
		method = http.MethodConnect
	}
	if a.early {
		e := &earlyConn{Conn: conn, head: a.headText(), method: method}
		o.answered, o.err = a.inside(e)
		o.status = e.status
		return o
	}
	if _, err := io.WriteString(conn, a.headText()); err != nil {
		return outcome{err: err}
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return outcome{err: err}
	}
	o.status = answer.StatusCode
	if asks && o.status == 200 {
		o.answered, o.err = a.inside(&replayed{conn, in})
		return o
	}
	body, err := io.ReadAll(answer.Body)
	o.answered, o.err = o.status == 200 && (strings.HasPrefix(string(body), "origin") || method == http.MethodHead), err
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, in) // what was pipelined
	return o
}

// earlyConn sends a head with the first bytes, and reads its answer with the first
// read.
type earlyConn struct {
	net.Conn
	head, method string
	in           *bufio.Reader
	status       int
}

func (c *earlyConn) Write(p []byte) (int, error) {
	if c.head == "" {
		return c.Conn.Write(p)
	}
	_, err := c.Conn.Write(append([]byte(c.head), p...))
	c.head = ""
	return len(p), err
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if c.in == nil {
		c.in = bufio.NewReader(c.Conn)
		answer, err := http.ReadResponse(c.in, &http.Request{Method: c.method})
		if err != nil {
			return 0, err
		}
		if c.status = answer.StatusCode; c.status != 200 {
			return 0, errors.New("refused")
		}
	}
	return c.in.Read(p)
}

func (c *earlyConn) NetConn() net.Conn { return c.Conn }

// stream is a CONNECT over HTTP/2, written by frames so that nothing checks what
// is sent. It is a connection.
type stream struct {
	net.Conn
	frames *http2.Framer
	in     bytes.Buffer
	status int
	ended  bool
}

// openStream asks for a tunnel in a stream of its own.
func openStream(conn net.Conn, fields [][2]string) (*stream, error) {
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	s := &stream{Conn: conn, frames: http2.NewFramer(conn, conn)}
	s.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := s.frames.WriteSettings(); err != nil {
		return nil, err
	}
	return s, s.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
}

// next reads one frame.
func (s *stream) next() error {
	f, err := s.frames.ReadFrame()
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return s.frames.WriteSettingsAck()
		}
	case *http2.PingFrame:
		return s.frames.WritePing(true, f.Data)
	case *http2.MetaHeadersFrame:
		s.status, _ = strconv.Atoi(f.PseudoValue("status"))
		s.ended = s.ended || f.StreamEnded()
	case *http2.DataFrame:
		s.in.Write(f.Data())
		s.ended = s.ended || f.StreamEnded()
		if n := uint32(len(f.Data())); n > 0 {
			return errors.Join(s.frames.WriteWindowUpdate(0, n), s.frames.WriteWindowUpdate(1, n))
		}
	case *http2.RSTStreamFrame:
		return fmt.Errorf("reset: %v", f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Errorf("goaway: %v", f.ErrCode)
	}
	return nil
}

func (s *stream) answer() error {
	for s.status == 0 {
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) Read(p []byte) (int, error) {
	for s.in.Len() == 0 {
		if s.ended {
			return 0, io.EOF
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	return s.in.Read(p)
}

func (s *stream) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += 16384 {
		if err := s.frames.WriteData(1, false, p[at:min(at+16384, len(p))]); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

func (s *stream) CloseWrite() error { return s.frames.WriteData(1, true, nil) }

// playStream sends an attack over HTTP/2.
func (a *attack) playStream(conn net.Conn) (o outcome) {
	fields := [][2]string{{":method", "CONNECT"}, {":authority", a.connect}}
	if a.host != "" {
		fields = append(fields, [2]string{"host", a.host})
	}
	s, err := openStream(conn, fields)
	if err != nil {
		return outcome{err: err}
	}
	if a.early {
		o.answered, o.err = a.inside(s)
		o.status = s.status
		return o
	}
	if err := s.answer(); err != nil {
		return outcome{err: err}
	}
	if o.status = s.status; o.status == 200 {
		o.answered, o.err = a.inside(s)
	}
	return o
}

// The ways in which a client comes.
const (
	byTCP     = "tcp"
	byMTLS    = "mtls"
	byStream  = "h2"
	bySecure  = "h2 mtls"
	byCapture = "captured"
)

// TestBypass plays the battery, each case in every way that makes sense.
func TestBypass(t *testing.T) {
	cases, plays := battery(), 0
	var wrong atomic.Int32
	seen := map[string]bool{}
	classes := map[byte]int{}
	t.Run("cases", func(t *testing.T) {
		for i := range cases {
			a := &cases[i]
			if seen[a.id] {
				t.Fatalf("case %s stands twice", a.id)
			}
			seen[a.id] = true
			classes[a.id[0]]++
			for _, way := range a.ways() {
				plays++
				t.Run(a.id+"/"+way, func(t *testing.T) {
					t.Parallel()
					if a.run(t, way); t.Failed() {
						wrong.Add(1)
					}
				})
			}
		}
	})
	for class, least := range map[byte]int{'A': 5, 'D': 22, 'R': 30, 'P': 16, 'H': 20, 'S': 11, 'M': 12} {
		if classes[class] < least {
			t.Errorf("class %c has %d cases, and %d members are known", class, classes[class], least)
		}
	}
	t.Logf("bypass: %d cases, %d plays, %d wrong", len(cases), plays, wrong.Load())
}

func (a *attack) ways() []string {
	ways := []string{byTCP, byMTLS}
	if a.connect != "" {
		ways = append(ways, byStream, bySecure)
	}
	if a.captured {
		ways = append(ways, byCapture)
	}
	return ways
}

func (a *attack) run(t *testing.T, way string) {
	r := newRig(t, orElse(a.policy, allowed))
	for name, list := range answers {
		r.names.answers[name+".allowed.test"] = list
	}
	r.names.answers["a.b.c.allowed.test"] = []dns.Answer{at(apiAddr)}
	r.names.answers["notallowed.test"] = []dns.Answer{at(evilAddr)}
	r.names.answers["allowed.test"] = []dns.Answer{at(evilAddr)}
	var o outcome
	switch way {
	case byTCP, byStream:
		conn := dialProxy(t, r.listen(r.plain()))
		if way == byStream {
			o = a.playStream(conn)
		} else {
			o = a.play(conn)
		}
		conn.Close()
	case byMTLS:
		conn := r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "http/1.1")
		o = a.play(conn)
		conn.Close()
	case bySecure:
		conn := r.overTLS(dialProxy(t, r.listen(r.mutual())), "client", "h2")
		o = a.playStream(conn)
		conn.Close()
	case byCapture:
		r.names.answers["api.allowed.test"] = []dns.Answer{at(apiAddr)}
		if _, err := r.g.o.Resolver.Lookup(t.Context(), "api.allowed.test"); err != nil {
			t.Fatal(err)
		}
		d := r.plain()
		d.Captured = func(net.Conn) (netip.AddrPort, error) { return netip.MustParseAddrPort(apiAddr + ":443"), nil }
		conn := dialProxy(t, r.listen(d))
		o.answered, o.err = a.inside(conn)
		conn.Close()
	}
	if why := a.judge(r, way, o); why != "" {
		t.Errorf("%s: want %s, %s\n  answer %d, answered %v, %v\n%s", a.what, a.want, why, o.status, o.answered, o.err, r.explain())
	}
}

// judge says what is wrong with what came of an attack.
func (a *attack) judge(r *rig, way string, o outcome) string {
	log := r.log()
	count := verdicts(log)
	denied := count["deny deny"]
	reached := r.reached()
	for _, d := range r.dials() {
		if kind := netset.Special(d.Addr()); kind != "" {
			return "a special-purpose address was dialled: " + d.String()
		}
		if d.Addr().String() == evilAddr {
			return "the other server was dialled"
		}
		if d.Port() != 80 && d.Port() != 443 {
			return "a port that is not permitted was dialled"
		}
	}
	for _, arrived := range reached {
		r.mu.Lock()
		everything := strings.Join(append(arrived.reqs, arrived.sni), " ")
		r.mu.Unlock()
		if strings.Contains(everything, "evil") && !strings.Contains(everything, "?y=http://evil.test/") {
			return "something for the other server arrived: " + everything
		}
	}
	for _, rec := range log {
		if rec.Verdict == "deny" && (rec.Why == "" || rec.Generation == 0) {
			return "a record of a refusal says not why"
		}
	}
	switch a.want {
	case allow:
		if !o.answered && !a.handmade(reached) {
			return "it was not answered by the server"
		}
		if len(reached) != 1 || reached[0].at.Addr().String() != orElse(a.to, apiAddr) {
			return "it did not arrive where it should"
		}
		if denied != 0 || count["open allow"] != 1 {
			return fmt.Sprintf("the records are %v", count)
		}
	case deny:
		if o.answered || len(reached) > 0 {
			return "it passed"
		}
		// What the parser of HTTP/2 refuses reaches no decision.
		unheard := (way == byStream || way == bySecure) && o.status == 0 && len(r.dials()) == 0 && denied == 0
		if denied != 1 && !unheard || count["open allow"] != 0 {
			return fmt.Sprintf("the records are %v", count)
		}
		for _, rec := range log {
			if rec.Event == flow.Deny && !strings.Contains(rec.Why, a.says) {
				return "the reason is: " + rec.Why
			}
		}
	}
	return ""
}

// handmade reports whether a hello that was made by hand arrived: no handshake comes
// of it.
func (a *attack) handmade(reached []*arrival) bool {
	if len(reached) != 1 {
		return false
	}
	r := reached[0].rig
	r.mu.Lock()
	defer r.mu.Unlock()
	h, _, err := outside.ParseHello(reached[0].said.Bytes())
	return err == nil && strings.EqualFold(strings.TrimSuffix(h.ServerName, "."), "api.allowed.test")
}

// TestAliasesAreRecorded: what a name is an alias of stands in its records.
func TestAliasesAreRecorded(t *testing.T) {
	r := newRig(t, allowed)
	r.names.answers["cname.allowed.test"] = []dns.Answer{alias(at(apiAddr), "edge.unlisted.test", "pop.unlisted.test")}
	conn := dialProxy(t, r.listen(r.plain()))
	in := bufio.NewReader(conn)
	if status, body, err := get(conn, in, "http://cname.allowed.test/", "cname.allowed.test"); status != 200 {
		t.Fatal(status, body, err)
	}
	conn.Close()
	for _, rec := range r.log() {
		if rec.Aliases != "edge.unlisted.test pop.unlisted.test" {
			t.Errorf("%s: aliases %q", rec.Event, rec.Aliases)
		}
	}
}
