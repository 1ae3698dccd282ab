package app

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/network"
	"bulkhead/internal/yamldoc"
)

// tree writes files below a new folder; a name that ends with @ is a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, strings.TrimSuffix(name, "@"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if strings.HasSuffix(name, "@") {
			err = os.Symlink(text, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func loaded(t *testing.T, dir string, paths ...string) ([]string, *loader, error) {
	t.Helper()
	var at []string
	e := &Env{Dir: dir, Stdin: strings.NewReader("kind: In\n")}
	l, err := e.load(paths, func(v yamldoc.Value) {
		kind, _ := v.Get("kind").Text()
		at = append(at, v.Pos().Short()+" "+kind)
	})
	return at, l, err
}

func TestLoadReadsInOrderAndOnlyOnce(t *testing.T) {
	dir := tree(t, map[string]string{
		"b.yaml": "kind: A\n---\nkind: B\n", "a/x.JSON": `{"kind": "J"}`, "a/y.yml": "kind: Y", "a/z.txt": "kind: T",
		".hidden/x.yaml": "kind: H", "a/up@": "..", "link.yaml@": "b.yaml", "gone.yaml@": "nowhere",
	})
	at, l, err := loaded(t, dir, ".", "b.yaml", "-", "-")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a/x.JSON:1 J", "a/y.yml:1 Y", "b.yaml:1 A", "b.yaml:3 B", "-:1 In"}
	if !slices.Equal(at, want) {
		t.Errorf("read %v, not %v", at, want)
	}
	if len(l.ignored) != 1 || l.ignored[0].Pos.File != "gone.yaml" || !l.ignored[0].Matters {
		t.Errorf("ignored %+v", l.ignored)
	}
}

func TestLoadKeepsToTheLimit(t *testing.T) {
	dir := tree(t, map[string]string{"big.yaml": "a: " + strings.Repeat("x", 100)})
	e := &Env{Dir: dir}
	l := &loader{env: e, limits: yamldoc.Limits{Bytes: 50, Depth: 5, Nodes: 10}, seen: map[string]bool{}}
	if err := l.read(file{name: "big.yaml", path: filepath.Join(dir, "big.yaml"), named: true}, func(yamldoc.Value) { t.Error("it was read") }); err != nil {
		t.Fatal(err)
	}
	if len(l.ds) != 1 || l.ds[0].Rule != "too-large" {
		t.Errorf("%v", l.ds)
	}
}

func TestLoadSaysWhatIsMissing(t *testing.T) {
	dir := tree(t, map[string]string{"deploy.yaml": "a: b", "empty/readme.md": ""})
	for path, hint := range map[string]string{"deplyo.yaml": "did you mean deploy.yaml?", "empty": "give a folder with"} {
		_, _, err := loaded(t, dir, path)
		var in *InputError
		if !errors.As(err, &in) || !strings.Contains(in.Hint, hint) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestLoadWarnsOfKustomize(t *testing.T) {
	dir := tree(t, map[string]string{"base/kustomization.yaml": "resources: [a.yaml]", "base/a.yaml": "kind: A"})
	_, l, err := loaded(t, dir, ".")
	if err != nil || len(l.ds) != 1 || !strings.Contains(l.ds[0].Fix, "kustomize build base") {
		t.Errorf("%v, %v", l.ds, err)
	}
}

func TestDisown(t *testing.T) {
	for text, want := range map[string]struct {
		kind    string
		why     string
		matters bool
	}{
		"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy":     {"AuthorizationPolicy", "istio security.istio.io/v1 AuthorizationPolicy", true},
		"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy":             {"CiliumNetworkPolicy", "cilium", true},
		"apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy": {"GlobalNetworkPolicy", "calico", true},
		"apiVersion: notcilium.io/v2\nkind: X":                            {"X", "notcilium.io/v2 X", false},
		"apiVersion: example.com/v1\nkind: Thing":                         {"Thing", "example.com/v1 Thing", false},
		`{"format_version": "1.2", "planned_values": {}}`:                 {"Terraform plan", "yet", true},
		"services: {web: {}}":                                             {"Compose file", "yet", true},
		"version: 1\nzones: {}":                                           {policyKind, "--policy", false},
		"resources: [a.yaml]":                                             {"kustomization", "kustomize build", false},
		"kind: Pod":                                                       {"Pod", "no apiVersion", true},
		"[1, 2]":                                                          {"document", "no configuration", false},
		"just text":                                                       {"document", "no configuration", false},
		"apiVersion: v1\nkind: List\nitems: [{apiVersion: kuma.io/v1, kind: M}]": {"M", "kuma", true},
	} {
		var c network.Coverage
		for v, d := range yamldoc.Documents("x.yaml", []byte(text), yamldoc.ManifestLimits) {
			if d != nil {
				t.Fatal(d)
			}
			offer(v, nil, &c)
		}
		if len(c.Ignored) != 1 {
			t.Errorf("%q: %+v", text, c)
			continue
		}
		if ig := c.Ignored[0]; ig.Kind != want.kind || !strings.Contains(ig.Why, want.why) || ig.Matters != want.matters {
			t.Errorf("%q: %+v", text, ig)
		}
	}
}

func TestAnEmptyDocumentIsNothing(t *testing.T) {
	var c network.Coverage
	for v := range yamldoc.Documents("x.yaml", []byte("---\n# nothing\n---\n~\n"), yamldoc.ManifestLimits) {
		offer(v, nil, &c)
	}
	if c.Objects != 0 || len(c.Ignored) != 0 {
		t.Errorf("%+v", c)
	}
}
