package yamltext

import (
	"bytes"
	"strings"
	"testing"

	"bulkhead/internal/yamldoc"
)

var hostile = []string{
	"", " ", "a", "yes", "No", "on", "y", "null", "~", "true", "1e3", "0x1F", "1_000", "12:30:45", "2026-01-01", "1.0", ".inf", "-", "--", "---", "...",
	"- a", "? a", ": a", "a: b", "#", " # x", "a #b", "'", `"`, `\`, `\n`, "\n", "a\nb: c", "a\r\nb", "\u0085", "\u2028", "\ufeff", "\u202e", "\x00", "\x7f",
	"é", "日本", "😀", "{}", "[a]", "&a", "*a", "!!str", "%YAML", "@a", "`", "<<", "=", "10.0.0.0/8", "::/0", strings.Repeat("k", 2000), "\t", "a\t",
}

func TestEveryStringIsReadBackEqual(t *testing.T) {
	for _, s := range hostile {
		checkReadBack(t, s, "k", "because")
		checkReadBack(t, "v", s, s)
	}
}

func TestTextIsReadable(t *testing.T) {
	doc := Map(
		At("kind", String("Thing")),
		At("empty", Map()),
		At("none", List()),
		At("rules", List(
			Map(At("to", List(Map(At("a", Int(1)), At("b", Strings("x", "yes"))))), At("ports", List(Int(80)))).Above("first rule", "because: it\nmust"),
			Map(At("c", String("10.0.0.0/8").Above("inner"))),
			List(String("p"), List(String("q"))),
		)),
	).Above("Head")
	const want = `# Head
kind: Thing
empty: {}
none: []
rules:
  # first rule
  # because: it\nmust
  - to:
      - a: 1
        b:
          - x
          - "yes"
    ports:
      - 80
  -
    # inner
    c: 10.0.0.0/8
  - - p
    - - q
---
{}
`
	got := Documents(doc, Map())
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if bytes.Contains(Plain(doc), []byte("#")) {
		t.Errorf("Plain wrote a comment:\n%s", Plain(doc))
	}
}

// FuzzEmit writes any three texts as a value, a key and a comment, at every
// place where they can stand, and reads them back.
func FuzzEmit(f *testing.F) {
	for i, s := range hostile {
		f.Add(s, hostile[(i+1)%len(hostile)], hostile[(i+2)%len(hostile)])
	}
	f.Fuzz(checkReadBack)
}

func checkReadBack(t *testing.T, value, key, comment string) {
	t.Helper()
	value, key = strings.ToValidUTF8(value, "\ufffd"), strings.ToValidUTF8(key, "\ufffd")
	inner := Map(At(key, String(value).Above(comment)))
	text := Documents(
		Map(At("x"+key, List(inner.Above(comment), String(value), Strings(value).Above(comment))), At("z"+key, inner)).Above(comment, value),
		String(value).Above(comment))
	var docs []yamldoc.Value
	for v, d := range yamldoc.Documents("t", text, yamldoc.PolicyLimits) {
		if d != nil {
			t.Fatalf("%s in\n%s", d, text)
		}
		docs = append(docs, v)
	}
	if len(docs) != 2 {
		t.Fatalf("read %d documents, wrote 2:\n%s", len(docs), text)
	}
	same := func(v yamldoc.Value) {
		t.Helper()
		got, ok := v.Text()
		if !ok || got != value || !v.IsString() {
			t.Fatalf("wrote %q, read %q (%v) in\n%s", value, got, v.Kind(), text)
		}
	}
	list := docs[0].Get("x" + key)
	if list.Len() != 3 || docs[0].Len() != 2 {
		t.Fatalf("the shape changed:\n%s", text)
	}
	for i, item := range list.Items() {
		switch i {
		case 0:
			same(item.Get(key))
		case 1:
			same(item)
		case 2:
			for _, v := range item.Items() {
				same(v)
			}
		}
	}
	same(docs[0].At("z"+key, key))
	same(docs[1])
}
