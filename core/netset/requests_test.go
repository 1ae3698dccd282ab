package netset

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// requestUniverse is small enough to enumerate and has methods, hosts and paths that no pattern names.
var requestUniverse = func() []Request {
	var out []Request
	for _, method := range []string{"", "GET", "HEAD", "PUT", "OTHER"} {
		for _, host := range allTexts("a.", 3) {
			for _, path := range allTexts("/a", 4) {
				out = append(out, Request{method, host, path})
			}
		}
	}
	return out
}()

type requestsModel struct {
	requests Requests
	contains func(Request) bool
}

func drawRequests(t *rapid.T, depth int) requestsModel {
	if depth == 0 || rapid.IntRange(0, 3).Draw(t, "leaf") == 0 {
		return drawRectangle(t)
	}
	a, b := drawRequests(t, depth-1), drawRequests(t, depth-1)
	switch rapid.IntRange(0, 3).Draw(t, "operation") {
	case 0:
		return requestsModel{a.requests.Union(b.requests), func(q Request) bool { return a.contains(q) || b.contains(q) }}
	case 1:
		return requestsModel{a.requests.Intersect(b.requests), func(q Request) bool { return a.contains(q) && b.contains(q) }}
	case 2:
		return requestsModel{a.requests.Subtract(b.requests), func(q Request) bool { return a.contains(q) && !b.contains(q) }}
	}
	return requestsModel{a.requests.Complement(), func(q Request) bool { return !a.contains(q) }}
}

func drawRectangle(t *rapid.T) requestsModel {
	methods := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"GET", "HEAD", "PUT"}), 0, 3, rapid.ID).Draw(t, "methods")
	side := func(label string, sep byte) model {
		pattern := rapid.SampledFrom([]string{"any", "", "a", "Xa", "X", "a*", "a**", "**a"}).Draw(t, label)
		var l Language
		contains := func(s string) bool { return matches(pattern, s, sep) }
		switch pattern {
		case "any":
			return model{AnyString(), func(string) bool { return true }, pattern}
		case "":
			return model{NoStrings(), func(string) bool { return false }, pattern}
		case "a":
			l = Exact("a")
		case "Xa", "X":
			text := strings.ReplaceAll(pattern, "X", string(sep))
			return model{Prefix(text), func(s string) bool { return strings.HasPrefix(s, text) }, text}
		default:
			pattern = strings.Replace(pattern, "a*", "a"+string(sep)+"*", 1)
			pattern = strings.Replace(pattern, "*a", "*"+string(sep)+"a", 1)
			var err error
			if l, err = Segments(pattern, sep); err != nil {
				t.Fatal(err)
			}
		}
		return model{l, contains, pattern}
	}
	hosts, paths := side("hosts", '.'), side("paths", '/')
	r := RequestsOf(Pattern{Methods: methods, Hosts: hosts.language, Paths: paths.language})
	return requestsModel{r, func(q Request) bool {
		return (len(methods) == 0 || slices.Contains(methods, q.Method)) && hosts.contains(q.Host) && paths.contains(q.Path)
	}}
}

func TestRequestsAgreeWithEnumeration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawRequests(t, 3)
		found := false
		for _, q := range requestUniverse {
			got, want := m.requests.Contains(q), m.contains(q)
			if got != want {
				t.Fatalf("%v: Contains(%+v) = %v, want %v", m.requests, q, got, want)
			}
			found = found || want
		}
		example, ok := m.requests.Example()
		if ok == m.requests.IsEmpty() || found && !ok || ok && !(m.contains(example) && m.requests.Contains(example)) {
			t.Fatalf("%v: example %+v, %v", m.requests, example, ok)
		}
	})
}

func TestRequestsLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawRequests(t, 1).requests, drawRequests(t, 1).requests, drawRequests(t, 1).requests
		equal := func(law string, x, y Requests) {
			if !x.Equal(y) || x.Key() != y.Key() || x.States() != y.States() {
				t.Fatalf("%s: %v and %v differ for %v; %v; %v", law, x, y, a, b, c)
			}
		}
		if x, y := a.Union(b).String(), b.Union(a).String(); x != y {
			t.Fatalf("one set is written %s and %s", x, y)
		}
		equal("De Morgan", a.Union(b).Complement(), a.Complement().Intersect(b.Complement()))
		equal("split", a.Subtract(b).Union(a.Intersect(b)), a)
		equal("double complement", a.Complement().Complement(), a)
		equal("associativity", a.Union(b).Union(c), a.Union(b.Union(c)))
		equal("distribution", a.Intersect(b.Union(c)), a.Intersect(b).Union(a.Intersect(c)))
		equal("excluded middle", a.Union(a.Complement()), AnyRequest())
		equal("contradiction", a.Subtract(a), Requests{})
		if a.SubsetOf(b) != a.Subtract(b).IsEmpty() {
			t.Fatalf("SubsetOf and Subtract disagree for %v and %v", a, b)
		}
		if a.Equal(b) != (a.Key() == b.Key()) || a.Equal(b) != (a.SubsetOf(b) && b.SubsetOf(a)) {
			t.Fatalf("Equal, Key and SubsetOf disagree for %v and %v", a, b)
		}
		all, err := UnionOfRequests([]Requests{a, b, c, b})
		if err != nil {
			t.Fatal(err)
		}
		equal("union of a list", all, a.Union(b).Union(c))
	})
}

