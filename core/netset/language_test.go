package netset

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// allTexts are all strings over a tiny alphabet up to a length: the universe of the model.
func allTexts(alphabet string, upTo int) []string {
	texts := []string{""}
	for from := 0; upTo > 0; upTo-- {
		level := texts[from:]
		from = len(texts)
		for _, text := range level {
			for i := range len(alphabet) {
				texts = append(texts, text+alphabet[i:i+1])
			}
		}
	}
	return texts
}

var textUniverse = allTexts("ab/.", 6)

// model is a language next to a membership function that shares no code with it.
type model struct {
	language Language
	contains func(string) bool
	text     string
}

func drawPattern(t *rapid.T) model {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("ab/.")), 0, 4, -1).Draw(t, "text")
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		return model{Exact(text), func(s string) bool { return s == text }, "exact " + text}
	case 1:
		return model{Prefix(text), func(s string) bool { return strings.HasPrefix(s, text) }, "prefix " + text}
	case 2:
		return model{Suffix(text), func(s string) bool { return strings.HasSuffix(s, text) }, "suffix " + text}
	}
	sep := rapid.SampledFrom([]byte{'/', '.'}).Draw(t, "separator")
	segment := rapid.SampledFrom([]string{"", "a", "b", "ab", "*", "*", "**"})
	pattern := strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "segments"), string(sep))
	language, err := Segments(pattern, sep)
	if err != nil {
		t.Skip(err)
	}
	return model{language, func(s string) bool { return matches(pattern, s, sep) }, pattern}
}

// matches is a straightforward matcher of segment patterns, for comparison.
func matches(pattern, text string, sep byte) bool {
	var match func(patterns, segments []string) bool
	match = func(patterns, segments []string) bool {
		if len(patterns) == 0 || len(segments) == 0 {
			return len(patterns) == len(segments)
		}
		switch patterns[0] {
		case "*":
			return segments[0] != "" && match(patterns[1:], segments[1:])
		case "**":
			return segments[0] != "" && (match(patterns[1:], segments[1:]) || match(patterns, segments[1:]))
		}
		return patterns[0] == segments[0] && match(patterns[1:], segments[1:])
	}
	divider := string([]byte{sep})
	return match(strings.Split(pattern, divider), strings.Split(text, divider))
}

// drawLanguage combines patterns with random operations.
func drawLanguage(t *rapid.T, depth int) model {
	if depth == 0 || rapid.IntRange(0, 3).Draw(t, "leaf") == 0 {
		return drawPattern(t)
	}
	a, b := drawLanguage(t, depth-1), drawLanguage(t, depth-1)
	switch rapid.IntRange(0, 3).Draw(t, "operation") {
	case 0:
		return model{a.language.Union(b.language), func(s string) bool { return a.contains(s) || b.contains(s) },
			fmt.Sprintf("(%s | %s)", a.text, b.text)}
	case 1:
		return model{a.language.Intersect(b.language), func(s string) bool { return a.contains(s) && b.contains(s) },
			fmt.Sprintf("(%s & %s)", a.text, b.text)}
	case 2:
		return model{a.language.Subtract(b.language), func(s string) bool { return a.contains(s) && !b.contains(s) },
			fmt.Sprintf("(%s - %s)", a.text, b.text)}
	}
	return model{a.language.Complement(), func(s string) bool { return !a.contains(s) }, "not " + a.text}
}

func TestLanguageAgreesWithEnumeration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawLanguage(t, 2)
		for _, text := range textUniverse {
			if got, want := m.language.Contains(text), m.contains(text); got != want {
				t.Fatalf("%s: Contains(%q) = %v, want %v", m.text, text, got, want)
			}
		}
		checkExample(t, m)
		checkCanonicalForm(t, m.language)
	})
}

func checkExample(t *rapid.T, m model) {
	shortest := -1
	for _, text := range textUniverse {
		if m.contains(text) {
			shortest = len(text)
			break
		}
	}
	example, ok := m.language.Example()
	switch {
	case ok != !m.language.IsEmpty():
		t.Fatalf("%s: Example reports %v for a set of %d states", m.text, ok, m.language.States())
	case !ok && shortest >= 0:
		t.Fatalf("%s: no example, but it has a member of %d bytes", m.text, shortest)
	case ok && (!m.language.Contains(example) || !m.contains(example)):
		t.Fatalf("%s: example %q is not a member", m.text, example)
	case ok && shortest >= 0 && len(example) > shortest:
		t.Fatalf("%s: example %q is longer than %d bytes", m.text, example, shortest)
	}
}

