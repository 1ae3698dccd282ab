package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// view is what clients may know, in tables: by client and name. A permitted name
// that begins with a dot holds what is below it.
type view struct {
	private   map[string]map[string][]netip.Addr
	permitted map[string][]string
}

func (v *view) Private(client, name string) ([]netip.Addr, bool) {
	a, ok := v.private[client][name]
	return a, ok
}

func (v *view) Permitted(client, name string) bool {
	return slices.ContainsFunc(v.permitted[client], func(p string) bool {
		return p == name || p[0] == '.' && strings.HasSuffix(name, p)
	})
}

// believing is a view that believes one address of one name.
type believing struct{ *view }

func (believing) Believes(client, name string, a netip.Addr) bool {
	return client == "trainer" && name == "mixed.example.com" && a == netip.MustParseAddr("10.0.0.1")
}

func newView() *view {
	return &view{
		private: map[string]map[string][]netip.Addr{
			"trainer": {"search.internal": addrs("10.9.0.1", "fd00::1"), "v4.internal": addrs("10.9.0.2")},
			"server":  {"db.internal": addrs("10.9.0.3")},
		},
		permitted: map[string][]string{"trainer": {"pypi.org", ".example.com"}, "server": {"pypi.org"}},
	}
}

func newTable() Static {
	return Static{
		"pypi.org":             {Addrs: addrs("151.101.0.223", "2a04:4e42::223"), Aliases: []string{"cdn.example.net"}, TTL: 90*time.Second + 999},
		"mixed.example.com":    {Addrs: addrs("151.101.0.1", "10.0.0.1", "::ffff:10.0.0.1"), TTL: time.Minute},
		"meta.example.com":     {Addrs: addrs("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe")},
		"empty.example.com":    {},
		"evil.test":            {Addrs: addrs("151.101.0.66")},
		"db.internal":          {Addrs: addrs("151.101.0.67")},
		"v4only.example.com":   {Addrs: addrs("151.101.0.2")},
		"many.example.com":     {Addrs: manyAddrs(200), TTL: time.Minute},
		"half.big.example.com": {Addrs: addrs("10.0.0.1", "2a04:4e42::1")},
	}
}

func manyAddrs(n int) (out []netip.Addr) {
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{151, 101, byte(i / 250), byte(i % 250)}))
	}
	return out
}

// failing fails for one name, and knows the table for the others.
type failing struct{ Static }

func (f failing) Lookup(ctx context.Context, host string) (Answer, error) {
	if host == "broken.example.com" {
		return Answer{}, errors.New("dns: broken.example.com: no DNS server answered")
	}
	return f.Static.Lookup(ctx, host)
}

// records keeps the records of a server.
type records struct {
	mu   sync.Mutex
	list []Query
}

func (r *records) add(q Query) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, q)
}

func (r *records) last() Query {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list[len(r.list)-1]
}

func newServer(change ...func(*ServerOptions)) (*Server, *records) {
	r := &records{}
	o := ServerOptions{View: newView(), Resolver: failing{newTable()}, Record: r.add}
	for _, f := range change {
		f(&o)
	}
	return NewServer(o), r
}

// ask makes a query; size is that of EDNS, none if 0.
func ask(name string, kind dnsmessage.Type, size int) dnsmessage.Message {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if size > 0 {
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(".")}
		h.SetEDNS0(size, 0, true)
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 8, Data: []byte{0, 1, 24, 0, 192, 0, 2}}, {Code: 10, Data: make([]byte, 8)}}}}}
	}
	return m
}

func (s *Server) test(t testing.TB, client string, q dnsmessage.Message, udp bool) (m dnsmessage.Message) {
	t.Helper()
	b := s.Answer(t.Context(), client, packed(q)[0], udp)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("the answer % x: %v", b, err)
	}
	return m
}

func given(t testing.TB, m dnsmessage.Message) (out []netip.Addr) {
	t.Helper()
	for _, r := range m.Answers {
		if r.Header.Name != m.Questions[0].Name || r.Header.Type != m.Questions[0].Type {
			t.Errorf("a record of %v for the question %v", r.Header, m.Questions[0])
		}
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A))
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA))
		}
	}
	return out
}

