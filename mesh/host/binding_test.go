package host

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// reading builds a binding from lines `key: value`, `key: [a, b]` and
// `key: {a: b}`; the position is the line.
func reading(lines ...string) policy.Binding {
	b := policy.Binding{Target: policy.Text{Value: "host", Pos: source.Pos{File: "p", Line: 1, Col: 1}}}
	for i, line := range lines {
		pos := source.Pos{File: "p", Line: i + 2, Col: 1}
		key, value, _ := strings.Cut(line, ": ")
		f := policy.Field{Key: policy.Text{Value: key, Pos: pos}}
		switch {
		case strings.HasPrefix(value, "[") && value != "[]":
			for _, w := range strings.Split(strings.Trim(value, "[]"), ", ") {
				f.List = append(f.List, policy.Text{Value: w, Pos: pos})
			}
		case strings.HasPrefix(value, "{ "):
			for _, w := range strings.Split(value[2:len(value)-2], ", ") {
				k, v, _ := strings.Cut(w, ": ")
				f.Map = append(f.Map, policy.Field{Key: policy.Text{Value: k, Pos: pos}, Text: policy.Text{Value: v, Pos: pos}})
			}
		default:
			f.Text = policy.Text{Value: strings.Trim(value, "[]"), Pos: pos}
		}
		b.Fields = append(b.Fields, f)
	}
	return b
}

func TestBinding(t *testing.T) {
	b, ds := ParseBinding(reading("run: [{bin}/trainer, --store, {model-store/s3}, --listen={own/api}]", "prepare: [go, build, -o, {bin}/, ./programs/...]",
		"dir: src", "env: { A: 1, URL: http://{store/api}/x, JSON: {{\"a\":1}} }", "user: ml", "node: gpu1"))
	if len(ds) != 0 {
		t.Fatal(ds)
	}
	if !slices.Equal(b.Run, []string{"{bin}/trainer", "--store", "{model-store/s3}", "--listen={own/api}"}) || b.Dir != "src" || b.User != "ml" || b.Node != "gpu1" ||
		!slices.Equal(b.Env, []string{"A=1", "URL=http://{store/api}/x", `JSON={{"a":1}}`}) || len(b.Prepare) != 5 || b.Pos.Line != 1 {
		t.Errorf("%+v", b)
	}
	for want, lines := range map[string][]string{
		`p:2:1: error: a host binding has no field "runs" [unknown-field]`:                                                   {"runs: [a]"},
		`p:2:1: error: run of a host binding must be a list: the program and its arguments [wrong-type]`:                     {"run: trainer"},
		`p:2:1: error: prepare of a host binding must be a list: the program and its arguments [wrong-type]`:                 {"prepare: []"},
		`p:2:1: error: dir of a host binding must be a word [wrong-type]`:                                                    {"dir: [a, b]"},
		`p:2:1: error: env of a host binding must be a map of variables [wrong-type]`:                                        {"env: A"},
		`p:2:1: error: "A-B" cannot be the name of a variable [variable-name]`:                                               {"env: { A-B: 1 }"},
		`p:2:1: error: {foo} is no placeholder [placeholder]`:                                                                {"run: [a, {foo}]"},
		`p:2:1: error: {"a":1} is no placeholder [placeholder]`:                                                              {"env: { A: {\"a\":1} }"},
		`p:2:1: error: {a/b has no closing brace [placeholder]`:                                                              {"run: [a, {a/b]"},
		`p:2:1: error: {store/api} is no placeholder of prepare, which knows only {bin} [placeholder]`:                       {"prepare: [a, {store/api}]"},
		`p:3:1: error: a host binding has run or unit, not both [either-or]`:                                                 {"run: [a]", "unit: a.service"},
		`p:2:1: error: a host binding has unit or cgroup, not both [either-or]`:                                              {"cgroup: /a", "unit: a.service"},
		`p:3:1: error: user of a host binding belongs to run; unit names processes that run already [either-or]`:             {"unit: a.service", "user: me"},
		`p:2:1: error: "/" is no control group of a workload [cgroup]`:                                                       {"cgroup: /"},
		`p:2:1: error: "a/../../b" is no control group of a workload [cgroup]`:                                               {"cgroup: a/../../b"},
		`p:2:1: error: "a/b" is no name of a systemd unit [unit]`:                                                            {"unit: a/b"},
		`p:3:1: error: node of a host binding is there twice [duplicate-name]`:                                               {"node: a", "node: b"},
		"p:2:1: error: \"a\\x00b\" has a NUL, which no program can be given [nul]":                                           {"run: [sh, a\x00b]"},
		"p:2:1: error: a host binding has no field \"x\" [unknown-field]\np:3:1: error: {y} is no placeholder [placeholder]": {"x: y", "run: [{y}]"},
	} {
		_, ds := ParseBinding(reading(lines...))
		if ds.Error() != want {
			t.Errorf("%q:\n got %s\nwant %s", lines, ds.Error(), want)
		}
	}
	if b, ds := ParseBinding(reading("node: gpu1")); ds != nil || b.Node != "gpu1" {
		t.Error("a place without a command", ds)
	}
}

func TestExpand(t *testing.T) {
	resolve := func(ref string) (string, error) {
		if ref == "bad" {
			return "", errors.New("bad")
		}
		return "<" + ref + ">", nil
	}
	for text, want := range map[string]string{
		"": "", "a": "a", "{bin}/x": "<bin>/x", "{{bin}}": "{bin}", "a{b/c}d{e/f}": "a<b/c>d<e/f>", "}": "}", "}}": "}", "{}": "<>", "{{{bin}}}": "{<bin>}", "$}{{": "$}{",
	} {
		got, err := Expand(text, resolve)
		if err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"{", "a{b", "{bad}", "{{{"} {
		if got, err := Expand(text, resolve); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// FuzzBinding: what is accepted expands, and to what was meant.
func FuzzBinding(f *testing.F) {
	f.Add("run", "{own/api}", "A", "{{")
	f.Add("env", "x", "PATH", "{bin}:/bin")
	f.Add("cgroup", "/a/..", "", "}")
	f.Fuzz(func(t *testing.T, key, word, name, value string) {
		text := func(s string) policy.Text { return policy.Text{Value: s} }
		b, ds := ParseBinding(policy.Binding{Fields: []policy.Field{
			{Key: text(key), Text: text(word)},
			{Key: text("run"), List: []policy.Text{text(word), text(value)}},
			{Key: text("env"), Map: []policy.Field{{Key: text(name), Text: text(value)}}},
		}})
		if ds.HasErrors() {
			return
		}
		for _, w := range append(append(b.Run, b.Prepare...), b.Env...) {
			out, err := Expand(w, func(ref string) (string, error) {
				if ref != "bin" && strings.Count(ref, "/") != 1 {
					t.Errorf("%q was accepted with {%s}", w, ref)
				}
				return "", nil
			})
			if err != nil {
				t.Errorf("%q was accepted: %v", w, err)
			}
			if strings.ContainsRune(out, 0) {
				t.Errorf("%q was accepted with a NUL", w)
			}
		}
		if len(b.Env) > 0 && strings.Count(b.Env[0], "=") == 0 {
			t.Errorf("%q is no variable", b.Env[0])
		}
	})
}
