package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The following reads messages once more, from the RFCs and without the code
// under test or its library: names as labels in lower case, each ended by a
// byte that no label can be mistaken for.

type rr struct {
	owner       string
	kind, class uint16
	ttl         uint32
	data        []byte
	target      string // of a CNAME
}

// readName returns a name and where it ends, -1 if it is none.
func readName(msg []byte, at int) (name string, end int) {
	end = -1
	for jumps := 0; jumps < 200; {
		if at >= len(msg) {
			return "", -1
		}
		n := int(msg[at])
		switch {
		case n == 0:
			if end < 0 {
				end = at + 1
			}
			return name, end
		case n < 64:
			if at+1+n > len(msg) {
				return "", -1
			}
			name += string(bytes.ToLower(ascii(msg[at+1:at+1+n]))) + "\xff."
			at += 1 + n
		case n >= 192:
			if at+2 > len(msg) {
				return "", -1
			}
			if end < 0 {
				end = at + 2
			}
			at = int(binary.BigEndian.Uint16(msg[at:]) & 0x3fff)
			jumps++
		default:
			return "", -1
		}
	}
	return "", -1
}

// ascii replaces what bytes.ToLower would treat as text.
func ascii(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if c >= 0x80 {
			out[i] = 1
		}
	}
	return out
}

type parsed struct {
	id, flags uint16
	questions []rr
	answers   []rr
}

func parse(msg []byte) (p parsed, ok bool) {
	if len(msg) < 12 {
		return p, false
	}
	n := func(i int) int { return int(binary.BigEndian.Uint16(msg[i:])) }
	p.id, p.flags = uint16(n(0)), uint16(n(2))
	at := 12
	for range n(4) {
		name, end := readName(msg, at)
		if end < 0 || end+4 > len(msg) {
			return p, false
		}
		p.questions = append(p.questions, rr{owner: name, kind: uint16(n(end)), class: uint16(n(end + 2))})
		at = end + 4
	}
	for range n(6) {
		name, end := readName(msg, at)
		if end < 0 || end+10 > len(msg) {
			return p, false
		}
		r := rr{owner: name, kind: uint16(n(end)), class: uint16(n(end + 2)), ttl: binary.BigEndian.Uint32(msg[end+4:])}
		at = end + 10 + n(end+8)
		if at > len(msg) {
			return p, false
		}
		r.data = msg[end+10 : at]
		if r.kind == 5 {
			r.target, _ = readName(msg, end+10)
		}
		p.answers = append(p.answers, r)
	}
	return p, true
}

func wireName(host string) string {
	return strings.ReplaceAll(host, ".", "\xff.") + "\xff."
}

// reachable returns the addresses at names that the CNAMEs of a message lead to
// from a name, and these names.
func (p *parsed) reachable(host string, kind uint16) (addrs map[netip.Addr]bool, names map[string]bool) {
	names, addrs = map[string]bool{wireName(host): true}, map[netip.Addr]bool{}
	for again := true; again; {
		again = false
		for _, r := range p.answers {
			if r.kind == 5 && r.class == 1 && names[r.owner] && !names[r.target] {
				names[r.target], again = true, true
			}
		}
	}
	for _, r := range p.answers {
		if a, ok := netip.AddrFromSlice(r.data); ok && r.kind == kind && r.class == 1 && names[r.owner] && (kind == 1) == a.Is4() {
			addrs[a] = true
		}
	}
	return addrs, names
}

// FuzzClientResponse: whatever comes back, each address stands in a record that the
// chain from the question leads to.
func FuzzClientResponse(f *testing.F) {
	name := dnsmessage.MustNewName("wWw.exaMple.com.")
	seed := func(kind dnsmessage.Type, change func(*dnsmessage.Message), records ...dnsmessage.Resource) {
		q := dnsmessage.Message{Header: dnsmessage.Header{ID: 4711}, Questions: []dnsmessage.Question{{Name: name, Type: kind, Class: 1}}}
		m := answerTo(q, records...)
		if change != nil {
			change(&m)
		}
		f.Add(packed(m)[0], kind == dnsmessage.TypeAAAA)
	}
	a, aaaa := dnsmessage.TypeA, dnsmessage.TypeAAAA
	seed(a, nil, address(host, "198.41.0.4", 60))
	seed(aaaa, nil, address(host, "2a00:1450::1", 60), address("other.example.com", "2a00:1450::66", 60))
	seed(a, nil, alias(host, "a.example.net", 60), alias("a.example.net", "b.example.net", 60), address("b.example.net", "198.41.0.4", 60))
	seed(a, nil, alias(host, "a.example.net", 60), alias("a.example.net", host, 60), address(host, "198.41.0.4", 60))
	seed(a, func(m *dnsmessage.Message) { m.RCode = 3; m.Authorities = []dnsmessage.Resource{soa(5)} }, address(host, "198.41.0.4", 60))
	seed(a, func(m *dnsmessage.Message) { m.Truncated = true }, address(host, "198.41.0.4", 60))
	seed(a, func(m *dnsmessage.Message) {
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(".")}
		h.SetEDNS0(1232, 0, false)
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}, address(host, "198.41.0.4", 60))
	f.Fuzz(func(t *testing.T, msg []byte, v6 bool) {
		q := question{id: 4711, name: name, kind: a}
		if v6 {
			q.kind = aaaa
		}
		r, err := q.read(msg)
		if err != nil {
			if !reflect.DeepEqual(r, reply{}) {
				t.Fatalf("an answer with an error: %+v, %v", r, err)
			}
			return
		}
		p, ok := parse(msg)
		if len(r.addrs) == 0 && len(r.aliases) == 0 {
			return
		}
		if !ok || p.id != 4711 || p.flags>>15 != 1 || p.flags>>9&1 != 0 || len(p.questions) != 1 ||
			p.questions[0].owner != wireName(host) || p.questions[0].kind != uint16(q.kind) || p.questions[0].class != 1 {
			t.Fatalf("believed % x", msg)
		}
		if len(r.addrs) > 0 && p.flags&0xf != 0 {
			t.Fatalf("addresses with the code %d", p.flags&0xf)
		}
		addrs, names := p.reachable(host, uint16(q.kind))
		for _, a := range r.addrs {
			if !addrs[a] {
				t.Fatalf("%v is not what % x says of %s", a, msg, host)
			}
		}
		for _, n := range r.aliases {
			if !names[wireName(n)] || checkHost(n) != nil {
				t.Fatalf("%s is no alias in % x", n, msg)
			}
		}
		if len(r.addrs) > maxAddrs || len(r.aliases) > maxChain || r.ttl < 0 || r.ttl > maxTTL {
			t.Fatalf("over a limit: %+v", r)
		}
	})
}

