package recognise

import (
	"errors"
	"strings"
	"testing"
)

const entry = `
  - id: a
    title: A
    class: cache
    zone: data
    match: [{images: [corp/a]}]
    reference: https://a.example/
`

func TestParseReportsEverythingWithItsPlace(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"not YAML", "signatures: [", "t.yaml:2:1: not valid YAML: did not find expected node content\n"},
		{"wrong shape", "[]", "t.yaml:1:1: table is a list, want a mapping\n"},
		{"unknown key", "signature: []", "t.yaml:1:1: table has no key \"signature\"; keys are sidecars, signatures\n"},
		{"missing fields", "signatures: [{id: a}]", `
t.yaml:1:14: signature has no title; add it
t.yaml:1:14: signature has no class; add it
t.yaml:1:14: signature has no zone; add it
t.yaml:1:14: signature has no match; add it
t.yaml:1:14: signature has no reference; add it
`},
		{"duplicate names both places", "signatures:" + entry + entry[1:], "t.yaml:8:9: signature \"a\" is written twice, first at t.yaml:2:9; rename or merge one\n"},
		{"duplicate key", "signatures: []\nsignatures: []", `
t.yaml:1:13: signatures is empty; remove it or add an entry
t.yaml:2:1: table has the key "signatures" twice, first at t.yaml:1:1; remove one
`},
		{"anchor and alias", "sidecars: &a [corp/a]\nsignatures: *a", `
t.yaml:1:11: anchor &a is not allowed; write the value where it is needed
t.yaml:2:13: alias *a is not allowed; write the value out
`},
		{"second document", "sidecars: [corp/a]\n---\nsidecars: [corp/b]", "t.yaml:2:1: second document; a table is one document, remove the ---\n"},
		{"all at once", `signatures:
  - id: Bad_Id
    title: ""
    class: llm
    zone: dmz
    match:
      - {}
      - {names: [x1]}
      - {ports: [8000]}
      - {kinds: [batch/Job]}
      - {images: ["*", "docker.io/a"], commands: [--flag, "a --b c", "a;b"]}
    sensitive: [{port: 70000, name: x}]
    reference: http://a.example
    extra: 1
`, `
t.yaml:2:9: id "Bad_Id" is not lower case words joined by single hyphens, such as ray-head
t.yaml:3:12: title "" is empty
t.yaml:4:12: class "llm" is not known; use one of cache, data-pipeline, database, experiment-tracker, feature-store, gateway, gpu-infrastructure, inference-server, llm-ui, log-store, message-queue, model-cache, model-registry, monitoring, notebook, object-store, ray-head, ray-worker, training-job, vector-store, workflow-engine
t.yaml:5:11: zone "dmz" is not known; use one of artefacts, custom, data, logging, serving, training
t.yaml:7:9: match clause is empty and would match everything; remove it
t.yaml:8:9: match clause rests on a name alone; add images, labels, commands or ports
t.yaml:9:9: match clause rests on port 8000, which many programs use; add images, labels, commands or names
t.yaml:10:9: match clause rests on a built-in kind or a part alone, which says nothing about what runs; add images, labels or commands
t.yaml:11:19: images "*" matches nearly every image; write more of the name
t.yaml:11:24: images "docker.io/a" starts with a registry; write only the repository, images come through many mirrors
t.yaml:11:51: commands "--flag" starts with a flag; name the command first
t.yaml:11:59: commands "a --b c" has a word after a flag; write the words, then the flags
t.yaml:11:70: commands "a;b" has a character of the shell; write plain words
t.yaml:12:17: sensitive port has no why; add it
t.yaml:12:24: port is "70000", want a port number from 1 to 65535
t.yaml:13:16: reference "http://a.example" is not an https address
t.yaml:14:5: signature has no key "extra"; keys are class, id, match, reference, sensitive, title, unless, zone
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, err := Parse("t.yaml", []byte(c.text))
			if table != nil || err == nil {
				t.Fatal("accepted")
			}
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error is a %T", err)
			}
			if got, want := err.Error(), strings.TrimSpace(c.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestParseKeepsToItsLimits(t *testing.T) {
	if _, err := Parse("big.yaml", []byte("#"+strings.Repeat("x", maxBytes))); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("size: %v", err)
	}
	many := "sidecars: [" + strings.Repeat("corp/a, ", maxList+1) + "]"
	if _, err := Parse("many.yaml", []byte(many)); err == nil || !strings.Contains(err.Error(), "the limit is 100") {
		t.Errorf("list: %v", err)
	}
	wrong := "signatures:\n" + strings.Repeat("  - {}\n", 500)
	_, err := Parse("wrong.yaml", []byte(wrong))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != maxProblems+1 || !strings.Contains(err.Error(), "too many problems") {
		t.Errorf("problems: %d", len(ps))
	}
}

func TestParseAcceptsAnEmptyTable(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n", "{}"} {
		table, err := Parse("empty.yaml", []byte(text))
		if err != nil || len(table.signatures) != 0 {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSignatureKnowsWhereItWasWritten(t *testing.T) {
	table, err := Parse("mine.yaml", []byte("signatures:"+entry))
	if err != nil {
		t.Fatal(err)
	}
	if got := lookup(table, "a").At; got != "mine.yaml:2:5" {
		t.Errorf("At is %s", got)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"*a*", "bab", true},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"*ab*ab*", "xabyabz", true}, {"*ab*ab*", "xabz", false},
		{"*", "", true}, {"*a*b*", "ba", false}, {"ab*bc", "abc", false},
	} {
		g := newGlob(c.pattern)
		if g.match(c.text) != c.want {
			t.Errorf("%q on %q: want %v", c.pattern, c.text, c.want)
		}
	}
}

func TestCommandWords(t *testing.T) {
	for _, c := range []struct {
		phrase string
		argv   []string
		want   bool
	}{
		{"ray start --head", []string{"ray", "start", "--block", "--head"}, true},
		{"ray start --head", []string{"ray start \\\n --head=true"}, true},
		{"ray start --head", []string{"ray start --address=x; echo --head"}, false},
		{"ray start --head", []string{"ray", "stop", "start", "--head"}, false},
		{"ray start --head", []string{"ray", "start", "", "x", "--head"}, false},
		{"ray start", []string{"ray", "", "start"}, false},
		{"vllm serve", []string{"bash", "-c", "'vllm' \"serve\" m"}, true},
		{"vllm serve", []string{"(cd /x && /opt/bin/vllm serve m)"}, true},
		{"qdrant", []string{"nc", "-z", "qdrant"}, false},
		{"qdrant", []string{"./qdrant"}, true},
		{"qdrant", []string{"curl", "http://x/qdrant"}, false},
		{"torch.distributed.run", []string{"python", "-m", "torch.distributed.run"}, true},
		{"torchrun", []string{"bash", "-lc", "torchrun x"}, true},
		{"python *train*.py", []string{"/usr/bin/python", "/app/pretrain_gpt.py"}, true},
	} {
		p := newPhrase(c.phrase)
		if got := p.match(splitCommands(c.argv)); got != c.want {
			t.Errorf("%q on %q: got %v, words %q", c.phrase, c.argv, got, splitCommands(c.argv))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add("signatures:" + entry)
	f.Add("sidecars: [\"*-x\", a/b:*]\nsignatures: [{id: a, match: [{ports: [1]}], unless: [{parts: [\"*\"]}]}]")
	f.Add("a: &x [*x]")
	f.Add("{? [a] : b}")
	f.Add("--- !!binary x")
	f.Add("signatures:\n  - id: b\n    title: B\n    class: cache\n    zone: data\n    match: [{commands: [b \"*c*\" --d], labels: {e: \"*\"}}, {names: [\"*ff*\"], ports: [8000]}]\n    reference: https://b.example/\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse("f.yaml", []byte(text))
		if (table == nil) == (err == nil) {
			t.Fatal("want either a table or an error")
		}
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("error without problems: %v", err)
			}
			return
		}
		// Whatever was accepted must hold for facts made from it, unless a
		// veto says otherwise, and must never panic.
		for _, s := range table.signatures {
			for _, c := range s.Match {
				got := table.Recognise(factsOf(c, 0))
				if len(got) == 0 && len(s.Unless) == 0 && !strings.Contains(text, "sidecars") && plainClause(c) {
					t.Fatalf("%s does not recognise %+v", s.ID, factsOf(c, 0))
				}
			}
		}
	})
}

// plainClause reports whether factsOf can satisfy the clause: what it makes up
// for names with odd characters is not what a real workload would say.
func plainClause(c Clause) bool {
	for _, list := range [][]string{c.Kinds, c.Parts, c.Images, c.Commands, c.Names} {
		for _, v := range list {
			if strings.ContainsFunc(v, func(r rune) bool {
				return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789/-_. *", r)
			}) {
				return false
			}
		}
	}
	return true
}
