package bulkhead_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
	{"internal/yamltext", nil, nil},
	{"internal/atomicfile", nil, nil},
	{"internal/benchestate", nil, nil},

	{"recognise", nil, []string{"go.yaml.in/yaml/v4"}},
	{"policyfile", []string{"core/source", "core/netset", "core/policy", "internal"}, []string{"go.yaml.in/yaml/v4"}},
	{"target/kube", []string{"core", "internal"}, nil},
	{"target/kubernetes", []string{"core", "internal", "target", "target/kube"}, []string{"go4.org/netipx"}},
	{"target/example", []string{"core", "internal", "target"}, nil},
	{"target/targettest", []string{"core", "internal", "target"}, []string{"pgregory.net/rapid"}},
	{"target", []string{"core", "internal"}, nil},
	{"draft", []string{"core"}, nil},

	{"observe/calls", []string{"mesh/flow"}, nil},

	{"mesh/flow", nil, nil},
	{"mesh/report", []string{"core/policy"}, nil},
	{"mesh/registry", []string{"core/netset", "core/policy"}, nil},
	{"mesh/generation", []string{"core/policy", "core/source"}, []string{"github.com/spiffe/go-spiffe/v2"}},
	{"mesh/identity", []string{"internal"}, []string{"github.com/spiffe/go-spiffe/v2", "filippo.io/age", "google.golang.org/grpc", "google.golang.org/protobuf", "golang.org/x/sync", "golang.org/x/sys"}},
	{"mesh/socket", nil, nil},
	{"mesh/outside", []string{"core/netset"}, []string{"golang.org/x/net"}},
	{"mesh/dns", []string{"core/netset"}, []string{"golang.org/x/net", "golang.org/x/sync"}},
	{"mesh/budget", []string{"core/policy", "internal"}, nil},
	{"mesh/endpoint", []string{"core/netset", "core/policy", "mesh/registry"}, nil},
	{"mesh/egress", []string{"core/netset", "core/policy", "internal", "mesh/budget", "mesh/dns", "mesh/endpoint", "mesh/flow", "mesh/outside", "mesh/registry", "mesh/tunnel"},
		[]string{"golang.org/x/net", "golang.org/x/sys"}},
	{"mesh/tunnel", []string{"mesh/identity"}, []string{"github.com/spiffe/go-spiffe/v2", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/time"}},
	{"mesh/proxy", []string{"core/netset", "core/policy", "mesh/flow", "mesh/registry", "mesh/identity", "mesh/socket", "mesh/tunnel"},
		[]string{"github.com/spiffe/go-spiffe/v2", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/time", "golang.org/x/net"}},
	{"mesh/host", []string{"core/policy", "core/source", "internal", "mesh/socket"},
		[]string{"github.com/google/nftables", "github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "go4.org/netipx", "golang.org/x/sync", "golang.org/x/sys"}},
	{"mesh/control", []string{"core/policy", "core/source", "internal", "mesh/flow", "mesh/generation", "mesh/identity"},
		[]string{"github.com/nats-io", "github.com/spiffe/go-spiffe/v2", "golang.org/x/sync"}},
	{"mesh/probe", []string{"core/netset", "core/policy", "mesh/flow", "mesh/identity", "mesh/report", "mesh/tunnel"},
		[]string{"github.com/spiffe/go-spiffe/v2", "golang.org/x/sync", "golang.org/x/sys"}},
	{"mesh/node", []string{"core/netset", "core/policy", "core/source", "internal", "mesh"},
		[]string{"github.com/spiffe/go-spiffe/v2", "golang.org/x/sync", "golang.org/x/sys"}},
	{"render", []string{"core", "mesh/flow", "mesh/report", "render"}, nil},

	{"app", []string{"core", "internal", "recognise", "policyfile", "target", "draft", "mesh", "observe", "render"}, []string{"golang.org/x/sync"}},
	{"cli", []string{"core", "app", "mesh/flow", "mesh/report", "render", "target"}, []string{"golang.org/x/term"}},
	{"cmd", []string{"cli", "mesh/host"}, nil},

	{"examples", []string{"examples"}, nil},
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

// TestTheCoreKnowsNoTime: imports alone do not show who reads a clock or
// starts a goroutine.
func TestTheCoreKnowsNoTime(t *testing.T) {
	clock := map[string]bool{"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true, "Tick": true, "NewTimer": true, "NewTicker": true}
	for _, p := range packages(t) {
		if !slices.ContainsFunc(pure, func(f string) bool { return within(p.ImportPath, module+"/"+f) }) {
			continue
		}
		for _, f := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: the core starts no goroutine", fset.Position(n.Pos()))
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && clock[n.Sel.Name] {
						t.Errorf("%s: the core reads no clock: take the time as an argument", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}

// TestThePageListsTheRooms holds the table of docs/architecture.md, the
// lattice and the folders together.
func TestThePageListsTheRooms(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rooms, _ := strings.Cut(string(page), "\n## The rooms\n")
	rooms, _, _ = strings.Cut(rooms, "\n## ")
	listed := map[string]bool{"oracle": true} // a module of its own
	for _, l := range lattice {
		listed[l.folder] = true
		if _, err := os.Stat(l.folder); err != nil {
			t.Errorf("the lattice has a room that is not there: %v", err)
		}
	}
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^|]*)` \\|").FindAllStringSubmatch(rooms, -1) {
		rows[m[1]] = true
		if !listed[m[1]] {
			t.Errorf("docs/architecture.md has a row for %s, which the lattice does not know", m[1])
		}
	}
	for folder := range listed {
		if !rows[folder] {
			t.Errorf("docs/architecture.md has no row for %s", folder)
		}
	}
}

// TestEveryDependencyHasAReason holds docs/dependencies.md to both go.mod.
func TestEveryDependencyHasAReason(t *testing.T) {
	text, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	page, _, _ := strings.Cut(string(text), "Decided against")
	known := map[string]bool{}
	for _, mod := range []string{"go.mod", "oracle/go.mod"} {
		out, err := exec.Command("go", "mod", "edit", "-json", mod).Output()
		if err != nil {
			t.Fatalf("go mod edit: %v", err)
		}
		var m struct {
			Require []struct {
				Path     string
				Indirect bool
			}
			Tool []struct{ Path string }
		}
		if err := json.Unmarshal(out, &m); err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Require {
			tool := slices.ContainsFunc(m.Tool, func(tool struct{ Path string }) bool { return within(tool.Path, r.Path) })
			if r.Indirect && !tool || r.Path == module {
				continue
			}
			known[r.Path] = true
			if !strings.Contains(page, "`"+r.Path+"`") {
				t.Errorf("%s requires %s, which docs/dependencies.md does not name", mod, r.Path)
			}
		}
	}
	for _, m := range regexp.MustCompile("`([a-z0-9.]+\\.[a-z]+/[^` ]+)`").FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("docs/dependencies.md names %s, which nothing requires", m[1])
		}
	}
}

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
