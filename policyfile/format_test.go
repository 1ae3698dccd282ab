package policyfile

import (
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"bulkhead/internal/yamldoc"
)

// commentTexts returns the comments of a text in no particular order.
func commentTexts(t testing.TB, text []byte) []string {
	t.Helper()
	var all []string
	for v, d := range yamldoc.Documents("f", text, yamldoc.PolicyLimits) {
		if d != nil {
			t.Fatal(d)
		}
		for _, c := range commentsOf(string(text), v.Node()) {
			all = append(all, c.text)
		}
	}
	slices.Sort(all)
	return all
}

// checkComments holds the comments that were found against the text by another
// way: without them it must mean the same, and each # that is left must be
// part of a value.
func checkComments(t testing.TB, text []byte) {
	t.Helper()
	if strings.ContainsAny(string(text), "\\") {
		return // an escape can be a #
	}
	lines := strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n")
	for v := range yamldoc.Documents("f", text, yamldoc.PolicyLimits) {
		for _, c := range commentsOf(string(text), v.Node()) {
			row := []rune(lines[c.line-1])
			at := slices.Index(row, '#')
			for at >= 0 && !strings.HasPrefix(string(row[at:]), c.text) {
				at += 1 + slices.Index(row[at+1:], '#')
			}
			lines[c.line-1] = string(row[:at])
		}
	}
	stripped := strings.Join(lines, "\n")
	if at, same := equal(reflect.ValueOf(parsed(t, text)), reflect.ValueOf(parsed(t, []byte(stripped))), "policy"); !same {
		t.Fatalf("%s was taken for a comment\n%s\n---\n%s", at, text, stripped)
	}
	inValues := 0
	for v := range yamldoc.Documents("f", []byte(stripped), yamldoc.PolicyLimits) {
		var count func(n *yaml.Node)
		count = func(n *yaml.Node) {
			inValues += strings.Count(n.Value, "#")
			for _, c := range n.Content {
				count(c)
			}
		}
		count(v.Node())
	}
	if n := strings.Count(stripped, "#"); n != inValues {
		t.Fatalf("%d of %d # are in values; a comment was missed\n%s", inValues, n, stripped)
	}
}

// checkFormat formats a good text and checks the promises of Format.
func checkFormat(t testing.TB, text []byte) []byte {
	t.Helper()
	if _, ds := Format("f.yaml", text); !ds.HasErrors() {
		checkComments(t, text)
	}
	once, ds := Format("f.yaml", text)
	if ds.HasErrors() {
		t.Fatalf("%s\n%s", render(ds), text)
	}
	before, after := parsed(t, text), parsed(t, once)
	if at, same := equal(reflect.ValueOf(before), reflect.ValueOf(after), "policy"); !same {
		t.Fatalf("%s changed meaning\n--- before\n%s\n--- after\n%s", at, text, once)
	}
	if a, b := commentTexts(t, text), commentTexts(t, once); !slices.Equal(a, b) {
		t.Fatalf("comments changed\n%q\n%q\n--- before\n%s\n--- after\n%s", a, b, text, once)
	}
	twice, ds := Format("f.yaml", once)
	if string(twice) != string(once) {
		t.Fatalf("not stable %s\n--- text\n%s\n--- once\n%s\n--- twice\n%s", render(ds), text, once, twice)
	}
	return once
}

func TestFormatKeepsMeaningAndComments(t *testing.T) {
	for name, files := range inputs(t, "testdata/ok") {
		got := checkFormat(t, files[0].Text)
		for i, l := range strings.Split(string(got), "\n") {
			if n := len([]rune(l)); n > maxColumns && !strings.Contains(l, "#") {
				t.Errorf("%s: line %d has %d columns", name, i+1, n)
			}
			if strings.TrimRight(l, " ") != l {
				t.Errorf("%s: line %d ends in spaces", name, i+1)
			}
		}
		golden := strings.Replace(name, "testdata/ok", "testdata/format", 1) + ".yaml"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, _ := os.ReadFile(golden); string(got) != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", golden, got, want)
		}
	}
}

func TestFormatRefusesErrors(t *testing.T) {
	for name, files := range inputs(t, "testdata/err") {
		if len(files) > 1 || strings.HasSuffix(name, "/unknown-service") {
			continue // good files that do not go together, or not with what is built in
		}
		if out, ds := Format(files[0].Name, files[0].Text); out != nil || !ds.HasErrors() {
			t.Errorf("%s was formatted", name)
		}
	}
}

// pieces are what mutated puts into texts: whatever moves comments and values
// to where they were not before.
var pieces = []string{"# c1", " # c2\n", "\n# c3\n", "\n  # c4\n", "\n      # c5\n", "\n", "\n\n", " ", "  ", "\n   \n", "# c6\n\n# c7\n",
	"\n\n# c8\n\n  # c9\n", ",", " {a: {role: data}} ", "'x # y'", "\"x # y\"", "|\n  x # y\n", ">-\n    x\n\n    y # z\n", "[a, # c10\n b]",
	"\r\n", "\t", "- ", "\n- ", "...\n", "---\n", "because: it's # c11\n", ", because: a b\n c d\n"}

// mutated changes a text in a few places.
func mutated(r *rand.Rand, text string) string {
	for range 1 + r.IntN(4) {
		at := r.IntN(len(text) + 1)
		switch r.IntN(5) {
		case 0: // move a part
			end := min(len(text), at+r.IntN(30))
			part := text[at:end]
			text = text[:at] + text[end:]
			to := r.IntN(len(text) + 1)
			text = text[:to] + part + text[to:]
		case 1: // behind a line
			if nl := strings.IndexByte(text[at:], '\n'); nl >= 0 {
				at += nl
			}
			text = text[:at] + pieces[r.IntN(len(pieces))] + text[at:]
		case 2: // before a line
			if nl := strings.IndexByte(text[at:], '\n'); nl >= 0 {
				at += nl + 1
			}
			text = text[:at] + strings.Repeat(" ", r.IntN(8)) + "# own " + strconv.Itoa(r.IntN(9)) + "\n" + text[at:]
		default:
			text = text[:at] + pieces[r.IntN(len(pieces))] + text[at:]
		}
	}
	return text
}

func TestFormatSurvivesMutations(t *testing.T) {
	var texts []string
	for _, dir := range []string{"testdata/ok", "testdata/format"} {
		for _, files := range inputs(t, dir) {
			texts = append(texts, string(files[0].Text))
		}
	}
	slices.Sort(texts)
	rounds := 1500
	if n, err := strconv.Atoi(os.Getenv("ROUNDS")); err == nil {
		rounds = n
	}
	r := rand.New(rand.NewPCG(1, uint64(rounds)))
	good := 0
	for range rounds {
		text := []byte(mutated(r, texts[r.IntN(len(texts))]))
		if _, ds := Format("f.yaml", text); ds.HasErrors() {
			continue
		}
		good++
		checkFormat(t, text)
	}
	if good < rounds/10 {
		t.Errorf("only %d of %d texts were policies", good, rounds)
	}
}