func mustParse(t testing.TB, text string) Requests {
	t.Helper()
	r, err := ParseRequests(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRequestsText(t *testing.T) {
	onHost := RequestsOf(Pattern{Hosts: Exact("a.example"), Paths: Prefix("/x")})
	put := RequestsOf(Pattern{Methods: []string{"PUT"}, Hosts: AnyString(), Paths: AnyString()})
	tests := []struct {
		set  Requests
		want string
	}{
		{Requests{}, "no request"},
		{AnyRequest(), "any request"},
		{mustParse(t, "*"), "any request"},
		{mustParse(t, "GET"), "GET"},
		{mustParse(t, "HEAD,GET /features/*"), "GET,HEAD /features/*"},
		{mustParse(t, "* /healthz"), "any method /healthz"},
		{mustParse(t, "GET /a").Union(mustParse(t, "POST /b")).Union(mustParse(t, "GET /c")), "GET /a, /c | POST /b"},
		{onHost, "any method on host a.example path /x*"},
		{onHost.Subtract(put), "any method except PUT on host a.example path /x*"},
		{put.Complement(), "any method except PUT"},
		{RequestsOf(Pattern{Methods: []string{"GET"}, Hosts: Exact("a"), Paths: AnyString()}), "GET on host a"},
		{mustParse(t, "GET /features/*").Subtract(mustParse(t, "GET /features/1")), "GET /features/* (except /features/1)"},
	}
	for _, tt := range tests {
		if got := tt.set.String(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestZeroLanguageInPatternIsNoRequest(t *testing.T) {
	for _, p := range []Pattern{{}, {Hosts: AnyString()}, {Paths: AnyString()}} {
		if r := RequestsOf(p); !r.IsEmpty() || !r.Equal(Requests{}) || r.Contains(Request{"GET", "a", "/"}) {
			t.Errorf("%+v is %v", p, r)
		}
	}
}

func TestExampleCanBeSent(t *testing.T) {
	tests := []struct {
		set  Requests
		want Request
	}{
		{AnyRequest(), Request{"GET", "", "/"}},
		{mustParse(t, "GET /").Complement(), Request{"GET", "", "/a"}},
		{mustParse(t, "GET").Complement(), Request{"POST", "", "/"}},
		{mustParse(t, "PURGE /cache/**"), Request{"PURGE", "", "/cache/a"}},
		{mustParse(t, strings.Join(commonMethods, ",")+",ANY").Complement(), Request{"ANYX", "", "/"}},
	}
	for _, tt := range tests {
		if got, ok := tt.set.Example(); got != tt.want || !ok {
			t.Errorf("%v: example %+v, want %+v", tt.set, got, tt.want)
		}
	}
}

func TestParsedRequestsHoldExactlyWhatTheySay(t *testing.T) {
	tests := []struct {
		text     string
		in, outs []Request
	}{
		{"GET /a/b", []Request{{"GET", "", "/a/b"}, {"GET", "x", "/a/b"}}, []Request{{"GET", "", "/a/b/"}, {"GET", "", "/a//b"},
			{"GET", "", "//a/b"}, {"GET", "", "/a/b?x"}, {"get", "", "/a/b"}, {"HEAD", "", "/a/b"}, {"GET", "", "/a%2fb"},
			{"GET", "", "/a/b\x00"}, {"GET", "", ""}, {"", "", "/a/b"}, {"GET,HEAD", "", "/a/b"}, {"GET ", "", "/a/b"}}},
		{"  GET,HEAD   /models/**  ", []Request{{"HEAD", "", "/models/a/b"}},
			[]Request{{"GET", "", "/models"}, {"GET", "", "/models/"}, {"GET", "", "/models/a/"}, {"POST", "", "/models/a"}}},
		{"* /healthz", []Request{{"GET", "", "/healthz"}, {"ANY", "", "/healthz"}, {"", "", "/healthz"}},
			[]Request{{"GET", "", "/healthz/"}, {"*", "", "/"}}},
		{"GET", []Request{{"GET", "", ""}, {"GET", "", "*"}, {"GET", "", "/\xff"}}, []Request{{"HEAD", "", "/"}}},
		{"GET /a/", []Request{{"GET", "", "/a/"}}, []Request{{"GET", "", "/a"}, {"GET", "", "/a//"}}},
	}
	for _, tt := range tests {
		r := mustParse(t, tt.text)
		for _, q := range tt.in {
			if !r.Contains(q) {
				t.Errorf("%s does not hold %q", tt.text, q)
			}
		}
		for _, q := range tt.outs {
			if r.Contains(q) {
				t.Errorf("%s holds %q", tt.text, q)
			}
		}
	}
}

func TestParseRequestsRefuses(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "names no method"},
		{"   ", "names no method"},
		{"/a", "starts with a path"},
		{"get /a", "lower-case letters: methods are case-sensitive, write GET"},
		{"GET, HEAD /a", "a method is empty"},
		{"GET,GET /a", "method GET is listed twice"},
		{"*,GET /a", "mixes * with text"},
		{"G(T /a", `the character '('`},
		{"GÉT /a", "the character"},
		{"GET\t/a", `the character '\t'`},
		{"GET a", `path "a" does not start with /: write /a`},
		{"OPTIONS *", "does not start with /"},
		{"GET /a /b", "has a space"},
		{"GET /a%2fb", "comparing encodings lets requests around the rule"},
		{"GET /a/../b", `has a ".." segment`},
		{"GET /a/..", `has a ".." segment`},
		{"GET /./a", `has a "." segment`},
		{"GET /..;x/a", `has a ".." segment`},
		{"GET //a", "empty segment"},
		{"GET /a//", "empty segment"},
		{"GET /a?b", "query is not part of the path"},
		{"GET /a#b", "fragment"},
		{`GET /a\b`, "some servers read it as /"},
		{"GET /a\x01", `control character '\x01'`},
		{"GET /é", "outside ASCII"},
		{"GET /users/{id}", `the character '{': write *`},
		{"GET /a*", "only whole segments may be * or **"},
		{"GET /**/a", "** may only be the first or the last segment"},
		{"GET /" + strings.Repeat("a", 2000), "the limit is 1024"},
	}
	for _, tt := range tests {
		r, err := ParseRequests(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "request ") {
			t.Errorf("ParseRequests(%q): error %q, want %q", tt.text, fmt.Sprint(err), tt.want)
		}
		if !r.IsEmpty() {
			t.Errorf("ParseRequests(%q): the error comes with %v", tt.text, r)
		}
	}
}

func TestUnionOfRequestsReportsTooManyHostGroups(t *testing.T) {
	var parts []Requests
	for i := range 14 { // each host pattern is independent of the others: 2^14 groups
		labels := strings.Split(strings.Repeat("*.", 13)+"*", ".")
		labels[i] = "a"
		hosts := AnyString()
		for k, label := range labels { // more wildcards than a pattern may have
			one := labelAt(k, label)
			hosts = hosts.Intersect(one)
		}
		parts = append(parts, RequestsOf(Pattern{Hosts: hosts, Paths: Exact(fmt.Sprint("/", i))}))
	}
	if _, err := UnionOfRequests(parts); err == nil || !strings.Contains(err.Error(), "more than 4096 ways") {
		t.Errorf("error %v", err)
	}
}

// labelAt holds the strings that have the byte text[0] at one place, or any if text is a star.
func labelAt(place int, text string) Language {
	if text == "*" {
		return AnyString()
	}
	states := make(dfa, place+3) // the last two refuse and accept everything
	refuse, accept := uint32(place+1), uint32(place+2)
	for i := range place {
		states[i].edges = []dfaEdge{{255, uint32(i + 1)}}
	}
	states[place].edges = []dfaEdge{{text[0] - 1, refuse}, {text[0], accept}, {255, refuse}}
	states[refuse].edges = []dfaEdge{{255, refuse}}
	states[accept] = dfaState{true, []dfaEdge{{255, accept}}}
	return fromDFA(states)
}

func FuzzParseRequests(f *testing.F) {
	for _, text := range []string{"GET /features/1", "POST /v1/chat/*", "GET,HEAD /models/**", "* /healthz", "GET", "* /"} {
		f.Add(text, "GET", "/features/1")
		f.Add(text, "HEAD", "/models/../a")
	}
	f.Fuzz(func(t *testing.T, text, method, path string) {
		r, err := ParseRequests(text)
		if err != nil {
			if !r.IsEmpty() {
				t.Fatal("the error comes with a set")
			}
			return
		}
		fields := strings.Fields(text)
		want := fields[0] == "*" || slices.Contains(strings.Split(fields[0], ","), method)
		if len(fields) > 1 {
			want = want && matches(fields[1], path, '/')
			if strings.ContainsAny(fields[1], "%?#\\ \x00") || strings.Contains(fields[1]+"/", "/../") {
				t.Fatalf("%q is accepted", text)
			}
		}
		if got := r.Contains(Request{method, "", path}); got != want {
			t.Fatalf("%q: Contains(%q %q) = %v, want %v", text, method, path, got, want)
		}
		if example, ok := r.Example(); !ok || !r.Contains(example) {
			t.Fatalf("%q: example %q, %v", text, example, ok)
		}
		if again := r.Complement().Complement(); again.Key() != r.Key() || r.String() == "" {
			t.Fatalf("%q: complement twice is %v", text, again)
		}
	})
}

func BenchmarkUnionOfRequests2000(b *testing.B) {
	var parts []Requests
	for i, paths := range randomPaths(2000, 60) {
		methods := []string{"GET", "HEAD"}
		if i%4 == 0 {
			methods = []string{"POST"}
		}
		parts = append(parts, RequestsOf(Pattern{Methods: methods, Hosts: AnyString(), Paths: paths}))
	}
	for b.Loop() {
		if _, err := UnionOfRequests(parts); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRequestsContains(b *testing.B) {
	r := mustParse(b, "GET /v1/models/*").Union(mustParse(b, "POST /v1/chat/completions")).Union(mustParse(b, "* /healthz"))
	q := Request{"POST", "llm.serving", "/v1/chat/completions"}
	b.ReportAllocs()
	for b.Loop() {
		if !r.Contains(q) {
			b.Fatal("not a member")
		}
	}
}