// checkCanonicalForm minimises by a slow and obvious method, and compares the number of states.
func checkCanonicalForm(t *rapid.T, l Language) {
	if l.IsEmpty() {
		return
	}
	n := l.States()
	class := make([]int, n)
	for i := range n {
		if l.encoded.accepts(uint32(i)) {
			class[i] = 1
		}
	}
	for range n {
		numbers := map[string]int{}
		next := make([]int, n)
		for i := range n {
			key := fmt.Sprint(class[i], ":")
			for b := range 256 {
				key += fmt.Sprint(class[l.encoded.step(uint32(i), byte(b))], ",")
			}
			if _, ok := numbers[key]; !ok {
				numbers[key] = len(numbers)
			}
			next[i] = numbers[key]
		}
		class = next
		if len(numbers) == n {
			return
		}
	}
	t.Fatalf("%v: some of %d states are equivalent", l, n)
}

func TestLanguageLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawLanguage(t, 1).language, drawLanguage(t, 1).language, drawLanguage(t, 1).language
		equal := func(law string, x, y Language) {
			if x != y || !x.Equal(y) || x.Key() != y.Key() {
				t.Fatalf("%s: %v and %v differ for %v, %v, %v", law, x, y, a, b, c)
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
		equal("absorption", a.Union(a.Intersect(b)), a)
		equal("excluded middle", a.Union(a.Complement()), AnyString())
		equal("contradiction", a.Subtract(a), NoStrings())
		if a.SubsetOf(b) != a.Subtract(b).IsEmpty() {
			t.Fatalf("SubsetOf and Subtract disagree for %v and %v", a, b)
		}
		all, err := UnionOf([]Language{a, b, c, a})
		if err != nil {
			t.Fatal(err)
		}
		equal("union of a list", all, a.Union(b).Union(c))
	})
}

func TestConstructorsAreCanonical(t *testing.T) {
	texts := []string{"", "a", "\x00", "\x00\x00", "\xff", "\x00a", "a\x00", "aaaa", "abab", "\xffa\xff", "/a/b", "日本"}
	for _, text := range texts {
		pairs := map[string][2]Language{
			"exact":  {Exact(text), fromDFA(decoded(Exact(text)))},
			"prefix": {Prefix(text), fromDFA(decoded(Prefix(text)))},
			"both":   {Prefix(text).Intersect(Suffix(text)).Intersect(shorterThan(len(text) + 1)), Exact(text)},
		}
		for name, pair := range pairs {
			if pair[0] != pair[1] {
				t.Errorf("%s of %q: %x and %x", name, text, pair[0].Key(), pair[1].Key())
			}
		}
	}
	var zero Language
	if zero != NoStrings() || !zero.IsEmpty() || zero.Contains("") || zero.Complement() != AnyString() {
		t.Error("the zero Language is not the empty set")
	}
	if Prefix("") != AnyString() || Suffix("") != AnyString() {
		t.Error("the empty prefix or suffix is not everything")
	}
}

func decoded(l Language) dfa {
	var out dfa
	for i := range l.States() {
		state := dfaState{accepts: l.encoded.accepts(uint32(i))}
		for b := range 256 {
			state.edges = append(state.edges, dfaEdge{byte(b), l.encoded.step(uint32(i), byte(b))})
		}
		out = append(out, state)
	}
	return out
}

// shorterThan holds the strings of fewer than n bytes.
func shorterThan(n int) Language {
	out := make(dfa, n+1)
	for i := range out {
		out[i] = dfaState{accepts: i < n, edges: []dfaEdge{{255, uint32(min(i+1, n))}}}
	}
	return fromDFA(out)
}

func TestSegmentsHoldExactlyWhatTheyShow(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	tests := []struct {
		pattern  string
		sep      byte
		in, outs []string
	}{
		{"/a/*", '/', []string{"/a/b", "/a/..", "/a/\x00", "/a/é", "/a/" + long},
			[]string{"", "/", "/a", "/a/", "/a/b/", "/a//", "/a//b", "/a/b/c", "a/b", "//a/b", "/A/b", "/a/b\x2f", "/ab"}},
		{"/a/**", '/', []string{"/a/b", "/a/b/c", "/a/b/c/d", "/a/" + long + "/c"},
			[]string{"/a", "/a/", "/a//", "/a//b", "/a/b/", "/a/b//c", "/b/a/b"}},
		{"/**", '/', []string{"/a", "/a/b"}, []string{"/", "", "//", "/a/", "a"}},
		{"/*/x", '/', []string{"/a/x", "/x/x"}, []string{"//x", "/x", "/a/b/x", "/a/x/", "/a/xx"}},
		{"/", '/', []string{"/"}, []string{"", "//", "/a"}},
		{"/a/", '/', []string{"/a/"}, []string{"/a", "/a//"}},
		{"*.example.com", '.', []string{"x.example.com"},
			[]string{"example.com", ".example.com", "x.y.example.com", "xexample.com", "x.example.com."}},
		{"**.example.com", '.', []string{"x.example.com", "x.y.example.com", "example.com.example.com"},
			[]string{"example.com", ".example.com", "x..example.com", ".x.example.com", "badexample.com"}},
		{"**.*.com", '.', []string{"a.b.com", "a.b.c.com"}, []string{"b.com", "com"}},
		{"*", '.', []string{"a", "/"}, []string{"", ".", "a.b"}},
	}
	for _, tt := range tests {
		l, err := Segments(tt.pattern, tt.sep)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for _, text := range tt.in {
			if !l.Contains(text) {
				t.Errorf("%s does not hold %q", tt.pattern, shortened(text))
			}
		}
		for _, text := range tt.outs {
			if l.Contains(text) {
				t.Errorf("%s holds %q", tt.pattern, shortened(text))
			}
		}
	}
}

