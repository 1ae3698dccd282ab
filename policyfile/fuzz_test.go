package policyfile

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
)

func seed(f *testing.F) {
	for _, dir := range []string{"testdata/ok", "testdata/err", "testdata/format"} {
		for _, files := range inputs(f, dir) {
			for _, file := range files {
				if len(file.Text) < 4000 {
					f.Add(file.Text)
				}
			}
		}
	}
}

// FuzzParse checks that no text makes the parser panic, that each policy it
// accepts can be written and read back, and that each error has a place.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, ds := parseDeclared([]File{{Name: "f.yaml", Text: text}})
		if (p == nil) != ds.HasErrors() {
			t.Fatalf("policy %v with diagnostics\n%s", p, render(ds))
		}
		for _, d := range ds {
			if d.Pos.Line < 1 || d.Pos.Col < 1 || d.Fix == "" || strings.ContainsFunc(d.String()+d.Fix, isHidden) {
				t.Errorf("bad diagnostic %q, fix %q", d, d.Fix)
			}
		}
		if p == nil {
			// What can be salvaged must be safe to look at.
			policy.Resolve(Salvage([]File{{Name: "f.yaml", Text: text}}), time.Unix(0, 0))
			return
		}
		again, err := Marshal(Draft{Policy: p})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		q := parsed(t, again)
		if at, same := equal(reflect.ValueOf(p), reflect.ValueOf(q), "policy"); !same {
			t.Fatalf("%s differs\n%s\n---\n%s", at, text, again)
		}
		if formatted, _ := Format("f.yaml", again); string(formatted) != string(again) {
			t.Fatalf("not formatted\n%s\n---\n%s", again, formatted)
		}
	})
}

// FuzzFormat checks the promises of Format on each policy.
func FuzzFormat(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, ds := Format("f.yaml", text); ds.HasErrors() {
			return
		}
		checkFormat(t, text)
	})
}