// TestAnswer: who is told what.
func TestAnswer(t *testing.T) {
	const (
		a, aaaa = dnsmessage.TypeA, dnsmessage.TypeAAAA
		ok      = dnsmessage.RCodeSuccess
		refused = dnsmessage.RCodeRefused
		nx      = dnsmessage.RCodeNameError
	)
	for _, c := range []struct {
		client, name string
		kind         dnsmessage.Type
		code         dnsmessage.RCode
		addrs        []netip.Addr
		ttl          uint32
		verdict      string
	}{
		{"trainer", "search.internal", a, ok, addrs("10.9.0.1"), 5, Private},
		{"trainer", "Search.INTERNAL", aaaa, ok, addrs("fd00::1"), 5, Private},
		{"trainer", "v4.internal", aaaa, ok, nil, 0, Private},
		{"trainer", "search.internal", dnsmessage.TypeTXT, ok, nil, 0, Private},
		{"trainer", "search.internal", dnsmessage.TypeALL, ok, nil, 0, Private},
		{"server", "search.internal", a, refused, nil, 0, Refused},
		{"trainer", "db.internal", a, refused, nil, 0, Refused},
		{"", "search.internal", a, refused, nil, 0, Refused},
		{"nobody", "pypi.org", a, refused, nil, 0, Refused},
		{"trainer", "sub.search.internal", a, refused, nil, 0, Refused},

		{"trainer", "pypi.org", a, ok, addrs("151.101.0.223"), 90, Answered},
		{"server", "PyPI.org", aaaa, ok, addrs("2a04:4e42::223"), 90, Answered},
		{"trainer", "cdn.example.net", a, refused, nil, 0, Refused},
		{"trainer", "v4only.example.com", aaaa, ok, nil, 0, Answered},
		{"trainer", "empty.example.com", a, ok, nil, 0, Answered},
		{"trainer", "none.example.com", a, nx, nil, 0, Answered},
		{"trainer", "broken.example.com", a, dnsmessage.RCodeServerFailure, nil, 0, Failed},
		{"trainer", "pypi.org", dnsmessage.TypeHTTPS, ok, nil, 0, Answered},
		{"trainer", "pypi.org", dnsmessage.TypeSVCB, ok, nil, 0, Answered},
		{"trainer", "pypi.org", dnsmessage.TypeTXT, ok, nil, 0, Answered},
		{"trainer", "pypi.org", dnsmessage.TypeALL, ok, nil, 0, Answered},
		{"trainer", "pypi.org", dnsmessage.TypeAXFR, ok, nil, 0, Answered},
		{"trainer", "pypi.org", 10, ok, nil, 0, Answered},
		{"trainer", "evil.test", dnsmessage.TypeTXT, refused, nil, 0, Refused},
		{"trainer", "evil.test", a, refused, nil, 0, Refused},
		{"trainer", "xpypi.org", a, refused, nil, 0, Refused},
		{"trainer", "pypi.org.evil.test", a, refused, nil, 0, Refused},
		{"trainer", "example.com", a, refused, nil, 0, Refused},
		{"trainer", "pypi.org.svc.cluster.local", a, refused, nil, 0, Refused},
		{"trainer", "a b.example.com", a, refused, nil, 0, Refused},
		{"trainer", "*.example.com", a, refused, nil, 0, Refused},
		{"trainer", "1.0.0.127.in-addr.arpa", dnsmessage.TypePTR, refused, nil, 0, Refused},

		{"trainer", "mixed.example.com", a, ok, addrs("151.101.0.1"), 60, Answered},
		{"trainer", "mixed.example.com", aaaa, ok, nil, 0, Answered},
		{"trainer", "meta.example.com", a, refused, nil, 0, Refused},
		{"trainer", "meta.example.com", aaaa, refused, nil, 0, Refused},
		{"trainer", "half.big.example.com", a, ok, nil, 0, Answered},
	} {
		for _, udp := range []bool{true, false} {
			for _, edns := range []int{0, 1232} {
				s, r := newServer()
				q := ask(c.name, c.kind, edns)
				m := s.test(t, c.client, q, udp)
				what := fmt.Sprintf("%s %s %s edns=%d", c.client, c.name, typeText(c.kind), edns)
				if m.RCode != c.code || !reflect.DeepEqual(given(t, m), c.addrs) {
					t.Errorf("%s: %v %v, want %v %v", what, m.RCode, given(t, m), c.code, c.addrs)
				}
				if !m.Response || m.ID != 4711 || !m.RecursionDesired || !m.RecursionAvailable || m.Truncated || m.Questions[0] != q.Questions[0] || len(m.Authorities) > 0 {
					t.Errorf("%s: header %v of %v", what, m.Header, m.Questions)
				}
				for _, a := range m.Answers {
					if a.Header.TTL != c.ttl {
						t.Errorf("%s: TTL %d, want %d", what, a.Header.TTL, c.ttl)
					}
				}
				last := r.last()
				want := Query{Client: c.client, Name: strings.ToLower(c.name), Type: typeText(c.kind), Verdict: c.verdict, Answers: len(c.addrs), Transport: map[bool]string{true: "udp", false: "tcp"}[udp]}
				if strings.Contains(c.name, " ") {
					want.Name = `a\032b.example.com`
				}
				want.Why, want.Took, want.Sign = last.Why, last.Took, last.Sign
				if last != want || (c.verdict == Refused || c.verdict == Failed) && last.Why == "" || last.Sign != "" {
					t.Errorf("%s: record %+v, want %+v", what, last, want)
				}
				checkOPT(t, what, m, edns > 0, c.code == refused)
			}
		}
	}
}

