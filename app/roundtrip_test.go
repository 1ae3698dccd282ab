package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCompiledDraftsAreProven walks the whole path on real platforms: draft a
// policy from what is there, compile it, put it in the place of the policies
// that are there, and verify. What is left are the limits that compile named.
func TestCompiledDraftsAreProven(t *testing.T) {
	for _, real := range []string{"../../shared/inputs/kubeflow/install.yaml", "../../shared/inputs/kubeflow/install-ambient.yaml", "../../shared/inputs/ai-on-eks", "../examples/ai-platform/kubernetes"} {
		t.Run(filepath.Base(real), func(t *testing.T) {
			if _, err := os.Stat(real); err != nil {
				t.Skipf("SKIPPED: %s is not here; put the folder of real inputs beside the repository to run this", real)
			}
			dir := t.TempDir()
			e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
			_, text, err := e.Init(Input{Paths: []string{real}})
			if err != nil {
				t.Fatal(err)
			}
			policy := filepath.Join(dir, "bulkhead.yaml")
			write(t, policy, text)
			_, out, err := e.Compile(policy, "kubernetes")
			if err != nil {
				t.Fatal(err)
			}
			// Pods without labels are limit no-labels: no policy can select them.
			unlabelled := map[string]bool{}
			for _, r := range out.Residue {
				if r.Limit == "no-labels" {
					unlabelled[strings.SplitN(r.Permission, "/", 2)[0]] = true
				}
			}
			for _, f := range out.Files {
				write(t, filepath.Join(dir, "estate", f.Path), f.Data)
			}
			copyWithoutPolicies(t, real, filepath.Join(dir, "estate", "deployed"))
			_, r, err := e.Verify(Input{Paths: []string{filepath.Join(dir, "estate")}}, policy)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.Findings {
				switch {
				case f.Rule == "unproven-dns", f.Rule == "selects-nothing":
				case f.Rule == "broken-flow" && onlyAbout(f.Facts, unlabelled):
				case f.Rule == "broken-flow" && strings.HasPrefix(f.Subject, "exposure control-plane"):
					// limit control-plane: NetworkPolicy cannot name it
				case f.Rule == "egress-wider", f.Rule == "unproven-flow" && strings.HasPrefix(f.Subject, "egress"),
					f.Rule == "broken-flow" && strings.HasPrefix(f.Subject, "egress"):
					// limit names: NetworkPolicy has no domain names
				case f.Rule == "wider-requests":
				case f.Rule == "possible-exposure", f.Rule == "unproven-flow" && strings.HasPrefix(f.Subject, "exposure"):
					// whether the front is public is not in the input
				default:
					t.Errorf("%s: %s (%s)", f.Rule, f.Title, f.Pos)
				}
			}
		})
	}
}

// onlyAbout reports whether each source, or the target, of a finding is one of
// the workloads.
func onlyAbout(facts map[string]string, workloads map[string]bool) bool {
	if workloads[facts["to"]] {
		return true
	}
	for name := range strings.SplitSeq(facts["from"], ",") {
		if !workloads[name] {
			return false
		}
	}
	return true
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// copyWithoutPolicies copies manifests into a folder of the test, leaving the
// documents out that are network policies.
func copyWithoutPolicies(t *testing.T, from, to string) {
	t.Helper()
	files := []string{from}
	if st, err := os.Stat(from); err == nil && st.IsDir() {
		files, _ = filepath.Glob(filepath.Join(from, "*.y*ml"))
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var kept [][]byte
		for _, doc := range bytes.Split(text, []byte("\n---\n")) {
			if !bytes.Contains(doc, []byte("\nkind: NetworkPolicy\n")) {
				kept = append(kept, doc)
			}
		}
		write(t, filepath.Join(to, filepath.Base(f)), bytes.Join(kept, []byte("\n---\n")))
	}
}
