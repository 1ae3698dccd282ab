package yamldoc

import (
	"strings"
	"testing"

	"bulkhead/core/source"
)

func read(text string, limits Limits) (docs []Value, d *source.Diagnostic) {
	for v, diag := range Documents("f.yaml", []byte(text), limits) {
		if diag != nil {
			return docs, diag
		}
		docs = append(docs, v)
	}
	return docs, nil
}

func TestValues(t *testing.T) {
	docs, d := read("a: 1\nb: [x, 'y', true, 2, null, 3.5, \"7\"]\nc: {d: e}\nn:\n---\n---\n{\"j\": \"k\"}\n", ManifestLimits)
	if d != nil {
		t.Fatal(d)
	}
	if len(docs) != 3 {
		t.Fatalf("%d documents, want 3 (one of them null)", len(docs))
	}
	v := docs[0]
	if n, ok := v.Get("a").Int(); !ok || n != 1 {
		t.Errorf("a = %v %v", n, ok)
	}
	var kinds []string
	for _, item := range v.Get("b").Items() {
		s := item.Kind().String()
		if item.IsString() {
			s = "string"
		}
		kinds = append(kinds, s)
	}
	if got := strings.Join(kinds, ","); got != "string,string,a scalar,a scalar,null,a scalar,string" {
		t.Errorf("kinds of b = %s", got)
	}
	if b, ok := v.Get("b").node.Content[2], true; b.Value != "true" || !ok {
		t.Error("bool lost")
	}
	if got := v.At("c", "d").Pos(); got != (source.Pos{File: "f.yaml", Line: 3, Col: 8}) {
		t.Errorf("position of c.d = %v", got)
	}
	if v.Get("n").Kind() != Null || v.Get("zz").Kind() != Missing || v.Get("zz").At("y").Kind() != Missing {
		t.Error("null or missing is wrong")
	}
	if s, _ := docs[2].Get("j").Text(); s != "k" {
		t.Errorf("JSON value = %q", s)
	}
}

func TestMergeAndAlias(t *testing.T) {
	docs, d := read("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nsame: *b\n", ManifestLimits)
	if d != nil {
		t.Fatal(d)
	}
	use := docs[0].Get("use")
	if y, _ := use.Get("y").Int(); y != 3 {
		t.Errorf("y = %d, want the map's own 3", y)
	}
	if x, _ := use.Get("x").Int(); x != 1 {
		t.Errorf("x = %d, want the merged 1", x)
	}
	n := 0
	for range use.Entries() {
		n++
	}
	if n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
	if docs[0].Get("same").Get("y").Kind() != Scalar {
		t.Error("alias not followed")
	}
}

func bomb(levels int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < levels; i++ {
		p := string(rune('0' + i - 1))
		b.WriteString("a" + string(rune('0'+i)) + ": &a" + string(rune('0'+i)) + " [" + strings.TrimSuffix(strings.Repeat("*a"+p+",", 9), ",") + "]\n")
	}
	return b.String()
}

func TestHostile(t *testing.T) {
	cases := []struct {
		name, text string
		limits     Limits
		rule       string
		line       int
	}{
		{"alias bomb", bomb(9), ManifestLimits, "too-many-values", 0},
		{"alias in a policy", "a: &x 1\nb: *x\n", PolicyLimits, "alias", 1},
		{"merge in a policy", "b:\n  <<: {x: 1}\n", PolicyLimits, "alias", 2},
		{"truncated", "a:\n  - b: [1, 2\n", ManifestLimits, "yaml", 0},
		{"cycle", "a: &a [*a]\n", ManifestLimits, "", 1},
		{"deep", strings.Repeat("[", 5000) + strings.Repeat("]", 5000), ManifestLimits, "", 1},
		{"duplicate key", "a: 1\nb: 2\na: 3\n", ManifestLimits, "", 3},
		{"tab", "a:\n\t- b\n", ManifestLimits, "yaml", 2},
		{"large", strings.Repeat("#", 65<<20), ManifestLimits, "too-large", 1},
		{"key is a list", "[1]: 2\n", ManifestLimits, "key", 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, d := read(c.text, c.limits)
			if d == nil {
				t.Fatal("accepted")
			}
			if c.rule != "" && d.Rule != c.rule {
				t.Errorf("rule %q, want %q (%s)", d.Rule, c.rule, d.Message)
			}
			if c.line != 0 && d.Pos.Line != c.line {
				t.Errorf("at %v, want line %d: %s", d.Pos, c.line, d.Message)
			}
			t.Logf("%s: %s", d.Pos, d.Message)
		})
	}
}

func FuzzDocuments(f *testing.F) {
	for _, s := range []string{"a: 1", "- a\n- b: {c: *d}", bomb(4), "a: &a [*a]", "{\"x\": [1,2,{}]}", "<<: [*a]", "? [a]\n: b"} {
		f.Add(s)
	}
	limits := Limits{Bytes: 1 << 16, Depth: 20, Nodes: 2000, Aliases: true}
	f.Fuzz(func(t *testing.T, text string) {
		for v, d := range Documents("f", []byte(text), limits) {
			if d != nil {
				if d.Pos.Line < 1 || d.Message == "" {
					t.Fatalf("diagnostic without place or text: %+v", d)
				}
				continue
			}
			n := 0
			visit(t, v, 0, &n)
		}
	})
}

// visit reads everything a reader could and checks that the limits bound it.
func visit(t *testing.T, v Value, depth int, n *int) {
	if *n++; *n > 4000 || depth > 50 {
		t.Fatal("a document exceeds its limits when read")
	}
	v.Text()
	v.Int()
	v.Bool()
	for _, i := range v.Items() {
		visit(t, i, depth+1, n)
	}
	for k, e := range v.Entries() {
		if k.Kind() != Scalar && k.Kind() != Null {
			t.Fatalf("key of kind %v", k.Kind())
		}
		visit(t, e, depth+1, n)
	}
}
