package policyfile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEveryMessageHasAnExample reads the messages out of the source and looks
// for each of them, and for each rule, in the expected output.
func TestEveryMessageHasAnExample(t *testing.T) {
	var examples strings.Builder
	outs, err := filepath.Glob("testdata/err/*.out")
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range outs {
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		examples.Write(text)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages(file) {
			found++
			if m == "%s" || m == "%s: %s" {
				continue // wraps a message that is checked by itself
			}
			pattern := regexp.MustCompile(`%[a-zA-Z]|%0[0-9][a-z]`).ReplaceAllString(regexp.QuoteMeta(m), ".*")
			if !regexp.MustCompile(`error: .*` + pattern + `.* \[`).MatchString(examples.String()) {
				t.Errorf("%s: no example of %q", name, m)
			}
		}
		for _, rule := range constants(file) {
			if !strings.Contains(examples.String(), "["+rule+"]") {
				t.Errorf("no example of rule %s", rule)
			}
		}
	}
	if found < 40 {
		t.Errorf("found only %d messages: the test looks in the wrong place", found)
	}
}

// messages returns the formats of the calls that make messages.
func messages(file *ast.File) []string {
	var all []string
	argument := map[string]int{"wrong": 2, "errorf": 3, "Errorf": 2}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := ""
		switch f := call.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
			if x, ok := f.X.(*ast.Ident); ok && x.Name == "fmt" {
				return true // an error of the caller, not of the text
			}
		}
		if at, ok := argument[name]; ok && at < len(call.Args) {
			if lit, ok := call.Args[at].(*ast.BasicLit); ok {
				text, _ := strconv.Unquote(lit.Value)
				all = append(all, text)
			}
		}
		return true
	})
	return all
}

// constants returns the rules that a file declares.
func constants(file *ast.File) []string {
	var all []string
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			if len(v.Values) == 0 {
				continue
			}
			if lit, ok := v.Values[0].(*ast.BasicLit); ok && strings.HasPrefix(v.Names[0].Name, "rule") {
				text, _ := strconv.Unquote(lit.Value)
				all = append(all, text)
			}
		}
	}
	return all
}