func TestSegmentsRefuseAmbiguousPatterns(t *testing.T) {
	tests := []struct{ pattern, want string }{
		{"", `pattern "": it must not be empty`},
		{"/a*", `pattern "/a*": segment "a*" mixes a wildcard with text: only whole segments may be * or **`},
		{"/***", `pattern "/***": segment "***" mixes a wildcard with text: only whole segments may be * or **`},
		{"/a/**/b", `pattern "/a/**/b": ** may only be the first or the last segment`},
		{strings.Repeat("/*", 9), `pattern "/*/*/*/*/*/*/*/*/*": it has 9 wildcard segments, the limit is 8`},
		{strings.Repeat("/a", 600), `pattern "` + strings.Repeat("/a", 30) + `...": it has 1200 bytes, the limit is 1024`},
	}
	for _, tt := range tests {
		if l, err := Segments(tt.pattern, '/'); err == nil || err.Error() != tt.want || !l.IsEmpty() {
			t.Errorf("Segments(%q): error %q, want %q", tt.pattern, fmt.Sprint(err), tt.want)
		}
	}
	if _, err := Segments("a", '*'); err == nil {
		t.Error("the wildcard as separator is accepted")
	}
	hard := "**." + strings.Repeat("a.aa.*.", 7) + strings.Repeat("a.aab.abab.", 80) + "c"
	if _, err := Segments(hard, '.'); err != nil && !strings.Contains(err.Error(), "use fewer") {
		t.Error(err)
	}
}

func TestUnionOfReportsTooManyStates(t *testing.T) {
	// A pattern asks for the same letter in segments i and i+4, so the union must remember four letters of 24 each.
	var parts []Language
	for i := range 4 {
		for letter := 'a'; letter < 'a'+24; letter++ {
			pattern := [8]string{"*", "*", "*", "*", "*", "*", "*", "*"}
			pattern[i], pattern[i+4] = string(letter), string(letter)
			l, err := Segments(strings.Join(pattern[:], "/"), '/')
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, l)
		}
	}
	l, err := UnionOf(parts)
	if err == nil || !strings.Contains(err.Error(), "union of 96 patterns: it needs more than 262144 automaton states") {
		t.Fatalf("got a set of %d states and error %v", l.States(), err)
	}
	if !l.IsEmpty() {
		t.Error("the error comes with a set")
	}
}

func TestNormalPathsHaveOneSpelling(t *testing.T) {
	l := NormalPaths()
	for _, path := range []string{"/", "/a", "/a/", "/a/b.c", "/...", "/.a", "/a;x=1", "/%20", "/%C3%A9", "/%3F%23", "/a..b",
		"/%7B%7D", "/..a", "/a:b@c"} {
		if !l.Contains(path) {
			t.Errorf("%q is not normal", path)
		}
	}
	for _, path := range []string{"", "a", "//", "/a//b", "/.", "/..", "/../a", "/a/./b", "/a/..", "/..;x/a", "/.;/a", "/%2e%2e/a",
		"/%2E", "/%2F", "/%2f", "/%5C", "/%41", "/%7E", "/%61", "/%00", "/%0A", "/%7F", "/%25", "/%252e", "/%3B", "/%", "/%2", "/%zz",
		"/%c3", "/a b", "/a?b", "/a#b", `/a\b`, "/é", "/a\x00", "/a\n"} {
		if l.Contains(path) {
			t.Errorf("%q is normal", path)
		}
	}
}