// checkOPT checks that EDNS is spoken to who speaks it, with the reason of a
// refusal and nothing of what came.
func checkOPT(t *testing.T, what string, m dnsmessage.Message, edns, refused bool) {
	t.Helper()
	if !edns {
		if len(m.Additionals) > 0 {
			t.Errorf("%s: additionals for a client without EDNS: %v", what, m.Additionals)
		}
		return
	}
	if len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT || m.Additionals[0].Header.Class != 1232 || m.Additionals[0].Header.TTL != 0 {
		t.Fatalf("%s: additionals %v", what, m.Additionals)
	}
	options := m.Additionals[0].Body.(*dnsmessage.OPTResource).Options
	if !refused && len(options) == 0 {
		return
	}
	if len(options) != 1 || options[0].Code != 15 || !refused || options[0].Data[0] != 0 || options[0].Data[1] != 15 && options[0].Data[1] != 18 {
		t.Errorf("%s: options %v", what, options)
	}
}

// TestSecret: for who is no consumer a private name is like one that does not exist,
// to the byte.
func TestSecret(t *testing.T) {
	for _, client := range []string{"server", "nobody", ""} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeTXT} {
			s, _ := newServer()
			private := s.Answer(t.Context(), client, packed(ask("search.internal", kind, 1232))[0], true)
			none := s.Answer(t.Context(), client, packed(ask("serach.internal", kind, 1232))[0], true)
			if strings.Replace(string(private), "search", "serach", 1) != string(none) {
				t.Errorf("%s %v: % x\n% x", client, kind, private, none)
			}
		}
	}
}

