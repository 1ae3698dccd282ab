package bulkhead_test

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lattice says which folders the packages below a folder may import, besides
// themselves. It is a statement of policy: see docs/architecture.md. Packages
// outside the module are listed where the folder may use them; the standard
// library is free except where pure says otherwise.
var lattice = []struct {
	folder  string
	imports []string
	outside []string
}{
	{"core/source", nil, nil},
	{"core/netset", nil, []string{"go4.org/netipx"}},
	{"core/policy", []string{"core/source", "core/netset"}, nil},
	{"core/network", []string{"core/source", "core/netset"}, nil},
	{"core/finding", []string{"core/source"}, nil},
	{"core/reach", []string{"core/source", "core/netset", "core/network", "core/finding"}, nil},
	{"core/verify", []string{"core"}, nil},

	{"internal/yamldoc", []string{"core/source"}, []string{"go.yaml.in/yaml/v4"}},
	{"internal/yamltext", []string{"core"}, []string{"go.yaml.in/yaml/v4"}},
	{"internal/atomicfile", nil, nil},
	{"internal/benchestate", nil, nil},

	{"recognise", nil, []string{"go.yaml.in/yaml/v4"}},
	{"policyfile", []string{"core", "internal"}, []string{"go.yaml.in/yaml/v4"}},
	{"target/kube", []string{"core", "internal"}, nil},
	{"target/kubernetes", []string{"core", "internal", "target", "target/kube"}, []string{"go4.org/netipx"}},
	{"target/example", []string{"core", "internal", "target"}, nil},
	{"target/targettest", []string{"core", "internal", "target"}, []string{"pgregory.net/rapid"}},
	{"target", []string{"core", "internal"}, nil},
	{"draft", []string{"core"}, nil},
	{"render", []string{"core", "render"}, nil},

	{"app", []string{"core", "internal", "recognise", "policyfile", "target", "draft", "render"}, nil},
	{"cli", []string{"core", "internal", "app", "render", "policyfile", "target"}, []string{"golang.org/x/term"}},
	{"cmd", []string{"cli"}, nil},
}

// siblings are folders whose children never import each other.
var siblings = []string{"target", "render"}

// shared are children that their siblings may import all the same.
var shared = map[string]bool{"target/kube": true}

// pure are the folders that do no I/O, know no time and start no goroutine.
var pure = []string{"core"}

var impure = []string{"os", "io/fs", "net", "net/http", "log", "log/slog", "os/exec", "os/signal", "context", "math/rand", "math/rand/v2", "syscall", "testing"}

type pkg struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

const module = "bulkhead"

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func TestImportsFollowTheLattice(t *testing.T) {
	for _, p := range packages(t) {
		at := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if at == "" {
			continue
		}
		rule := -1
		for i, l := range lattice {
			if within(at, l.folder) && (rule < 0 || len(l.folder) > len(lattice[rule].folder)) {
				rule = i
			}
		}
		if rule < 0 {
			t.Errorf("%s is in no room of the lattice: add it to arch_test.go and docs/architecture.md", at)
			continue
		}
		for _, imp := range p.Imports {
			checkImport(t, at, imp, lattice[rule].folder, lattice[rule].imports, lattice[rule].outside)
		}
	}
}

func checkImport(t *testing.T, at, imp, folder string, allowed, outside []string) {
	t.Helper()
	if !within(imp, module) {
		if !strings.Contains(strings.Split(imp, "/")[0], ".") {
			for _, f := range pure {
				for _, bad := range impure {
					if within(at, f) && imp == bad {
						t.Errorf("%s is pure and must not import %s", at, imp)
					}
				}
			}
			return
		}
		for _, o := range outside {
			if within(imp, o) {
				return
			}
		}
		t.Errorf("%s imports %s, which its room does not use", at, imp)
		return
	}
	inner := strings.TrimPrefix(imp, module+"/")
	for _, s := range siblings {
		a, b := child(at, s), child(inner, s)
		if a != "" && b != "" && a != b && !shared[b] {
			t.Errorf("%s imports its sibling %s", at, inner)
		}
	}
	ok := within(inner, folder)
	for _, a := range allowed {
		ok = ok || within(inner, a)
	}
	if !ok {
		t.Errorf("%s imports %s: the lattice allows %s only %v", at, inner, folder, allowed)
	}
}

// child returns the folder directly below parent that path is in.
func child(path, parent string) string {
	if !strings.HasPrefix(path, parent+"/") {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, parent+"/"), "/")
	return parent + "/" + first
}

// TestEveryPackageIsDocumented wants exactly one package comment that begins
// as godoc expects.
func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range packages(t) {
		docs := 0
		name := ""
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			name = file.Name.Name
			if file.Doc == nil {
				continue
			}
			docs++
			want := "Package " + name + " "
			if name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(file.Doc.Text(), want) {
				t.Errorf("%s/%s: the package comment begins %q, want %q", p.ImportPath, f, strings.SplitN(file.Doc.Text(), "\n", 2)[0], want)
			}
		}
		if docs != 1 && len(p.GoFiles) > 0 {
			t.Errorf("%s has %d package comments, want one", p.ImportPath, docs)
		}
	}
}

// TestNoDrawers refuses packages that are named after nothing.
func TestNoDrawers(t *testing.T) {
	for _, p := range packages(t) {
		for _, bad := range []string{"util", "utils", "common", "helpers", "misc", "base", "types", "pkg"} {
			if filepath.Base(p.ImportPath) == bad {
				t.Errorf("%s says nothing about what it holds", p.ImportPath)
			}
		}
	}
}