func TestLanguageText(t *testing.T) {
	segments := func(pattern string, sep byte) Language {
		l, err := Segments(pattern, sep)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	of := func(parts ...Language) Language {
		l, err := UnionOf(parts)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	many := make([]Language, 100)
	for i := range many {
		many[i] = Exact(fmt.Sprintf("/%03d", i))
	}
	tests := []struct {
		set  Language
		want string
	}{
		{NoStrings(), "nothing"},
		{AnyString(), "*"},
		{Exact(""), `""`},
		{of(Exact("/b"), Exact("/a"), Exact("a b"), Exact("*"), Exact("é")), `"*", /a, /b, "a b", "\u00e9"`},
		{Prefix("/x"), "/x*"},
		{Prefix("/x/"), "prefix /x/"},
		{Suffix("x"), "*x"},
		{Suffix(".example.com"), "suffix .example.com"},
		{segments("/features/*", '/'), "/features/*"},
		{segments("/features/**", '/'), "/features/**"},
		{segments("/models/*/files/**", '/'), "/models/*/files/**"},
		{segments("/*/b/*/d", '/'), "/*/b/*/d"},
		{segments("*.example.com", '.'), "*.example.com"},
		{segments("**.example.com", '.'), "**.example.com"},
		{segments("*", '.'), "any text without ."},
		{of(segments("/a/*", '/'), segments("/*/b", '/'), Exact("/healthz")), "/*/b, /a/*, /healthz"},
		{segments("/a/*", '/').Subtract(Exact("/a/b")), "/a/* (except /a/b)"},
		{segments("/**", '/').Subtract(segments("/admin/**", '/')), "/** (except /admin/**)"},
		{Exact("/a").Complement(), "* (except /a)"},
		{Prefix("/a").Complement(), "* (except /a*)"},
		{shorterThan(9), "and very many more"},
	}
	for _, tt := range tests {
		if got := tt.set.String(); got != tt.want && !strings.HasSuffix(got, tt.want) || !strings.Contains(got, tt.want) {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	if got := of(many...).String(); !strings.HasSuffix(got, "/023, and 76 more") {
		t.Errorf("a long list ends with %q", got)
	}
}

func FuzzSegments(f *testing.F) {
	for _, pattern := range []string{"/a/*", "/a/**", "**.example.com", "*", "**", "/*/b/*/**", "//", "/\xff/*"} {
		f.Add(pattern, "/a/b", byte('/'))
		f.Add(pattern, "x.example.com", byte('.'))
	}
	f.Fuzz(func(t *testing.T, pattern, text string, sep byte) {
		l, err := Segments(pattern, sep)
		if err != nil {
			if !l.IsEmpty() {
				t.Fatal("the error comes with a set")
			}
			return
		}
		if got, want := l.Contains(text), matches(pattern, text, sep); got != want {
			t.Fatalf("%q with %q: Contains(%q) = %v, want %v", pattern, sep, text, got, want)
		}
		example, ok := l.Example()
		if !ok || !matches(pattern, example, sep) {
			t.Fatalf("%q with %q: example %q, %v", pattern, sep, example, ok)
		}
		if l.Subtract(Exact(example)).Contains(example) || !Exact(example).SubsetOf(l) {
			t.Fatalf("%q with %q: example %q is and is not a member", pattern, sep, example)
		}
	})
}

func randomPaths(n, length int) []Language {
	source := rand.New(rand.NewPCG(7, 7))
	parts := make([]Language, n)
	for i := range parts {
		path := []byte("/")
		for len(path) < length {
			path = append(path, "abcdefghijklmnopqrstuvwxyz0123456789-_/"[source.IntN(39)])
		}
		parts[i] = Exact(string(path))
	}
	return parts
}

func BenchmarkUnionOf2000Paths(b *testing.B) {
	parts := randomPaths(2000, 60)
	for b.Loop() {
		if _, err := UnionOf(parts); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnionOf300WildcardPatterns(b *testing.B) {
	source := rand.New(rand.NewPCG(3, 3))
	var parts []Language
	for i := range 300 {
		pattern := []string{"", "api", fmt.Sprint("v", source.IntN(3)), fmt.Sprint("service", i%40), "*", fmt.Sprint("op", i), "**"}
		if i%3 == 0 {
			pattern[3], pattern[4] = "*", fmt.Sprint("kind", i%7)
		}
		l, err := Segments(strings.Join(pattern, "/"), '/')
		if err != nil {
			b.Fatal(err)
		}
		parts = append(parts, l)
	}
	var states int
	for b.Loop() {
		l, err := UnionOf(parts)
		if err != nil {
			b.Fatal(err)
		}
		states = l.States()
	}
	b.ReportMetric(float64(states), "states")
}

func BenchmarkLanguageContains(b *testing.B) {
	l, err := UnionOf(randomPaths(2000, 60))
	if err != nil {
		b.Fatal(err)
	}
	path, _ := l.Example()
	b.ReportAllocs()
	for b.Loop() {
		if !l.Contains(path) {
			b.Fatal("not a member")
		}
	}
}
