package kubernetes

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/core/network"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/err")

// TestErr compares the diagnostics of each testdata/err/X.yaml with X.out: one
// line each, with the second place and the fix below it. A first line
// `# profile: NAME` chooses the profile.
func TestErr(t *testing.T) {
	files, err := filepath.Glob("testdata/err/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := diagnose(t, filepath.Base(f), text)
			out := strings.TrimSuffix(f, ".yaml") + ".out"
			if *update {
				if err := os.WriteFile(out, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func diagnose(t *testing.T, name string, text []byte) string {
	profile := ""
	if first, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "# profile: ") {
		profile = strings.TrimPrefix(first, "# profile: ")
	}
	im, err := New().NewImporter(target.Options{Profile: profile})
	if err != nil {
		t.Fatal(err)
	}
	for v, d := range yamldoc.Documents(name, text, yamldoc.ManifestLimits) {
		if d != nil {
			t.Fatal(d)
		}
		im.Add(target.Document{Value: v})
	}
	var b strings.Builder
	for _, d := range im.Finish(&network.Network{}) {
		fmt.Fprintln(&b, d.String())
		for _, n := range d.Notes {
			fmt.Fprintf(&b, "  note: %s: %s\n", n.Pos, n.Text)
		}
		if d.Fix != "" {
			fmt.Fprintf(&b, "  fix: %s\n", d.Fix)
		}
	}
	return b.String()
}
