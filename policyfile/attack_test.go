package policyfile

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestTruncatedPoliciesAreErrorsOrPolicies(t *testing.T) {
	text, err := os.ReadFile("testdata/ok/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		if i%3 != 0 {
			continue
		}
		p, ds := parseDeclared([]File{{"f.yaml", text[:i]}})
		if (p == nil) != ds.HasErrors() {
			t.Fatalf("at %d: %v\n%s", i, p, render(ds))
		}
	}
}

// TestEveryValueOfEveryOtherType puts each kind of value at each place.
func TestEveryValueOfEveryOtherType(t *testing.T) {
	text, err := os.ReadFile("testdata/format/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		for _, value := range []string{"1", "-1", "1.5", "true", "~", "", "[]", "{}", "[[]]", "{a: {a: {a: a}}}", `""`, `"\0"`, "&a x", "*a",
			"!!binary aa==", "2027-02-30", strings.Repeat("[", 50), "a b", "../..", "0x50", "а"} {
			key, _, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			changed := strings.Join(append(append(append([]string{}, lines[:i]...), key+": "+value), lines[i+1:]...), "\n")
			p, ds := parseDeclared([]File{{"f.yaml", []byte(changed)}})
			if (p == nil) != ds.HasErrors() {
				t.Fatalf("%s: %s\n%s", line, value, render(ds))
			}
			if p != nil {
				checkFormat(t, []byte(changed))
			}
		}
	}
}

func TestHugeTextsAreRefused(t *testing.T) {
	for name, text := range map[string][]byte{
		"100 MiB":       bytes.Repeat([]byte("a"), 100<<20),
		"wide":          []byte("version: 1\ntests: [" + strings.Repeat("1,", 100_000) + "]\n"),
		"deep":          []byte("version: 1\ntests: " + strings.Repeat("[", 1_000_000)),
		"hidden":        bytes.Repeat([]byte{0}, 3<<20),
		"keys":          []byte("version: 1\n" + strings.Repeat("a: b\n", 100_000)),
		"long key":      []byte("version: 1\n" + strings.Repeat("k", 3<<20) + ": 1\n"),
		"long name":     []byte("version: 1\nplatform: " + strings.Repeat("k", 3<<20) + "\n"),
		"long word":     []byte("version: 1\nzones: {a: {role: " + strings.Repeat("k", 3<<20) + "}}\n"),
		"long number":   []byte("version: 1\nplatform: " + strings.Repeat("1", 3<<20) + "\n"),
		"long tag":      []byte("version: 1\nplatform: !" + strings.Repeat("a", 3<<20) + " x\n"),
		"long swap":     []byte("version: 1\nworkloads: {w: {zone: a, serves: {a: " + strings.Repeat("k", 3<<20) + "/http}}}\n"),
		"documents":     []byte(strings.Repeat("---\n{}\n", 60_000)),
		"all duplicate": []byte("version: 1\nzones:\n" + strings.Repeat("  a: {role: data}\n", 50_000)),
	} {
		p, ds := Parse([]File{{"f.yaml", text}})
		if p != nil || len(ds) == 0 || len(ds) > maxDiagnostics+1 {
			t.Errorf("%s: %d diagnostics", name, len(ds))
		}
		if size := len(render(ds)); size > 100_000 {
			t.Errorf("%s: the report has %d bytes", name, size)
		}
	}
}

func TestLargePolicyIsReadAndFormatted(t *testing.T) {
	text := large(1_000)
	if out := checkFormat(t, text); len(out) < len(text) {
		t.Errorf("formatting %d bytes gave %d", len(text), len(out))
	}
}