// TestBelieves: a special-purpose address is given to whom the view says, and to
// nobody else.
func TestBelieves(t *testing.T) {
	s, _ := newServer(func(o *ServerOptions) { o.View = believing{newView()} })
	for name, want := range map[string][]netip.Addr{"mixed.example.com": addrs("151.101.0.1", "10.0.0.1"), "half.big.example.com": nil, "meta.example.com": nil} {
		if got := given(t, s.test(t, "trainer", ask(name, dnsmessage.TypeA, 0), true)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if n := s.Stats().Withheld; n != 1+1+3 {
		t.Errorf("%d addresses withheld", n)
	}
}

// TestSize: over UDP an answer has at most the size that the client takes, and
// never more than passes without fragments.
func TestSize(t *testing.T) {
	s, _ := newServer()
	for edns, limit := range map[int]int{0: 512, 100: 512, 512: 512, 1000: 1000, 1232: 1232, 4096: 1232, 65535: 1232} {
		q := packed(ask("many.example.com", dnsmessage.TypeA, edns))[0]
		b := s.Answer(t.Context(), "trainer", q, true)
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if len(b) > limit || len(b) < limit-16 || !m.Truncated {
			t.Errorf("edns %d: %d bytes, truncated %v", edns, len(b), m.Truncated)
		}
		m = s.test(t, "trainer", ask("many.example.com", dnsmessage.TypeA, edns), false)
		if m.Truncated || !reflect.DeepEqual(given(t, m), manyAddrs(200)) {
			t.Errorf("TCP: %d addresses, truncated %v", len(m.Answers), m.Truncated)
		}
	}
}

// TestMalformed: what is no query gets an error, or nothing.
func TestMalformed(t *testing.T) {
	const drop = dnsmessage.RCode(999)
	change := func(f func(*dnsmessage.Message)) []byte {
		m := ask("pypi.org", dnsmessage.TypeA, 1232)
		f(&m)
		return packed(m)[0]
	}
	good := change(func(*dnsmessage.Message) {})
	for _, c := range []struct {
		name string
		msg  []byte
		code dnsmessage.RCode
	}{
		{"empty", nil, drop},
		{"half a header", good[:11], drop},
		{"response", change(func(m *dnsmessage.Message) { m.Response = true }), drop},
		{"update", change(func(m *dnsmessage.Message) { m.OpCode = 5 }), dnsmessage.RCodeNotImplemented},
		{"no question", change(func(m *dnsmessage.Message) { m.Questions = nil }), dnsmessage.RCodeFormatError},
		{"two questions", change(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }), dnsmessage.RCodeFormatError},
		{"header only", good[:12], dnsmessage.RCodeFormatError},
		{"half a question", good[:20], dnsmessage.RCodeFormatError},
		{"half an OPT", good[:len(good)-3], dnsmessage.RCodeFormatError},
		{"class CH", change(func(m *dnsmessage.Message) { m.Questions[0].Class = 3 }), dnsmessage.RCodeNotImplemented},
		{"class ANY", change(func(m *dnsmessage.Message) { m.Questions[0].Class = 255 }), dnsmessage.RCodeNotImplemented},
		{"answers", change(func(m *dnsmessage.Message) { m.Answers = []dnsmessage.Resource{address("pypi.org", "198.41.0.4", 1)} }), dnsmessage.RCodeFormatError},
		{"authorities", change(func(m *dnsmessage.Message) { m.Authorities = []dnsmessage.Resource{soa(1)} }), dnsmessage.RCodeFormatError},
		{"two OPT", change(func(m *dnsmessage.Message) { m.Additionals = append(m.Additionals, m.Additionals[0]) }), dnsmessage.RCodeFormatError},
		{"EDNS 1", change(func(m *dnsmessage.Message) { m.Additionals[0].Header.TTL = 1 << 16 }), 0}, // BADVERS is 16
		{"long", append(good, make([]byte, maxQuery)...), dnsmessage.RCodeFormatError},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := newServer()
			out := s.Answer(t.Context(), "trainer", c.msg, true)
			if c.code == drop {
				if out != nil || s.Stats().Dropped != 1 {
					t.Errorf("an answer: % x", out)
				}
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(out); err != nil || m.RCode != c.code || len(m.Answers) > 0 || m.ID != 4711 || !m.Response {
				t.Errorf("%v, %v", m.GoString(), err)
			}
			if c.name == "EDNS 1" && m.Additionals[0].Header.TTL != 1<<24 {
				t.Errorf("not BADVERS: %v", m.Additionals[0].Header.GoString())
			}
			if got := s.Stats(); got.Malformed != 1 {
				t.Errorf("stats %+v", got)
			}
		})
	}
}