// FuzzServerAnswer: whatever a client sends, it never learns what its view denies,
// and what it gets can be read.
func FuzzServerAnswer(f *testing.F) {
	for _, name := range []string{"pypi.org", "search.internal", "db.internal", "mixed.example.com", "meta.example.com", "many.example.com", "evil.test", "none.example.com", "a b.example.com"} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeHTTPS} {
			f.Add(packed(ask(name, kind, 0))[0], true, uint8(0))
			f.Add(packed(ask(name, kind, 1232))[0], true, uint8(1))
			f.Add(packed(ask(name, kind, 4096))[0], false, uint8(0))
		}
	}
	clients := []string{"trainer", "server", "nobody"}
	v, table := newView(), newTable()
	// may returns all addresses that a client may learn of a name, ok=false if it may
	// not even learn whether it exists.
	special := map[netip.Addr]bool{}
	for _, a := range addrs("10.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe") {
		special[a] = true
	}
	may := func(client, name string) (out map[netip.Addr]bool, ok bool) {
		out = map[netip.Addr]bool{}
		for host, list := range v.private[client] {
			if wireName(host) == name {
				for _, a := range list {
					out[a] = true
				}
				return out, true
			}
		}
		for _, p := range v.permitted[client] {
			if name == wireName(p) || p[0] == '.' && strings.HasSuffix(name, "\xff."+wireName(p[1:])) {
				ok = true
			}
		}
		if !ok {
			return nil, false
		}
		for host, answer := range table {
			if wireName(host) == name {
				for _, a := range answer.Addrs {
					out[a] = !special[a]
				}
			}
		}
		return out, true
	}
	f.Fuzz(func(t *testing.T, msg []byte, udp bool, who uint8) {
		client := clients[int(who)%len(clients)]
		var record Query
		records := 0
		s := NewServer(ServerOptions{View: v, Resolver: table, Record: func(q Query) { record, records = q, records+1 }})
		out := s.Answer(t.Context(), client, msg, udp)
		if out == nil {
			if records != 0 || s.Stats().Dropped != 1 {
				t.Fatalf("no answer and %+v", record)
			}
			return
		}
		var again dnsmessage.Message
		if err := again.Unpack(out); err != nil {
			t.Fatalf("the answer % x to % x: %v", out, msg, err)
		}
		got, ok := parse(out)
		asked, askedOK := parse(msg)
		if !ok || got.flags>>15 != 1 || got.id != asked.id || udp && len(out) > payload {
			t.Fatalf("the answer % x to % x", out, msg)
		}
		if records != 1 || len(record.Name) > maxName || record.Client != client {
			t.Fatalf("the record %+v", record)
		}
		code := got.flags & 0xf
		if code != 0 && len(got.answers) > 0 {
			t.Fatalf("answers with the code %d", code)
		}
		if record.Verdict == Malformed {
			if len(got.answers) > 0 {
				t.Fatalf("answers to what is malformed: % x", msg)
			}
			return
		}
		if !askedOK || len(asked.questions) != 1 || len(got.questions) != 1 || got.questions[0].owner != asked.questions[0].owner {
			t.Fatalf("the answer % x to % x", out, msg)
		}
		q := asked.questions[0]
		addrs, known := may(client, q.owner)
		if !known && code != uint16(dnsmessage.RCodeRefused) {
			t.Fatalf("%s learns with code %d of %q, which is denied", client, code, q.owner)
		}
		if known && code != 0 && code != 3 && record.Sign == "" && !strings.HasPrefix(record.Why, "the address ") && record.Why != "not the name of a host" {
			t.Fatalf("%s is refused %q: %+v", client, q.owner, record)
		}
		for _, r := range got.answers {
			a, _ := netip.AddrFromSlice(r.data)
			if !addrs[a] || r.owner != q.owner || r.kind != q.kind || r.class != 1 || time.Duration(r.ttl)*time.Second > maxTTL {
				t.Fatalf("%s is told %v of %q", client, a, q.owner)
			}
		}
	})
}

// FuzzHost: what passes as a host name is one, and comes through a message as it is.
func FuzzHost(f *testing.F) {
	for _, name := range []string{"www.example.com", "127.1", "0x7f", "a..b", "_x.y", "é"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if checkHost(host) != nil {
			return
		}
		n, err := dnsmessage.NewName(host + ".")
		if err != nil {
			t.Fatal(err)
		}
		wire := appendName(nil, &n)
		if back, end := readName(wire, 0); end != len(wire) || back != wireName(host) {
			t.Fatalf("%q is %q", host, back)
		}
		if back, ok := canonical(&n); !ok || back != host {
			t.Fatalf("%q is %q", host, back)
		}
		if _, err := netip.ParseAddr(host); err == nil {
			t.Fatalf("%q is an address", host)
		}
	})
}
