package cli

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite what the tests compare with")

// generated separates what people wrote from what is made of the table.
const generated = "<!-- Below this line the page is made from the command table: go test ./cli -update -->\n"

func TestTheReferenceIsCurrent(t *testing.T) {
	const page = "../docs/cli.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, old, found := strings.Cut(string(text), generated)
	if !found {
		t.Fatalf("%s has lost the line %q", page, generated)
	}
	var b strings.Builder
	Reference(&b)
	if b.String() == old {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test ./cli -update", page)
	}
	if err := os.WriteFile(page, []byte(head+generated+b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEveryVerbIsExplained(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range verbs() {
		if seen[v.name] {
			t.Errorf("%s is in the table twice", v.name)
		}
		seen[v.name] = true
		if n := len(v.examples); n < 1 || n > 4 || n < 2 && v.name != "version" {
			t.Errorf("%s has %d examples", v.name, n)
		}
		for _, e := range v.examples {
			if !strings.Contains(e.command, "bulkhead "+v.name) {
				t.Errorf("the example %q does not use %s", e.command, v.name)
			}
		}
		if v.short == "" || strings.HasSuffix(v.short, ".") || v.short[0] >= 'A' && v.short[0] <= 'Z' {
			t.Errorf("%s: %q should be lower case without a full stop", v.name, v.short)
		}
		if v.min > 0 && len(v.names) < v.min {
			t.Errorf("%s does not say what each argument is", v.name)
		}
		for _, f := range v.flagLines() {
			if f.says == "" {
				t.Errorf("%s --%s says nothing", v.name, f.name)
			}
		}
	}
}

// The examples in the table must parse: flags that are gone would linger there.
func TestExamplesParse(t *testing.T) {
	for _, v := range verbs() {
		for _, e := range v.examples {
			_, words, _ := strings.Cut(e.command, "bulkhead "+v.name)
			k := &call{Command: &Command{}, verb: v}
			if _, err := k.parse(shellWords(words)); err != nil {
				t.Errorf("%q: %v", e.command, err)
			}
		}
	}
}

// shellWords splits the arguments of an example as a shell would, up to what
// follows the command.
func shellWords(text string) []string {
	var out []string
	for len(text) > 0 {
		word := word.FindString(text)
		if word == "" || strings.ContainsAny(word[:1], "|<>&)") {
			break
		}
		if clean := strings.NewReplacer(`"`, "", "'", "").Replace(strings.TrimSpace(word)); clean != "" {
			out = append(out, clean)
		}
		text = text[len(word):]
	}
	return out
}

var word = regexp.MustCompile(`^(?:"[^"]*"|'[^']*'|[^"'\s|<>&)]|[|<>&)])*\s*`)
