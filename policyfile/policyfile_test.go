package policyfile

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

var update = flag.Bool("update", false, "rewrite the expected output")

// inputs returns the test policies below a folder: single files, and folders
// of files that belong together.
func inputs(t testing.TB, dir string) map[string][]File {
	t.Helper()
	all := map[string][]File{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		name, group := filepath.Base(path), strings.TrimSuffix(path, ".yaml")
		if filepath.Dir(path) != filepath.Clean(dir) {
			group = filepath.Dir(path)
		}
		all[group] = append(all[group], File{Name: name, Text: text})
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d inputs in %s: %v", len(all), dir, err)
	}
	return all
}

func render(ds source.Diagnostics) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintln(&b, d)
		for _, n := range d.Notes {
			fmt.Fprintf(&b, "  note: %s: %s\n", n.Pos, n.Text)
		}
		if d.Fix != "" {
			fmt.Fprintf(&b, "  fix: %s\n", d.Fix)
		}
	}
	return b.String()
}

func TestGoodPoliciesAreSilent(t *testing.T) {
	for name, files := range inputs(t, "testdata/ok") {
		if p, ds := Parse(files); p == nil || len(ds) > 0 {
			t.Errorf("%s:\n%s", name, render(ds))
		}
	}
}

func TestBadPoliciesAreExplained(t *testing.T) {
	all := inputs(t, "testdata/err")
	all["testdata/err/no-files"] = nil
	for name, files := range all {
		p, ds := Parse(files)
		if p != nil || !ds.HasErrors() {
			t.Errorf("%s: no error", name)
		}
		for _, d := range ds {
			if files != nil && (d.Pos.File == "" || d.Pos.Line == 0 || d.Pos.Col == 0) {
				t.Errorf("%s: no place: %s", name, d)
			}
			if d.Fix == "" || d.Rule == "" {
				t.Errorf("%s: no fix or rule: %s", name, d)
			}
		}
		got := render(ds)
		if *update {
			if err := os.WriteFile(name+".out", []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, _ := os.ReadFile(name + ".out"); got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

// parsed returns what a text declares, without the catalogue.
func parsed(t testing.TB, text []byte) *policy.Policy {
	t.Helper()
	p, ds := parseDeclared([]File{{Name: "f.yaml", Text: text}})
	if p == nil {
		t.Fatalf("%s\n%s", render(ds), text)
	}
	return p
}

func TestEveryPartIsRead(t *testing.T) {
	text, err := os.ReadFile("testdata/ok/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := parsed(t, text)
	if at, ok := filled(reflect.ValueOf(*p), "policy"); !ok {
		t.Errorf("%s is never set: the file must use every key, and the reader read it", at)
	}
	for where := range unusedKeys(t, text) {
		t.Errorf("the file does not use %s", where)
	}
	store := p.Workloads[0]
	if s := store.Serves[1]; s.Protocol.Value != "tcp" || s.Lo != 6000 || s.Hi != 6010 {
		t.Errorf("peers = %+v", s)
	}
	if s := store.Serves[3]; s.Lo != 7000 || s.Hi != 7010 {
		t.Errorf("bulk = %+v", s)
	}
	if n := len(store.Bindings); n != 3 || store.Bindings[1].Target.Value != "kubernetes" {
		t.Errorf("%d bindings, want two of kubernetes and one of aws", n)
	}
	if f, _ := store.Bindings[2].Field("account"); f.Text.Value != "012345678901" {
		t.Errorf("account = %q, want it as written", f.Text.Value)
	}
	if pos := p.Flows[1].Until.Pos; pos != (source.Pos{File: "f.yaml", Line: 43, Col: 12}) {
		t.Errorf("position of until = %v", pos)
	}
	if w := p.Flows[1].Why; !strings.HasSuffix(w.Because.Value, "to say about it, and none of it is the same as what was said before") {
		t.Errorf("because = %q", w.Because.Value)
	}
}

// unusedKeys yields the keys of the language that a text does not use.
func unusedKeys(t *testing.T, text []byte) map[string]bool {
	unused := map[string]bool{}
	for doc, d := range yamldoc.Documents("f", text, yamldoc.PolicyLimits) {
		if d != nil {
			t.Fatal(d)
		}
		eachKey(language, "", func(path string) { unused[path] = true })
		usedKeys(doc, language, "", func(path string) { delete(unused, path) })
	}
	return unused
}

func eachKey(s *shape, path string, do func(string)) {
	if s.record != nil {
		for _, k := range s.record.keys {
			do(path + "." + k.name)
			eachKey(k.shape, path+"."+k.name, do)
		}
	}
	if s.list != nil {
		eachKey(s.list, path, do)
	}
	if s.named != nil {
		eachKey(s.named.item, path, do)
	}
}

func usedKeys(v yamldoc.Value, s *shape, path string, do func(string)) {
	for k, val := range v.Entries() {
		name, _ := k.Text()
		if s.record != nil && s.record.key(name) != nil {
			do(path + "." + name)
			usedKeys(val, s.entry(name), path+"."+name, do)
		} else {
			usedKeys(val, s.entry(name), path, do)
		}
	}
	for _, item := range v.Items() {
		usedKeys(item, s.list, path, do)
	}
}

// filled reports whether each field of a value is set somewhere: for a list,
// in one of its items.
func filled(v reflect.Value, at string) (string, bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return at, false
		}
		return filled(v.Elem(), at)
	case reflect.Slice:
		if v.Len() == 0 || v.Type().Elem().Kind() != reflect.Struct || v.Type().Elem() == reflect.TypeFor[policy.Text]() {
			return at, v.Len() > 0
		}
		elem := v.Type().Elem()
		for i := range elem.NumField() {
			name := at + "." + elem.Field(i).Name
			if strings.HasSuffix(name, "Destinations.Builtin") || strings.HasSuffix(at, ".Map") {
				continue
			}
			where, ok := name, false
			for j := 0; j < v.Len() && !ok; j++ {
				where, ok = filled(v.Index(j).Field(i), name)
			}
			if !ok {
				return where, false
			}
		}
		return "", true
	case reflect.Struct:
		if _, isText := v.Interface().(policy.Text); isText {
			return at, v.Field(0).String() != ""
		}
		for i := range v.NumField() {
			if where, ok := filled(v.Field(i), at+"."+v.Type().Field(i).Name); !ok && v.Type().Field(i).IsExported() {
				return where, false
			}
		}
		return "", true
	}
	return at, !v.IsZero()
}

func TestFilesMergeByName(t *testing.T) {
	p, ds := Parse([]File{
		{"a.yaml", []byte("version: 1\nplatform: acme\nzones: {a: {role: data}}\nflows: [{from: x, to: y}]\ndns: kubernetes\n")},
		{"b.yaml", []byte("version: 1\nplatform: acme\nzones: {b: {role: data}}\nflows: [{from: y, to: z}]\ndns: kubernetes\n")},
	})
	if p == nil {
		t.Fatal(render(ds))
	}
	if len(p.Zones) != 2 || len(p.Flows) != 2 || p.Flows[1].From[0].Value != "y" || p.Platform.Pos.File != "a.yaml" {
		t.Errorf("merged to %+v", p)
	}
	if _, ds := Parse(nil); !ds.HasErrors() {
		t.Error("no files are a policy")
	}
}

func TestUserDestinationReplacesBuiltin(t *testing.T) {
	builtin := Catalogue()
	if len(builtin) == 0 || !builtin[0].Builtin {
		t.Fatalf("catalogue = %v", builtin)
	}
	name := builtin[0].Name.Value
	p, ds := Parse([]File{{"a.yaml", []byte("version: 1\ndestinations: {" + name + ": {hosts: [mine.acme.internal]}}\n")}})
	if p == nil {
		t.Fatal(render(ds))
	}
	found := 0
	for _, d := range p.Destinations {
		if d.Name.Value == name {
			found++
		}
	}
	if d := p.Destinations[0]; found != 1 || d.Builtin || len(d.Ports) > 0 || len(p.Destinations) != len(builtin) {
		t.Errorf("found %d of %s, first %+v, %d in all", found, name, d, len(p.Destinations))
	}
}

func TestCatalogueIsFormatted(t *testing.T) {
	got, ds := Format(catalogueName, catalogueText)
	if ds.HasErrors() || !strings.Contains(string(got), "destinations:") {
		t.Fatal(render(ds))
	}
	if string(got) != string(catalogueText) {
		t.Error("the catalogue is not in its canonical form: run the formatter over it")
	}
}
