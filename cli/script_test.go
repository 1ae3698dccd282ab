package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var today = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestScripts runs testdata/script/*.txtar. Besides the commands of testscript
// they have:
//
//	bulkhead ARGS… [< FILE] => CODE   run it and check the exit code
//	json PATH VALUE                   check a value of standard output
//	count PATH N                      check the length of a list of it
//
// Each finds estate.yaml and policy.yaml of testdata in its folder.
//
// `go test ./cli -update` rewrites the files that scripts compare with.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"estate.yaml", "policy.yaml"} {
				text, err := os.ReadFile(filepath.Join("testdata", name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), text, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"bulkhead": runScripted,
			"json":     checkJSON,
			"count":    countJSON,
		},
	})
}

func runScripted(ts *testscript.TestScript, _ bool, args []string) {
	n := len(args)
	if n < 2 || args[n-2] != "=>" {
		ts.Fatalf("usage: bulkhead ARGS… [< FILE] => CODE")
	}
	want, err := strconv.Atoi(args[n-1])
	ts.Check(err)
	args = args[:n-2]
	c := &Command{Stdout: ts.Stdout(), Stderr: ts.Stderr(), Dir: ts.MkAbs("."), Now: today, Version: "v0-test", Getenv: ts.Getenv, Stdin: strings.NewReader("")}
	if n := len(args); n >= 2 && args[n-2] == "<" {
		c.Stdin = strings.NewReader(ts.ReadFile(args[n-1]))
		args = args[:n-2]
	}
	c.Args = args
	if got := c.Run(); got != want {
		ts.Fatalf("bulkhead %s: exit code %d, not %d\n%s%s", strings.Join(args, " "), got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json PATH VALUE")
	}
	if got := fmt.Sprint(answerAt(ts, args[0])); (got == args[1]) == neg {
		ts.Fatalf("%s is %q; wanted %q (negated: %v)", args[0], got, args[1], neg)
	}
}

func countJSON(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: count PATH N")
	}
	list, ok := answerAt(ts, args[0]).([]any)
	if !ok || strconv.Itoa(len(list)) != args[1] {
		ts.Fatalf("%s has %d items, not %s", args[0], len(list), args[1])
	}
}

// answerAt returns a part of the JSON on standard output.
func answerAt(ts *testscript.TestScript, path string) any {
	var doc any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
	got, err := at(doc, path)
	ts.Check(err)
	return got
}

// at walks a path such as edges.0.from; `?KEY=VALUE` finds an item of a list.
func at(v any, path string) (any, error) {
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			if key, value, ok := strings.Cut(strings.TrimPrefix(step, "?"), "="); ok {
				v = nil
				for _, item := range x {
					if m, _ := item.(map[string]any); fmt.Sprint(m[key]) == value {
						v = item
					}
				}
				if v == nil {
					return nil, fmt.Errorf("no item with %s", step)
				}
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(x) {
				return nil, fmt.Errorf("no item %s in a list of %d", step, len(x))
			}
			v = x[i]
		default:
			return nil, fmt.Errorf("nothing at %s of %s", step, path)
		}
	}
	return v, nil
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left on device") }

func TestABrokenPipeIsQuiet(t *testing.T) {
	var stderr strings.Builder
	for _, args := range [][]string{{"schema"}, {"reach", "testdata/estate.yaml", "--format", "json"}, {"reach", "testdata/estate.yaml"}} {
		c := &Command{Args: args, Stdout: closedPipe{}, Stderr: &stderr, Now: today}
		if code := c.Run(); code != Clean || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d, standard error %q", args, code, &stderr)
		}
	}
}

func TestAnAnswerThatCannotBeWrittenIsIncomplete(t *testing.T) {
	for _, args := range [][]string{{"schema"}, {"reach", "testdata/estate.yaml", "--format", "json"}, {"audit", "testdata/estate.yaml"}} {
		var stderr strings.Builder
		c := &Command{Args: args, Stdout: fullDisk{}, Stderr: &stderr, Now: today}
		if code := c.Run(); code != Incomplete || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%v: exit code %d, standard error %q", args, code, &stderr)
		}
	}
}
